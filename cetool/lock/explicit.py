"""Read and write ``@EXPLICIT`` files (CEP 23): the URLs of the exact packages of one platform."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cetool.base.errors import Location, MetadataError
from cetool.base.text import shorten
from cetool.declare.package import Package
from cetool.declare.platforms import PLATFORMS, current_platform
from cetool.declare.source import with_home
from cetool.lock.checks import NOARCH, conda_archive, digest, for_platform
from cetool.lock.model import Lock, PlatformLock, malformed

_PLATFORM = re.compile(r"#\s*platform:\s*(\S+)", re.IGNORECASE)
_DIGEST = re.compile(r"(?:(?P<md5>[0-9a-fA-F]{32})|(?:sha256:)?(?P<sha256>[0-9a-fA-F]{64}))")


def read_explicit(text: str, name: str) -> Lock:
    """Read an ``@EXPLICIT`` file; ``name`` is its name in messages.

    Its platform is that of its ``# platform:`` comment, or else that of its URLs, or else the current one. Relative
    paths start at the working directory; ``~`` is the home directory in local files. Unlike in CEP 23, variables are
    not expanded: the file may be from any source, and a URL with a secret in it would be sent to its host. The order
    of the file is kept. Raises MetadataError.
    """
    said: str | None = None
    found: list[tuple[Package, str, Location]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped, where = line.strip(), Location(name, number)
        if stripped.startswith("#"):
            comment = _PLATFORM.fullmatch(stripped)
            said = comment[1] if comment and comment[1] in PLATFORMS else said
        elif stripped and stripped != "@EXPLICIT":
            location, _, fragment = stripped.partition("#")
            found.append((conda_archive(_url(location.strip(), where), where), fragment.strip(), where))
    own = sorted({archive.subdir for archive, _, _ in found} - {"", NOARCH})
    platform = said or (own[0] if own else current_platform())
    packages = []
    seen: dict[str, int | None] = {}
    for archive, fragment, where in found:
        package = for_platform(archive, platform, where)
        if package.name in seen:
            raise malformed(f"duplicate package '{package.name}', first on line {seen[package.name]}", where)
        seen[package.name] = where.line
        sha256, md5 = _digests(fragment, where)
        packages.append(package._replace(sha256=sha256, md5=md5))
    return Lock((PlatformLock(platform, tuple(packages)),))


def _url(location: str, where: Location) -> str:
    """Return the URL of a line; a path is converted to a URL."""
    if "://" in location:
        return location
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", location):  # a scheme; a single letter is a drive
        raise malformed(f"{shorten(location)!r} is not a URL or path", where)
    if location.startswith(("$", "%")):
        raise malformed(
            f"{shorten(location)!r} starts with a variable, which cetool does not expand in a list of packages",
            where,
            "Write the URL or the absolute path.",
        )
    try:
        return Path(os.path.abspath(with_home(location, where))).as_uri()
    except (ValueError, OSError):
        raise malformed(f"{shorten(location)!r} is not a valid path", where) from None


def _digests(fragment: str, where: Location) -> tuple[str | None, str | None]:
    """Return the SHA-256 and the MD5 of a line: at most one of them."""
    if not fragment:
        return None, None
    found = _DIGEST.fullmatch(fragment)
    if found is None:
        raise MetadataError(
            f"{shorten(fragment)!r} is not a digest",
            code="lock-malformed",
            where=where,
            hint="An MD5 digest has 32 hexadecimal digits, a SHA-256 digest 64.",
        )
    if found["sha256"]:
        return digest(found["sha256"], "sha256", where), None
    return None, digest(found["md5"], "md5", where)


def write_explicit(lock: PlatformLock, *, comments: tuple[str, ...] = ()) -> str:
    """Return one platform's conda packages as an ``@EXPLICIT`` file, in topological order.

    It cannot contain PyPI packages: the caller reports them.
    """
    head = [*(f"# {line}" for line in comments), f"# platform: {lock.platform}", "@EXPLICIT"]
    return "\n".join([*head, *lock.explicit, ""])

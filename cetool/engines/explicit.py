"""Packages that are named exactly: lines of an explicit spec (CEP 23), and how an engine gets them.

An engine that is handed them solves nothing, and checks what it downloads against the digests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cetool.base.errors import EngineError
from cetool.base.urls import is_url, redact, split_url, strip_credentials
from cetool.base.values import Value
from cetool.engines.protocol import CreateRequest

if TYPE_CHECKING:  # for subprocesses only
    from cetool.engines.private import PrivateFiles

MARKER = "@EXPLICIT"
_LINE = re.compile(
    r"(?P<url>[A-Za-z][A-Za-z0-9+.-]*://[^\s#]+/(?P<file>(?P<stem>[^\s/#]+-[^\s/#-]+-[^\s/#-]+)(?:\.conda|\.tar\.bz2)))"
    r"(?:#(?:(?P<md5>[0-9a-fA-F]{32})|(?:sha256:)?(?P<sha256>[0-9a-fA-F]{64})))?"
)


class ExplicitPackage(Value):
    """One line, taken apart: ``stem`` is name, version and build, ``subdir`` the directory of the channel; the digests
    are lowercase hex digits, None where the line has none.
    """

    url: str
    file_name: str
    stem: str
    subdir: str
    sha256: str | None = None
    md5: str | None = None

    @property
    def name(self) -> str:
        """The package's name."""
        return self.stem.rsplit("-", 2)[0]

    @property
    def channel(self) -> str:
        """The URL of the channel that it is in; of a file that is in no directory of a channel, of its directory."""
        channel = self.url.rsplit("/", 2)[0]
        return self.url.rsplit("/", 1)[0] if channel.endswith("/") else channel

    @property
    def digest(self) -> tuple[str, str] | None:
        """The algorithm and the digest that its archive has to have; None where none is known."""
        if self.sha256:
            return "sha256", self.sha256
        return ("md5", self.md5) if self.md5 else None

    @property
    def local(self) -> Path | None:
        """The archive, where it is a file of this machine."""
        return local_path(self.url)


def local_path(url: str) -> Path | None:
    """The file of this machine that a URL names; None for every other URL."""
    parts = split_url(url)
    return Path(_path_of(parts.path)) if parts.scheme == "file" else None


def _path_of(url_path: str) -> str:
    if os.name != "nt":
        return unquote(url_path)
    from urllib.request import url2pathname  # takes longer to import than all of this

    return url2pathname(url_path)


def parse_line(line: str) -> ExplicitPackage:
    """The package of a line. Raises EngineError where it is none."""
    match = _LINE.fullmatch(line.strip())
    if match is None or not is_url(match["url"]):
        raise EngineError(
            f"the lock names {redact(line)!r}, which is no conda package",
            code="lock-malformed",
            hint="A line of an explicit spec is the URL of a .conda or .tar.bz2 file and its digest (CEP 23).",
        )
    sha256, md5 = match["sha256"], match["md5"]
    return ExplicitPackage(
        url=match["url"],
        file_name=unquote(match["file"]),
        stem=unquote(match["stem"]),
        subdir=match["url"].rsplit("/", 2)[1],
        sha256=sha256.lower() if sha256 else None,
        md5=md5.lower() if md5 else None,
    )


def name_of_line(line: str) -> str:
    """The name of the package of a line."""
    return parse_line(line).name


def parse_lines(lines: Iterable[str]) -> list[ExplicitPackage]:
    """The packages of the lines, in their order."""
    return [parse_line(line) for line in lines]


def require_sha256(packages: Iterable[ExplicitPackage], engine: str, version: str, since: tuple[int, int]) -> None:
    """Raise EngineError where an engine is too old to know SHA-256 in an explicit file.

    Such a conda refuses the lines; such a mamba installs what it gets without a look at it.
    """
    known = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if known < since and any(package.sha256 for package in packages):
        raise EngineError(
            f"{engine} {version} cannot verify the packages of a lock: it does not know SHA-256 in an explicit file",
            code="engine-too-old",
            hint="Update it, or use --engine rattler, which is built in.",
        )


def explicit_file(files: PrivateFiles, request: CreateRequest, channels: Sequence[str]) -> Path:
    """The ``@EXPLICIT`` file of a request, for the user's eyes only: credentials of ``channels`` (URLs) are put back
    into the URLs of their packages.
    """
    lines = [with_credentials(line, channels) for line in request.explicit]
    return files.write("explicit.txt", "\n".join([MARKER, *lines, ""]))


def with_credentials(url: str, channels: Sequence[str]) -> str:
    """The URL with the credentials of the channel that it is in: on the same scheme, host and port, below its path."""
    try:
        package = split_url(url)
        for channel in channels:
            bare = split_url(strip_credentials(channel).rstrip("/"))
            if strip_credentials(channel) != channel and package.is_below(bare):
                below = package._replace(path=package.path[len(bare.path) :]).joined()
                return channel.rstrip("/") + below[len(f"{package.scheme}://{package.place}") :]
    except ValueError:
        return url
    return url


def mismatch(package: ExplicitPackage, algorithm: str, found: str) -> EngineError:
    """The error for an archive that is not the one that was asked for."""
    wanted = package.sha256 if algorithm == "sha256" else package.md5
    return EngineError(
        f"the package {package.file_name} of {redact(package.channel)} is not the one that was asked for: "
        f"its {algorithm.upper().replace('SHA', 'SHA-')} is {found}, and not {wanted}",
        code="digest-mismatch",
        hint="The download was damaged, or the file was replaced in the channel. If the new file is wanted, "
        "write its digest; `cetool lock` updates a lock.",
    )


def packages_of(request: CreateRequest) -> list[ExplicitPackage]:
    """The packages of a request. Raises EngineError for a line that is none, or a package named twice."""
    packages = parse_lines(request.explicit)
    names = [package.name for package in packages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EngineError(f"the lock names {', '.join(twice)} more than once", code="lock-malformed", hint="Lock anew.")
    return packages

"""Validate the content of locks, for all readers: locked packages are downloaded and unpacked.

A lock is as untrusted as the script that it comes with. cetool accepts less than conda: only some URL schemes, no
paths that leave a directory, and only names that match the file.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from cetool.base.errors import Location, MetadataError
from cetool.base.text import has_control, normalized, shorten
from cetool.base.urls import redact, strip_credentials
from cetool.declare.match_fields import PACKAGE_NAME
from cetool.declare.package import Package, PypiPackage
from cetool.declare.platforms import PLATFORMS
from cetool.lock.model import PlatformLock, malformed
from cetool.lock.records import in_order

NOARCH = "noarch"
MAX_URL = 4000
#: Characters of a version from PyPI.
_MOST_VERSION = 200

_ARCHIVE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)(?P<suffix>\.conda|\.tar\.bz2)")
# CEP 26, but with capital letters in versions: some files have them
_VERSION = re.compile(r"[A-Za-z0-9_.!+]{1,64}")
_BUILD = re.compile(r"[A-Za-z0-9_.+]{1,64}")
_SCHEMES = ("https", "http", "file")
_VCS = re.compile(r"git\+(https|http|ssh|file)://")
_COMMIT = re.compile(r"@[0-9a-fA-F]{7,64}(?:#|\Z)")
_DISTRIBUTION = re.compile(r"\.(?:whl|tar\.gz|zip|tar\.bz2|tgz|tar\.xz)\Z")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_HEX = re.compile(r"[0-9a-f]+")
_PYPI_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class Contents:
    """Collects the packages of one platform by name."""

    def __init__(self, platform: str, request: str | None = None) -> None:
        self.platform = platform
        self.request = request
        self._conda: dict[str, Package] = {}
        self._pypi: dict[str, PypiPackage] = {}

    def add(self, package: Package | PypiPackage, where: Location) -> None:
        """Add a package. Raises MetadataError for a duplicate."""
        if package.name in (self._conda if isinstance(package, Package) else self._pypi):
            raise malformed(f"duplicate package '{package.name}' for {self.platform}", where)
        if isinstance(package, Package):
            self._conda[package.name] = package
        else:
            self._pypi[package.name] = package

    def lock(
        self, where: Location | None = None, *, is_sorted: bool = False, written_here: bool = False
    ) -> PlatformLock:
        """Return the packages: unless they are sorted, sort conda packages topologically and PyPI packages by name.

        What cetool has ``written_here`` is sorted as it writes them, unless somebody has moved them.
        """
        conda, pypi = tuple(self._conda.values()), tuple(self._pypi.values())
        is_sorted = is_sorted or (written_here and self._follow_their_dependencies())
        if not is_sorted:
            conda, pypi = in_order(conda, where), tuple(sorted(pypi, key=lambda each: each.name))
        return PlatformLock(self.platform, conda, pypi, self.request)

    def _follow_their_dependencies(self) -> bool:
        """Return whether no package precedes one that it depends on. In a cycle, one does."""
        seen: set[str] = set()
        for package in self._conda.values():
            seen.add(package.name)
            needed = (each.partition(" ")[0] for each in package.depends)
            if any(name in self._conda and name not in seen for name in needed):
                return False
        return list(self._pypi) == sorted(self._pypi)


def _refuse(url: str, why: str, where: Location) -> MetadataError:
    shown = shorten(redact(url))
    shown = shown.encode("unicode_escape").decode() if has_control(shown) else shown
    return malformed(f"{shown!r} is not a valid package URL in a lock: {why}", where)


def _plain_url(text: str, where: Location) -> str:
    """Return the URL without credentials; refuse any that could be misread."""
    if len(text) > MAX_URL:
        raise _refuse(text, "it is too long", where)
    if not text.isascii() or has_control(text) or re.search(r"[\s\"'<>\\^`{|}]", text):
        raise _refuse(text, "it contains spaces, quotes, backslashes or non-ASCII characters", where)
    url = strip_credentials(text)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises if it is not a number
    except ValueError:
        raise _refuse(text, "it is malformed", where) from None
    segments = [unquote(segment) for segment in parts.path.split("/")]
    if any(segment in (".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", segment) for segment in segments):
        raise _refuse(text, "its path contains '.', '..' or an escaped slash", where)
    if parts.scheme not in ("file", "git+file") and not parts.netloc:
        raise _refuse(text, "it has no host", where)
    return url


def conda_archive(text: str, where: Location) -> Package:
    """Return the package of a URL (without a digest); its subdir may be empty. Raises MetadataError."""
    scheme = text.partition("://")[0]
    if scheme not in _SCHEMES or "://" not in text:
        raise _refuse(text, "only https, http and file URLs are supported", where)
    url = _plain_url(text, where)
    if "#" in url or "?" in url:
        raise _refuse(text, "it has a query or a fragment", where)
    directory, _, name = url.rpartition("/")
    found = _ARCHIVE.fullmatch(unquote(name))
    if found is None:
        raise _refuse(text, "the file name must be NAME-VERSION-BUILD.conda or NAME-VERSION-BUILD.tar.bz2", where)
    if not PACKAGE_NAME.fullmatch(found["name"]) or not _VERSION.fullmatch(found["version"]):
        raise _refuse(text, "the file name has an invalid package name or version", where)
    if not _BUILD.fullmatch(found["build"]):
        raise _refuse(text, "the file name has an invalid build string", where)
    subdir = directory.rpartition("/")[2]
    known = subdir if subdir == NOARCH or subdir in PLATFORMS else ""
    return Package(found["name"], found["version"], found["build"], known, url)


def for_platform(package: Package, platform: str, where: Location) -> Package:
    """Return the package for a platform. Raises MetadataError if it belongs to another platform."""
    if package.subdir not in ("", NOARCH, platform):
        raise malformed(
            f"the package '{package.name}' is locked for {platform}, but its URL is for {package.subdir}", where
        )
    return package if package.subdir else package._replace(subdir=platform)


def conda_package(text: str, platform: str, where: Location) -> Package:
    """Return the package of a URL (without a digest) for a platform. Raises MetadataError."""
    return for_platform(conda_archive(text, where), platform, where)


def digest(text: str, kind: str, where: Location) -> str:
    """Return a digest in lower case; ``kind`` is ``sha256`` or ``md5``. Raises MetadataError if it is not a digest."""
    lowered = text.strip().lower()
    if len(lowered) != {"sha256": 64, "md5": 32}[kind] or not _HEX.fullmatch(lowered):
        raise malformed(f"{shorten(text)!r} is not {'a SHA-256' if kind == 'sha256' else 'an MD5'} digest", where)
    return lowered


def pypi_name(text: str, where: Location) -> str:
    """Return the normalized name (PEP 503) of a PyPI package. Raises MetadataError if it is invalid."""
    if len(text) > 200 or not _PYPI_NAME.fullmatch(text):
        raise malformed(f"{shorten(text)!r} is not the name of a PyPI package", where)
    return normalized(text)


def pypi_version(text: str, where: Location) -> str:
    """Return a version (PEP 440) unchanged. Raises MetadataError if it is invalid."""
    from packaging.version import InvalidVersion, Version

    try:
        if len(text) > _MOST_VERSION:
            raise InvalidVersion
        Version(text)
    except InvalidVersion:
        raise malformed(f"{shorten(text)!r} is not a valid version of a PyPI package", where) from None
    return text


def pypi_url(text: str, name: str, where: Location) -> tuple[str, bool]:
    """Return the URL of a PyPI package, and whether it is a repository instead of a file.

    A repository has no digest but must have a commit. Raises MetadataError if the URL is invalid, or if its file
    belongs to another package.
    """
    vcs = _VCS.match(text)
    if vcs is None and (text.partition("://")[0] not in _SCHEMES or "://" not in text):
        raise _refuse(text, "only https, http, file and git+https URLs are supported", where)
    url = _plain_url(text, where)
    if vcs is not None:
        if not _COMMIT.search(url):
            raise _refuse(text, "a repository needs a commit: git+https://HOST/REPOSITORY@COMMIT", where)
        return url, True
    file = unquote(urlsplit(url).path).rpartition("/")[2]
    if not _DISTRIBUTION.search(file):
        raise _refuse(text, "the file is not a wheel or source distribution", where)
    # the standard defines the name of a wheel; the names of older source distributions follow no rule
    if file.endswith(".whl") and pypi_name(file.split("-")[0], where) != name:
        raise _refuse(text, f"the wheel does not belong to '{name}'", where)
    return url, False


def platform_name(text: str, where: Location) -> str:
    """Check a platform (noarch is not one) and return it. Raises MetadataError."""
    if text not in PLATFORMS:
        raise MetadataError(
            f"{shorten(text)!r} is not a platform",
            code="platform-invalid",
            where=where,
            hint="Use a platform such as linux-64, osx-arm64 or win-64.",
        )
    return text


def moment(text: str) -> str | None:
    """Return a time (ISO 8601 in UTC, to the second) unchanged; None if it is not one."""
    return text if _MOMENT.fullmatch(text) else None

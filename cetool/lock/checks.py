"""The checks that every reader of locks makes: what is locked is downloaded and unpacked, so nothing is taken on trust.

A lock comes with a script from wherever that came from. What its lines may be is narrower than what conda would make of
them: no other schemes, no way out of a directory, no name that is not that of the file.
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
# CEP 26, but for capital letters in versions: files have them
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
    """The packages of one platform, by name, as a reader finds them."""

    def __init__(self, platform: str, request: str | None = None) -> None:
        self.platform = platform
        self.request = request
        self._conda: dict[str, Package] = {}
        self._pypi: dict[str, PypiPackage] = {}

    def add(self, package: Package | PypiPackage, where: Location) -> None:
        """Take a package. Raises MetadataError where it is there already."""
        if package.name in (self._conda if isinstance(package, Package) else self._pypi):
            raise malformed(f"{package.name} is locked twice for {self.platform}", where)
        if isinstance(package, Package):
            self._conda[package.name] = package
        else:
            self._pypi[package.name] = package

    def lock(self, where: Location | None = None, *, is_sorted: bool = False) -> PlatformLock:
        """What is locked, the conda packages sorted topologically and those from PyPI by name, unless they are."""
        conda, pypi = tuple(self._conda.values()), tuple(self._pypi.values())
        if not is_sorted:
            conda, pypi = in_order(conda, where), tuple(sorted(pypi, key=lambda each: each.name))
        return PlatformLock(self.platform, conda, pypi, self.request)


def _refuse(url: str, why: str, where: Location) -> MetadataError:
    shown = shorten(redact(url))
    shown = shown.encode("unicode_escape").decode() if has_control(shown) else shown
    return malformed(f"{shown!r} is no package that a lock can name: {why}", where)


def _plain_url(text: str, where: Location) -> str:
    """The URL, credentials taken out, with everything refused that could be another one than it seems."""
    if len(text) > MAX_URL:
        raise _refuse(text, "it is too long", where)
    if not text.isascii() or has_control(text) or re.search(r"[\s\"'<>\\^`{|}]", text):
        raise _refuse(text, "a URL has no blanks, quotes, backslashes or characters beyond ASCII", where)
    url = strip_credentials(text)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  what is no number raises
    except ValueError:
        raise _refuse(text, "this is no URL", where) from None
    segments = [unquote(segment) for segment in parts.path.split("/")]
    if any(segment in (".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", segment) for segment in segments):
        raise _refuse(text, "its path leads elsewhere", where)
    if parts.scheme not in ("file", "git+file") and not parts.netloc:
        raise _refuse(text, "it names no host", where)
    return url


def conda_archive(text: str, where: Location) -> Package:
    """The package of a URL (without a digest), the subdir empty where it names none. Raises MetadataError."""
    scheme = text.partition("://")[0]
    if scheme not in _SCHEMES or "://" not in text:
        raise _refuse(text, "only https, http and file URLs are taken", where)
    url = _plain_url(text, where)
    if "#" in url or "?" in url:
        raise _refuse(text, "it has a query or a fragment", where)
    directory, _, name = url.rpartition("/")
    found = _ARCHIVE.fullmatch(unquote(name))
    if found is None:
        raise _refuse(text, "the file is not called NAME-VERSION-BUILD.conda or .tar.bz2", where)
    if not PACKAGE_NAME.fullmatch(found["name"]) or not _VERSION.fullmatch(found["version"]):
        raise _refuse(text, "the file has not the name of a conda package", where)
    if not _BUILD.fullmatch(found["build"]):
        raise _refuse(text, "the file has not the build string of a conda package", where)
    subdir = directory.rpartition("/")[2]
    known = subdir if subdir == NOARCH or subdir in PLATFORMS else ""
    return Package(found["name"], found["version"], found["build"], known, url)


def for_platform(package: Package, platform: str, where: Location) -> Package:
    """The package as it is locked for a platform. Raises MetadataError where it is another platform's."""
    if package.subdir not in ("", NOARCH, platform):
        raise malformed(f"{package.name} is locked for {platform}, but its URL leads to {package.subdir}", where)
    return package if package.subdir else package._replace(subdir=platform)


def conda_package(text: str, platform: str, where: Location) -> Package:
    """The package of a URL (without a digest) that is locked for a platform. Raises MetadataError."""
    return for_platform(conda_archive(text, where), platform, where)


def digest(text: str, kind: str, where: Location) -> str:
    """A digest in lower case; ``kind`` is ``sha256`` or ``md5``. Raises MetadataError for what is none."""
    lowered = text.strip().lower()
    if len(lowered) != {"sha256": 64, "md5": 32}[kind] or not _HEX.fullmatch(lowered):
        raise malformed(f"{shorten(text)!r} is no {kind} digest", where)
    return lowered


def pypi_name(text: str, where: Location) -> str:
    """The normalized name (PEP 503) of a PyPI package. Raises MetadataError for what is none."""
    if len(text) > 200 or not _PYPI_NAME.fullmatch(text):
        raise malformed(f"{shorten(text)!r} is not the name of a PyPI package", where)
    return normalized(text)


def pypi_version(text: str, where: Location) -> str:
    """A version (PEP 440) as it is written. Raises MetadataError for what is none."""
    from packaging.version import InvalidVersion, Version

    try:
        if len(text) > _MOST_VERSION:
            raise InvalidVersion
        Version(text)
    except InvalidVersion:
        raise malformed(f"{shorten(text)!r} is not a version of a PyPI package", where) from None
    return text


def pypi_url(text: str, name: str, where: Location) -> tuple[str, bool]:
    """The URL of a PyPI package's file or repository, and whether it is a repository, which has no digest of a file.

    A repository needs a commit. Raises MetadataError for what is none, and for a file that is another package's.
    """
    vcs = _VCS.match(text)
    if vcs is None and (text.partition("://")[0] not in _SCHEMES or "://" not in text):
        raise _refuse(text, "only https, http, file and git+https URLs are taken", where)
    url = _plain_url(text, where)
    if vcs is not None:
        if not _COMMIT.search(url):
            raise _refuse(text, "a repository is locked by a commit: git+https://HOST/REPOSITORY@COMMIT", where)
        return url, True
    file = unquote(urlsplit(url).path).rpartition("/")[2]
    if not _DISTRIBUTION.search(file):
        raise _refuse(text, "the file is neither a wheel nor a source distribution", where)
    # a wheel's name is its distribution's by the standard; of source distributions older ones follow no rule
    if file.endswith(".whl") and pypi_name(file.split("-")[0], where) != name:
        raise _refuse(text, f"the wheel is not one of {name}", where)
    return url, False


def platform_name(text: str, where: Location) -> str:
    """A platform, which noarch is none. Raises MetadataError."""
    if text not in PLATFORMS:
        raise MetadataError(
            f"{shorten(text)!r} is not a platform",
            code="platform-invalid",
            where=where,
            hint="Platforms are linux-64, osx-arm64, win-64, ...",
        )
    return text


def moment(text: str) -> str | None:
    """A moment (ISO 8601 in UTC, to the second) as it is written; None for what is none."""
    return text if _MOMENT.fullmatch(text) else None

"""Define one exact package, from a channel or PyPI: the value that locks, baselines, specifications and engines share.

A package is text only in files: a line of an explicit spec (CEP 23) or a direct reference (PEP 508).
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from cetool.base.text import pattern
from cetool.base.urls import is_url, redact, split_url
from cetool.base.values import Value

_LINE = pattern(
    r"(?P<url>[A-Za-z][A-Za-z0-9+.-]*://[^\s#]+/"
    r"(?P<stem>[^\s/#]+-[^\s/#-]+-[^\s/#-]+)(?:\.conda|\.tar\.bz2))"
    r"(?:#(?:(?P<md5>[0-9a-fA-F]{32})|(?:sha256:)?(?P<sha256>[0-9a-fA-F]{64})))?\Z"
)
_REFERENCE = pattern(r"(?P<name>\S+) @ (?P<url>\S+?)(?:[#&]sha256=(?P<sha256>[0-9a-f]{64}))?\Z")


class Package(Value):
    """One conda package: the fields of its package record that a lock file keeps."""

    name: str
    version: str
    build: str
    #: The package's own subdir: ``noarch`` or a platform.
    subdir: str
    #: Its URL, without credentials.
    url: str
    #: Lower-case hex digests of the archive, None if unknown.
    sha256: str | None = None
    md5: str | None = None
    #: Bytes of the archive.
    size: int | None = None
    #: Match specs.
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    #: ``python`` or ``generic``; None for a package of a platform, and if unknown.
    noarch: str | None = None

    @classmethod
    def from_line(cls, line: str) -> Package:
        """Return the package in a line of an explicit spec. Raises ValueError if there is none."""
        match = _LINE.match(line.strip())
        if match is None or not is_url(match["url"]):
            raise ValueError(f"{redact(line)!r} is not a conda package")
        sha256, md5 = match["sha256"], match["md5"]
        name, version, build = unquote(match["stem"]).rsplit("-", 2)
        return cls(
            *(name, version, build, match["url"].rsplit("/", 2)[1], match["url"]),
            sha256.lower() if sha256 else None,
            md5.lower() if md5 else None,
        )

    @property
    def line(self) -> str:
        """The package as a line of an explicit spec (CEP 23): its URL and the best known digest."""
        if self.sha256:
            return f"{self.url}#sha256:{self.sha256}"
        return f"{self.url}#{self.md5}" if self.md5 else self.url

    @property
    def stem(self) -> str:
        """Name, version and build: the archive's name without its suffix."""
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def file_name(self) -> str:
        """The archive's name."""
        return unquote(self.url.rpartition("/")[2])

    @property
    def channel(self) -> str:
        """The URL of its channel; for a file outside a channel, of its directory."""
        channel = self.url.rsplit("/", 2)[0]
        return self.url.rsplit("/", 1)[0] if channel.endswith("/") else channel

    @property
    def digest(self) -> tuple[str, str] | None:
        """The algorithm and the digest of its archive; None if unknown."""
        if self.sha256:
            return "sha256", self.sha256
        return ("md5", self.md5) if self.md5 else None

    @property
    def local(self) -> Path | None:
        """The archive, if it is a file on this machine."""
        return local_path(self.url)


class PypiPackage(Value):
    """One PyPI package: a wheel, an sdist, or a commit of a repository (``git+https://...@COMMIT``)."""

    #: Normalized (PEP 503).
    name: str
    #: Empty if only the reference is known.
    version: str
    url: str
    #: The lower-case hex digest of the file, None for a repository.
    sha256: str | None = None
    #: PEP 508 requirements.
    requires: tuple[str, ...] = ()
    requires_python: str | None = None

    @classmethod
    def from_line(cls, line: str) -> PypiPackage:
        """Return the package of a direct reference that :attr:`line` wrote. Raises ValueError otherwise."""
        match = _REFERENCE.match(line)
        if match is None:
            raise ValueError(f"{redact(line)!r} is not a PyPI package")
        file = unquote(match["url"].partition("#")[0].rpartition("/")[2])
        version = file.split("-")[1] if file.endswith(".whl") and "-" in file else ""
        return cls(match["name"], version, match["url"], match["sha256"])

    @property
    def line(self) -> str:
        """The package as a direct reference (PEP 508), with its digest in the fragment, where pip and uv check it."""
        mark = "&" if "#" in self.url else "#"  # an archive's #subdirectory= comes first
        return f"{self.name} @ {self.url}" + (f"{mark}sha256={self.sha256}" if self.sha256 else "")

    @property
    def file_name(self) -> str:
        """The name of its file; of no use for a repository."""
        return unquote(self.url.partition("#")[0].partition("?")[0].rpartition("/")[2])

    @property
    def is_vcs(self) -> bool:
        """Whether it is a commit of a repository, which is no file."""
        return self.url.startswith("git+")

    @property
    def is_built(self) -> bool:
        """Whether it is built from source: everything but a wheel."""
        return not self.url.partition("#")[0].partition("?")[0].endswith(".whl")


def local_path(url: str) -> Path | None:
    """Return the file on this machine that a URL names; None for every other URL."""
    parts = split_url(url)
    return Path(path_of(parts.path)) if parts.scheme == "file" else None


def path_of(path: str) -> str:
    """Return the local path for the path of a ``file://`` URL."""
    if os.name != "nt":
        return unquote(path)
    from urllib.request import url2pathname  # takes longer to import than this module

    return url2pathname(path)

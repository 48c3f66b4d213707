"""What a lock says, whatever format it is written in: for each platform, exactly these packages.

The conda packages of a platform stand in topological order (CEP 23 asks for it: conda and mamba link in the order
given), its PyPI packages by name.
"""

from __future__ import annotations

from cetool.base.files import sha256_of
from cetool.base.urls import strip_credentials
from cetool.base.values import Value


class LockedConda(Value):
    """One conda package: the fields of its package record that a lock file keeps.

    ``subdir`` is the package's own, ``noarch`` or a platform; ``url`` where it is downloaded, without credentials;
    ``sha256`` and ``md5`` are lowercase hex digests of the archive, None where a format does not tell; ``depends`` and
    ``constrains`` match specs; ``size`` bytes; ``noarch`` is ``python`` or ``generic``, None for a package of a
    platform and where a format does not tell.
    """

    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    noarch: str | None = None

    @property
    def line(self) -> str:
        """The package as a line of an explicit spec (CEP 23): its URL, and the best digest that is known."""
        if self.sha256:
            return f"{self.url}#sha256:{self.sha256}"
        return f"{self.url}#{self.md5}" if self.md5 else self.url


class LockedPypi(Value):
    """One PyPI package: a wheel, an sdist, or a commit of a repository (``git+https://...@COMMIT``).

    ``name`` is normalized (PEP 503); ``sha256`` the lowercase hex digest of the file, None for a repository;
    ``requires`` are PEP 508 requirements.
    """

    name: str
    version: str
    url: str
    sha256: str | None = None
    requires: tuple[str, ...] = ()
    requires_python: str | None = None

    @property
    def line(self) -> str:
        """The package as a direct reference (PEP 508), its digest in the fragment as pip and uv check it."""
        mark = "&" if "#" in self.url else "#"  # an archive's #subdirectory= comes first
        return f"{self.name} @ {self.url}" + (f"{mark}sha256={self.sha256}" if self.sha256 else "")


class PlatformLock(Value):
    """Everything that goes into one platform's environment. ``platform`` is a subdir such as ``linux-64``.

    ``request`` is the digest of what it was solved for (:attr:`cetool.declare.environment.Requirements.digest`),
    which may be another for each platform; None where the format or its writer does not tell.
    """

    platform: str
    conda: tuple[LockedConda, ...]
    pypi: tuple[LockedPypi, ...] = ()
    request: str | None = None

    @property
    def explicit(self) -> tuple[str, ...]:
        """The conda packages as lines of an explicit spec, in topological order."""
        return tuple(package.line for package in self.conda)

    @property
    def explicit_pypi(self) -> tuple[str, ...]:
        """The PyPI packages as direct references."""
        return tuple(package.line for package in self.pypi)

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) of what is locked, in whatever order a file lists it."""
        lines = sorted(strip_credentials(line) for line in (*self.explicit, *self.explicit_pypi))
        return sha256_of("\n".join(lines).encode())


class Lock(Value):
    """A whole lock: its platforms by name.

    ``channels`` are canonical, highest priority first; ``created`` is ISO 8601 in UTC; ``custom`` what else the writer
    noted: plain pairs of strings.
    """

    platforms: tuple[PlatformLock, ...]
    channels: tuple[str, ...] = ()
    created: str | None = None
    custom: tuple[tuple[str, str], ...] = ()

    def platform(self, name: str) -> PlatformLock | None:
        """What is locked for that platform, None where nothing is."""
        return next((each for each in self.platforms if each.platform == name), None)

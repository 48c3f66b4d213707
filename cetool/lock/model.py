"""What a lock says, whatever format it is written in: for each platform, exactly these packages.

The conda packages of a platform stand in topological order (CEP 23 asks for it: conda and mamba link in the order
given), its PyPI packages by name.
"""

from __future__ import annotations

from cetool.base.codec import sha256_of
from cetool.base.errors import Location, MetadataError
from cetool.base.urls import strip_credentials
from cetool.base.values import Value
from cetool.declare.package import Package, PypiPackage


class PlatformLock(Value):
    """Everything that goes into one platform's environment."""

    #: A subdir such as ``linux-64``.
    platform: str
    conda: tuple[Package, ...]
    pypi: tuple[PypiPackage, ...] = ()
    #: The digest of what it was solved for (:attr:`cetool.declare.requirements.Requirements.digest`); None where the
    #: format or its writer does not tell.
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
    def without_digest(self) -> list[str]:
        """The names of the packages that cannot be verified. A commit of a repository needs no digest."""
        conda = [package.name for package in self.conda if not package.sha256 and not package.md5]
        return [*conda, *(each.name for each in self.pypi if not each.sha256 and not each.url.startswith("git+"))]

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) of what is locked, in whatever order a file lists it."""
        lines = sorted(strip_credentials(line) for line in (*self.explicit, *self.explicit_pypi))
        return sha256_of("\n".join(lines).encode())


class Lock(Value):
    """A whole lock."""

    #: By name.
    platforms: tuple[PlatformLock, ...]
    #: Canonical, highest priority first.
    channels: tuple[str, ...] = ()
    #: ISO 8601 in UTC.
    created: str | None = None
    #: What else the writer noted.
    custom: tuple[tuple[str, str], ...] = ()

    def platform(self, name: str) -> PlatformLock | None:
        """What is locked for that platform, None where nothing is."""
        return next((each for each in self.platforms if each.platform == name), None)


def malformed(message: str, where: Location | None, hint: str | None = None) -> MetadataError:
    """The error for a lock that cannot be read."""
    return MetadataError(message, code="lock-malformed", where=where, hint=hint)


class PackageChange(Value):
    """A package that is new in a lock, gone from it, or another version or build."""

    platform: str
    #: The package's name, with ``pypi:`` in front for one from PyPI.
    name: str
    #: Version and build, None where it is not there.
    before: str | None
    after: str | None


def changes_between(before: Lock | None, new: Lock) -> list[PackageChange]:
    """What differs between two locks, by platform and name."""
    found: list[PackageChange] = []
    for platform in sorted({each.platform for each in (*(before.platforms if before else ()), *new.platforms)}):
        old, now = _versions(before.platform(platform) if before else None), _versions(new.platform(platform))
        names = sorted(name for name in {*old, *now} if old.get(name) != now.get(name))
        found += [PackageChange(platform, name, old.get(name), now.get(name)) for name in names]
    return found


def _versions(locked: PlatformLock | None) -> dict[str, str]:
    if locked is None:
        return {}
    conda = {package.name: f"{package.version} {package.build}" for package in locked.conda}
    return {**{f"pypi:{package.name}": package.version for package in locked.pypi}, **conda}

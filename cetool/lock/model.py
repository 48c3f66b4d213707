"""The content of a lock, independent of its format: the exact packages of each platform.

Conda packages are in topological order, as CEP 23 requires (conda and mamba link in the given order); PyPI packages
are sorted by name.
"""

from __future__ import annotations

from cetool.base.codec import sha256_of
from cetool.base.errors import Location, MetadataError
from cetool.base.urls import strip_credentials
from cetool.base.values import Value
from cetool.declare.package import Package, PypiPackage


class PlatformLock(Value):
    """All packages of the environment for one platform."""

    #: A subdir such as ``linux-64``.
    platform: str
    conda: tuple[Package, ...]
    pypi: tuple[PypiPackage, ...] = ()
    #: The digest of the requirements that were solved (:attr:`cetool.declare.requirements.Requirements.digest`); None
    #: if the file does not contain it.
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
        """The names of the packages that cannot be verified. A repository at a commit needs no digest."""
        conda = [package.name for package in self.conda if not package.sha256 and not package.md5]
        return [*conda, *(each.name for each in self.pypi if not each.sha256 and not each.url.startswith("git+"))]

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) of the locked packages, independent of their order."""
        lines = sorted(strip_credentials(line) for line in (*self.explicit, *self.explicit_pypi))
        return sha256_of("\n".join(lines).encode())


class Lock(Value):
    """A whole lock."""

    #: Sorted by name.
    platforms: tuple[PlatformLock, ...]
    #: Canonical, highest priority first.
    channels: tuple[str, ...] = ()
    #: ISO 8601 in UTC.
    created: str | None = None
    #: Other keys and values that the writer added.
    custom: tuple[tuple[str, str], ...] = ()

    def platform(self, name: str) -> PlatformLock | None:
        """Return the packages for a platform, None if the lock has none."""
        return next((each for each in self.platforms if each.platform == name), None)


def malformed(message: str, where: Location | None, hint: str | None = None) -> MetadataError:
    """Return the error for a lock that cannot be read."""
    return MetadataError(message, code="lock-malformed", where=where, hint=hint)


class PackageChange(Value):
    """A package that was added to a lock, removed from it, or changed in version or build."""

    platform: str
    #: The package's name, with ``pypi:`` in front for one from PyPI.
    name: str
    #: Version and build, None if the package is absent.
    before: str | None
    after: str | None


def changes_between(before: Lock | None, new: Lock) -> list[PackageChange]:
    """Return the differences between two locks, sorted by platform and name."""
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

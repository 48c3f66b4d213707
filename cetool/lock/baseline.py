"""Combine baselines and remove packages from the result: a list of exact packages, without a solver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cetool.base.values import Value
from cetool.declare.baselines import taken_out, unmatched
from cetool.declare.package import Package, PypiPackage
from cetool.lock.model import PlatformLock
from cetool.lock.records import in_order


class Clash(Value):
    """A package that differs between two baselines: the later one takes precedence."""

    name: str
    #: Version and build that are replaced, and the baseline that they are from.
    lost: str
    earlier: str
    #: Version and build that replace them, and the baseline that they are from.
    won: str
    later: str


class Combined(Value):
    """The packages of all baselines, without those that are removed."""

    #: In the order of the files.
    conda: tuple[Package, ...]
    pypi: tuple[PypiPackage, ...]
    #: ``name version`` of the removed packages.
    removed: tuple[str, ...]
    #: The patterns that match no package.
    unmatched: tuple[str, ...]
    clashes: tuple[Clash, ...]


def combine(baselines: Iterable[tuple[str, PlatformLock]], without: Sequence[str]) -> Combined:
    """Combine one platform's packages of baselines, given by name (for messages); a later one takes precedence."""
    found: dict[str, tuple[str, Package | PypiPackage]] = {}
    clashes = []
    for called, locked in baselines:
        packages: list[Package | PypiPackage] = [*locked.conda, *locked.pypi]
        for package in packages:
            before = found.get(_key(package))
            if before is not None and before[0] != called and _told(before[1]) != _told(package):
                clashes.append(Clash(package.name, _told(before[1]), before[0], _told(package), called))
            found[_key(package)] = (called, package)
    staying = [package for _, package in found.values() if not taken_out(package.name, without)]
    gone = [package for _, package in found.values() if taken_out(package.name, without)]
    return Combined(
        conda=_ordered([package for package in staying if isinstance(package, Package)]),
        pypi=tuple(package for package in staying if isinstance(package, PypiPackage)),
        removed=tuple(f"{package.name} {package.version}" for package in gone),
        unmatched=tuple(unmatched(without, [package.name for _, package in found.values()])),
        clashes=tuple(clashes),
    )


def _key(package: Package | PypiPackage) -> str:
    """Return the key under which only one package can be installed, from PyPI or from a conda channel."""
    return package.name.replace("_", "-").replace(".", "-") if package.name[:1] != "_" else package.name


def _told(package: Package | PypiPackage) -> str:
    if isinstance(package, Package):
        return f"{package.version} {package.build}"
    return f"{package.version} (PyPI)"


def _ordered(packages: list[Package]) -> tuple[Package, ...]:
    """Sort packages topologically if their dependencies are known; otherwise keep the order of the file."""
    if any(package.depends for package in packages):
        return in_order(packages)
    return tuple(packages)

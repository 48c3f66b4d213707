"""What several baselines come to together, with some packages taken out: exactly named packages, no solver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cetool.base.values import Value
from cetool.declare.baselines import taken_out, unmatched
from cetool.declare.package import Package, PypiPackage
from cetool.lock.model import PlatformLock
from cetool.lock.records import in_order


class Clash(Value):
    """A package that two baselines name differently: the later one wins."""

    name: str
    #: Version and build that give way, and the baseline that has them.
    lost: str
    earlier: str
    #: Those that take their place.
    won: str
    later: str


class Combined(Value):
    """The packages that stay."""

    #: In the order of the files.
    conda: tuple[Package, ...]
    pypi: tuple[PypiPackage, ...]
    #: ``name version`` of those that were taken out.
    removed: tuple[str, ...]
    #: The patterns that fit none.
    unmatched: tuple[str, ...]
    clashes: tuple[Clash, ...]


def combine(baselines: Iterable[tuple[str, PlatformLock]], without: Sequence[str]) -> Combined:
    """One platform's packages of the baselines, each with what messages call it; a later one wins."""
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
    """What only one of can be installed: a distribution from PyPI and the conda package of that name are one."""
    return package.name.replace("_", "-").replace(".", "-") if package.name[:1] != "_" else package.name


def _told(package: Package | PypiPackage) -> str:
    if isinstance(package, Package):
        return f"{package.version} {package.build}"
    return f"{package.version} (PyPI)"


def _ordered(packages: list[Package]) -> tuple[Package, ...]:
    """In topological order where what they depend on is known; else as they stand, which is that of one file."""
    if any(package.depends for package in packages):
        return in_order(packages)
    return tuple(packages)

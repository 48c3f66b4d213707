"""What is in an environment, as a lock says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cetool.declare.package import PypiPackage
from cetool.lock.model import PlatformLock
from cetool.lock.records import in_order
from cetool.packages.distributions import Distribution, pypi_distributions, read_origins
from cetool.packages.prefix import read_records


@dataclass(frozen=True, slots=True)
class Installed:
    """The packages of an environment."""

    lock: PlatformLock
    #: PyPI packages whose file is not noted anywhere.
    unknown: tuple[Distribution, ...] = ()

    def completed(self, found: Mapping[str, PypiPackage]) -> Installed:
        """The same where the files of unknown packages, by name, were found since."""
        known = [
            found[each.name]._replace(requires=each.requires, requires_python=each.requires_python)
            for each in self.unknown
            if each.name in found
        ]
        pypi = sorted((*self.lock.pypi, *known), key=lambda package: package.name)
        unknown = tuple(each for each in self.unknown if each.name not in found)
        return Installed(self.lock._replace(pypi=tuple(pypi)), unknown)


def read_installed(prefix: Path, platform: str) -> Installed:
    """What is in the environment at ``prefix``, made for ``platform``. Raises StoreError where a record is broken."""
    records = read_records(prefix)
    noted = read_origins(prefix)
    known, unknown = [], []
    for each in pypi_distributions(prefix, records):
        origin, note = each.origin, noted.get(each.name)
        if note is not None and note.version == each.version:
            origin = origin._replace(url=note.url, sha256=note.sha256)
        if origin.url:
            known.append(origin)
        else:
            unknown.append(each)
    conda = in_order(record.package for record in records)
    return Installed(PlatformLock(platform, conda, tuple(sorted(known, key=lambda each: each.name))), tuple(unknown))

"""Convert package records, of py-rattler and of a prefix, to locked packages, and sort packages for linking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.base.errors import Location
from cetool.base.text import shorten
from cetool.base.urls import strip_credentials
from cetool.declare.match_fields import read_fields
from cetool.declare.match_specs import IDENTITY, is_same_file
from cetool.declare.package import Package, PypiPackage
from cetool.lock.model import PlatformLock, malformed
from cetool.packages.distributions import Distribution, pypi_distributions, read_origins
from cetool.packages.prefix import read_records

if TYPE_CHECKING:
    from rattler import MatchSpec, PackageRecord, RepoDataRecord


def record_of(package: Package, where: Location | None = None) -> PackageRecord:
    """Return the package's record, as complete as the lock allows. Raises MetadataError if rattler rejects it."""
    from rattler import PackageRecord
    from rattler.package import BuildString

    number = package.build.rpartition("_")[2]
    try:
        return PackageRecord(
            name=package.name,
            version=package.version,
            build=BuildString(package.build),
            build_number=int(number) if number.isdecimal() and len(number) < 10 else 0,
            subdir=package.subdir,
            noarch=package.noarch if package.noarch in ("python", "generic") else None,  # type: ignore[arg-type]
            depends=list(package.depends),
            constrains=list(package.constrains),
            sha256=bytes.fromhex(package.sha256) if package.sha256 else None,
            md5=bytes.fromhex(package.md5) if package.md5 else None,
            size=package.size,
        )
    except Exception as error:  # each field raises its own type of exception
        reason = shorten(str(error).partition("\n")[0])
        raise malformed(f"{package.name} {package.version} is not a valid conda package: {reason}", where) from None


def package_of(record: RepoDataRecord) -> Package:
    """Return the package of a channel's record, with the digests that the channel states."""
    kind = record.noarch
    return Package(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        subdir=record.subdir,
        url=strip_credentials(record.url),
        sha256=record.sha256.hex() if record.sha256 else None,
        md5=record.md5.hex() if record.md5 else None,
        size=record.size,
        depends=tuple(record.depends),
        constrains=tuple(record.constrains),
        noarch="python" if kind.python else "generic" if kind.generic else None,
    )


def fits(spec: MatchSpec, text: str, package: Package, *, strictly: bool = False) -> bool:
    """Return whether a locked package matches a match spec, whose text is ``text``.

    A lock identifies channels by the URLs of packages, not by name. Fields that the lock does not have match, unless
    ``strictly``.
    """
    from rattler import Version, VersionSpec

    if spec.version is not None and not VersionSpec(spec.version).matches(Version(package.version)):
        return False
    if spec.build is not None and not spec.build.startswith("^") and not fnmatchcase(package.build, spec.build):
        return False
    if not is_same_file(spec, text, package.url, package.sha256, package.md5):
        return False
    told = {"subdir": package.subdir, "fn": package.file_name}
    others = [(key, value) for key, value in read_fields(text).others if key not in IDENTITY]
    return all(told.get(key, None if strictly else value) == value for key, value in others)


def in_order(packages: Iterable[Package], where: Location | None = None) -> tuple[Package, ...]:
    """Sort packages with different names topologically, dependencies first.

    In dependency cycles python comes first. The result does not depend on the order of the input.
    """
    from rattler import PackageRecord

    by_name = {package.name: package for package in packages}
    records = [record_of(package, where) for package in by_name.values()]
    ordered = PackageRecord.sort_topologically(records)
    return tuple(by_name[record.name.normalized] for record in ordered)


# --- the packages of an environment -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Installed:
    """The packages of an environment."""

    lock: PlatformLock
    #: PyPI packages whose origin is not recorded anywhere.
    unknown: tuple[Distribution, ...] = ()

    @property
    def unknown_names(self) -> str:
        """Names and versions of the unknown packages, for messages."""
        return ", ".join(f"{each.name} {each.version}" for each in self.unknown)

    def completed(self, found: Mapping[str, PypiPackage]) -> Installed:
        """Return a copy in which the unknown packages of these names have known files."""
        known = [
            found[each.name]._replace(requires=each.requires, requires_python=each.requires_python)
            for each in self.unknown
            if each.name in found
        ]
        pypi = sorted((*self.lock.pypi, *known), key=lambda package: package.name)
        unknown = tuple(each for each in self.unknown if each.name not in found)
        return Installed(self.lock._replace(pypi=tuple(pypi)), unknown)


def read_installed(prefix: Path, platform: str) -> Installed:
    """Read the packages of the environment at ``prefix`` for ``platform``. Raises StoreError if a record is damaged."""
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

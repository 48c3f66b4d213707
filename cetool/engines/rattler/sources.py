"""Sources of package records for the solver, in addition to channels or with only some of their records.

- Fields of match specs that rattler ignores, or compares differently from CEP 29 (``subdir``, ``fn``, ``extras``,
  ``license``, ``license_family``): since a solution has one package of a name, which must match all specs with this
  name, the solver gets only the records that do (:class:`Selection`).
- Match specs with the URL of a file: the file is fetched and verified first. Its record, which comes from the package
  itself, is the only one that matches (:class:`DirectPackages`). rattler would look it up by its name.
- The packages of a baseline (:class:`PinnedPackages`): they are part of the environment in any case. The solver does
  not get their dependencies, which could add packages that the user has removed. Instead, these become constraints: a
  package must satisfy them or be absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from fnmatch import translate
from pathlib import Path
from re import IGNORECASE, fullmatch
from typing import TYPE_CHECKING, Any

from cetool.base.errors import EngineError
from cetool.base.text import pattern
from cetool.declare.match_fields import Fields
from cetool.declare.package import Package
from cetool.engines.conflicts import draw, limited, merged, read_tree
from cetool.engines.errors import UnsatisfiableError
from cetool.engines.protocol import Progress
from cetool.engines.rattler.kept import kept_record, record_in
from cetool.engines.rattler.packages import CheckedPackages
from cetool.engines.rattler.request import SELECTED, Direct, without_url

if TYPE_CHECKING:
    from rattler import Channel, Gateway, PackageName, PackageRecord, RepoDataRecord, Subdir
    from rattler.repo_data.source import RepoDataSource

    Sources = Sequence[Channel | RepoDataSource]
    from rattler import MatchSpec


_RENAMED = {"fn": "file_name"}


def fits(fields: Fields, record: PackageRecord) -> bool:
    """Return whether a record matches the fields of :data:`SELECTED` in a spec; rattler compares the other fields."""
    for key in SELECTED:
        wanted = fields.get(key)
        if wanted is None:
            continue
        if key == "extras":
            if not set(wanted.split(", ")) <= record.extra_depends.keys():
                return False
        elif not _same(wanted, getattr(record, _RENAMED.get(key, key), None)):
            return False
    return True


def _same(wanted: str, found: str | None) -> bool:
    """Compare as in CEP 29, "String matching": case-insensitively, with ``*`` for any text."""
    pattern = translate(wanted.replace("[", "[[]").replace("?", "[?]"))
    return found is not None and fullmatch(pattern, found, IGNORECASE) is not None


class Selection:
    """Selects the records for the solver; ``wanted`` has the specs that records must match, by package name."""

    def __init__(self, wanted: Mapping[str, tuple[Fields, ...]], *, strict: bool) -> None:
        self._wanted = wanted
        self._strict = strict

    def fits(self, record: PackageRecord) -> bool:
        """Return whether a record matches all the specs for its name."""
        return all(fits(fields, record) for fields in self._wanted.get(record.name.normalized, ()))

    async def sources(self, gateway: Gateway, channels: Sources, subdirs: Sequence[Subdir]) -> list[Any]:
        """Return the channels with only the selected records; the channels themselves if nothing is selected."""
        if not self._wanted:
            return list(channels)
        shown: list[dict[str, list[RepoDataRecord]]] = [{} for _ in channels]
        for name, specs in self._wanted.items():
            hidden = False
            for channel, selected in zip(channels, shown, strict=True):
                found = await gateway.query(
                    [channel], list(subdirs), [name], recursive=False, channel_relations="disabled"
                )
                records = [record for records in found for record in records]
                selected[name] = [] if hidden else [record for record in records if self.fits(record)]
                # with strict priority, the first channel with a name hides all packages of this name in others
                hidden = hidden or (self._strict and bool(records) and all(spec.channel is None for spec in specs))
        return [_Source(gateway, channel, selected) for channel, selected in zip(channels, shown, strict=True)]


class _Source:
    """A channel with only some of the records of some packages (rattler's ``RepoDataSource``)."""

    def __init__(
        self, gateway: Gateway, channel: Channel | RepoDataSource, selected: Mapping[str, list[RepoDataRecord]]
    ) -> None:
        self._gateway = gateway
        self._channel = channel
        self._selected = selected

    async def fetch_package_records(self, platform: Subdir, name: PackageName) -> list[RepoDataRecord]:
        """Return the records of a package in one subdir."""
        if name.normalized in self._selected:
            return [record for record in self._selected[name.normalized] if record.subdir == str(platform)]
        found = await self._gateway.query(
            [self._channel], [platform], [name.normalized], recursive=False, channel_relations="disabled"
        )
        return [record for records in found for record in records]

    def package_names(self, platform: Subdir) -> list[str]:
        """Return nothing: the solver requests packages by name."""
        return []


class DirectPackages:
    """Packages whose URLs are in the match specs of a request: a source of records that precedes the channels."""

    def __init__(self, direct: Sequence[Direct]) -> None:
        self._direct = direct
        self._records: list[RepoDataRecord] = []

    async def fetch(self, checked: CheckedPackages) -> dict[int, MatchSpec]:
        """Fetch the packages; return specs that match only these, by position. Raises EngineError."""
        from rattler import MatchSpec

        packages = {each.package.stem: each.package for each in self._direct}
        for each in self._direct:
            if packages[each.package.stem] != each.package:
                raise EngineError(
                    f"{each.package.stem} is requested with two different URLs or digests",
                    code="spec-unsatisfiable",
                    hint="Remove one of them.",
                )
        archives = await checked.have(list(packages.values()))
        self._records = [record_in(checked.cache, package) for package in packages.values()]
        return {
            each.position: MatchSpec(without_url(each.text, archives[each.package.stem].sha256))
            for each in self._direct
        }

    async def fetch_package_records(self, platform: Subdir, name: PackageName) -> list[RepoDataRecord]:
        """Return the records of a name, once: rattler requests them for each platform."""
        if str(platform) != "noarch":
            return []
        return [record for record in self._records if record.name.normalized == name.normalized]

    def package_names(self, platform: Subdir) -> list[str]:
        """Return the names of the packages."""
        return [record.name.normalized for record in self._records] if str(platform) == "noarch" else []


def spec_of(package: Package) -> MatchSpec:
    """Return a match spec for the packages with this name, version and build, of which rattler builds fewer objects."""
    from rattler import MatchSpec

    return MatchSpec(f"{package.name}=={package.version}[build='{package.build}']")


_LOCKED = pattern(r"(\S+) \S+ is locked, but another version is required")
_LIMITS = pattern(r"(\S+) \S+ would (?:constrain|require)")
_NAME = pattern(r"[A-Za-z0-9_.-]+")
_MOST_NAMES = 5


class PinnedPackages:
    """The packages of a baseline, in its order, and their known records."""

    def __init__(self, packages: Sequence[Package]) -> None:
        self.packages = {package.name: package for package in packages}
        self._known: dict[str, PackageRecord] = {}

    @property
    def specs(self) -> list[MatchSpec]:
        """A match spec for each package, which adds it to the solution."""
        from rattler import MatchSpec

        return [MatchSpec(name) for name in self.packages]

    async def learn(self, cache: Path, gateway: Gateway, subdirs: list[Subdir], progress: Progress) -> None:
        """Get the dependencies of the packages: from the package cache, or else from their channels.

        They stay unknown if the channel does not answer or does not have the package any more.
        """
        for name, package in self.packages.items():
            record = kept_record(cache, package)
            if record is not None:
                self._known[name] = record
        absent = [package for name, package in self.packages.items() if name not in self._known]
        by_channel: dict[str, list[Package]] = {}
        for package in absent:
            by_channel.setdefault(package.channel, []).append(package)
        for channel, packages in by_channel.items():
            await self._ask(channel, packages, gateway, subdirs)
        unknown = [name for name in self.packages if name not in self._known]
        if unknown:
            told = ", ".join(unknown[:_MOST_NAMES]) + (", ..." if len(unknown) > _MOST_NAMES else "")
            progress.note(f"Dependencies are unknown for these packages of the baseline: {told}")

    async def _ask(self, channel: str, packages: list[Package], gateway: Gateway, subdirs: list[Subdir]) -> None:
        from rattler import Channel

        specs = list(map(spec_of, packages))
        try:
            found = await gateway.query(
                [Channel(channel)], subdirs, specs, recursive=False, channel_relations="disabled"
            )
        except Exception:  # the channel is not needed for anything else
            return
        wanted = {package.name: package for package in packages}
        for record in (record for records in found for record in records):
            package = wanted[record.name.normalized]
            same = record.file_name == package.file_name and record.subdir in (package.subdir, "noarch")
            digest = record.sha256.hex() if record.sha256 else None
            if same and (package.sha256 is None or digest in (None, package.sha256)):
                self._known.setdefault(record.name.normalized, record)

    def given(self) -> list[RepoDataRecord]:
        """Return the records that the solver must not change."""
        return [self._record(package, for_solver=True) for package in self.packages.values()]

    def restored(self, records: Iterable[RepoDataRecord]) -> list[RepoDataRecord]:
        """Return the solution with the known dependencies of the packages, which determine the order of linking."""
        found = []
        for record in records:
            package = self.packages.get(record.name.normalized)
            found.append(record if package is None else self._record(package, for_solver=False))
        return found

    def _record(self, package: Package, *, for_solver: bool) -> RepoDataRecord:
        from rattler import PackageRecord, RepoDataRecord
        from rattler.package import BuildString

        known = self._known.get(package.name)
        depends = [] if known is None else list(known.depends)
        limits = [] if known is None else list(known.constrains)
        if for_solver:
            limits = [text for text in (*depends, *limits) if self._is_limit(text)]
            depends = []
        record = PackageRecord(
            name=package.name,
            version=package.version,
            build=BuildString(package.build),
            build_number=0 if known is None else known.build_number,
            subdir=package.subdir,
            noarch=None if known is None else "python" if known.noarch.python else None,
            depends=depends,
            constrains=limits,
            sha256=bytes.fromhex(package.sha256) if package.sha256 else None,
            md5=bytes.fromhex(package.md5) if package.md5 else None,
        )
        if for_solver:  # not excluded by any exclude-newer
            record.timestamp = datetime.fromtimestamp(0, timezone.utc)
        return RepoDataRecord(record, package.file_name, package.url, package.channel)

    def _is_limit(self, text: str) -> bool:
        """Return whether a spec is about a package that may be added."""
        name = _NAME.match(text.rpartition("::")[2].strip())
        return name is not None and not name[0].startswith("__") and name[0].lower() not in self.packages

    def explain(self, text: str, asked: Sequence[str]) -> EngineError | None:
        """Return the error for a solver's message if a package of the baseline causes a conflict."""
        named = [name for name in (*_LOCKED.findall(text), *_LIMITS.findall(text)) if name in self.packages]
        names = list(dict.fromkeys(named))
        if not names:
            return None
        told = " and ".join(f"{name} {self.packages[name].version}" for name in names)
        lines = draw(merged(read_tree(text))) or limited(text.strip().splitlines())
        return UnsatisfiableError(
            f"{' and '.join(map(repr, asked))} cannot be added to the baseline, which has {told}",
            code="baseline-conflict",
            details=tuple(line.replace("is locked, but", "is in the baseline, but") for line in lines),
            hint=f"Allow another version with `without: [{', '.join(names)}]`, or request another one of the addition.",
        )


def exactly(solution: Iterable[Package], pinned: Sequence[Package]) -> tuple[Package, ...]:
    """Return the packages of a solution in linking order, the pinned ones unchanged."""
    given = {package.name: package for package in pinned}
    found = {package.name: package for package in solution}
    return tuple(given.get(name) or found[name] for name in linked_in_order(found, list(given)))


def linked_in_order(records: Mapping[str, Package], given: Sequence[str]) -> list[str]:
    """Return the names of the records in linking order.

    Dependencies come first, and python as early as possible. Otherwise the ``given`` names keep their order, since
    their dependencies may be unknown.
    """
    order: dict[str, None] = {}
    begun: set[str] = set()
    stack = [(name, False) for name in reversed(["python", *given, *records])]
    while stack:
        name, ready = stack.pop()
        if ready:
            order[name] = None
        elif name in records and name not in begun:
            begun.add(name)
            stack.append((name, True))
            needs = [match[0].lower() for text in records[name].depends if (match := _NAME.match(text))]
            # python may depend on pip, which requires python
            stack += [(need, False) for need in reversed(needs) if (name, need) != ("python", "pip")]
    return list(order)

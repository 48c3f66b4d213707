"""One creation of an environment by rattler: fetch metadata, solve, fetch packages, link."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cetool.base.durations import is_span, rfc3339
from cetool.base.errors import EngineError
from cetool.base.text import pattern
from cetool.base.urls import scrub
from cetool.engines.archives import check_site_packages, has_link_script
from cetool.engines.explicit import distinct
from cetool.engines.protocol import EngineRequest, Progress
from cetool.engines.rattler.client import make_client
from cetool.engines.rattler.errors import explain, missing_package, missing_version
from cetool.engines.rattler.kept import record_in
from cetool.engines.rattler.packages import CheckedPackages
from cetool.engines.rattler.prefix import not_below, python_in, records_of, standing_in, with_those_below
from cetool.engines.rattler.request import Plan, virtual_packages
from cetool.engines.rattler.solutions import Solutions
from cetool.engines.rattler.sources import DirectPackages, PinnedPackages, Selection, spec_of
from cetool.engines.rattler.thread import Pulse, Reporter
from cetool.lock.records import package_of
from cetool.packages.cache import METADATA, PACKAGES, DamagedPackages, ReplacedPackages, note_use
from cetool.packages.integrity import is_damaged

if TYPE_CHECKING:
    from rattler import Channel, Client, Config, Gateway, GenericVirtualPackage, MatchSpec, RepoDataRecord, Subdir
    from rattler.repo_data.source import RepoDataSource
    from rattler.solver.solver import SolveStrategy

    from cetool.engines.rattler.sources import Sources

#: No package has this name.
_NO_NAME = "cetool-no-such-package"
_STEM = pattern(r"\.(?:conda|tar\.bz2)\Z")


class Connection:
    """What creations at the same time share: a client, and a gateway with the metadata that it has fetched."""

    def __init__(
        self, plan: Plan, environ: Mapping[str, str], caches: Path, alive: Callable[[], None], *, shared: bool = False
    ) -> None:
        self.environ = environ
        self.caches = caches
        self.client = make_client(plan.access, plan.condarc, environ, offline=plan.offline, alive=alive)
        self.shared = shared
        self._offline = plan.offline
        self.gateway = self.new_gateway()

    def new_gateway(self) -> Gateway:
        """Return a gateway that has read no metadata yet."""
        from rattler import Gateway, SourceConfig

        config = SourceConfig(cache_action="force-cache-only" if self._offline else "cache-or-fetch")
        return Gateway(cache_dir=self.caches / METADATA, default_config=config, client=self.client)


class Creation:
    """One creation; ``details`` is rattler's message if the message for the user is a different one."""

    def __init__(
        self, plan: Plan, request: EngineRequest, progress: Progress, pulse: Pulse, connection: Connection
    ) -> None:
        self.plan = plan
        self.request = request
        self.progress = progress
        self.pulse = pulse
        self.caches = connection.caches
        self.environ = connection.environ
        self.details = ""
        self.below = [] if request.below is None else records_of(request.below)
        self.selection = Selection(plan.selected, strict=plan.condarc.channel_priority == "strict")
        self._connection = connection

    async def run(self, *, link: bool = True) -> list[RepoDataRecord]:
        """Fetch metadata, solve and, if ``link``, link; return the packages."""
        from rattler import Channel, Subdir

        plan = self.plan
        client, gateway = self._connection.client, self._connection.gateway
        subdirs = [Subdir(plan.subdir) if plan.subdir else Subdir.current(), Subdir("noarch")]
        if self.request.exact:
            return await self._take(client, subdirs[0], link=link)
        sources: list[Channel | RepoDataSource] = [Channel(url) for url, _ in plan.channels]
        checked = self._checked(client)
        if plan.direct:
            sources.insert(0, await self._direct(checked))
        records = not_below(await self._solve(gateway, sources, subdirs), self.below)
        if not link or (self.below and not records):
            return records
        self.progress.packages(len(records))
        with self.pulse.watched():
            await checked.have_those_of(records)
        await self._install(records, checked, client, subdirs[0])
        return records

    async def _direct(self, checked: CheckedPackages) -> RepoDataSource:
        """Fetch packages whose URLs are in match specs, and change the plan's specs to mean exactly these."""
        packages = DirectPackages(self.plan.direct)
        with self.pulse.watched():
            found = await packages.fetch(checked)
        specs = [(found.get(number, spec), shown) for number, (spec, shown) in enumerate(self.plan.specs)]
        self.plan = self.plan._replace(specs=tuple(specs))
        return packages

    async def _take(self, client: Client, subdir: Subdir, *, link: bool) -> list[RepoDataRecord]:
        """Fetch exact packages and, if ``link``, install them."""
        packages = distinct(self.request.exact)
        self.progress.packages(len(packages))
        checked = self._checked(client)
        with self.pulse.watched():
            await checked.have(packages, {each.stem: each.size or 0 for each in packages}, whole=link)
        # kept until another process links them
        note_use(checked.cache, (package.stem for package in packages))
        records = [record_in(checked.cache, package) for package in packages]
        if link:
            await self._install(records, checked, client, subdir)
        return records

    def _checked(self, client: Client) -> CheckedPackages:
        """Return the package cache."""
        checked = CheckedPackages(
            self.caches / PACKAGES,
            client,
            self.progress,
            self.pulse.beat,
            offline=self.plan.offline,
            archives=self.request.archives,
        )
        checked.given = lambda package: self.request.given_file(package.file_name, package.sha256)
        return checked

    async def _solve(self, gateway: Gateway, sources: Sources, subdirs: list[Subdir]) -> list[RepoDataRecord]:
        from rattler import ChannelPriority, MatchSpec, solve
        from rattler.exceptions import SolverError

        plan, request, solving = self.plan, self.request, self.request.spec.solving
        self.progress.stage("Solving")
        pinned = await self._pinned(gateway, subdirs) if self.request.pinned else None
        # with one channel, all priorities give the same packages; "strict" takes a third less time for 40 names, since
        # records are not compared by their channel
        priority = solving.channel_priority or plan.condarc.channel_priority if len(sources) > 1 else "strict"
        virtual = virtual_packages(self.request.spec.virtual_packages, self.environ, self.request.platform)
        solutions = self._solutions(subdirs, priority, virtual)
        if solutions is not None:
            gateway, found = await self._remembered(solutions, gateway, sources, subdirs)
            if found is not None:
                self.progress.note("The channels have not changed since the same request was solved")
                return found
        try:
            with self.pulse.watched():
                records = await solve(
                    await self.selection.sources(gateway, sources, subdirs),
                    [
                        *with_those_below([spec for spec, _ in plan.specs], self.below),
                        *(pinned.specs if pinned else ()),
                    ],
                    gateway,
                    platforms=subdirs,
                    pinned_packages=[*python_in(self.below), *(pinned.given() if pinned else ())],
                    virtual_packages=virtual,
                    channel_priority=ChannelPriority[priority.capitalize()],
                    constraints=[*plan.pins, *map(MatchSpec, solving.constraints)],
                    strategy=cast("SolveStrategy", solving.strategy or "highest"),
                    channel_relations="disabled",
                    exclude_newer=request.moment,
                    locked_packages=[
                        *filter(self.selection.fits, self.below),
                        *await self._preferred(gateway, sources, subdirs),
                    ],
                )
        except SolverError as error:
            self.details = str(error)
            with self.pulse.watched():
                better = await self._missing(gateway, sources, subdirs)
            if pinned and better is None:
                better = pinned.explain(scrub(self.details), [shown for _, shown in plan.specs])
            raise self._dated(better or explain(error, plan)) from None
        for spec, shown in plan.specs:
            # a conditional spec (`when=`) has no effect if its condition is false
            if spec.condition is None and not _is_virtual(spec) and not any(map(self._fit(spec), records)):
                raise EngineError(f"the solution of the embedded engine has no package for {shown!r}")
        if solutions is not None:
            solutions.remember(records)
        return pinned.restored(records) if pinned else records

    def _solutions(
        self, subdirs: list[Subdir], priority: str, virtual: list[GenericVirtualPackage]
    ) -> Solutions | None:
        """Return the remembered solutions of this request; None if it depends on more than the channels."""
        plan, request = self.plan, self.request
        if plan.direct or plan.selected or request.pinned or request.preferred or request.below is not None:
            return None
        if request.spec.exclude_newer is not None and is_span(request.spec.exclude_newer):
            return None
        asked = (
            [(spec.to_canonical_string(), shown) for spec, shown in plan.specs],  # str() shortens the URLs of channels
            [pin.to_canonical_string() for pin in plan.pins],
            (request.spec.solving, request.spec.exclude_newer, priority),
            [(each.name.normalized, str(each.version), str(each.build_string)) for each in virtual],
            [url for url, _ in plan.channels],
        )
        places = [f"{url}/{subdir}/" for url, _ in plan.channels for subdir in subdirs]
        return Solutions(self.caches / METADATA, asked, places)

    async def _remembered(
        self, solutions: Solutions, gateway: Gateway, sources: Sources, subdirs: list[Subdir]
    ) -> tuple[Gateway, list[RepoDataRecord] | None]:
        """Check the indexes, as the solver would do; return what to solve with, and the packages that are remembered.

        A solution is kept only if rattler has read the indexes that are on disk: another process may have replaced them
        since. If they have changed while rattler read them, it reads them once more, unless that takes long.
        """
        with self.pulse.watched():
            for again in (True, False):
                solutions.look()
                await gateway.query(sources, subdirs, [_NO_NAME], recursive=False, channel_relations="disabled")
                if not solutions.have_changed() or not again or self._connection.shared or solutions.unsure():
                    break
                gateway = self._connection.new_gateway()
            empty = await self._empty(gateway, subdirs[0], solutions.unsure())
        return gateway, solutions.find(empty)

    async def _empty(self, gateway: Gateway, subdir: Subdir, places: Container[str]) -> list[str]:
        """Return those of the places that have no packages; each channel must have an index of noarch packages."""
        from rattler import Channel

        found = []
        for url, _ in self.plan.channels:
            place = f"{url}/{subdir}/"
            if place in places and not await gateway.names([Channel(url)], [subdir], channel_relations="disabled"):
                found.append(place)
        return found

    def _fit(self, spec: MatchSpec) -> Callable[[RepoDataRecord], bool]:
        """Return a function that checks whether a record matches a spec, including fields that rattler ignores."""
        return lambda record: spec.matches(record) and self.selection.fits(record)

    async def _pinned(self, gateway: Gateway, subdirs: list[Subdir]) -> PinnedPackages:
        """Return the packages that must not change."""
        pinned = PinnedPackages(self.request.pinned)
        with self.pulse.watched():
            await pinned.learn(self.caches / PACKAGES, gateway, subdirs, self.progress)
        return pinned

    async def _preferred(self, gateway: Gateway, sources: Sources, subdirs: list[Subdir]) -> list[RepoDataRecord]:
        """Return the records of preferred packages, as far as the channels still have them."""
        wanted = self.request.preferred
        if not wanted:
            return []
        urls = {package.url for package in wanted}
        digests = {(package.name, package.sha256) for package in wanted if package.sha256}
        found = await gateway.query(
            sources, subdirs, list(map(spec_of, wanted)), recursive=False, channel_relations="disabled"
        )
        kept: dict[str, RepoDataRecord] = {}
        for record in (record for records in found for record in records):
            digest = record.sha256.hex() if record.sha256 else None
            if (record.url in urls or (record.name.normalized, digest) in digests) and self.selection.fits(record):
                kept.setdefault(record.name.normalized, record)
        return list(kept.values())

    def _dated(self, error: EngineError) -> EngineError:
        """Return the error with a note about ``exclude-newer``: a package may only be too new."""
        moment = self.request.moment
        if moment is not None:
            told = f"Packages published after {rfc3339(moment)} are ignored (exclude-newer)."
            return error.but(hint=f"{told} {error.hint or ''}".strip())
        return error

    async def _missing(self, gateway: Gateway, sources: Sources, subdirs: list[Subdir]) -> EngineError | None:
        """Return the error for the first spec that no package in the channels matches, None if there is none."""
        for spec, shown in self.plan.specs:
            name = getattr(spec.name, "normalized", None)
            if name is None or spec.condition is not None or _is_virtual(spec):
                continue
            fitting = await gateway.query(sources, subdirs, [spec], recursive=False, channel_relations="disabled")
            if any(self._fit(spec)(record) for records in fitting for record in records):
                continue
            found = await gateway.query(sources, subdirs, [name], recursive=False, channel_relations="disabled")
            namesakes = [record for records in found for record in records]
            if not namesakes:
                names = await gateway.names(sources, subdirs, channel_relations="disabled")
                return missing_package(name, self.plan, [each.normalized for each in names])
            if not any(map(self._fit(spec), namesakes)):
                return missing_version(shown, namesakes, self.plan)
        return None

    async def _install(
        self, records: list[RepoDataRecord], checked: CheckedPackages, client: Client, subdir: Subdir
    ) -> None:
        from rattler import install

        sizes = {record.name.normalized: record.size or 0 for record in records}
        reporter = Reporter(self.progress, self.pulse, sizes)
        packages = checked.cache
        for record in records:
            check_site_packages(record.python_site_packages_path, package_of(record))
        try:
            with self.pulse.watched(), standing_in(self.request.prefix, self.below) as python:
                await install(
                    [*records, *python],
                    self.request.prefix,
                    cache_dir=packages,
                    installed_packages=python,
                    platform=subdir,
                    execute_link_scripts=True,
                    client=client,
                    reporter=cast(Any, reporter),  # rattler takes any object with some of the methods
                    config=self._linking(packages, records),
                )
        except Exception as error:
            unpacked = (packages / _STEM.sub("", record.file_name) for record in records)
            if damaged := [directory for directory in unpacked if is_damaged(directory)]:
                self.details = str(error)
                raise DamagedPackages(damaged) from None
            raise
        if replaced := checked.replaced():
            raise ReplacedPackages(replaced)
        note_use(packages, (_STEM.sub("", record.file_name) for record in records))
        if (failed := reporter.failed_script(self.request.prefix)) is not None:
            raise failed

    def _linking(self, packages: Path, records: list[RepoDataRecord]) -> Config | None:
        """Return rattler's configuration for how files are linked; None for the usual one."""
        from rattler import Config

        unpacked = (packages / _STEM.sub("", record.file_name) for record in records)
        if not self.request.apart or not any(map(has_link_script, unpacked)):
            return None
        config = Config()
        for key in ("allow-hard-links", "allow-symbolic-links"):
            config.set(key, "false")
        return config


def _is_virtual(spec: Any) -> bool:
    return str(getattr(spec.name, "normalized", "")).startswith("__")

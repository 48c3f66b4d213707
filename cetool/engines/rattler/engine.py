"""The embedded engine: py-rattler, in this process. It needs no installed conda or mamba.

It reads ``.condarc``: aliases and mirrors of channels, priority, pins, proxies, certificates, offline. It does not add
``create_default_packages``: an environment contains what the script declares. Packages are kept in the given cache
directory, or in ``rattler`` below the first writable ``pkgs_dirs``; rattler locks what it shares with other processes.

rattler works in its own threads. A Python thread runs the event loop that waits for them, so that the caller's thread
can handle signals: then the work is cancelled, and cetool waits up to two seconds for links in progress. Unlike conda,
rattler does not byte-compile noarch packages: Python does this at the first import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cetool.base.durations import rfc3339
from cetool.base.errors import CetoolError, EngineError
from cetool.base.process import is_panic, stderr_to
from cetool.base.text import counted, pattern
from cetool.base.urls import scrub
from cetool.declare.package import Package
from cetool.engines.archives import check_site_packages
from cetool.engines.explicit import distinct
from cetool.engines.output import Log
from cetool.engines.protocol import EngineRequest, Explain, Hold, Progress, as_found
from cetool.engines.rattler.apart import answer, perform_apart
from cetool.engines.rattler.client import make_client, process_variables
from cetool.engines.rattler.errors import explain, missing_package, missing_version
from cetool.engines.rattler.packages import CheckedPackages, record_in
from cetool.engines.rattler.prefix import finish_prefix, not_below, python_in, records_of, standing_in, with_those_below
from cetool.engines.rattler.request import Plan, make_plan, virtual_packages
from cetool.engines.rattler.sources import DirectPackages, PinnedPackages, Selection, exactly
from cetool.engines.rattler.thread import (
    Pulse,
    Reporter,
    Stalled,
    TooMuchMemory,
    attend,
    memory_exceeded,
    need_descriptors,
    panicked,
    wait_until_quiet,
)
from cetool.lock.records import package_of
from cetool.packages.cache import (
    METADATA,
    PACKAGES,
    DamagedPackages,
    ReplacedPackages,
    embedded_cache,
    in_use,
    note_use,
)
from cetool.packages.integrity import is_damaged
from cetool.settings.condarc import Condarc, load_condarc

if TYPE_CHECKING:
    from rattler import Channel, Client, Gateway, MatchSpec, RepoDataRecord, Subdir
    from rattler.repo_data.source import RepoDataSource
    from rattler.solver.solver import SolveStrategy

    from cetool.engines.rattler.sources import Sources

_STEM = pattern(r"\.(?:conda|tar\.bz2)\Z")


class RattlerEngine:
    """The embedded engine. ``cache_dir`` is where it may keep packages and metadata."""

    name = "rattler"

    def __init__(self, environ: Mapping[str, str], cache_dir: Path) -> None:
        self.environ = environ
        self.cache_dir = cache_dir

    @property
    def version(self) -> str:
        """py-rattler's version. Raises EngineError if it cannot be imported."""
        try:
            import rattler
        except ImportError as error:
            raise EngineError(
                f"cannot import py-rattler, the embedded engine: {error}",
                code="engine-missing",
                hint="Reinstall cetool, or install conda or mamba.",
            ) from None
        return str(rattler.__version__)

    def create(self, request: EngineRequest, progress: Progress, hold: Hold) -> Explain:
        """Make the environment; see :class:`cetool.engines.protocol.Engine`. No subprocess inherits descriptors.

        ``progress`` is called from other threads than the caller's, one call at a time.
        """
        self._perform(request, progress, hold, link=True)
        return as_found

    def link_over(self, request: EngineRequest, progress: Progress, hold: Hold) -> list[Package]:
        """Link the packages that ``request.below`` lacks into the request's prefix, and return them.

        Raises EngineError if they conflict with the base.
        """
        return self._perform(request, progress, hold, link=True)

    def solve(self, request: EngineRequest, progress: Progress, hold: Hold) -> list[Package]:
        """Return the packages that the environment would have. Only metadata are fetched, and nothing is made.

        Raises EngineError if there is no solution.
        """
        return self._perform(request, progress, hold, link=False)

    def solve_exactly(self, request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
        """Return the packages that the environment would have, in topological order."""
        return exactly(self.solve(request, progress, hold), request.pinned)

    def _perform(self, request: EngineRequest, progress: Progress, hold: Hold, *, link: bool) -> list[Package]:
        condarc = load_condarc(self.environ, mamba=True)
        if variables := process_variables(condarc, self.environ):
            return perform_apart(self, request, progress, hold, variables, link=link)
        return self.perform(request, progress, condarc, hold.own_process, link)

    def perform(
        self, request: EngineRequest, progress: Progress, condarc: Condarc, own: bool, link: bool
    ) -> list[Package]:
        """Solve, and ``link``, in this process with its variables; if it is our ``own``, stderr goes to the log."""
        need_descriptors()
        version = self.version
        plan = make_plan(request, condarc, self.environ)
        if condarc.client_ssl_cert:
            progress.note("Ignoring client_ssl_cert, which the embedded engine does not support")
        caches = embedded_cache(condarc, self.environ, self.cache_dir)
        pulse = Pulse()
        with in_use(caches), Log(request.log) as log:
            specs = ", ".join([package.line for package in request.exact] or [shown for _, shown in plan.specs])
            log.write(f"rattler {version}: {specs} from {plan.channel_names} into {request.prefix}\n")
            creation = _Creation(plan, request, progress, pulse, caches, self.environ)
            watched = caches / METADATA
            try:
                with stderr_to(log.fileno()) if own else nullcontext():
                    records = attend(
                        creation.run(link=link),
                        lambda: pulse.still_for(watched) > request.stall_timeout,
                    )
            except CetoolError as error:
                log.write(f"{creation.details or error}\n")
                raise _with_log(error, request) from None
            except Stalled:
                raise _stalled(plan, request) from None
            except TooMuchMemory:
                raise memory_exceeded(request) from None
            except Exception as error:
                log.write(f"{type(error).__name__}: {error}\n")
                raise _with_log(explain(error, plan), request) from error
            except BaseException as error:
                wait_until_quiet(request.prefix)
                if not is_panic(error):
                    raise
                log.write(f"{type(error).__name__}: {error}\n")
                raise _with_log(panicked(error), request) from None
            if link and (records or request.below is None):
                finish_prefix(request.prefix, records, plan, f"cetool (py-rattler {version})")
                log.write(f"linked {counted(len(records), 'package')}\n")
        return list(map(package_of, records))


class _Creation:
    """One creation; ``details`` is rattler's message if the message for the user is a different one."""

    def __init__(
        self,
        plan: Plan,
        request: EngineRequest,
        progress: Progress,
        pulse: Pulse,
        caches: Path,
        environ: Mapping[str, str],
    ) -> None:
        self.plan = plan
        self.request = request
        self.progress = progress
        self.pulse = pulse
        self.caches = caches
        self.environ = environ
        self.details = ""
        self.below = [] if request.below is None else records_of(request.below)
        self.selection = Selection(plan.selected, strict=plan.condarc.channel_priority == "strict")

    async def run(self, *, link: bool = True) -> list[RepoDataRecord]:
        """Fetch metadata, solve and, if ``link``, link; return the packages."""
        from rattler import Channel, Gateway, SourceConfig, Subdir

        plan = self.plan
        client = make_client(plan.access, plan.condarc, self.environ, offline=plan.offline, alive=self.pulse.beat)
        gateway = Gateway(
            cache_dir=self.caches / METADATA,
            default_config=SourceConfig(cache_action="force-cache-only" if plan.offline else "cache-or-fetch"),
            client=client,
        )
        subdirs = [Subdir(plan.subdir) if plan.subdir else Subdir.current(), Subdir("noarch")]
        if self.request.exact:
            return await self._take(client, subdirs[0])
        sources: list[Channel | RepoDataSource] = [Channel(url) for url, _ in plan.channels]
        checked = self._checked(client)
        if plan.direct:
            sources.insert(0, await self._direct(checked))
        with self.pulse.watched():
            self.progress.stage("Fetching metadata")
            await gateway.query(sources, subdirs, [spec for spec, _ in self.plan.specs], channel_relations="disabled")
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

    async def _take(self, client: Client, subdir: Subdir) -> list[RepoDataRecord]:
        """Install exact packages."""

        packages = distinct(self.request.exact)
        self.progress.packages(len(packages))
        checked = self._checked(client)
        with self.pulse.watched():
            await checked.have(packages, whole=True)
        records = [record_in(checked.cache, package) for package in packages]
        await self._install(records, checked, client, subdir)
        return records

    def _checked(self, client: Client) -> CheckedPackages:
        """Return the package cache."""
        return CheckedPackages(
            self.caches / PACKAGES, client, self.progress, self.pulse.beat, offline=self.plan.offline
        )

    async def _solve(self, gateway: Gateway, sources: Sources, subdirs: list[Subdir]) -> list[RepoDataRecord]:
        from rattler import ChannelPriority, MatchSpec, solve
        from rattler.exceptions import SolverError

        plan, request, solving = self.plan, self.request, self.request.spec.solving
        pinned = await self._pinned(gateway, subdirs) if self.request.pinned else None
        self.progress.stage("Solving")
        try:
            records = await solve(
                await self.selection.sources(gateway, sources, subdirs),
                [*with_those_below([spec for spec, _ in plan.specs], self.below), *(pinned.specs if pinned else ())],
                gateway,
                platforms=subdirs,
                pinned_packages=[*python_in(self.below), *(pinned.given() if pinned else ())],
                virtual_packages=virtual_packages(
                    self.request.spec.virtual_packages, self.environ, self.request.platform
                ),
                channel_priority=ChannelPriority[
                    (solving.channel_priority or plan.condarc.channel_priority).capitalize()
                ],
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
        return pinned.restored(records) if pinned else records

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
        names = list({package.name for package in wanted})
        found = await gateway.query(sources, subdirs, names, recursive=False, channel_relations="disabled")
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


def _is_virtual(spec: Any) -> bool:
    return str(getattr(spec.name, "normalized", "")).startswith("__")


def _with_log(error: CetoolError, request: EngineRequest) -> CetoolError:
    return error.but(log=str(request.log)) if isinstance(error, EngineError) and error.log is None else error


def _stalled(plan: Plan, request: EngineRequest) -> EngineError:
    wait_until_quiet(request.prefix)
    return EngineError(
        f"no data arrived from {plan.channel_names} for {request.stall_timeout:g} seconds",
        code="engine-stalled",
        hint="Usually a server does not answer. Try again later, or increase `stall-timeout`.",
        log=str(request.log),
    )


def work() -> None:
    """Do the work of :func:`~cetool.engines.rattler.apart.perform_apart` in the process that it has started."""

    def perform(environ: Mapping[str, str], cache: Path, request: EngineRequest, progress: Progress, link: bool) -> Any:
        engine = RattlerEngine(environ, cache)
        return engine.perform(request, progress, load_condarc(environ, mamba=True), True, link)

    answer(perform)

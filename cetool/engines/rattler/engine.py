"""The embedded engine: py-rattler, in this process. It needs no installed conda or mamba.

It reads ``.condarc``: aliases and mirrors of channels, priority, pins, proxies, certificates, offline. It does not add
``create_default_packages``: an environment contains what the script declares. Packages are kept in the given cache
directory, or in ``rattler`` below the first writable ``pkgs_dirs``; rattler locks what it shares with other processes.

rattler works in its own threads. A Python thread runs the event loop that waits for them, so that the caller's thread
can handle signals: then the work is cancelled, and cetool waits up to two seconds for links in progress. Unlike conda,
rattler does not byte-compile noarch packages: Python does this at the first import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cetool.base.errors import CetoolError, EngineError
from cetool.base.process import is_panic, stderr_to
from cetool.base.text import counted
from cetool.declare.package import Package
from cetool.engines.output import Log
from cetool.engines.protocol import EngineRequest, Explain, Hold, Progress, as_found
from cetool.engines.rattler.apart import answer, perform_apart
from cetool.engines.rattler.client import access_to, process_variables
from cetool.engines.rattler.creation import Connection, Creation
from cetool.engines.rattler.errors import explain
from cetool.engines.rattler.prefix import finish_prefix
from cetool.engines.rattler.request import Plan, make_plan
from cetool.engines.rattler.sources import exactly
from cetool.engines.rattler.thread import (
    Pulse,
    Stalled,
    TooMuchMemory,
    attend,
    memory_exceeded,
    need_descriptors,
    panicked,
    wait_until_quiet,
)
from cetool.lock.records import package_of
from cetool.packages.cache import METADATA, embedded_cache, in_use
from cetool.settings.condarc import Condarc, load_condarc

if TYPE_CHECKING:
    from rattler import RepoDataRecord


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

    def fetch(self, request: EngineRequest, progress: Progress, hold: Hold) -> None:
        """Add the exact packages of the request to the package cache, and their archives to ``request.archives``.

        Raises EngineError if one cannot be fetched, or has a wrong digest.
        """
        assert request.exact
        self._perform(request, progress, hold, link=False)

    def solve_exactly(self, request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
        """Return the packages that the environment would have, in topological order."""
        return exactly(self.solve(request, progress, hold), request.pinned)

    def solve_together(
        self, requests: Sequence[EngineRequest], progress: Progress, hold: Hold
    ) -> list[list[Package] | CetoolError]:
        """Return the packages that each environment would have, or why there is no solution.

        All are solved at the same time from the same metadata; their variables and settings are the engine's.
        """
        if len(requests) > 1:
            condarc = load_condarc(self.environ, mamba=True)
            if not process_variables(condarc, self.environ):
                return self._outcomes(requests, progress, condarc, hold.own_process, False)
        found: list[list[Package] | CetoolError] = []
        for request in requests:
            try:
                found.append(self._perform(request, progress, hold, link=False))
            except CetoolError as error:
                found.append(error)
        return found

    def _perform(self, request: EngineRequest, progress: Progress, hold: Hold, *, link: bool) -> list[Package]:
        condarc = load_condarc(self.environ, mamba=True)
        if variables := process_variables(condarc, self.environ):
            return perform_apart(self, request, progress, hold, variables, link=link)
        return self.perform(request, progress, condarc, hold.own_process, link)

    def perform(
        self, request: EngineRequest, progress: Progress, condarc: Condarc, own: bool, link: bool
    ) -> list[Package]:
        """Solve, and ``link``, in this process with its variables; if it is our ``own``, stderr goes to the log."""
        (outcome,) = self._outcomes([request], progress, condarc, own, link)
        if isinstance(outcome, CetoolError):
            raise outcome
        return outcome

    def _outcomes(
        self, requests: Sequence[EngineRequest], progress: Progress, condarc: Condarc, own: bool, link: bool
    ) -> list[list[Package] | CetoolError]:
        """Do what :meth:`perform` does for all requests at the same time; return their packages or errors."""
        need_descriptors()
        if condarc.client_ssl_cert:
            progress.note("Ignoring client_ssl_cert, which the embedded engine does not support")
        caches = embedded_cache(condarc, self.environ, self.cache_dir)
        pulse = Pulse()
        with in_use(caches), ExitStack() as open_logs:
            logs = [open_logs.enter_context(Log(request.log)) for request in requests]
            access = access_to(condarc)
            plans = [make_plan(request, condarc, self.environ, access) for request in requests]
            connection = Connection(plans[0], self.environ, caches, pulse.beat, shared=len(requests) > 1)
            creations = []
            for plan, request, log in zip(plans, requests, logs, strict=True):
                specs = ", ".join([package.line for package in request.exact] or [shown for _, shown in plan.specs])
                log.write(f"rattler {self.version}: {specs} from {plan.channel_names} into {request.prefix}\n")
                creations.append(Creation(plan, request, progress, pulse, connection))
            try:
                with stderr_to(logs[0].fileno()) if own else nullcontext():
                    ended = attend(
                        _all(creations, link),
                        lambda: pulse.still_for(caches / METADATA) > requests[0].stall_timeout,
                    )
            except Stalled:
                raise _stalled(creations[0].plan, requests[0]) from None
            except TooMuchMemory:
                raise memory_exceeded(requests[0]) from None
            except BaseException:
                wait_until_quiet(requests[0].prefix)
                raise
            return [self._outcome(*each, link) for each in zip(ended, creations, logs, strict=True)]

    def _outcome(
        self, ended: list[RepoDataRecord] | BaseException, creation: Creation, log: Log, link: bool
    ) -> list[Package] | CetoolError:
        """Return the packages of a creation that has ended, or the error."""
        request, plan = creation.request, creation.plan
        if isinstance(ended, BaseException):
            if isinstance(ended, CetoolError):
                log.write(f"{creation.details or ended}\n")
                return _with_log(ended, request)
            log.write(f"{type(ended).__name__}: {ended}\n")
            if isinstance(ended, Exception):
                error = _with_log(explain(ended, plan), request)
                error.__cause__ = ended
                return error
            wait_until_quiet(request.prefix)
            if not is_panic(ended):
                raise ended
            return _with_log(panicked(ended), request)
        if link and (ended or request.below is None):
            finish_prefix(request.prefix, ended, plan, f"cetool (py-rattler {self.version})")
            log.write(f"linked {counted(len(ended), 'package')}\n")
        return list(map(package_of, ended))


async def _all(creations: list[Creation], link: bool) -> list[list[RepoDataRecord] | BaseException]:
    import asyncio

    return await asyncio.gather(*(creation.run(link=link) for creation in creations), return_exceptions=True)


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

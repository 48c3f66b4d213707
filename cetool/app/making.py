"""Make environments with the chosen engine, under the store's lock, while showing progress."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Protocol

from cetool import __version__
from cetool.app.decision import Decision, placed
from cetool.app.reporting import Reporter
from cetool.app.world import World, prepare
from cetool.base.durations import format_size
from cetool.base.errors import EngineError
from cetool.base.process import Consent
from cetool.base.text import counted
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.match_specs import spec_name
from cetool.declare.requirements import Requirements
from cetool.engines.build import build_environment
from cetool.engines.choice import choose_again
from cetool.engines.protocol import Engine, EngineRequest, Hold, Progress, ProgressOver
from cetool.packages.cache import PACKAGES, embedded_cache
from cetool.settings.condarc import load_condarc
from cetool.store.disk import delete_tree
from cetool.store.making import Settling, ensure
from cetool.store.store import Lease, Marker, Origin, note_made

#: Maximum number of names in the line about a created environment.
_MOST_NAMES = 8


def make(
    decision: Decision,
    world: World,
    reporter: Reporter,
    consent: Consent,
    *,
    refresh: bool,
    exactly: EnvironmentSpec | None = None,
    given: Given | None = None,
) -> Lease:
    """Return a lease of the environment; create it unless another process has created it meanwhile.

    ``exactly`` has the packages that were chosen for the decision's specification; without it the engine solves. What
    a server has ``given`` is tried first.
    """
    prepare(world.paths)
    spec = decision.spec
    with reporter.progress() as progress:

        def build(prefix: Path, log: Path, descriptors: tuple[int, ...], settling: Settling) -> Marker:
            hold, making = Hold(consent, descriptors, world.own_process), Making(progress, settling)
            marker = (
                None if given is None else _build_given(given, world.request(spec, prefix, log), world, making, hold)
            )
            marker = marker or _build(world.request(exactly or spec, prefix, log), world, making, hold)
            return marker._replace(name=spec.name, spec=spec)

        try:
            lease = ensure(world.store, spec, build, refresh=refresh, on_wait=progress.wait, purpose=decision.purpose)
        except EngineError as error:
            raise placed(error, decision.source, decision.metadata) from None
    if lease.created:
        reporter.say(_created(decision.requirements, lease.marker))
        with contextlib.suppress(OSError):  # the log also finds it on disk, and then counts it as just used
            note_made(world.paths.spool, lease.prefix.name)
    return lease


class Making(ProgressOver):
    """The progress of an environment that is made, which is written to disk while other work continues."""

    def __init__(self, progress: Progress, settling: Settling) -> None:
        super().__init__(progress)
        self._settling = settling
        self._loads = False

    def link(self, done: int, total: int) -> None:
        """Load what the rest needs with the first package: while an engine links, that takes no extra time."""
        super().link(done, total)
        if not self._loads:
            self._loads = True
            load = partial(import_module, "ctypes")  # needed to sync the disk
            threading.Thread(target=load, name="cetool-meanwhile", daemon=True).start()

    def written(self) -> None:
        """Start writing to disk."""
        self._settling.start()


class Given(Protocol):
    """Exact packages that a server has given for a specification."""

    @property
    def reason(self) -> str:
        """Why the engine links these."""

    @property
    def origin(self) -> Origin:
        """Where they come from."""

    def fetched(
        self, request: EngineRequest, cache: Path, progress: Progress
    ) -> contextlib.AbstractContextManager[EngineRequest]:
        """Get what the package cache lacks, and return the request for exactly these packages."""

    def failed(self, error: EngineError) -> None:
        """Report that the packages cannot be linked. Raises the error if nothing else may be tried."""


def _build_given(given: Given, request: EngineRequest, world: World, progress: Progress, hold: Hold) -> Marker | None:
    """Link what a server has given with the embedded engine; return None if that fails, and the engine has to solve."""
    from cetool.engines.rattler.engine import RattlerEngine  # few environments come from a server

    cache = embedded_cache(load_condarc(world.engine_environ, mamba=True), world.engine_environ, world.packages)
    engine = RattlerEngine(world.engine_environ, world.packages)
    try:
        with given.fetched(request, cache / PACKAGES, progress) as exact:
            marker = _build_by(engine, given.reason, exact, world, progress, hold)
        return marker._replace(origin=given.origin)
    except EngineError as error:
        given.failed(error)
    delete_tree(request.prefix)
    return None


def _build(request: EngineRequest, world: World, progress: Progress, hold: Hold) -> Marker:
    engine, reason = world.engine
    try:
        return _build_by(engine, reason, request, world, progress, hold)
    except EngineError:
        places = {"lock_dir": world.paths.locks, "cache_dir": world.packages}
        other = choose_again(engine, world.settings.engine, world.engine_environ, **places)
        if other is None:
            raise
    delete_tree(request.prefix)
    return _build_by(*other, request, world, progress, hold)


def _build_by(
    engine: Engine, reason: str, request: EngineRequest, world: World, progress: Progress, hold: Hold
) -> Marker:
    if world.settings.verbosity == "verbose":  # otherwise it is not shown, and asking may be slow
        progress.note(f"Engine: {engine.name} {engine.version}: {reason}")
    started = time.monotonic()
    pypi = None
    if request.exact_pypi or request.asked_pypi:
        from cetool.engines.pypi.install import Installing  # 60 ms that few environments need

        pypi = Installing()
    packages, size = build_environment(engine, request, progress, hold, pypi)
    maker = (engine.name, engine.version)
    return marker_of(request, maker, world, started, packages=packages, size=size)


def marker_of(
    request: EngineRequest, maker: tuple[str, str], world: World, started: float, *, packages: int, size: int
) -> Marker:
    """Return the marker of a new environment, made by an engine of this name and version.

    ``started`` is in seconds of the monotonic clock, ``size`` in bytes.
    """
    return Marker(
        name=request.spec.name,
        prefix=str(request.prefix),
        subdir=world.platform,
        spec=request.spec,
        engine=maker[0],
        engine_version=maker[1],
        created=time.time(),
        seconds=round(time.monotonic() - started, 3),
        packages=packages,
        size=size,
        cetool=__version__,
    )


def _created(requirements: Requirements, marker: Marker) -> str:
    names = list(dict.fromkeys((*map(spec_name, requirements.packages), *map(_requirement_name, requirements.pypi))))
    told = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    count = counted(marker.packages, "package")
    what = f"{told}; {count}" if told else count
    by = f"with {marker.engine}" if marker.origin is None else f"from {marker.origin.server.partition('://')[2]}"
    return f"Created {marker.name} ({what}, {format_size(marker.size)}) in {marker.seconds:.1f}s {by}"


def _requirement_name(requirement: str) -> str:
    """Return the distribution's name at the start of a PEP 508 requirement."""
    return re.split(r"[\s\[;@<>=!~(]", requirement, maxsplit=1)[0]

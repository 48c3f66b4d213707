"""The two steps of a server's build: solve and fetch with the network, then link without it.

:mod:`cetool.app.build` runs each in a process of its own. They report by calling a function with events (JSON objects).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cetool.app.build_apart import public_environ, resolver_apart, uv_cache, walls_around
from cetool.app.consent import OWN
from cetool.app.making import Making, marker_of
from cetool.app.world import World, prepare
from cetool.base.codec import encode
from cetool.base.confining import Walls, guard_writes
from cetool.base.durations import format_size
from cetool.base.errors import EngineError
from cetool.base.urls import scrub
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec, Exact
from cetool.declare.package import Package, PypiPackage
from cetool.engines.build import build_environment
from cetool.engines.lock_solve import solve_locks
from cetool.engines.protocol import EngineRequest, Hold
from cetool.engines.pypi.lock import PypiSolver
from cetool.engines.rattler.engine import RattlerEngine
from cetool.lock.model import PlatformLock
from cetool.packages.cache import embedded_cache
from cetool.settings.condarc import load_condarc
from cetool.store.making import Settling, ensure
from cetool.store.store import Marker

#: Receives an event.
Tell = Callable[..., None]
#: The least seconds between two reports of the same progress.
_PAUSE = 0.1


class Limits(Value):
    """What a build may use."""

    #: Bytes of memory of all its processes.
    memory: int = 4 << 30
    processes: int = 512
    #: Seconds in total, and without progress.
    seconds: float = 3600.0
    stall: float = 600.0
    #: Bytes that a program started by the build may print.
    output: int = 64 << 20
    #: Bytes on disk of the environment.
    size: int = 50 << 30
    #: Bytes that must stay free on the disk.
    free: int = 100 << 20


class Packages(Value):
    """Exact packages, with all their fields."""

    conda: tuple[Package, ...] = ()
    pypi: tuple[PypiPackage, ...] = ()


class Wish(Value):
    """What to solve for one platform."""

    platform: str
    #: The digest of the specification.
    request: str
    spec: EnvironmentSpec
    #: The packages that are kept if possible.
    before: Packages | None = None
    #: The packages of a lock: then nothing is solved.
    exact: Packages | None = None


class BuildRequest(Value):
    """A build: what the server writes to the standard input of :mod:`cetool.app.build`."""

    build: int
    platforms: tuple[Wish, ...]
    #: The server's data directory: environments, the package cache and archives are below it.
    data: Path
    attempt: int = 1
    #: The platform whose environment is created; None to lock only.
    realize: str | None = None
    limits: Limits = Limits()
    #: Whether link scripts are confined, if this machine can do that.
    confined: bool = True
    #: Settings of cetool by key.
    settings: Mapping[str, Any] = MappingProxyType({})

    @property
    def scratch(self) -> Path:
        """The directory for temporary files of this attempt."""
        return self.data / "scratch" / f"{self.build}-{self.attempt}"

    @property
    def archives(self) -> Path:
        """Where archives of packages are kept, by digest."""
        return self.data / "blobs"


class Telling:
    """The progress of an engine as events, at most ten per second of a kind."""

    def __init__(self, tell: Tell, platform: str) -> None:
        self._tell = tell
        self._platform = platform
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    def stage(self, text: str) -> None:
        """Report a stage."""
        self._tell("stage", text=scrub(text), platform=self._platform)

    def packages(self, count: int) -> None:
        """Do nothing: the lock says it."""

    def download(self, done: int, total: int | None) -> None:
        """Report downloaded bytes."""
        self._progress("bytes", done, total)

    def link(self, done: int, total: int) -> None:
        """Report linked packages."""
        self._progress("packages", done, total)

    def written(self) -> None:
        """Do nothing: the server has no use for it."""

    def note(self, text: str) -> None:
        """Report a sentence."""
        self._tell("note", text=scrub(text))

    def wait(self, holder: str) -> None:
        """Report that another build creates the environment."""
        self.stage("Waiting for another build of the same packages")

    def _progress(self, unit: str, done: int, total: int | None) -> None:
        with self._lock:
            now = time.monotonic()
            if done != total and now - self._last.get(unit, 0.0) < _PAUSE:
                return
            self._last[unit] = now
        self._tell("progress", done=done, total=total, unit=unit)


# --- with the network -------------------------------------------------------------------------------------------------


def solve_and_fetch(request: BuildRequest, world: World, tell: Tell, *, confined: bool) -> None:
    """Solve for each platform, and fetch the packages of the environment to create, unless it exists.

    ``confined`` says whether builds of PyPI packages, which can be necessary to know their requirements, are confined.
    Reports ``lock`` for each platform, and ``realized`` for an environment that exists. Raises EngineError.
    """
    prepare(world.paths)
    progress = Telling(tell, request.realize or request.platforms[0].platform)
    locks = _locks(request, world, progress, confined)
    engine = f"rattler {RattlerEngine({}, Path()).version}"
    for locked in locks:
        tell("lock", platform=locked.platform, lock=_as_json(locked, engine))
    for wish, locked in zip(request.platforms, locks, strict=True):
        _check_solution(wish, locked)
        if wish.platform == request.realize:
            _fetch(request, wish.spec.exactly(locked.conda, locked.pypi), world, progress, tell)


def _locks(request: BuildRequest, world: World, progress: Telling, confined: bool) -> list[PlatformLock]:
    """Return the exact packages for each platform; those that are not known are solved at the same time."""
    known: dict[str, PlatformLock] = {}
    asked = []
    for wish in request.platforms:
        what = wish.exact or wish.spec.what
        if isinstance(what, (Exact, Packages)):
            known[wish.platform] = PlatformLock(wish.platform, what.conda, what.pypi)
            continue
        before = None if wish.before is None else PlatformLock(wish.platform, wish.before.conda, wish.before.pypi)
        wanted = world.request(wish.spec, log=request.scratch / "solve.log")
        asked.append((wanted._replace(platform=wish.platform), before))
    resolve = resolver_apart(world, request.scratch) if confined else PypiSolver.solve
    # a client that installs with uv needs no pip
    with_pip = all(before is None or any(each.name == "pip" for each in before.conda) for _, before in asked)
    hold = Hold(OWN, own_process=True)
    solved = solve_locks(asked, progress, hold, with_pip=with_pip, resolve=resolve) if asked else []
    known |= {locked.platform: locked for locked in solved}
    return [known[wish.platform] for wish in request.platforms]


def _check_solution(wish: Wish, locked: PlatformLock) -> None:
    """Raise EngineError unless the solve has exactly the packages that a client's solution has."""
    if wish.before is None:
        return
    theirs = {*map(_identity, wish.before.conda), *map(_identity, wish.before.pypi)}
    ours = {*map(_identity, locked.conda), *map(_identity, locked.pypi)}
    differing = sorted({name for name, *_ in theirs ^ ours})
    if differing:
        raise EngineError(
            f"the uploaded solution differs from this server's in {', '.join(differing[:5])}"
            + (f" and {len(differing) - 5} more packages" if len(differing) > 5 else ""),
            code="solution-refused",
            about=differing[0],
            hint="The channels have changed meanwhile, or the client uses others. Ask the server to build.",
        )


def _identity(package: Package | PypiPackage) -> tuple[str, ...]:
    """Return what two packages have in common if they are the same, from whatever URL."""
    if isinstance(package, PypiPackage):
        return package.name, package.version, package.sha256 or package.url
    digest = package.digest
    return package.name, package.version, package.build, package.subdir, package.url if digest is None else digest[1]


def _as_json(locked: PlatformLock, engine: str) -> dict[str, Any]:
    return {**encode(Packages(locked.conda, locked.pypi)), "engine": engine}


def _fetch(request: BuildRequest, exact: EnvironmentSpec, world: World, progress: Telling, tell: Tell) -> None:
    lease = world.store.lease(exact.name)
    if lease is not None:
        with lease:
            tell("realized", name=exact.name, size=lease.marker.size, packages=lease.marker.packages, created=False)
        return
    asked = world.request(exact, log=request.scratch / "fetch.log")._replace(archives=request.archives)
    if asked.exact_pypi:
        from cetool.engines.pypi.wheels import fetch_wheels  # few environments have PyPI packages

        wheels, timeout = request.scratch / "wheels", world.settings.stall_timeout
        fetch_wheels(asked.exact_pypi, request.archives, wheels, progress, timeout=min(timeout, 60.0))
    if asked.exact:
        RattlerEngine(asked.environ, world.packages).fetch(asked, progress, Hold(OWN, own_process=True))


# --- without the network ----------------------------------------------------------------------------------------------


class LinkPlan(Value):
    """What the second step needs: everything that it cannot look up when it is confined."""

    exact: EnvironmentSpec
    world: World
    #: The embedded engine's directory for packages and metadata.
    cache: Path
    scratch: Path

    @property
    def changed(self) -> list[Path]:
        """The directories that linking changes, in addition to the environment."""
        paths = self.world.paths
        found = [self.cache, paths.locks, paths.trash, self.scratch, Path("/dev")]
        return found if paths.root.is_relative_to("/tmp") else [*found, Path("/tmp")]

    @property
    def walls(self) -> Walls:
        """What link scripts see of this machine, and what they may change of it at most."""
        return walls_around(self.world, self.cache, network=self.needs_network)

    @property
    def needs_network(self) -> bool:
        """Whether PyPI packages are built from source, which fetches what their builds require."""
        what = self.exact.what
        return isinstance(what, Exact) and any(package.is_built for package in what.pypi)


def link_plan(request: BuildRequest, exact: EnvironmentSpec, world: World) -> LinkPlan:
    """Return the plan for the second step."""
    condarc = load_condarc(world.engine_environ, mamba=True)
    cache = embedded_cache(condarc, world.engine_environ, world.packages)
    return LinkPlan(exact, world, cache, request.scratch)


def link(plan: LinkPlan, tell: Tell, platform: str) -> None:
    """Create the environment from fetched packages, and report ``realized``. Raises EngineError and StoreError."""
    progress = Telling(tell, platform)
    if plan.needs_network:
        tell("note", text="Packages are built from source, so the network is available while linking")
    environ = public_environ(os.environ, plan.scratch, network=plan.needs_network)
    environ |= {"UV_CACHE_DIR": str(uv_cache(plan.world.paths.root))}
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(plan.scratch)

    def build(prefix: Path, log: Path, descriptors: tuple[int, ...], settling: Settling) -> Marker:
        prefix.mkdir()
        with contextlib.suppress(OSError):  # not supported by this kernel: an additional wall
            guard_writes([prefix, *plan.changed])
        request = plan.world.request(plan.exact, prefix, plan.scratch / "link.log")
        request = request._replace(environ=environ, cache=plan.cache, offline=not plan.needs_network)
        request = request._replace(given=plan.scratch / "wheels", apart=True)
        return _built(request, plan, Making(progress, settling), Hold(OWN, descriptors, True))

    lease = ensure(plan.world.store, plan.exact, build, on_wait=progress.wait, purpose="for a build")
    with lease:
        marker = lease.marker
        tell("realized", name=plan.exact.name, size=marker.size, packages=marker.packages, created=lease.created)


def _built(request: EngineRequest, plan: LinkPlan, progress: Making, hold: Hold) -> Marker:
    started = time.monotonic()
    engine = RattlerEngine(request.environ, plan.cache)
    pypi = None
    if request.exact_pypi:
        from cetool.engines.pypi.install import Installing  # 60 ms that few environments need

        pypi = Installing()
    packages, size = build_environment(engine, request, progress, hold, pypi)
    made = (engine.name, engine.version)
    marker = marker_of(request, made, plan.world, started, packages=packages, size=size)
    return marker._replace(name=plan.exact.name, spec=plan.exact)


def check_size(size: int, limits: Limits) -> None:
    """Raise EngineError for an environment that is larger than allowed."""
    if size > limits.size:
        raise EngineError(
            f"the environment takes {format_size(size)}, more than the limit of {format_size(limits.size)}",
            code="build-limit-exceeded",
            hint="Request fewer packages, or ask the server's operator for a higher limit.",
        )

"""What a program gets from ``import cetool``: read a script, specify its environment, have it made, resolve a lock.

Nothing here prints, asks, forks without exec, or changes the process: settings are read for each call, and locks are
held by the values that are returned. All functions may be called from several threads at once. A program that calls
them agrees to what they execute: link scripts of packages, builds of PyPI packages.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from cetool.app.consent import OWN
from cetool.app.deciding import canonical_requirements, decide
from cetool.app.deciding import specify as specify_requirements
from cetool.app.decision import Decision, Wish
from cetool.app.ensuring import activation_of, note_use_of
from cetool.app.ensuring import ensure as ensure_decision
from cetool.app.reporting import CreationProgress, SilentReporter
from cetool.app.sources import open_source
from cetool.app.world import World, load_world
from cetool.base.errors import LockError, UsageError
from cetool.declare.environment import EnvironmentSpec, Exact, Overlay
from cetool.declare.metadata import ScriptMetadata, read_metadata
from cetool.declare.package import Package, PypiPackage
from cetool.declare.requirements import Requirements
from cetool.declare.source import is_url, read_script
from cetool.engines.protocol import Progress, SilentProgress
from cetool.launch.activation import activated_environ
from cetool.launch.process import Command, command_line, find_program
from cetool.lock.model import Lock, PlatformLock
from cetool.store.store import Lease

Settings = Mapping[str, object]


def read(path: str | os.PathLike[str]) -> ScriptMetadata:
    """Read what a script or a notebook declares.

    Raises ScriptNotFoundError or ScriptNotReadableError where there is no such file, MetadataError, with file and
    line, where it declares nothing or what it declares is wrong, and UsageError for a URL.
    """
    name = os.fspath(path)
    if is_url(name):
        raise UsageError(f"{name} is a URL", hint="Download the script, and give read() the path of the file.")
    return read_metadata(read_script(name))


def specify(
    what: ScriptMetadata | Requirements | Iterable[str],
    *,
    channels: Sequence[str] | None = None,
    exclude_newer: str | None = None,
    settings: Settings | None = None,
) -> EnvironmentSpec:
    """Say which environment a script, requirements, or match specs ask for on this machine.

    A script that has a lock gets the environment that the lock names, as with ``cetool run``; its file is read again.
    ``channels`` count instead of those declared; ``exclude_newer`` is a day or a moment (RFC 3339) as of which it is
    solved; ``settings`` are keys and values as in docs/reference/configuration.md. Raises CetoolError.
    """
    given = {**(settings or {}), **({} if channels is None else {"channels": tuple(channels)})}
    world = load_world(given)
    if isinstance(what, ScriptMetadata):
        source, world = open_source(what.path, world, SilentReporter())
        return decide(source, Wish(exclude_newer=exclude_newer), world, SilentReporter()).spec
    needs = what if isinstance(what, Requirements) else canonical_requirements(tuple(what))
    return specify_requirements(needs, world, exclude_newer=exclude_newer)[0]


class Environment:
    """An environment that is there, and held in use: it is not removed before :meth:`release`, or the ``with`` block's
    end. Programs that :meth:`run` has started hold it, too, until they end.
    """

    def __init__(self, lease: Lease, world: World) -> None:
        self._lease = lease
        self._world = world
        self._activation = activation_of(lease, world)
        environ, steps = activated_environ(self._activation, dict(world.environ))
        self._environ, self._steps = environ, steps

    @property
    def spec(self) -> EnvironmentSpec:
        """What it was made from."""
        return self._lease.marker.spec

    @property
    def name(self) -> str:
        """The first 20 hex digits of the specification's digest."""
        return self._lease.marker.name

    @property
    def prefix(self) -> Path:
        """The absolute path of the environment."""
        return self._lease.prefix

    @property
    def created(self) -> bool:
        """Whether it was made by this call."""
        return self._lease.created

    @property
    def packages(self) -> tuple[Package | PypiPackage, ...]:
        """The packages in it: conda's in topological order, then those from PyPI by name. Raises StoreError."""
        from cetool.lock.records import read_installed  # for programs that ask

        lock = read_installed(self.prefix, self._lease.marker.subdir).lock
        return (*lock.conda, *lock.pypi)

    @property
    def environ(self) -> dict[str, str]:
        """The variables of a process in the activated environment, but for those that activation scripts set."""
        return dict(self._environ)

    def command(self, argv: Sequence[str]) -> list[str]:
        """The words that start a program of the environment, with its activation scripts where it has some.

        Start them with the variables of :attr:`environ`. Raises ProgramNotFoundError.
        """
        if not argv:
            raise UsageError("no program was given")
        within = None if os.path.isabs(argv[0]) else self._lease.prefixes
        program = find_program(argv[0], self._environ, within)
        return command_line(Command(program, (program, *argv[1:]), self._environ, self._steps))

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program of the activated environment and wait for it.

        ``env`` are variables that are set in addition; ``options`` are those of :func:`subprocess.run`. Raises
        ProgramNotFoundError, and what :func:`subprocess.run` raises.
        """
        environ = {**self._environ, **(env or {})}
        if os.name != "nt":
            options["pass_fds"] = (*options.get("pass_fds", ()), *(lock.fd for lock in self._lease.locks))
        return subprocess.run(self.command(argv), env=environ, **options)

    def release(self) -> None:
        """Stop using it; done twice it does nothing."""
        self._lease.release()

    def __enter__(self) -> Environment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"Environment({str(self.prefix)!r})"


class _Reporter(SilentReporter):
    """A reporter that hands on the progress to the program that asked for it."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = _Waiting(progress or SilentProgress())

    def progress(self) -> nullcontext[CreationProgress]:
        return nullcontext(self._progress)


class _Waiting:
    """A program's progress, which is told of a wait for another process as of a stage."""

    def __init__(self, progress: Progress) -> None:
        self._given = progress

    def __getattr__(self, name: str) -> Any:
        # a program need not listen to everything
        return getattr(self._given, name, lambda *_: None)

    def wait(self, holder: str) -> None:
        """Another process makes the environment."""
        self._given.stage(f"Waiting for {holder or 'another cetool'}")


def ensure(
    spec: EnvironmentSpec,
    *,
    progress: Progress | None = None,
    refresh: bool = False,
    settings: Settings | None = None,
) -> Environment:
    """Have an environment, made if it is missing, and hold it in use.

    It is created once: other threads and processes that ask for the same wait, and share it. ``progress`` is told how
    far it is, from any thread; ``refresh`` makes it again. Raises EngineError or StoreError where it cannot be made.
    """
    world = load_world(settings)
    reporter = _Reporter(progress)
    metadata = ScriptMetadata("library", "", None, Requirements(), None)
    decision = Decision(metadata, spec, purpose="for a program")
    lease = ensure_decision(decision, world, reporter, refresh=refresh)
    try:
        note_use_of(lease, "", world, reporter)
        return Environment(lease, world)
    except BaseException:
        lease.release()
        raise


def resolve(
    what: EnvironmentSpec | ScriptMetadata,
    *,
    platforms: Sequence[str] | None = None,
    exclude_newer: str | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Lock:
    """Find out which packages an environment has, exactly, on each of the platforms (None: this one's).

    What a script declares is read for each platform; a specification is the same for all. ``exclude_newer`` is a day
    or a moment as of which a script is solved; a specification has its own. Raises EngineError where a
    platform has no such environment, LockError where the packages are those of a lock for another platform.
    """
    from cetool.engines.lock_solve import solve_lock  # the embedded engine: only for what is resolved
    from cetool.engines.protocol import Hold

    world = load_world(settings)
    found: list[PlatformLock] = []
    channels: dict[str, None] = {}
    for platform in sorted(set(platforms or (world.platform,))):
        spec, request = _request(what, platform, world, exclude_newer)
        channels |= dict.fromkeys(spec.redacted().channels)
        if isinstance(spec.what, Exact):
            found.append(_exactly(spec.what, platform, world))
        else:
            asked = world.request(spec)._replace(platform=platform)
            locked = solve_lock(asked, None, progress or SilentProgress(), Hold(OWN))
            found.append(locked._replace(request=request))
    return Lock(tuple(found), tuple(channels))


def _request(
    what: EnvironmentSpec | ScriptMetadata, platform: str, world: World, exclude_newer: str | None
) -> tuple[EnvironmentSpec, str | None]:
    """The specification for a platform, and the digest of what it was asked for by."""
    if isinstance(what, ScriptMetadata):
        needs = read_metadata(read_script(what.path), platform).requirements
        spec, request = specify_requirements(needs, world, exclude_newer=exclude_newer)[0], needs.digest
    else:
        spec, request = what, None
    if isinstance(spec.what, Overlay):
        raise UsageError("what lies over another environment cannot be locked", code="lock-impossible")
    return spec, request


def _exactly(what: Exact, platform: str, world: World) -> PlatformLock:
    """The lock that a specification was made from."""
    if platform != world.platform:
        raise LockError(
            f"the specification names packages for {world.platform}, not for {platform}",
            code="lock-platform-missing",
            hint="Resolve the script itself.",
        )
    return PlatformLock(platform, what.conda, what.pypi)

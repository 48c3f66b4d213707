"""The library, ``import cetool``: read a script, specify and make its environment, resolve a lock.

Nothing here prints, asks, forks without exec, or changes the process: settings are read for each call, and the returned
values hold the locks. All functions can be called from several threads at once. A program that calls them consents to
what they execute: link scripts of packages, builds of PyPI packages.
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

    Raises ScriptNotFoundError or ScriptNotReadableError if there is no such file, MetadataError, with file and line, if
    it declares nothing or its declaration is wrong, and UsageError for a URL.
    """
    name = os.fspath(path)
    if is_url(name):
        raise UsageError(f"{name} is a URL", hint="Download the script, and pass the file's path to read().")
    return read_metadata(read_script(name))


def specify(
    what: ScriptMetadata | Requirements | Iterable[str],
    *,
    channels: Sequence[str] | None = None,
    exclude_newer: str | None = None,
    settings: Settings | None = None,
) -> EnvironmentSpec:
    """Return the specification of a script's environment, of requirements, or of match specs on this machine.

    If a script has a lock, the environment is the lock's, as with ``cetool run``; the script's file is read again.
    ``channels`` replace the declared ones; ``exclude_newer`` is a date, a time (RFC 3339) or a span (``7d``), and the
    solve ignores newer packages; ``settings`` are keys and values as in docs/reference/configuration.md.
    Raises CetoolError.
    """
    given = {**(settings or {}), **({} if channels is None else {"channels": tuple(channels)})}
    world = load_world(given)
    if isinstance(what, ScriptMetadata):
        source, world = open_source(what.path, world, SilentReporter())
        return decide(source, Wish(exclude_newer=exclude_newer), world, SilentReporter()).spec
    needs = what if isinstance(what, Requirements) else canonical_requirements(tuple(what))
    return specify_requirements(needs, world, exclude_newer=exclude_newer)[0]


class Environment:
    """An existing environment, held in use until :meth:`release` or the end of the ``with`` block.

    Programs that :meth:`run` has started also hold it, until they end.
    """

    def __init__(self, lease: Lease, world: World) -> None:
        self._lease = lease
        self._world = world
        self._activation = activation_of(lease, world)
        environ, steps = activated_environ(self._activation, dict(world.environ))
        self._environ, self._steps = environ, steps

    @property
    def spec(self) -> EnvironmentSpec:
        """The specification from which it was made."""
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
        """Whether this call made it."""
        return self._lease.created

    @property
    def packages(self) -> tuple[Package | PypiPackage, ...]:
        """Its packages: conda's in topological order, then PyPI's sorted by name. Raises StoreError."""
        from cetool.lock.records import read_installed  # few programs need it

        lock = read_installed(self.prefix, self._lease.marker.subdir).lock
        return (*lock.conda, *lock.pypi)

    @property
    def environ(self) -> dict[str, str]:
        """The variables of a process in the activated environment, without those that activation scripts set."""
        return dict(self._environ)

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the words that start a program of the environment, after its activation scripts if it has any.

        Start them with the variables in :attr:`environ`. Raises ProgramNotFoundError.
        """
        if not argv:
            raise UsageError("argv is empty: no program to run")
        within = None if os.path.isabs(argv[0]) else self._lease.prefixes
        program = find_program(argv[0], self._environ, within)
        return command_line(Command(program, (program, *argv[1:]), self._environ, self._steps))

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program in the activated environment and wait for it.

        ``env`` are additional variables; ``options`` are those of :func:`subprocess.run`. Raises ProgramNotFoundError,
        and what :func:`subprocess.run` raises.
        """
        environ = {**self._environ, **(env or {})}
        if os.name != "nt":
            options["pass_fds"] = (*options.get("pass_fds", ()), *(lock.fd for lock in self._lease.locks))
        return subprocess.run(self.command(argv), env=environ, **options)

    def release(self) -> None:
        """Stop using it; calling this again does nothing."""
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
    """A reporter that passes the progress on to the calling program."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = _Waiting(progress or SilentProgress())

    def progress(self) -> nullcontext[CreationProgress]:
        return nullcontext(self._progress)


class _Waiting:
    """A program's progress, for which waiting for another process is a stage."""

    def __init__(self, progress: Progress) -> None:
        self._given = progress

    def __getattr__(self, name: str) -> Any:
        # a program may handle only some of the events
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
    """Return an environment, held in use; make it if it is missing.

    It is made once: other threads and processes that request it wait, and share it. ``progress`` is called from any
    thread; ``refresh`` makes the environment again. Raises EngineError or StoreError if it cannot be made.
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
    """Return the exact packages of an environment on each of the platforms (None: this one's).

    A script's declaration is read for each platform; a specification is the same for all. ``exclude_newer`` is a date,
    a time or a span, and the solve of a script ignores newer packages; a specification has its own. Raises EngineError
    if the environment is not possible on a platform, LockError if the packages come from a lock for another platform.
    """
    from cetool.engines.lock_solve import solve_locks  # the embedded engine: only to resolve
    from cetool.engines.protocol import Hold

    world = load_world(settings)
    found: dict[str, PlatformLock] = {}
    wanted, requests = [], []
    channels: dict[str, None] = {}
    for platform in sorted(set(platforms or (world.platform,))):
        spec, request = _request(what, platform, world, exclude_newer)
        channels |= dict.fromkeys(spec.redacted().channels)
        if isinstance(spec.what, Exact):
            found[platform] = _exactly(spec.what, platform, world)
        else:
            wanted.append((world.request(spec)._replace(platform=platform), None))
            requests.append(request)
    solved = solve_locks(wanted, progress or SilentProgress(), Hold(OWN))
    for locked, request in zip(solved, requests, strict=True):
        found[locked.platform] = locked._replace(request=request)
    return Lock(tuple(found[platform] for platform in sorted(found)), tuple(channels))


def _request(
    what: EnvironmentSpec | ScriptMetadata, platform: str, world: World, exclude_newer: str | None
) -> tuple[EnvironmentSpec, str | None]:
    """Return the specification for a platform, and the digest of the requirements that it came from."""
    if isinstance(what, ScriptMetadata):
        needs = read_metadata(read_script(what.path), platform).requirements
        spec, request = specify_requirements(needs, world, exclude_newer=exclude_newer)[0], needs.digest
    else:
        spec, request = what, None
    if isinstance(spec.what, Overlay):
        raise UsageError("an overlay cannot be locked", code="lock-impossible")
    return spec, request


def _exactly(what: Exact, platform: str, world: World) -> PlatformLock:
    """Return the lock from which a specification was made."""
    if platform != world.platform:
        raise LockError(
            f"the specification has exact packages for {world.platform}, not for {platform}",
            code="lock-platform-missing",
            hint="Pass the script's metadata to resolve() instead.",
        )
    return PlatformLock(platform, what.conda, what.pypi)

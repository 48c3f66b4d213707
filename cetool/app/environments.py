"""Create environments from match specs and files; name, list and remove environments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.app.deciding import canonical_requirements, decide, decide_requirements
from cetool.app.decision import NO_BASELINES, BaselineOptions, Decision, Wish
from cetool.app.ensuring import ensure, note_used, store_of
from cetool.app.locked import warn_of_missing_digests
from cetool.app.names import shortest_names
from cetool.app.reporting import Reporter, counting, for_each, named_or_counted
from cetool.app.sources import open_source
from cetool.app.targets import find_directories
from cetool.app.world import World, prepare
from cetool.base.durations import format_size
from cetool.base.errors import CetoolError, LockError, StoreError, UsageError
from cetool.base.limits import LOCK, read_regular
from cetool.base.process import processes_in
from cetool.base.text import counted, printable
from cetool.declare.dialects.environment_yml import read_environment_file
from cetool.declare.environment import EnvironmentSpec, Exact
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.requirements import Requirements
from cetool.declare.source import is_url
from cetool.engines.registration import forget_registration
from cetool.lock.find import open_lock
from cetool.store.disk import Freed
from cetool.store.making import remove as discard_directory
from cetool.store.store import Directory, Marker, Store
from cetool.store.usage import Row, open_usage_log

_EXPLICIT = re.compile(rb"^[ \t]*@EXPLICIT[ \t]*\r?$", re.MULTILINE)
#: A single word with one of these suffixes was probably meant as a script.
_LIKE_SCRIPTS = (".py", ".sh", ".R", ".jl", ".js", ".rb", ".pl")


# --- create -----------------------------------------------------------------------------------------------------------


def create(decision: Decision, world: World, reporter: Reporter, *, refresh: bool) -> Path:
    """Create the environment if it is missing, note the use, and return its prefix."""
    for warning in decision.requirements.warnings:
        reporter.warn(str(warning))
    lease = ensure(decision, world, reporter, refresh=refresh)
    note_used(lease, "", world, reporter)
    lease.release()
    return lease.prefix


def decide_specs(specs: Sequence[str], files: Sequence[Path], wish: Wish, world: World, reporter: Reporter) -> Decision:
    """Decide which environment match specs and files ask for, with the baselines and the date of the wish."""
    purpose, on = "to create it", wish.baselines
    exact = _explicit_spec(files, bool(specs or on.named or on.without), wish, world, reporter)
    if exact is not None:
        return Decision(ScriptMetadata("create", "", None, Requirements(), None), exact, purpose=purpose)
    metadata = ScriptMetadata("create", "", None, requirements_of(specs, files, on), None)
    return decide_requirements(metadata, wish, world, reporter, purpose=purpose)


def requirements_of(specs: Sequence[str], files: Iterable[Path], on: BaselineOptions = NO_BASELINES) -> Requirements:
    """Return what match specs, files and baselines ask for together. Raises UsageError if they ask for nothing."""
    requirements = canonical_requirements(specs)
    for path in files:
        more = read_environment_file(path)
        if requirements.channels is not None and more.channels is not None:  # conda takes those of all files
            both = tuple(dict.fromkeys((*requirements.channels, *more.channels)))
            more = more._replace(channels=both, configured=requirements.configured and more.configured)
        requirements = requirements.plus(more)
    if on.named or on.without:
        from cetool.app.on_baselines import with_baselines  # few environments start from a baseline

        requirements = with_baselines(requirements, on)
    nothing = not requirements.packages and not requirements.pypi and not requirements.baselines
    if nothing and not requirements.variables:
        raise UsageError("no packages were given", hint="Give match specs, or --file with a file of them.")
    return requirements


def is_explicit(path: Path) -> bool:
    """Return whether a file has a line with nothing but ``@EXPLICIT``; False for a file that cannot be read."""
    try:
        return _EXPLICIT.search(read_regular(path, LOCK)) is not None
    except (OSError, ValueError):
        return False


def _explicit_spec(
    files: Sequence[Path], others: bool, wish: Wish, world: World, reporter: Reporter
) -> EnvironmentSpec | None:
    """Return the request for exactly the packages of an ``@EXPLICIT`` file (CEP 23); None if there is no such file.

    ``others`` says whether something else is asked for as well. Raises UsageError where the file does not stand alone,
    and CetoolError for what it may not say.
    """
    found = next((path for path in files if is_explicit(path)), None)
    if found is None:
        return None
    name = printable(str(found))
    if others or len(files) > 1:
        raise UsageError(
            f"{name} names all packages of an environment (@EXPLICIT), so nothing can be added to it",
            hint="Give it alone; --baseline FILE starts from such a list and adds to it.",
        )
    if wish.exclude_newer is not None:
        raise UsageError(f"{name} names its packages exactly (@EXPLICIT): --exclude-newer does not change them")
    lock = open_lock(found, platform=world.platform)
    locked = lock.lock.platform(world.platform)
    if locked is None:
        there = ", ".join(each.platform for each in lock.lock.platforms)
        raise LockError(f"{name} is for {there}, and this machine is {world.platform}", code="lock-platform-missing")
    if not locked.conda:
        raise UsageError(f"{name} names no packages", hint="Write the URL of a package file a line, below @EXPLICIT.")
    warn_of_missing_digests(lock, world, reporter)
    return EnvironmentSpec(Exact(locked.conda))


# --- name -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where an environment is, or would be created."""

    name: str
    prefix: Path
    exists: bool


def place_of(spec: EnvironmentSpec, world: World) -> Place:
    """Return where the environment of a spec is, or would be created."""
    store = store_of(spec, world)
    exists = any(directory.marker is not None for directory in store.directories(spec.name))
    return Place(spec.name, store.prefix(spec.name), exists)


def find_place(words: Sequence[str], files: Sequence[Path], wish: Wish, world: World, reporter: Reporter) -> Place:
    """Return where the environment of a script, or of match specs and files, is or would be created."""
    if len(words) == 1 and not files and is_script(words[0]):
        source, world = open_source(words[0], world, reporter, insecure=wish.baselines.insecure)
        return place_of(decide(source, wish, world, reporter).spec, world)
    if wish.lock.file is not None:
        raise UsageError("--lock-file is for the environment of a script", hint="cetool name --lock-file FILE SCRIPT")
    spec = decide_specs(words, files, wish, world, reporter).spec
    if len(words) == 1 and words[0].endswith(_LIKE_SCRIPTS):  # the package discord.py is one
        reporter.warn(f"there is no file {words[0]!r}, so it was taken for a package")
    return place_of(spec, world)


def is_script(word: str) -> bool:
    """Return whether a single word means a script rather than a match spec."""
    if word.partition("#")[0].endswith((".conda", ".tar.bz2")):
        return False
    if word == "-" or is_url(word) or Path(word).is_file():
        return True
    return os.sep in word and "::" not in word and "[" not in word


# --- list -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listed:
    """An environment, and what the usage log knows of it."""

    prefix: Path
    marker: Marker
    #: The beginning of its name that is enough to mean it; behind it the number of a directory that has one.
    short: str
    #: In seconds since 1970.
    last_used: float
    runs: int
    #: The processes of its runs that have not ended.
    running: tuple[int, ...]
    #: Other processes whose program is in it, such as daemons.
    daemons: tuple[int, ...]
    #: Whether a process holds its file lock or runs a program of it.
    in_use: bool
    #: The scripts that used it, the last one first, as the runs noted them: a path, or a text such as ``exec ruff``.
    scripts: tuple[str, ...]


def list_environments(world: World, reporter: Reporter) -> list[Listed]:
    """Return the complete environments, the most recently used first."""
    if not world.paths.envs.exists():
        return []
    world.store.check()
    known: dict[str, Row] = {}
    running: dict[str, list[int]] = {}
    scripts: dict[str, list[str]] = {}
    try:
        with open_usage_log(world.paths, world.store, warn=reporter.warn) as usage:
            known, running, scripts = usage.rows(), usage.running(), usage.scripts()
    except StoreError as error:
        if os.access(world.paths.root, os.W_OK):
            raise
        # the environments of a read-only cache can be listed all the same
        reporter.warn(f"{error}; so it is not known when environments were used")
    found = [(each, marker) for each in world.store.directories() if (marker := each.marker) is not None]
    short = shortest_names(each.name for each, _ in found)
    programs = processes_in(each.prefix for each, _ in found)
    listed = []
    for each, marker in found:
        directory = each.prefix.name
        row, pids = known.get(directory), sorted(running.get(directory, []))
        daemons = sorted(set(programs.get(each.prefix, [])) - set(pids))
        listed.append(
            Listed(
                each.prefix,
                marker,
                short[each.name] + directory.removeprefix(each.name),
                marker.created if row is None else row.last_used,
                0 if row is None else row.runs,
                tuple(pids),
                tuple(daemons),
                bool(pids or daemons) or _is_held(each, world.store),
                tuple(scripts.get(directory, [])),
            )
        )
    return sorted(listed, key=lambda each: -each.last_used)


def _is_held(directory: Directory, store: Store) -> bool:
    try:
        return store.in_use(directory)
    except StoreError:  # the lock's file may be unreadable in another user's cache
        return False


# --- remove -----------------------------------------------------------------------------------------------------------


def remove(targets: Sequence[str], world: World, reporter: Reporter, *, insecure: bool) -> None:
    """Remove the environments of names, prefixes and scripts, except those in use. Raises CetoolError."""
    freed = Freed()
    removed: dict[str, int] = {}

    def remove_target(target: str) -> None:
        for store, directory in find_directories(target, world, reporter, insecure=insecure):
            removed[directory.prefix.name] = remove_directory(store, directory, world, reporter, freed)

    try:
        with reporter.progress() as progress:
            progress.stage(f"Removing {counted(len(targets), 'environment')}")
            for_each(counting(targets, "environment", progress), remove_target, reporter)
    finally:
        if removed:
            reporter.say(
                f"Removed {named_or_counted(list(removed), 'environment')} ({format_size(sum(removed.values()))})"
            )


def remove_directory(store: Store, directory: Directory, world: World, reporter: Reporter, freed: Freed) -> int:
    """Remove an environment that nothing runs in, and return the bytes freed. Raises StoreError."""
    prepare(world.paths, store.paths)
    alive = processes_in([directory.prefix])
    lock = None if alive else store.hold_for_removal(directory)
    if lock is None:
        raise StoreError(
            f"the environment {directory.prefix.name} is in use{_by_whom(directory, world, reporter)}",
            about=directory.prefix.name,
            code="environment-in-use",
            hint="Wait until it ends, or end it, and run the command again.",
        )
    with lock:
        size = freed.add(directory.prefix)
        discard_directory(store, directory, lock)
    forget_registration(directory.prefix, world.environ)
    return size


def _by_whom(directory: Directory, world: World, reporter: Reporter) -> str:
    try:
        with open_usage_log(world.paths, world.store, warn=reporter.warn) as usage:
            running = usage.running().get(directory.prefix.name, [])
    except CetoolError:
        return ""
    return f" by process {', '.join(map(str, running))}" if running else ""

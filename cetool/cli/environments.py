"""``cetool create``, ``name``, ``list`` and ``remove``: environments by themselves."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.background import collect_in_background
from cetool.app.baseline_options import NO_BASELINE, BaselineOptions
from cetool.app.execution import RunOptions, note, read_declaration
from cetool.app.explicit_files import explicit_spec
from cetool.app.session import Session, canonical_requirements
from cetool.app.sources import open_source
from cetool.base.durations import format_duration, format_size
from cetool.base.errors import CetoolError, ScriptNotFoundError, StoreError, UsageError
from cetool.base.process import prefixes_in_use
from cetool.cli import options
from cetool.cli.output import print_data, print_json, print_table
from cetool.declare.dialects.environment_yml import read_environment_file
from cetool.declare.environment import NAME_LENGTH, EnvironmentSpec
from cetool.declare.requirements import Requirements
from cetool.declare.source import is_url
from cetool.engines.registration import forget_registration
from cetool.store.disk import Freed
from cetool.store.making import remove as discard_directory
from cetool.store.store import Directory, Store
from cetool.store.usage import Row

LIST_SCHEMA = "cetool.list/1"
NAME_SCHEMA = "cetool.name/1"

_NAME = re.compile(rf"[0-9a-f]{{{NAME_LENGTH}}}(?:-\d{{1,4}})?\Z")

#: A lone word that ends so was most likely meant as a script.
_LIKE_SCRIPTS = (".py", ".sh", ".R", ".jl", ".js", ".rb", ".pl")


@dataclass(frozen=True)
class CreateOptions(options.Output, options.Making, options.Baseline):
    """The options of ``cetool create``."""

    file: options.Files = None
    insecure: options.Insecure = False
    exclude_newer: options.ExcludeNewer = None


@options.command
def create(
    specs: Annotated[list[str] | None, typer.Argument(metavar="SPEC", help="Match specs.")] = None,
    *,
    given: CreateOptions,
) -> None:
    """Make an environment from match specs or files, and print its prefix."""
    session = options.open_session(given)
    on = BaselineOptions.of(given.baseline, given.without, insecure=given.insecure)
    exact = explicit_spec(
        given.file or [], bool(specs or given.baseline or given.without), session, exclude_newer=given.exclude_newer
    )
    requirements = Requirements() if exact else requirements_of(specs or [], given.file or [], on)
    prefix = create_environment(
        requirements, session, refresh=given.refresh, exclude_newer=given.exclude_newer, on=on, exact=exact
    )
    print_data(f"{prefix}\n")


def requirements_of(specs: Sequence[str], files: Iterable[Path], on: BaselineOptions = NO_BASELINE) -> Requirements:
    """What match specs, files and baselines ask for together. Raises UsageError where they ask for nothing."""
    requirements = canonical_requirements(specs)
    for path in files:
        more = read_environment_file(path)
        if requirements.channels is not None and more.channels is not None:  # conda takes those of all files
            both = tuple(dict.fromkeys((*requirements.channels, *more.channels)))
            more = more._replace(channels=both, configured=requirements.configured and more.configured)
        requirements = requirements.plus(more)
    requirements = on.added_to(requirements)
    nothing = not requirements.packages and not requirements.pypi and not requirements.baselines
    if nothing and not requirements.variables:
        raise UsageError("no packages were given", hint="Give match specs, or --file with a file of them.")
    return requirements


def create_environment(
    requirements: Requirements,
    session: Session,
    *,
    refresh: bool,
    exclude_newer: str | None = None,
    on: BaselineOptions = NO_BASELINE,
    exact: EnvironmentSpec | None = None,
) -> Path:
    """Make the environment where it is missing, and return its prefix; that counts as a use.

    ``exact`` is the complete request where a file has it.
    """
    for warning in requirements.warnings:
        session.voice.warn(str(warning))
    spec = exact or _spec_of(requirements, session, exclude_newer, on, refresh=True)
    lease = session.environment(requirements, spec, refresh=refresh, purpose="to create it")
    note(session, lease, "")
    lease.release()
    collect_in_background(session)
    return lease.prefix


def _spec_of(
    requirements: Requirements, session: Session, exclude_newer: str | None, on: BaselineOptions, *, refresh: bool
) -> EnvironmentSpec:
    """The complete request; with ``refresh`` a baseline's server is asked whatever is known of it."""
    spec = session.spec_of(requirements, exclude_newer=exclude_newer)
    if not requirements.baselines:
        return spec
    from cetool.app.baselines import Wish, on_baselines

    return on_baselines(spec, requirements, session, Wish(refresh=refresh, insecure=on.insecure))


@dataclass(frozen=True)
class NameOptions(options.Lock, options.Baseline):
    """The options of ``cetool name``."""

    file: options.Files = None
    channel: options.Channels = None
    insecure: options.Insecure = False
    exclude_newer: options.ExcludeNewer = None
    as_json: options.AsJson = False
    yes: options.Yes = False


@options.command
def name(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPEC|SCRIPT", help="Match specs, or one script.", show_default=False),
    ] = None,
    *,
    given: NameOptions,
) -> None:
    """Print the prefix that an environment has or would have, without making it."""
    session = options.open_session(given)
    words = targets or []
    on = BaselineOptions.of(given.baseline, given.without, insecure=given.insecure)
    if len(words) == 1 and not given.file and _is_script(words[0]):
        how = RunOptions(lock=given.choice, exclude_newer=given.exclude_newer, baselines=on)
        _, spec = read_declaration(open_source(words[0], session, insecure=given.insecure), session, how)
    else:
        if given.lock_file is not None:
            raise UsageError(
                "--lock-file is for the environment of a script", hint="cetool name --lock-file FILE SCRIPT"
            )
        exact = explicit_spec(
            given.file or [], bool(words or given.baseline or given.without), session, exclude_newer=given.exclude_newer
        )
        spec = exact or _spec_of(
            requirements_of(words, given.file or [], on), session, given.exclude_newer, on, refresh=False
        )
        if len(words) == 1 and words[0].endswith(_LIKE_SCRIPTS):  # the package discord.py is one
            session.voice.warn(f"there is no file {words[0]!r}, so it was taken for a package")
    store = session.store_of(spec)
    prefix = store.prefix(spec.name)
    if given.as_json:
        exists = any(True for directory in store.directories(spec.name) if directory.marker is not None)
        print_json({"schema": NAME_SCHEMA, "name": spec.name, "prefix": str(prefix), "exists": exists})
    else:
        print_data(f"{prefix}\n")


def _is_script(word: str) -> bool:
    """Whether a lone word means a script rather than a match spec."""
    if word.partition("#")[0].endswith((".conda", ".tar.bz2")):
        return False
    if word == "-" or is_url(word) or Path(word).is_file():
        return True
    return os.sep in word and "::" not in word and "[" not in word


@dataclass(frozen=True)
class ListOptions(options.Group):
    """The options of ``cetool list``."""

    as_json: options.AsJson = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def list_environments(*, given: ListOptions) -> None:
    """Show the environments that there are."""
    session = options.open_session(given)
    rows = _rows(session)
    if given.as_json:
        print_json({"schema": LIST_SCHEMA, "environments": rows})
        return
    if not rows:
        session.voice.result(f"There are no environments in {session.paths.envs}.")
        return
    now = time.time()
    print_table(
        ("NAME", "SPECS", "SIZE", "PACKAGES", "ENGINE", "LAST USED", "RUNNING"),
        [_cells(row, now) for row in rows],
    )


def _rows(session: Session) -> list[dict[str, object]]:
    """The environments, the most recently used first, as ``list --json`` prints them."""
    if not session.paths.envs.exists():
        return []
    session.store.check()
    known: dict[str, Row] = {}
    running: dict[str, list[int]] = {}
    try:
        with session.usage() as usage:
            known, running = usage.rows(), usage.running()
    except StoreError as error:
        if os.access(session.paths.root, os.W_OK):
            raise
        # in a cache that may only be read the environments are there all the same
        session.voice.warn(f"{error}; so nothing is known of when they were used")
    found = []
    for directory in session.store.directories():
        marker, row = directory.marker, known.get(directory.prefix.name)
        if marker is None:
            continue
        last_used = marker.created if row is None else row.last_used
        found.append((last_used, directory, marker, 0 if row is None else row.runs))
    found.sort(key=lambda item: -item[0])
    return [
        {
            "name": marker.name,
            "prefix": str(directory.prefix),
            **spec_document(marker.spec),
            "size_bytes": marker.size,
            "packages": marker.packages,
            "engine": marker.engine,
            "engine_version": marker.engine_version,
            "created": marker.created,
            "last_used": last_used,
            "runs": runs,
            "running": sorted(running.get(directory.prefix.name, [])),
        }
        for last_used, directory, marker, runs in found
    ]


def spec_document(spec: EnvironmentSpec) -> dict[str, object]:
    """A spec as the JSON outputs have it, credentials taken out."""
    shown = spec.redacted()
    return {
        "channels": list(shown.channels),
        "specs": list(shown.packages),
        "pypi": list(shown.pypi),
        "pypi_settings": shown.pypi_settings.as_dict(),
        "solver_settings": shown.solving.as_dict(),
        "variables": dict(shown.variables),
        "virtual_packages": dict(shown.virtual_packages),
        "locked": shown.is_locked,
        "exclude_newer": shown.exclude_newer,
    }


def _cells(row: dict[str, object], now: float) -> tuple[str, ...]:
    specs, pypi, running, last_used = row["specs"], row["pypi"], row["running"], row["last_used"]
    assert isinstance(specs, list) and isinstance(pypi, list) and isinstance(running, list)
    assert isinstance(last_used, float) and isinstance(row["size_bytes"], int)
    asked = ", ".join([*specs, *(f"{requirement} (PyPI)" for requirement in pypi)])
    return (
        Path(str(row["prefix"])).name,
        (asked or ("(a baseline)" if row["locked"] else "(nothing)"))
        + (" (locked)" if row["locked"] else "")
        + (f" (as of {row['exclude_newer']})" if row["exclude_newer"] else ""),
        format_size(row["size_bytes"]),
        str(row["packages"]),
        str(row["engine"]),
        f"{format_duration(now - last_used)} ago",
        " ".join(map(str, running)) or "-",
    )


@dataclass(frozen=True)
class RemoveOptions(options.Output):
    """The options of ``cetool remove``."""

    insecure: options.Insecure = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def remove(
    targets: Annotated[list[str], typer.Argument(metavar="NAME|PREFIX|SCRIPT", help="The environments to remove.")],
    *,
    given: RemoveOptions,
) -> None:
    """Remove environments, unless something runs in them."""
    session = options.open_session(given)
    failed: list[CetoolError] = []
    freed = Freed()
    for target in targets:
        try:
            for store, directory in targeted(target, session, insecure=given.insecure):
                size = remove_directory(store, directory, session, freed)
                session.voice.result(f"Removed {directory.prefix.name}: freed {format_size(size)}")
        except CetoolError as error:
            failed.append(error)
    for told in failed[:-1]:
        session.voice.warn(str(told))
    if failed:
        raise failed[-1]


def is_environment(target: str, session: Session) -> bool:
    """Whether a word is the name or the prefix of an environment rather than a script."""
    above = os.path.realpath(Path(target).absolute().parent)
    return _NAME.fullmatch(target) is not None or above == os.path.realpath(session.store.paths.envs)


def targeted(target: str, session: Session, *, insecure: bool = False) -> list[tuple[Store, Directory]]:
    """The directories that a name, a prefix or a script means, and the store of each."""
    store = session.store
    path = Path(target).absolute()
    if _NAME.fullmatch(target):
        found = [item for item in store.directories() if target in (item.name, item.prefix.name)]
    elif is_environment(target, session):
        found = [item for item in store.directories() if item.prefix.name == path.name]
    else:
        try:
            _, spec = read_declaration(open_source(target, session, insecure=insecure), session, RunOptions())
        except ScriptNotFoundError:
            raise StoreError(
                f"there is no environment, and no script, called {target!r}",
                about=target,
                code="environment-not-found",
                hint="`cetool list` shows the environments that there are.",
            ) from None
        store = session.store_of(spec)
        found = list(store.directories(spec.name))
    if not found:
        raise StoreError(
            f"there is no environment of {target!r}",
            about=target,
            code="environment-not-found",
            hint="`cetool list` shows those that there are.",
        )
    return [(store, directory) for directory in found]


def remove_directory(store: Store, directory: Directory, session: Session, freed: Freed) -> int:
    """Remove an environment that nothing runs in, and return the bytes freed. Raises StoreError."""
    session.prepare_cache()
    session.prepare(store.paths)
    alive = prefixes_in_use([directory.prefix])
    lock = None if alive else store.hold_for_removal(directory)
    if lock is None:
        raise StoreError(
            f"the environment {directory.prefix.name} is in use{_by_whom(directory, session)}",
            about=directory.prefix.name,
            code="environment-in-use",
            hint="Wait for it to end, or end it, and try again.",
        )
    with lock:
        size = freed.add(directory.prefix)
        discard_directory(store, directory, lock)
    forget_registration(directory.prefix, session.environ)
    return size


def _by_whom(directory: Directory, session: Session) -> str:
    try:
        with session.usage() as usage:
            running = usage.running().get(directory.prefix.name, [])
    except CetoolError:
        return ""
    return f" by process {', '.join(map(str, running))}" if running else ""

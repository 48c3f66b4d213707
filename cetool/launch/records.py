"""Write launch records: what a cold run learned about a script or tool, for :mod:`cetool.warm` to use.

A record is valid while the files that it depends on are unchanged: their states are taken before they are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from cetool import warm
from cetool.base.limits import SETTINGS, read_regular
from cetool.base.text import pattern
from cetool.base.urls import strip_credentials
from cetool.base.values import Value
from cetool.declare.metadata import ScriptMetadata
from cetool.launch.activation import Activation
from cetool.settings.paths import Paths
from cetool.store.store import MARKER, Lease
from cetool.warm import file_state
from cetool.warm.declared import block_in, head_of, write_record

if TYPE_CHECKING:  # few scripts have a cache directory
    from cetool.store.scripts import Held


def states(paths: Iterable[str]) -> dict[bytes, bytes]:
    """Return the :func:`~cetool.warm.file_state` of files and directories, and of YAML files in the directories.

    For a missing path, the highest missing directory stands for everything below it.
    """
    found: dict[bytes, bytes] = {}
    for path in paths:
        at = _highest_missing(os.fsencode(os.path.abspath(path)))
        if at in found:
            continue
        found[at] = file_state(at)
        if os.path.isdir(at):  # writing to a file does not change its directory
            for entry in os.scandir(at):
                if entry.name.endswith((b".yml", b".yaml")):
                    found[entry.path] = file_state(entry.path)
    return found


def _highest_missing(path: bytes) -> bytes:
    while not os.path.lexists(path):
        above = os.path.dirname(path)
        if above == path or os.path.isdir(above):
            break
        path = above
    return path


#: References to variables in conda's configuration and cetool's settings.
_VARIABLE = pattern(rb"\$(?:\{([^}\n]*)\}|(\w+))")
#: Values of PATH that are kept: a shell's, an editor's, cron's, ...
_MOST_PATHS = 4


class Learned(Value):
    """What a cold run learned."""

    #: The command line: the first word is a path, arguments are left out; with ``run_with`` it includes the script's
    #: path.
    argv: tuple[str, ...]
    activation: Activation
    #: The name in the usage log.
    noted: str
    #: What a script declares; None for a tool.
    metadata: ScriptMetadata | None = None
    #: The script's cache directory and its lock, if it was given one: the words of an entrypoint are then complete.
    cache: Held | None = None


class Basis(Value):
    """What the result depended on."""

    #: The script's absolute path, or a tool's :func:`~cetool.warm.tool_key`.
    about: str
    #: The script's state before it was read.
    seen: os.stat_result | None
    #: Seconds since 1970, before anything was read.
    since: float
    #: The :func:`states` of all files that were read, or would have been, taken before.
    configuration: Mapping[bytes, bytes]
    environ: Mapping[str, str]
    #: Whether the result depended on PATH.
    by_path: bool
    #: Whether a collection is started every hour.
    collects: bool
    #: The states of the script's lock files, existing or not.
    locks: Mapping[bytes, bytes] = MappingProxyType({})
    #: Without collections, the file whose age decides when a cold run is due.
    stamp: bytes = b""
    #: The executable that runs the script, if that determines the program.
    caller: bytes = b""


def write_launch_record(learned: Learned, basis: Basis, lease: Lease, paths: Paths) -> None:
    """Write the record, unless something changed meanwhile or this system has no warm path."""
    if not warm.SUPPORTED or lease.lock is None or lease.below is not None:
        return
    try:
        record = _record(learned, basis, lease, paths)
        if record is None:
            return
        directory = os.fsencode(paths.launch)
        os.makedirs(directory, 0o700, exist_ok=True)
        folder = warm.open_own_directory(directory)
        if folder is None:
            return
        os.close(folder)
    except (OSError, ValueError):
        return
    path = directory + b"/" + warm.record_name(record.context).encode()
    if record.paths:
        _join_paths(record, path)
    data = warm.pack_record(record)
    if len(data) <= warm.MOST_BYTES:
        write_record(path, data)


def _record(learned: Learned, basis: Basis, lease: Lease, paths: Paths) -> warm.Record | None:
    """Return the record; None if something has changed since it was read, or could have changed unnoticed."""
    programs = _programs(learned, basis, lease.prefixes) if _is_unchanged(basis) else None
    if programs is None:
        return None
    record = warm.Record()
    record.spool = os.fsencode(paths.spool)
    record.stamp = basis.stamp or (os.fsencode(paths.gc_stamp) if basis.collects and paths.gc_stamp.exists() else b"")
    record.caller = basis.caller
    record.paths = [warm.variable(b"PATH")] if basis.by_path or programs else []
    _add_environment(record, learned, lease)
    _add_script(record, learned, basis)
    if record.marker_state == b"-":
        return None
    # watch only that Python exists: its times change whenever another hard link to it comes or goes
    python = record.prefix + b"/bin/python"
    prefixes = [os.fsencode(prefix) for prefix in lease.prefixes]
    places = [*_way(prefixes, paths), *([python] if os.path.exists(python) else [])]
    record.places = [text for place in places for text in (place, warm.place_state(place))]
    package_records = os.path.dirname(record.marker)
    watched = {package_records: warm.file_state(package_records), **programs, **basis.configuration, **basis.locks}
    if any(os.stat(place).st_mode & 0o1020 == 0o020 for place in places):
        # open to its owner's own group: a new member of the group could change it
        watched.update({path: warm.file_state(path) for path in (b"/etc/passwd", b"/etc/group")})
    record.watched = [text for pair in watched.items() for text in pair]
    record.expected = _expected(basis)
    if basis.seen is not None and warm.script_state(os.stat(basis.about)) != record.script_state:
        return None  # what was read above is not what had been seen
    return None if _has_a_secret(record, basis) else record


def _is_unchanged(basis: Basis) -> bool:
    """Return whether everything that was read is unchanged, and was old enough for a change to show."""
    since = int(basis.since * 1e9)
    if basis.seen is not None and not warm.settled_before(basis.seen, since):
        return False
    for path, state in (*basis.configuration.items(), *basis.locks.items()):
        if warm.file_state(path) != state or (state != b"-" and not warm.settled_before(os.stat(path), since)):
            return False
    return True


def _add_environment(record: warm.Record, learned: Learned, lease: Lease) -> None:
    """Add what is run, and its environment."""
    assert lease.lock is not None
    record.noted = os.fsencode(learned.noted)
    record.lock = os.fsencode(lease.lock.path)
    record.marker = os.fsencode(lease.prefix / MARKER)
    record.marker_state = warm.file_state(record.marker)
    activation = learned.activation
    record.prefix = os.fsencode(activation.prefix)  # the base's, if the environment is an overlay
    record.cache = record.cache_lock = b""
    if learned.cache is not None and learned.cache.lock is not None:
        record.cache, record.cache_lock = os.fsencode(learned.cache.path), os.fsencode(learned.cache.lock.path)
    record.argv = [os.fsencode(word) for word in learned.argv]
    record.path = [os.fsencode(entry) for entry in activation.path]
    record.variables = [os.fsencode(text) for pair in activation.set for text in pair]
    record.scripts = [os.fsencode(script) for script in activation.scripts]


def _add_script(record: warm.Record, learned: Learned, basis: Basis) -> None:
    """Add the script, or the tool, and what it declares."""
    metadata = learned.metadata
    record.context = warm.context_of(basis.about)
    record.takes_script = b"1" if metadata is not None and metadata.entrypoint is None else b""
    record.script_state = record.leads_to = record.head = record.block = b""
    if basis.seen is not None and metadata is not None:
        record.script_state = warm.script_state(basis.seen)
        record.leads_to = warm.target_of(basis.about)
        record.head, record.block = _declaration(basis.about, basis.seen, metadata.lines)


def _way(prefixes: list[bytes], paths: Paths) -> list[bytes]:
    """Return the environments, cetool's directory, and all parents: who can write to one can replace the others."""
    found: dict[bytes, None] = {}
    for directory in (*prefixes, os.fsencode(paths.root)):
        while directory not in found and directory != b"/":
            found[directory] = None
            directory = os.path.dirname(directory)
    return list(found)


def _programs(learned: Learned, basis: Basis, prefixes: tuple[Path, ...]) -> dict[bytes, bytes] | None:
    """Return the files, with their states, that could replace programs from outside the environment.

    Empty if the command uses only the environment's programs and absolute paths. None if it depends on the working
    directory.
    """
    watched: dict[bytes, bytes] = {}
    if learned.metadata is None:
        return watched  # a tool is always the environment's own
    declared = learned.metadata.run_with or (learned.metadata.entrypoint or "").split()
    words = learned.argv if learned.metadata.run_with else learned.argv[:1]
    own = tuple(f"{prefix}{os.sep}" for prefix in prefixes)
    for word in words:
        if not word.startswith("/") or word in declared or word.startswith(own):
            continue
        name = os.path.basename(word)
        if not any(name in text for text in declared if "/" not in text):
            return None
        for entry in basis.environ.get("PATH", os.defpath).split(os.pathsep):
            if not entry.startswith("/"):
                return None
            path = os.fsencode(os.path.join(entry, name))
            watched[path] = warm.file_state(path)
            if os.path.abspath(path) == os.fsencode(word):
                break
        else:
            return None
    return watched


def _expected(basis: Basis) -> list[bytes]:
    """Return names and values of the variables that the configuration refers to, and of those that decide."""
    texts = warm.deciding_variables()
    for path, state in basis.configuration.items():
        if state != b"-" and os.path.isfile(path):
            texts.append(read_regular(os.fsdecode(path), SETTINGS))
    names = {braced or named for text in texts for braced, named in _VARIABLE.findall(text)}
    return [text for name in sorted(names) if b"\0" not in name for text in (name, warm.variable(name))]


def _has_a_secret(record: warm.Record, basis: Basis) -> bool:
    """Return whether the record would contain a password or token: in a URL, or as a variable that is part of one."""
    texts = [record.context, record.noted, record.block, *record.argv, *record.variables, *record.expected]
    if any(strip_credentials(text) != text for text in map(os.fsdecode, texts)):
        return True
    for path, state in basis.configuration.items():
        if state != b"-" and os.path.isfile(path):
            text = read_regular(os.fsdecode(path), SETTINGS)
            kept = os.fsencode(strip_credentials(os.fsdecode(text)))
            if len(_VARIABLE.findall(kept)) < len(_VARIABLE.findall(text)):
                return True
    return False


def _join_paths(record: warm.Record, path: bytes) -> None:
    """Add the values of PATH with which an earlier run had the same result."""
    try:
        earlier = warm.read_record(path)
    except (ValueError, IndexError, OSError):
        return
    varying = ("script_state", "leads_to", "head", "block", "paths")
    if earlier is not None and all(
        getattr(earlier, name) == getattr(record, name) for name in warm.Record.__slots__ if name not in varying
    ):
        record.paths = list(dict.fromkeys([*record.paths, *earlier.paths]))[:_MOST_PATHS]


def _declaration(script: str, seen: os.stat_result, lines: tuple[int, int] | None) -> tuple[bytes, bytes]:
    """Return the relevant part of the script's first line, and the lines of its block; empty if unknown."""
    if lines is None or seen.st_size > warm.MOST_BYTES:
        return b"", b""
    data = read_regular(script, warm.MOST_BYTES)
    first, last = lines
    block = b"".join(line + b"\n" for line in data.split(b"\n")[first - 1 : last])
    head = head_of(data)
    return (head, block) if block_in(data, head, block) else (b"", b"")

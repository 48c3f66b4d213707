"""Writes launch records: what a cold run found out about a script, for :mod:`cetool.launch.warm` to go by."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.cache.marker import MARKER
from cetool.cache.scripts import Held
from cetool.cache.store import Lease
from cetool.launch import warm
from cetool.launch.activation import Activation
from cetool.launch.environ import ON_WINDOWS
from cetool.paths import Paths
from cetool.spec.metadata import ScriptMetadata

_VARIABLE = re.compile(rb"\$\{?(\w+)")


@dataclass(frozen=True)
class Learned:
    """What a cold run found out: the command line (its first word a path; arguments left out), what activation does.

    ``cache`` is the script's own directory and its lock, where it was handed one: the words of an entrypoint are then
    complete; the command line of ``run_with`` lacks the script's path.
    """

    argv: tuple[str, ...]
    activation: Activation
    metadata: ScriptMetadata
    cache: Held | None = None


@dataclass(frozen=True)
class Circumstances:
    """What that depended on.

    ``script`` is the script's absolute path and ``seen`` its state before it was read; ``configuration`` the paths of
    all files that were read or would have been, ``environ`` the variables; ``since`` the time, in seconds since 1970,
    before any of it was read.
    """

    script: str
    seen: os.stat_result
    since: float
    configuration: tuple[str, ...]
    environ: Mapping[str, str]


def write_launch_record(learned: Learned, around: Circumstances, lease: Lease, paths: Paths) -> None:
    """Write the record, unless something changed while it was found out, or there is no warm path on this system."""
    if ON_WINDOWS or lease.lock is None:
        return
    try:
        record = _record(learned, around, lease, paths)
        if record is None:
            return
        directory = os.fsencode(paths.launch)
        os.makedirs(directory, 0o700, exist_ok=True)
    except OSError:
        return
    warm.write_record(directory + b"/" + warm.record_name(record.context).encode(), warm.pack_record(record))


def _record(learned: Learned, around: Circumstances, lease: Lease, paths: Paths) -> warm.Record | None:
    assert lease.lock is not None
    settled = int(around.since * 1e9) - warm.SETTLED_NS
    state = warm.script_state(around.seen)
    if around.seen.st_ctime_ns > settled or warm.script_state(os.stat(around.script)) != state:
        return None
    watched: list[bytes] = []
    for path in _fewest(around.configuration):
        if os.path.exists(path) and os.stat(path).st_ctime_ns > settled:
            return None
        watched += [path, warm.file_state(path)]
    marker = os.fsencode(lease.prefix / MARKER)
    record = warm.Record()
    record.context = warm.context_of(around.script)
    record.script_state = state
    record.lock = os.fsencode(lease.lock.path)
    record.marker = marker
    record.marker_state = warm.file_state(marker)
    record.prefix = os.fsencode(lease.prefix)
    record.takes_script = b"" if learned.metadata.entrypoint is not None else b"1"
    record.cache = record.cache_lock = b""
    if learned.cache is not None and learned.cache.lock is not None:
        record.cache, record.cache_lock = os.fsencode(learned.cache.path), os.fsencode(learned.cache.lock.path)
    record.spool = os.fsencode(paths.spool)
    record.stamp = os.fsencode(paths.gc_stamp) if paths.gc_stamp.exists() else b""
    record.head, record.block = _declaration(around, learned.metadata.lines)
    record.argv = [os.fsencode(word) for word in learned.argv]
    record.path = [os.fsencode(entry) for entry in learned.activation.path]
    record.variables = [os.fsencode(text) for pair in learned.activation.set for text in pair]
    record.scripts = [os.fsencode(script) for script in learned.activation.scripts]
    record.watched = watched
    record.expected = _expected(learned, around, lease.prefix)
    return record


def _fewest(paths: Sequence[str]) -> list[bytes]:
    """The paths whose states tell those of all: of what is missing, the highest directory that is missing."""
    found: dict[bytes, None] = {}
    for path in paths:
        at = os.fsencode(os.path.abspath(path))
        while not os.path.lexists(at):
            above = os.path.dirname(at)
            if above == at or os.path.isdir(above):
                break
            at = above
        found[at] = None
        if os.path.isdir(at):  # a file in it that is written to does not change it
            found.update((entry.path, None) for entry in os.scandir(at) if entry.name.endswith((b".yml", b".yaml")))
    return list(found)


def _expected(learned: Learned, around: Circumstances, prefix: Path) -> list[bytes]:
    """Names and values of the variables that the configuration refers to, and PATH where the program came from it."""
    files = [Path(path) for path in around.configuration if os.path.isfile(path)]
    names = {name for file in files for name in _VARIABLE.findall(file.read_bytes())}
    if not learned.argv[0].startswith(f"{prefix}{os.sep}"):
        names.add(b"PATH")
    values = ((name, around.environ.get(os.fsdecode(name), "")) for name in sorted(names))
    return [text for name, value in values for text in (name, os.fsencode(value))]


def _declaration(around: Circumstances, lines: tuple[int, int] | None) -> tuple[bytes, bytes]:
    """The script's first line, as far as it counts, and the lines of its block; nothing where they cannot be told."""
    if lines is None or around.seen.st_size > warm.MOST_BYTES:
        return b"", b""
    data = Path(around.script).read_bytes()
    first, last = lines
    block = b"".join(line + b"\n" for line in data.split(b"\n")[first - 1 : last])
    head = warm.head_of(data)
    return (head, block) if warm.block_in(data, head, block) else (b"", b"")

"""Completes what rattler linked: a history as conda writes it, and records without credentials.

What the embedded engine does otherwise where its packages are to lie over an existing environment.

It solves for that environment and the packages asked for together, what is there being preferred and python held as it
is; only what is not there is linked, into another prefix. Entry points there start the environment's own python, and
the shared libraries that the packages depend on are linked to, so that run paths relative to a file (``$ORIGIN``) find
them without any variable.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.base.below import write_below
from cetool.base.errors import EngineError
from cetool.declare.package import Package
from cetool.engines.private import clean_records
from cetool.engines.rattler.request import Plan
from cetool.packages.prefix import read_records

if TYPE_CHECKING:
    from rattler import MatchSpec, PrefixRecord, RepoDataRecord


def finish_prefix(prefix: Path, records: Sequence[RepoDataRecord], plan: Plan, tool: str) -> None:
    """See that every package has its record, take credentials out of them, write ``conda-meta/history``.

    rattler leaves the history empty; to conda (and to us) a non-empty one says that the environment is complete.
    Raises EngineError where a record is missing or cannot be written.
    """
    meta = prefix / "conda-meta"
    try:
        for record in records:
            path = meta / (_stem(record.file_name) + ".json")
            if not path.stat().st_size:
                raise FileNotFoundError(path)
        if plan.access.secret:
            clean_records(meta)  # rattler never saw them, but a channel's metadata can repeat the URL it was asked by
    except OSError as error:
        raise EngineError(
            f"the environment is not complete: {error.filename or error.args[0]} is missing", code="environment-damaged"
        ) from None
    try:
        write_below(prefix, "conda-meta/history", _history(records, plan, tool).encode())
    except OSError as error:
        raise EngineError(
            f"the environment's history cannot be written: {error.strerror or error}", code="cache-not-writable"
        ) from None


def _stem(file_name: str) -> str:
    for suffix in (".conda", ".tar.bz2"):
        file_name = file_name.removesuffix(suffix)
    return file_name


def _history(records: Sequence[RepoDataRecord], plan: Plan, tool: str) -> str:
    """conda's format: a dated heading, comments, then one line for each package that came."""
    lines = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {tool}"]
    for record in sorted(records, key=lambda each: each.file_name):
        channel = plan.channel_of(record.url.rsplit("/", 2)[0])
        lines.append(f"+{channel}/{record.subdir}::{_stem(record.file_name)}")
    lines.append(f"# update specs: {[shown for _, shown in plan.specs]}")
    return "\n".join(lines) + "\n"


_LIBRARY = (".so", ".dylib")


def records_of(prefix: Path) -> list[PrefixRecord]:
    """The packages of an environment. Raises EngineError where a record cannot be read."""
    from rattler import PrefixRecord

    found = []
    try:
        for record in read_records(prefix):  # py-rattler knows no limits, and waits for a pipe
            found.append(PrefixRecord.from_path(record.path))
    except Exception as error:
        raise EngineError(getattr(error, "message", None) or str(error), code="environment-damaged") from None
    return found


def with_those_below(specs: Sequence[MatchSpec], below: Sequence[PrefixRecord]) -> list[MatchSpec]:
    """The specs, and one for each other package that is there: it must fit, or one that does takes its place."""
    from rattler import MatchSpec

    asked = {getattr(spec.name, "normalized", None) for spec in specs}
    return [*specs, *(MatchSpec(name) for record in below if (name := record.name.normalized) not in asked)]


def python_in(below: Sequence[PrefixRecord]) -> list[PrefixRecord]:
    """The python that is there, which must stay; nothing where there is none."""
    return [record for record in below if record.name.normalized == "python"]


@contextlib.contextmanager
def standing_in(prefix: Path, below: Sequence[PrefixRecord]) -> Iterator[list[PrefixRecord]]:
    """The python below as if it were at ``prefix``, without a file: who links Python packages looks for it there."""
    paths = []
    for record in python_in(below):
        data = {**json.loads(record.to_json()), "files": [], "paths_data": {"paths_version": 1, "paths": []}}
        meta = prefix / "conda-meta"
        meta.mkdir(parents=True, exist_ok=True)
        paths.append(meta / f"{record.name.normalized}-{record.version}-{record.build}.json")
        write_below(prefix, f"conda-meta/{paths[-1].name}", json.dumps(data).encode())
    try:
        yield records_of(prefix)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def not_below(records: Iterable[RepoDataRecord], below: Sequence[PrefixRecord]) -> list[RepoDataRecord]:
    """The packages of a solution that are not there."""
    there = {_identity(record): record.sha256 for record in below}
    missing = object()
    found = []
    for record in records:
        sha256 = there.get(_identity(record), missing)
        # a package of the same name, version and build with another digest is another package
        if sha256 is missing or (sha256 and record.sha256 and sha256 != record.sha256):
            found.append(record)
    return found


def _identity(record: RepoDataRecord) -> tuple[str, str, str]:
    return record.name.normalized, str(record.version), str(record.build)


def finish_overlay(prefix: Path, base: Path, linked: Sequence[Package]) -> None:
    """Have the programs at ``prefix`` start the base's python, and its libraries find those of the base."""
    _redirect(prefix, base)
    needed = _needed(linked, records_of(base))
    for record in needed:
        for file in map(str, record.files):
            folder, name = os.path.split(file)
            if folder == "lib" and not (prefix / "lib").is_symlink() and any(part in name for part in _LIBRARY):
                target = prefix / "lib" / name
                if not os.path.lexists(target) and (base / file).exists():
                    target.parent.mkdir(exist_ok=True)
                    with contextlib.suppress(FileExistsError):
                        target.symlink_to(base / file)


def _redirect(prefix: Path, base: Path) -> None:
    """Entry points are written for a python beside them, of which there is none in an overlay."""
    own, other = os.fsencode(prefix / "bin" / "python"), os.fsencode(base / "bin" / "python")
    for path in () if (prefix / "bin").is_symlink() else (prefix / "bin").glob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        head, found, rest = data.partition(b"\n")
        if found and head.startswith(b"#!") and own in head:
            # in its place: it may be a name of a file in the package cache
            mode = stat.S_IMODE(path.stat().st_mode)
            write_below(prefix, f"bin/{path.name}", head.replace(own, other) + found + rest, mode=mode)


def _needed(linked: Sequence[Package], below: Sequence[PrefixRecord]) -> list[PrefixRecord]:
    """The packages of the base that those linked depend on, directly or by way of each other."""
    there = {record.name.normalized: record for record in below}
    new = {package.name for package in linked}
    pending = [name for package in linked for name in map(_name, package.depends)]
    found: dict[str, PrefixRecord] = {}
    while pending:
        name = pending.pop()
        if name in there and name not in found and name not in new:
            found[name] = there[name]
            pending += map(_name, there[name].depends)
    return list(found.values())


def _name(spec: str) -> str:
    return spec.split(maxsplit=1)[0].split("[")[0]

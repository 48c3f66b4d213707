"""Complete a prefix that rattler has linked: write a history like conda's, and remove credentials from records.

This module also has what differs for overlays. The embedded engine solves for the base and the requested packages
together, preferring installed packages and keeping python; it links only packages that the base does not have, into
another prefix. Entry points in this prefix start the base's python. Shared libraries of the base that the packages
depend on are linked to, so that run paths relative to a file (``$ORIGIN``) find them without variables.
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
    """Check that every package has a record, remove credentials from records, and write ``conda-meta/history``.

    rattler leaves the history empty; for conda and cetool, a non-empty history means that the environment is complete.
    Raises EngineError if a record is missing or cannot be written.
    """
    meta = prefix / "conda-meta"
    try:
        for record in records:
            path = meta / (_stem(record.file_name) + ".json")
            if not path.stat().st_size:
                raise FileNotFoundError(path)
        if plan.access.secret:
            clean_records(meta)  # rattler does not know them, but a channel's metadata may repeat the requested URL
    except OSError as error:
        raise EngineError(
            f"the environment is incomplete: {error.filename or error.args[0]} is missing", code="environment-damaged"
        ) from None
    try:
        write_below(prefix, "conda-meta/history", _history(records, plan, tool).encode())
    except OSError as error:
        raise EngineError(
            f"cannot write the environment's history: {error.strerror or error}", code="cache-not-writable"
        ) from None


def _stem(file_name: str) -> str:
    for suffix in (".conda", ".tar.bz2"):
        file_name = file_name.removesuffix(suffix)
    return file_name


def _history(records: Sequence[RepoDataRecord], plan: Plan, tool: str) -> str:
    """Return the history in conda's format: a dated heading, comments, and one line for each linked package."""
    lines = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {tool}"]
    for record in sorted(records, key=lambda each: each.file_name):
        channel = plan.channel_of(record.url.rsplit("/", 2)[0])
        lines.append(f"+{channel}/{record.subdir}::{_stem(record.file_name)}")
    lines.append(f"# update specs: {[shown for _, shown in plan.specs]}")
    return "\n".join(lines) + "\n"


_LIBRARY = (".so", ".dylib")


def records_of(prefix: Path) -> list[PrefixRecord]:
    """Return the packages of an environment. Raises EngineError if a record cannot be read."""
    from rattler import PrefixRecord

    found = []
    try:
        for record in read_records(prefix):  # py-rattler has no limits, and would block on a pipe
            found.append(PrefixRecord.from_path(record.path))
    except Exception as error:
        raise EngineError(getattr(error, "message", None) or str(error), code="environment-damaged") from None
    return found


def with_those_below(specs: Sequence[MatchSpec], below: Sequence[PrefixRecord]) -> list[MatchSpec]:
    """Return the specs, and one for each other installed package, which must fit or be replaced by one that does."""
    from rattler import MatchSpec

    asked = {getattr(spec.name, "normalized", None) for spec in specs}
    return [*specs, *(MatchSpec(name) for record in below if (name := record.name.normalized) not in asked)]


def python_in(below: Sequence[PrefixRecord]) -> list[PrefixRecord]:
    """Return the base's python, which must not change; empty if there is none."""
    return [record for record in below if record.name.normalized == "python"]


@contextlib.contextmanager
def standing_in(prefix: Path, below: Sequence[PrefixRecord]) -> Iterator[list[PrefixRecord]]:
    """Write the record of the base's python, without files, to ``prefix``: it is needed to link Python packages."""
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
    """Return the packages of a solution that the base does not have."""
    there = {_identity(record): record.sha256 for record in below}
    missing = object()
    found = []
    for record in records:
        sha256 = there.get(_identity(record), missing)
        # the same name, version and build with another digest is another package
        if sha256 is missing or (sha256 and record.sha256 and sha256 != record.sha256):
            found.append(record)
    return found


def _identity(record: RepoDataRecord) -> tuple[str, str, str]:
    return record.name.normalized, str(record.version), str(record.build)


def finish_overlay(prefix: Path, base: Path, linked: Sequence[Package]) -> None:
    """Make programs at ``prefix`` start the base's python, and make its libraries find those of the base."""
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
    """Make entry points, which expect a python next to them, start the base's python."""
    own, other = os.fsencode(prefix / "bin" / "python"), os.fsencode(base / "bin" / "python")
    for path in () if (prefix / "bin").is_symlink() else (prefix / "bin").glob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        head, found, rest = data.partition(b"\n")
        if found and head.startswith(b"#!") and own in head:
            # replace the file: it may be a hard link of a file in the package cache
            mode = stat.S_IMODE(path.stat().st_mode)
            write_below(prefix, f"bin/{path.name}", head.replace(own, other) + found + rest, mode=mode)


def _needed(linked: Sequence[Package], below: Sequence[PrefixRecord]) -> list[PrefixRecord]:
    """Return the packages of the base that the linked packages depend on, directly or indirectly."""
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

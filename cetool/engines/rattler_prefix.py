"""Completes what rattler linked: a history as conda writes it, and records without credentials."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.below import write_below
from cetool.engines.private import clean_records
from cetool.engines.rattler_request import Plan
from cetool.errors import EngineError

if TYPE_CHECKING:
    from rattler import RepoDataRecord


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
        raise EngineError(f"the environment is not complete: {error.filename or error.args[0]} is missing") from None
    try:
        write_below(prefix, "conda-meta/history", _history(records, plan, tool).encode())
    except OSError as error:
        raise EngineError(f"the environment's history cannot be written: {error.strerror or error}") from None


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

"""Completes what rattler linked: a history as conda writes it, and records without credentials."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.engines.rattler_request import Plan
from cetool.errors import EngineError
from cetool.spec.urls import strip_credentials

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
            _clean_records(meta)
        (meta / "history").write_text(_history(records, plan, tool), encoding="utf-8")
    except OSError as error:
        raise EngineError(f"the environment is not complete: {error.filename or error.args[0]} is missing") from None


def _stem(file_name: str) -> str:
    for suffix in (".conda", ".tar.bz2"):
        file_name = file_name.removesuffix(suffix)
    return file_name


def _clean_records(meta: Path) -> None:
    """rattler never saw the credentials, but a channel's metadata can repeat the URL it was asked by."""
    for path in meta.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        clean = strip_credentials(text)
        if clean != text:
            json.loads(clean)  # still a record
            path.write_text(clean, encoding="utf-8")


def _history(records: Sequence[RepoDataRecord], plan: Plan, tool: str) -> str:
    """conda's format: a dated heading, comments, then one line for each package that came."""
    lines = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {tool}"]
    for record in sorted(records, key=lambda each: each.file_name):
        channel = plan.channel_of(record.url.rsplit("/", 2)[0])
        lines.append(f"+{channel}/{record.subdir}::{_stem(record.file_name)}")
    lines.append(f"# update specs: {[shown for _, shown in plan.specs]}")
    return "\n".join(lines) + "\n"

"""Whether an environment is complete: what no engine's exit status tells.

conda and mamba write ``conda-meta/history`` last, with the package records beside it (mamba makes the file empty at the
start, conda at the end); a prefix that was left half made lacks the one or the others.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from cetool.engines.package_cache import DamagedPackages, is_cut_off, is_damaged
from cetool.errors import EngineError

# Files that linking makes or removes on its own account, whatever the record says.
_VOLATILE = re.compile(r"\.pyc$|(?:^|/)\.[^/]*-(?:pre|post)-(?:link|unlink)\.(?:sh|bat)$|\.messages\.txt$")


def is_volatile(path: str) -> bool:
    """Whether a path is of the kind that Python or linking makes and takes away again."""
    return _VOLATILE.search(path) is not None


def check_complete(prefix: Path, *, expect_packages: bool = True, log: Path | None = None) -> int:
    """The number of packages of the complete environment at ``prefix``. Raises EngineError where it is not complete.

    Raises DamagedPackages where it was linked from packages that had lost something.

    ``expect_packages`` is false for a request without packages: an environment with nothing in it is complete then.
    """

    def incomplete(reason: str) -> EngineError:
        return EngineError(
            f"the environment at {prefix} is not complete: {reason}",
            hint="Run the same command again; it is made anew.",
            log=None if log is None else str(log),
        )

    meta = prefix / "conda-meta"
    try:
        records = sorted(path for path in meta.iterdir() if path.suffix == ".json" and path.name != "cetool.json")
        if not expect_packages and not records:
            return 0
        history = (meta / "history").stat().st_size
    except OSError as error:
        raise incomplete(f"{Path(error.filename or meta).name} is missing") from error
    if not history:
        raise incomplete("its history is empty")
    if not records:
        raise incomplete("no package is recorded in it")
    damaged = []
    for path in records:
        reason, source = _fault(prefix, path)
        if reason:
            raise incomplete(reason)
        if source is not None and is_damaged(source):
            damaged.append(source)
    if damaged:
        raise DamagedPackages(damaged)
    return len(records)


def _fault(prefix: Path, path: Path) -> tuple[str | None, Path | None]:
    """What is wrong with one package record, None where nothing is; and where it was linked from if files are short.

    A short file is no fault by itself: another package, pip or a script may have written one over it.
    """
    try:
        record: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return f"the package record {path.name} cannot be read", None
    if not isinstance(record, dict) or not isinstance(record.get("name"), str) or "version" not in record:
        return f"{path.name} is no package record", None
    files = record.get("files")
    if not isinstance(files, list):
        return None, None
    wanted = [name for name in files if isinstance(name, str) and not is_volatile(name)]
    sizes = _sizes(record)
    missing = 0
    short = False
    for name in wanted:
        try:
            status = os.lstat(f"{prefix}/{name}")
        except (OSError, ValueError):
            missing += 1
            continue
        short = short or is_cut_off(status, sizes.get(name))
    # Scripts that run at linking may take single files away again; a package that was not linked lacks nearly all.
    if missing * 2 > len(wanted):
        return f"{missing} of the {len(wanted)} files of {record['name']} are missing", None
    return None, _source(record) if short or missing else None


def _sizes(record: dict[str, Any]) -> dict[str, int]:
    """The sizes of a package's files, but for those in which the prefix was written."""
    try:
        return {
            entry["_path"]: entry["size_in_bytes"]
            for entry in record["paths_data"]["paths"]
            if isinstance(entry.get("size_in_bytes"), int) and not entry.get("prefix_placeholder")
        }
    except (KeyError, TypeError, AttributeError):
        return {}


def _source(record: dict[str, Any]) -> Path | None:
    link = record.get("link")
    named = (link.get("source") if isinstance(link, dict) else None) or record.get("extracted_package_dir")
    return Path(named) if isinstance(named, str) and os.path.isabs(named) else None

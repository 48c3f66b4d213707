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

from cetool.errors import EngineError

# Files that linking makes or removes on its own account, whatever the record says.
_VOLATILE = re.compile(r"\.pyc$|(?:^|/)\.[^/]*-(?:pre|post)-(?:link|unlink)\.(?:sh|bat)$|\.messages\.txt$")


def check_complete(prefix: Path, *, expect_packages: bool = True, log: Path | None = None) -> int:
    """The number of packages of the complete environment at ``prefix``. Raises EngineError where it is not complete.

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
    for path in records:
        reason = _fault(prefix, path)
        if reason:
            raise incomplete(reason)
    return len(records)


def _fault(prefix: Path, path: Path) -> str | None:
    """What is wrong with one package record, None where nothing is."""
    try:
        record: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return f"the package record {path.name} cannot be read"
    if not isinstance(record, dict) or not isinstance(record.get("name"), str) or "version" not in record:
        return f"{path.name} is no package record"
    files = record.get("files")
    if not isinstance(files, list):
        return None
    wanted = [name for name in files if isinstance(name, str) and not _VOLATILE.search(name)]
    # Scripts that run at linking may take single files away again; a package that was not linked lacks nearly all.
    missing = sum(not os.path.lexists(prefix / name) for name in wanted)
    if missing * 2 > len(wanted):
        return f"{missing} of the {len(wanted)} files of {record['name']} are missing"
    return None

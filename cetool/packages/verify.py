"""Whether an environment is complete: what no engine's exit status tells.

conda and mamba write ``conda-meta/history`` last, with the package records beside it (mamba makes the file empty at the
start, conda at the end); a prefix that was left half made lacks the one or the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cetool.base.errors import EngineError
from cetool.base.files import total_room, walk
from cetool.base.limits import PACKAGE, read_json
from cetool.base.patterns import pattern
from cetool.packages.cache import DamagedPackages, is_cut_off, is_damaged

# Files that linking makes or removes on its own account, whatever the record says.
_VOLATILE = pattern(r"\.pyc$|(?:^|/)\.[^/]*-(?:pre|post)-(?:link|unlink)\.(?:sh|bat)$|\.messages\.txt$")


def is_volatile(path: str) -> bool:
    """Whether a path is of the kind that Python or linking makes and takes away again."""
    return _VOLATILE.search(path) is not None


def check_complete(
    prefix: Path,
    *,
    expect_packages: bool = True,
    log: Path | None = None,
    whole: Mapping[str, os.stat_result] | None = None,
    there: Mapping[str, os.stat_result] | None = None,
) -> tuple[int, int]:
    """The number of packages of the complete environment at ``prefix``, and the bytes that it takes on disk.

    Raises EngineError where it is not complete.

    Raises DamagedPackages where it was linked from packages that had lost something.

    ``expect_packages`` is false for a request without packages: an environment with nothing in it is complete then.
    ``there`` is all that lies below the prefix, as :func:`walk` tells it; ``whole`` the same, where its packages' files
    were found to be there and whole just now.
    """

    def incomplete(reason: str) -> EngineError:
        return EngineError(
            f"the environment at {prefix} is not complete: {reason}",
            code="environment-damaged",
            hint="Run the same command again; it is made anew.",
            log=None if log is None else str(log),
        )

    meta = prefix / "conda-meta"
    try:
        records = sorted(path for path in meta.iterdir() if path.suffix == ".json" and path.name != "cetool.json")
        if not expect_packages and not records:
            return 0, total_room(status for _, status in walk(prefix))
        history = (meta / "history").stat().st_size
    except OSError as error:
        raise incomplete(f"{Path(error.filename or meta).name} is missing") from error
    if not history:
        raise incomplete("its history is empty")
    if not records:
        raise incomplete("no package is recorded in it")
    if whole is not None:
        return len(records), total_room(whole.values())
    damaged = []
    there = dict(walk(prefix)) if there is None else there
    for path in records:
        reason, source = _fault(prefix, path, there)
        if reason:
            raise incomplete(reason)
        if source is not None and is_damaged(source):
            damaged.append(source)
    if damaged:
        raise DamagedPackages(damaged)
    return len(records), total_room(there.values())


def _fault(prefix: Path, path: Path, there: Mapping[str, os.stat_result]) -> tuple[str | None, Path | None]:
    """What is wrong with one package record, None where nothing is; and where it was linked from if files are short.

    ``there`` is all that lies below the prefix.

    A short file is no fault by itself: another package, pip or a script may have written one over it.
    """
    try:
        record: Any = read_json(path, PACKAGE)
    except (OSError, ValueError):
        return f"the package record {path.name} cannot be read", None
    if not isinstance(record, dict) or not isinstance(record.get("name"), str) or "version" not in record:
        return f"{path.name} is no package record", None
    files = record.get("files")
    if not isinstance(files, list):
        return None, None
    # thousands of names: the quick look first
    unseen = [name for name in files if isinstance(name, str) and name not in there and not is_volatile(name)]
    missing = sum(not os.path.lexists(f"{prefix}/{name}") for name in unseen)  # through a link to a directory?
    if missing:
        wanted = sum(isinstance(name, str) and not is_volatile(name) for name in files)
        # Scripts that run at linking may take single files away again; a package that was not linked lacks nearly all.
        if missing * 2 > wanted:
            return f"{missing} of the {wanted} files of {record['name']} are missing", None
    return None, linked_from(record) if missing or _has_short_files(record, there) else None


def _has_short_files(record: dict[str, Any], there: Mapping[str, os.stat_result]) -> bool:
    """Whether a file of the package is shorter than it was packed; those in which the prefix was written may be."""
    try:
        for entry in record["paths_data"]["paths"]:
            name = entry["_path"]
            status = there.get(name)
            if status is None or entry.get("prefix_placeholder") or not is_cut_off(status, entry.get("size_in_bytes")):
                continue
            if not _VOLATILE.search(name):
                return True
    except (KeyError, TypeError, AttributeError):
        pass
    return False


def linked_from(record: Mapping[str, Any]) -> Path | None:
    """The unpacked package that a package was linked from, as its record has it; None where it does not tell."""
    link = record.get("link")
    named = (link.get("source") if isinstance(link, dict) else None) or record.get("extracted_package_dir")
    return Path(named) if isinstance(named, str) and os.path.isabs(named) else None

"""Compare files on disk with their packages: those of an environment, and those of an unpacked package.

The SHA-256 hashes are those of ``info/paths.json``. Engines copy them to ``paths_data`` in ``conda-meta/*.json``, with
``sha256_in_prefix`` for files into which they wrote the prefix.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cetool.base.below import total_room, walk
from cetool.base.errors import EngineError
from cetool.base.limits import PACKAGE, parse_json, read_regular
from cetool.base.values import Value
from cetool.packages.cache import DamagedPackages
from cetool.packages.hashing import KnownHashes, Watch, digest_of, in_parallel
from cetool.packages.prefix import (
    PackagePath,
    PackageRecordError,
    PrefixRecord,
    is_volatile,
    package_paths,
    read_record,
    record_files,
)

CHANGED = "changed"
MISSING = "missing"

_EMPTY = hashlib.sha256().hexdigest()


class Altered(Value):
    """A file that differs from the file in its package."""

    #: Path below the prefix, with slashes.
    path: str
    #: Name, version and build of the package: the stem of its record's file name.
    package: str
    #: ``changed`` or ``missing``.
    state: str


def changed_files(
    prefix: Path, records: Iterable[PrefixRecord], known: KnownHashes | None = None, watch: Watch | None = None
) -> list[Altered]:
    """Return the files that differ from the package records, sorted by path.

    Volatile files are left out (see :func:`is_volatile`). A file of several packages is intact if it matches one of
    them. A file without a recorded hash only has to exist. Files that ``known`` knows are not read; it learns the
    others.
    """
    owners: dict[str, list[PackagePath]] = {}
    for entry in package_paths(records):
        owners.setdefault(entry.path, []).append(entry)
    asked = list(owners.values())
    if known is not None:
        asked = [entries for entries in asked if not any(map(known.has, entries))]
    states = in_parallel(
        lambda entries: _state(prefix, entries, owners), asked, lambda entries: f"{prefix}/{entries[0].path}", watch
    )
    altered = []
    for entries, state in zip(asked, states, strict=True):
        if state:
            altered.append(Altered(entries[-1].path, entries[-1].package, state))
        elif known is not None and len(entries) == 1:
            known.learn(entries[0])
    return sorted(altered)


def _state(root: Path, entries: Sequence[PackagePath], owners: Mapping[str, list[PackagePath]]) -> str | None:
    """Return what is wrong with a path of these packages; None if it matches one of them."""
    states = [_state_of(root, entry, owners) for entry in entries]
    return None if None in states else states[-1]


def _state_of(root: Path, entry: PackagePath, owners: Mapping[str, list[PackagePath]]) -> str | None:
    path = f"{root}/{entry.path}"
    try:
        if not os.path.lexists(path):
            return MISSING
        if entry.kind == "directory":
            return None if os.path.isdir(path) else CHANGED
        if entry.kind == "softlink":
            return None if _is_sound_link(root, path, entry, owners) else CHANGED
        return None if entry.expected is None or digest_of(path) == entry.expected else CHANGED
    except (OSError, ValueError):  # a directory in its place, a broken link, a file without read permission
        return CHANGED


def _is_sound_link(root: Path, path: str, entry: PackagePath, owners: Mapping[str, list[PackagePath]]) -> bool:
    """Return whether a symbolic link leads to its recorded target.

    Its recorded hash is that of the file it led to when the package was built.
    """
    if not os.path.islink(path):
        return False
    if entry.sha256 in (None, _EMPTY):  # it led to a directory or to nothing
        return True
    target = os.path.relpath(os.path.realpath(path), os.path.realpath(root)).replace(os.sep, "/")
    if target in owners:
        # the target's content is checked as a file of its own; a target in another package may have another version
        own = [each.sha256 for each in owners[target] if each.package == entry.package and each.sha256 is not None]
        return not own or entry.sha256 in own
    if target.startswith("../"):  # a file of the system
        return True
    return os.path.isfile(path) and digest_of(path) == entry.sha256


# --- packages that are kept unpacked ----------------------------------------------------------------------------------


def listed_files(directory: Path) -> list[PackagePath]:
    """Return the paths of an unpacked package from ``info/paths.json``, or from ``info/files`` of an older package.

    Raises OSError if the list cannot be read, ValueError if it is malformed.
    """
    try:
        listing = read_regular(directory / "info" / "paths.json", PACKAGE)
    except FileNotFoundError:  # an older package
        text = read_regular(directory / "info" / "files", PACKAGE).decode("utf-8", "surrogateescape")
        return [PackagePath(name, directory.name, "hardlink") for name in text.splitlines() if name]
    try:
        entries = [
            PackagePath(entry["_path"], directory.name, entry["path_type"], entry.get("sha256"), entry.get("sha256"))
            for entry in parse_json(listing)["paths"]
        ]
    except (KeyError, TypeError, AttributeError):
        raise ValueError("its info/paths.json is malformed") from None
    if not all(isinstance(text, str) for each in entries for text in (each.path, each.kind, each.sha256 or "")):
        raise ValueError("its info/paths.json is malformed")
    return entries


def damaged_files(directory: Path) -> list[str]:
    """Return the paths of an unpacked package that are missing, or whose hashes (if it lists any) do not match."""
    try:
        entries = listed_files(directory)
    except (OSError, ValueError):
        return [f"info/{'paths.json' if os.path.lexists(directory / 'info/paths.json') else 'files'}"]
    owners = {entry.path: [entry] for entry in entries}
    states = in_parallel(
        lambda entry: _state_of(directory, entry, owners), entries, lambda entry: f"{directory}/{entry.path}"
    )
    return [entry.path for entry, state in zip(entries, states, strict=True) if state]


def is_damaged(directory: Path) -> bool:
    """Return whether files of an unpacked package are missing or truncated. A missing package is not damaged."""
    if not directory.is_dir():
        return False
    try:
        listing = read_regular(directory / "info" / "paths.json", PACKAGE)
    except FileNotFoundError:
        return bool(damaged_files(directory))
    except OSError:
        return True
    try:
        return any(
            _is_cut_off(os.lstat(f"{directory}/{entry['_path']}"), entry.get("size_in_bytes"))
            for entry in parse_json(listing)["paths"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


def _is_cut_off(status: os.stat_result, size: object) -> bool:
    """Return whether a power failure has truncated a file of this size: it is too short, and ends with a disk block.

    A file that is shortened to any other size was changed by a program, through another hard link.
    """
    return isinstance(size, int) and status.st_size < size and not status.st_size % 512 and stat.S_ISREG(status.st_mode)


# --- whether an environment is complete: an engine's exit status does not say so --------------------------------------


def check_complete(
    prefix: Path,
    *,
    expect_packages: bool = True,
    log: Path | None = None,
    whole: Mapping[str, os.stat_result] | None = None,
    there: Mapping[str, os.stat_result] | None = None,
) -> tuple[int, int]:
    """Check that the environment at ``prefix`` is complete; return its number of packages and its size in bytes.

    conda and mamba write ``conda-meta/history`` last, next to the package records (mamba creates it empty at the
    start, conda at the end); an incomplete prefix lacks the history or the records.

    ``expect_packages`` is false for a request without packages: then an empty environment is complete. ``there`` is
    everything below the prefix, as :func:`walk` returns it; ``whole`` is the same if the caller has just verified the
    packages' files. Raises EngineError if the environment is incomplete, and DamagedPackages if it was linked from
    damaged packages.
    """
    try:
        paths = record_files(prefix)
        if not expect_packages and not paths:
            return 0, total_room(status for _, status in walk(prefix))
        history = (prefix / "conda-meta" / "history").stat().st_size
    except OSError as error:
        raise _incomplete(prefix, f"{Path(error.filename or 'conda-meta').name} is missing", log) from error
    if not history:
        raise _incomplete(prefix, "its history is empty", log)
    if not paths:
        raise _incomplete(prefix, "no package is recorded in it", log)
    if whole is not None:
        return len(paths), total_room(whole.values())
    there = dict(walk(prefix)) if there is None else there
    damaged = []
    for path in paths:
        try:
            record = read_record(path)
        except PackageRecordError as error:
            reason = f"cannot read the package record {path.name}: {error.problem}"
            raise _incomplete(prefix, reason, log) from None
        missing, wanted = _missing(record, prefix, there)
        # Link scripts may remove single files; a package that was not linked lacks nearly all of them.
        if missing * 2 > wanted:
            raise _incomplete(prefix, f"{missing} of the {wanted} files of {record.name} are missing", log)
        # A short file is not a fault by itself: another package, pip or a script may have overwritten it.
        if (missing or _has_short_files(record, there)) and record.source is not None and is_damaged(record.source):
            damaged.append(record.source)
    if damaged:
        raise DamagedPackages(damaged)
    return len(paths), total_room(there.values())


def _incomplete(prefix: Path, reason: str, log: Path | None) -> EngineError:
    return EngineError(
        f"the environment at {prefix} is incomplete: {reason}",
        code="environment-damaged",
        hint="Run the command again to re-create it.",
        log=None if log is None else str(log),
    )


def _missing(record: PrefixRecord, prefix: Path, there: Mapping[str, os.stat_result]) -> tuple[int, int]:
    """Return how many of the package's files are missing, and out of how many (0 if none is missing)."""
    # thousands of names: the fast check first
    unseen = [name for name in record.files if name not in there and not is_volatile(name)]
    missing = sum(not os.path.lexists(f"{prefix}/{name}") for name in unseen)  # through a link to a directory?
    return missing, sum(not is_volatile(name) for name in record.files) if missing else 0


def _has_short_files(record: PrefixRecord, there: Mapping[str, os.stat_result]) -> bool:
    """Return whether a file of the package is truncated; files into which the prefix was written may be shorter."""
    for entry in record.entries:
        name = str(entry.get("_path"))
        status = there.get(name)
        if status is None or entry.get("prefix_placeholder") or not _is_cut_off(status, entry.get("size_in_bytes")):
            continue
        if not is_volatile(name):
            return True
    return False

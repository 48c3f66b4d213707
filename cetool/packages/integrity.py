"""Whether what is on disk is what packages say: of an environment, by its records, and of a package kept unpacked.

The hashes are those of ``info/paths.json`` (SHA-256), which engines repeat in ``conda-meta/*.json`` as ``paths_data``,
with ``sha256_in_prefix`` for files into which they wrote the prefix.
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
from cetool.packages.hashing import KnownHashes, digest_of, in_parallel
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
    """A file that is not as its package has it."""

    #: Where it is below the prefix, with slashes.
    path: str
    #: Name, version and build of the package, as its record's file is called.
    package: str
    #: ``changed`` or ``missing``.
    state: str


def changed_files(prefix: Path, records: Iterable[PrefixRecord], known: KnownHashes | None = None) -> list[Altered]:
    """What is not as the packages' records have it, by path.

    Files that Python or linking make and take away again are left out. One that several packages brought is whole if
    it is as one of them has it. A file without a recorded hash only has to be there. What ``known`` has is not read,
    and it learns what was.
    """
    owners: dict[str, list[PackagePath]] = {}
    for entry in package_paths(records):
        owners.setdefault(entry.path, []).append(entry)
    asked = list(owners.values())
    if known is not None:
        asked = [entries for entries in asked if not any(map(known.has, entries))]
    states = in_parallel(
        lambda entries: _state(prefix, entries, owners), asked, lambda entries: f"{prefix}/{entries[0].path}"
    )
    altered = []
    for entries, state in zip(asked, states, strict=True):
        if state:
            altered.append(Altered(entries[-1].path, entries[-1].package, state))
        elif known is not None and len(entries) == 1:
            known.learn(entries[0])
    return sorted(altered)


def _state(root: Path, entries: Sequence[PackagePath], owners: Mapping[str, list[PackagePath]]) -> str | None:
    """What is wrong with a path that these packages brought; None where it is as one of them has it."""
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
    except (OSError, ValueError):  # a directory in its place, a link to nowhere, a file that may not be read
        return CHANGED


def _is_sound_link(root: Path, path: str, entry: PackagePath, owners: Mapping[str, list[PackagePath]]) -> bool:
    """A symbolic link's recorded hash is that of the file it led to when the package was built."""
    if not os.path.islink(path):
        return False
    if entry.sha256 in (None, _EMPTY):  # it led to a directory, or nowhere
        return True
    target = os.path.relpath(os.path.realpath(path), os.path.realpath(root)).replace(os.sep, "/")
    if target in owners:
        # what that file has in it is told for the file itself; one of another package may be of another version
        own = [each.sha256 for each in owners[target] if each.package == entry.package and each.sha256 is not None]
        return not own or entry.sha256 in own
    if target.startswith("../"):  # the machine's own
        return True
    return os.path.isfile(path) and digest_of(path) == entry.sha256


# --- packages that are kept unpacked ----------------------------------------------------------------------------------


def listed_files(directory: Path) -> list[PackagePath]:
    """The paths of an unpacked package by its ``info/paths.json``, of an older package by its ``info/files``.

    Raises OSError for a list that cannot be read, ValueError for one that is malformed.
    """
    try:
        listing = read_regular(directory / "info" / "paths.json", PACKAGE)
    except FileNotFoundError:  # packages of old have none
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
    """The paths of an unpacked package that are missing or not as its own list has them; without hashes, missing."""
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
    """Whether files of an unpacked package are missing or cut off. A package that is not there is not damaged."""
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
    """Whether a file is what a power cut leaves of one of this size: it ends early, with a block of the disk.

    One that ends early somewhere else was changed by a program, through another of its names.
    """
    return isinstance(size, int) and status.st_size < size and not status.st_size % 512 and stat.S_ISREG(status.st_mode)


# --- whether an environment is complete, which no engine's exit status tells ------------------------------------------


def check_complete(
    prefix: Path,
    *,
    expect_packages: bool = True,
    log: Path | None = None,
    whole: Mapping[str, os.stat_result] | None = None,
    there: Mapping[str, os.stat_result] | None = None,
) -> tuple[int, int]:
    """The number of packages of the complete environment at ``prefix``, and the bytes that it takes on disk.

    conda and mamba write ``conda-meta/history`` last, with the package records beside it (mamba makes the file empty at
    the start, conda at the end); a prefix that was left half made lacks the one or the others.

    ``expect_packages`` is false for a request without packages: an environment with nothing in it is complete then.
    ``there`` is all that is below the prefix, as :func:`walk` tells it; ``whole`` the same, where its packages' files
    were found to be there and whole just now. Raises EngineError where it is not complete, and DamagedPackages where
    it was linked from packages that had lost something.
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
            reason = f"the package record {path.name} cannot be read: {error.problem}"
            raise _incomplete(prefix, reason, log) from None
        missing, wanted = _missing(record, prefix, there)
        # Scripts that run at linking may take single files away again; a package that was not linked lacks nearly all.
        if missing * 2 > wanted:
            raise _incomplete(prefix, f"{missing} of the {wanted} files of {record.name} are missing", log)
        # A short file is no fault by itself: another package, pip or a script may have written one over it.
        if (missing or _has_short_files(record, there)) and record.source is not None and is_damaged(record.source):
            damaged.append(record.source)
    if damaged:
        raise DamagedPackages(damaged)
    return len(paths), total_room(there.values())


def _incomplete(prefix: Path, reason: str, log: Path | None) -> EngineError:
    return EngineError(
        f"the environment at {prefix} is not complete: {reason}",
        code="environment-damaged",
        hint="Run the same command again; it is made anew.",
        log=None if log is None else str(log),
    )


def _missing(record: PrefixRecord, prefix: Path, there: Mapping[str, os.stat_result]) -> tuple[int, int]:
    """How many of the package's files are missing, and of how many; the latter 0 where none is."""
    # thousands of names: the quick look first
    unseen = [name for name in record.files if name not in there and not is_volatile(name)]
    missing = sum(not os.path.lexists(f"{prefix}/{name}") for name in unseen)  # through a link to a directory?
    return missing, sum(not is_volatile(name) for name in record.files) if missing else 0


def _has_short_files(record: PrefixRecord, there: Mapping[str, os.stat_result]) -> bool:
    """Whether a file of the package is shorter than it was packed; those in which the prefix was written may be."""
    for entry in record.entries:
        name = str(entry.get("_path"))
        status = there.get(name)
        if status is None or entry.get("prefix_placeholder") or not _is_cut_off(status, entry.get("size_in_bytes")):
            continue
        if not is_volatile(name):
            return True
    return False

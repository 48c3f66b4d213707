"""The store: from an environment's name to its prefix, complete or absent, held in use; and a complete one's marker.

A prefix cannot be moved once made, so it is built where it will stay, and its marker, written last, is what makes it
exist: ``conda-meta/cetool``, JSON without a suffix, since conda takes every ``*.json`` there for a package record. Two
file locks guard each name: ``NAME.build.lock`` is held by the process that makes it, ``DIRECTORY.lock`` is shared by
all that run in it and held exclusively by the process that makes or removes that directory. A directory is usually
called as the environment; where one must be made again while a script still runs in it, the new one is ``NAME-2``, and
so on. :mod:`cetool.store.making` makes and removes them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from cetool.base.codec import decode, encode
from cetool.base.errors import StoreError
from cetool.base.filelock import FileLock, is_locked, try_lock
from cetool.base.limits import NOTE, parse_json, read_regular
from cetool.base.ownership import check_own_tree, ensure_private_dir
from cetool.base.process import start_time
from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.declare.environment import NAME_LENGTH, EnvironmentSpec
from cetool.settings.paths import Paths
from cetool.warm.files import append_note, use_line

#: Raised when the file's meaning changes; a marker of another schema makes its environment count as absent.
MARKER_SCHEMA = 1
MARKER = "conda-meta/cetool"
#: CEP 22: environments with this file are not to be changed by conda clients.
FROZEN = "conda-meta/frozen"


#: What reading a file that is not a marker raises.
_BROKEN = (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError)


class Marker(Value):
    """What is known of a complete environment."""

    #: The spec's.
    name: str
    #: The directory that it was made for: a prefix cannot be moved.
    prefix: str
    #: conda's name of the platform.
    subdir: str
    spec: EnvironmentSpec
    engine: str
    engine_version: str
    #: Seconds since 1970.
    created: float
    #: How long it took.
    seconds: float
    #: The number of its package records.
    packages: int
    #: Bytes on disk, hard links counted once.
    size: int
    #: The version of cetool that made it.
    cetool: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return encode(self, schema=MARKER_SCHEMA)

    @classmethod
    def from_dict(cls, data: object) -> Marker:
        """The marker that :meth:`as_dict` wrote. Raises ValueError where it is not one."""
        marker = decode(cls, data, schema=MARKER_SCHEMA)
        # an SQLite integer has 64 bits
        for number in (marker.created, marker.seconds, marker.packages, marker.size):
            if not 0 <= number < 2**63:
                raise ValueError(f"{number} is out of range")
        for text in (marker.name, marker.subdir, marker.engine, marker.engine_version, marker.cetool):
            text.encode()  # raises UnicodeEncodeError for a byte of a path
        return marker


def read_marker(prefix: Path) -> Marker | None:
    """The environment's marker, or None where there is none that this cetool understands."""
    try:
        return Marker.from_dict(_read(prefix))
    except _BROKEN:
        return None


def is_marked(prefix: Path) -> bool:
    """Whether the environment has a marker of its own, whatever is in that: who looks at thousands looks no closer."""
    try:
        data = _read(prefix)
        return data["schema"] == MARKER_SCHEMA and _is_same(data["prefix"], prefix)
    except _BROKEN:
        return False


def valid_marker(prefix: Path) -> Marker | None:
    """The marker of a complete environment that was made for this very directory, else None."""
    marker = read_marker(prefix)
    return marker if marker is not None and _is_same(marker.prefix, prefix) else None


def _is_same(marked: str, prefix: Path) -> bool:
    """Whether a marker is the directory's own: the paths inside one copied or moved from elsewhere are another's."""
    return marked == str(prefix) or os.path.realpath(marked) == os.path.realpath(prefix)


def _read(prefix: Path) -> Any:
    """The document in the marker's file. Raises one of _BROKEN."""
    return parse_json(read_regular(f"{prefix}/{MARKER}", NOTE, follow=False), exact=True)


_PYTHON = "python.exe" if os.name == "nt" else "bin/python"


def what_is_lost(prefix: Path, marker: Marker) -> str | None:
    """What the environment lacks, by a look at its package records and its python; None for nothing."""
    try:
        records = [name for name in os.listdir(prefix / "conda-meta") if name.endswith(".json")]
    except OSError as error:
        return f"its package records cannot be read: {error.strerror}"
    missing = marker.packages - len(records)
    if missing > 0:
        return f"{missing} of its {marker.packages} package records are gone"
    has_python = any(name.startswith("python-") and name[7:8].isdigit() for name in records)
    if has_python and not (prefix / _PYTHON).exists():
        return f"its {_PYTHON} is gone"
    return None


_DIRECTORY = pattern(rf"([0-9a-f]{{{NAME_LENGTH}}})(?:-(\d{{1,4}}))?\Z")
#: Seconds that one who wants to use a complete environment lets another hold it alone.
_PATIENCE = 2.0


class Lease(Value):
    """An environment that is held in use: it is not removed while ``lock`` or an inherited copy of it is open.

    It is released at the end of a ``with`` block.
    """

    prefix: Path
    marker: Marker
    #: None in a cache that cannot be written to, where nothing can be removed either.
    lock: FileLock | None
    #: Whether it was made for this lease.
    created: bool = False
    #: The lock of the environment of cetool's that it lies over.
    below: FileLock | None = None

    @property
    def locks(self) -> tuple[FileLock, ...]:
        """All that is held."""
        return tuple(lock for lock in (self.lock, self.below) if lock is not None)

    @property
    def base(self) -> Path | None:
        """The prefix that it lies over, None where it stands by itself."""
        overlay = self.marker.spec.overlay
        return None if overlay is None else Path(overlay.base)

    @property
    def prefixes(self) -> tuple[Path, ...]:
        """Its own prefix, then its base's where it has one: where its programs are."""
        return (self.prefix,) if self.base is None else (self.prefix, self.base)

    def release(self) -> None:
        """Stop using it."""
        for lock in self.locks:
            lock.release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Directory(Value):
    """A directory of the store, complete or not."""

    prefix: Path
    name: str

    @property
    def marker(self) -> Marker | None:
        """Its marker, None where the environment is incomplete."""
        return valid_marker(self.prefix)

    @property
    def is_marked(self) -> bool:
        """Whether it has a marker of its own, whatever is in that."""
        return is_marked(self.prefix)


def is_directory_name(text: str) -> bool:
    """Whether a directory of the store can be called so."""
    return _DIRECTORY.match(text) is not None


class Store:
    """All environments below one directory."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._checked = False

    def check(self) -> None:
        """Check, once, that no other user has a hand in the environments. Raises OwnershipError.

        All that takes or lists environments calls this first.
        """
        if not self._checked:
            for directory in dict.fromkeys((self.paths.root, self.paths.envs)):
                ensure_private_dir(directory, trust=self.paths.trusted, writable=False)
            self._checked = True

    def prefix(self, name: str) -> Path:
        """Where the environment of this name is, or would be made."""
        found = self._complete(name)
        return self.paths.envs / name if found is None else found

    def lease(self, name: str) -> Lease | None:
        """The environment held in use, or None where there is no complete one."""
        self.check()
        deadline = time.monotonic() + _PATIENCE
        while True:
            prefix = self._complete(name)
            if prefix is None:
                return None
            try:
                lock = try_lock(self.use_lock(prefix), shared=True)
                taken = lock is not None
            except StoreError:
                if os.access(self.paths.locks, os.W_OK):
                    raise
                lock, taken = None, True  # a cache that we cannot write to, without a lock to hold
            if taken:
                marker = valid_marker(prefix)
                if marker is not None:
                    self._check_environment(prefix, lock)
                    return Lease(prefix, marker, lock)
                if lock is not None:
                    lock.release()  # removed between the look and the lock
            elif time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.005)  # somebody looks whether it is in use, removes it, or has just made it: look again

    def _check_environment(self, prefix: Path, lock: FileLock | None) -> None:
        try:
            check_own_tree(prefix, trust=self.paths.trusted)
        except BaseException as error:
            if lock is not None:
                lock.release()
            if isinstance(error, OSError):
                raise StoreError(
                    f"the environment {prefix} cannot be read: {error.strerror or error}", code="environment-gone"
                ) from error
            raise

    def hold(self, prefix: Path) -> FileLock | None:
        """The shared lock of a directory of the store, whatever is in it; None where another holds it alone."""
        self.check()
        return try_lock(self.use_lock(prefix), shared=True)

    def hold_for_removal(self, directory: Directory) -> FileLock | None:
        """The directory's exclusive lock, or None where something runs or is being made in it."""
        return try_lock(self.use_lock(directory.prefix), shared=False)

    def last_shared_use(self, directory: Directory) -> float:
        """When a directory that several users share was last used, by its lock's time; 0 for one's own."""
        if self.paths.locks.parent != self.paths.envs:
            return 0.0
        try:
            return self.use_lock(directory.prefix).stat().st_mtime
        except OSError:
            return 0.0

    def in_use(self, directory: Directory) -> bool:
        """Whether any process holds the directory now."""
        return is_locked(self.use_lock(directory.prefix))

    def directories(self, name: str | None = None) -> Iterator[Directory]:
        """The directories of the store (of that name), complete or not, by name."""
        self.check()
        try:
            entries = sorted(os.listdir(self.paths.envs))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(
                f"{self.paths.envs} cannot be read: {error.strerror}", code="cache-not-writable"
            ) from error
        for entry in entries:
            match = _DIRECTORY.match(entry)
            if match and (name is None or match[1] == name):
                yield Directory(self.paths.envs / entry, match[1])

    def _complete(self, name: str) -> Path | None:
        usual = self.paths.envs / name
        if valid_marker(usual) is not None:
            return usual
        found = [
            (marker.created, directory.prefix)
            for directory in self.directories(name)
            if directory.prefix != usual and (marker := directory.marker) is not None
        ]
        return max(found)[1] if found else None

    def use_lock(self, prefix: Path) -> Path:
        """The file lock that all who use a directory share."""
        return self.paths.locks / f"{prefix.name}.lock"

    def build_lock(self, name: str) -> Path:
        """The file lock of the process that makes an environment of this name."""
        return self.paths.locks / f"{name}.build.lock"


# --- uses -------------------------------------------------------------------------------------------------------------

#: The seventh field of a note that says that an environment was made; of a use there are six.
MADE = "made"


def note_use(spool: Path, directory: str, script: str) -> None:
    """Note that this process (and what it becomes by exec) uses an environment.

    Raises OSError where it cannot be noted.
    """
    append_note(os.fspath(spool), use_line(directory, script, start_time(os.getpid())))


def note_made(spool: Path, directory: str) -> None:
    """Note that an environment was made, so that the log looks at its marker. Raises OSError."""
    line = use_line(directory, "", start_time(os.getpid()))
    append_note(os.fspath(spool), line[:-1] + f"\t{MADE}\n".encode())

"""The store: find an environment's prefix by name, hold it in use, and read its marker.

A prefix cannot be moved, so it is made where it will stay. Its marker, written last, is what makes it complete:
``conda-meta/cetool``, JSON without a suffix, because conda reads every ``*.json`` there as a package record. Two file
locks guard each name: the process that makes an environment holds ``NAME.build.lock``; all processes that run in it
share ``DIRECTORY.lock``, and the process that makes or removes the directory holds that one exclusively. A directory
usually has the environment's name; an environment that is made again while a script runs in it becomes ``NAME-2``, and
so on. :mod:`cetool.store.making` makes and removes environments.
"""

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

#: Incremented when the format changes; an environment with another schema counts as absent.
MARKER_SCHEMA = 1
MARKER = "conda-meta/cetool"
#: CEP 22: conda clients must not change environments that have this file.
FROZEN = "conda-meta/frozen"


#: What reading a file that is not a marker raises.
_BROKEN = (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError)


class Origin(Value):
    """The server whose answer an environment is."""

    #: Its URL.
    server: str
    #: The number of the build there.
    build: int
    #: ``namespace/name``, if the environment was asked for by name, or has one there.
    environment: str | None = None


class Marker(Value):
    """What is known about a complete environment."""

    #: The specification's name.
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
    #: Seconds that it took to make.
    seconds: float
    #: Number of package records.
    packages: int
    #: Bytes on disk, hard-linked files counted once.
    size: int
    #: Version of cetool that made it.
    cetool: str
    #: None for an environment that was solved here, or made from a lock.
    origin: Origin | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return encode(self, schema=MARKER_SCHEMA)

    @classmethod
    def from_dict(cls, data: object) -> Marker:
        """Return the marker that :meth:`as_dict` wrote. Raises ValueError if it is not one."""
        marker = decode(cls, data, schema=MARKER_SCHEMA)
        # an SQLite integer has 64 bits
        for number in (marker.created, marker.seconds, marker.packages, marker.size):
            if not 0 <= number < 2**63:
                raise ValueError(f"{number} is out of range")
        origin = () if marker.origin is None else (marker.origin.server, marker.origin.environment or "")
        for text in (marker.name, marker.subdir, marker.engine, marker.engine_version, marker.cetool, *origin):
            text.encode()  # raises UnicodeEncodeError for undecodable bytes of a path
        return marker


def read_marker(prefix: Path) -> Marker | None:
    """Return the environment's marker, or None if there is none that this cetool understands."""
    try:
        return Marker.from_dict(_read(prefix))
    except _BROKEN:
        return None


def is_marked(prefix: Path) -> bool:
    """Return whether the environment has its own marker, without validating the rest: fast enough for thousands."""
    try:
        data = _read(prefix)
        return data["schema"] == MARKER_SCHEMA and _is_same(data["prefix"], prefix)
    except _BROKEN:
        return False


def valid_marker(prefix: Path) -> Marker | None:
    """Return the marker of a complete environment made for this directory, else None."""
    marker = read_marker(prefix)
    return marker if marker is not None and _is_same(marker.prefix, prefix) else None


def _is_same(marked: str, prefix: Path) -> bool:
    """Return whether the marker belongs to this directory: a copied or moved environment contains wrong paths."""
    return marked == str(prefix) or os.path.realpath(marked) == os.path.realpath(prefix)


def _read(prefix: Path) -> Any:
    """Return the document in the marker's file. Raises one of _BROKEN."""
    return parse_json(read_regular(f"{prefix}/{MARKER}", NOTE, follow=False), exact=True)


_PYTHON = "python.exe" if os.name == "nt" else "bin/python"


def what_is_lost(prefix: Path, marker: Marker) -> str | None:
    """Return what the environment lacks, judged by its package records and python; None if nothing is missing."""
    try:
        records = [name for name in os.listdir(prefix / "conda-meta") if name.endswith(".json")]
    except OSError as error:
        return f"cannot read its package records: {error.strerror}"
    missing = marker.packages - len(records)
    if missing > 0:
        return f"{missing} of its {marker.packages} package records {'is' if missing == 1 else 'are'} missing"
    has_python = any(name.startswith("python-") and name[7:8].isdigit() for name in records)
    if has_python and not (prefix / _PYTHON).exists():
        return f"its {_PYTHON} is missing"
    return None


_DIRECTORY = pattern(rf"([0-9a-f]{{{NAME_LENGTH}}})(?:-(\d{{1,4}}))?\Z")
#: Seconds that a process waits for a complete environment that another holds exclusively.
_PATIENCE = 2.0


class Lease(Value):
    """An environment held in use: it is not removed while ``lock`` or an inherited copy of it is open.

    The end of a ``with`` block releases it.
    """

    prefix: Path
    marker: Marker
    #: None in a read-only cache, where nothing can be removed either.
    lock: FileLock | None
    #: Whether it was made for this lease.
    created: bool = False
    #: The lock of its base, if cetool made that.
    below: FileLock | None = None

    @property
    def locks(self) -> tuple[FileLock, ...]:
        """All locks that are held."""
        return tuple(lock for lock in (self.lock, self.below) if lock is not None)

    @property
    def base(self) -> Path | None:
        """The prefix of its base, or None if it has none."""
        overlay = self.marker.spec.overlay
        return None if overlay is None else Path(overlay.base)

    @property
    def prefixes(self) -> tuple[Path, ...]:
        """Its own prefix, then its base's if it has one: where its programs are."""
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
        """Its marker, or None if the environment is incomplete."""
        return valid_marker(self.prefix)

    @property
    def is_marked(self) -> bool:
        """Whether it has its own marker; the marker is not validated further."""
        return is_marked(self.prefix)


def is_directory_name(text: str) -> bool:
    """Return whether the text is a valid name for a directory of the store."""
    return _DIRECTORY.match(text) is not None


class Store:
    """All environments below one directory."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._checked = False

    def check(self) -> None:
        """Check, once, that no other user could have changed the environments. Raises OwnershipError.

        Every method that leases or lists environments calls this first.
        """
        if not self._checked:
            for directory in dict.fromkeys((self.paths.root, self.paths.envs)):
                ensure_private_dir(directory, trust=self.paths.trusted, writable=False)
            self._checked = True

    def prefix(self, name: str) -> Path:
        """Return where the environment of this name is, or would be made."""
        found = self._complete(name)
        return self.paths.envs / name if found is None else found

    def lease(self, name: str) -> Lease | None:
        """Return a lease of the environment, or None if there is no complete one."""
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
                lock, taken = None, True  # a read-only cache without a lock to hold
            if taken:
                marker = valid_marker(prefix)
                if marker is not None:
                    self._check_environment(prefix, lock)
                    return Lease(prefix, marker, lock)
                if lock is not None:
                    lock.release()  # removed between the check and the lock
            elif time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.005)  # another process checks, removes, or has just made it: look again

    def _check_environment(self, prefix: Path, lock: FileLock | None) -> None:
        try:
            check_own_tree(prefix, trust=self.paths.trusted)
        except BaseException as error:
            if lock is not None:
                lock.release()
            if isinstance(error, OSError):
                raise StoreError(
                    f"cannot read environment {prefix}: {error.strerror or error}", code="environment-gone"
                ) from error
            raise

    def hold(self, prefix: Path) -> FileLock | None:
        """Return the shared lock of a directory, whatever it contains; None if another process holds it exclusively."""
        self.check()
        return try_lock(self.use_lock(prefix), shared=True)

    def hold_for_removal(self, directory: Directory) -> FileLock | None:
        """Return the directory's exclusive lock, or None if a process uses or makes it."""
        return try_lock(self.use_lock(directory.prefix), shared=False)

    def last_shared_use(self, directory: Directory) -> float:
        """Return the last use of a shared cache's directory, by its lock's time; 0 in a cache of one user."""
        if self.paths.locks.parent != self.paths.envs:
            return 0.0
        try:
            return self.use_lock(directory.prefix).stat().st_mtime
        except OSError:
            return 0.0

    def in_use(self, directory: Directory) -> bool:
        """Return whether any process holds the directory now."""
        return is_locked(self.use_lock(directory.prefix))

    def directories(self, name: str | None = None) -> Iterator[Directory]:
        """Yield the directories of the store (or of one name), complete or not, sorted by name."""
        self.check()
        try:
            entries = sorted(os.listdir(self.paths.envs))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot read {self.paths.envs}: {error.strerror}", code="cache-not-writable") from error
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
        """Return the file lock that all users of a directory share."""
        return self.paths.locks / f"{prefix.name}.lock"

    def build_lock(self, name: str) -> Path:
        """Return the file lock of the process that makes this environment."""
        return self.paths.locks / f"{name}.build.lock"


# --- uses -------------------------------------------------------------------------------------------------------------

#: The seventh field of a note that an environment was made; a use has six fields.
MADE = "made"


def note_use(spool: Path, directory: str, script: str) -> None:
    """Note that this process (and what it becomes by exec) uses an environment.

    Raises OSError if it cannot be noted.
    """
    append_note(os.fspath(spool), use_line(directory, script, start_time(os.getpid())))


def note_made(spool: Path, directory: str) -> None:
    """Note that an environment was made, so that the usage log reads its marker. Raises OSError."""
    line = use_line(directory, "", start_time(os.getpid()))
    append_note(os.fspath(spool), line[:-1] + f"\t{MADE}\n".encode())

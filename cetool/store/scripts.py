"""Scripts from URLs, standard input or the command line, kept as files; and scripts' cache directories.

An interpreter needs a path, and the same code should have the same one, so a script is stored under its digest. A
running script holds a shared lock that passes through exec, so that a collection removes only what is neither recent
nor running.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cetool.base.codec import sha256_of
from cetool.base.errors import StoreError
from cetool.base.filelock import FileLock, wait_for_lock
from cetool.base.files import put_file
from cetool.base.ownership import ensure_private_dir
from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.store.disk import clear, clear_locks, write_hint

_DIGEST_LENGTH = 20
_ENTRY = pattern(rf"[0-9a-f]{{{_DIGEST_LENGTH}}}\Z")
_UNSAFE = pattern(r"[^A-Za-z0-9._+-]+")
_LONGEST_NAME = 100
_CACHE, _LOCKS, _TRASH = "cache", ".locks", ".trash"
_PRIVATE = stat.S_IRWXU


class Held(Value):
    """A kept script or cache directory that no collection removes while ``lock`` or an inherited copy of it is open."""

    path: Path
    lock: FileLock | None

    def release(self) -> None:
        """Stop using it."""
        if self.lock is not None:
            self.lock.release()


class ScriptStore:
    """All kept scripts and cache directories, below one private directory.

    ``DIGEST/NAME`` is a script, ``cache/DIGEST`` a script's cache directory; ``.locks`` and ``.trash`` are next to
    them. The modification time of a directory named by a digest is its last use.
    """

    def __init__(self, directory: Path, *, trust: bool = False) -> None:
        self.directory = directory
        self._trust = trust

    def path_of(self, data: bytes, name: str) -> Path:
        """Return the path of a script with this content, whether or not it is kept yet."""
        return self.directory / _digest(data) / safe_name(name)

    def hold(self, data: bytes, name: str) -> Held:
        """Keep an executable file (0700) with this content, named ``name`` made safe for a path.

        The result is held in use: keep ``lock.fd`` open in the script's process. Raises StoreError if it cannot be
        written.
        """
        path = self.path_of(data, name)

        def put() -> None:
            path.parent.mkdir(mode=_PRIVATE, exist_ok=True)
            if not _is_kept(path, data):
                # not synced: after a crash the content is compared, and written again if necessary
                put_file(path, data, mode=_PRIVATE, sync=False)
            _touch(path)
            _touch(path.parent)

        return self._held(path, path.parent, put)

    def hold_cache_dir(self, script: Path) -> Held:
        """Make the script's ``${CACHE}`` directory (0700) and hold it in use. Raises StoreError."""
        path = self.directory / _CACHE / _digest(os.fsencode(os.path.abspath(script)))

        def put() -> None:
            path.parent.mkdir(mode=_PRIVATE, exist_ok=True)
            path.mkdir(mode=_PRIVATE, exist_ok=True)
            if path.is_symlink():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            _touch(path)

        return self._held(path, path, put)

    @property
    def trash(self) -> Path:
        """Where a collection moves what it removes."""
        return self.directory / _TRASH

    def entries(self) -> Iterator[Path]:
        """Yield the directories named by digests."""
        for directory in (self.directory, self.directory / _CACHE):
            for name in _names(directory):
                if _ENTRY.match(name):
                    yield directory / name

    def lock_path(self, path: Path) -> Path:
        """Return the file lock of a directory named by a digest."""
        kind = f"{_CACHE}-" if path.parent.name == _CACHE else ""
        return self.directory / _LOCKS / f"{kind}{path.name}.lock"

    def tidy(self) -> None:
        """Delete the remains of an interrupted collection, and file locks that guard nothing."""
        clear(self.trash, self.directory)
        there = {self.lock_path(path).name for path in self.entries()}
        clear_locks(self.directory / _LOCKS, there.__contains__)

    def _held(self, path: Path, guarded: Path, put: Callable[[], None]) -> Held:
        """Return the path, holding the shared lock of the directory ``guarded``, after ``put`` made or refreshed it."""
        ensure_private_dir(self.directory, trust=self._trust, writable=False)
        try:
            with contextlib.suppress(FileExistsError):
                self.directory.mkdir(mode=_PRIVATE, parents=True)
            for _ in range(50):
                lock = self._lock(guarded)
                try:
                    put()
                    if os.path.lexists(path):
                        return Held(path, lock)
                except FileNotFoundError:
                    pass  # removed without locks: by hand
                except BaseException:
                    if lock is not None:
                        lock.release()
                    raise
                if lock is not None:
                    lock.release()
                self.directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        except OSError as error:
            raise _write_failure(error, path) from error
        raise StoreError(
            f"cannot keep {path}: another process removes it repeatedly",
            code="cache-not-writable",
            hint="Wait until that process has ended, then run again.",
        )

    def _lock(self, guarded: Path) -> FileLock | None:
        try:
            with contextlib.suppress(FileNotFoundError):
                (self.directory / _LOCKS).mkdir(mode=_PRIVATE, exist_ok=True)
            return wait_for_lock(self.lock_path(guarded), shared=True)
        except (OSError, StoreError):
            if os.access(self.directory, os.W_OK):
                raise
            return None  # a read-only cache: nothing can be removed from it either


def safe_name(name: str) -> str:
    """Return a file name of ASCII letters, digits and ``._+-``: not hidden, 100 characters at most, suffix kept."""
    stem, _, suffix = _UNSAFE.sub("_", name if "." in name else name + ".").rpartition(".")
    suffix = suffix.strip("_-")[: _LONGEST_NAME // 2]
    end = f".{suffix}" if suffix else ""
    return (stem.strip("._-")[: _LONGEST_NAME - len(end)] or "script") + end


def _digest(data: bytes) -> str:
    return sha256_of(data)[:_DIGEST_LENGTH]


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _is_kept(path: Path, data: bytes) -> bool:
    """Return whether the file has the right content; correct its mode."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False  # absent, or not a regular file: writing it fails with the reason
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        # a file with a second hard link can be changed through that one
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or file.read(len(data) + 1) != data:
            return False
        if os.name != "nt" and stat.S_IMODE(status.st_mode) != _PRIVATE:
            os.fchmod(fd, _PRIVATE)
        return True


def _touch(path: Path) -> None:
    """Note a use. If that is not permitted, nothing can be removed either."""
    try:
        os.utime(path)
    except FileNotFoundError:
        raise
    except OSError:
        pass


def _write_failure(error: OSError, path: Path) -> StoreError:
    in_the_way = isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError))
    return StoreError(
        f"cannot write the script's copy {path}: {error.strerror or error}",
        code="cache-not-writable",
        hint=f"Move or remove {error.filename2 or error.filename}, which is in the way."
        if in_the_way
        else write_hint(error),
    )

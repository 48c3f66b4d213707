"""Scripts that came from a URL, standard input or the command line, kept as files; and scripts' own cache directories.

An interpreter needs a path, and the same code needs the same one: a script is kept by its digest. Whoever runs one
holds a shared lock on it that passes through exec, so that collection takes only what is neither recent nor running.
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
    """A kept script or a cache directory that is not collected while ``lock`` or an inherited copy of it is open."""

    path: Path
    lock: FileLock | None

    def release(self) -> None:
        """Stop using it."""
        if self.lock is not None:
            self.lock.release()


class ScriptStore:
    """All kept scripts and cache directories below one directory of this user's own.

    ``DIGEST/NAME`` is a script, ``cache/DIGEST`` a script's cache directory, next to ``.locks`` and ``.trash``. The
    modification time of a directory that is called by a digest says when it was last used.
    """

    def __init__(self, directory: Path, *, trust: bool = False) -> None:
        self.directory = directory
        self._trust = trust

    def path_of(self, data: bytes, name: str) -> Path:
        """The path that a script of this content has here, whether it is kept yet or not."""
        return self.directory / _digest(data) / safe_name(name)

    def hold(self, data: bytes, name: str) -> Held:
        """Keep an executable file (0700) of this content, called ``name`` as far as that is safe in a path.

        It is held in use: ``lock.fd`` is to be kept open in the process that the script becomes. Raises StoreError
        where it cannot be written.
        """
        path = self.path_of(data, name)

        def put() -> None:
            path.parent.mkdir(mode=_PRIVATE, exist_ok=True)
            if not _is_kept(path, data):
                # not synced: after a crash its content is compared, and written again if need be
                put_file(path, data, mode=_PRIVATE, sync=False)
            _touch(path)
            _touch(path.parent)

        return self._held(path, path.parent, put)

    def hold_cache_dir(self, script: Path) -> Held:
        """Make the directory that is the script's ``${CACHE}``, 0700, held in use. Raises StoreError."""
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
        """Where a collection puts what it removes."""
        return self.directory / _TRASH

    def entries(self) -> Iterator[Path]:
        """The directories that are called by a digest."""
        for directory in (self.directory, self.directory / _CACHE):
            for name in _names(directory):
                if _ENTRY.match(name):
                    yield directory / name

    def lock_path(self, path: Path) -> Path:
        """The file lock of a directory that is called by a digest."""
        kind = f"{_CACHE}-" if path.parent.name == _CACHE else ""
        return self.directory / _LOCKS / f"{kind}{path.name}.lock"

    def tidy(self) -> None:
        """Delete what an interrupted collection left, and the file locks that guard nothing any more."""
        clear(self.trash, self.directory)
        there = {self.lock_path(path).name for path in self.entries()}
        clear_locks(self.directory / _LOCKS, there.__contains__)

    def _held(self, path: Path, guarded: Path, put: Callable[[], None]) -> Held:
        """The path under the shared lock of the directory ``guarded``, after ``put`` made or refreshed it."""
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
                    pass  # a removal without locks: by hand
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
            f"{path} is removed as often as it is written",
            code="cache-not-writable",
            hint="Wait for what removes it to end.",
        )

    def _lock(self, guarded: Path) -> FileLock | None:
        try:
            with contextlib.suppress(FileNotFoundError):
                (self.directory / _LOCKS).mkdir(mode=_PRIVATE, exist_ok=True)
            return wait_for_lock(self.lock_path(guarded), shared=True)
        except (OSError, StoreError):
            if os.access(self.directory, os.W_OK):
                raise
            return None  # a cache that cannot be written to: nothing can be removed from it either


def safe_name(name: str) -> str:
    """A file name of ASCII letters, digits and ``._+-``, not hidden, of 100 characters at most, its suffix kept."""
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
    """Whether the file is there as it should be; its mode is put right."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False  # absent, or not a file of ours: writing fails for the reason if there is one
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        # a file with a second name can be changed through that one
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or file.read(len(data) + 1) != data:
            return False
        if os.name != "nt" and stat.S_IMODE(status.st_mode) != _PRIVATE:
            os.fchmod(fd, _PRIVATE)
        return True


def _touch(path: Path) -> None:
    """Note a use. Where that may not be noted nothing may be removed either."""
    try:
        os.utime(path)
    except FileNotFoundError:
        raise
    except OSError:
        pass


def _write_failure(error: OSError, path: Path) -> StoreError:
    in_the_way = isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError))
    return StoreError(
        f"the script's place {path} could not be written: {error.strerror or error}",
        code="cache-not-writable",
        hint=f"Move away what is in its place: {error.filename2 or error.filename}"
        if in_the_way
        else write_hint(error),
    )

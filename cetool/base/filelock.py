"""Advisory locks on files: shared while a script runs, exclusive while an environment is made or removed.

A lock (``flock``, portalocker on Windows) belongs to an open file description, so it passes through fork and exec, and
the kernel drops it when the last process that holds the descriptor ends. Nothing has to be cleaned up after a crash,
and nothing has to guess whether an environment is in use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from cetool.base.errors import StoreError
from cetool.base.ownership import make_private_dirs

if sys.platform != "win32":  # portalocker takes longer to import than all that is done here
    import fcntl


def take(fd: int, *, shared: bool) -> bool:
    """Take the lock of an open file if it is free; whether it was. Raises OSError where there are no locks."""
    if sys.platform == "win32":
        import portalocker

        flags = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
        try:
            portalocker.lock(fd, flags | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.AlreadyLocked:
            return False
        except portalocker.LockException as error:
            raise OSError(str(error)) from error
        return True
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share(fd: int) -> None:
    """Turn an exclusive lock into a shared one. The kernel does it in two steps: another may come between them."""
    if sys.platform == "win32":  # a region must be unlocked before it is locked in another manner
        import portalocker

        portalocker.unlock(fd)
        portalocker.lock(fd, portalocker.LockFlags.SHARED)
    else:
        fcntl.flock(fd, fcntl.LOCK_SH)


#: Seconds between two tries while waiting: short at first, for locks held for moments, then gentle on the machine.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2
_READ, _WRITE = 0o444, 0o222
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class FileLock:
    """A lock that is held: on ``path``, by the open descriptor ``fd``."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def downgrade(self) -> bool:
        """Turn the exclusive lock into a shared one; whether it still is the lock that others find at ``path``.

        The kernel does this in two steps, between which another process may take the lock, and delete its file: what
        the lock guards is to be looked at again afterwards, and with False nothing is guarded any more.
        """
        share(self.fd)
        return _still_there(self.fd, self.path)

    def write_holder(self, text: str) -> None:
        """Leave a line in the file that tells a waiting process who holds the lock; failing to is no error."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)
            os.write(self.fd, text.encode("utf-8", "replace")[:400])

    def release(self) -> None:
        """Let go. Children that inherited the descriptor go on holding the lock."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def retire(self) -> None:
        """Let go, and remove the file unless somebody holds the lock by then, be it a child that inherited it."""
        self.release()
        with contextlib.suppress(StoreError):
            lock = _try(self.path, shared=False, create=False)
            if lock is not None:
                lock.delete()

    def delete(self) -> None:
        """Remove the file, then let go. Only while held exclusively, by no other process: it would lose its lock."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.release()

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool) -> FileLock | None:
    """The lock if it can be had at once, else None. Raises StoreError where the file cannot be a lock of ours."""
    return _try(path, shared=shared, create=True)


def wait_for_lock(
    path: Path,
    *,
    shared: bool = False,
    on_wait: Callable[[str], None] | None = None,
    at_most: float | None = None,
) -> FileLock:
    """The lock, however long that takes or for ``at_most`` seconds; signals are served meanwhile.

    ``on_wait`` is called once, with the line that the holder left (perhaps empty), when it is not had in a moment.
    Raises StoreError when the time is over, and as :func:`try_lock`.
    """
    pause = _FIRST_PAUSE
    told = False
    started = time.monotonic()
    while True:
        lock = try_lock(path, shared=shared)
        if lock is not None:
            return lock
        if on_wait is not None and not told and pause > 4 * _FIRST_PAUSE:
            on_wait(_holder(path))
            told = True
        if at_most is not None and time.monotonic() - started >= at_most:
            by = f" by {holder}" if (holder := _holder(path)) else ""
            raise StoreError(
                f"the lock {path} is held{by}", code="file-lock-failed", hint="Wait for its holder to end, or end it."
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def is_locked(path: Path) -> bool:
    """Whether anyone holds the lock now, in any manner. Never creates it. Raises StoreError as :func:`try_lock`."""
    try:
        lock = _try(path, shared=False, create=False)
    except StoreError:
        if os.path.lexists(path):
            raise
        return False
    if lock is None:
        return True
    lock.release()
    return False


def _try(path: Path, *, shared: bool, create: bool) -> FileLock | None:
    while True:
        fd = _open(path, create=create)
        try:
            taken = take(fd, shared=shared)
        except OSError as error:
            os.close(fd)
            raise StoreError(
                f"the file system does not lock {path}: {error}",
                code="file-lock-failed",
                hint="Set CETOOL_CACHE_DIR to a directory on a local disk.",
            ) from error
        if taken and _still_there(fd, path):
            return FileLock(path, fd)
        os.close(fd)
        if not taken:
            return None
        # else its last holder deleted it between our open and our lock


def _open(path: Path, *, create: bool) -> int:
    try:
        fd = _open_or_create(path, create=create)
    except OSError as error:
        raise StoreError(
            f"the lock {path} cannot be opened: {error.strerror}",
            code="cache-not-writable",
            hint="Look at who owns it and at its directory's permissions, or set CETOOL_CACHE_DIR.",
        ) from error
    if fd < 3 and sys.platform != "win32":
        # the caller closed a standard stream, and the script is not to find a lock in its place
        low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(low)
    status = os.fstat(fd)
    # A second name for the file could be a lock somewhere else: holding ours would then hold that one too.
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(fd)
        raise StoreError(f"{path} is not a lock of cetool's: it is no regular file of one name", hint="Remove it.")
    return fd


def _open_or_create(path: Path, *, create: bool) -> int:
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    for _ in range(10):
        try:
            return os.open(path, os.O_RDWR | flags)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as error:
            # A cache that may only be read still lets its environments be used: a lock needs no write.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | flags)
            continue
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            return _create(path, flags)
        if not path.parent.is_dir():
            make_private_dirs(path.parent, shared=True)
    return os.open(path, os.O_RDWR | flags)


def _create(path: Path, flags: int) -> int:
    """Create the file, for those to read and write who may read and write the directory: they share its locks."""
    mode = 0o600
    if sys.platform != "win32":
        mode |= stat.S_IMODE(path.parent.stat().st_mode) & _OTHERS & (_READ | _WRITE)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, mode)
    if sys.platform != "win32" and stat.S_IMODE(os.fstat(fd).st_mode) != mode:  # the umask took some away
        with contextlib.suppress(OSError):
            os.fchmod(fd, mode)
    return fd


def _still_there(fd: int, path: Path) -> bool:
    try:
        named = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(os.fstat(fd), named)


def _holder(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""

"""Lock files: shared while a script runs, exclusive while an environment is created or removed.

A file lock (``flock``, portalocker on Windows) belongs to an open file description: it passes through fork and exec,
and the kernel releases it when the last process that holds the descriptor ends. So a crash leaves nothing to clean up,
and cetool need not guess whether an environment is in use.
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

if sys.platform != "win32":  # portalocker takes longer to import than all of this module's work
    import fcntl


def take(fd: int, *, shared: bool) -> bool:
    """Try to lock an open file, and return whether that succeeded. Raises OSError on a file system without locks."""
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
    """Turn an exclusive lock into a shared one, in two steps between which another process may lock the file."""
    if sys.platform == "win32":  # a region must be unlocked before it can be locked in another mode
        import portalocker

        portalocker.unlock(fd)
        portalocker.lock(fd, portalocker.LockFlags.SHARED)
    else:
        fcntl.flock(fd, fcntl.LOCK_SH)


#: Seconds between two attempts: short at first, for locks that are held briefly, then longer to save CPU time.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2
_READ, _WRITE = 0o444, 0o222
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class FileLock:
    """A lock that is held on ``path``, by the open descriptor ``fd``."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def downgrade(self) -> bool:
        """Turn the exclusive lock into a shared one; return whether it is still the lock that others find at ``path``.

        The kernel does this in two steps, between which another process may take the lock and delete its file. Check
        afterwards what the lock guards; if this returns False, it guards nothing.
        """
        share(self.fd)
        return _still_there(self.fd, self.path)

    def write_holder(self, text: str) -> None:
        """Write a line into the file that tells waiting processes who holds the lock; failures are ignored."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)
            os.write(self.fd, text.encode("utf-8", "replace")[:400])

    def release(self) -> None:
        """Release the lock. Children that inherited the descriptor still hold it."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def retire(self) -> None:
        """Release the lock, and remove its file unless another process holds it, such as a child that inherited it."""
        self.release()
        with contextlib.suppress(StoreError):
            lock = _try(self.path, shared=False, create=False)
            if lock is not None:
                lock.delete()

    def delete(self) -> None:
        """Remove the file, then release the lock. Only for an exclusive lock, which no other process shares."""
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
    """Take the lock if it is free, else return None. Raises StoreError if the file cannot be a lock file."""
    return _try(path, shared=shared, create=True)


def wait_for_lock(
    path: Path,
    *,
    shared: bool = False,
    on_wait: Callable[[str], None] | None = None,
    at_most: float | None = None,
) -> FileLock:
    """Wait for the lock, forever or for ``at_most`` seconds; signals are handled meanwhile.

    If the lock is not free at once, ``on_wait`` is called with the line that its holder wrote (perhaps empty). Raises
    StoreError when the time is over, and as :func:`try_lock`.
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
                f"the file lock {path} is held{by}",
                code="file-lock-failed",
                hint="Wait until that process ends, or stop it.",
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def is_locked(path: Path) -> bool:
    """Return whether any process holds the lock. Never creates the file. Raises StoreError as :func:`try_lock`."""
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
                f"the file system cannot lock {path}: {error}",
                code="file-lock-failed",
                hint="Set CETOOL_CACHE_DIR to a directory on a local disk.",
            ) from error
        if taken and _still_there(fd, path):
            return FileLock(path, fd)
        os.close(fd)
        if not taken:
            return None
        # else its last holder deleted it after this process opened it


def _open(path: Path, *, create: bool) -> int:
    try:
        fd = _open_or_create(path, create=create)
    except OSError as error:
        raise StoreError(
            f"cannot open the file lock {path}: {error.strerror}",
            code="cache-not-writable",
            hint="Check who owns it and the permissions of its directory, or set CETOOL_CACHE_DIR.",
        ) from error
    if fd < 3 and sys.platform != "win32":
        # the caller closed a standard stream; the script must not find a lock in its place
        low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(low)
    status = os.fstat(fd)
    # A file with a second name could also be a lock elsewhere, which would then be held as well.
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(fd)
        raise StoreError(f"{path} is not a lock file: it is not a regular file with one name", hint="Remove it.")
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
            # Environments in a read-only cache can be used: locking a file does not write to it.
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
    """Create the file, with access for everyone who has access to its directory: they share the lock."""
    mode = 0o600
    if sys.platform != "win32":
        mode |= stat.S_IMODE(path.parent.stat().st_mode) & _OTHERS & (_READ | _WRITE)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, mode)
    if sys.platform != "win32" and stat.S_IMODE(os.fstat(fd).st_mode) != mode:  # the umask removed bits
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

"""Locks on files: shared while a script runs, exclusive while an environment is made or removed.

A lock belongs to an open file description (``flock``), so it passes through fork and exec and is dropped by the kernel
when the last process that holds the descriptor ends. Nothing has to be cleaned up after a crash, and nobody has to
guess whether an environment is in use.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import portalocker

from cetool.errors import StoreError

#: Seconds between two tries while waiting: short at first, for locks held for moments, then gentle on the machine.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2
_ON_WINDOWS = os.name == "nt"


@dataclass
class FileLock:
    """A lock that is held: on ``path``, by the open descriptor ``fd``."""

    path: Path
    fd: int

    def downgrade(self) -> None:
        """Turn the exclusive lock into a shared one.

        The kernel does this in two steps, between which another process may take the lock: look again afterwards.
        """
        if _ON_WINDOWS:  # a region must be unlocked before it is locked in another manner
            portalocker.unlock(self.fd)
        portalocker.lock(self.fd, portalocker.LockFlags.SHARED)

    def write_holder(self, text: str) -> None:
        """Leave a line in the file that tells a waiting process who holds the lock; failing to is no error."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, text.encode("utf-8", "replace")[:400], 0)

    def release(self) -> None:
        """Let go. Children that inherited the descriptor go on holding the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def delete(self) -> None:
        """Remove the file, then let go: only while held exclusively. Whoever waited for it makes a new one."""
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
    while True:
        fd = _open(path)
        flags = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
        try:
            portalocker.lock(fd, flags | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.AlreadyLocked:
            os.close(fd)
            return None
        except portalocker.LockException as error:
            os.close(fd)
            raise StoreError(
                f"the file system does not lock {path}: {error}",
                hint="Set CETOOL_CACHE_DIR to a directory on a local disk.",
            ) from error
        if _still_there(fd, path):
            return FileLock(path, fd)
        os.close(fd)  # its last holder deleted it between our open and our lock


def wait_for_lock(path: Path, *, shared: bool = False, on_wait: Callable[[str], None] | None = None) -> FileLock:
    """The lock, however long that takes; signals are served meanwhile.

    ``on_wait`` is called once, with the line that the holder left (perhaps empty), before the first pause.
    """
    pause = _FIRST_PAUSE
    told = False
    while True:
        lock = try_lock(path, shared=shared)
        if lock is not None:
            return lock
        if on_wait is not None and not told and pause > 4 * _FIRST_PAUSE:
            on_wait(_holder(path))
            told = True
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def is_locked(path: Path) -> bool:
    """Whether anyone holds the lock in any manner now. Never creates the file."""
    if not path.exists():
        return False
    lock = try_lock(path, shared=False)
    if lock is None:
        return True
    lock.release()
    return False


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, flags, 0o600)
        except (PermissionError, OSError) as error:
            # A cache that may only be read still lets its environments be used: a shared lock needs no write.
            if not isinstance(error, PermissionError) and error.errno != 30:  # EROFS
                raise
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        raise StoreError(
            f"the lock {path} cannot be opened: {error.strerror}",
            hint="Look at who owns it and at its directory's permissions, or set CETOOL_CACHE_DIR.",
        ) from error
    status = os.fstat(fd)
    # A second name for the file could be a lock somewhere else: holding ours would then hold that one too.
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(fd)
        raise StoreError(f"{path} is not a lock of cetool's: it is no regular file of one name", hint="Remove it.")
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

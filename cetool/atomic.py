"""Writes a file in one step, so that every reader finds the old one or the new one, whole; brings what was written to
the disk; and reads regular files only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file. Raises OSError, also for a pipe, a socket or a device: they might block."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        return file.read()


def put_file(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Put the bytes in the file's place; they are on the disk when this returns. Raises OSError.

    The mode bits are ``mode``, or where that is None those of the file that is there, else those of any new file. A
    symbolic link is replaced: resolve it before.
    """
    import tempfile  # for those who only look into this module: it takes long

    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".cetool", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path) if mode is None else mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Bring a directory's entries to the disk, where the system lets a directory be opened for that."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_file_system(prefix: Path) -> None:
    """Bring to the disk what was written below a directory: thousands of files, so the whole file system at once where
    that exists. Raises OSError.
    """
    import ctypes

    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a C library without the function
            libc = ctypes.CDLL(None, use_errno=True)
            fd = os.open(prefix, os.O_RDONLY)
            try:
                if libc.syncfs(fd) == 0:
                    return
                number = ctypes.get_errno()
            finally:
                os.close(fd)
            if number in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # what was written did not get there
                raise OSError(number, os.strerror(number), str(prefix))
    if hasattr(os, "sync"):
        os.sync()


def _mode(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask

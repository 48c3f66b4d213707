"""Writes a file in one step: whoever reads it finds the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def put_file(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Put the bytes in the file's place; they are on the disk when this returns. Raises OSError.

    The mode bits are ``mode``, or where that is None those of the file that is there, else those of any new file. A
    symbolic link is replaced: resolve it before.
    """
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
    with contextlib.suppress(OSError):  # where the system lets a directory be opened for that
        directory = os.open(path.parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _mode(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask

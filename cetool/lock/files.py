"""Puts a lock where it belongs, whole or not at all: into a file beside the script, or into the script."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from cetool.errors import CetoolError, Location
from cetool.spec.source import printable


class LockNotWrittenError(CetoolError):
    """A lock was to be written and was not: what was there is as it was."""


def write_lock_file(path: Path, text: str) -> None:
    """Write a lock file atomically: whoever reads it finds the old one or the new one, whole.

    A symbolic link is followed; the mode of a file that is there stays. Raises LockNotWrittenError.
    """
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(13, "it is read-only")
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".cetool", dir=target.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise LockNotWrittenError(
            f"the lock cannot be written: {error.strerror or error}",
            where=Location(printable(str(path))),
            hint=f"A new file has to be made in {printable(str(target.parent))}; --lock-file names another place.",
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    with contextlib.suppress(OSError):
        directory = os.open(target.parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

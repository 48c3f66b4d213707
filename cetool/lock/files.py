"""Puts a lock where it belongs, whole or not at all: into a file beside the script, or into the script."""

from __future__ import annotations

import os
from pathlib import Path

from cetool.base.errors import CetoolError, Location
from cetool.base.files import ChangedError, replace_file
from cetool.base.text import printable


class LockNotWrittenError(CetoolError):
    """A lock was to be written and was not: what was there is as it was."""

    code = "write-failed"


def write_lock_file(path: Path, text: str, old: bytes | None) -> None:
    """Write a lock file in one step, in the place of ``old``, what was in it when it was read; None for no file.

    A symbolic link is followed; the mode of a file that is there stays. Raises LockNotWrittenError, where it is not
    the old one any more too.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(13, "it is read-only")
        replace_file(target, old, text.encode())
    except ChangedError:
        raise LockNotWrittenError(
            "the lock was changed by another process meanwhile, so nothing was written",
            where=Location(printable(str(path))),
            hint="Run the same command again.",
        ) from None
    except OSError as error:
        raise LockNotWrittenError(
            f"the lock cannot be written: {error.strerror or error}",
            where=Location(printable(str(path))),
            hint=f"A new file has to be made in {printable(str(target.parent))}; --lock-file names another place.",
        ) from None

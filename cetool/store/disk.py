"""Measure the disk space of environments, and move prefixes to the trash.

A file with several hard links counts once. A prefix moves to the trash in one step, so that no process sees it half
deleted, and is deleted later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from cetool.base.below import room, total_room, walk
from cetool.base.errors import StoreError
from cetool.base.filelock import try_lock
from cetool.base.ownership import make_private_dirs, owner_note
from cetool.base.process import is_running, start_time

_HINTS = {
    errno.ENOSPC: "Free some space (`cetool gc --older-than 0s` removes every environment that is not in use), "
    "or set CETOOL_CACHE_DIR to a directory on another disk.",
    errno.EDQUOT: "Your quota is used up. `cetool gc --older-than 0s` removes every environment that is not in use.",
    errno.EROFS: "The file system is read-only. Set CETOOL_CACHE_DIR to a writable directory.",
    errno.EACCES: "Check the permissions of that directory, or set CETOOL_CACHE_DIR to another one.",
}
_OTHER_HINT = "Check the file system of that directory, or set CETOOL_CACHE_DIR to another one."


def write_hint(error: OSError) -> str:
    """Return a hint for an error while writing to the cache."""
    note = owner_note(os.path.dirname(error.filename)) if error.errno == errno.EACCES and error.filename else ""
    return note + _HINTS.get(error.errno or 0, _OTHER_HINT)


def disk_size(prefix: Path) -> int:
    """Return the bytes that the files below a prefix take on disk, each hard-linked file counted once."""
    return total_room(status for _, status in walk(prefix))


class Freed:
    """Count the bytes that are freed by removing prefixes one after another.

    A file is freed with its last name: one that is still in a package cache, or in an environment that stays, is not.
    Add each prefix before it is deleted; earlier ones may already be deleted.
    """

    def __init__(self) -> None:
        # by device and inode: how many names the file had when last seen, and how many of them will be removed
        self._names: dict[tuple[int, int], tuple[int, int]] = {}

    def add(self, prefix: Path) -> int:
        """Return the bytes that are also freed when this prefix is removed."""
        total = 0
        for _, status in walk(prefix):
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                key = (status.st_dev, status.st_ino)
                seen, going = self._names.get(key, (status.st_nlink, 0))
                going = max(0, going - (seen - status.st_nlink)) + 1
                self._names[key] = (status.st_nlink, going)
                if going < status.st_nlink:
                    continue
            total += room(status)
        return total

    def is_last_name(self, status: os.stat_result) -> bool:
        """Return whether a file has no other name, apart from those that the same collection removes."""
        if status.st_nlink <= 1:
            return True
        seen, going = self._names.get((status.st_dev, status.st_ino), (status.st_nlink, 0))
        return status.st_nlink - max(0, going - (seen - status.st_nlink)) <= 1


#: Prefix of trash entries that had to stay next to the environment.
_BESIDE = ".trash-"


def discard(prefix: Path, trash: Path) -> Path | None:
    """Move a prefix into the trash and return its new path, or None if there is nothing there.

    The new name identifies the process that moved it and that may still restore it. Raises OSError if the move fails.
    """
    if not os.path.lexists(prefix):
        return None
    make_private_dirs(trash, shared=True)
    pid = os.getpid()
    name = f"{prefix.name}.{pid}.{start_time(pid)}.{time.time_ns()}"
    target = trash / name
    try:
        os.rename(prefix, target)
    except PermissionError:
        # moving a directory changes its "..", so it must be writable
        if prefix.is_symlink() or not prefix.is_dir():
            raise
        os.chmod(prefix, stat.S_IRWXU)
        os.rename(prefix, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        target = prefix.parent / f"{_BESIDE}{name}"  # the trash is on another file system
        os.rename(prefix, target)
    return target


def clear(trash: Path, envs: Path) -> None:
    """Finish interrupted deletions, except those of processes that still run."""
    for directory, beginning in ((trash, ""), (envs, _BESIDE)):
        with contextlib.suppress(OSError):
            for entry in os.listdir(directory):
                if entry.startswith(beginning) and not _is_wanted(entry):
                    delete_tree(directory / entry)


def clear_locks(directory: Path, is_wanted: Callable[[str], bool]) -> None:
    """Delete file locks that no process holds and for which ``is_wanted`` (called with the file's name) is false."""
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            if name.endswith(".lock") and not is_wanted(name):
                with contextlib.suppress(StoreError):
                    lock = try_lock(directory / name, shared=False)
                    if lock is not None:
                        lock.delete()


def _is_wanted(entry: str) -> bool:
    fields = entry.rsplit(".", 3)
    if len(fields) != 4 or not fields[1].isdecimal() or int(fields[1]) == os.getpid():
        return False
    return is_running(int(fields[1]), fields[2])


def delete_tree(path: Path) -> None:
    """Delete a tree from the trash, with its read-only directories; leave what cannot be deleted for later."""
    import shutil

    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
    if not os.path.lexists(path):
        return
    # Change the mode of directories only: a file may be hard-linked to a package cache, which would see the new mode.
    _open_up(os.fspath(path))
    for directory, names, files in os.walk(path):
        for name in names if os.name != "nt" else names + files:
            _open_up(os.path.join(directory, name))
    shutil.rmtree(path, ignore_errors=True)


def _open_up(path: str) -> None:
    with contextlib.suppress(OSError):
        if not os.path.islink(path):
            os.chmod(path, stat.S_IRWXU)

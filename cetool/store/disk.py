"""What environments take up on disk, and what their removal would free: a file with many names counts once.

The trash: a prefix goes there in one step, so that no process sees it half deleted, and is deleted later.
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
from cetool.base.ownership import make_private_dirs
from cetool.base.process import is_running, start_time

_HINTS = {
    errno.ENOSPC: "Free some room there (cetool gc --older-than 0s removes all that is not in use), "
    "or set CETOOL_CACHE_DIR.",
    errno.EDQUOT: "Your quota is used up: cetool gc --older-than 0s removes all that is not in use.",
    errno.EROFS: "Set CETOOL_CACHE_DIR to a directory that can be written to.",
    errno.EACCES: "Look at the permissions of that directory, or set CETOOL_CACHE_DIR.",
}
_OTHER_HINT = "Look at the file system of that directory, or set CETOOL_CACHE_DIR."


def write_hint(error: OSError) -> str:
    """What to do where something could not be written to the cache."""
    return _HINTS.get(error.errno or 0, _OTHER_HINT)


def disk_size(prefix: Path) -> int:
    """Bytes that the files below a prefix take on disk, each counted once however many names it has there."""
    return total_room(status for _, status in walk(prefix))


class Freed:
    """Counts the bytes that removing prefixes one after another frees.

    A file is freed when its last name goes: one that still lives in a package cache, or in an environment that stays,
    is not. Each prefix is to be added before it is deleted; those added before it may be deleted by then or not.
    """

    def __init__(self) -> None:
        # by device and inode: how many names it had when last seen, and how many of those are to go
        self._names: dict[tuple[int, int], tuple[int, int]] = {}

    def add(self, prefix: Path) -> int:
        """Bytes freed by removing this prefix too."""
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
        """Whether a file has no other name than this one, those aside that are removed in the same collection."""
        if status.st_nlink <= 1:
            return True
        seen, going = self._names.get((status.st_dev, status.st_ino), (status.st_nlink, 0))
        return status.st_nlink - max(0, going - (seen - status.st_nlink)) <= 1


#: What the trash's entries begin with where they could only be put beside the prefix.
_BESIDE = ".trash-"


def discard(prefix: Path, trash: Path) -> Path | None:
    """Move what is at a prefix into the trash, and tell where to; None where nothing is there.

    The name there says which process moved it, which may yet want it back. Raises OSError where it cannot be moved.
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
        # a directory changes its "..", so it must be writable itself
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
    """Finish the deletions that were interrupted; what a process that still runs has put there is left to it."""
    for directory, beginning in ((trash, ""), (envs, _BESIDE)):
        with contextlib.suppress(OSError):
            for entry in os.listdir(directory):
                if entry.startswith(beginning) and not _is_wanted(entry):
                    delete_tree(directory / entry)


def clear_locks(directory: Path, is_wanted: Callable[[str], bool]) -> None:
    """Delete the file locks that no process holds and that guard nothing, as ``is_wanted`` says of a file's name."""
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
    """Delete a tree of the trash, read-only directories included; what cannot be deleted now is left for later."""
    import shutil

    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
    if not os.path.lexists(path):
        return
    # Only directories are opened up: a file's mode is that of its other names as well, in a package cache for one.
    _open_up(os.fspath(path))
    for directory, names, files in os.walk(path):
        for name in names if os.name != "nt" else names + files:
            _open_up(os.path.join(directory, name))
    shutil.rmtree(path, ignore_errors=True)


def _open_up(path: str) -> None:
    with contextlib.suppress(OSError):
        if not os.path.islink(path):
            os.chmod(path, stat.S_IRWXU)

"""What environments take up on disk, and what their removal would free: a file with many names counts once."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

from cetool.trees import room, total_room, walk


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


def clear_old_files(directory: Path, age: float) -> None:
    """Delete the files in a directory that were last written more than ``age`` seconds ago."""
    limit = time.time() - age
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < limit:
                    os.unlink(entry.path)

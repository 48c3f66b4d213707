"""Looks at every file below a directory once, for all who want to know something of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

_BY_DESCRIPTOR = os.scandir in os.supports_fd


def walk(root: str | os.PathLike[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a directory: its path from there, with slashes, and its status, links not followed.

    Directories come before what is in them. What cannot be read, or has just gone, is left out.
    """
    pending = [(os.fspath(root), "")]
    while pending:
        directory, before = pending.pop()
        opened = -1
        try:
            if _BY_DESCRIPTOR:  # files are found a fifth faster from there
                opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with os.scandir(directory if opened < 0 else opened) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    name = entry.name
                    if stat.S_ISDIR(status.st_mode):
                        pending.append((f"{directory}/{name}", f"{before}{name}/"))
                    yield before + name, status
        except OSError:
            continue
        finally:
            if opened >= 0:
                os.close(opened)


def room(status: os.stat_result) -> int:
    """Bytes that a file takes on disk."""
    blocks = getattr(status, "st_blocks", 0)
    # some file systems give a file its blocks only when it is written out, seconds later
    return blocks * 512 if blocks else status.st_size


def total_room(statuses: Iterable[os.stat_result]) -> int:
    """Bytes that files take on disk together, each counted once however many names it has among them."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for status in statuses:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            key = (status.st_dev, status.st_ino)
            if key in seen:
                continue
            seen.add(key)
        total += room(status)
    return total

"""Whether a process still gets anywhere: by its output, the processor time it takes, the bytes that it and its children
write, and what changes in the directories that it fills.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

#: Less than this in an interval is a process that idles: a spinner, a poll of its sockets.
_BUSY_SHARE = 0.1
_BUSY_BYTES = 512


class Vitals:
    """The signs of life of a process and its children.

    Output counts at once. The other signs are looked at only when there is none, and not more often than the answer
    can change: at most every ``interval`` seconds.
    """

    interval = 1.0

    def __init__(self, pid: int, watched: tuple[Path, ...], clock: Callable[[], float]) -> None:
        self._pid = pid
        self._watched = watched
        self._clock = clock
        self._alive_at = self._looked_at = clock()
        self._cpu = 0.0
        self._written = 0
        self._disk: tuple[int, ...] = ()

    def spoke(self) -> None:
        """It has just printed something."""
        self._alive_at = self._clock()

    def still_for(self) -> float:
        """For how many seconds no sign of life has been seen."""
        now = self._clock()
        if now - max(self._looked_at, self._alive_at) >= self.interval:
            if self._moves(now - self._looked_at):
                self._alive_at = now
            self._looked_at = now
        return now - self._alive_at

    def _moves(self, elapsed: float) -> bool:
        cpu, written = _consumption(self._pid)
        disk = tuple(_fingerprint(path) for path in self._watched)
        moves = cpu - self._cpu > _BUSY_SHARE * elapsed or written - self._written > _BUSY_BYTES or disk != self._disk
        self._cpu, self._written, self._disk = cpu, written, disk
        return moves


def _consumption(pid: int) -> tuple[float, int]:
    """Seconds of processor time and bytes written by a process and its living descendants."""
    import psutil  # takes 10 ms, and nobody asks before a second has passed

    cpu, written = 0.0, 0
    try:
        leader = psutil.Process(pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return cpu, written
    for process in family:
        try:
            times = process.cpu_times()
            cpu += times.user + times.system
            if hasattr(process, "io_counters"):
                counters = process.io_counters()
                written += getattr(counters, "write_chars", counters.write_bytes)
        except psutil.Error:
            continue
    return cpu, written


def _fingerprint(directory: Path, depth: int = 1) -> int:
    """A number that changes when something in the directory, or one level below, is made, removed or grows."""
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                total += hash((entry.name, status.st_size, status.st_mtime_ns))
                if depth and entry.is_dir(follow_symlinks=False):
                    total += _fingerprint(Path(entry.path), depth - 1)
    except OSError:
        return total
    return total

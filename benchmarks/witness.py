"""Measure time and peak memory of a command: ``python -I -S witness.py PROGRAM ARGUMENTS...``.

It is a process of its own because a new process inherits the peak of the one that it was forked from, and this one is
small.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> int:
    """Run the command without its output; print ``{"seconds": ..., "peak": BYTES}``; exit with its status."""
    argv = sys.argv[1:]
    actions = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1)]
    begun = time.perf_counter_ns()
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
    _, status, used = os.wait4(pid, 0)
    seconds = (time.perf_counter_ns() - begun) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    print(f'{{"seconds": {seconds:.9f}, "peak": {used.ru_maxrss * unit}}}')
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())

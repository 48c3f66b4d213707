"""Processes as the usage log names them: by PID and start time, since PIDs are used again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_LINUX = os.path.isdir("/proc/self")


def start_time(pid: int) -> str:
    """When a process started, as text to compare for equality: clock ticks since boot on Linux, else seconds since
    1970.

    An empty text stands for a process that is not there. A process keeps it through exec.
    """
    if _LINUX:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                data = file.read()
        except OSError:
            return ""
        fields = data[data.rindex(b")") + 2 :].split()
        # a zombie has ended; only its parent has not looked yet
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""


def is_running(pid: int, start: str) -> bool:
    """Whether the process with this PID is the one that started then."""
    return bool(start) and start_time(pid) == start


def prefixes_in_use(prefixes: Iterable[Path]) -> set[Path]:
    """Those of the prefixes out of which some process that may be looked at has its program.

    The lock tells most of it; this finds a daemon that closed every descriptor it had inherited, the lock's among them.
    """
    import psutil

    wanted = {os.path.realpath(prefix): prefix for prefix in prefixes}
    found: set[Path] = set()
    if not wanted:
        return found
    for process in psutil.process_iter():
        try:
            program = process.exe()
        except (psutil.Error, OSError):
            continue
        for real, prefix in wanted.items():
            if program.startswith(real + os.sep):
                found.add(prefix)
    return found

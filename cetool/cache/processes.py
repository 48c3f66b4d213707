"""Processes as the usage log names them: by PID and start time, since PIDs are used again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
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


def running_processes() -> Iterator[tuple[int, str]]:
    """All processes that can be seen, by PID and start time."""
    for pid in _pids():
        start = start_time(pid)
        if start:
            yield pid, start


def prefixes_in_use(prefixes: Iterable[Path]) -> set[Path]:
    """Those of the prefixes out of which some process that may be looked at has its program.

    The lock tells most of it; this finds a daemon that closed every descriptor it had inherited, the lock's among them.
    """
    parents: dict[str, str] = {}  # thousands of prefixes lie in one directory
    wanted: dict[str, Path] = {}
    for prefix in prefixes:
        parent, name = os.path.split(prefix)
        if parent not in parents:
            parents[parent] = os.path.realpath(parent)
        path = os.path.join(parents[parent], name)
        wanted[os.path.realpath(path) if os.path.islink(path) else path] = prefix
    found: set[Path] = set()
    for pid in _pids() if wanted else ():
        place = _program(pid)
        while len(place) > 1 and place != (above := os.path.dirname(place)):
            place = above
            if place in wanted:
                found.add(wanted[place])
    return found


def is_in_environment_of_any(text: str) -> bool:
    """Whether a process that may be looked at was started with this text in one of its variables.

    That is how what was started from a shell is known, which took up an environment without a lock. Linux alone tells;
    elsewhere it is False.
    """
    wanted = os.fsencode(text)
    own = os.getpid()
    for pid in _pids() if _LINUX else ():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if pid != own and wanted in file.read():
                    return True
        except OSError:
            continue
    return False


def _pids() -> Iterable[int]:
    if _LINUX:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    import psutil

    return psutil.pids()


def _program(pid: int) -> str:
    """The file that a process was started from; empty where that may not be known."""
    if _LINUX:
        try:
            return os.readlink(f"/proc/{pid}/exe")
        except OSError:
            return ""
    import psutil

    try:
        return psutil.Process(pid).exe()
    except (psutil.Error, OSError):
        return ""

"""Watch what the processes of a build use, and refuse more than its limits."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from cetool.app.build_steps import BuildRequest
from cetool.base.confining import consumption, descendants
from cetool.base.durations import format_size
from cetool.base.errors import CetoolError
from cetool.store.disk import disk_size

#: Seconds between two measurements.
TICK = 0.1


class Watch:
    """Measures what a step uses; raises CetoolError if it is more than allowed. ``written`` are its directories."""

    def __init__(self, request: BuildRequest, pid: int, written: Sequence[Path], *, quiet: int) -> None:
        self._request = request
        self._pid = pid
        self._quiet = quiet
        self._next = time.monotonic() + TICK
        self._alive = time.monotonic()
        self._cpu = 0.0
        self._written = written
        self._free = _free(request)

    def beat(self) -> None:
        """Note that the step has reported something."""
        self._alive = time.monotonic()

    def look(self, stage: str) -> None:
        """Measure, unless that was done just now."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + TICK
        limits = self._request.limits
        pids = [self._pid, *descendants(self._pid, limits.processes)]
        if len(pids) > limits.processes:
            raise _exceeded(f"the build started more than {limits.processes} processes while {stage}")
        used = consumption(pids, self._quiet)
        if used.memory > limits.memory:
            raise CetoolError(
                f"the build used more than {format_size(limits.memory)} of memory while {stage}",
                code="memory-exceeded",
                hint="Request fewer packages, or ask the server's operator for a higher limit.",
            )
        if used.printed > limits.output:
            raise _exceeded(f"a program printed more than {format_size(limits.output)} while {stage}")
        free = _free(self._request)
        if free < limits.free:
            raise _full(stage)
        if self._free - free > limits.size:  # measuring takes long: only if it may be this build
            self._free = free
            if sum(map(disk_size, self._written)) > limits.size:
                raise _exceeded(f"the build used more than {format_size(limits.size)} of disk space while {stage}")
        if now - self._alive > limits.stall:
            cpu = _cpu_time(pids)
            if cpu - self._cpu < 0.1 * limits.stall:
                raise CetoolError(
                    f"the build made no progress for {limits.stall:g} seconds while {stage}",
                    code="engine-stalled",
                    hint="A server does not answer, or a program waits for something.",
                )
            self._alive, self._cpu = now, cpu


def _free(request: BuildRequest) -> int:
    disk = os.statvfs(request.data)
    return disk.f_bavail * disk.f_frsize


def _full(stage: str) -> CetoolError:
    return CetoolError(f"the disk is full while {stage}", code="disk-full", hint="Free some space on the server.")


def _exceeded(message: str) -> CetoolError:
    return CetoolError(message, code="build-limit-exceeded", hint="A package's link script may be at fault.")


def _cpu_time(pids: list[int]) -> float:
    """Return the CPU time of processes in seconds."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
            total += sum(map(int, data[data.rindex(b")") + 2 :].split()[11:13]))
    return total / os.sysconf("SC_CLK_TCK")

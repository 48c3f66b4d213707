"""The spool: where a run notes that it uses an environment, by one append, for the usage log to take in later.

A run must start whatever the database is doing, so it never opens it. A line is a use; it names itself by PID, start
time and clock, so that taking one in twice does no harm, and the spool is renamed before it is read, so that none is
lost: who finds, after writing, that the file has another name by then writes the line again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cetool.cache.processes import start_time

_ACTIVE = "uses"
_TAKEN = ".taken"


@dataclass(frozen=True)
class Use:
    """One run: when (nanoseconds since 1970), by which process, on which host, of which directory, for which script."""

    time_ns: int
    pid: int
    process_start: str
    host: str
    directory: str
    script: str

    def line(self) -> bytes:
        """The use as a line of the spool, of fewer bytes than an append is atomic for (4096)."""
        script = self.script.encode("utf-8", "surrogateescape").replace(b"\t", b" ").replace(b"\n", b" ")[:3000]
        head = f"{self.time_ns}\t{self.pid}\t{self.process_start}\t{self.host}\t{self.directory}\t"
        return head.encode("utf-8", "replace") + script + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Use | None:
        """The use that a line tells, None where it is damaged."""
        fields = line.decode("utf-8", "replace").split("\t")
        try:
            return cls(int(fields[0]), int(fields[1]), fields[2], fields[3], fields[4], fields[5])
        except (IndexError, ValueError):
            return None


def note_use(spool: Path, directory: str, script: str) -> None:
    """Note that this process (and what it becomes by exec) uses an environment. Raises OSError where it cannot be
    noted.
    """
    pid = os.getpid()
    use = Use(time.time_ns(), pid, start_time(pid), socket.gethostname(), directory, script)
    line = use.line()
    path = spool / _ACTIVE
    for _ in range(100):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except FileNotFoundError:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        try:
            os.write(fd, line)
            with suppress(OSError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return
        finally:
            os.close(fd)


def taken_files(spool: Path) -> list[Path]:
    """Set the spool aside for reading; all files set aside so far, oldest first. The caller is alone in doing so."""
    with suppress(FileNotFoundError):
        os.rename(spool / _ACTIVE, spool / f"{_ACTIVE}.{time.time_ns():020d}{_TAKEN}")
    try:
        return sorted(spool / entry for entry in os.listdir(spool) if entry.endswith(_TAKEN))
    except FileNotFoundError:
        return []


def read_uses(path: Path) -> Iterator[Use]:
    """The uses in a file that was set aside, damaged lines left out."""
    with open(path, "rb") as file:
        for line in file:
            use = Use.parse(line.rstrip(b"\n"))
            if use is not None:
                yield use

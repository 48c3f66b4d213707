"""The spool: where a run notes that it uses an environment, by one append, for the usage log to take in later.

A run must start whatever the database is doing, so it never opens it. A line is a use, or tells that an environment was
made; it names itself by PID, start time and clock, so that taking one in twice does no harm, and the spool is renamed
before it is read, so that none is lost: who finds, after writing, that the file has another name by then writes the
line again.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cetool.base.process import start_time
from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.declare.environment import NAME_LENGTH
from cetool.warm.notes import ACTIVE, append_note, use_line

_TAKEN = ".taken"
#: The seventh field of a note that tells of a creation; a use has six.
_MADE = "made"
_LONGEST_LINE = 8192
_DIRECTORY = pattern(rf"[0-9a-f]{{{NAME_LENGTH}}}(-\d{{1,4}})?\Z")


class Use(Value):
    """One run: when (nanoseconds since 1970), by which process, on which host, of which directory, for which script.

    Or, with ``made``, no run but the news that the environment in this directory was made.
    """

    time_ns: int
    pid: int
    process_start: str
    host: str
    directory: str
    script: str
    made: bool = False

    @classmethod
    def parse(cls, line: bytes) -> Use | None:
        """The use that a line tells, None where it is damaged."""
        fields = line.decode("utf-8", "backslashreplace").split("\t")
        made = fields[6:] == [_MADE]
        if len(fields) != 6 + made or not _DIRECTORY.match(fields[4]):
            return None
        try:
            time_ns, pid = int(fields[0]), int(fields[1])
        except ValueError:
            return None
        if not 0 <= time_ns < 2**63 or not 0 <= pid < 2**32:
            return None
        start, host, directory, script = fields[2:6]
        return cls(time_ns, pid, start, host, directory, script, made)


def note_use(spool: Path, directory: str, script: str) -> None:
    """Note that this process (and what it becomes by exec) uses an environment.

    Raises OSError where it cannot be noted.
    """
    append_note(os.fspath(spool), use_line(directory, script, start_time(os.getpid())))


def note_made(spool: Path, directory: str) -> None:
    """Note that an environment was made, so that the log looks at its marker. Raises OSError."""
    line = use_line(directory, "", start_time(os.getpid()))
    append_note(os.fspath(spool), line[:-1] + f"\t{_MADE}\n".encode())


def taken_files(spool: Path) -> list[Path]:
    """Set the spool aside for reading; all files set aside so far, oldest first. The caller is alone in doing so."""
    with suppress(FileNotFoundError):
        os.rename(spool / ACTIVE, spool / f"{ACTIVE}.{time.time_ns():020d}{_TAKEN}")
    try:
        return sorted(spool / entry for entry in os.listdir(spool) if entry.endswith(_TAKEN))
    except FileNotFoundError:
        return []


def all_files(spool: Path) -> list[Path]:
    """The files with uses, those that were set aside first, all left where they are."""
    try:
        names = os.listdir(spool)
    except OSError:
        return []
    return [
        *sorted(spool / name for name in names if name.endswith(_TAKEN)),
        *(spool / n for n in names if n == ACTIVE),
    ]


def read_uses(path: Path) -> Iterator[Use]:
    """The uses in a file that was set aside, damaged lines left out; none where it is not a regular file."""
    if not path.is_file():  # a socket cannot be opened, a link can lead in a circle
        return
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        while line := file.readline(_LONGEST_LINE):
            use = Use.parse(line.rstrip(b"\n"))
            if use is not None:
                yield use

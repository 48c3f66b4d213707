"""The logs of builds: files that only grow, each limited in size, without credentials."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from cetool.base.ownership import make_private_dirs
from cetool.base.urls import scrub

#: Bytes of a line; longer ones are cut.
_LINE = 4000
_CUT = b"\nThe log has reached its limit: later lines are left out\n"
#: Bytes that the last lines may take in addition to the limit.
_RESERVE = 8 << 10


def path_of(data: Path, build_id: int) -> Path:
    """Return the path of a build's log, which may not exist."""
    return data / "logs" / f"{build_id}.log"


def append(data: Path, build_id: int, text: str, *, limit: int = 10_000_000, last: bool = False) -> None:
    """Add lines to a build's log, each with the time (UTC) in front; nothing once the log has ``limit`` bytes.

    The ``last`` lines of a build are also added to a full log. A full or read-only disk loses the lines.
    """
    now = time.strftime("%H:%M:%S", time.gmtime())
    lines = [f"{now} {line[:_LINE]}".rstrip() + "\n" for line in scrub(text).splitlines()]
    content = "".join(lines).encode("utf-8", "replace")
    path = path_of(data, build_id)
    with contextlib.suppress(OSError):
        make_private_dirs(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            room = limit - os.fstat(descriptor).st_size + (_RESERVE if last else 0)
            if room <= 0:
                return
            if len(content) > room:
                content = content[:room] + _CUT
            os.write(descriptor, content)
        finally:
            os.close(descriptor)


def read(data: Path, build_id: int, offset: int = 0, limit: int = 1 << 20) -> tuple[bytes, int, bool]:
    """Return up to ``limit`` bytes of a log from an offset, the offset after them, and whether that is all for now.

    A log that does not exist is empty; an offset beyond the end is the end.
    """
    try:
        with open(path_of(data, build_id), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(min(offset, size))
            found = file.read(limit)
    except OSError:
        return b"", offset, True
    after = min(offset, size) + len(found)
    return found, after, after >= size

"""What an engine prints, on its way: into the log, to whoever watches, and into the memory of its last words.

Reads progress out of what the engines print while they work. A line may come several times, each time longer.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from cetool.base.errors import EngineError
from cetool.base.text import without_controls
from cetool.base.urls import scrub
from cetool.engines.protocol import Progress

#: How many characters at the end of a stream are kept for explaining an error.
KEPT = 200_000
#: A line longer than this is treated as if it had ended here.
_LONGEST_LINE = 65_536

#: What is called with a line of output, and whether it is whole: one that still grows comes again, longer.
OnLine = Callable[[str, bool], None]


class Log:
    """The file that keeps everything an engine printed: appended to, its owner's alone, without credentials."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "Free some: `cetool gc --older-than 0s` removes environments that are not in use." if full else None
            raise EngineError(
                f"the engine's log {path} cannot be written: {error.strerror}", code="cache-not-writable", hint=hint
            ) from error

    def write(self, text: str) -> None:
        """Append whole lines. A full disk costs the log, not the run."""
        try:
            os.write(self._fd, scrub(text).encode(errors="replace"))
        except OSError:
            return

    def fileno(self) -> int:
        """The descriptor, which what a library prints by itself can be sent to."""
        return self._fd

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def logged(path: Path) -> str:
    """What the log holds, without terminal escapes; nothing where it cannot be read."""
    try:
        return without_controls(path.read_text("utf-8", "replace"))
    except OSError:
        return ""


class Feed:
    """One stream of an engine: bytes in, lines out.

    Only whole lines are logged and kept, since a URL's credentials could lie across two pieces. The callback also sees
    a line that still grows: conda prints ``Solving environment: ...working...`` long before its ``done``.
    """

    def __init__(self, log: Log, on_line: OnLine) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._log = log
        self._on_line = on_line
        self._partial = ""
        self.last_line = ""
        self._kept: list[str] = []
        self._kept_length = 0

    def add(self, chunk: bytes) -> None:
        """Take the next bytes of the stream."""
        self._take(self._decoder.decode(chunk))

    def close(self) -> str:
        """The stream has ended: what remains of it is a line too. Returns the last :data:`KEPT` characters."""
        self._take(self._decoder.decode(b"", final=True))
        if self._partial:
            self._line(self._partial + "\n")
            self._partial = ""
        return "".join(self._kept)[-KEPT:]

    def _take(self, text: str) -> None:
        self._partial += text
        *lines, self._partial = re.split(r"(?<=[\n\r])", self._partial)
        for line in lines:
            self._line(line)
        if len(self._partial) > _LONGEST_LINE:
            self._line(self._partial + "\n")
            self._partial = ""
        elif self._partial:
            self.last_line = scrub(without_controls(self._partial)).strip()
            self._on_line(scrub(without_controls(self._partial)), False)

    def _line(self, line: str) -> None:
        text = scrub(without_controls(line.replace("\r\n", "\n").replace("\r", "\n")))
        self._log.write(text)
        if text.strip():
            self.last_line = text.strip()
            self._on_line(text.rstrip("\n"), True)
        self._kept.append(text)
        self._kept_length += len(text)
        if self._kept_length > 2 * KEPT:
            self._kept = ["".join(self._kept)[-KEPT:]]
            self._kept_length = KEPT


FETCHING = "Fetching the channels' package lists"
SOLVING = "Solving"
DOWNLOADING = "Downloading and extracting"
LINKING = "Linking"


class _Stages:
    """Reports a stage once, the number of packages once, and when all is written."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._size = ""

    def _enter(self, stage: str) -> None:
        if stage != self._stage:
            self._stage = stage
            self._progress.stage(f"{stage} {self._size}" if stage == DOWNLOADING and self._size else stage)


class CondaStages(_Stages):
    """Follows conda (and mamba 1, which is one): ``Solving environment: ...working... done``."""

    _HEADS = (
        ("Retrieving notices", FETCHING),
        ("Collecting package metadata", FETCHING),
        ("Solving environment", SOLVING),
        ("Downloading and Extracting Packages", DOWNLOADING),
        ("Preparing transaction", LINKING),
        ("Verifying transaction", LINKING),
        ("Executing transaction", LINKING),
    )

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self._counting: set[str] | None = None

    def __call__(self, line: str, whole: bool) -> None:
        """Take a line; the beginning of one is enough to know the stage."""
        if line.startswith("The following NEW packages will be INSTALLED"):
            self._counting = set()
        elif self._counting is not None and whole and line.startswith("  "):
            self._counting.add(line.split()[0])
        total = re.match(r"\s+Total:\s+([\d.]+ [kKMGT]?i?B)\s*$", line)
        if total:
            self._size = total[1]
        for head, stage in self._HEADS:
            if line.startswith(head):
                self._flush()
                self._enter(stage)
        if whole and line.startswith("Executing transaction") and line.endswith(" done"):
            self._progress.written()

    def _flush(self) -> None:
        if self._counting:
            self._progress.packages(len(self._counting))
        self._counting = None


class MambaStages(_Stages):
    """Follows micromamba and mamba 2 as they print to something that is no terminal."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self._packages = 0
        self._linked: set[str] = set()

    def __call__(self, line: str, whole: bool) -> None:
        """Take a line, once it is whole."""
        if not whole:
            return
        if re.match(r"(?:\S+ Shard Index|Using Flat Repodata|Fetching|Parsing Packages)", line):
            self._enter(FETCHING)
        elif line.startswith("Resolving Environment"):
            self._enter(SOLVING)
        elif match := re.match(r"\s+Install: (\d+) packages?\s*$", line):
            self._packages = int(match[1])
            self._progress.packages(self._packages)
        elif match := re.match(r"\s+Total download: ([1-9][\d.]* ?[kKMGT]?i?B)\s*$", line):
            self._size = match[1]
        elif line.startswith("Transaction starting"):
            self._enter(DOWNLOADING)
        elif match := re.match(r"Linking (\S+-[^-\s]+-[^-\s]+)\s*$", line):
            self._enter(LINKING)
            self._linked.add(match[1])
            self._progress.link(len(self._linked), max(self._packages, len(self._linked)))
        elif line.startswith("Transaction finished"):
            self._progress.written()

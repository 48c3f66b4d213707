"""Process the output of engines: write it to the log, pass it to a callback, and keep its end for error messages.

This module also recognizes progress in the output. A callback may get a line several times as it grows.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from cetool.base.errors import EngineError, is_disk_full
from cetool.base.text import without_controls
from cetool.base.urls import scrub
from cetool.engines.errors import FREE_SPACE
from cetool.engines.protocol import Progress

#: The number of characters at the end of a stream that are kept to explain an error.
KEPT = 200_000
#: Longer lines are split here.
_LONGEST_LINE = 65_536

#: Called with a line of output, and whether it is complete: an incomplete line is passed again when it has grown.
OnLine = Callable[[str, bool], None]


class Log:
    """The file to which all output of an engine is appended, without credentials; only its owner can read it."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except OSError as error:
            full = is_disk_full(error)
            hint = FREE_SPACE if full else None
            raise EngineError(
                f"cannot write the engine's log {path}: {error.strerror}", code="cache-not-writable", hint=hint
            ) from error

    def write(self, text: str) -> None:
        """Append complete lines. If the disk is full, the log is incomplete but the run goes on."""
        try:
            os.write(self._fd, scrub(text).encode(errors="replace"))
        except OSError:
            return

    def fileno(self) -> int:
        """Return the descriptor, to which output of libraries can be redirected."""
        return self._fd

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def logged(path: Path) -> str:
    """Return the content of the log without terminal escapes; empty if it cannot be read."""
    try:
        return without_controls(path.read_text("utf-8", "replace"))
    except OSError:
        return ""


class Feed:
    """Splits the bytes of one output stream into lines.

    Only complete lines are logged and kept, since credentials in a URL may be split between two chunks. The callback
    also gets incomplete lines: conda prints ``Solving environment: ...working...`` long before its ``done``.
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
        """Process the next bytes of the stream."""
        self._take(self._decoder.decode(chunk))

    def close(self) -> str:
        """Process the end of the stream, including an incomplete last line; return the last :data:`KEPT` characters."""
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
    """Reports each stage once, the number of packages, and when all files are written."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._size = ""

    def _enter(self, stage: str) -> None:
        if stage != self._stage:
            self._stage = stage
            self._progress.stage(f"{stage} {self._size}" if stage == DOWNLOADING and self._size else stage)


class CondaStages(_Stages):
    """Recognizes the progress of conda, and of mamba 1: ``Solving environment: ...working... done``."""

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
        """Process a line; its start is enough to recognize the stage."""
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
    """Recognizes the progress of micromamba and mamba 2 when they do not print to a terminal."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self._packages = 0
        self._linked: set[str] = set()

    def __call__(self, line: str, whole: bool) -> None:
        """Process a line once it is complete."""
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

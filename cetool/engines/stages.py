"""Reads progress out of what the engines print while they work. A line may come several times, each time longer."""

from __future__ import annotations

import re
from collections.abc import Callable

from cetool.engines.base import Progress

FETCHING = "Fetching the channels' package lists"
SOLVING = "Solving"
DOWNLOADING = "Downloading and extracting"
LINKING = "Linking"


class _Stages:
    """Tells a stage once, and the number of packages once; ``done`` is called when all is written."""

    def __init__(self, progress: Progress, done: Callable[[], None] | None = None) -> None:
        self._progress = progress
        self._done = done
        self._stage = ""
        self._size = ""

    def _finish(self) -> None:
        """All is written."""
        if self._done is not None:
            self._done()

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

    def __init__(self, progress: Progress, done: Callable[[], None] | None = None) -> None:
        super().__init__(progress, done)
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
            self._finish()

    def _flush(self) -> None:
        if self._counting:
            self._progress.packages(len(self._counting))
        self._counting = None


class MambaStages(_Stages):
    """Follows micromamba and mamba 2 as they print to something that is no terminal."""

    def __init__(self, progress: Progress, done: Callable[[], None] | None = None) -> None:
        super().__init__(progress, done)
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
            self._finish()

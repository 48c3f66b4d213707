"""Reads the commands of a Markdown file's console blocks, and runs one as a user sees it: on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.home import Home

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command after a ``$`` and the lines that the file shows below it."""

    line: str
    shown: str

    @property
    def file(self) -> str | None:
        """The name of the file whose contents the command shows (``cat NAME``), if that is what it does."""
        found = re.fullmatch(r"cat (\S+)", self.line)
        return found[1] if found else None


def commands(path: Path) -> Iterator[Command]:
    """Every command of the file, in order."""
    for block in _BLOCK.findall(path.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            yield Command(line.strip(), shown)


def run_on_terminal(line: str, home: Home) -> tuple[int, str]:
    """Run a shell command to its end with both outputs on a terminal: its exit status, and what the terminal shows.

    The terminal is a dumb one, on which nothing is drawn anew, and cetool's cache is where it is by default.
    """
    ours, theirs = pty.openpty()
    shown = bytearray()
    try:
        with subprocess.Popen(
            ["bash", "-c", line],
            cwd=home.path,
            env=home.environment({"CETOOL_CACHE_DIR": None}),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            while part := _read(ours):
                shown += part
        return process.returncode, shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # what Linux says when nobody has the other side open any more
        return b""

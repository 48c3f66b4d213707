"""Reads the commands of a Markdown file's console blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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

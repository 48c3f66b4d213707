"""The way to standard output and standard error: nothing in cetool prints but by this module and its Voice.

What is written for people passes :func:`~cetool.base.text.neutral`, so that a terminal obeys no text from a
script, a
channel or a file, and :func:`~cetool.base.urls.redact`. What programs read (:func:`print_data`) is exact wherever no
terminal shows it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from cetool.base.text import json_escaped, neutral, neutral_line
from cetool.base.urls import cleaned, redact


def print_json(document: dict[str, object]) -> None:
    """Print a document on standard output; its first key is ``schema``, as docs/json.md describes it."""
    text = json.dumps(cleaned(document, redact), indent=2, ensure_ascii=False)
    write(json_escaped(text) + "\n")


def print_line(text: str = "", *, error: bool = False) -> None:
    """Print a line of facts on standard output, or on standard error, without credentials."""
    write(neutral(redact(text)) + "\n", error=error)


def print_data(text: str) -> None:
    """Print what a program reads: a path, code for a shell, the text of a file. On a terminal it is made neutral."""
    write(neutral(redact(text)) if is_terminal() else text)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, bold: Sequence[bool] = ()) -> None:
    """Print rows below their headers on standard output; on a terminal those that are ``bold`` stand out."""
    cells = [[neutral_line(redact(cell)) for cell in row] for row in rows]
    if is_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headers, box=None, pad_edge=False)
        table.columns[0].no_wrap = True  # names, to be copied
        for number, row in enumerate(cells):
            style = "bold" if number < len(bold) and bold[number] else None
            # Text: no cell is rich's markup
            table.add_row(*(Text(cell, overflow="fold") for cell in row), style=style)
        Console(file=sys.stdout).print(table)
        return
    lines = [list(headers), *cells] if headers else cells
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print_line("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def write(text: str, *, error: bool = False) -> None:
    """Write to standard output, or standard error, what has been made fit for it. Raises OSError.

    Characters that the stream has no code for become escapes; the bytes of a file's name stay what they are.
    """
    stream: TextIO | None = sys.stderr if error else sys.stdout
    if stream is None or not text:
        return
    encoding = stream.encoding or "utf-8"
    try:
        data = text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode(encoding, "backslashreplace")
    stream.flush()
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(data.decode(encoding, "replace"))
    else:
        buffer.write(data.replace(b"\n", os.linesep.encode()) if os.linesep != "\n" else data)
    if error:
        stream.flush()


def write_error(text: str) -> None:
    """Write to standard error if anything there takes it: nothing is raised because it cannot be said."""
    with suppress(OSError, ValueError, AttributeError):
        write(text, error=True)


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    try:
        return sys.stdout is not None and sys.stdout.isatty()
    except (OSError, ValueError):
        return False

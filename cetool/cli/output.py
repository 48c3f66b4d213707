"""Prints facts: as JSON, or as a table that is rich's on a terminal and plain columns elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from cetool.spec.urls import redact

#: A list of one is said as it is; what YAML would read otherwise is quoted.
_PLAIN_FIRST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/."
_NOT_PLAIN = ",[]{}#:\"'"


def print_json(document: dict[str, object]) -> None:
    """Print a document on standard output; its first key is ``schema``, as docs/json.md describes it."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def print_line(text: str = "") -> None:
    """Print a line of facts on standard output, credentials taken out."""
    sys.stdout.write(redact(text) + "\n")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their headers on standard output."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headers, box=None, pad_edge=False)
        table.columns[0].no_wrap = True  # names, to be copied
        for row in rows:
            table.add_row(*(Text(redact(cell), overflow="fold") for cell in row))  # Text: no cell is rich's markup
        Console(file=sys.stdout).print(table)
        return
    lines = [list(headers), *([redact(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        print_line("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def flow(items: Sequence[str]) -> str:
    """A list as YAML writes it in one line: ``[python >=3, numpy]``."""
    return f"[{', '.join(redact(_scalar(item)) for item in items)}]"


def _scalar(text: str) -> str:
    plain = text[:1] in _PLAIN_FIRST and text.strip() == text and not any(char in _NOT_PLAIN for char in text)
    return text if text and plain else "'" + text.replace("'", "''") + "'"

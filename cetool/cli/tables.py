"""Tables that fit any terminal: one line a row, no boxes, columns that shrink or are left out where there is no room.

Into a pipe a table is as wide as :data:`PIPE_WIDTH` (or ``COLUMNS``), and no text of it is cut.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cetool.base.text import neutral_line
from cetool.base.urls import redact
from cetool.cli.output import is_terminal, print_line, write

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Columns of a table that no terminal shows.
PIPE_WIDTH = 120
_GAP = "  "
#: The widest line that is printed; terminals wrap what is too wide for them.
_MOST_COLUMNS = 10_000


@dataclass(frozen=True, slots=True)
class Items:
    """A cell of several items: as many as fit are shown, and ``+13`` for the others."""

    texts: tuple[str, ...]
    #: A shorter form of each item, for narrow columns.
    short: tuple[str, ...] = ()
    #: What follows the items where there is room.
    note: str = ""
    #: What separates the items.
    between: str = ", "
    #: Whether the items are paths, which are cut in the middle: similar names differ at their ends.
    paths: bool = False


Cell = str | Items


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    header: str
    #: Whether the cells are numbers, which are aligned at the right.
    right: bool = False
    #: Columns that it needs at least where its cells are :class:`Items`.
    least: int = 12
    #: Columns with a high rank are left out first; those of rank 0 stay.
    rank: int = 0
    #: The style of its cells on a terminal.
    style: str = ""


def table_width() -> int:
    """Return the columns of the terminal; of a pipe those that a table is made for."""
    return shutil.get_terminal_size((80 if is_terminal() else PIPE_WIDTH, 24)).columns


def short_path(path: str, *tops: tuple[str, str]) -> str:
    """Return a path as it is from the first of these directories that it is below, behind what stands for that."""
    for top, shown in tops:
        if top and path.startswith(f"{top.rstrip(os.sep)}{os.sep}"):
            return shown + path[len(top.rstrip(os.sep)) + 1 :]
    return path


def show_table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, footer: str = "", bold: Sequence[bool] = ()
) -> None:
    """Print a table on standard output, one line a row, and a line below it; the rows that are ``bold`` stand out."""
    width, terminal = table_width(), is_terminal()
    safe = [[_neutral(cell) for cell in row] for row in rows]
    shown = _fitting(columns, safe, width)
    widths = _widths(columns, safe, shown, width)
    lines = [[columns[at].header for at in shown]]
    lines += [[_text(row[at], widths[at], cut=terminal) for at in shown] for row in safe]
    # an item that is not cut in a pipe may be wider than its column
    final = {at: max(_length(line[number]) for line in lines) for number, at in enumerate(shown)}
    aligned = [[_aligned(text, final[at], columns[at]) for text, at in zip(line, shown, strict=True)] for line in lines]
    if not terminal:
        for line in aligned:
            print_line(_GAP.join(line).rstrip())
        if footer:
            print_line(footer)
        return
    from rich.text import Text

    styled = []
    for number, line in enumerate(aligned):
        strong = number == 0 or (number <= len(bold) and bold[number - 1])
        styles = ["bold" if strong else columns[at].style for at in shown]
        text = Text(_GAP).join(Text(part, style) for part, style in zip(line, styles, strict=True))
        text.rstrip()
        styled.append(text)
    print_styled(*styled, *([Text(neutral_line(redact(footer)), "dim")] if footer else []))


def print_styled(*parts: RenderableType) -> None:
    """Print what rich renders on standard output, in colours where a terminal shows them; lines are not wrapped."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, width=_MOST_COLUMNS)
    with console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=True)
    write(captured.get())


def _neutral(cell: Cell) -> Cell:
    if isinstance(cell, str):
        return neutral_line(redact(cell))
    together = "\0".join((*cell.texts, *cell.short))  # looked through once: there may be thousands of rows
    if redact(together) == together and together.replace("\0", "").isprintable() and together.isascii():
        return cell
    texts = tuple(neutral_line(redact(text)) for text in cell.texts)
    return replace(cell, texts=texts, short=tuple(neutral_line(redact(text)) for text in cell.short))


def _length(text: str) -> int:
    """Return the columns that a text takes: wide characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _aligned(text: str, width: int, column: Column) -> str:
    blanks = " " * (width - _length(text))
    return blanks + text if column.right else text + blanks


def _natural(column: Column, cells: Sequence[Cell]) -> int:
    """Return the columns that a column takes where nothing of it is left out."""
    return max(_length(text) for text in (column.header, *(_text(cell, sys.maxsize) for cell in cells)))


def _is_flexible(cells: Sequence[Cell]) -> bool:
    return any(isinstance(cell, Items) for cell in cells)


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[int]:
    """Return the numbers of the columns for which there is room."""
    needs = {}
    for at, column in enumerate(columns):
        cells = [row[at] for row in rows]
        natural = _natural(column, cells)
        needs[at] = min(natural, max(column.least, len(column.header))) if _is_flexible(cells) else natural
    shown = list(needs)
    while sum(needs[at] + len(_GAP) for at in shown) - len(_GAP) > width:
        last = max(shown, key=lambda at: columns[at].rank)
        if not columns[last].rank:
            break
        shown.remove(last)
    return shown


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], shown: Sequence[int], width: int
) -> dict[int, int]:
    """Return the width of each column: those with items share what the others leave, each as much as it needs."""
    cells = {at: [row[at] for row in rows] for at in shown}
    widths = {at: _natural(columns[at], cells[at]) for at in shown}
    flexible = sorted((at for at in shown if _is_flexible(cells[at])), key=lambda at: widths[at])
    left = width - len(_GAP) * (len(shown) - 1) - sum(widths[at] for at in shown if at not in flexible)
    for number, at in enumerate(flexible):
        share = left // (len(flexible) - number)
        widths[at] = max(1, len(columns[at].header), min(widths[at], share))
        left -= widths[at]
    return widths


def _text(cell: Cell, width: int, *, cut: bool = True) -> str:
    """Return a cell's text, its items so that they fit into this width; with ``cut``, even if one has to be cut."""
    if isinstance(cell, str):
        return cell
    rooms = [width - len(cell.note) - 1, width] if cell.note else [width]
    for room in rooms:
        for form, count in _forms(cell):
            if _length(text := _joined(cell, form, count)) <= room:
                return f"{text} {cell.note}" if room < width else text
    form = cell.short or cell.texts
    rest = f" +{len(form) - 1}" if len(form) > 1 else ""
    shorten = _cut_path if cell.paths else _cut
    return ((shorten(form[0], width - len(rest)) if cut else form[0]) + rest) if form else ""


def _forms(cell: Items) -> list[tuple[tuple[str, ...], int]]:
    """Return how the items can be shown, the most of them first: which form of them, and how many."""
    counts = range(len(cell.texts), 0, -1)
    return [(form, count) for count in counts for form in dict.fromkeys((cell.texts, cell.short or cell.texts))]


def _joined(cell: Items, form: tuple[str, ...], count: int) -> str:
    rest = len(form) - count
    return cell.between.join(form[:count]) + (f" +{rest}" if rest else "")


def _cut(text: str, width: int) -> str:
    """Return the text cut to this width, the mark of what is missing included."""
    from rich.cells import set_cell_size

    return set_cell_size(text, max(0, width - 1)).rstrip() + _mark()


def _cut_path(text: str, width: int) -> str:
    """Return the text cut to this width in its middle."""
    from rich.cells import set_cell_size

    if _length(text) <= width:
        return text
    end = max(0, width - 1) // 2
    # reversed: the end of the text is what stays
    tail = set_cell_size(text[::-1], end).strip()[::-1]
    return set_cell_size(text, max(0, width - 1 - end)).rstrip() + _mark() + tail


def _mark() -> str:
    """Return what stands for the part of a text that is left out."""
    return "…" if (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf") else "~"

"""How help looks in a terminal: in the form of cargo and uv, headings and literals in colour, no boxes.

Options are in panels, the common ones first; an overview of commands has its topics in the margin.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from cetool.cli.pages import FIRM, Entry, Page, Section, page_of

#: Columns that help takes at most; also its width where the terminal's is not known.
_WIDEST = 100
#: Columns from which on an overview has its topics in the margin.
_MARGIN_FROM = 80

#: Commands that share a line of the overview.
_TOGETHER = {
    ("add", "drop"): "Add packages to a script's block, or drop them.",
    ("list", "tree"): "List environments, or the packages in one.",
    ("path", "name"): "Print the prefix of an environment.",
    ("remove", "gc"): "Remove environments, or those not used lately.",
    ("login", "logout"): "Log in to a server, or out.",
    ("serve", "server"): "Serve environments, and look after the server.",
}

_HEADING, _LITERAL, _NOTE = "bold green", "bold cyan", "dim"
_PLACEHOLDER = "cyan"
_CODE = re.compile(r"`([^`\n]+)`")


def help_of(command: Any, context: Any) -> str:
    """The page of a command, for standard output."""
    context.color = True  # the text has the colours that it is to have
    return render(page_of(command, context), sys.stdout)


def render(page: Page, stream: IO[str]) -> str:
    """The page as text that fits the terminal, with colours if the stream shows them."""
    width = max(30, min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST))
    console = Console(file=stream, highlight=False, width=width)
    if console.no_color:
        console = Console(file=stream, highlight=False, width=width, color_system=None)
    usage = Text.assemble(("Usage:", _HEADING), " ", (page.command, _LITERAL), " ", (page.usage, _PLACEHOLDER))
    lines: list[Text]
    if page.overview and width >= _MARGIN_FROM:
        lines = [*_wrapped(usage, console, width), Text(), *_overview(page, console, width)]
    else:
        lines = [*_wrapped(_marked(page.summary), console, width)]
        for paragraph in page.details:
            example = paragraph.startswith("  ")
            lines += [Text(), *([Text(paragraph)] if example else _wrapped(_marked(paragraph), console, width))]
        lines += [Text(), *_wrapped(usage, console, width, "  ")]
        column = _column((each for section in page.sections for each in section.entries), width)
        for section in page.sections:
            lines += [Text(), Text(f"{section.title}:", _HEADING)]
            for entry in section.entries:
                lines += _entry(entry, console, width, column)
    with console.capture() as captured:
        for line in lines:
            line.rstrip()
            console.print(line, soft_wrap=True)
    return captured.get().rstrip("\n").replace(FIRM, " ")


def _overview(page: Page, console: Console, width: int) -> list[Text]:
    """One line for each command, or for two that belong together, its topic in the margin; one for the options."""
    sections = [_together(each) for each in page.sections]
    topics = [each for each in sections if not each.entries[0].names[0].startswith("-")]
    margin = max(len(each.title) for each in sections) + 2
    column = max(len(", ".join(entry.names)) for each in topics for entry in each.entries) + 2
    lines = []
    for section in sections:
        title = section.title
        if section not in topics:
            flags = Text("  ").join(Text(", ".join(entry.names), _LITERAL) for entry in section.entries)
            lines += _beside(Text(title, _HEADING), flags, console, width, margin)
            continue
        for entry in section.entries:
            name = Text.assemble((f"{title:{margin}}", _HEADING), (", ".join(entry.names), _LITERAL))
            lines += _beside(name, _marked(entry.help), console, width, margin + column)
            title = ""
    return lines


def _together(section: Section) -> Section:
    """The section with commands that belong together as one entry: the overview has to fit a terminal."""
    there = {entry.names[0] for entry in section.entries}
    pairs = {names[0]: Entry(names, "", text) for names, text in _TOGETHER.items() if there.issuperset(names)}
    others = {name for entry in pairs.values() for name in entry.names[1:]}
    entries = [pairs.get(each.names[0], each) for each in section.entries if each.names[0] not in others]
    return Section(section.title, tuple(entries))


def _entry(entry: Entry, console: Console, width: int, column: int) -> list[Text]:
    text = _marked(entry.help)
    for note in entry.notes:
        text.append(f" {note}" if text else note, _NOTE)
    return _beside(Text("  ").append_text(_term(entry)), text, console, width, column)


def _term(entry: Entry) -> Text:
    """The names of an entry; long options without a short one are aligned with those that have one."""
    option = entry.names[0].startswith("-")
    indent = "    " if option and entry.names[0].startswith("--") else ""
    term = Text(indent).append(", ".join(entry.names), _LITERAL if option or entry.names[0].islower() else _PLACEHOLDER)
    return term.append(f" {entry.value}", _PLACEHOLDER) if entry.value else term


def _column(entries: Iterable[Entry], width: int) -> int:
    """The column of the texts: right of most terms, and left enough to leave room."""
    most = min(34, width * 2 // 5)
    lengths = [len(_term(each)) + 4 for each in entries]
    return max((each for each in lengths if each <= most), default=most)


def _beside(term: Text, text: Text, console: Console, width: int, column: int) -> list[Text]:
    """The text in its column; in the term's line if that ends before it."""
    lines = _wrapped(text, console, width - column)
    indented = [Text(" " * column).append_text(line) for line in lines]
    if len(term) + 2 > column:
        return [term, *indented]
    return [term.append(" " * (column - len(term))).append_text(lines[0]), *indented[1:]]


def _wrapped(text: Text, console: Console, width: int, indent: str = "") -> list[Text]:
    lines = list(text.wrap(console, width)) or [Text()]
    for line in lines:
        line.rstrip()
    return [lines[0], *(Text(indent).append_text(line) for line in lines[1:])]


def _marked(text: str) -> Text:
    """The text, what is between backquotes as a literal."""
    marked = Text(text)
    for found in _CODE.finditer(text):
        marked.stylize(_LITERAL, *found.span(1))
    return marked

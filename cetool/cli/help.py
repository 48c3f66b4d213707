"""The help pages of all commands: what a page has (:class:`Page`), read from the commands, and how a terminal shows it.

``tools/reference.py`` writes the man pages and the reference of the documentation from the same pages. The form is
that of cargo and uv: headings and literals in colour, no boxes, options in panels, the common ones first.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from cetool.cli.options import PANELS
from cetool.settings.settings import variable_of

#: Columns that help takes at most; also its width where the terminal's is not known.
_WIDEST = 100
#: Columns from which on an overview has its topics in the margin.
_MARGIN_FROM = 80
#: Known values that are listed at most.
_MOST_VALUES = 8

_HEADING, _LITERAL, _NOTE = "bold green", "bold cyan", "dim"
_PLACEHOLDER = "cyan"
_CODE = re.compile(r"`([^`\n]+)`")

#: Help of the options that Typer declares.
_OF_TYPER = {
    "--help": "Show this help.",
    "--install-completion": "Install completion for this shell.",
    "--show-completion": "Print the completion code of this shell.",
}


@dataclass(frozen=True)
class Entry:
    """A command, an argument or an option on a help page."""

    #: ``("--engine",)``, ``("-h", "--help")``, ``("SCRIPT",)``, ``("run",)``
    names: tuple[str, ...]
    #: the placeholder of an option's value, empty for a flag and for what is not an option
    value: str
    help: str
    #: values that it can have, where these are few
    values: tuple[str, ...] = ()
    default: str = ""
    repeatable: bool = False
    #: the key of the setting that the option overrides, and the variable with the value that does the same
    setting: str = ""
    variable: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What help says in brackets behind the text."""
        return (
            *([f"[values: {', '.join(self.values)}]"] if self.values else []),
            *([f"[default: {self.default}]"] if self.default else []),
            *(["[repeatable]"] if self.repeatable else []),
            *([f"[env: {self.variable}]"] if self.variable else []),
        )


@dataclass(frozen=True)
class Section:
    """Entries below a heading."""

    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Page:
    """The help of one command."""

    #: ``cetool run``
    command: str
    #: what follows it: ``[OPTIONS] SCRIPT [ARGS]...``
    usage: str
    summary: str
    #: further paragraphs
    details: tuple[str, ...]
    sections: tuple[Section, ...]
    #: whether the sections are topics with the commands of a program
    overview: bool = False
    hidden: bool = False


# --- reading commands -----------------------------------------------------------------------------------------------


def page_of(command: Any, context: Any) -> Page:
    """Read the page of a command of Typer's, or of a group of commands."""
    summary, *details = _paragraphs(command.help or "")
    params = [each for each in command.get_params(context) if not getattr(each, "hidden", False)]
    arguments = [each for each in params if each.param_type_name == "argument"]
    panels = _panels(command, [each for each in params if each.param_type_name == "option"])
    commands = getattr(command, "commands", {})
    shown = [(name, each) for name, each in commands.items() if not each.hidden]
    topics = dict.fromkeys(each.rich_help_panel or "Commands" for _, each in shown)
    sections = [
        Section("Arguments", tuple(Entry((_name(each),), "", each.help or "") for each in arguments)),
        *(Section(topic, _commands(shown, topic)) for topic in topics),
        *panels,
    ]
    usage = [*(["[OPTIONS]"] if len(panels) > 1 or any(len(each.entries) > 1 for each in panels) else [])]
    usage += [_name(each) if each.required else f"[{_name(each)}]".replace("...]", "]...") for each in arguments]
    usage += ["COMMAND [ARGS]..."] if commands else []
    return Page(
        context.command_path,
        " ".join(usage),
        summary,
        tuple(details),
        tuple(each for each in sections if each.entries),
        overview=len(topics) > 1,
        hidden=command.hidden,
    )


def pages_of(command: Any, name: str, parent: Any = None) -> Iterator[Page]:
    """Read the pages of a command and of those below it."""
    context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    yield page_of(command, context)
    for below, each in getattr(command, "commands", {}).items():
        yield from pages_of(each, below, context)


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a docstring; lines of one are joined unless it is an example, which is indented."""
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    return [each if each.startswith("  ") else " ".join(each.split()) for each in paragraphs]


def _name(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return f"{name}..." if argument.nargs != 1 else name


def _commands(shown: Sequence[tuple[str, Any]], topic: str) -> tuple[Entry, ...]:
    return tuple(
        Entry((name,), "", _paragraphs(each.short_help or each.help or "")[0])
        for name, each in shown
        if (each.rich_help_panel or "Commands") == topic
    )


def _panels(command: Any, params: Sequence[Any]) -> list[Section]:
    """The options in their panels, in the order in which options are declared."""
    declared = getattr(command.callback, "options", {})
    last = max((each.rank for each in declared.values()), default=0) + 1
    ranked = sorted(params, key=lambda each: declared[each.name].rank if each.name in declared else last)
    found: dict[str, list[Entry]] = {title: [] for title in PANELS}
    for each in ranked:
        given = declared.get(each.name)
        # the options that Typer declares are in the last panel, or alone
        title = given.rich_help_panel if given is not None else PANELS[-1] if declared else PANELS[0]
        found.setdefault(title, []).append(_option(each, given))
    return [Section(title, tuple(entries)) for title, entries in found.items() if entries]


def _option(param: Any, given: Any) -> Entry:
    names = sorted((*param.opts, *param.secondary_opts), key=lambda name: name.startswith("--"))
    setting = "" if given is None else given.setting or ""
    fixed = "" if given is None or given.value is None else f"={given.value}"
    return Entry(
        tuple(names),
        "" if param.is_flag else param.metavar or param.name.upper(),
        next((_OF_TYPER[name] for name in names if name in _OF_TYPER), param.help or ""),
        _known(given),
        _default(param),
        bool(param.multiple),
        setting,
        f"{variable_of(setting)}{fixed}" if setting else "",
    )


def _known(given: Any) -> tuple[str, ...]:
    known = () if given is None else given.known
    return tuple(known) if len(known) <= _MOST_VALUES else ()


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return param.show_default
    default = param.default.value if isinstance(param.default, Enum) else param.default
    return str(default) if isinstance(default, (str, int, float)) and default and not param.is_flag else ""


# --- showing a page -------------------------------------------------------------------------------------------------


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
    return captured.get().rstrip("\n")


def _overview(page: Page, console: Console, width: int) -> list[Text]:
    """One line for each command, its topic in the margin, and one for the options."""
    topics = [each for each in page.sections if not each.entries[0].names[0].startswith("-")]
    margin = max(len(each.title) for each in page.sections) + 2
    column = max(len(entry.names[0]) for each in topics for entry in each.entries) + 2
    lines = []
    for section in page.sections:
        title = section.title
        if section not in topics:
            flags = Text("  ").join(Text(", ".join(entry.names), _LITERAL) for entry in section.entries)
            lines += _beside(Text(title, _HEADING), flags, console, width, margin)
            continue
        for entry in section.entries:
            name = Text.assemble((f"{title:{margin}}", _HEADING), (entry.names[0], _LITERAL))
            lines += _beside(name, _marked(entry.help), console, width, margin + column)
            title = ""
    return lines


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

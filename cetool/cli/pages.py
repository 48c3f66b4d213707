"""What the help of a command says: a :class:`Page`, read from the commands of Typer or from an argparse parser.

:mod:`cetool.cli.help` shows pages in a terminal; ``tools/reference.py`` writes the man pages and the reference of the
documentation from them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cetool.cli.panels import PANELS
from cetool.settings.meanings import SETTINGS
from cetool.settings.settings import variable_of

#: Values of an option are listed if there are at most this many.
_MOST_VALUES = 8
#: Replaces a space at which a line must not break.
FIRM = "\ue000"

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
        """What help says in brackets after the text."""
        return (
            *([f"[values: {', '.join(self.values)}]"] if self.values else []),
            *([f"[default: {self.default}]"] if self.default else []),
            *(["[repeatable]"] if self.repeatable else []),
            *([f"[env:{FIRM}{self.variable}]"] if self.variable else []),
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


#: Shown by the commands that take a setting.
_SETTINGS = Section("Settings", tuple(Entry((key,), "", each.text) for key, each in SETTINGS.items()))

# --- reading commands -----------------------------------------------------------------------------------------------


def page_of(command: Any, context: Any) -> Page:
    """Read the page of a Typer command or group."""
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
        *([_SETTINGS] if any(each.metavar == "KEY" for each in arguments) else []),
    ]
    usage = [*(["[OPTIONS]"] if len(panels) > 1 or any(len(each.entries) > 1 for each in panels) else [])]
    usage += [f"{each.opts[-1]} {_value(each)}" for each in params if each.required and each not in arguments]
    usage += [_name(each) if each.required else f"[{_name(each)}]".replace("...]", "]...") for each in arguments]
    usage += [f"{'SCRIPT|' if len(topics) > 1 else ''}COMMAND [ARGS]..."] if commands else []
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


def page_of_parser(parser: argparse.ArgumentParser) -> Page:
    """Read the page of a parser of conda-execute's commands."""
    actions = [each for each in parser._actions if each.help != argparse.SUPPRESS]
    groups = [each for each in actions if isinstance(each, argparse._SubParsersAction)]
    arguments = [each for each in actions if not each.option_strings and each not in groups]
    flags = sorted((each for each in actions if each.option_strings), key=lambda each: "--help" in each.option_strings)
    commands = [each for group in groups for each in group._choices_actions]
    sections = [
        Section("Arguments", tuple(Entry((_metavar(each),), "", each.help or "") for each in arguments)),
        Section("Commands", tuple(Entry((each.dest,), "", each.help or "") for each in commands)),
        Section("Options", tuple(map(_flag_of, flags))),
    ]
    usage = ["[OPTIONS]", *(f"[{_metavar(each)}]".replace("...]", "]...") for each in arguments)]
    usage += ["COMMAND [ARGS]..."] if commands else []
    shown = tuple(each for each in sections if each.entries)
    return Page(parser.prog, " ".join(usage), parser.description or "", (), shown)


def pages_of_parser(parser: argparse.ArgumentParser) -> Iterator[Page]:
    """Read the pages of a parser and of those below it."""
    yield page_of_parser(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from pages_of_parser(below)


def _metavar(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    return f"{name}..." if action.nargs == "*" and not name.endswith("...") else name


def _flag_of(action: argparse.Action) -> Entry:
    names = tuple(sorted(action.option_strings, key=lambda name: name.startswith("--")))
    value = "" if action.nargs == 0 else _metavar(action)
    text = _OF_TYPER.get(names[-1], action.help or "")
    return Entry(names, value, text, repeatable=isinstance(action, argparse._AppendAction))


def _paragraphs(text: str) -> list[str]:
    """Split a docstring into paragraphs and join the lines of each, except for examples, which are indented."""
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
    """Return the options in their panels: shared ones as they are declared, a command's own as the command lists them.

    The options that Typer declares are in the last panel, after all others.
    """
    declared = getattr(command.callback, "options", {})
    last = PANELS[-1] if declared else PANELS[0]
    own = [(last if each.name not in declared else declared[each.name].rich_help_panel, each) for each in params]
    found = {}
    for title in dict.fromkeys((*PANELS, *(title for title, _ in own))):
        here = [each for panel, each in own if panel == title]
        if title != PANELS[0]:
            here.sort(key=lambda each: declared[each.name].rank if each.name in declared else sys.maxsize)
        found[title] = tuple(_option(each, declared.get(each.name)) for each in here)
    return [Section(title, entries) for title, entries in found.items() if entries]


def _option(param: Any, given: Any) -> Entry:
    names = sorted((*param.opts, *param.secondary_opts), key=lambda name: name.startswith("--"))
    setting = "" if given is None else given.setting or ""
    fixed = "" if given is None or given.value is None else f"={given.value}"
    return Entry(
        tuple(names),
        _value(param),
        next((_OF_TYPER[name] for name in names if name in _OF_TYPER), param.help or ""),
        _known(given),
        _default(param),
        bool(param.multiple),
        setting,
        f"{variable_of(setting)}{fixed}" if setting else "",
    )


def _value(param: Any) -> str:
    """The placeholder of an option's value; empty for a flag."""
    return "" if param.is_flag else param.metavar or str(param.opts[-1]).lstrip("-").upper()


def _known(given: Any) -> tuple[str, ...]:
    known = () if given is None else given.known
    return tuple(known) if len(known) <= _MOST_VALUES else ()


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return param.show_default
    default = param.default.value if isinstance(param.default, Enum) else param.default
    return str(default) if isinstance(default, (str, int, float)) and default and not param.is_flag else ""

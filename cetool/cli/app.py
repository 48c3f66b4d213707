"""cetool's command line: the commands by topic, and errors as JSON."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from cetool import __version__
from cetool.base.errors import UsageError
from cetool.base.text import nearest, printable
from cetool.cli.completing import OPTIONS, handle_option, read_command, variable
from cetool.cli.output import print_line
from cetool.cli.parameters import Commands
from cetool.warm import COMMANDS

#: Options of cetool itself; others in front of a script are those of ``run``.
_OWN_OPTIONS = ("--help", "--version", "-V", *OPTIONS)

#: Commands that pass further words on to a program.
_TAKES_WORDS = ("exec", "rerun")
#: The commands by topic: the module of each in this package, and its function, or ``app`` for a group of commands.
#: Modules are imported when their command is called; importing all takes longer than most commands.
_PLACES = {
    "Run": {
        "run": ("run", "run"),
        "exec": ("tools", "execute"),
        "shell": ("tools", "shell"),
        "rerun": ("reproducing", "rerun"),
    },
    "Declare": {
        "init": ("editing", "init"),
        "add": ("editing", "add"),
        "drop": ("editing", "drop"),
        "remove-dep": ("editing", "drop"),
        "convert": ("editing", "convert"),
        "check": ("editing", "check"),
        "show": ("scripts", "show"),
    },
    "Reproduce": {
        "lock": ("locking", "lock"),
        "upgrade": ("upgrading", "upgrade"),
        "export": ("reproducing", "export"),
        "verify": ("reproducing", "verify"),
        "baseline": ("baseline_commands", "app"),
    },
    "Environments": {
        "list": ("listing", "list_environments"),
        "tree": ("listing", "tree"),
        "create": ("environments", "create"),
        "path": ("tools", "path"),
        "name": ("environments", "name"),
        "remove": ("environments", "remove"),
        "gc": ("environments", "gc"),
        "overlay": ("overlays", "app"),
        "kernel": ("kernels", "app"),
    },
    "Servers": {
        "env": ("env", "app"),
        "servers": ("login", "servers"),
        "login": ("login", "login"),
        "logout": ("login", "logout"),
        "serve": ("serve", "serve"),
        "server": ("server", "app"),
    },
    "Settings": {
        "config": ("settings", "app"),
        "trust": ("trusting", "app"),
        "info": ("scripts", "info"),
    },
}


def make_app(*names: str) -> typer.Typer:
    """Make the command line with these commands."""
    app = Commands("cetool", help=_cetool.__doc__, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(_cetool)
    for topic, places in _PLACES.items():
        for name, (module, function) in places.items():
            if name not in names:
                continue
            place = import_module(f"cetool.cli.{module}")
            if function == "app":
                app.add_typer(place.app, rich_help_panel=topic)
                continue
            more = {"rich_help_panel": topic, "hidden": name == "remove-dep"}
            if name == "run":
                more |= {"cls": place.RunCommand, "context_settings": place.CONTEXT}
            elif name in _TAKES_WORDS:
                more |= {"context_settings": import_module("cetool.cli.run").CONTEXT}
            app.command(name, **more)(getattr(place, function))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"cetool {__version__}")
        raise typer.Exit


def _cetool(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version of cetool."),
    ] = False,
) -> None:
    """Run scripts in the conda environments that they declare.

    `cetool SCRIPT` is short for `cetool run SCRIPT`. `cetool help COMMAND` shows the help of a command.
    """


def with_command(arguments: list[str]) -> list[str]:
    """Put ``run`` in front of arguments that begin with a script or an option of ``run``.

    The kernel calls a script with the shebang ``#!/usr/bin/env cetool``, or ``-S cetool -v``, like this. ``help`` in
    front becomes ``--help`` at the end.
    """
    if arguments[:1] == ["help"]:
        return [*_known_command([word for word in arguments if word not in ("help", "-h", "--help")]), "--help"]
    if not arguments or arguments[0] in COMMANDS or arguments[0] == "-h":
        return arguments
    if arguments[0].partition("=")[0] in _OWN_OPTIONS:
        return arguments
    return ["run", *arguments]


def _known_command(words: list[str]) -> list[str]:
    """Return the words after ``help``. Raises UsageError unless they start with a command."""
    if words and words[0] not in COMMANDS:
        near = nearest(words[0], COMMANDS)
        raise UsageError(
            f"unknown command {printable(words[0])!r}",
            hint=near if near.startswith("Did you mean") else "`cetool --help` lists the commands.",
        )
    return words


def _takes_json(error: Exception, words: list[str]) -> bool:
    """Return whether a command line that click rejects asks for JSON."""
    command = getattr(getattr(error, "ctx", None), "command", None)
    return "--json" in words and any("--json" in each.opts for each in getattr(command, "params", ()))


def run_app(arguments: list[str]) -> int:
    """Run a command line and return its exit status. Raises CetoolError."""
    if handle_option(arguments, "cetool", os.environ):
        return 0
    words = with_command(arguments)
    if variable("cetool") in os.environ:
        named = read_command()
    else:
        named = (words[0],) if words and words[0] in COMMANDS else COMMANDS
    asked: dict[str, bool] = {}  # filled by options.AsJson
    try:
        result = make_app(*named)(words, prog_name="cetool", standalone_mode=False, obj=asked)
    except Exception as error:
        if asked.get("json") or _takes_json(error, words):
            from cetool.cli.failure import tell_as_json  # few command lines fail

            tell_as_json(error)
        raise
    sys.stdout.flush()
    return result if isinstance(result, int) else 0

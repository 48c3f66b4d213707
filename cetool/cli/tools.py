"""``cetool exec``, ``shell`` and ``path``: run programs, open shells and locate environments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from cetool.app import tools
from cetool.app.decision import Wish
from cetool.app.world import World
from cetool.cli import completing, options
from cetool.cli.completing import handle_option
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json
from cetool.cli.run import CONTEXT
from cetool.cli.voice import Voice

PATH_SCHEMA = "cetool.path/1"

_Target = Annotated[
    str | None,
    typer.Argument(
        metavar="SCRIPT|NAME",
        autocompletion=completing.scripts,
        help="The path or URL of a script, or the name of an environment.",
        show_default=False,
    ),
]


# --- exec -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExecOptions(options.Output, options.Making):
    """The options of ``cetool exec``."""

    spec: options.Specs = options.with_help("Install this package instead of the one named like TOOL.")
    extra: options.With = options.with_help("Install this package as well.")
    channel: Annotated[
        list[str] | None,
        option(
            "-c",
            "--channel",
            metavar="CHANNEL",
            help="Take packages from this channel.",
            panel=options.ENVIRONMENT,
            setting="channels",
        ),
    ] = None


@options.command
def execute(
    tool: Annotated[
        str, typer.Argument(metavar="TOOL", help="The program to run, with an optional version: 'ruff>=0.4'.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="Arguments for the program.", show_default=False)
    ] = None,
    *,
    given: ExecOptions,
) -> None:
    """Run a program from a conda package.

    The program runs in an environment of its own, with the package that is named like the program unless `--spec` names
    others, and those of `--with`. `cex` is short for `cetool exec`.
    """
    world, voice = options.open_world(given)
    environment = tools.Environment(tuple(given.spec or ()), tuple(given.extra or ()), given.refresh)
    tools.execute(tool, arguments or [], environment, world, voice)


def cex_app() -> typer.Typer:
    """Return the command line of ``cex``."""
    app = options.Commands("cex", help=None)
    app.command(context_settings={**CONTEXT, "help_option_names": ["-h", "--help"]}, no_args_is_help=True)(execute)
    return app


def cex(words: Sequence[str]) -> int:
    """Run ``cex`` with these arguments and return the exit status, unless it becomes the tool. Raises CetoolError."""
    if handle_option(words, "cex", os.environ):
        return 0
    result = cex_app()(words, prog_name="cex", standalone_mode=False)
    return result if isinstance(result, int) else 0


# --- shell ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShellOptions(options.Output, options.Making, options.Remote, options.Lock):
    """The options of ``cetool shell``."""

    spec: options.Specs = None
    repl: Annotated[
        bool | None,
        option("--repl/--no-repl", help="Open Python instead of a shell (default for notebooks)."),
    ] = None
    extra: options.With = None
    env_file: options.EnvFile = None
    exclude_newer: options.ExcludeNewer = None


@options.command
def shell(target: _Target = None, *, given: ShellOptions) -> None:
    """Open a shell in a script's environment.

    Creates the environment if it is missing. `--spec` opens one with these packages instead, without a script.
    """
    world, voice = options.open_world(given)
    tools.open_in(_wanted("shell", target, given, world, voice), voice, repl=given.repl, refresh=given.refresh)


# --- path -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PathOptions(options.Output, options.Making, options.Remote, options.Lock):
    """The options of ``cetool path``."""

    spec: options.Specs = None
    python: Annotated[bool, option("--python", help="Print the path of the environment's Python.")] = False
    as_json: options.AsJson = False
    extra: options.With = None
    env_file: options.EnvFile = None
    exclude_newer: options.ExcludeNewer = None


@options.command
def path(target: _Target = None, *, given: PathOptions) -> None:
    """Print the prefix of an environment, created if missing.

    For editors and other programs: `--json` also prints the variables that activation sets.
    """
    world, voice = options.open_world(given)
    found = tools.locate(
        _wanted("path", target, given, world, voice), voice, refresh=given.refresh, python=given.python
    )
    if not given.as_json:
        print_data(f"{found.python if given.python and found.python else found.prefix}\n")
        return
    print_json(
        {
            "schema": PATH_SCHEMA,
            "name": found.name,
            "prefix": str(found.prefix),
            "python": found.python,
            "path": list(found.activation.path),
            "variables": dict(found.activation.set),
        }
    )


def _wanted(
    command: str, target: str | None, given: ShellOptions | PathOptions, world: World, voice: Voice
) -> tools.Wanted:
    wish = Wish(tuple(given.extra or ()), given.env_file, given.choice, given.exclude_newer)
    asked = tools.Asked(command, target, tuple(given.spec or ()), wish, given.insecure, given.sha256)
    return tools.wanted(asked, world, voice)

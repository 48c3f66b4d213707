"""``conda-execute`` and ``conda-tmpenv``: the commands of conda-execute, and what they print.

conda before 26.3 runs an executable ``conda-NAME`` on the PATH as ``conda NAME``; :mod:`cetool.cli.conda_plugin` is for
later versions.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cetool.app.decision import Wish
from cetool.app.environments import create, decide_specs
from cetool.app.running import run
from cetool.app.sources import open_source, source_of_lines
from cetool.app.starting import RunOptions
from cetool.app.world import World, prepare
from cetool.base.errors import UsageError
from cetool.cli.output import print_data, print_line
from cetool.cli.voice import Voice, start
from cetool.engines.registration import forget_registration
from cetool.store.gc import Collection, Policy
from cetool.store.kinds import collect_environments
from cetool.store.usage import open_usage_log


class Parser(argparse.ArgumentParser):
    """A parser whose help :mod:`cetool.cli.help` renders, and whose errors are cetool's."""

    def format_help(self) -> str:
        from cetool.cli.help import render  # few command lines ask for help
        from cetool.cli.pages import page_of_parser

        return render(page_of_parser(self), sys.stdout) + "\n"

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"`{self.prog} --help` shows all options.")


def execute(arguments: Sequence[str]) -> NoReturn:
    """Run ``conda-execute`` with these arguments. Raises CetoolError; does not return."""
    if "_CONDA_EXECUTE_COMPLETE" in os.environ:
        from cetool.cli.completing import complete_parser  # imports Typer

        complete_parser(execute_parser(), "conda-execute")
    asked = execute_parser().parse_args(arguments)
    verbosity = "verbose" if asked.verbose else "quiet" if asked.quiet else None
    world, voice = start({"verbosity": verbosity, "trust": "always" if asked.yes else None})
    if asked.code is not None:
        source, words = source_of_lines(asked.code), [word for word in [asked.path] if word] + asked.arguments
    elif asked.path is not None:
        # conda-execute allowed plain http
        insecure = asked.path.lower().startswith("http://")
        source, world = open_source(asked.path, world, voice, insecure=insecure)
        words = list(arguments[list(arguments).index(asked.path) + 1 :])  # with a --, which argparse removes
    else:
        raise UsageError("no script was given", hint="Pass the file to execute, or its lines with -c.")
    # runs unattended without consent, as conda-execute did; at a terminal it asks, as `cetool run` does
    run(source, words, RunOptions(Wish(refresh=asked.force_env, unasked=True, original=True)), world, voice)


def execute_parser() -> Parser:
    """Return the command line of ``conda execute``."""
    parser = Parser(prog="conda execute", description="Execute a script in a temporary conda environment.")
    parser.add_argument("path", nargs="?", metavar="SCRIPT", help="The path or URL of a script.")
    parser.add_argument("--force-env", "-f", action="store_true", help="Re-create the environment even if it exists.")
    parser.add_argument("--yes", "-y", action="store_true", help="Accept a script from a URL without asking.")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--verbose", "-v", action="store_true", help="Report each step.")
    loudness.add_argument("--quiet", "-q", action="store_true", help="Print errors only.")
    parser.add_argument(
        "--code", "-c", nargs="*", metavar="LINE", help="Run these lines as a script (none: standard input)."
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS...", help="Arguments for the script.")
    return parser


def tmpenv(arguments: Sequence[str]) -> int:
    """Run ``conda-tmpenv`` with these arguments and return the exit status. Raises CetoolError."""
    asked = tmpenv_parser().parse_args(arguments)
    world, voice = start({"verbosity": "verbose" if asked.verbose else None})
    if asked.command == "list":
        return _list(world, voice)
    if asked.command == "clear":
        return _clear(world, voice, asked.min_age)
    if asked.command == "create" and not asked.specs and not asked.file:
        print_line("Error: no packages to install, must supply command line package specs or --file.", error=True)
        return 1
    decision = decide_specs(asked.specs, asked.file, Wish(), world, voice)
    if asked.command == "name":
        print_data(f"{world.store.prefix(decision.spec.name)}\n")
    else:
        print_data(f"{create(decision, world, voice, refresh=asked.force)}\n")
    return 0


def tmpenv_parser() -> Parser:
    """Return the command line of ``conda tmpenv``."""
    common = Parser(add_help=False)
    common.add_argument("--verbose", "-v", action="store_true", default=argparse.SUPPRESS, help="Report each step.")
    parser = Parser(prog="conda tmpenv", description="Manage temporary conda environments.", parents=[common])
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    wanted = Parser(add_help=False)
    wanted.add_argument("specs", nargs="*", metavar="SPEC", help="Packages of the environment.")
    wanted.add_argument("--file", type=Path, default=[], action="append", metavar="FILE", help="Read match specs.")

    def add(name: str, help: str, *parents: Parser) -> Parser:
        return commands.add_parser(name, parents=[common, *parents], help=help, description=help)

    add("list", "List environments.")
    create = add("create", "Create an environment and print its prefix.", wanted)
    create.add_argument("--force", action="store_true", help="Re-create the environment even if it exists.")
    add("name", "Print the prefix of an environment without creating it.", wanted)
    clear = add("clear", "Remove unused environments.")
    clear.add_argument(
        "--min-age", type=_hours, metavar="HOURS", help="Remove those unused for this long (default: the setting)."
    )
    return parser


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours")
    return hours


def _list(world: World, voice: Voice) -> int:
    if not world.paths.envs.exists():
        return 0
    with open_usage_log(world.paths, world.store, warn=voice.warn) as usage:
        rows, running = usage.rows(), usage.running()
    now = time.time()
    for directory in world.store.directories():
        row = rows.get(directory.prefix.name)
        if row is None:
            continue
        pids = running.get(directory.prefix.name, [])
        age = datetime.timedelta(seconds=max(0.0, now - row.last_used))
        running_now = f"(running PIDs {', '.join(map(str, pids))})" if pids else ""
        print_line(f"{len(pids)} processes (newest created {age} ago) using {directory.prefix} {running_now}")
    return 0


def _clear(world: World, voice: Voice, hours: float | None) -> int:
    if not world.paths.envs.exists():
        return 0
    prepare(world.paths)
    age = world.settings.remove_if_unused_for if hours is None else hours

    def forget(prefix: Path) -> None:
        forget_registration(prefix, world.environ)
        voice.say(f"Removing unused temporary environment {prefix}.")

    with open_usage_log(world.paths, world.store, warn=voice.warn) as usage:
        collection = Collection(Policy(older_than=age * 3600))
        collect_environments(collection, world.store, usage, on_removed=forget)
    return 0

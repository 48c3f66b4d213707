"""``conda-execute`` and ``conda-tmpenv``: the command lines of the original, by cetool's means.

conda runs an executable ``conda-NAME`` on the PATH as ``conda NAME``, so ``conda execute`` and ``conda tmpenv`` work as
they did. What the two print on standard output is the original's, too.
"""

from __future__ import annotations

import argparse
import datetime
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


def execute(arguments: Sequence[str]) -> NoReturn:
    """``conda-execute`` with these arguments. Raises CetoolError; does not return."""
    parser = argparse.ArgumentParser(
        prog="conda execute", description="Execute a script in a temporary conda environment."
    )
    parser.add_argument("path", nargs="?", help="The script to execute: a path, or a URL.")
    parser.add_argument("--force-env", "-f", action="store_true", help="Make the environment anew.")
    parser.add_argument("--yes", "-y", action="store_true", help="Run a script from a URL without being asked.")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--verbose", "-v", action="store_true", help="Say what is done, and with what.")
    loudness.add_argument("--quiet", "-q", action="store_true", help="Say nothing but errors.")
    parser.add_argument(
        "--code", "-c", nargs="*", metavar="LINE", help="The script's lines; standard input where there are none."
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="The script's own arguments.")
    asked = parser.parse_args(arguments)
    verbosity = "verbose" if asked.verbose else "quiet" if asked.quiet else None
    world, voice = start({"verbosity": verbosity, "trust": "always" if asked.yes else None})
    if asked.code is not None:
        source, words = source_of_lines(asked.code), [word for word in [asked.path] if word] + asked.arguments
    elif asked.path is not None:
        # the original asked plain http servers, too
        insecure = asked.path.lower().startswith("http://")
        source, world = open_source(asked.path, world, voice, insecure=insecure)
        words = list(arguments[list(arguments).index(asked.path) + 1 :])  # a -- too, that argparse takes out
    else:
        raise UsageError("no script was given", hint="Pass the file to execute, or its lines with -c.")
    # where it ran unattended it goes on to; at a terminal one is asked, as with `cetool run`
    run(source, words, RunOptions(Wish(refresh=asked.force_env, unasked=True, original=True)), world, voice)


def tmpenv(arguments: Sequence[str]) -> int:
    """``conda-tmpenv`` with these arguments: the exit status. Raises CetoolError."""
    asked = _tmpenv_parser().parse_args(arguments)
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


def _tmpenv_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--verbose", "-v", action="store_true", default=argparse.SUPPRESS, help="Say more.")
    parser = argparse.ArgumentParser(
        prog="conda tmpenv", description="Manage temporary conda environments.", parents=[common]
    )
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    commands.add_parser("list", parents=[common], help="List the environments.")
    wanted = argparse.ArgumentParser(add_help=False)
    wanted.add_argument("specs", nargs="*", metavar="SPEC", help="Packages of the environment.")
    wanted.add_argument("--file", type=Path, default=[], action="append", help="A file of specs; repeat for more.")
    create = commands.add_parser("create", parents=[common, wanted], help="Make an environment, print its prefix.")
    create.add_argument("--force", action="store_true", help="Make it anew, even if there is one.")
    commands.add_parser("name", parents=[common, wanted], help="Print the prefix that an environment would have.")
    clear = commands.add_parser("clear", parents=[common], help="Remove unused environments.")
    clear.add_argument(
        "--min-age", type=_hours, metavar="HOURS", help="How long they must have been unused (default: the setting)."
    )
    return parser


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours")
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
        told = f"(running PIDs {', '.join(map(str, pids))})" if pids else ""
        print_line(f"{len(pids)} processes (newest created {age} ago) using {directory.prefix} {told}")
    return 0


def _clear(world: World, voice: Voice, hours: float | None) -> int:
    if not world.paths.envs.exists():
        return 0
    prepare(world.paths)
    age = world.settings.remove_if_unused_for if hours is None else hours

    def forget(prefix: Path) -> None:
        forget_registration(prefix, world.environ)
        voice.result(f"Removing unused temporary environment {prefix}.")

    with open_usage_log(world.paths, world.store, warn=voice.warn) as usage:
        collection = Collection(Policy(older_than=age * 3600))
        collect_environments(collection, world.store, usage, on_removed=forget)
    return 0

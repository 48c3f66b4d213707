"""``cetool run``: the command and its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cetool.app.decision import BaselineOptions, Wish
from cetool.app.running import run as become_script
from cetool.app.sources import check_pin, open_source, source_of_lines
from cetool.app.starting import NotebookOptions, RunOptions
from cetool.base.errors import UsageError
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.parameters import Command
from cetool.declare.source import NOTEBOOK_SUFFIX, is_url

#: Makes Typer pass everything after SCRIPT on to the script.
CONTEXT = {"allow_interspersed_args": False}


@dataclass(frozen=True)
class RunCommandOptions(options.Output, options.Making, options.Remote, options.Lock, options.Baseline):
    """The options of ``cetool run``."""

    code: Annotated[bool, option("-c", "--code", help="Run the arguments as the lines of a script.")] = False
    extra: options.With = options.with_help("Add a package for this run.")
    exclude_newer: options.ExcludeNewer = None
    env_file: options.EnvFile = None
    no_activate: Annotated[
        bool, option("--no-activate", help="Do not activate the environment.", panel=options.ENVIRONMENT)
    ] = False
    env: Annotated[
        str | None,
        option(
            "--env",
            metavar="NAMESPACE/NAME",
            help="Run in this environment of a server (NAME@BUILD for one build).",
            panel=options.ENVIRONMENT,
            complete=completing.named,
        ),
    ] = None
    base: options.Base = None
    overlay: options.Overlay = None
    keep: options.Keep = False
    overlays_dir: options.OverlaysDir = None
    out: Annotated[
        Path | None,
        option("--out", metavar="FILE", help="Write the executed notebook (- prints it).", panel=options.NOTEBOOK),
    ] = None
    parameter: Annotated[
        list[str] | None,
        option("-p", "--parameter", metavar="NAME=VALUE", help="Set a parameter.", panel=options.NOTEBOOK),
    ] = None
    raw_parameter: Annotated[
        list[str] | None,
        option("-r", "--raw-parameter", metavar="NAME=TEXT", help="Set a parameter to text.", panel=options.NOTEBOOK),
    ] = None
    record: options.Record = None


@options.command
def run(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="SCRIPT",
            help="The path or URL of a script or notebook, or - for standard input.",
            show_default=False,
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="Arguments for the script.", show_default=False)
    ] = None,
    *,
    given: RunCommandOptions,
) -> None:
    """Run a script in the environment that it declares.

    Creates the environment if it is missing. Everything after SCRIPT is passed to the script; the options for notebooks
    may also follow the notebook. With `-c` and no arguments the script is read from standard input.

    `cetool SCRIPT` is short for `cetool run SCRIPT`.
    """
    from cetool.provenance.record import record_target  # few runs are recorded

    to_record = None if given.record is None else record_target(given.record)
    world, voice = options.open_world(given)
    words = [*([] if target is None else [target]), *(arguments or [])]
    if given.code:
        source, words = source_of_lines(words), []
        check_pin(source, given.sha256)
    elif not words:
        raise UsageError(
            "no script was given", hint="Use `cetool run SCRIPT`, `cetool run -c LINE...`, or `cetool run -`."
        )
    else:
        source, world = open_source(words[0], world, voice, insecure=given.insecure, sha256=given.sha256)
        words = words[1:]
    wish = Wish(
        extra=tuple(given.extra or ()),
        env_file=given.env_file,
        lock=given.choice,
        exclude_newer=given.exclude_newer,
        baselines=BaselineOptions.of(given.baseline, given.without, insecure=given.insecure),
        base=given.base,
        overlay=tuple(given.overlay or ()),
        environment=given.env,
        refresh=given.refresh,
    )
    notebook = NotebookOptions(given.out, tuple(given.parameter or ()), tuple(given.raw_parameter or ()))
    how = RunOptions(wish, not given.no_activate, given.keep, to_record, notebook)
    become_script(source, words, how, world, voice)


class RunCommand(Command):
    """Reads the command line of ``run``: words after a script are the script's, options after a notebook cetool's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        target = ctx.params.get("target")
        if ctx.params.get("arguments") and not ctx.params.get("code") and names_notebook(str(target)):
            ctx.params.clear()
            ctx.allow_interspersed_args = True
            rest = super().parse_args(ctx, given)
        return rest


def names_notebook(target: str) -> bool:
    """Return whether a path or URL has the suffix of a notebook."""
    path = target.partition("?")[0].partition("#")[0] if is_url(target) else target
    return path.lower().endswith(NOTEBOOK_SUFFIX)

"""``cetool run``: the command and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cetool.app.baseline_options import BaselineOptions
from cetool.app.execution import NotebookOptions, RunOptions, run_source
from cetool.app.sources import check_pin, open_source, source_of_lines
from cetool.base.errors import UsageError
from cetool.cli import options
from cetool.declare.source import NOTEBOOK_SUFFIX, is_url

#: What a command needs so that all that follows SCRIPT belongs to the script.
CONTEXT = {"allow_interspersed_args": False}


def run(
    target: Annotated[
        str | None,
        typer.Argument(metavar="SCRIPT", help="A path, a URL, or - for standard input.", show_default=False),
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="The script's own.", show_default=False)
    ] = None,
    code: Annotated[
        bool, typer.Option("-c", "--code", help="The arguments are the script's lines; none: standard input.")
    ] = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
    engine: options.EngineName = None,
    channel: options.Channels = None,
    extra: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="SPEC", help="A package besides those declared; repeat for more."),
    ] = None,
    refresh: options.Refresh = False,
    offline: options.Offline = False,
    locked: options.Locked = False,
    frozen: options.Frozen = False,
    no_lock: options.NoLock = False,
    lock_file: options.LockFile = None,
    exclude_newer: options.ExcludeNewer = None,
    env_file: options.EnvFile = None,
    baseline: options.Baselines = None,
    without: options.Without = None,
    no_activate: Annotated[
        bool, typer.Option("--no-activate", help="Run the program without activating the environment.")
    ] = False,
    trust_cache_dir: options.TrustCacheDir = False,
    base: options.Base = None,
    overlay: options.Overlay = None,
    keep: options.Keep = False,
    overlays_dir: options.OverlaysDir = None,
    insecure: options.Insecure = False,
    sha256: options.Sha256 = None,
    yes: options.Yes = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A notebook: where it goes as it was run; - prints it.")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A notebook's parameter.")
    ] = None,
    raw_parameter: Annotated[
        list[str] | None, typer.Option("-r", "--raw-parameter", metavar="NAME=TEXT", help="The same, always a text.")
    ] = None,
    record: options.Record = None,
) -> None:
    """Run a script in the conda environment that it declares."""
    to_record = options.record_target(record)
    lock = options.LockOptions(locked, frozen, no_lock, lock_file)
    loudness = options.verbosity(verbose, quiet)
    session = options.open_session(
        channel, loudness, engine, offline, trust_cache_dir, lock, yes=yes, overlays_dir=overlays_dir
    )
    words = [*([] if target is None else [target]), *(arguments or [])]
    if code:
        source, words = source_of_lines(words), []
        check_pin(source, sha256)
    elif not words:
        raise UsageError("no script was given", hint="cetool run SCRIPT, or cetool run -c LINE..., or cetool run -")
    else:
        source, words = open_source(words[0], session, insecure=insecure, sha256=sha256), words[1:]
    notebook = NotebookOptions(out, tuple(parameter or ()), tuple(raw_parameter or ()))
    how = RunOptions(
        extra=tuple(extra or ()),
        env_file=env_file,
        refresh=refresh,
        activate=not no_activate,
        notebook=notebook,
        lock=lock.choice,
        exclude_newer=exclude_newer,
        baselines=BaselineOptions.of(baseline, without, insecure=insecure),
        record=to_record,
        keep=keep,
        base=base,
        overlay=tuple(overlay or ()),
    )
    run_source(source, words, session, how)


class RunCommand(TyperCommand):
    """Reads the command line of ``run``: what stands after a script is the script's, after a notebook cetool's."""

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
    """Whether a path or URL is that of a notebook, by its suffix."""
    path = target.partition("?")[0].partition("#")[0] if is_url(target) else target
    return path.lower().endswith(NOTEBOOK_SUFFIX)

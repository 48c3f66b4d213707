"""``cetool run``: the command and its options."""

from __future__ import annotations

from typing import Annotated

import typer

from cetool.cli import options
from cetool.cli.execution import RunOptions, run_source
from cetool.cli.sources import open_source, source_of_lines
from cetool.errors import UsageError

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
    env_file: options.EnvFile = None,
    no_activate: Annotated[
        bool, typer.Option("--no-activate", help="Run the program without activating the environment.")
    ] = False,
    trust_cache_dir: options.TrustCacheDir = False,
    base: options.Base = None,
    overlay: options.Overlay = None,
    keep: options.Keep = False,
    overlays_dir: options.OverlaysDir = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let a script come over plain http.")] = False,
) -> None:
    """Run a script in the conda environment that it declares."""
    session = options.open_session(
        channel, options.verbosity(verbose, quiet), engine, offline, trust_cache_dir, overlays_dir=overlays_dir
    )
    words = [*([] if target is None else [target]), *(arguments or [])]
    if code:
        source, words = source_of_lines(words), []
    elif not words:
        raise UsageError("no script was given", hint="cetool run SCRIPT, or cetool run -c LINE..., or cetool run -")
    else:
        source, words = open_source(words[0], session, insecure=insecure), words[1:]
    how = RunOptions(tuple(extra or ()), env_file, refresh, not no_activate, keep, base, tuple(overlay or ()))
    run_source(source, words, session, how)

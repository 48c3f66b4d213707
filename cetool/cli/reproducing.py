"""``cetool rerun``, ``verify`` and ``export``: the commands and their options; each imports what it needs."""

from __future__ import annotations

from typing import Annotated

import typer

from cetool.cli import options


def rerun(
    record_file: Annotated[str, typer.Argument(metavar="RECORD", help="What `cetool run --record` wrote.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="The script's, instead of those recorded.", show_default=False),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Run in this directory, not in the one where the recorded run did.")
    ] = False,
    record: options.Record = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
    engine: options.EngineName = None,
    offline: options.Offline = False,
    trust_cache_dir: options.TrustCacheDir = False,
) -> None:
    """Do a recorded run again: the same script and arguments on the very same packages."""
    from cetool.cli.rerunning import do_again

    to_record = options.record_target(record)
    session = options.open_session(None, options.verbosity(verbose, quiet), engine, offline, trust_cache_dir)
    do_again(record_file, arguments, session, here=here, to_record=to_record)


def verify(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|PREFIX|SCRIPT", help="The environments; none: all that there are."),
    ] = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
    trust_cache_dir: options.TrustCacheDir = False,
) -> int:
    """Compare the files of environments with the hashes that their packages recorded."""
    from cetool.cli.verifying import verify_environments

    session = options.open_session(None, options.verbosity(verbose, quiet), None, False, trust_cache_dir)
    return verify_environments(targets or [], session, as_json=as_json)

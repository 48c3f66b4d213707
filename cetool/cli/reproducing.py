"""``cetool rerun``, ``verify`` and ``export``: the commands and their options; each imports what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_data


class Format(str, Enum):
    """What ``cetool export`` writes."""

    EXPLICIT = "explicit"
    ENVIRONMENT = "environment-yml"
    CONDA_LOCK = "conda-lock"
    PIXI_LOCK = "pixi-lock"
    PIXI_LOCK_6 = "pixi-lock-6"
    REQUIREMENTS = "requirements"


@dataclass(frozen=True)
class RerunOptions(options.Output):
    """The options of ``cetool rerun``."""

    here: Annotated[
        bool, option("--here", help="Run in this directory, not in the one where the recorded run did.")
    ] = False
    record: options.Record = None
    engine: options.EngineName = None
    offline: options.Offline = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def rerun(
    record_file: Annotated[str, typer.Argument(metavar="RECORD", help="What `cetool run --record` wrote.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="The script's, instead of those recorded.", show_default=False),
    ] = None,
    *,
    given: RerunOptions,
) -> None:
    """Do a recorded run again: the same script and arguments on the very same packages."""
    from cetool.app.rerunning import do_again

    to_record = options.record_target(given.record)
    session = options.open_session(given)
    do_again(record_file, arguments, session, here=given.here, to_record=to_record)


@dataclass(frozen=True)
class VerifyOptions(options.Output):
    """The options of ``cetool verify``."""

    as_json: options.AsJson = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def verify(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|PREFIX|SCRIPT", help="The environments; none: all that there are."),
    ] = None,
    *,
    given: VerifyOptions,
) -> int:
    """Compare the files of environments with the hashes that their packages recorded."""
    from cetool.app.verifying import verify_environments

    session = options.open_session(given)
    return verify_environments(targets or [], session, as_json=given.as_json)


@dataclass(frozen=True)
class ExportOptions(options.Output):
    """The options of ``cetool export``."""

    format: Annotated[Format, option("--format", help="How the packages are written down.")] = Format.CONDA_LOCK
    output: Annotated[
        Path | None, option("-o", "--output", metavar="FILE", help="Write to a file, not to standard output.")
    ] = None
    platform: Annotated[
        list[str] | None,
        option("--platform", metavar="PLATFORM", help="A platform that the script's lock has; repeat for more."),
    ] = None
    lock_file: Annotated[
        Path | None, option("--lock-file", metavar="FILE", help="The lock, instead of the script's own.")
    ] = None
    extra: Annotated[
        list[str] | None,
        option("--with", metavar="SPEC", help="A package besides those declared; repeat for more."),
    ] = None
    env_file: options.EnvFile = None
    engine: options.EngineName = None
    channel: options.Channels = None
    offline: options.Offline = False
    trust_cache_dir: options.TrustCacheDir = False
    sha256: options.Sha256 = None
    yes: options.Yes = False


@options.command
def export(
    target: Annotated[str, typer.Argument(metavar="SCRIPT|NAME|PREFIX", help="A script, or an environment.")],
    *,
    given: ExportOptions,
) -> None:
    """Write down the exact packages of a script or an environment, for other tools: as locked, else as installed."""
    from cetool.app.exporting import Wanted, write_output
    from cetool.app.exporting import export as exported

    session = options.open_session(given)
    platforms, more = tuple(dict.fromkeys(given.platform or ())), tuple(given.extra or ())
    wanted = Wanted(target, given.format.value, platforms, given.lock_file, more, given.env_file, given.sha256)
    text = exported(wanted, session)
    if given.output is None:
        print_data(text)
    else:
        write_output(given.output, text)

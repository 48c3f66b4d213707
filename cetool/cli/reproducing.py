"""``cetool rerun``, ``verify`` and ``export``; each command imports what it needs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cetool.base.text import counted, printable
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json, print_line
from cetool.cli.voice import Voice

if TYPE_CHECKING:  # each command imports what it needs
    from cetool.app.verifying import Verified

VERIFY_SCHEMA = "cetool.verify/1"

#: Differences of one environment that are shown without ``-v``.
_MOST_SHOWN = 20


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

    here: Annotated[bool, option("--here", help="Run in the current directory, not the recorded one.")] = False
    record: options.Record = options.with_help("Also write a run record of this run.")
    engine: options.EngineName = None
    offline: options.Offline = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def rerun(
    record_file: Annotated[
        str, typer.Argument(metavar="RECORD", help="A run record that `cetool run --record` wrote.")
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="Arguments for the script instead of those recorded.", show_default=False),
    ] = None,
    *,
    given: RerunOptions,
) -> None:
    """Repeat a recorded run on exactly the same packages."""
    from cetool.app.rerunning import rerun as do_again
    from cetool.provenance.record import record_target  # few runs are recorded

    to_record = None if given.record is None else record_target(given.record)
    world, voice = options.open_world(given)
    do_again(record_file, arguments, world, voice, here=given.here, to_record=to_record)


@dataclass(frozen=True)
class VerifyOptions(options.Output):
    """The options of ``cetool verify``."""

    as_json: options.AsJson = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def verify(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|PREFIX|SCRIPT",
            autocompletion=completing.environments,
            help="The environments to check; all if none is given.",
            show_default=False,
        ),
    ] = None,
    *,
    given: VerifyOptions,
) -> int:
    """Check environments for changed or missing files.

    Compares each file with the hash that its package has for it. The exit status is 1 if there are differences.
    """
    from cetool.app.verifying import verify as verified

    world, voice = options.open_world(given)
    found: list[Verified] = []
    for each in verified(targets or [], world, voice):
        found.append(each)
        if not given.as_json:
            _show(each, voice)
    if given.as_json:
        print_json(_document(found))
    else:
        _conclude(found, str(world.paths.envs), voice, alone=len(targets or []) == 1)
    return 0 if all(each.intact for each in found) else 1


def _show(found: Verified, voice: Voice) -> None:
    verdict, verbose = found.verdict, voice.verbosity == "verbose"
    if found.intact:
        if voice.verbosity != "quiet":
            print_line(f"{found.prefix.name}: intact ({counted(verdict.files, 'file')})")
    else:
        states = [each.state for each in verdict.differences]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        print_line(f"{found.prefix.name}: {counts} (of {counted(verdict.files, 'file')})")
    shown = verdict.differences if verbose else verdict.differences[:_MOST_SHOWN]
    for each in shown:
        print_line(f"  {each.state:<8} {printable(each.path)}" + (f"  {each.package}" if each.package else ""))
    if len(shown) < len(verdict.differences):
        print_line(f"  ... and {len(verdict.differences) - len(shown)} more; -v shows them all")
    if verbose:
        for path in verdict.made:
            print_line(f"  {'made':<8} {printable(path)}  by a link script, when the environment was created")
        for path in verdict.compiled:
            print_line(f"  {'compiled':<8} {printable(path)}")


def _conclude(found: list[Verified], directory: str, voice: Voice, *, alone: bool) -> None:
    sys.stdout.flush()  # what follows goes to standard error, which may be the same file
    broken = sum(not each.intact for each in found)
    if not found:
        voice.say(f"There are no environments in {directory}.")
    elif not alone and voice.verbosity != "quiet":
        files = sum(each.verdict.files for each in found)
        total = f"{counted(len(found), 'environment')}, {counted(files, 'file')}"
        print_line(f"{total}: {len(found) - broken} intact, {broken} not")
        sys.stdout.flush()
    if packages := sorted({path for each in found for path in each.damaged_cache}):
        voice.warn(
            f"the package cache has damaged files too, which would be linked again: remove {', '.join(packages)}"
        )
    if linked := sorted({name for each in found for name in each.linked_to_installer}):
        voice.warn(
            f"files of {', '.join(linked)} are probably hard links into uv's cache, which is then damaged too: "
            f"`uv cache clean {' '.join(linked)}` removes them there"
        )
    if broken:
        voice.say("To re-create an environment, run `cetool run --refresh SCRIPT`; to remove it, `cetool remove NAME`.")


def _document(found: list[Verified]) -> dict[str, object]:
    return {
        "schema": VERIFY_SCHEMA,
        "intact": all(each.intact for each in found),
        "environments": [
            {
                "name": each.name,
                "prefix": str(each.prefix),
                "files": each.verdict.files,
                "intact": each.intact,
                "made": list(each.verdict.made),
            }
            for each in found
        ],
        "differences": [
            {
                "prefix": str(each.prefix),
                "path": item.path,
                "state": item.state,
                "package": item.package,
                "cached": item.cached,
            }
            for each in found
            for item in each.verdict.differences
        ],
    }


@dataclass(frozen=True)
class ExportOptions(options.Output):
    """The options of ``cetool export``."""

    format: Annotated[Format, option("--format", help="Write the packages in this format.")] = Format.CONDA_LOCK
    output: options.ToFile = None
    platform: options.Platforms = None
    lock_file: Annotated[
        Path | None, option("--lock-file", metavar="FILE", help="Export this lock instead of the script's.")
    ] = None
    extra: options.With = None
    env_file: options.EnvFile = None
    engine: options.EngineName = None
    channel: options.Channels = None
    offline: options.Offline = False
    trust_cache_dir: options.TrustCacheDir = False
    sha256: options.Sha256 = None
    yes: options.Yes = False


@options.command
def export(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SCRIPT|NAME|PREFIX",
            autocompletion=completing.scripts,
            help="A script, or the name or prefix of an environment.",
        ),
    ],
    *,
    given: ExportOptions,
) -> None:
    """Export exact packages for other tools.

    Exports the packages of the script's lock, or those that are installed if it has none.
    """
    from cetool.app.exporting import Wanted, write_output
    from cetool.app.exporting import export as exported

    world, voice = options.open_world(given)
    platforms, more = tuple(dict.fromkeys(given.platform or ())), tuple(given.extra or ())
    wanted = Wanted(target, given.format.value, platforms, given.lock_file, more, given.env_file, given.sha256)
    text = exported(wanted, world, voice)
    if given.output is None:
        print_data(text)
    else:
        write_output(given.output, text)
        voice.say(f"Wrote {given.output}")

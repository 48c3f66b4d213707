"""``cetool baseline``: create baselines and show how they have changed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import typer

from cetool.app.background import be_nice
from cetool.app.baseline_news import BaselineStatus, baseline_status, check_baselines
from cetool.app.exporting import EXPLICIT, fitting_format, packages_of, write_output, written_baseline
from cetool.base.text import counted
from cetool.base.urls import redact
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json, print_line
from cetool.cli.voice import start

STATUS_SCHEMA = "cetool.baseline-status/1"

app = options.Commands("baseline", help="Create baselines; compare them with environments.")


class Format(str, Enum):
    """The format of a baseline."""

    explicit = "explicit"
    conda_lock = "conda-lock"
    pixi_lock = "pixi-lock"


@dataclass(frozen=True)
class CreateOptions(options.Group):
    """The options of ``cetool baseline create``."""

    output: options.ToFile = None
    form: Annotated[
        Format | None,
        option("--format", help="Write the baseline in this format.", show_default="as fits FILE"),
    ] = None
    offline: options.Offline = False
    quiet: options.Quiet = False


@app.command("create")
@options.command
def create(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX|NAME", autocompletion=completing.environments, help="The prefix or name of an environment."
        ),
    ],
    *,
    given: CreateOptions,
) -> None:
    """Write the packages of an environment as a baseline."""
    world, voice = options.open_world(given)
    locked = packages_of(target, world, voice)
    chosen = given.form.value if given.form is not None else fitting_format(given.output, locked)
    text = written_baseline(chosen, locked, target, voice)
    if given.output is None:
        print_data(text.removesuffix("\n") + "\n")
        return
    write_output(given.output, text)
    count = len(locked.conda) + (len(locked.pypi) if chosen != EXPLICIT else 0)
    voice.say(f"Wrote {given.output} ({counted(count, 'package')} of {redact(target)})")


# --- status -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StatusOptions(options.Group):
    """The options of ``cetool baseline status``."""

    as_json: options.AsJson = False
    offline: options.Offline = False
    insecure: options.Insecure = options.with_help("Allow scripts and baselines over plain http.", False)
    yes: options.Yes = False


@app.command("status")
@options.command
def status(
    targets: Annotated[list[str], typer.Argument(metavar="SCRIPT", help="Scripts that declare a baseline.")],
    *,
    given: StatusOptions,
) -> None:
    """Show how baselines have changed.

    Compares each baseline with the packages that the scripts' environments were created from.
    """
    world, voice = options.open_world(given)
    found = [each for target in targets for each in baseline_status(target, world, voice, insecure=given.insecure)]
    if not given.as_json:
        for each in found:
            _print_status(each)
        return
    rows = [
        {
            "script": each.script,
            "baseline": each.shown,
            "state": each.state,
            "problem": each.problem,
            "used_since": each.used_since,
        }
        for each in found
    ]
    changes = [
        {
            "script": each.script,
            "baseline": each.shown,
            "name": change.name,
            "before": change.before,
            "after": change.after,
        }
        for each in found
        for change in each.changes
    ]
    print_json({"schema": STATUS_SCHEMA, "baselines": rows, "changes": changes})


def _print_status(status: BaselineStatus) -> None:
    count, used = len(status.changes), status.used_since
    since = "" if used is None else time.strftime(" (in use since %Y-%m-%d)", time.localtime(used))
    told = {
        "current": f"unchanged{since}",
        "changed": f"{counted(count, 'package')} {'differs' if count == 1 else 'differ'}{since}",
        "unused": "no environment uses it yet",
        "unknown": status.problem,
    }[status.state]
    print_line(f"{status.script}: {status.shown}: {told}")
    for change in status.changes:
        print_line(f"  {change.name}: {change.before or 'none'} -> {change.after or 'none'}")


# --- background checks ------------------------------------------------------------------------------------------------


@app.command("check", hidden=True)
def check() -> None:
    """Look for baselines that have changed; the next run reports them."""
    world, _ = start({"verbosity": "quiet"})
    be_nice()
    check_baselines(world)

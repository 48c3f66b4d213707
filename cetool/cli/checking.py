"""``cetool check``: looks scripts' blocks over, by hand or as a pre-commit hook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from cetool.app.checking import Checked, Checks, check_scripts
from cetool.base.errors import Location
from cetool.base.urls import redact
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json, print_line

CHECK_SCHEMA = "cetool.check/1"


@dataclass(frozen=True)
class CheckOptions(options.Output):
    """The options of ``cetool check``."""

    solve: Annotated[bool, option("--solve", help="Ask whether their environments can be made.")] = False
    ignore: Annotated[
        list[str] | None, option("--ignore", metavar="RULE", help="A rule to leave aside; repeat for more.")
    ] = None
    declared_only: Annotated[
        bool, option("--declared-only", help="Pass over files that have no block: for pre-commit.")
    ] = False
    as_json: options.AsJson = False
    offline: options.Offline = False
    insecure: options.Insecure = False
    yes: options.Yes = False


@options.command
def check(
    targets: Annotated[list[str], typer.Argument(metavar="SCRIPT", help="The scripts to look at.")],
    *,
    given: CheckOptions,
) -> int:
    """Look for mistakes in what scripts declare; the exit status is 1 where there is something to say."""
    world, voice = options.open_world(given)
    checks = Checks(given.solve, tuple(given.ignore or ()), given.declared_only, given.insecure)
    found = check_scripts(targets, checks, world, voice)
    if given.as_json:
        print_json(_document(found))
    else:
        for checked in found:
            for finding in checked.findings:
                place = Location(finding.part or checked.name, finding.line)
                print_line(f"{place}: {finding.severity}: {finding.message} [{finding.rule}]")
                if finding.severity == "error" and finding.hint and not given.quiet:
                    print_line("".join(f"    {line}\n" for line in finding.hint.splitlines()).rstrip("\n"))
        count = sum(len(checked.findings) for checked in found)
        scripts = f"{len(found)} script{'' if len(found) == 1 else 's'}"
        voice.say(f"{scripts} looked at: {f'{count} to mend' if count else 'nothing to mend'}")
    return 1 if any(checked.findings for checked in found) else 0


def _document(found: list[Checked]) -> dict[str, object]:
    return {
        "schema": CHECK_SCHEMA,
        "scripts": [
            {"script": each.name, "dialect": None if each.metadata is None else each.metadata.dialect} for each in found
        ],
        "findings": [
            {
                "script": finding.part or checked.name,
                "rule": finding.rule,
                "severity": finding.severity,
                "line": finding.line,
                "message": redact(finding.message),
                "hint": None if finding.hint is None else redact(finding.hint),
            }
            for checked in found
            for finding in checked.findings
        ],
    }

"""``cetool check``, ``init``, ``add``, ``drop`` and ``convert``: check and change the blocks of scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

import typer

from cetool.app.checking import Checked, Checks, check_scripts
from cetool.app.editing import Written, add_to_script, convert_script, drop_from_script, init_script
from cetool.base.errors import Location
from cetool.base.text import counted
from cetool.base.urls import redact
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json, print_line
from cetool.cli.voice import Voice
from cetool.edit.editing import requirements_change

CHECK_SCHEMA = "cetool.check/1"


@dataclass(frozen=True)
class CheckOptions(options.Output):
    """The options of ``cetool check``."""

    solve: Annotated[bool, option("--solve", help="Also check that the environments can be solved.")] = False
    ignore: Annotated[list[str] | None, option("--ignore", metavar="RULE", help="Do not report this rule.")] = None
    declared_only: Annotated[bool, option("--declared-only", help="Skip files without a block, for pre-commit.")] = (
        False
    )
    as_json: options.AsJson = False
    offline: options.Offline = False
    insecure: options.Insecure = options.with_help("Allow scripts over plain http.", False)
    yes: options.Yes = False


@options.command
def check(
    targets: Annotated[list[str], typer.Argument(metavar="SCRIPT", help="The scripts to check.")],
    *,
    given: CheckOptions,
) -> int:
    """Check the blocks of scripts for mistakes.

    The exit status is 1 if there are findings.
    """
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
        voice.say(f"Checked {counted(len(found), 'script')}: {counted(count, 'problem') if count else 'no problems'}")
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


class DialectName(str, Enum):
    """The dialects by the names that the command line has for them."""

    conda_execute = "conda-execute"
    pep723 = "pep723"
    conda_script = "conda-script"


Target = Annotated[str, typer.Argument(metavar="SCRIPT", help="The script to change.")]


@dataclass(frozen=True)
class InitOptions(options.Output):
    """The options of ``cetool init``."""

    dialect: Annotated[DialectName, option("--dialect", help="Write the block in this dialect.")] = (
        DialectName.conda_execute
    )
    extra: Annotated[list[str] | None, option("--with", metavar="SPEC", help="Declare this package.")] = None


@options.command
def init(target: Target, *, given: InitOptions) -> None:
    """Write a block into a script that has none.

    The block of a Python script declares the packages that the script imports.
    """
    _, voice = options.open_world(given)
    written = init_script(target, given.dialect.value, given.extra or ())
    _tell(voice, written, f"Added a {given.dialect.value} block to {{}}")


@dataclass(frozen=True)
class AddOptions(options.Output):
    """The options of ``cetool add``."""

    pypi: Annotated[bool, option("--pypi", help="Declare the packages as PyPI requirements.")] = False
    channel: Annotated[
        list[str] | None, option("--channel", metavar="CHANNEL", help="Add a channel after those declared.")
    ] = None


@options.command
def add(
    target: Target,
    specs: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPEC", help="Match specs, or PyPI requirements with --pypi.", show_default=False),
    ] = None,
    *,
    given: AddOptions,
) -> None:
    """Add packages or channels to a script's block.

    A script without a block gets one. The version of a package that the block already has is replaced.
    """
    _, voice = options.open_world(given)
    change = requirements_change(specs or (), given.channel or (), pypi=given.pypi)
    written = add_to_script(target, change)
    _tell(
        voice, written, f"Added a {DialectName.conda_execute.value} block to {{}}" if written.started else "Updated {}"
    )


@dataclass(frozen=True)
class DropOptions(options.Output):
    """The options of ``cetool drop``."""


@options.command
def drop(
    target: Target,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names of packages, without versions.")],
    *,
    given: DropOptions,
) -> None:
    """Remove conda and PyPI packages from a script's block."""
    _, voice = options.open_world(given)
    _tell(voice, drop_from_script(target, names), "Updated {}")


@dataclass(frozen=True)
class ConvertOptions(options.Output):
    """The options of ``cetool convert``."""

    to: Annotated[DialectName, option("--to", metavar="DIALECT", help="Convert to this dialect.")] = field(kw_only=True)


@options.command
def convert(target: Target, *, given: ConvertOptions) -> None:
    """Rewrite a script's block in another dialect.

    The script's environment stays the same.
    """
    _, voice = options.open_world(given)
    _tell(voice, convert_script(target, given.to.value), f"Converted {{}} to {given.to.value}")


def _tell(voice: Voice, written: Written, done: str) -> None:
    """Report what was done to a script, and notes about it; ``done`` has {} for its name."""
    for note in written.notes:
        voice.warn(note)
    if written.changed:
        voice.say(done.replace("{}", written.name))
    else:
        voice.say(f"Nothing to change in {written.name}")

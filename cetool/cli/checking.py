"""``cetool check``: looks scripts' blocks over, by hand or as a pre-commit hook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from cetool.app.checking import RULES, Finding, finding_of, lint_script
from cetool.app.session import Session
from cetool.app.sources import open_source
from cetool.base.errors import Location, MetadataError, UsageError
from cetool.base.limits import SCRIPT, read_regular
from cetool.base.text import nearest, printable
from cetool.base.urls import redact, scrub
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json, print_line
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.source import Script, is_url, read_script

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
    for rule in given.ignore or ():
        if rule not in RULES:
            raise UsageError(f"there is no rule {rule!r}", hint=nearest(rule, RULES))
    session = options.open_session(given)
    found: list[tuple[str, ScriptMetadata | None, list[Finding]]] = []
    for target in targets:
        metadata, findings = _look_at(target, session, declared_only=given.declared_only, insecure=given.insecure)
        if given.solve and metadata is not None and not any(finding.severity == "error" for finding in findings):
            findings += _solve(metadata, session)
        found.append(
            (redact(printable(target)), metadata, [item for item in findings if item.rule not in (given.ignore or ())])
        )
    if given.as_json:
        print_json(_document(found))
    else:
        for name, _, findings in found:
            for finding in findings:
                place = Location(finding.part or name, finding.line)
                print_line(f"{place}: {finding.severity}: {finding.message} [{finding.rule}]")
                if finding.severity == "error" and finding.hint and not given.quiet:
                    print_line("".join(f"    {line}\n" for line in finding.hint.splitlines()).rstrip("\n"))
        _summary(session, found)
    return 1 if any(findings for _, _, findings in found) else 0


def _look_at(
    target: str, session: Session, *, declared_only: bool, insecure: bool
) -> tuple[ScriptMetadata | None, list[Finding]]:
    """The declaration of one script and the findings. Raises CetoolError where there is no file to be read."""
    try:
        script = open_source(target, session, insecure=insecure).script if is_url(target) else read_script(target)
    except MetadataError as error:  # no text, or nothing in it
        return None, [] if declared_only and not _has_mark(target) else [finding_of(error)]
    metadata, findings = lint_script(script, declared_only=declared_only)
    if metadata is not None and metadata.entrypoint is not None:
        findings += _entrypoint(metadata.entrypoint, script)
    return metadata, findings


def _entrypoint(text: str, script: Script) -> list[Finding]:
    from cetool.launch.shell import parse_entrypoint

    try:
        parse_entrypoint(text, script.at())
    except MetadataError as error:
        return [finding_of(error)]
    return []


def _solve(metadata: ScriptMetadata, session: Session) -> list[Finding]:
    """Whether the environment can be made; what keeps that from being known (no network) is raised."""
    from cetool.engines.dry_solve import Solver, UnsatisfiableError

    spec = session.spec_of(metadata.requirements)
    if spec.overlay is not None:
        session.voice.warn(f"{metadata.path}: what is laid over a base is resolved when it is run, and not before")
        return []
    if spec.pypi:
        session.voice.detail(f"{metadata.path}: packages from PyPI are not looked at")
    consent, limit = session.consent(), session.settings.stall_timeout
    solver = Solver(session.engine_environ, session.packages, consent, session.offline, limit)
    with session.voice.progress() as progress:
        try:
            if metadata.requirements.baselines:
                from cetool.app.baselines import Wish, on_baselines

                spec = on_baselines(spec, metadata.requirements, session, Wish())
            if not spec.is_locked:
                solver.solve(spec, progress)
        except UnsatisfiableError as error:
            line = metadata.lines[0] if metadata.lines else None
            return [Finding("unsatisfiable", scrub(error.message), line, error.hint)]
    return []


def _has_mark(path: str) -> bool:
    """Whether something in a file that is no text looks like the opening of a block."""
    try:
        data = read_regular(path, SCRIPT)
    except (OSError, ValueError):
        return False
    return any(mark in data for mark in (b"# conda execute", b"/// script", b"/// conda-script"))


def _document(found: list[tuple[str, ScriptMetadata | None, list[Finding]]]) -> dict[str, object]:
    return {
        "schema": CHECK_SCHEMA,
        "scripts": [
            {"script": name, "dialect": None if metadata is None else metadata.dialect} for name, metadata, _ in found
        ],
        "findings": [
            {
                "script": finding.part or name,
                "rule": finding.rule,
                "severity": finding.severity,
                "line": finding.line,
                "message": redact(finding.message),
                "hint": None if finding.hint is None else redact(finding.hint),
            }
            for name, _, findings in found
            for finding in findings
        ],
    }


def _summary(session: Session, found: list[tuple[str, ScriptMetadata | None, list[Finding]]]) -> None:
    count = sum(len(findings) for _, _, findings in found)
    scripts = f"{len(found)} script{'' if len(found) == 1 else 's'}"
    session.voice.say(f"{scripts} looked at: {f'{count} to mend' if count else 'nothing to mend'}")

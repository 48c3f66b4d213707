"""Repeats a recorded run on exactly the same packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from rattler import Version
from rattler.exceptions import InvalidVersionError

from cetool.app.consent import OWN
from cetool.app.deciding import specification
from cetool.app.decision import Decision
from cetool.app.ensuring import ensure, note_used
from cetool.app.entrypoints import read_entrypoint
from cetool.app.recording import Recording, run_as_child, virtual_packages
from cetool.app.reporting import Reporter
from cetool.app.sources import Source
from cetool.app.starting import Ready, RunOptions
from cetool.app.world import World
from cetool.base.codec import sha256_of
from cetool.base.errors import CetoolError, EngineError, Location, UsageError
from cetool.base.text import printable
from cetool.declare.metadata import ScriptMetadata, read_metadata
from cetool.declare.platforms import current_platform
from cetool.declare.requirements import Requirements
from cetool.declare.source import decode, looks_like_python, read_bytes, script_from_text
from cetool.lock.records import read_installed
from cetool.provenance.record import Ending, RecordError, RunRecord, read_record
from cetool.store.store import Lease, what_is_lost

#: Virtual packages whose differences are shown with ``-v`` only: packages seldom ask for their version.
_MINOR = ("__archspec", "__linux", "__unix", "__win")


def rerun(
    record: str,
    arguments: Sequence[str] | None,
    world: World,
    reporter: Reporter,
    *,
    here: bool,
    to_record: Path | None,
) -> NoReturn:
    """Repeat the run recorded in a file, and end as the script ends; ``arguments`` replace those recorded.

    Raises CetoolError if the run cannot be repeated.
    """
    recorded = read_record(record)
    where = Location(printable(record))
    _refuse(recorded, where, arguments)
    source = _source(recorded, where, reporter)
    recorded = _with_variables(recorded, source)
    asked = recorded.asked
    metadata = ScriptMetadata(
        recorded.dialect,
        str(source.script.path),
        None,
        Requirements(asked.packages, asked.channels, asked.pypi, variables=asked.variables),
        recorded.run_with,
        recorded.entrypoint,
    )
    entry = read_entrypoint(metadata, source.script)
    _report_differences(recorded, world, reporter)
    if not here:
        _enter(recorded.working_directory, reporter)
    given = recorded.script.given
    if source.data is None and os.path.abspath(given) == source.given:  # the script sees the same name as then
        source = source._replace(given=given)
    words = tuple(arguments or recorded.arguments)

    def compare(ending: Ending) -> None:
        if words == recorded.arguments:
            _compare(recorded, ending, reporter)

    decision = Decision(metadata, asked, source, purpose=f"for {recorded.script.name}")
    decision, lease = _environment(recorded, decision, world, reporter)
    note_used(lease, source.noted, world, reporter)
    ready = Ready(decision, lease, OWN, RunOptions(activate=recorded.activate), world, reporter)
    run_as_child(entry, words, Recording(to_record, compare), ready)


def _refuse(recorded: RunRecord, where: Location, arguments: Sequence[str] | None) -> None:
    """Raise RecordError, or UsageError, for a run that cannot be repeated here."""
    here = os.environ.get("CONDA_SUBDIR") or current_platform()
    if recorded.platform != here:
        raise RecordError(
            f"the run was recorded on {recorded.platform}, and its packages do not run on {here}",
            code="platform-mismatch",
            where=where,
            hint="`cetool run` solves what the script declares for this machine.",
        )
    if recorded.unknown:
        names = ", ".join(printable(f"{each.name} {each.version}") for each in recorded.unknown)
        raise RecordError(
            f"the record does not include the source of {names}, so the same packages cannot be installed",
            code="record-incomplete",
            where=where,
        )
    if recorded.arguments_redacted and not arguments:
        raise UsageError(
            "the arguments of the recorded run contained credentials, which the record does not include",
            code="record-incomplete",
            where=where,
            hint="Pass the script's arguments after the record: `cetool rerun RECORD ARGS...`.",
        )


def _source(recorded: RunRecord, where: Location, reporter: Reporter) -> Source:
    """Return the script that ran: its file if that is unchanged, else the copy in the record."""
    script = recorded.script
    changed = None
    if script.path is not None:
        data = _read(script.path)
        if data is not None and sha256_of(data) == script.sha256:
            text = decode(data, script.name, python=looks_like_python(data, Path(script.path)))
            return Source(script_from_text(text, script.path, printable(script.path)), script.path)
        changed = f"{script.path} {'no longer exists' if data is None else 'has changed'}"
    if script.data is None:
        raise RecordError(
            f"the record does not include the script's text, and {printable(changed or 'the script was not a file')}",
            code="record-incomplete",
            where=where,
            hint=f"Restore the script whose SHA-256 is {script.sha256}.",
        )
    if changed is not None:
        reporter.warn(f"{changed}: running the copy in the record")
    text = decode(script.data, script.name, python=looks_like_python(script.data, Path(script.name)))
    directory = Path(script.path).parent if script.path is not None else Path.cwd()
    shown = script_from_text(text, directory / script.name, printable(script.name))
    return Source(shown, script.name, script.data, script.name)


def _read(path: str) -> bytes | None:
    try:
        return read_bytes(path, printable(path))
    except CetoolError:
        return None


def _with_variables(recorded: RunRecord, source: Source) -> RunRecord:
    """Take variables with credentials, which the record does not include, from the script."""
    if not any("***" in value for _, value in recorded.asked.variables):
        return recorded
    declared = dict(read_metadata(source.script).requirements.variables)
    variables = tuple(
        (name, declared.get(name, value) if "***" in value else value) for name, value in recorded.asked.variables
    )
    spec = recorded.asked._replace(variables=variables)
    return replace(recorded, environment=replace(recorded.environment, spec=spec))


def _report_differences(recorded: RunRecord, world: World, reporter: Reporter) -> None:
    """Warn if this machine offers less than the recorded one; ``-v`` shows smaller differences."""
    here = virtual_packages(recorded.asked, world, reporter)
    for name, value in recorded.virtual_packages if here else ():
        if here.get(name) == value:
            continue
        text = f"the run was recorded on a machine with {name} {_shown(value)}, and this one has "
        text += _shown(here[name]) if name in here else "none"
        if name in _MINOR or (name in here and not _is_less(here[name], value)):
            reporter.detail(text)
        else:
            reporter.warn(text)
    unchecked = recorded.lock.without_digest
    if unchecked:
        reporter.warn(f"the record has no digest for {', '.join(unchecked)}, so these packages are not verified")


def _shown(value: str) -> str:
    return value.partition("=")[0]


def _is_less(here: str, there: str) -> bool:
    try:
        return Version(_shown(here)) < Version(_shown(there))
    except InvalidVersionError:
        return True


def _enter(directory: str, reporter: Reporter) -> None:
    """Change to the directory of the recorded run; stay here if it does not exist."""
    try:
        if directory and os.path.realpath(directory) != os.path.realpath(os.curdir):
            os.chdir(directory)
            reporter.detail(f"Running in {directory}, as recorded; --here runs in this directory")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reporter.warn(f"running in this directory instead of {directory}: {reason}")


def _environment(recorded: RunRecord, decision: Decision, world: World, reporter: Reporter) -> tuple[Decision, Lease]:
    """Return the environment with the recorded packages, held in use: that of the recorded run if it is unchanged."""
    there = _same(recorded, world)
    decision = decision._replace(spec=recorded.asked if there is not None else recorded.spec)
    reporter.block(specification(decision, world.store.prefix(decision.spec.name)))
    if there is None:
        try:
            there = ensure(decision, world, reporter, consent=OWN)
        except EngineError as error:
            raise error.but(message=f"the recorded packages cannot be installed: {error.message}") from None
    made = (there.marker.engine, there.marker.engine_version)
    before = (recorded.engine.name, recorded.engine.version)
    if made != before:
        reporter.detail(f"Created by {' '.join(made)}; the recorded environment was created by {' '.join(before)}")
    return decision, there


def _same(recorded: RunRecord, world: World) -> Lease | None:
    """Return the environment of the recorded run if it exists and has the same packages."""
    if recorded.asked.name != recorded.environment.name:
        return None
    lease = world.store.lease(recorded.environment.name)
    if lease is None:
        return None
    try:
        installed = read_installed(lease.prefix, lease.marker.subdir)
        same_platform = lease.marker.subdir == recorded.platform
        whole = what_is_lost(lease.prefix, lease.marker) is None and not installed.unknown
        if same_platform and whole and installed.lock.digest == recorded.lock.digest:
            return lease
    except CetoolError:
        pass  # it is damaged: another one is created
    lease.release()
    return None


def _compare(recorded: RunRecord, ending: Ending, reporter: Reporter) -> None:
    """Report whether the script ended as in the recorded run."""
    before = recorded.ending
    if before is None:
        reporter.detail("The record does not say how the run ended")
    elif (before.exit_status, before.signal) == (ending.exit_status, ending.signal):
        reporter.say(f"Ended {_how(ending)}, as recorded")
    else:
        sys.stdout.flush()
        reporter.warn(f"the script ended {_how(ending)}, but {_how(before)} in the recorded run")


def _how(ending: Ending) -> str:
    return f"with status {ending.exit_status}" if ending.signal is None else f"by {printable(ending.signal)}"

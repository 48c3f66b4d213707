"""Runs a script as a child that is waited for, and writes down what ran: ``cetool run --record``, ``cetool rerun``."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cetool import __version__
from cetool.app.execution import Run, command_of, surroundings_of
from cetool.app.program import program_of
from cetool.app.session import Session
from cetool.base.errors import CetoolError, EngineError, MetadataError
from cetool.base.urls import redact, strip_credentials
from cetool.cli.failure import tell
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.source import decode, is_url, looks_like_python, read_bytes
from cetool.launch.children import spawn_and_wait
from cetool.launch.process import end_like
from cetool.lock.records import Installed, read_installed
from cetool.provenance.record import (
    Ending,
    RecordedEngine,
    RecordedEnvironment,
    RecordedScript,
    RecordedWheel,
    RecordError,
    RunRecord,
    recorded_packages,
    write_record,
)

if TYPE_CHECKING:
    from cetool.launch.entrypoint import Entrypoint


@dataclass(frozen=True)
class Recording:
    """What is to be written of a run, to ``path`` (None: nothing), and who is told of its end."""

    path: Path | None
    spec: EnvironmentSpec
    then: Callable[[Ending], None] | None = None


def run_as_child(run: Run, entry: Entrypoint | None, arguments: Sequence[str], recording: Recording) -> NoReturn:
    """Run the script as a child, record it, and end as it ends: by its exit status, or the signal that it died of.

    The record is there when the script starts, or it does not start.
    """
    start = _starter(run, entry, arguments)
    record = None if recording.path is None else describe(run, arguments, recording.spec)
    began = time.monotonic()
    if record is not None:
        record = replace(record, start=_now())
        _write(recording, record)

    def ended(status: int) -> None:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else None
        shown = 128 - status if status < 0 else status
        ending = Ending(_now(), round(time.monotonic() - began, 6), shown, name)
        if record is not None:
            try:
                _write(recording, replace(record, **vars(ending)))
            except RecordError as error:  # the script has ended as it has, which is what cetool's status tells
                tell(error)
        if recording.then is not None:
            recording.then(ending)

    try:
        status = start()
    except CetoolError as error:
        ended(error.exit_status)
        raise
    except KeyboardInterrupt:
        ended(128 + signal.SIGINT)
        raise
    ended(status)
    end_like(status)


def _write(recording: Recording, record: RunRecord) -> None:
    assert recording.path is not None
    write_record(recording.path, record)


def _starter(run: Run, entry: Entrypoint | None, arguments: Sequence[str]) -> Callable[[], int]:
    """What runs the script and returns its status; that its program is missing is told before."""
    if entry is not None:
        from cetool.launch.entrypoint import wait_for_entrypoint

        surroundings, _ = surroundings_of(run)
        return lambda: wait_for_entrypoint(entry, arguments, surroundings)
    argv = program_of(run.metadata, run.source.script.name, run.environ, run.lease.prefixes, run.session)
    command = command_of(run, argv, arguments)
    return lambda: spawn_and_wait(command, run.consent, keep=run.descriptors)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def describe(run: Run, arguments: Sequence[str], spec: EnvironmentSpec) -> RunRecord:
    """All that is known of a run before it starts. Warns of what cannot be recorded."""
    session, marker = run.session, run.lease.marker
    installed = installed_packages(session, run.lease.prefix, marker.subdir, spec)
    for each in installed.unknown:
        session.voice.warn(f"where {each.name} {each.version} was installed from is not known: the record lacks it")
    shown = tuple(map(redact, arguments))
    try:
        directory = os.getcwd()
    except OSError:  # it was removed
        directory = ""
    system = platform.uname()
    return RunRecord(
        script=_script(run),
        arguments=shown,
        arguments_redacted=shown != tuple(arguments),
        working_directory=directory,
        dialect=run.metadata.dialect,
        run_with=run.metadata.run_with,
        entrypoint=run.metadata.entrypoint,
        activate=run.how.activate,
        environment=RecordedEnvironment(
            marker.name,
            str(run.lease.prefix),
            spec.redacted()._replace(variables=tuple((name, redact(value)) for name, value in spec.variables)),
        ),
        packages=recorded_packages(installed.lock.conda),
        pypi_packages=(
            *(RecordedWheel(each.name, each.version, each.url, each.sha256) for each in installed.lock.pypi),
            *(RecordedWheel(each.name, each.version, None, None) for each in installed.unknown),
        ),
        engine=RecordedEngine(marker.engine, marker.engine_version),
        platform=installed.lock.platform,
        cetool=__version__,
        virtual_packages=tuple(virtual_packages(session, spec).items()),
        host=(("system", system.system), ("release", system.release), ("machine", system.machine)),
        variables=tuple((name, redact(value)) for name, value in run.activation.set),
        start="",
    )


def installed_packages(session: Session, prefix: Path, subdir: str, spec: EnvironmentSpec) -> Installed:
    """What is in an environment; where its PyPI packages came from is asked for again if it was not noted."""
    return find_origins(session, prefix, read_installed(prefix, subdir), spec)


def find_origins(session: Session, prefix: Path, installed: Installed, spec: EnvironmentSpec) -> Installed:
    """The same, the files of PyPI packages looked for that nobody noted; the prefix's python is asked."""
    if not installed.unknown:
        return installed
    from cetool.engines.protocol import Hold
    from cetool.engines.pypi.install import find_missing_origins

    request = session.request(spec, prefix, session.paths.logs / f"{prefix.name}.log")
    try:
        return find_missing_origins(request, Hold(session.consent()), installed)
    except EngineError:  # no python to ask for
        return installed


def virtual_packages(session: Session, spec: EnvironmentSpec) -> dict[str, str]:
    """The machine's virtual packages; none, with a warning, where they cannot be found out."""

    from cetool.engines.virtual import detect_virtual_packages

    try:
        return detect_virtual_packages(session.environ, spec.virtual_packages)
    except EngineError as error:
        session.voice.warn(str(error))
        return {}


def _script(run: Run) -> RecordedScript:
    source = run.source
    name = source.name or source.script.path.name
    path, data = None, source.data
    if data is None:
        path = str(source.script.path)
        data = read_bytes(source.given, source.script.name)
        if decode(data, source.script.name, python=looks_like_python(data, source.script.path)) != source.script.text:
            raise MetadataError(
                "the script was changed by someone else meanwhile, so nothing was run",
                code="script-changed",
                where=source.script.at(),
                hint="Run the same command again.",
            )
    text = data.decode("utf-8", "replace")
    keep = strip_credentials(text) == text
    if not keep:
        run.session.voice.warn(
            f"{source.script.name} has credentials in a URL, so its text is not put into the record: "
            "it can be run again where the script itself is"
        )
    url = redact(source.given) if is_url(source.given) else None
    return RecordedScript.of(name, redact(source.given), path, url, data, keep=keep)

"""Runs a script as a child process and writes a run record."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import NoReturn

from cetool import __version__
from cetool.app.decision import Decision
from cetool.app.entrypoints import context_of, read_entrypoint
from cetool.app.exporting import installed_packages
from cetool.app.reporting import Reporter
from cetool.app.starting import Ready, Start, command_of, start_of
from cetool.app.world import World
from cetool.base.errors import CetoolError, EngineError, MetadataError
from cetool.base.urls import redact, strip_credentials
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.source import decode, is_url, looks_like_python, read_bytes
from cetool.engines.rattler.request import detect_virtual_packages
from cetool.launch.children import spawn_and_wait
from cetool.launch.entrypoint import Entrypoint, wait_for_entrypoint
from cetool.launch.process import end_like
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


@dataclass(frozen=True, slots=True)
class Recording:
    """Where a run is recorded, and what follows it."""

    #: The file to write, if any.
    path: Path | None
    #: Called when the run has ended.
    then: Callable[[Ending], None] | None = None


def prepare_recorded(decision: Decision, arguments: Sequence[str], path: Path) -> Callable[[Ready], NoReturn]:
    """Return the function that runs the script in its environment and records it. Raises MetadataError."""
    assert decision.source is not None
    entry = read_entrypoint(decision.metadata, decision.source.script)
    return partial(run_as_child, entry, arguments, Recording(path))


def run_as_child(entry: Entrypoint | None, arguments: Sequence[str], recording: Recording, ready: Ready) -> NoReturn:
    """Run the script as a child, record it, and end with its exit status, or by the signal that killed it.

    The record is written before the script starts; if that fails, the script does not start.
    """
    start = start_of(ready)
    begin = _starter(start, entry, arguments)
    path = recording.path
    record = None if path is None else _describe(start, arguments)
    began = time.monotonic()
    if record is not None and path is not None:
        record = replace(record, start=_now())
        write_record(path, record)

    def ended(status: int) -> None:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else None
        shown = 128 - status if status < 0 else status
        ending = Ending(_now(), round(time.monotonic() - began, 6), shown, name)
        if record is not None and path is not None:
            try:
                write_record(path, replace(record, **vars(ending)))
            except RecordError as error:  # cetool ends with the script's status all the same
                ready.reporter.fail(error)
        if recording.then is not None:
            recording.then(ending)

    try:
        status = begin()
    except CetoolError as error:
        ended(error.exit_status)
        raise
    except KeyboardInterrupt:
        ended(128 + signal.SIGINT)
        raise
    ended(status)
    end_like(status)


def _starter(start: Start, entry: Entrypoint | None, arguments: Sequence[str]) -> Callable[[], int]:
    """Return the function that runs the script and returns its status. Raises ProgramNotFoundError first."""
    if entry is not None:
        context, _ = context_of(start)
        return lambda: wait_for_entrypoint(entry, arguments, context)
    command, _ = command_of(start, arguments)
    return lambda: spawn_and_wait(command, start.ready.consent, keep=start.descriptors)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _describe(start: Start, arguments: Sequence[str]) -> RunRecord:
    """Return the record of a run before it starts. Warns of what cannot be recorded."""
    ready = start.ready
    world, reporter, lease, spec, metadata = (
        ready.world,
        ready.reporter,
        ready.lease,
        ready.decision.spec,
        ready.decision.metadata,
    )
    marker = lease.marker
    installed = installed_packages(lease.prefix, marker.subdir, spec, world, lambda: ready.consent)
    for each in installed.unknown:
        reporter.warn(f"the record does not include {each.name} {each.version}: where it was installed from is unknown")
    shown = tuple(map(redact, arguments))
    try:
        directory = os.getcwd()
    except OSError:  # the directory was removed
        directory = ""
    system = platform.uname()
    return RunRecord(
        script=_script(ready),
        arguments=shown,
        arguments_redacted=shown != tuple(arguments),
        working_directory=directory,
        dialect=metadata.dialect,
        run_with=metadata.run_with,
        entrypoint=metadata.entrypoint,
        activate=ready.how.activate,
        environment=RecordedEnvironment(
            marker.name,
            str(lease.prefix),
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
        virtual_packages=tuple(virtual_packages(spec, world, reporter).items()),
        host=(("system", system.system), ("release", system.release), ("machine", system.machine)),
        variables=tuple((name, redact(value)) for name, value in start.activation.set),
        start="",
    )


def virtual_packages(spec: EnvironmentSpec, world: World, reporter: Reporter) -> dict[str, str]:
    """Return the machine's virtual packages; none, with a warning, if they cannot be detected."""
    try:
        return detect_virtual_packages(world.environ, spec.virtual_packages)
    except EngineError as error:
        reporter.warn(str(error))
        return {}


def _script(ready: Ready) -> RecordedScript:
    source = ready.source
    name = source.name or source.script.path.name
    path, data = None, source.data
    if data is None:
        path = str(source.script.path)
        data = read_bytes(source.given, source.script.name)
        if decode(data, source.script.name, python=looks_like_python(data, source.script.path)) != source.script.text:
            raise MetadataError(
                "the script was changed while it was being started, so it was not run",
                code="script-changed",
                where=source.script.at(),
                hint="Run the same command again.",
            )
    text = data.decode("utf-8", "replace")
    keep = strip_credentials(text) == text
    if not keep:
        ready.reporter.warn(
            f"{source.script.name} has credentials in a URL, so the record does not include its text: "
            "`cetool rerun` needs the script itself"
        )
    url = redact(source.given) if is_url(source.given) else None
    return RecordedScript.of(name, redact(source.given), path, url, data, keep=keep)

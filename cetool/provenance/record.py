"""The record of a run: what ran, on which packages, and how it ended; enough to do it again (``cetool rerun``).

One JSON document, schema ``cetool.record/1``, as docs/json.md describes it. It is written when the script starts, and
once more when it has ended: one without an end is of a run that is going on, or was killed together with cetool.
"""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cetool.base.errors import CetoolError, UsageError
from cetool.base.files import put_file
from cetool.base.text import printable
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.package import Package
from cetool.lock.model import PlatformLock

RECORD_SCHEMA = "cetool.record/1"


class RecordError(CetoolError):
    """A record is malformed, was tampered with, or is of a run that cannot be done again here."""

    code = "record-malformed"


@dataclass(frozen=True)
class RecordedScript:
    """The script: ``given`` as it was named; ``path`` where it lay, None for one that was no file; ``url`` where it was
    fetched from; ``data`` its bytes, None where they were not put into the record."""

    name: str
    given: str
    path: str | None
    url: str | None
    sha256: str
    size: int
    data: bytes | None


@dataclass(frozen=True)
class RecordedCommand:
    """How the script was run: fields as in :class:`~cetool.declare.metadata.ScriptMetadata`."""

    dialect: str
    run_with: tuple[str, ...] | None
    entrypoint: str | None
    activate: bool = True


@dataclass(frozen=True)
class Ending:
    """How and when a run ended: the moment as the record has it, how many seconds after its start, its exit status as
    a shell sees it, and the signal that it died of."""

    end: str
    seconds: float
    exit_status: int
    signal: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run. ``asked`` is the environment's spec; ``name`` and ``prefix`` are those of the environment it ran in;
    ``packages`` what was in that; ``unknown`` the names of PyPI packages whose file nobody knows; ``variables`` what
    the environment set; ``virtual_packages`` pairs of name and ``VERSION=BUILD``; ``start`` ISO 8601 in UTC.
    """

    script: RecordedScript
    arguments: tuple[str, ...]
    redacted: bool
    directory: str
    command: RecordedCommand
    asked: EnvironmentSpec
    name: str
    prefix: str
    packages: PlatformLock
    unknown: tuple[tuple[str, str], ...]
    engine: tuple[str, str]
    cetool: str
    virtual_packages: tuple[tuple[str, str], ...]
    host: tuple[tuple[str, str], ...]
    variables: tuple[tuple[str, str], ...]
    start: str
    ending: Ending | None = None

    @property
    def spec(self) -> EnvironmentSpec:
        """The environment that has exactly the recorded packages."""
        asked = self.asked
        return EnvironmentSpec(
            asked.asked, asked.channels, pypi_settings=asked.pypi_settings, variables=asked.variables
        ).exactly(self.packages.conda, self.packages.pypi)

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {
            "schema": RECORD_SCHEMA,
            "cetool": self.cetool,
            "script": _script_document(self.script),
            "arguments": list(self.arguments),
            "arguments_redacted": self.redacted,
            "working_directory": self.directory,
            "dialect": self.command.dialect,
            "run_with": None if self.command.run_with is None else list(self.command.run_with),
            "entrypoint": self.command.entrypoint,
            "activate": self.command.activate,
            "environment": {"name": self.name, "prefix": self.prefix, "spec": self.asked.as_dict()},
            "packages": [_conda_document(package) for package in self.packages.conda],
            "pypi_packages": [
                *(
                    {"name": each.name, "version": each.version, "url": each.url, "sha256": each.sha256}
                    for each in self.packages.pypi
                ),
                *({"name": name, "version": version, "url": None, "sha256": None} for name, version in self.unknown),
            ],
            "engine": {"name": self.engine[0], "version": self.engine[1]},
            "platform": self.packages.platform,
            "virtual_packages": dict(self.virtual_packages),
            "host": dict(self.host),
            "variables": dict(self.variables),
            "start": self.start,
            "end": self.ending and self.ending.end,
            "seconds": self.ending and self.ending.seconds,
            "exit_status": self.ending and self.ending.exit_status,
            "signal": self.ending and self.ending.signal,
        }


def _script_document(script: RecordedScript) -> dict[str, Any]:
    text, encoded = None, None
    if script.data is not None:
        try:
            text = script.data.decode("utf-8")
        except UnicodeDecodeError:
            encoded = base64.b64encode(script.data).decode()
    return {
        "name": script.name,
        "given": script.given,
        "path": script.path,
        "url": script.url,
        "sha256": script.sha256,
        "size": script.size,
        "text": text,
        "base64": encoded,
    }


def _conda_document(package: Package) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "subdir": package.subdir,
        "url": package.url or None,
        "sha256": package.sha256,
        "md5": package.md5,
        "size": package.size,
        "depends": list(package.depends),
    }


# --- writing ----------------------------------------------------------------------------------------------------------


def record_target(given: str) -> Path:
    """The file that a record is to be written to, symbolic links followed, looked at before anything is run.

    Raises UsageError where it cannot be written, and where something else than a record is there already.
    """
    if given in ("", "-"):
        raise UsageError("a record needs a file", hint="Standard output belongs to the script: --record run.json")
    shown = printable(given)
    try:
        path = Path(os.path.realpath(given))
        if os.path.lexists(path):
            if not path.is_file():
                raise UsageError(f"the record cannot be written to {shown}: that is no regular file")
            if path.stat().st_size and not _is_record(path):
                raise UsageError(
                    f"the record is not written to {shown}: what is in there now is no record",
                    hint="Name another file, or remove that one.",
                )
        elif not path.parent.is_dir():
            raise UsageError(f"the record cannot be written to {shown}: there is no directory {path.parent}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the record cannot be written to {shown}: {reason}") from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"the record cannot be written to {shown}: no file can be made in {path.parent}",
            hint="Name a file in a directory that can be written to.",
        )
    return path


def _is_record(path: Path) -> bool:
    with open(path, "rb") as file:
        return re.match(rb'\s*\{\s*"schema"\s*:\s*"cetool\.record/', file.read(200)) is not None


def write_record(path: Path, record: RunRecord) -> None:
    """Put the record in its place in one step, on the disk when this returns. Raises RecordError where it cannot be."""
    document = record.as_dict()
    try:
        data = json.dumps(document, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # bytes in an argument or a path that are no text
        data = json.dumps(document, indent=2).encode()
    try:
        put_file(path, data + b"\n")
    except OSError as error:
        raise RecordError(
            f"the record {printable(str(path))} cannot be written: {error.strerror or error}", code="write-failed"
        ) from None

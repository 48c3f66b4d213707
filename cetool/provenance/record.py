"""Run records: what ran, on which packages, and how it ended; enough to run it again (``cetool rerun``).

A record is one JSON document, schema ``cetool.record/1``, described in docs/reference/json.md. It is written when
the script starts, and again when it has ended: a record without an end belongs to a run that continues, or was killed
together with cetool. A record may come from anywhere, so every value is checked before it is used.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.base.codec import FieldError, decode, encode, sha256_of
from cetool.base.errors import CetoolError, Location, UsageError
from cetool.base.files import put_file
from cetool.base.limits import RECORD, parse_json
from cetool.base.text import printable
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.package import Package, PypiPackage
from cetool.declare.source import read_bytes
from cetool.lock.model import PlatformLock

RECORD_SCHEMA = "cetool.record/1"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_DIGESTS = {"sha256": re.compile(r"[0-9a-f]{64}\Z"), "md5": re.compile(r"[0-9a-f]{32}\Z")}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/[^\s\x00-\x20]+\Z")


class RecordError(CetoolError):
    """A record is malformed, was changed, or belongs to a run that cannot be repeated here."""

    code = "record-malformed"


@dataclass(frozen=True)
class RecordedScript:
    """The script that ran."""

    name: str
    #: As the user named it.
    given: str
    #: Where it was; None if it was not a file.
    path: str | None
    #: Where it was downloaded from.
    url: str | None
    sha256: str
    size: int
    #: Its content, in base64 if it is not UTF-8; both None if the record does not contain it.
    text: str | None
    base64: str | None

    @classmethod
    def of(cls, name: str, given: str, path: str | None, url: str | None, data: bytes, *, keep: bool) -> RecordedScript:
        """Return the script with these bytes; ``keep`` puts them into the record."""
        text = encoded = None
        if keep:
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                encoded = base64.b64encode(data).decode()
        return cls(name, given, path, url, sha256_of(data), len(data), text, encoded)

    @property
    def data(self) -> bytes | None:
        """Its bytes; None if they are not in the record. Raises ValueError if they are damaged."""
        if self.text is not None:
            return self.text.encode()
        return None if self.base64 is None else base64.b64decode(self.base64, validate=True)


@dataclass(frozen=True)
class RecordedEnvironment:
    """The environment that it ran in, and what that was made from."""

    name: str
    prefix: str
    spec: EnvironmentSpec


@dataclass(frozen=True)
class RecordedPackage:
    """A conda package in the environment."""

    name: str
    version: str
    build: str
    subdir: str
    url: str | None
    sha256: str | None
    md5: str | None
    size: int | None
    depends: tuple[str, ...]


@dataclass(frozen=True)
class RecordedWheel:
    """A PyPI package in the environment; without a URL if its file is unknown."""

    name: str
    version: str
    url: str | None
    sha256: str | None


@dataclass(frozen=True)
class RecordedEngine:
    """The engine that made the environment."""

    name: str
    version: str


@dataclass(frozen=True)
class Ending:
    """How and when a run ended."""

    end: str
    #: Since its start.
    seconds: float
    #: As a shell reports it.
    exit_status: int
    #: The signal that ended it.
    signal: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run; the fields are those of the document."""

    cetool: str
    script: RecordedScript
    #: Without passwords and tokens; the next field says whether there were any.
    arguments: tuple[str, ...]
    arguments_redacted: bool
    working_directory: str
    #: As in :class:`~cetool.declare.metadata.ScriptMetadata`.
    dialect: str
    run_with: tuple[str, ...] | None
    entrypoint: str | None
    activate: bool
    environment: RecordedEnvironment
    packages: tuple[RecordedPackage, ...]
    pypi_packages: tuple[RecordedWheel, ...]
    engine: RecordedEngine
    platform: str
    #: Name and ``VERSION=BUILD``.
    virtual_packages: tuple[tuple[str, str], ...]
    host: tuple[tuple[str, str], ...]
    #: Set by the environment.
    variables: tuple[tuple[str, str], ...]
    #: ISO 8601 in UTC, like ``end``.
    start: str
    end: str | None = None
    seconds: float | None = None
    exit_status: int | None = None
    signal: str | None = None

    @property
    def asked(self) -> EnvironmentSpec:
        """What the environment was made from."""
        return self.environment.spec

    @functools.cached_property
    def lock(self) -> PlatformLock:
        """The packages in the environment, as a lock."""
        conda = (Package(**{**vars(each), "url": each.url or ""}) for each in self.packages)
        pypi = (PypiPackage(each.name, each.version, each.url, each.sha256) for each in self.pypi_packages if each.url)
        return PlatformLock(self.platform, tuple(conda), tuple(pypi))

    @property
    def unknown(self) -> list[RecordedWheel]:
        """The PyPI packages whose files are unknown."""
        return [each for each in self.pypi_packages if each.url is None]

    @property
    def ending(self) -> Ending | None:
        """How it ended, if that is known."""
        if self.end is None or self.seconds is None or self.exit_status is None:
            return None
        return Ending(self.end, self.seconds, self.exit_status, self.signal)

    @property
    def spec(self) -> EnvironmentSpec:
        """The environment with exactly the recorded packages."""
        asked = self.asked
        return EnvironmentSpec(
            asked.asked, asked.channels, pypi_settings=asked.pypi_settings, variables=asked.variables
        ).exactly(self.lock.conda, self.lock.pypi)


def recorded_packages(conda: Sequence[Package]) -> tuple[RecordedPackage, ...]:
    """Return conda packages in the form of a record."""
    return tuple(
        RecordedPackage(*each[:4], each.url or None, each.sha256, each.md5, each.size, each.depends) for each in conda
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def read_record(given: str) -> RunRecord:
    """Read a record from a file.

    Raises RecordError, with the field, if it is malformed or inconsistent, and the errors of
    :func:`~cetool.declare.source.read_bytes` if the file cannot be read.
    """
    name = printable(given)
    where = Location(name)
    data = read_bytes(given, name, "run record", limit=RECORD)
    try:
        document = parse_json(data, exact=True)
    except ValueError:
        raise RecordError(
            "not a run record: expected JSON",
            where=where,
            hint="`cetool run --record FILE SCRIPT` writes a run record.",
        ) from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str) or not schema.startswith("cetool.record/"):
        raise RecordError(
            f"not a run record: expected schema {RECORD_SCHEMA!r}",
            where=where,
            hint="`cetool run --record FILE SCRIPT` writes a run record.",
        )
    if schema != RECORD_SCHEMA:
        raise RecordError(
            f"run record has schema {printable(schema)!r}; this version of cetool reads {RECORD_SCHEMA!r}",
            where=where,
            hint="Use the version of cetool that wrote it, or a newer one.",
        )
    try:
        record = decode(RunRecord, document)
    except FieldError as error:
        raise RecordError(f"the record's {error}", where=where) from None
    except RecursionError:
        raise RecordError("the run record is nested too deeply", where=where) from None
    problem = _problem(record)
    if problem is not None:
        raise RecordError(problem, where=where)
    try:
        content = record.script.data
    except ValueError:
        raise RecordError("the script in the record is damaged", where=where) from None
    if content is not None and sha256_of(content) != record.script.sha256:
        raise RecordError(
            "the script in the record is not the one that ran: its SHA-256 differs from the recorded one",
            where=where,
            hint="The record was changed after it was written. Get an unchanged copy.",
        )
    return record


def _problem(record: RunRecord) -> str | None:
    """Return what is wrong with values of the right types."""
    if record.run_with is None and record.entrypoint is None:
        return "the record has neither 'run_with' nor 'entrypoint'"
    if not _DIGESTS["sha256"].match(record.script.sha256):
        return "the record's SHA-256 of the script is not valid"
    if record.end is not None and record.ending is None:
        return f"the record's {'seconds' if record.seconds is None else 'exit_status'!r} is missing"
    known = [each for each in record.pypi_packages if each.url is not None]
    packages: list[RecordedPackage | RecordedWheel] = [*record.packages, *known]
    for each in packages:
        shown = printable(each.name)
        if not _NAME.match(each.name):
            return f"{shown!r} in the record is not a valid package name"
        if each.url is None:
            return f"the record has no URL for {shown}"
        # an explicit spec has the digest after the '#'
        if not _URL.match(each.url) or (isinstance(each, RecordedPackage) and "#" in each.url):
            return f"the record's URL of {shown} is not valid"
        for kind, pattern in _DIGESTS.items():
            digest = getattr(each, kind, None)
            if digest is not None and not pattern.match(digest):
                return f"the record's {kind.upper().replace('SHA', 'SHA-')} of {shown} is not valid"
    return None


# --- writing ----------------------------------------------------------------------------------------------------------


def record_target(given: str) -> Path:
    """Return the file to which a record will be written, with symbolic links resolved, before anything runs.

    Raises UsageError if it cannot be written, or if it exists and is not a record.
    """
    if given in ("", "-"):
        raise UsageError(
            "--record needs a file name", hint="Standard output is the script's. Use, for example, --record run.json."
        )
    shown = printable(given)
    try:
        path = Path(os.path.realpath(given))
        if os.path.lexists(path):
            if not path.is_file():
                raise UsageError(f"cannot write the record to {shown}: not a regular file")
            if path.stat().st_size and not _is_record(path):
                raise UsageError(
                    f"cannot write the record to {shown}: the file exists and is not a run record",
                    hint="Choose another file, or remove this one.",
                )
        elif not path.parent.is_dir():
            raise UsageError(f"cannot write the record to {shown}: directory {path.parent} does not exist")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot write the record to {shown}: {reason}") from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"cannot write the record to {shown}: no permission to create files in {path.parent}",
            hint="Choose a file in a directory that you may write to.",
        )
    return path


def _is_record(path: Path) -> bool:
    with open(path, "rb") as file:
        return re.match(rb'\s*\{\s*"schema"\s*:\s*"cetool\.record/', file.read(200)) is not None


def write_record(path: Path, record: RunRecord) -> None:
    """Replace the record in one step, and sync it to disk. Raises RecordError if that fails."""
    document = encode(record, schema=RECORD_SCHEMA)
    try:
        data = json.dumps(document, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # bytes in an argument or path that are not text
        data = json.dumps(document, indent=2).encode()
    try:
        put_file(path, data + b"\n")
    except OSError as error:
        raise RecordError(
            f"cannot write the record {printable(str(path))}: {error.strerror or error}", code="write-failed"
        ) from None

"""The record of a run: what ran, on which packages, and how it ended; enough to do it again (``cetool rerun``).

One JSON document, schema ``cetool.record/1``, as docs/reference/json.md describes it. It is written when the script
starts, and again when it has ended: a record without an end is of a run that goes on, or was killed together with
cetool. A record may come from anywhere: every value is checked before anything trusts it.
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
    """A record is malformed, was tampered with, or is of a run that cannot be done again here."""

    code = "record-malformed"


@dataclass(frozen=True)
class RecordedScript:
    """The script that ran."""

    name: str
    #: As it was named.
    given: str
    #: Where it was, None for one that was no file.
    path: str | None
    #: Where it was fetched from.
    url: str | None
    sha256: str
    size: int
    #: Its content, in base64 where it is not UTF-8; neither where it was not put into the record.
    text: str | None
    base64: str | None

    @classmethod
    def of(cls, name: str, given: str, path: str | None, url: str | None, data: bytes, *, keep: bool) -> RecordedScript:
        """The script with these bytes, which are put into the record where they are to be kept."""
        text = encoded = None
        if keep:
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                encoded = base64.b64encode(data).decode()
        return cls(name, given, path, url, sha256_of(data), len(data), text, encoded)

    @property
    def data(self) -> bytes | None:
        """Its bytes, None where they are not in the record. Raises ValueError where these are damaged."""
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
    """A conda package that was in it."""

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
    """A PyPI package that was in it; without a URL where it is not known which file it came from."""

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
    #: After its start.
    seconds: float
    #: As a shell sees it.
    exit_status: int
    #: The signal that it died of.
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
    #: What the environment set.
    variables: tuple[tuple[str, str], ...]
    #: ISO 8601 in UTC, as ``end``.
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
        """The packages that were in the environment, as a lock."""
        conda = (Package(**{**vars(each), "url": each.url or ""}) for each in self.packages)
        pypi = (PypiPackage(each.name, each.version, each.url, each.sha256) for each in self.pypi_packages if each.url)
        return PlatformLock(self.platform, tuple(conda), tuple(pypi))

    @property
    def unknown(self) -> list[RecordedWheel]:
        """The PyPI packages whose file is not known."""
        return [each for each in self.pypi_packages if each.url is None]

    @property
    def ending(self) -> Ending | None:
        """How it ended, as far as that was seen."""
        if self.end is None or self.seconds is None or self.exit_status is None:
            return None
        return Ending(self.end, self.seconds, self.exit_status, self.signal)

    @property
    def spec(self) -> EnvironmentSpec:
        """The environment that has exactly the recorded packages."""
        asked = self.asked
        return EnvironmentSpec(
            asked.asked, asked.channels, pypi_settings=asked.pypi_settings, variables=asked.variables
        ).exactly(self.lock.conda, self.lock.pypi)


def recorded_packages(conda: Sequence[Package]) -> tuple[RecordedPackage, ...]:
    """Conda packages as a record has them."""
    return tuple(
        RecordedPackage(*each[:4], each.url or None, each.sha256, each.md5, each.size, each.depends) for each in conda
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def read_record(given: str) -> RunRecord:
    """The record in a file. Raises RecordError, naming the field, for what is none or contradicts itself, and the
    errors of :func:`~cetool.declare.source.read_bytes` where the file cannot be read."""
    name = printable(given)
    where = Location(name)
    data = read_bytes(given, name, "record", limit=RECORD)
    try:
        document = parse_json(data, exact=True)
    except ValueError as error:
        raise RecordError(f"this is no record of a run, which are JSON: {error}", where=where) from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str) or not schema.startswith("cetool.record/"):
        raise RecordError(
            "this is no record of a run", where=where, hint="`cetool run --record FILE SCRIPT` writes them."
        )
    if schema != RECORD_SCHEMA:
        raise RecordError(
            f"this record is of the form {schema}, and this cetool reads {RECORD_SCHEMA}",
            where=where,
            hint="Another version of cetool wrote it: use that one, or a newer one.",
        )
    try:
        record = decode(RunRecord, document)
    except FieldError as error:
        raise RecordError(f"the record's {error}", where=where) from None
    except RecursionError:
        raise RecordError("this record is nested too deep", where=where) from None
    problem = _problem(record)
    if problem is not None:
        raise RecordError(problem, where=where)
    try:
        content = record.script.data
    except ValueError:
        raise RecordError("the script in the record is damaged", where=where) from None
    if content is not None and sha256_of(content) != record.script.sha256:
        raise RecordError(
            "the script in the record is not the one that ran: its SHA-256 is another one than the record's",
            where=where,
            hint="The record was changed after it was written. Get it again from where it came from.",
        )
    return record


def _problem(record: RunRecord) -> str | None:
    """What is wrong with values that are of the right types."""
    if record.run_with is None and record.entrypoint is None:
        return "the record does not say what the script was run with"
    if not _DIGESTS["sha256"].match(record.script.sha256):
        return "the SHA-256 of the script in the record is none"
    if record.end is not None and record.ending is None:
        return f"the record's {'seconds' if record.seconds is None else 'exit_status'!r} is missing"
    known = [each for each in record.pypi_packages if each.url is not None]
    packages: list[RecordedPackage | RecordedWheel] = [*record.packages, *known]
    for each in packages:
        shown = printable(each.name)
        if not _NAME.match(each.name):
            return f"{shown!r} in the record is no package's name"
        if each.url is None:
            return f"the record does not tell where {shown} came from"
        # behind the '#' an explicit spec has the digest
        if not _URL.match(each.url) or (isinstance(each, RecordedPackage) and "#" in each.url):
            return f"the record's URL of {shown} is none"
        for kind, pattern in _DIGESTS.items():
            digest = getattr(each, kind, None)
            if digest is not None and not pattern.match(digest):
                return f"the {kind.upper().replace('SHA', 'SHA-')} of {shown} in the record is none"
    return None


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
    document = encode(record, schema=RECORD_SCHEMA)
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

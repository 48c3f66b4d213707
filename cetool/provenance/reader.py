"""Reads the record of a run, which may come from anywhere: every value is looked at before anything trusts it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from cetool.base.codec import sha256_of
from cetool.base.errors import Location
from cetool.base.limits import RECORD, parse_json
from cetool.base.text import printable
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.package import Package, PypiPackage
from cetool.declare.source import read_bytes
from cetool.lock.model import PlatformLock
from cetool.provenance.record import RECORD_SCHEMA, Ending, RecordedCommand, RecordedScript, RecordError, RunRecord

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/[^\s\x00-\x20]+\Z")


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
    reader = _Reader(where)
    try:
        return reader.record(document)
    except RecursionError:
        raise RecordError("this record is nested too deep", where=where) from None


class _Reader:
    """Takes a document apart, every value looked at: a record may come from anywhere."""

    def __init__(self, where: Location) -> None:
        self.where = where

    def wrong(self, message: str, hint: str | None = None) -> RecordError:
        return RecordError(message, where=self.where, hint=hint)

    def get(self, data: Mapping[str, Any], field: str, *kinds: type | None) -> Any:
        """A field's value, which is of one of these kinds."""
        value = data.get(field)
        wanted = tuple(type(None) if kind is None else kind for kind in kinds)
        if field not in data or not isinstance(value, wanted) or (isinstance(value, bool) and bool not in kinds):
            raise self.wrong(f"the record's {field!r} is {'missing' if field not in data else 'not what it should be'}")
        if isinstance(value, str) and "\0" in value:
            raise self.wrong(f"there is a NUL character in the record's {field!r}")
        return value

    def texts(self, data: Mapping[str, Any], field: str) -> tuple[str, ...]:
        values = self.get(data, field, list)
        if not all(isinstance(value, str) and "\0" not in value for value in values):
            raise self.wrong(f"the record's {field!r} is not a list of texts")
        return tuple(values)

    def pairs(self, data: Mapping[str, Any], field: str) -> tuple[tuple[str, str], ...]:
        values = self.get(data, field, dict)
        if not all(isinstance(value, str) and "\0" not in key + value for key, value in values.items()):
            raise self.wrong(f"the record's {field!r} are not texts")
        return tuple(values.items())

    def record(self, data: Mapping[str, Any]) -> RunRecord:
        environment = self.get(data, "environment", dict)
        engine = self.get(data, "engine", dict)
        run_with = self.texts(data, "run_with") if self.get(data, "run_with", list, None) is not None else None
        entrypoint = self.get(data, "entrypoint", str, None)
        if run_with is None and entrypoint is None:
            raise self.wrong("the record does not say what the script was run with")
        pypi = self.get(data, "pypi_packages", list)
        unknown = [item for item in pypi if isinstance(item, dict) and item.get("url", "") is None]
        return RunRecord(
            script=self.script(self.get(data, "script", dict)),
            arguments=self.texts(data, "arguments"),
            redacted=self.get(data, "arguments_redacted", bool),
            directory=self.get(data, "working_directory", str),
            command=RecordedCommand(
                self.get(data, "dialect", str), run_with, entrypoint, self.get(data, "activate", bool)
            ),
            asked=self.asked(self.get(environment, "spec", dict)),
            name=self.get(environment, "name", str),
            prefix=self.get(environment, "prefix", str),
            packages=PlatformLock(
                self.get(data, "platform", str),
                tuple(map(self.conda, self.get(data, "packages", list))),
                tuple(self.pypi(item) for item in pypi if item not in unknown),
            ),
            unknown=tuple((self.get(item, "name", str), self.get(item, "version", str)) for item in unknown),
            engine=(self.get(engine, "name", str), self.get(engine, "version", str)),
            cetool=self.get(data, "cetool", str),
            virtual_packages=self.pairs(data, "virtual_packages"),
            host=self.pairs(data, "host"),
            variables=self.pairs(data, "variables"),
            start=self.get(data, "start", str),
            ending=self.ending(data),
        )

    def script(self, data: Mapping[str, Any]) -> RecordedScript:
        text, encoded = self.get(data, "text", str, None), self.get(data, "base64", str, None)
        content: bytes | None = None
        try:
            if text is not None:
                content = text.encode()
            elif encoded is not None:
                content = base64.b64decode(encoded, validate=True)
        except (UnicodeEncodeError, binascii.Error, ValueError):
            raise self.wrong("the script in the record is damaged") from None
        sha256 = self.sha256(data)
        if sha256 is None:
            raise self.wrong("the record does not tell the SHA-256 of its script")
        if content is not None and sha256_of(content) != sha256:
            raise self.wrong(
                "the script in the record is not the one that ran: its SHA-256 is another one than the record's",
                "The record was changed after it was written. Get it again from where it came from.",
            )
        return RecordedScript(
            name=self.get(data, "name", str),
            given=self.get(data, "given", str),
            path=self.get(data, "path", str, None),
            url=self.get(data, "url", str, None),
            sha256=sha256,
            size=self.get(data, "size", int),
            data=content,
        )

    def asked(self, data: dict[str, Any]) -> EnvironmentSpec:
        try:
            return EnvironmentSpec.from_dict(data)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.wrong("the record's 'spec' is not what it should be") from None

    def conda(self, item: object) -> Package:
        if not isinstance(item, dict):
            raise self.wrong("the record's 'packages' are not what they should be")
        name, version, build = self.name(item), self.get(item, "version", str), self.get(item, "build", str)
        md5 = self.get(item, "md5", str, None)
        if md5 is not None and not _MD5.match(md5):
            raise self.wrong(f"the MD5 of {printable(name)} in the record is none")
        if "#" in self.url(item, name):  # where an explicit spec has the digest
            raise self.wrong(f"the record's URL of {name} is none")
        return Package(
            name=name,
            version=version,
            build=build,
            subdir=self.get(item, "subdir", str),
            url=self.url(item, name),
            sha256=self.sha256(item),
            md5=md5,
            size=self.get(item, "size", int, None),
            depends=self.texts(item, "depends"),
        )

    def pypi(self, item: object) -> PypiPackage:
        if not isinstance(item, dict):
            raise self.wrong("the record's 'pypi_packages' are not what they should be")
        name = self.name(item)
        return PypiPackage(name, self.get(item, "version", str), self.url(item, name), self.sha256(item))

    def name(self, item: Mapping[str, Any]) -> str:
        name = self.get(item, "name", str)
        if not _NAME.match(name):
            raise self.wrong(f"{printable(name)!r} in the record is no package's name")
        return str(name)

    def url(self, item: Mapping[str, Any], name: str) -> str:
        url = self.get(item, "url", str, None)
        if url is None:
            raise self.wrong(f"the record does not tell where {printable(name)} came from")
        if not _URL.match(url):
            raise self.wrong(f"the record's URL of {printable(name)} is none")
        return str(url)

    def sha256(self, item: Mapping[str, Any]) -> str | None:
        digest = self.get(item, "sha256", str, None)
        if digest is not None and not _SHA256.match(digest):
            raise self.wrong(f"the SHA-256 of {printable(str(item.get('name')))} in the record is none")
        return digest if digest is None else str(digest)

    def ending(self, data: Mapping[str, Any]) -> Ending | None:
        end = self.get(data, "end", str, None)
        if end is None:
            return None
        return Ending(
            end,
            float(self.get(data, "seconds", int, float)),
            self.get(data, "exit_status", int),
            self.get(data, "signal", str, None),
        )

"""Find environments of a server by name: which build, and its signed record for a platform."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from cetool.base.errors import CetoolError
from cetool.base.values import Value
from cetool.declare.named import Named
from cetool.remote.answers import KnownAnswers, answer_key, checked
from cetool.remote.connection import Connection, unusable
from cetool.remote.pinned import Pinned
from cetool.remote.records import BuildRecord


class Found(Value):
    """A build of an environment, and its record."""

    build: int
    record: BuildRecord
    #: The signed record.
    envelope: str


def place_of(named: Named) -> str:
    """Return the path of an environment below the API."""
    return f"/environments/{quote(named.namespace, safe='')}/{quote(named.name, safe='')}"


def current_build(connection: Connection, named: Named) -> int:
    """Return the number of the build that a name means. Raises CetoolError if there is none."""
    if named.build is not None:
        told = connection.get(f"/builds/{named.build}")
        place = f"{_field(told, 'namespace', connection)}/{_field(told, 'name', connection)}"
        if place != named.place:
            raise CetoolError(
                f"build {named.build} is one of {place}, not of {named.place}",
                code="environment-not-found",
                about=str(named),
                hint=f"`cetool env history {named.place}` lists its builds.",
            )
        return named.build
    build = _field(connection.get(place_of(named)), "build", connection)
    if build is None:
        raise CetoolError(
            f"{named.place} has no completed build yet",
            code="environment-not-found",
            about=named.place,
            hint=f"`cetool env log {named.place}` shows its last build.",
        )
    if not isinstance(build, int):
        raise unusable("it names no build", connection.access)
    return build


def _field(told: Any, name: str, connection: Connection) -> Any:
    if not isinstance(told, dict) or name not in told:
        raise unusable(f"{name!r} is missing", connection.access)
    return told[name]


def find_named(connection: Connection, pinned: Pinned, named: Named, platform: str, known: KnownAnswers) -> Found:
    """Return what a name means on a server, and keep it. Raises CetoolError."""
    build = current_build(connection, named)
    envelope = connection.request("GET", f"/builds/{build}/record/{platform}").read().decode("utf-8", "replace")
    record = _of_name(envelope, pinned, named, platform)
    known.keep(answer_key(pinned.url, platform, f"name:{named}"), str(build), envelope)
    return Found(build, record, envelope)


def kept_named(pinned: Pinned, named: Named, platform: str, known: KnownAnswers) -> Found | None:
    """Return what a name meant when the server was last asked; None if it never was."""
    build, envelope = known.find(answer_key(pinned.url, platform, f"name:{named}"))
    if not envelope or not build.isdecimal():
        return None
    return Found(int(build), _of_name(envelope, pinned, named, platform), envelope)


def _of_name(envelope: str, pinned: Pinned, named: Named, platform: str) -> BuildRecord:
    """Return the record in an envelope, which must be signed for an environment of this name. Raises CetoolError."""
    record = checked(envelope, pinned, platform, None)
    if record.environment != named.place:
        raise CetoolError(
            f"{pinned.shown}: its answer is about {record.environment or 'no environment'}, not about {named.place}",
            code="server-untrusted",
            about=pinned.url,
        )
    return record

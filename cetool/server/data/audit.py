"""The audit table: who changed what, or tried to. Rows are only added; triggers refuse all else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cetool.server.data.database import now
from cetool.server.data.schema import audit

#: Characters of a text that are kept.
_MOST = 500
#: Who acts through the command line on the server's machine.
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Act:
    """A change, or an attempt at one."""

    #: The name of a user or token; :data:`OPERATOR`.
    who: str
    #: A verb and its object, such as ``token.create``; ``refused`` in front says that it did not happen.
    action: str
    #: What it is about: ``team/gpu``, ``user ana``, ``build 7``.
    object: str
    data: Mapping[str, Any] | None = None
    #: The client's address; None for the command line.
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table."""

    id: int
    #: Seconds since 1970.
    at: float
    who: str
    action: str
    object: str
    data: Mapping[str, Any]
    address: str | None


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which rows to list, the latest first."""

    who: str | None = None
    object: str | None = None
    #: The start of the action: ``token`` finds ``token.create``.
    action: str | None = None
    #: Only rows with a lower number.
    before: int | None = None
    limit: int = 100


def write(tx: sa.Connection, act: Act) -> None:
    """Add a row."""
    row = {
        "at": now(tx),
        "who": act.who[:_MOST],
        "action": act.action[:_MOST],
        "object": act.object[:_MOST],
        "data": dict(act.data or {}),
        "address": act.address,
    }
    tx.execute(sa.insert(audit).values(row))


def listed(tx: sa.Connection, query: AuditQuery) -> list[Entry]:
    """Return rows, the latest first."""
    found = sa.select(audit).order_by(audit.c.id.desc()).limit(query.limit)
    if query.who is not None:
        found = found.where(audit.c.who == query.who)
    if query.object is not None:
        found = found.where(audit.c.object == query.object)
    if query.action is not None:
        found = found.where(audit.c.action.startswith(query.action, autoescape=True))
    if query.before is not None:
        found = found.where(audit.c.id < query.before)
    return [Entry(**row) for row in tx.execute(found).mappings()]

"""Events: what happened, in order, for pages and clients that follow it. They are a record of changes, not the truth.

Kinds: ``build.queued``, ``build.started``, ``build.retried``, ``build.completed``, ``build.failed``,
``build.canceled``, ``build.deleted``; ``environment.created``, ``.moved``, ``.described``, ``.renamed``, ``.deleted``;
``namespace.created``, ``.deleted``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cetool.server.access import Reach
from cetool.server.data.database import now
from cetool.server.data.schema import build, event, namespace
from cetool.server.data.visibility import visible


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    id: int
    #: Seconds since 1970.
    at: float
    kind: str
    namespace: str | None
    #: The environment's name.
    environment: str | None
    build_id: int | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class News:
    """An event to be added."""

    kind: str
    namespace: str | None = None
    environment: str | None = None
    build_id: int | None = None
    data: Mapping[str, Any] | None = None


def add(tx: sa.Connection, news: News) -> None:
    """Add an event."""
    row = {
        "at": now(tx),
        "kind": news.kind,
        "namespace": news.namespace,
        "environment": news.environment,
        "build_id": news.build_id,
        "data": dict(news.data or {}),
    }
    tx.execute(event.insert().values(row))


def add_for_build(tx: sa.Connection, kind: str, number: int, data: Mapping[str, Any] | None = None) -> None:
    """Add an event about a build, with the names that it has now."""
    chosen = sa.select(namespace.c.name, build.c.name.label("environment")).select_from(
        build.outerjoin(namespace, namespace.c.id == build.c.namespace_id)
    )
    row = tx.execute(chosen.where(build.c.id == number)).one()
    add(tx, News(kind, row.name, row.environment, number, data))


def since(tx: sa.Connection, after: int, *, limit: int = 100, reach: Reach | None = None) -> list[Event]:
    """Return the events after a number, the oldest first; those within reach."""
    chosen = sa.select(event).where(event.c.id > min(after, 2**63 - 1)).order_by(event.c.id).limit(limit)
    if reach is not None and not reach.everything:
        chosen = chosen.where(visible(reach, event.c.namespace, event.c.environment))
    return [Event(**row) for row in tx.execute(chosen).mappings()]


def following(tx: sa.Connection, after: int, reach: Reach, *, limit: int = 100) -> tuple[list[Event], int]:
    """Return the events after a number that are within reach, and the number to continue after.

    That number grows even if no event is within reach, so that the next look does not read the others again.
    """
    found = since(tx, after, limit=limit, reach=reach)
    return found, found[-1].id if len(found) == limit else max(after, latest(tx))


def latest(tx: sa.Connection) -> int:
    """Return the number of the last event, 0 if there is none."""
    return int(tx.scalar(sa.select(sa.func.max(event.c.id))) or 0)


def prune(tx: sa.Connection, before: float) -> int:
    """Remove the events before a moment, in seconds since 1970; return how many."""
    return tx.execute(event.delete().where(event.c.at < before)).rowcount

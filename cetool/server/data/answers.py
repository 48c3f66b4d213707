"""Answers: the signed record for each request that was answered, and whether a build of it is under way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from cetool.lock.model import PlatformLock
from cetool.server.data import locks
from cetool.server.data.builds import BuildPlatform
from cetool.server.data.database import now, unindexed
from cetool.server.data.schema import UNFINISHED, answer, build, build_platform, namespace


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request on one platform."""

    build_id: int
    #: The signed envelope (JSON).
    record: str
    #: Seconds since 1970.
    created: float
    #: The build's namespace (empty after its deletion) and environment.
    namespace: str
    environment: str | None


@dataclass(frozen=True, slots=True)
class Behind:
    """A build with a request."""

    build_id: int
    namespace: str
    environment: str | None


#: Few builds have the same request, and many the same status.
_STATUS = unindexed(build.c.status)
_FIND = (
    sa.select(
        answer.c.build_id,
        answer.c.record,
        answer.c.created,
        sa.func.coalesce(namespace.c.name, "").label("namespace"),
        build.c.name.label("environment"),
    )
    .select_from(answer)
    .join(build, build.c.id == answer.c.build_id)
    .outerjoin(namespace, namespace.c.id == build.c.namespace_id)
    .where(answer.c.platform == sa.bindparam("platform"), answer.c.request == sa.bindparam("request"))
)


def find(tx: sa.Connection, platform: str, request: str) -> Answer | None:
    """Return the current answer to a request."""
    row = tx.execute(_FIND, {"platform": platform, "request": request}).mappings().first()
    return None if row is None else Answer(**row)


def running(tx: sa.Connection, platform: str, request: str) -> int | None:
    """Return the oldest build that waits or runs and has this request, None if there is none."""
    rows = _with(platform, request, _STATUS.in_(UNFINISHED))
    return next((each.build_id for each in _behind(tx, rows)), None)


def builds(tx: sa.Connection, platform: str, request: str) -> list[Behind]:
    """Return the completed builds with this request that are not deleted: one must be readable to read the answer."""
    return _behind(tx, _with(platform, request, _STATUS == "COMPLETED"))


def unfinished(tx: sa.Connection, platform: str, request: str) -> list[Behind]:
    """Return the builds that wait or run and have this request, the oldest first."""
    return _behind(tx, _with(platform, request, _STATUS.in_(UNFINISHED)))


def known_locks(tx: sa.Connection, platforms: Iterable[BuildPlatform]) -> dict[str, PlatformLock]:
    """Return the packages with which some of these requests were answered, by platform."""
    found = {}
    for each in platforms:
        chosen = (
            sa.select(build_platform.c.lock)
            .join(
                answer,
                sa.and_(answer.c.build_id == build_platform.c.build_id, answer.c.platform == build_platform.c.platform),
            )
            .where(answer.c.platform == each.platform, answer.c.request == each.request)
        )
        digest = tx.scalar(chosen)
        lock = None if digest is None else locks.get(tx, digest, each.platform)
        if lock is not None:
            found[each.platform] = lock
    return found


def put(tx: sa.Connection, platform: str, request: str, number: int, record: str) -> None:
    """Make a signed record the answer to a request; it replaces an earlier one."""
    this = sa.and_(answer.c.platform == platform, answer.c.request == request)
    values = {"build_id": number, "record": record, "created": now(tx)}
    if tx.execute(answer.update().where(this).values(values)).rowcount == 0:
        tx.execute(answer.insert().values(platform=platform, request=request, **values))


def _with(platform: str, request: str, condition: sa.ColumnElement[bool]) -> sa.Select[tuple[int, str, str]]:
    return (
        sa.select(
            build.c.id.label("build_id"),
            sa.func.coalesce(namespace.c.name, "").label("namespace"),
            build.c.name.label("environment"),
        )
        .select_from(build_platform)
        .join(build, build.c.id == build_platform.c.build_id)
        .outerjoin(namespace, namespace.c.id == build.c.namespace_id)
        .where(
            build_platform.c.platform == platform,
            build_platform.c.request == request,
            build.c.deleted.is_(None),
            condition,
        )
        .order_by(build.c.id)
    )


def _behind(tx: sa.Connection, chosen: sa.Select[tuple[int, str, str]]) -> list[Behind]:
    return [Behind(**row) for row in tx.execute(chosen).mappings()]

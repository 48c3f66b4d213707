"""Builds: rows that say what was asked for and what became of it.

:mod:`cetool.server.data.asking` adds them, :mod:`cetool.server.data.leases` works on them. A build that has ended never
changes its status again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import sqlalchemy as sa

from cetool.base.codec import sha256_of
from cetool.base.errors import CetoolError
from cetool.server.access import Reach
from cetool.server.data import environments, events
from cetool.server.data.database import unindexed
from cetool.server.data.ending import Freed, cancel_rows, give_up
from cetool.server.data.paging import Cut, Page, cursor, cut
from cetool.server.data.schema import (
    UNFINISHED,
    build,
    build_platform,
    environment,
    lock_package,
    namespace,
)
from cetool.server.data.visibility import visible


@dataclass(frozen=True, slots=True)
class BuildPlatform:
    """What a build was asked for on one platform, and what it resulted in."""

    platform: str
    #: :attr:`cetool.declare.environment.EnvironmentSpec.digest`
    request: str
    #: ``EnvironmentSpec.as_dict`` without credentials; None where it is not loaded.
    spec: Mapping[str, Any] | None = None
    #: The digest of the packages.
    lock: str | None = None
    #: The name of the prefix below ``envs``.
    realization: str | None = None


@dataclass(frozen=True, slots=True)
class NewBuild:
    """A build to be made. Without an environment it moves no name."""

    namespace_id: int
    environment_id: int | None
    #: The environment's name.
    name: str | None
    specification_id: int
    platforms: tuple[BuildPlatform, ...]
    by: str
    #: One of :data:`cetool.server.data.schema.ORIGINS`.
    origin: str
    #: Solve, even if there is an answer.
    refresh: bool = False
    profile: str = "plain"
    #: The platform that this server links; None for none.
    realize: str | None = None

    @property
    def request(self) -> str:
        """One digest for the requests of all platforms."""
        return request_of(self.platforms)


@dataclass(frozen=True, slots=True)
class Build:
    """A build. Times are seconds since 1970."""

    id: int
    #: Empty if the namespace was deleted.
    namespace: str
    namespace_id: int | None
    #: The environment's name, also after its deletion; None for a build without one.
    name: str | None
    #: None without an environment, and after its deletion.
    environment_id: int | None
    specification_id: int
    request: str
    status: str
    #: Why it ended, or what it waits for, in one sentence; ``code`` is one of an error.
    reason: str | None
    code: str | None
    hint: str | None
    #: What it does now, and how much of that is done.
    stage: str | None
    done: float | None
    total: float | None
    unit: str | None
    by: str
    scheduled: float
    started: float | None
    ended: float | None
    deleted: float | None
    attempts: int
    #: When the next attempt may start.
    not_before: float
    refresh: bool
    #: Bytes of its prefix.
    size: int | None
    profile: str
    origin: str
    #: Without their specifications: see :func:`platforms_of`.
    platforms: tuple[BuildPlatform, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.status not in UNFINISHED


@dataclass(frozen=True, slots=True)
class BuildQuery:
    """Which builds to list, in which order."""

    cut: Cut = field(default_factory=lambda: Cut(descending=True))
    #: What the reader may see; None for everything.
    reach: Reach | None = None
    namespace: str | None = None
    #: The environment's name.
    name: str | None = None
    environment_id: int | None = None
    status: str | None = None
    #: Names of packages, all of which it must have.
    packages: tuple[str, ...] = ()
    request: str | None = None
    by: str | None = None
    deleted: bool = True
    #: ``id``, ``scheduled``, ``started`` or ``ended``.
    sort: str = "id"


#: In the order of the fields: a row of positions is read twice as fast as one of names.
_COLUMNS = [
    sa.func.coalesce(namespace.c.name, "") if each.name == "namespace" else build.c[each.name]
    for each in fields(Build)
    if each.name != "platforms"
]
_WITH_NAMESPACE = build.outerjoin(namespace, build.c.namespace_id == namespace.c.id)
_IN_NAMESPACE = build.join(namespace, build.c.namespace_id == namespace.c.id)
#: The same, read in the order of builds instead of by namespace.
_IN_ORDER = build.join(namespace, unindexed(build.c.namespace_id) == namespace.c.id)
#: So many builds are sorted as fast as the first page is found among all.
_FEW = 2000
_ORDERS = {name: build.c[name] for name in ("id", "scheduled", "started", "ended")}


def request_of(platforms: Sequence[BuildPlatform]) -> str:
    """Return one digest for the requests of several platforms."""
    return sha256_of("\n".join(sorted(f"{each.platform} {each.request}" for each in platforms)).encode())


# --- reading ----------------------------------------------------------------------------------------------------------


def get(tx: sa.Connection, number: int) -> Build:
    """Return a build. Raises CetoolError with the code ``not-found``."""
    found = find(tx, number)
    if found is None:
        raise CetoolError(f"there is no build {number}", code="not-found", about=str(number))
    return found


def find(tx: sa.Connection, number: int) -> Build | None:
    """Return a build, None if there is none."""
    if not 0 < number < 2**63:
        return None
    row = tx.execute(sa.select(*_COLUMNS).select_from(_WITH_NAMESPACE).where(build.c.id == number)).first()
    return None if row is None else Build(*(*row, _platforms(tx, [number]).get(number, ())))


def listed(tx: sa.Connection, query: BuildQuery) -> Page[Build]:
    """Return one page of builds; an unknown namespace has none."""
    where = _conditions(tx, query)
    order = _ORDERS.get(query.sort)
    if order is None:
        raise CetoolError(f"builds cannot be sorted by {query.sort!r}", code="request-malformed", about="sort")
    keys: tuple[sa.ColumnElement[Any], ...] = (build.c.id,)
    if query.sort != "id":
        if query.cut.after is not None:
            raise CetoolError("cursors need the order of `id`", code="request-malformed", about="sort")
        keys = (order, build.c.id)
    source = _WITH_NAMESPACE
    if _is_limited(query):
        source = _IN_ORDER if query.namespace is None and _are_many(tx, where) else _IN_NAMESPACE
    chosen = cut(sa.select(*_COLUMNS).select_from(source).where(*where), keys, query.cut, (int,))
    rows = tx.execute(chosen).all()
    shown = rows[: query.cut.limit]
    platforms = _platforms(tx, [row[0] for row in shown])
    more = len(rows) > len(shown) and query.sort == "id"
    return Page(
        tuple(Build(*(*row, platforms.get(row[0], ()))) for row in shown),
        cursor(shown[-1][0]) if more and shown else None,
        count(tx, query) if query.cut.count else None,
    )


def count(tx: sa.Connection, query: BuildQuery) -> int:
    """Return how many builds a query finds on all pages."""
    where = _conditions(tx, query)
    chosen = sa.select(sa.func.count()).select_from(_IN_NAMESPACE if _is_limited(query) else build).where(*where)
    return int(tx.scalar(chosen) or 0)


def platforms_of(tx: sa.Connection, number: int) -> tuple[BuildPlatform, ...]:
    """Return what a build was asked for, with specifications."""
    columns = build_platform.c
    chosen = sa.select(columns.platform, columns.request, columns.spec, columns.lock, columns.realization)
    rows = tx.execute(chosen.where(columns.build_id == number).order_by(columns.platform)).mappings()
    return tuple(BuildPlatform(**row) for row in rows)


def _platforms(tx: sa.Connection, numbers: Sequence[int]) -> dict[int, tuple[BuildPlatform, ...]]:
    columns = build_platform.c
    chosen = sa.select(columns.build_id, columns.platform, columns.request, columns.lock, columns.realization)
    found: dict[int, tuple[BuildPlatform, ...]] = {}
    for each, platform, request, lock, prefix in tx.execute(chosen.where(columns.build_id.in_(numbers))):
        found[each] = (*found.get(each, ()), BuildPlatform(platform, request, None, lock, prefix))
    return found


def _are_many(tx: sa.Connection, where: Sequence[sa.ColumnElement[bool]]) -> bool:
    some = sa.select(sa.literal(1)).select_from(_IN_NAMESPACE).where(*where).limit(_FEW).subquery()
    return tx.scalar(sa.select(sa.func.count()).select_from(some)) == _FEW


def _is_limited(query: BuildQuery) -> bool:
    """Return whether the condition is about namespaces, so that builds of deleted ones are left out."""
    return query.namespace is not None or (query.reach is not None and not query.reach.everything)


def _conditions(tx: sa.Connection, query: BuildQuery) -> list[sa.ColumnElement[bool]]:
    where: list[sa.ColumnElement[bool]] = []
    if query.namespace is not None:
        where.append(namespace.c.name == query.namespace)
    for column in ("name", "environment_id", "status", "request", "by"):
        if (value := getattr(query, column)) is not None:
            where.append(build.c[column] == value)
    if not query.deleted:
        where.append(build.c.deleted.is_(None))
    if query.reach is not None and not query.reach.everything:
        where.append(visible(query.reach, namespace.c.name, build.c.name))
    return [*where, *(_has(tx, package) for package in query.packages)]


def _has(tx: sa.Connection, package: str) -> sa.ColumnElement[bool]:
    """Return the condition that a build has a package: looked up for each build if many have it, else listed once."""
    has = (
        sa.select(build_platform.c.build_id)
        .join(lock_package, lock_package.c.lock == build_platform.c.lock)
        .where(lock_package.c.name == package)
    )
    some = has.limit(_FEW).subquery()
    if tx.scalar(sa.select(sa.func.count()).select_from(some)) == _FEW:
        return sa.exists(has.where(build_platform.c.build_id == build.c.id).correlate(build))
    return build.c.id.in_(has)


# --- ending ---------------------------------------------------------------------------------------------------------


def cancel(tx: sa.Connection, number: int, by: str) -> str:
    """Cancel a build and return its status. One that has ended stays as it is; a holder of its lease loses it.

    Raises CetoolError with the code ``not-found``.
    """
    found = get(tx, number)
    if not found.is_finished:
        cancel_rows(tx, build.c.id == number, by)
        return "CANCELED"
    return found.status


def delete(tx: sa.Connection, number: int, by: str, *, force: bool = False) -> Freed:
    """Delete a build in any state, and return what that frees. The row stays, with the time of its deletion.

    Raises CetoolError: ``not-found``; ``conflict`` for an environment's current build unless ``force``, with which
    the environment goes back to its previous build.
    """
    found = get(tx, number)
    current = tx.scalar(sa.select(environment.c.id).where(environment.c.build_id == number))
    if current is not None:
        place = environments.get_by_id(tx, current)
        if not force:
            raise CetoolError(
                f"{place.namespace}/{place.name} points to build {number}",
                code="conflict",
                about=str(number),
                hint="Let it use another build first, or delete the environment.",
            )
        environments.unpoint(tx, place, by=by)
    freed = give_up(tx, build.c.id == number, by)
    if found.deleted is None:
        events.add_for_build(tx, "build.deleted", number, {"by": by, "freed": freed.bytes})
    return freed

"""Packages and channels: those in the locks of builds that the caller may see."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel

from cetool.server.access import Principal, reach
from cetool.server.data.database import contains
from cetool.server.data.schema import build, build_platform, lock, lock_package, namespace
from cetool.server.data.visibility import visible
from cetool.server.web.conda_store.forms import Here, Pages, Route, Who
from cetool.server.web.conda_store.rows import channel_object, package_object

router = APIRouter(route_class=Route)
#: What packages can be sorted and told apart by.
COLUMNS: dict[str, sa.ColumnElement[Any]] = {
    "channel": lock_package.c.channel,
    "name": lock_package.c.name,
    "version": lock_package.c.version,
}


class _Wanted(BaseModel):
    """Which packages to list."""

    search: str | None = None
    exact: str | None = None
    build: str | None = None

    @property
    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The conditions on packages. As in conda-store, any value of ``exact`` means yes."""
        found: list[sa.ColumnElement[bool]] = []
        name = lock_package.c.name
        if self.search:
            found.append(name == self.search if self.exact else contains(name, self.search))
        if self.build:
            found.append(contains(lock_package.c.build, self.build))
        return found


async def _wanted(wanted: Annotated[_Wanted, Query()]) -> _Wanted:
    return wanted


#: A parameter of handlers.
Wanted = Annotated[_Wanted, Depends(_wanted)]


def _locks(who: Principal) -> sa.Select[Any]:
    """Return the query for the locks of builds that the caller may see: locks are few, and builds many."""
    seen = (
        sa.select(build_platform.c.build_id)
        .join(build, build.c.id == build_platform.c.build_id)
        .outerjoin(namespace, namespace.c.id == build.c.namespace_id)
        .where(build_platform.c.lock == lock.c.digest, visible(reach(who), namespace.c.name, build.c.name))
        .correlate(lock)
    )
    return sa.select(lock.c.digest).where(sa.exists(seen))


@router.get("/api/v1/channel/")
def list_channels(here: Here, who: Who, pages: Pages) -> Response:
    """List the channels of packages."""
    channel, created = lock_package.c.channel, sa.func.max(lock.c.created).label("updated")
    query = (
        sa.select(channel, created)
        .join(lock, lock.c.digest == lock_package.c.lock)
        .where(lock_package.c.kind == "conda", lock_package.c.lock.in_(_locks(who)))
        .group_by(channel)
    )
    with here.database.read() as tx:
        rows, count = pages.fetch(tx, query, {"name": channel}, channel)
    return pages.answer([channel_object(row.channel, row.updated) for row in rows], count)


@router.get("/api/v1/package/")
def list_packages(
    here: Here,
    who: Who,
    pages: Pages,
    wanted: Wanted,
    distinct_on: Annotated[list[str], Query()] = [],  # noqa: B006
) -> Response:
    """List packages; with ``distinct_on`` one for each combination of these fields."""
    distinct = [COLUMNS[name] for name in dict.fromkeys(distinct_on) if name in COLUMNS]
    columns = {name: column for name, column in COLUMNS.items()}
    query = sa.select(*COLUMNS.values()).where(
        lock_package.c.kind == "conda", lock_package.c.lock.in_(_locks(who)), *wanted.conditions
    )
    if distinct:
        others = {name: column for name, column in COLUMNS.items() if column not in distinct}
        newest = {name: sa.func.max(column).label(name) for name, column in others.items()}
        query = query.with_only_columns(*(newest.get(name, column) for name, column in COLUMNS.items()))
        query = query.group_by(*distinct)
        columns |= newest
    else:
        query = query.distinct()
    with here.database.read() as tx:
        rows, count = pages.fetch(tx, query, columns, columns["version"])
    return pages.answer([package_object(row.channel, row.name, row.version) for row in rows], count)

"""Packages and channels: those in the locks of builds that the caller may see, and those of the default channels."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from cetool.base.errors import CetoolError
from cetool.server.access import Principal, reach
from cetool.server.data import namespaces
from cetool.server.data.database import contains
from cetool.server.data.schema import build, build_platform, lock, lock_package, namespace
from cetool.server.data.visibility import visible
from cetool.server.policies import policy_of
from cetool.server.server import Server
from cetool.server.web.conda_store.channels import ChannelSearch
from cetool.server.web.conda_store.forms import PAGE_SIZE, Here, Pages, Paging, Route, Who
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


async def _channels(request: Request) -> ChannelSearch:
    """Return what searches in channels; there is one for the whole server."""
    state = request.app.state
    if not hasattr(state, "channel_search"):
        state.channel_search = ChannelSearch(state.server.config.data)
    found: ChannelSearch = state.channel_search
    return found


@router.get("/api/v1/package/")
def list_packages(
    here: Here,
    who: Who,
    pages: Pages,
    wanted: Wanted,
    channels: Annotated[ChannelSearch, Depends(_channels)],
    distinct_on: Annotated[list[str], Query()] = [],  # noqa: B006
) -> Response:
    """List packages; with ``distinct_on`` one for each combination of these fields.

    A search by a caller who may create environments finds the packages of the default channels; all other lists have
    the packages of builds that the caller may see.
    """
    distinct = tuple(name for name in dict.fromkeys(distinct_on) if name in COLUMNS)
    if wanted.search and not wanted.build and reach(who, "environment:create").granted:
        with contextlib.suppress(CetoolError):  # without its channels, the server still knows its builds
            return _in_channels(here, who, pages, (wanted.search, bool(wanted.exact)), distinct, channels)
    return _in_locks(here, who, pages, wanted, distinct)


def _in_channels(
    here: Server,
    who: Principal,
    pages: Paging,
    search: tuple[str, bool],
    distinct: tuple[str, ...],
    channels: ChannelSearch,
) -> Response:
    with here.database.read() as tx:
        policy = policy_of(here.config, namespaces.levels(tx, who.namespace))
    by_name = distinct == ("name",)
    first = pages.size * (pages.number - 1)
    part = slice(first, first + pages.size) if by_name else slice(0, PAGE_SIZE)
    found = channels.find(policy.usable_channels, search[0], exact=search[1], part=part)
    rows = [(channel, name, version) for channel, name, versions in found.packages for version in reversed(versions)]
    # the newest version comes first, so it is the one that is kept
    fields = [list(COLUMNS).index(name) for name in distinct or COLUMNS]
    kept = list({tuple(row[each] for each in fields): row for row in reversed(rows)}.values())[::-1]
    if by_name:
        return pages.answer([package_object(*row) for row in kept], found.count)
    order = {row: number for number, row in enumerate(reversed(rows))}
    kept.sort(key=lambda row: (row[0], row[1], order[row]), reverse=pages.descending)
    return pages.answer([package_object(*row) for row in kept[first : first + pages.size]], len(kept))


def _in_locks(here: Server, who: Principal, pages: Paging, wanted: _Wanted, distinct: tuple[str, ...]) -> Response:
    columns = {name: column for name, column in COLUMNS.items()}
    query = sa.select(*COLUMNS.values()).where(
        lock_package.c.kind == "conda", lock_package.c.lock.in_(_locks(who)), *wanted.conditions
    )
    if distinct:
        newest = {name: sa.func.max(column).label(name) for name, column in COLUMNS.items() if name not in distinct}
        query = query.with_only_columns(*(newest.get(name, column) for name, column in COLUMNS.items()))
        query = query.group_by(*(COLUMNS[name] for name in distinct))
        columns |= newest
    else:
        query = query.distinct()
    with here.database.read() as tx:
        rows, count = pages.fetch(tx, query, columns, columns["version"])
    return pages.answer([package_object(row.channel, row.name, row.version) for row in rows], count)

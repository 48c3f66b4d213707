"""Environments: listing, in pages or with a cursor, changing and deleting them."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Body, Depends, Query, Response
from pydantic import BaseModel, Field

from cetool.server import changing
from cetool.server.access import Principal, allows
from cetool.server.data import builds, environments
from cetool.server.data.schema import environment, namespace
from cetool.server.server import Server
from cetool.server.web.conda_store.forms import (
    ALL,
    LAST_ID,
    PAGE_SIZE,
    Here,
    Pages,
    Route,
    Who,
    ack,
    counted,
    deprecated,
    missing,
    ok,
    permit,
    refusal,
)
from cetool.server.web.conda_store.rows import (
    CURRENT,
    build_filters,
    environment_filters,
    environment_objects,
    environments_query,
)

router = APIRouter(route_class=Route)

Artifact = Literal[
    "DIRECTORY",
    "LOCKFILE",
    "LOGS",
    "YAML",
    "CONDA_PACK",
    "DOCKER_MANIFEST",
    "CONSTRUCTOR_INSTALLER",
    "CONTAINER_REGISTRY",
    "DOCKER_BLOB",
]


class Sought(BaseModel):
    """Which environments, or builds, to list."""

    search: str | None = None
    namespace: str | None = None
    name: str | None = None
    status: Literal["QUEUED", "BUILDING", "COMPLETED", "FAILED", "CANCELED"] | None = None
    artifact: Artifact | None = None
    packages: list[str] = []
    #: A token: only what it may see as well is listed.
    jwt: str | None = None

    def builds(self, number: sa.ColumnElement[Any]) -> list[sa.ColumnElement[bool]]:
        """Return the conditions on the build with a number."""
        return build_filters(number, self.status, self.artifact, self.packages)


class _Cursor(BaseModel):
    """Where a list goes on."""

    order: Literal["asc", "desc"] = "asc"
    limit: Annotated[int | None, Field(ge=1)] = None
    sort_by: list[str] = []
    cursor: str | None = None

    @property
    def columns(self) -> list[str]:
        """The names of the columns to sort by. Raises CetoolError for others."""
        names = self.sort_by[0].split(",") if len(self.sort_by) == 1 else self.sort_by
        unknown = [each[:100] for each in names if each not in _COLUMNS]
        if unknown:
            raise refusal(f"Cannot sort results by {unknown}. Valid sort_by values are {list(_COLUMNS)}")
        return list(dict.fromkeys(names))


async def _sought(sought: Annotated[Sought, Query()]) -> Sought:
    return sought


async def _cursor(cursor: Annotated[_Cursor, Query()]) -> _Cursor:
    return cursor


Filters = Annotated[Sought, Depends(_sought)]
_COLUMNS: dict[str, sa.ColumnElement[Any]] = {"namespace": namespace.c.name, "name": environment.c.name}


def _query(here: Server, who: Principal, sought: Sought) -> sa.Select[Any]:
    """Return the query for environments that the caller may see, and the token that the caller names."""
    names = environment_filters(sought.search, sought.namespace, sought.name)
    query = environments_query(who, [*names, *sought.builds(CURRENT)])
    if not sought.jwt:
        return query
    also, _ = here.login.identify(f"Bearer {sought.jwt}", None)
    return query.where(environment.c.id.in_(environments_query(also).with_only_columns(environment.c.id)))


@router.get("/api/v1/environment/")
def list_environments(here: Here, who: Who, pages: Pages, sought: Filters) -> Response:
    """List environments."""
    query = _query(here, who, sought)
    with here.database.read() as tx:
        rows, count = pages.fetch(tx, query, _COLUMNS, environment.c.id)
        return deprecated(pages.answer(environment_objects(tx, rows), count))


@router.get("/api/v2/environment/")
def list_with_cursor(here: Here, who: Who, sought: Filters, place: Annotated[_Cursor, Depends(_cursor)]) -> Response:
    """List environments from a cursor on."""
    names, ascending = place.columns, place.order == "asc"
    query = _query(here, who, sought)
    keys = [*(_COLUMNS[each] for each in names), environment.c.id]
    with here.database.read() as tx:
        count = tx.scalar(counted(query))
        after = _position(place.cursor, names)
        if after is not None:
            row, last = sa.tuple_(*keys), sa.tuple_(*map(sa.literal, after))
            query = query.where(row > last if ascending else row < last)
        query = query.order_by(*(each.asc() if ascending else each.desc() for each in keys))
        rows = tx.execute(query.limit(min(place.limit or PAGE_SIZE, ALL))).all()
        data = environment_objects(tx, rows)
    for each in data:
        del each["current_build"]
    values = {each: getattr(rows[-1], each) for each in names} if rows else None
    end = {"last_id": rows[-1].id if rows else None, "last_value": values}
    return ok(data, cursor=base64.b64encode(json.dumps(end).encode()).decode(), count=count)


def _position(cursor: str | None, names: list[str]) -> list[str | int] | None:
    """Return the values in a cursor after which the list goes on; None for its start."""
    if cursor is None:
        return None
    try:
        document = json.loads(base64.b64decode(cursor, validate=True))
        number, values = document["last_id"], document["last_value"] or {}
        if number is None:
            return None
        found = [*(values[name] for name in names), number]
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        raise refusal("the cursor is invalid") from None
    if type(number) is not int or abs(number) > LAST_ID or not all(isinstance(each, str) for each in found[:-1]):
        raise refusal("the cursor is invalid")
    return found


@router.get("/api/v1/environment/{namespace}/{environment_name}/")
def get_environment(here: Here, who: Who, namespace: str, environment_name: str) -> Response:
    """Return one environment."""
    permit(who, "environment::read", namespace, environment_name)
    filters = environment_filters(None, namespace, environment_name)
    with here.database.read() as tx:
        rows = tx.execute(environments_query(None, filters)).all()
        if not rows:
            raise missing("environment does not exist")
        return ok(environment_objects(tx, rows)[0])


@router.put("/api/v1/environment/{namespace}/{name}/")
def update_environment(
    here: Here,
    who: Who,
    namespace: str,
    name: str,
    build_id: Annotated[int | None, Body(ge=1, le=LAST_ID)] = None,
    description: Annotated[str | None, Body()] = None,
) -> Response:
    """Make an environment point to another build, or describe it."""
    permit(who, "environment::update", namespace, name)
    place = (namespace, name)
    with here.database.read() as tx:
        _need(tx, place)
        if build_id is not None:
            _check_build(tx, who, place, build_id)
    if build_id is not None:
        changing.use(here, who, place, build_id)
    if description is not None:
        changing.describe(here, who, place, description)
    return ack()


def _need(tx: sa.Connection, place: tuple[str, str]) -> None:
    if environments.find(tx, *place) is None:
        raise refusal(f"environment namespace={place[0]} name={place[1]} does not exist")


def _check_build(tx: sa.Connection, who: Principal, place: tuple[str, str], build_id: int) -> None:
    """Refuse what conda-store refuses, in its order, and a build of another namespace, which it does not notice."""
    found = builds.find(tx, build_id)
    hidden = found is not None and not allows(who, "environment::read", found.namespace, found.name or "*")
    if found is None or hidden or found.deleted is not None:
        raise refusal(f"build id={build_id} does not exist")
    if found.status != "COMPLETED":
        raise refusal("cannot update environment to build id since not completed")
    if (found.namespace, found.name) != place:
        raise refusal("cannot update environment to build id since build is of another environment")


@router.delete("/api/v1/environment/{namespace}/{name}/")
def delete_environment(here: Here, who: Who, namespace: str, name: str) -> Response:
    """Delete an environment and its builds."""
    permit(who, "environment::delete", namespace, name)
    with here.database.read() as tx:
        _need(tx, (namespace, name))
    changing.delete(here, who, (namespace, name))
    return ack()

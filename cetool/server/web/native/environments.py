"""``/cetool/1/environments``: list, show, describe, use, roll back, rename and delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from cetool.server import changing
from cetool.server.access import reach
from cetool.server.data import environments as data
from cetool.server.data.environments import Entry, Environment, EnvironmentQuery
from cetool.server.data.paging import cursor as cursor_of
from cetool.server.data.paging import opened
from cetool.server.finding import build_for, environment_for
from cetool.server.web import security
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import (
    MOST,
    PAGE,
    Api,
    Body,
    Cursor,
    Here,
    Known,
    Limit,
    Name,
    Part,
    check_match,
    reply,
    server_of,
    unchanged,
    when,
)
from cetool.server.web.urls import path, segment

router = Api(tags=["environments"])
_ONE = "/cetool/1/environments/{namespace}/{name}"


class Description(Body):
    """What can be changed of an environment."""

    description: str = Field(max_length=10_000)


class Use(Body):
    """The build that an environment is to point to."""

    build: int = Field(ge=1, le=MOST)
    note: str | None = Field(None, max_length=1000)


class NewName(Body):
    """The new name of an environment."""

    name: str = Field(min_length=1, max_length=255)


@router.on("GET /cetool/1/environments", schemas.Environments)
def list_environments(
    request: Request,
    principal: Known,
    server: Here,
    part: Part,
    namespace: Annotated[str | None, Query(max_length=255)] = None,
    search: Annotated[str | None, Query(max_length=255, description="A part of the name.")] = None,
    package: Annotated[list[str] | None, Query(max_length=20, description="It must have these packages.")] = None,
) -> Response:
    """List the environments that you may see, by namespace and name."""
    query = EnvironmentQuery(part, reach(principal), namespace, search=search, packages=tuple(package or ()))
    with server.database.read() as tx:
        page = data.listed(tx, query)
    found: schemas.Environments = {
        "environments": [_document(request, each) for each in page.rows],
        "next": page.next,
    }
    return reply(found)


@router.on(f"GET {_ONE}", schemas.Environment, more={304: ""}, errors=[404])
def show_environment(request: Request, principal: Known, server: Here, namespace: Name, name: Name) -> Response:
    """Show an environment. Its ETag changes with each change."""
    with server.database.read() as tx:
        found = environment_for(tx, principal, namespace, name)
    if unchanged(request, _etag(found)):
        return Response(status_code=304, headers={"ETag": _etag(found)})
    return _answer(request, found)


@router.on(f"PATCH {_ONE}", schemas.Environment, errors=[404, 412])
def describe_environment(
    request: Request, principal: Known, server: Here, namespace: Name, name: Name, change: Description
) -> Response:
    """Change the description."""
    place = (namespace, name)
    version = _version(request, principal, place)
    return _answer(request, changing.describe(server, principal, place, change.description, version=version))


@router.on(f"DELETE {_ONE}", schemas.Changed, errors=[404, 412])
def delete_environment(request: Request, principal: Known, server: Here, namespace: Name, name: Name) -> Response:
    """Delete an environment with its builds; running ones are canceled."""
    place = (namespace, name)
    freed = changing.delete(server, principal, place, version=_version(request, principal, place))
    security.note(request, "environment.delete", f"{namespace}/{name}", freed=freed.bytes)
    document: schemas.Changed = {"freed": freed.bytes}
    return reply(document)


@router.on(f"GET {_ONE}/history", schemas.History, errors=[404])
def show_history(
    principal: Known, server: Here, namespace: Name, name: Name, limit: Limit = PAGE, cursor: Cursor = None
) -> Response:
    """List what an environment pointed to, the latest first."""
    before = None if cursor is None else opened(cursor, int)[0]
    with server.database.read() as tx:
        found = environment_for(tx, principal, namespace, name)
        entries = data.history(tx, found.id, limit=limit + 1, before=before)
    shown = entries[:limit]
    document: schemas.History = {
        "history": [_entry(each) for each in shown],
        "next": cursor_of(shown[-1].id) if len(entries) > limit else None,
    }
    return reply(document)


@router.on(f"GET {_ONE}/diff", schemas.Differences, errors=[404])
def show_differences(
    principal: Known,
    server: Here,
    namespace: Name,
    name: Name,
    before: Annotated[int, Query(alias="from", ge=1, le=MOST)],
    after: Annotated[int, Query(alias="to", ge=1, le=MOST)],
) -> Response:
    """Compare the packages of two builds."""
    with server.database.read() as tx:
        environment_for(tx, principal, namespace, name)
        for number in (before, after):
            build_for(tx, principal, number)
        changes = data.differences(tx, before, after)
    document: schemas.Differences = {
        "before": before,
        "after": after,
        "changes": [
            {"platform": each.platform, "name": each.name, "before": each.before, "after": each.after}
            for each in changes
        ],
    }
    return reply(document)


@router.on(f"POST {_ONE}/use", schemas.Environment, errors=[404, 409, 412])
def use_build(request: Request, principal: Known, server: Here, namespace: Name, name: Name, chosen: Use) -> Response:
    """Let an environment point to one of its completed builds."""
    place = (namespace, name)
    security.note(request, "environment.use", f"{namespace}/{name}", build=chosen.build)
    version = _version(request, principal, place)
    found = changing.use(server, principal, place, chosen.build, note=chosen.note, version=version)
    return _answer(request, found)


@router.on(f"POST {_ONE}/rollback", schemas.Environment, errors=[404, 409, 412])
def roll_back(request: Request, principal: Known, server: Here, namespace: Name, name: Name) -> Response:
    """Let an environment point to its previous build again."""
    place = (namespace, name)
    found = changing.roll_back(server, principal, place, version=_version(request, principal, place))
    security.note(request, "environment.rollback", f"{namespace}/{name}", build=found.build_id)
    return _answer(request, found)


@router.on(f"POST {_ONE}/rename", schemas.Environment, errors=[404, 409, 412])
def rename_environment(
    request: Request, principal: Known, server: Here, namespace: Name, name: Name, new: NewName
) -> Response:
    """Give an environment another name in its namespace. It needs the right to delete it, since its name goes."""
    place = (namespace, name)
    security.note(request, "environment.rename", f"{namespace}/{name}", to=new.name)
    version = _version(request, principal, place)
    return _answer(request, changing.rename(server, principal, place, new.name, version=version))


def _version(request: Request, principal: Known, place: tuple[str, str]) -> int | None:
    """Return the version that the client wants to change (If-Match), None for any. Raises CetoolError (412)."""
    if "if-match" not in request.headers:
        return None
    with server_of(request).database.read() as tx:
        found = environment_for(tx, principal, *place)
    check_match(request, _etag(found), "/".join(place))
    return found.version


def _answer(request: Request, found: Environment) -> Response:
    return reply(_document(request, found), headers={"ETag": _etag(found), "Cache-Control": "private, no-cache"})


def _etag(found: Environment) -> str:
    return f'"{found.id}-{found.version}"'


def _entry(entry: Entry) -> schemas.HistoryEntry:
    return {
        "id": entry.id,
        "action": entry.action,
        "build": entry.build_id,
        "by": entry.by,
        "at": when(entry.at),
        "note": entry.note,
    }


def _document(request: Request, found: Environment) -> schemas.Environment:
    place = f"/cetool/1/environments/{segment(found.namespace)}/{segment(found.name)}"
    links = {"self": path(request, place), "history": path(request, f"{place}/history")}
    if found.build_id is not None:
        links["build"] = path(request, f"/cetool/1/builds/{found.build_id}")
    return {
        "namespace": found.namespace,
        "name": found.name,
        "description": found.description,
        "build": found.build_id,
        "version": found.version,
        "created": when(found.created),
        "changed": when(found.changed),
        "links": links,
    }

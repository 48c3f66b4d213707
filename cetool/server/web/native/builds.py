"""``/cetool/1/builds``: list, show, cancel, rebuild and delete; packages, locks and signed records."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import sqlalchemy as sa
from fastapi import Query, Request
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.lock.model import PlatformLock
from cetool.server import changing
from cetool.server.access import reach
from cetool.server.data import builds as data
from cetool.server.data import locks
from cetool.server.data.builds import Build, BuildQuery
from cetool.server.data.schema import answer as answer_table
from cetool.server.finding import build_for
from cetool.server.web import security
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import Api, Here, Known, Number, Part, reply, server_of, when
from cetool.server.web.urls import path

router = Api(tags=["builds"])
_ONE = "/cetool/1/builds/{number}"
Status = Literal["QUEUED", "BUILDING", "COMPLETED", "FAILED", "CANCELED"]
Platform = Annotated[str | None, Query(max_length=50, description="A subdir; default: the first.")]


@router.on("GET /cetool/1/builds", schemas.Builds)
def list_builds(
    request: Request,
    principal: Known,
    part: Part,
    namespace: Annotated[str | None, Query(max_length=255)] = None,
    name: Annotated[str | None, Query(max_length=255, description="The environment's name.")] = None,
    status: Status | None = None,
    package: Annotated[list[str] | None, Query(max_length=20, description="It must have these packages.")] = None,
) -> Response:
    """List the builds that you may see, the latest first."""
    query = BuildQuery(
        replace(part, descending=True),
        reach(principal),
        namespace,
        name,
        status=status,
        packages=tuple(package or ()),
    )
    with server_of(request).database.read() as tx:
        page = data.listed(tx, query)
    document: schemas.Builds = {"builds": [document_of(request, each) for each in page.rows], "next": page.next}
    return reply(document)


@router.on(f"GET {_ONE}", schemas.Build, errors=[404])
def show_build(request: Request, principal: Known, server: Here, number: Number) -> Response:
    """Show a build."""
    with server.database.read() as tx:
        found = build_for(tx, principal, number)
    return reply(document_of(request, found))


@router.on(f"POST {_ONE}/cancel", schemas.Build, errors=[404])
def cancel_build(request: Request, principal: Known, server: Here, number: Number) -> Response:
    """Cancel a build. One that has ended stays as it is."""
    security.note(request, "build.cancel", f"build {number}")
    return reply(document_of(request, changing.cancel_build(server, principal, number)))


@router.on(f"DELETE {_ONE}", schemas.Changed, errors=[404, 409])
def delete_build(
    request: Request,
    principal: Known,
    server: Here,
    number: Number,
    force: Annotated[bool, Query(description="Let its environment use the previous build.")] = False,
) -> Response:
    """Delete a build in every state, but not one that an environment points to, unless forced."""
    freed = changing.delete_build(server, principal, number, force=force)
    security.note(request, "build.delete", f"build {number}", freed=freed.bytes)
    document: schemas.Changed = {"freed": freed.bytes}
    return reply(document)


@router.on(f"GET {_ONE}/packages", schemas.Packages, errors=[404])
def list_packages(principal: Known, server: Here, number: Number, platform: Platform = None) -> Response:
    """List the exact packages of a build."""
    with server.database.read() as tx:
        lock = lock_of(tx, build_for(tx, principal, number), platform)
    conda: list[schemas.Package] = [
        {
            "kind": "conda",
            "name": each.name,
            "version": each.version,
            "build": each.build,
            "subdir": each.subdir,
            "url": each.url,
            "sha256": each.sha256,
            "md5": each.md5,
            "size": each.size,
            "depends": list(each.depends),
        }
        for each in lock.conda
    ]
    pypi: list[schemas.Package] = [
        {
            "kind": "pypi",
            "name": each.name,
            "version": each.version,
            "build": "",
            "subdir": "",
            "url": each.url,
            "sha256": each.sha256,
            "md5": None,
            "size": None,
            "depends": list(each.requires),
        }
        for each in lock.pypi
    ]
    document: schemas.Packages = {"platform": lock.platform, "lock": lock.digest, "packages": conda + pypi}
    return reply(document)


@router.on(f"GET {_ONE}/record/{{platform}}", schemas.Envelope, more={304: ""}, errors=[404])
def show_record(request: Request, principal: Known, server: Here, number: Number, platform: str) -> Response:
    """Return the signed record of a build's answer for a platform."""
    columns = answer_table.c
    with server.database.read() as tx:
        found = build_for(tx, principal, number)
        wanted = [each.request for each in found.platforms if each.platform == platform]
        chosen = sa.select(columns.record).where(columns.platform == platform, columns.request.in_(wanted))
        stored = tx.scalar(chosen)
        lock = locks.of_build(tx, number).get(platform)
    if stored is None or lock is None:
        raise CetoolError(
            f"build {number} has no record for {platform[:50]}",
            code="not-found",
            about=platform[:50],
            hint="A build has a record for each of its platforms when it has completed.",
        )
    place = None if found.name is None else f"{found.namespace}/{found.name}"
    record = server.answer_of(stored, lock, build=number, environment=place)
    return Response(record, media_type="application/json")


def lock_of(tx: sa.Connection, found: Build, platform: str | None) -> PlatformLock:
    """Return the exact packages of a build. Raises CetoolError (404) if there are none."""
    known = locks.of_build(tx, found.id)
    lock = next(iter(known.values()), None) if platform is None else known.get(platform)
    if lock is None:
        what = "no packages yet" if not known else f"no packages for {(platform or '')[:50]}"
        hint = f"Its platforms are {', '.join(known)}." if known else f"It is {found.status}."
        raise CetoolError(f"build {found.id} has {what}", code="not-found", about=str(found.id), hint=hint)
    return lock


def document_of(request: Request, found: Build) -> schemas.Build:
    """Return a build as JSON."""
    place = f"/cetool/1/builds/{found.id}"
    names = ("log", "events", "packages", "lock")
    return {
        "id": found.id,
        "namespace": found.namespace,
        "name": found.name,
        "status": found.status,
        "reason": found.reason,
        "code": found.code,
        "hint": found.hint,
        "progress": {"stage": found.stage, "done": found.done, "total": found.total, "unit": found.unit},
        "by": found.by,
        "origin": found.origin,
        "profile": found.profile,
        "scheduled": when(found.scheduled),
        "started": when(found.started),
        "ended": when(found.ended),
        "deleted": when(found.deleted),
        "attempts": found.attempts,
        "refresh": found.refresh,
        "size": found.size,
        "platforms": [
            {
                "platform": each.platform,
                "request": each.request,
                "lock": each.lock,
                "realization": each.realization,
            }
            for each in found.platforms
        ],
        "links": {"self": path(request, place), **{name: path(request, f"{place}/{name}") for name in names}},
    }

"""What can be downloaded from builds: logs, lock files, pinned environment files, archives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse

from cetool.server.artifacts import Archives, Wanted, lock_file, pinned_yaml
from cetool.server.builds import logs
from cetool.server.data import builds as build_rows
from cetool.server.data import locks
from cetool.server.data.builds import BuildPlatform
from cetool.server.data.schema import environment, namespace
from cetool.server.server import Server
from cetool.server.web import security
from cetool.server.web.conda_store.builds import Number, find
from cetool.server.web.conda_store.forms import Here, Route, Who, deprecated, missing, permit, refusal
from cetool.server.web.downloads import Download

router = APIRouter(route_class=Route)
#: Bytes of a log that are sent.
_LOG = 50_000_000


@router.get("/api/v1/build/{build_id}/logs/")
def get_log(here: Here, who: Who, build_id: Number) -> Response:
    """Return the log so far."""
    with here.database.read() as tx:
        row = find(tx, who, build_id)
    data, _, _ = logs.read(here.config.data, build_id, 0, _LOG)
    return PlainTextResponse(data + _in_words(row).encode())


def _in_words(row: Any) -> str:
    """Return how a build ended in the words of conda and conda-store, which programs look for in logs."""
    if row.status == "COMPLETED":
        return "\nPreparing transaction: done\nExecuting transaction: done\n"
    if row.status == "CANCELED":
        return f"\nbuild {row.id} marked as CANCELED due to being canceled from the REST API\n"
    return f"\n{row.reason}\n" if row.status == "FAILED" and row.reason else ""


@router.get("/api/v1/build/{build_id}/yaml/")
def get_yaml(here: Here, who: Who, build_id: Number) -> Response:
    """Return the exact packages as an ``environment.yml``; of this server's platform, if there are several."""
    with here.database.read() as tx:
        row = find(tx, who, build_id)
        found = locks.of_build(tx, build_id)
        platforms = build_rows.platforms_of(tx, build_id)
    if not found:
        raise missing(f"Build {build_id} doesn't have packages: it is {row.status}")
    locked = found.get(here.world.platform) or next(iter(found.values()))
    text = pinned_yaml(locked, row.name or f"build-{build_id}", _variables(platforms))
    return PlainTextResponse(text)


@router.get("/api/v1/build/{build_id}/lockfile/")
@router.get("/api/v1/build/{build_id}/conda-lock.yml")
@router.get("/api/v1/build/{build_id}/conda-lock.yaml")
def get_lock_file(here: Here, who: Who, build_id: Number) -> Response:
    """Return the exact packages as a conda-lock file in JSON."""
    with here.database.read() as tx:
        return _lock_file(tx, find(tx, who, build_id))


@router.get("/api/v1/environment/{namespace}/{environment_name}/lockfile/")
@router.get("/api/v1/environment/{namespace}/{environment_name}/conda-lock.yml")
@router.get("/api/v1/environment/{namespace}/{environment_name}/conda-lock.yaml")
def get_environment_lock_file(
    here: Here,
    who: Who,
    space: Annotated[str, Path(alias="namespace")],
    name: Annotated[str, Path(alias="environment_name")],
    build_id: Annotated[int | None, Query()] = None,
) -> Response:
    """Return the lock file of an environment's current build, or of the named one."""
    permit(who, "environment::read", space, name)
    current = sa.select(environment.c.build_id).join(namespace, namespace.c.id == environment.c.namespace_id)
    with here.database.read() as tx:
        found = tx.execute(current.where(namespace.c.name == space, environment.c.name == name)).one_or_none()
        if found is None:
            raise missing("environment does not exist")
        number = build_id if build_id is not None else found.build_id
        if number is None:
            raise missing("build id does not exist")
        return _lock_file(tx, find(tx, who, number))


def _lock_file(tx: sa.Connection, row: Any) -> Response:
    found = locks.of_build(tx, row.id)
    if not found:
        raise missing(f"Build {row.id} doesn't have a lockfile: it is {row.status}")
    return PlainTextResponse(lock_file(tuple(found.values())))


async def _archives(request: Request) -> Archives:
    """Return what writes archives; there is one for the whole server."""
    state = request.app.state
    if not hasattr(state, "archives"):
        server: Server = state.server
        state.archives = Archives(server.config.data, server.world.store)
    found: Archives = state.archives
    return found


def _wanted(request: Request, here: Here, who: Who, build_id: Number) -> tuple[Wanted, Callable[[], bool]]:
    """Return what the archive of a build is written from, and what says whether the caller may still have it."""
    with here.database.read() as tx:
        row = find(tx, who, build_id)
        made = [each for each in build_rows.platforms_of(tx, build_id) if each.realization is not None]
    if not made or row.status != "COMPLETED" or row.deleted is not None:
        raise missing(f"Build {build_id} doesn't have an archive")
    place = (row.namespace or "*", (row.namespace and row.name) or "*")
    allowed = partial(security.still_allowed, request, who, "environment::read", *place)
    return Wanted(str(made[0].realization), _variables(made)), allowed


def _variables(platforms: Sequence[BuildPlatform]) -> tuple[tuple[str, str], ...]:
    """Return the variables that a build was asked for."""
    found: dict[str, str] = next(((each.spec or {}).get("variables", {}) for each in platforms), {})
    return tuple(sorted(found.items()))


@router.get("/api/v1/build/{build_id}/archive/")
async def get_archive(
    request: Request,
    build_id: Number,
    found: Annotated[tuple[Wanted, Callable[[], bool]], Depends(_wanted)],
    archives: Annotated[Archives, Depends(_archives)],
) -> Response:
    """Return the environment as a ``.tar.gz``, which is written when it is first asked for."""
    wanted, allowed = found
    path = await archives.get(wanted)
    answer = Download(request, path, etag=f'"{path.name}"', kind="application/gzip", allowed=allowed)
    answer.headers["Content-Disposition"] = f'attachment; filename="build-{build_id}.tar.gz"'
    return answer


@router.get("/api/v1/build/{build_id}/installer/")
def get_installer(here: Here, who: Who, build_id: Number) -> Response:
    """Say that there are no installers: conda-store's solve again, so they can differ from the build."""
    with here.database.read() as tx:
        find(tx, who, build_id)
    raise refusal(f"Build {build_id} doesn't have an installer")


@router.get("/api/v1/build/{build_id}/docker/")
def get_docker(here: Here, who: Who, build_id: Number) -> Response:
    """Say that there are no container images; conda-store's own were dropped in 2025."""
    with here.database.read() as tx:
        find(tx, who, build_id)
    return deprecated(_no_image(build_id))


def _no_image(build_id: int) -> Response:
    text = f"Build {build_id} doesn't have a docker manifest"
    return Response(f'{{"status":"error","message":"{text}"}}', 400, media_type="application/json")

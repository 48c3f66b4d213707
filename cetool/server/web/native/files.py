"""What a client downloads of a build: archives of packages by digest, and lock files."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import sqlalchemy as sa
from fastapi import Path, Query, Request
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.declare.environment import EnvironmentSpec
from cetool.lock.conda_lock import write_conda_lock
from cetool.lock.explicit import write_explicit
from cetool.lock.model import Lock, PlatformLock
from cetool.lock.pixi import write_pixi_lock
from cetool.server import artifacts
from cetool.server.data import builds, locks
from cetool.server.data.builds import Build
from cetool.server.data.schema import build_platform
from cetool.server.data.schema import lock as lock_table
from cetool.server.finding import build_for
from cetool.server.web import security
from cetool.server.web.downloads import Download
from cetool.server.web.native.builds import lock_of
from cetool.server.web.native.routes import Api, Here, Known, Number, unchanged

router = Api(tags=["builds"])
Sha256 = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
_Format = Literal["conda-lock", "pixi", "explicit", "environment"]


@router.on(
    "GET /cetool/1/blobs/{number}/{sha256}/{file}",
    "application/octet-stream",
    more={206: "application/octet-stream", 304: ""},
    errors=[404, 416],
)
def download_package(
    request: Request,
    principal: Known,
    server: Here,
    number: Number,
    sha256: Sha256,
    file: Annotated[str, Path(max_length=500, description="The archive's name; any.")],
) -> Response:
    """Download the archive of a package of a build, whole or a range of it.

    404 also means that the server does not keep it: get it from its channel.
    """
    with server.database.read() as tx:
        found = build_for(tx, principal, number)
        known = _has_package(tx, number, sha256)
    path = server.files.blob(sha256) if known else None
    if path is None:
        raise CetoolError(f"build {number} has no archive with the digest {sha256}", code="not-found", about=sha256)
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, max-age=31536000, immutable"}
    if unchanged(request, etag):
        return Response(status_code=304, headers=headers)
    allowed = partial(
        security.still_allowed, request, principal, "environment::read", found.namespace, found.name or "*"
    )
    answer = Download(request, path, etag=etag, kind="application/octet-stream", allowed=allowed)
    answer.headers.update(headers)
    return answer


def _has_package(tx: sa.Connection, number: int, sha256: str) -> bool:
    """Return whether a package of a build has this digest, without reading its whole lock here."""
    chosen = (
        sa.select(sa.literal(1))
        .select_from(build_platform.join(lock_table, lock_table.c.digest == build_platform.c.lock))
        .where(build_platform.c.build_id == number)
        .where(sa.cast(lock_table.c.content, sa.Text).contains(f'"{sha256}"'))
    )
    return tx.execute(chosen.limit(1)).first() is not None


@router.on("GET /cetool/1/builds/{number}/lock", "text/plain", errors=[404])
def show_lock(
    principal: Known,
    server: Here,
    number: Number,
    format: Annotated[_Format, Query(description="conda-lock and pixi have all platforms.")] = "conda-lock",
    platform: Annotated[str | None, Query(max_length=50, description="A subdir; default: the first.")] = None,
) -> Response:
    """Return the packages of a build as a lock file."""
    with server.database.read() as tx:
        found = build_for(tx, principal, number)
        chosen = lock_of(tx, found, platform)
        every = tuple(locks.of_build(tx, number).values())
        specs = {each.platform: each.spec for each in builds.platforms_of(tx, number)}
    text = _text(format, found, chosen, every, EnvironmentSpec.from_dict(dict(specs[chosen.platform] or {})))
    return Response(text, media_type="text/plain; charset=utf-8")


def _text(
    format: _Format, found: Build, chosen: PlatformLock, every: tuple[PlatformLock, ...], spec: EnvironmentSpec
) -> str:
    if format == "explicit":
        return write_explicit(chosen)
    if format == "environment":
        return artifacts.pinned_yaml(chosen, found.name or f"build-{found.id}", spec.variables)
    plain = Lock(tuple(each._replace(request=None) for each in every), artifacts.channels_of(every))
    if format == "pixi":
        return write_pixi_lock(plain)
    return write_conda_lock(plain)

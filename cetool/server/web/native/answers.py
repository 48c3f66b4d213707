"""``/cetool/1/answers``: the signed answer to a request, and uploads of locks that clients solved."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Path, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.server.access import Principal, reach, within
from cetool.server.data import answers as data
from cetool.server.data import locks
from cetool.server.server import Server
from cetool.server.web.native import schemas
from cetool.server.web.native.memory import Found, Memory
from cetool.server.web.native.routes import Api, known, reply, unchanged
from cetool.server.web.security import COOKIE
from cetool.server.web.urls import path

router = Api(tags=["answers"])
Platform = Annotated[str, Path(max_length=50, description="A subdir such as linux-64.")]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="The digest of the canonical specification.")]
_READY: dict[int, type | str] = {202: schemas.Running, 304: ""}


@router.on("GET /cetool/1/answers/{platform}/{digest}", schemas.Envelope, more=_READY, errors=[404])
async def answer(request: Request, platform: Platform, digest: Digest) -> Response:
    """Return the signed answer to a request: exact packages for one platform.

    202 means that a build is running; ask again after Retry-After, or follow its events. The answer is readable with
    the right to read an environment or a namespace that has a build of the request.
    """
    server: Server = request.app.state.server
    memory = _memory_of(request)
    generation = memory.generation()
    key = (request.headers.get("authorization"), request.cookies.get(COOKIE), platform, digest)
    found = memory.get(key)
    if found is None:
        found = await run_in_threadpool(_look, request, server, platform, digest)
        memory.put(key, found, generation)
    request.state.user = found.user
    return _answer(request, server, found)


def _answer(request: Request, server: Server, found: Found) -> Response:
    if found.status == 404:
        server.counts.add("answers", "miss")
        raise CetoolError("the server has no answer to this request", code="not-found")
    if found.status == 202:
        server.counts.add("answers", "running")
        events = path(request, f"/cetool/1/builds/{found.build}/events")
        document: schemas.Running = {"build": found.build, "events": events}
        return reply(document, 202, {"Retry-After": "1"})
    headers = {"ETag": found.etag, "Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}
    if unchanged(request, found.etag):
        server.counts.add("answers", "not_modified")
        return Response(status_code=304, headers=headers)
    server.counts.add("answers", "hit")
    return Response(found.body, 200, headers, "application/json")


def _look(request: Request, server: Server, platform: str, digest: str) -> Found:
    """Look into the database. Raises CetoolError for a request without a token."""
    principal = known(request)
    seen = reach(principal)

    def readable(build: data.Behind | data.Answer) -> bool:
        return within(seen, build.namespace, build.environment or "*")

    with server.database.read() as tx:
        found = data.find(tx, platform, digest)
        if found is not None and readable(found):
            return _hit(principal, found.build_id, found.record)
        other = None if found is None else next(filter(readable, reversed(data.builds(tx, platform, digest))), None)
        if found is not None and other is not None:
            place = None if other.environment is None else f"{other.namespace}/{other.environment}"
            lock = locks.of_build(tx, other.build_id)[platform]
            record = server.answer_of(found.record, lock, build=other.build_id, environment=place)
            return _hit(principal, other.build_id, record)
        running = next(filter(readable, data.unfinished(tx, platform, digest)), None)
    if running is not None:
        return Found(202, principal.name, build=running.build_id, expires=principal.expires)
    return Found(404, principal.name, expires=principal.expires)


def _hit(principal: Principal, build: int, record: str) -> Found:
    body = record.encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Found(200, principal.name, etag, body, build, principal.expires)


def _memory_of(request: Request) -> Memory:
    state = request.app.state
    if getattr(state, "answers", None) is None:
        state.answers = Memory(state.server.database)
    found: Memory = state.answers
    return found

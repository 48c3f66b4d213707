"""``/cetool/1/events``: what happens to environments and builds, as server-sent events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from cetool.server.access import Principal, reach
from cetool.server.data import events
from cetool.server.data.events import Event
from cetool.server.server import Server
from cetool.server.web import security
from cetool.server.web.native.routes import MOST, Api, Here, Known, when
from cetool.server.web.native.streams import Last, Pulse, Source, comment, event, stream

router = Api(tags=["events"])
After = Annotated[int | None, Query(ge=0, le=MOST, description="The event to continue from; default: the latest.")]


@router.on("GET /cetool/1/events", "text/event-stream", errors=[429])
def follow_events(request: Request, principal: Known, server: Here, last: Last, after: After = None) -> Response:
    """Follow what happens to the environments and builds that you may see.

    Each event has its kind, such as `build.completed` or `environment.moved`, and a number to continue from.
    """
    start = last if last is not None else after
    if start is None:
        with server.database.read() as tx:
            start = events.latest(tx)
    return stream(request, principal, _follow(request, principal, start))


async def _follow(request: Request, principal: Principal, after: int) -> Source:
    server: Server = request.app.state.server
    async with server.news.subscribe("events") as news:
        pulse = Pulse(news)
        while not news.closed:
            found = await run_in_threadpool(_next, request, principal, after)
            if found is None:
                return
            rows, after = found
            for each in rows:
                pulse.said()
                yield event(each.kind, _document(each), each.id)
            if not rows and await pulse.wait():
                yield comment()


def _next(request: Request, principal: Principal, after: int) -> tuple[list[Event], int] | None:
    """Return the next events and where to continue; None if the client has lost all rights."""
    server: Server = request.app.state.server
    current = security.login_of(request).current(principal)
    if not current.authenticated and not current.grants:
        return None
    with server.database.read() as tx:
        return events.following(tx, after, reach(current))


def _document(each: Event) -> dict[str, Any]:
    return {
        "id": each.id,
        "at": when(each.at),
        "kind": each.kind,
        "namespace": each.namespace,
        "environment": each.environment,
        "build": each.build_id,
        "data": dict(each.data),
    }

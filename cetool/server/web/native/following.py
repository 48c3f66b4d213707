"""Logs and events: a build's log as text, and what clients follow as server-sent events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.server.access import Principal
from cetool.server.builds import logs
from cetool.server.data.builds import Build
from cetool.server.finding import build_for
from cetool.server.server import Server
from cetool.server.web import security
from cetool.server.web.native.routes import MOST, Api, Here, Known, Number
from cetool.server.web.native.streams import Last, Pulse, Source, comment, event, stream

router = Api(tags=["builds"])
#: Bytes of a log in one answer or event.
_AT_ONCE, _PER_EVENT = 1 << 20, 1 << 16
#: Bytes of a character.
_CHARACTER = 4
Offset = Annotated[int, Query(ge=0, le=MOST, description="The byte to start at.")]


@router.on("GET /cetool/1/builds/{number}/log", "text/plain", errors=[404, 429])
def show_log(
    request: Request, principal: Known, server: Here, number: Number, last: Last, offset: Offset = 0
) -> Response:
    """Return a build's log from a byte on, up to 1 MiB; `X-Next-Offset` is where to continue.

    With `Accept: text/event-stream` it is followed until the build ends.
    """
    with server.database.read() as tx:
        found = build_for(tx, principal, number)
    if "text/event-stream" in request.headers.get("accept", ""):
        return stream(request, principal, _Following(request, principal, found.id, last or offset, log_only=True).run())
    data, following, _ = logs.read(server.config.data, number, offset, _AT_ONCE)
    headers = {"X-Next-Offset": str(following), "X-Build-Status": found.status}
    return Response(data, headers=headers, media_type="text/plain; charset=utf-8")


@router.on("GET /cetool/1/builds/{number}/events", "text/event-stream", errors=[404, 429])
def follow_build(
    request: Request, principal: Known, server: Here, number: Number, last: Last, offset: Offset = 0
) -> Response:
    """Follow a build: events `status`, `progress` and `log`, and `end` with the reason. IDs are offsets of the log."""
    with server.database.read() as tx:
        found = build_for(tx, principal, number)
    return stream(request, principal, _Following(request, principal, found.id, last or offset, log_only=False).run())


class _Following:
    """Follows one build for one client."""

    def __init__(self, request: Request, principal: Principal, number: int, offset: int, *, log_only: bool) -> None:
        self._request = request
        self._principal = principal
        self._number = number
        self._offset = offset
        self._log_only = log_only
        self._shown: dict[str, Any] = {}

    async def run(self) -> Source:
        """Yield events until the build ends, the server stops, or the client loses the right to see it."""
        server: Server = self._request.app.state.server
        async with server.news.subscribe(f"build:{self._number}") as news:
            pulse = Pulse(news)
            while not news.closed:
                build, data = await run_in_threadpool(self._look)
                if build is None:
                    return
                if not self._log_only:
                    for kind, changed in self._changes(build):
                        pulse.said()
                        yield event(kind, changed)
                if data:
                    pulse.said()
                    yield event("log", {"text": data.decode("utf-8", "replace"), "next": self._offset}, self._offset)
                    if len(data) > _PER_EVENT - _CHARACTER:
                        continue
                if build.is_finished:
                    yield event("end", {name: getattr(build, name) for name in ("status", "reason", "code", "hint")})
                    return
                if await pulse.wait():
                    yield comment()

    def _look(self) -> tuple[Build | None, bytes]:
        """Return the build as it is now, and the next part of its log; None if it may not be seen any more."""
        server: Server = self._request.app.state.server
        current = security.login_of(self._request).current(self._principal)
        with server.database.read() as tx:
            try:
                build = build_for(tx, current, self._number)
            except CetoolError:
                return None, b""
        # the log after the state: what a build printed before its end is shown before its end
        data, after, _ = logs.read(server.config.data, self._number, self._offset, _PER_EVENT)
        whole = _whole(data)
        self._offset = after - len(data) + len(whole)
        return build, whole

    def _changes(self, build: Build) -> list[tuple[str, dict[str, Any]]]:
        """Return the events for what has changed since it was shown."""
        state: dict[str, dict[str, Any]] = {
            "status": {"status": build.status, "attempts": build.attempts, "reason": build.reason},
            "progress": {"stage": build.stage, "done": build.done, "total": build.total, "unit": build.unit},
        }
        if build.stage is None:
            del state["progress"]
        found = [(kind, data) for kind, data in state.items() if self._shown.get(kind) != data]
        self._shown.update(state)
        return found


def _whole(data: bytes) -> bytes:
    """Return the bytes without the beginning of a character at their end."""
    for back in range(1, min(_CHARACTER, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-back] if back < length and len(data) > back else data
        if byte < 0x80:
            break
    return data

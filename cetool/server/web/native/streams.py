"""Server-sent events: what clients follow, in bounded numbers, with heartbeats; who does not read is disconnected."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cetool.base.errors import CetoolError
from cetool.server.access import Principal
from cetool.server.news import Subscription
from cetool.server.server import Server

#: Seconds after which a silent stream says that it is alive.
HEARTBEAT = 15.0
#: Seconds between two looks without news: other processes change the database too.
LOOK = 2.0
#: Seconds that a client may take to read what was sent.
_SLOW = 20.0
#: Streams of one user: fifty programs may wait for the same environment, in two places.
_OF_A_USER = 100
#: A stream's text, as it is sent.
Source = AsyncGenerator[bytes, None]


class Places:
    """Counts streams, of all and of each user."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of_a_user = min(_OF_A_USER, most)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, user: str) -> Callable[[], None]:
        """Take a place, and return what gives it back. Raises CetoolError (429)."""
        with self._lock:
            if self._counts.total() >= self._most or self._counts[user] >= self._of_a_user:
                raise CetoolError(
                    f"{user} follows too many logs and events",
                    code="rate-limited",
                    about=user,
                    hint="Close other streams, or ask for the log without following it.",
                )
            self._counts[user] += 1
        given = threading.Lock()

        def give_back() -> None:
            if given.acquire(blocking=False):
                with self._lock:
                    self._counts[user] -= 1
                    if not self._counts[user]:
                        del self._counts[user]

        return give_back


def places_of(request: Request) -> Places:
    """Return the places for streams of the server."""
    state = request.app.state
    if getattr(state, "places", None) is None:
        state.places = Places(state.server.config.streams)
    found: Places = state.places
    return found


def event(kind: str, data: Any, number: int | None = None) -> bytes:
    """Return one event: its kind, its data as JSON, and the number from which a client continues."""
    lines = [] if number is None else [f"id: {number}"]
    lines += [f"event: {kind}", f"data: {json.dumps(data, separators=(',', ':'))}", "", ""]
    return "\n".join(lines).encode()


def comment() -> bytes:
    """Return a heartbeat, which clients ignore."""
    return b": alive\n\n"


class Pulse:
    """Waits for news, and says when a silent stream has to show that it is alive."""

    def __init__(self, news: Subscription) -> None:
        self._news = news
        self._said = time.monotonic()

    def said(self) -> None:
        """Note that something was sent."""
        self._said = time.monotonic()

    async def wait(self) -> bool:
        """Wait until it is time to look again; return whether a heartbeat is due."""
        await self._news.wait(LOOK)
        if time.monotonic() - self._said < HEARTBEAT:
            return False
        self.said()
        return True


class EventStream(Response):
    """Sends a source until it ends, the client leaves or does not read, or the time is over."""

    media_type = "text/event-stream"

    def __init__(self, source: Source, end: Callable[[], None], *, most: float) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._end = end
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        following: asyncio.Future[bytes | None] = gone  # type: ignore[assignment]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            # says hello, so that clients and proxies know at once that they are connected
            await self._send(send, b"retry: 2000\n\n")
            loop = asyncio.get_running_loop()
            until = loop.time() + self._most
            while loop.time() < until and not gone.done():
                following = asyncio.ensure_future(anext(self._source, None))
                await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED, timeout=until - loop.time())
                chunk = following.result() if following.done() else None
                if chunk is None or gone.done():
                    break
                await self._send(send, chunk)
            await self._send(send, b"", more=False)
        except asyncio.TimeoutError:
            return  # the client does not read: the connection is closed without an end
        finally:
            self._end()
            for task in (gone, following):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await self._source.aclose()

    async def _send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        await asyncio.wait_for(send({"type": "http.response.body", "body": data, "more_body": more}), _SLOW)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def last_event(request: Request) -> int | None:
    """Return the number that a client continues from (Last-Event-ID)."""
    given = request.headers.get("last-event-id", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else None


#: The parameter of a route whose stream can be continued.
Last = Annotated[int | None, Depends(last_event)]


def stream(request: Request, principal: Principal, source: Source) -> Response:
    """Answer with a stream. Raises CetoolError (429) if there are too many."""
    server: Server = request.app.state.server
    place = places_of(request).take(principal.name)
    return EventStream(source, place, most=server.config.stream_timeout)

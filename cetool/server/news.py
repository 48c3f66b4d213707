"""News: wakes threads and streams of this process when something changes. The truth is in the database."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator


class News:
    """Passes wake-ups by topic, such as ``build:7`` and ``events``. A missed one only delays: callers look again."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._counts: dict[str, int] = {}
        self._streams: dict[str, set[Subscription]] = {}
        self.closed = False

    def publish(self, topic: str) -> None:
        """Wake all that wait for the topic; from any thread, without waiting."""
        with self._condition:
            self._counts[topic] = self._counts.get(topic, 0) + 1
            if len(self._counts) > _MOST_TOPICS:  # those who wait see a change, look, and wait again
                self._counts.clear()
            self._condition.notify_all()
            streams = tuple(self._streams.get(topic, ()))
        for stream in streams:
            stream.wake()

    def wait(self, topic: str, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the next wake-up; return whether there was one."""
        with self._condition:
            before = self._counts.get(topic)
            self._condition.wait_for(lambda: self.closed or self._counts.get(topic) != before, timeout)
            return self._counts.get(topic) != before

    @contextlib.asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[Subscription]:
        """Listen to a topic from now on. Subscribe, then look into the database, then wait."""
        stream = Subscription(self, asyncio.get_running_loop())
        with self._condition:
            self._streams.setdefault(topic, set()).add(stream)
        try:
            yield stream
        finally:
            with self._condition:
                rest = self._streams[topic]
                rest.discard(stream)
                if not rest:
                    del self._streams[topic]

    def close(self) -> None:
        """End all streams and waits: the server stops."""
        with self._condition:
            self.closed = True
            self._condition.notify_all()
            streams = [stream for each in self._streams.values() for stream in each]
        for stream in streams:
            stream.wake()


#: Topics whose wake-ups are counted at once.
_MOST_TOPICS = 10_000


class Subscription:
    """Waits for the wake-ups of one topic in an event loop."""

    def __init__(self, news: News, loop: asyncio.AbstractEventLoop) -> None:
        self._news = news
        self._loop = loop
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Wake what waits, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing to wake
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; return whether there was a wake-up since the last call."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._event.wait(), timeout)
        woken = self._event.is_set()
        self._event.clear()
        return woken

    @property
    def closed(self) -> bool:
        """Whether the server stops, and the stream has to end."""
        return self._news.closed

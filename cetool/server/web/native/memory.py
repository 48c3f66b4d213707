"""What was answered since the database last changed, so that equal questions cost microseconds.

An answer depends on who asks. What is kept here is dropped as soon as any process commits anything.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, replace
from typing import Any

from cetool.server.data.database import Database

#: Answers that are kept, and the bytes of their records together.
_MOST, _MOST_BYTES = 10_000, 32 << 20
#: Seconds that an answer is kept at most: with each look, the last use of the token is noted.
_LONGEST = 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """What one asker gets for one request."""

    #: 200, 202 or 404.
    status: int
    user: str
    etag: str = ""
    body: bytes = b""
    build: int = 0
    #: Seconds since 1970; None for a token that does not expire.
    expires: float | None = None


class Memory:
    """Keeps answers; only for the thread of the event loop."""

    def __init__(self, database: Database) -> None:
        self._changes = database.version()
        self._kept: dict[tuple[Any, ...], tuple[float, Found]] = {}
        #: The records by entity tag: once for all who ask.
        self._bodies: dict[str, bytes] = {}
        self._size = 0
        self._version = -1
        self._generation = 0

    def generation(self) -> int:
        """Return a number that grows when the database changes, and drop what was kept before."""
        try:
            version = self._changes()
        except sqlite3.Error:  # the look into the database that follows reports it
            version = -1
        if version != self._version or version == -1 or len(self._kept) > _MOST or self._size > _MOST_BYTES:
            self._version = version
            self._generation += 1
            self._kept.clear()
            self._bodies.clear()
            self._size = 0
        return self._generation

    def get(self, key: tuple[Any, ...]) -> Found | None:
        """Return what was found for a key; call :meth:`generation` first."""
        kept = self._kept.get(key)
        return None if kept is None or kept[0] < time.time() else kept[1]

    def put(self, key: tuple[Any, ...], found: Found, generation: int) -> None:
        """Keep what was found, if the database has not changed since the look into it began."""
        if generation == self._generation:
            until = time.time() + _LONGEST
            if found.body:
                body = self._bodies.setdefault(found.etag, found.body)
                self._size += len(body) if body is found.body else 0
                found = replace(found, body=body)
            self._kept[key] = (until if found.expires is None else min(until, found.expires), found)

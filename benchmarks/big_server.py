"""Serve a channel over HTTP on loopback: ``python -m benchmarks.big_server DIRECTORY PORT``, until its input ends.

The first part of a path says how: ``fresh`` (answers may be kept for an hour), ``stale`` (must be checked each time),
``slow`` (as fresh, each answer 25 ms late); ``plain`` and ``stale-plain`` have no shards. It knows ETags and ranges;
``/-/count`` returns the number of requests and the bytes sent since the last time it was asked.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

from benchmarks.big_channel import archive

#: Seconds by which the slow answers are late.
DELAY = 0.025
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Server:
    """An ASGI application that serves the files in ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests = 0
        self.bytes = 0

    async def __call__(self, scope: dict[str, Any], receive: object, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        _, how, *rest = scope["path"].split("/")
        if how == "-":
            body = json.dumps({"requests": self.requests, "bytes": self.bytes}).encode()
            self.requests = self.bytes = 0
            await _answer(send, 200, body, {})
            return
        if how == "slow":
            await asyncio.sleep(DELAY)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status, body, more = self._found(how, self.root.joinpath(*rest), headers)
        self.requests += 1
        self.bytes += len(body)
        await _answer(send, status, body if scope["method"] != "HEAD" else b"", more)

    def _found(self, how: str, path: Path, asked: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if ".." in path.parts or ("plain" in how and "shard" in str(path)):
            return 404, b"", {}
        try:
            if path.suffix == ".conda":
                data, tag = archive(path.name, path.parent.name), f'"{path.stem}"'
            else:
                data, status = path.read_bytes(), path.stat()
                tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        except OSError:
            return 404, b"", {}
        age = "max-age=0, must-revalidate" if how.startswith("stale") else "max-age=3600"
        headers = {"ETag": tag, "Cache-Control": age, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if asked.get("if-none-match") == tag:
            return 304, b"", headers
        kind, _, wanted = asked.get("range", "").partition("=")
        first, _, last = wanted.partition("-")
        if kind != "bytes" or not first.isdigit() or "," in wanted:
            return 200, data, headers
        end = min(int(last) + 1 if last.isdigit() else len(data), len(data))
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        return 206, data[int(first) : end], headers


async def _answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    if status != 304:
        pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until standard input ends."""
    application: Any = Server(Path(sys.argv[1]).resolve())
    settings = uvicorn.Config(application, port=int(sys.argv[2]), log_level="warning", lifespan="off")

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
    uvicorn.Server(settings).run()


if __name__ == "__main__":
    main()

"""Send files: whole or in part (RFC 9110, section 14), for as long as the client may have them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cetool.base.errors import CetoolError

#: Bytes that are read at once, and after which the right to read is checked again.
_CHUNK, _CHECK = 1 << 18, 1 << 20
#: Seconds that a client may take to read a chunk.
_SLOW = 60.0
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Download(Response):
    """Sends a file that may be removed meanwhile. ``allowed`` says whether the client may still have it; it blocks.

    Raises CetoolError: ``not-found`` if there is no such file, ``range-invalid`` for a range outside of it.
    """

    def __init__(self, request: Request, path: Path, *, etag: str, kind: str, allowed: Callable[[], bool]) -> None:
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed when it has been sent
        except OSError:
            raise CetoolError(f"{path.name} is not kept any more", code="not-found", about=path.name) from None
        self._size = os.fstat(self._file.fileno()).st_size
        try:
            part = _part(request, self._size, etag)
        except CetoolError:
            self._file.close()
            raise
        self._at, self._end = part or (0, self._size)
        self._allowed = allowed
        headers = {"Accept-Ranges": "bytes", "ETag": etag}
        if part is not None:
            headers["Content-Range"] = f"bytes {self._at}-{self._end - 1}/{self._size}"
        super().__init__(None, 200 if part is None else 206, headers, kind)
        self.headers["content-length"] = str(self._end - self._at)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            unchecked = 0
            while self._at < self._end:
                if unchecked >= _CHECK:
                    unchecked = 0
                    if not await run_in_threadpool(self._allowed):
                        return  # the connection is closed before the end
                data = await run_in_threadpool(self._read)
                if not data:
                    return
                unchecked += len(data)
                message = {"type": "http.response.body", "body": data, "more_body": self._at < self._end}
                await asyncio.wait_for(send(message), _SLOW)
            if self._size == 0:
                await send({"type": "http.response.body", "body": b""})
        except asyncio.TimeoutError:
            return
        finally:
            self._file.close()

    def _read(self) -> bytes:
        self._file.seek(self._at)
        data = self._file.read(min(_CHUNK, self._end - self._at))
        self._at += len(data)
        return data


def _part(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """Return the bytes that a client asks for: from and up to; None for all, and for what is not one range."""
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    wanted = request.headers.get("if-range")
    if match is None or match[0] == "bytes=-" or (wanted is not None and wanted != etag):
        return None
    if match[1]:
        start = int(match[1])
        end = min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    else:
        start, end = max(0, size - int(match[2])), size
    if start >= end:
        raise CetoolError(f"the file has {size} bytes", code="range-invalid", about=match[0])
    return start, end

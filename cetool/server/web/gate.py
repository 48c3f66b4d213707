"""What every request passes first: proxy headers, host, prefix, limits of the body; and what every answer gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cetool.base.errors import CetoolError
from cetool.base.limits import in_words, parse_json
from cetool.server.server import Server
from cetool.server.web.errors import OnError, RequestError, defect, status_of

#: What pages may load and do, unless a part sets a policy of its own.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
#: Methods that are counted by name; clients can send any.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: Characters of a path and its query.
_LONGEST = 16 << 10
#: Bytes of a body without a token, of one that a thread checks, and of all bodies that arrive at once.
_UNKNOWN, _LARGE, _ALL = 100 << 10, 256 << 10, 96 << 20
#: Larger bodies than this are not read at all: the connection is closed.
_DISCARDED = 64 << 20
#: Seconds in which the next part of a body has to arrive, and all of it.
_PATIENCE, _LONGEST_BODY = 30.0, 600.0
_LOOPBACK = re.compile(r"(localhost|.+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._~\[\]:-]{1,300}")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded", b"text/")


class Gate:
    """The outermost part of the application."""

    def __init__(self, app: ASGIApp, server: Server, on_error: OnError) -> None:
        self._app = app
        self._server = server
        self._on_error = on_error
        config = server.config
        self._prefix = config.url_prefix.rstrip("/")
        self._behind_proxy = config.behind_proxy
        self._limit = config.body_size
        self._anonymous = config.anonymous_access
        self._arriving = 0
        self._hosts = frozenset(map(str.lower, config.hosts))
        self._loopback_only = not config.behind_proxy and _LOOPBACK.fullmatch(_bracketed(config.host)) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        if scope["method"] == "HEAD":  # the same as GET, and uvicorn leaves the body out
            scope, receive = {**scope, "method": "GET"}, _nothing
        headers = dict(scope["headers"])
        scope["state"] = state = dict(scope.get("state", ()))
        state["request_id"] = self._request_id(headers)
        answer = _Answer(send, time.perf_counter(), state["request_id"])
        try:
            if self._behind_proxy:
                _follow_proxy(scope, headers)
            if len(scope["raw_path"]) + len(scope["query_string"]) > _LONGEST:
                raise RequestError(f"the address is longer than {in_words(_LONGEST)}")
            self._check_host(headers.get(b"host", b"").decode("latin-1"))
            self._strip_prefix(scope)
            whole = await self._with_body(scope, headers, receive)
            if whole is not None:
                await self._app(scope, whole, answer.send)
        except CetoolError as error:
            await self._refuse(scope, error, answer)
        except Exception as error:
            self._server.journal.defect(error, path=scope["path"], request=state["request_id"])
            await self._refuse(scope, defect(), answer)
        finally:
            self._note(scope, answer)

    async def _refuse(self, scope: Scope, error: CetoolError, answer: _Answer) -> None:
        if answer.status is not None:
            return  # uvicorn closes the connection of an answer that is not complete
        response = self._on_error(Request(scope), error, status_of(error))
        if error.code in ("too-large", "request-late", "rate-limited"):
            response.headers["Connection"] = "close"
        await response(scope, _nothing, answer.send)

    # --- the request --------------------------------------------------------------------------------------------------

    def _request_id(self, headers: Mapping[bytes, bytes]) -> str:
        given = headers.get(b"x-request-id", b"").decode("latin-1") if self._behind_proxy else ""
        return given if _ID.fullmatch(given) else secrets.token_hex(8)

    def _check_host(self, host: str) -> None:
        """Raise CetoolError for another host than this one: a page elsewhere may have pointed its name here."""
        if not _HOST.fullmatch(host):
            raise RequestError(f"the header Host is {host[:100]!r}, which is not a host")
        named = {host.lower(), re.sub(r":\d+$", "", host.lower())}
        known = bool(named & self._hosts) or _LOOPBACK.fullmatch(host) is not None
        if self._loopback_only and not known:
            raise CetoolError(
                f"this server does not answer requests for the host {host!r}",
                code="host-refused",
                about=host,
                hint="Use the address that `cetool serve` printed, or list the host in the server's setting `hosts`.",
            )

    def _strip_prefix(self, scope: Scope) -> None:
        if not self._prefix:
            return
        path = scope["path"]
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            scope["root_path"] = self._prefix
            if path == self._prefix:
                scope["path"] = f"{path}/"
            return
        raise CetoolError(
            f"there is nothing at {path[:200]}", code="not-found", hint=f"The server's pages are at {self._prefix}/."
        )

    async def _with_body(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> Receive | None:
        """Return what yields the whole body, which was read within the limits; None if the client has left."""
        if receive is _nothing:
            return receive
        if b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") in (b"", b"0"):
            return receive
        known = self._anonymous or b"authorization" in headers or b"cookie" in headers
        limit = self._limit if known else min(self._limit, _UNKNOWN)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            if int(length) < _DISCARDED:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_discard(receive), _PATIENCE)
            raise _too_large(limit)
        try:
            body = await asyncio.wait_for(self._read(receive, limit), _LONGEST_BODY)
        except asyncio.TimeoutError:
            raise RequestError("the body did not arrive in time", code="request-late") from None
        if body is None:
            return None
        kind = headers.get(b"content-type", b"").lower()
        if len(body) > _LARGE:  # its check would keep all others waiting
            await run_in_threadpool(_check_body, body, kind)
        else:
            _check_body(body, kind)
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        return replay

    async def _read(self, receive: Receive, limit: int) -> bytes | None:
        """Return a whole body; None if the client has left. Raises CetoolError if it, or all at once, are too large."""
        parts: list[bytes] = []  # one that grows would be copied again and again, and leave holes in the memory
        size = 0
        try:
            while True:
                message = await asyncio.wait_for(receive(), _PATIENCE)
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                self._arriving += len(parts[-1])
                if size > limit:
                    raise _too_large(limit)
                if size > _LARGE and self._arriving > max(_ALL, 2 * self._limit):  # small ones find room
                    raise CetoolError("the server receives too much at once", code="rate-limited", hint="Try again.")
                if not message.get("more_body"):
                    return b"".join(parts)
        finally:
            self._arriving -= size
            parts.clear()  # an error would keep them with its traceback

    # --- the answer ---------------------------------------------------------------------------------------------------

    def _note(self, scope: Scope, answer: _Answer) -> None:
        seconds = time.perf_counter() - answer.since
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._server.counts.request(method, route, answer.status or 0, seconds)
        if not self._server.journal.requests:
            return
        state: MutableMapping[str, Any] = scope["state"]
        client = scope.get("client")
        self._server.journal.write(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=answer.status,
            ms=round(1000 * seconds, 1),
            bytes=answer.size,
            user=state.get("user"),
            address=client[0] if client else None,
            request=state["request_id"],
        )


class _Answer:
    """What is sent: adds the headers that are missing, and counts."""

    def __init__(self, send: Send, since: float, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode("latin-1")
        self.since = since
        self.status: int | None = None
        self.size = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in _HEADERS.items() if name not in present]
            headers.append((b"x-request-id", self._request_id))
            message = {**message, "headers": headers}
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)


async def _discard(receive: Receive) -> None:
    """Read a body without keeping it: many clients read the answer only when they have sent all."""
    more = True
    while more:
        more = (await receive()).get("more_body", False)


def _too_large(limit: int) -> CetoolError:
    return CetoolError(f"the body is larger than {in_words(limit)}", code="too-large")


def _check_body(body: bytes, kind: bytes) -> None:
    """Raise RequestError for JSON with too many levels or values, or with text or numbers that cannot be stored."""
    if kind.startswith(_FORMS):
        return
    try:
        parse_json(body, exact=True)
    except json.JSONDecodeError:  # reported where the body is read, in the form of that part
        return
    except ValueError as error:
        raise RequestError(f"the body cannot be read: {error}") from None


def _follow_proxy(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Take address, scheme and host from what the proxy in front added: the last entry, others may be forged."""
    address = _last(headers.get(b"x-forwarded-for"))
    if address:
        scope["client"] = (address.strip("[]"), 0)
    scheme = _last(headers.get(b"x-forwarded-proto"))
    if scheme in ("http", "https"):
        scope["scheme"] = scheme
    host = _last(headers.get(b"x-forwarded-host"))
    if host and _HOST.fullmatch(host):
        scope["headers"] = [
            *((name, value) for name, value in scope["headers"] if name != b"host"),
            (b"host", host.encode("latin-1")),
        ]


def _last(value: bytes | None) -> str:
    return "" if value is None else value.decode("latin-1").rpartition(",")[2].strip()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


async def _nothing() -> Message:
    return {"type": "http.disconnect"}

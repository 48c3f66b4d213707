"""Send requests to a server over HTTP, within limits: time, size, redirects, headers.

A connection stays open between requests and belongs to one thread. Redirects are not followed: a token must not go
elsewhere. A watch closes the socket of a request that takes too long, however slowly bytes arrive.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

from cetool import __version__
from cetool.base.errors import CODES, CetoolError, Location, UsageError
from cetool.base.limits import KIB, MIB, parse_json
from cetool.base.text import printable, shorten
from cetool.base.urls import redact
from cetool.fetch.addresses import is_loopback, parse_address
from cetool.settings.condarc import Condarc

#: Where the API is below a server's URL.
API = "/cetool/1"
#: Bytes of an answer that is not a package.
_MOST_BYTES = 32 * MIB
_MOST_PROBLEM = 256 * KIB
#: Bytes of a line of a stream of events.
_LONGEST_LINE = 1 * MIB
_CHUNK = 256 * KIB


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds."""

    #: For the connection.
    connect: float = 10.0
    #: For a whole answer that is not streamed.
    answer: float = 60.0
    #: For the next bytes of a stream.
    silence: float = 60.0


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach one server."""

    #: Without a slash at its end.
    url: str
    token: str | None
    condarc: Condarc
    patience: Patience = Patience()

    @property
    def shown(self) -> str:
        """The server's name in messages: host, port and prefix."""
        return self.url.partition("://")[2]


def server_url(text: str, *, insecure: bool = False) -> str:
    """Return a server's URL in canonical form. Raises UsageError for one that cannot be used.

    Plain http is for this machine only, unless ``insecure``.
    """
    parts = urlsplit(text.strip()) if "://" in text else urlsplit(f"https://{text.strip()}")
    address = parse_address(parts.geturl(), "server")
    where = Location(address.shown)
    if address.basic is not None or parts.query or parts.fragment:
        raise UsageError(
            "the URL of a server has no user, password, query or fragment",
            code="url-invalid",
            where=where,
            hint="`cetool login URL` asks for the token.",
        )
    if address.scheme != "https" and not insecure and not is_loopback(address.host):
        raise UsageError(
            "a server must be reached over https://: over http:// its token can be read on the way",
            code="url-invalid",
            where=where,
            hint="Use https:// if the server supports it, or pass --insecure.",
        )
    return address.url.rstrip("/")


class Response:
    """A server's answer; the body is read once."""

    def __init__(self, response: http.client.HTTPResponse, watch: _Watch, access: Access) -> None:
        self._response = response
        self._watch = watch
        self._access = access
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers  # type: ignore[assignment]

    def read(self, limit: int = _MOST_BYTES) -> bytes:
        """Return the body. Raises CetoolError if it is larger than the limit, or if the connection is lost."""
        try:
            data = self._response.read(limit + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise lost(error, self._access, timed_out=self._watch.expired) from None
        finally:
            self._watch.stop()
        if len(data) > limit:
            raise unusable(f"its answer is larger than {limit // MIB or 1} MiB", self._access)
        missing = self._response.length
        if missing or self._watch.expired:
            raise lost(OSError("the connection was lost"), self._access, timed_out=self._watch.expired)
        return data

    def json(self) -> Any:
        """Return the JSON in the body."""
        try:
            return parse_json(self.read())
        except ValueError as error:
            raise unusable(f"its answer is not JSON: {shorten(str(error))}", self._access) from None

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives; each part may take as long as the patience for silence says."""
        self._watch.stop()
        try:
            while data := self._response.read1(_CHUNK):
                yield data
            if self._response.length:
                raise OSError("the connection was lost")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise lost(error, self._access) from None

    def lines(self) -> Iterator[str]:
        """Yield the lines of a stream of text as they arrive, without their ends."""
        rest = b""
        for data in self.chunks():
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace").rstrip("\r")
            if len(rest) > _LONGEST_LINE:
                raise unusable("a line of its answer is too long", self._access)
        if rest:
            yield rest.decode("utf-8", "replace")


class _Watch:
    """Closes a socket after some seconds, unless it is stopped before."""

    def __init__(self, sock: socket.socket | None, seconds: float) -> None:
        self.expired = False
        self._socket = sock
        self._timer = threading.Timer(max(seconds, 0.001), self._expire)
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        self.expired = True
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def stop(self) -> None:
        """Let the socket live."""
        self._timer.cancel()


class Connection:
    """A connection to a server."""

    def __init__(self, access: Access) -> None:
        self.access = access
        #: Seconds that the last connection took, which is about one round trip.
        self.round_trip = 0.0
        #: Whether the server has begun an answer.
        self.answered = False
        self._http: http.client.HTTPConnection | None = None
        self._base = ""

    def close(self) -> None:
        """Close it; the next request opens it again."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def abort(self) -> None:
        """End what another thread does with it."""
        with contextlib.suppress(OSError, AttributeError):
            self._http.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        expects: tuple[int, ...] = (200,),
        streams: bool = False,
    ) -> Response:
        """Send a request to a path below the API, and return the answer if it has one of the expected statuses.

        Raises CetoolError: ``server-unreachable``, ``server-untrusted`` for what no server of cetool would send, and
        what the server itself reports.
        """
        data = None if body is None else json.dumps(body).encode()
        response = self._sent(method, path, data, dict(headers or {}), again=self._http is not None, streams=streams)
        if response.status in expects:
            return response
        if 300 <= response.status < 400:
            self.close()
            raise unusable(f"it redirects to {_told(response.headers.get('Location'))}", self.access)
        problem = _problem(response, self.access)
        self.close()
        raise problem

    def get(self, path: str, **query: object) -> Any:
        """Return the JSON at a path."""
        return self.request("GET", path + query_text(query)).json()

    def _sent(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], *, again: bool, streams: bool
    ) -> Response:
        """Send a request; once more over a new connection if the kept one was closed meanwhile."""
        access = self.access
        deadline = time.monotonic() + access.patience.answer
        headers |= {"User-Agent": f"cetool/{__version__}", "Accept": headers.get("Accept", "application/json")}
        if access.token:
            headers["Authorization"] = f"Bearer {access.token}"
        if data is not None:
            headers["Content-Type"] = "application/json"
        watch: _Watch | None = None
        try:
            connection = self._open()
            watch = _Watch(connection.sock, deadline - time.monotonic())
            connection.request(method, f"{self._base}{API}{path}", data, headers)
            response = Response(connection.getresponse(), watch, access)
            self.answered = True
            if streams:
                watch.stop()
            return response
        except (OSError, http.client.HTTPException, ValueError) as error:
            if watch is not None:
                watch.stop()
            self.close()
            gone = isinstance(error, (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError))
            if again and gone and not (watch is not None and watch.expired):
                return self._sent(method, path, data, headers, again=False, streams=streams)
            raise lost(error, access, timed_out=watch is not None and watch.expired) from None

    def _open(self) -> http.client.HTTPConnection:
        if self._http is not None:
            return self._http
        parts = urlsplit(self.access.url)
        host, patience = parts.hostname or "", self.access.patience
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._base = parts.path
        proxy = _proxy_for(parts.scheme, host, self.access.condarc)
        place = (proxy.hostname or "", proxy.port or 80) if proxy is not None else (host, port)
        if parts.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                *place, timeout=patience.connect, context=self._context
            )
            if proxy is not None:
                connection.set_tunnel(host, port)
        else:
            connection = http.client.HTTPConnection(*place, timeout=patience.connect)
        if proxy is not None and parts.scheme != "https":
            self._base = self.access.url  # proxies want the whole URL
        started = time.monotonic()
        connection.connect()
        self.round_trip = time.monotonic() - started
        connection.sock.settimeout(patience.silence)
        self._http = connection
        return connection

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """The system's certificates, or those of conda's ``ssl_verify``."""
        verify = self.access.condarc.ssl_verify
        named = verify if isinstance(verify, str) and os.path.exists(verify) else None
        named = named or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        context = ssl.create_default_context()
        if verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif named and os.path.exists(named):
            context.load_verify_locations(**{"capath" if os.path.isdir(named) else "cafile": named})
        return context


def query_text(query: Mapping[str, object]) -> str:
    """Return a query string of the values that are not None; a list has its name several times."""
    pairs = [
        (name, str(item))
        for name, value in query.items()
        if value is not None
        for item in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return "?" + "&".join(f"{quote(name)}={quote(item, safe='')}" for name, item in pairs) if pairs else ""


def _proxy_for(scheme: str, host: str, condarc: Condarc) -> Any:
    """Return the URL (split) of the proxy for a host; None for a direct connection."""
    named = any(name.lower().endswith("_proxy") for name in os.environ)
    if is_loopback(host) or not (named or condarc.proxy_servers):
        return None
    from urllib.request import getproxies, proxy_bypass  # takes 10 ms

    proxies = {**condarc.proxy_servers, **getproxies()}
    proxy = proxies.get(scheme) or proxies.get("all")
    return None if not proxy or proxy_bypass(host) else urlsplit(proxy if "://" in proxy else f"http://{proxy}")


# --- errors -----------------------------------------------------------------------------------------------------------


def unusable(problem: str, access: Access) -> CetoolError:
    """Return the error for an answer that no server of cetool would send; ``problem`` says what is wrong with it."""
    return CetoolError(
        f"the answer of {access.shown} cannot be used: {problem}",
        code="server-untrusted",
        about=access.url,
        hint="Check the server's URL with `cetool servers`; its operator can say what answers there.",
    )


def lost(error: Exception, access: Access, *, timed_out: bool = False) -> CetoolError:
    """Return the error for a failed connection."""
    if timed_out or isinstance(error, TimeoutError):
        reason = "no answer in time"
    elif isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not valid: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        reason = f"no secure connection ({(error.reason or 'lost').replace('_', ' ').lower()})"
    elif isinstance(error, http.client.HTTPException) and not isinstance(error, http.client.RemoteDisconnected):
        return unusable(f"it is not HTTP ({type(error).__name__})", access)
    elif isinstance(error, OSError):
        reason = printable(error.strerror or str(error) or type(error).__name__)
    else:
        return unusable(shorten(printable(str(error))), access)
    hint = "Check the network, and that the server runs."
    if isinstance(error, ssl.SSLError):
        hint = "If your network has its own certificate authority, name its file by ssl_verify in .condarc."
    return CetoolError(f"cannot reach {access.shown}: {reason}", code="server-unreachable", about=access.url, hint=hint)


def _problem(response: Response, access: Access) -> CetoolError:
    """Return the error that a server reports (RFC 9457)."""
    status = response.status
    told: Any = {}
    with contextlib.suppress(ValueError, CetoolError):
        told = parse_json(response.read(_MOST_PROBLEM))
    told = told if isinstance(told, dict) else {}
    text = told.get("detail") or told.get("title")
    if status in (502, 503, 504) and not told.get("code"):
        return CetoolError(f"cannot reach {access.shown}: status {status}", code="server-unreachable", about=access.url)
    given = told.get("code")
    hint = _told(told["hint"]) if isinstance(told.get("hint"), str) else None
    if status == 401:
        hint = f"Run `cetool login {access.url}` to store another token."
    details = tuple(_told(each) for each in told.get("details") or () if isinstance(each, str))
    where = told.get("where")
    place = None
    if isinstance(where, dict) and isinstance(where.get("path"), str):
        line = where.get("line")
        place = Location(printable(where["path"]), line if isinstance(line, int) else None)
    return CetoolError(
        _told(text) if isinstance(text, str) and text else f"{access.shown} answers with status {status}",
        code=given if isinstance(given, str) and given in CODES else "server-refused",
        about=_told(told["about"]) if isinstance(told.get("about"), str) else access.url,
        where=place,
        details=details[:200],
        hint=hint,
    )


def _told(text: object) -> str:
    """Return a text of the server as a message may show it."""
    return redact(printable(str(text)[:2000]))

"""``cetool serve``: check, bind, announce, answer, and stop within seconds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from anyio.to_thread import current_default_thread_limiter
from uvicorn.protocols.http.h11_impl import H11Protocol

from cetool.base.errors import CetoolError, ConfigError
from cetool.fetch.addresses import is_loopback
from cetool.server.builds.dispatcher import LocalDispatcher
from cetool.server.config import ServerConfig
from cetool.server.data import accounts
from cetool.server.data.directory import held
from cetool.server.housekeeping import Housekeeping
from cetool.server.journal import Journal
from cetool.server.server import Server, open_server
from cetool.server.watching import Watcher
from cetool.server.web.app import create_app

#: Seconds that answers may take to end when the server stops, and then builds.
_GRACE, _BUILDS_GRACE = 3, 5.0
#: Seconds after which a server that stops ends, whatever still waits.
_LAST = 10.0
#: Seconds that a connection may be idle.
_IDLE = 30
_BACKLOG = 2048
#: Milliseconds after which a connection is closed whose client does not take what was sent.
_UNREAD = 60_000
#: Seconds in which the head of a request has to arrive.
_HEAD = 30.0
#: Requests that are handled at once; those beyond wait.
_THREADS = 64
#: Open files for connections; the usual soft limit is 1024.
_FILES = 65536


def serve(config: ServerConfig, say: Callable[[str], None]) -> None:
    """Serve until a signal says to stop; ``say`` prints a line for the operator.

    Raises CetoolError if the server cannot start: an address or a data directory in use, an address that needs TLS.
    """
    _check_address(config)
    _allow_files()
    with held(config.data), _bound(config) as bound:
        journal = Journal(config.log, requests=config.log_requests)
        server = open_server(config, journal)
        try:
            _run(server, bound, say)
        finally:
            server.close()


def _run(server: Server, bound: socket.socket, say: Callable[[str], None]) -> None:
    http = _Http(server, create_app(server))
    parts = _start_parts(server)
    try:
        for line in _announcement(server, bound):
            say(line)
        gc.freeze()  # what exists now stays: collections need not look at it
        gc.enable()
        http.run(sockets=[bound])
    finally:
        server.news.close()
        for part in reversed(parts):
            part.stop(_BUILDS_GRACE)


def _start_parts(server: Server) -> list[Any]:
    """Start what works in the background, and return it."""
    builders = LocalDispatcher(server, server.config.workers)
    builders.start()
    server.dispatcher = builders
    housekeeping = Housekeeping(server)
    housekeeping.start()
    server.collector = housekeeping
    parts: list[Any] = [builders, housekeeping]
    if server.config.watch:
        watcher = Watcher(server)
        watcher.start()
        parts.append(watcher)
    return parts


def _announcement(server: Server, bound: socket.socket) -> list[str]:
    """Return what the operator has to know: the address, and on the first start the administrator's token."""
    config = server.config
    lines = [f"Serving {config.data} at {address(config, bound)}"]
    with server.database.write() as tx:
        token = accounts.first_token(tx)
        accounts.add_configured(tx, config)
    if token is not None:
        lines.append(f"Administrator token, shown only once: {token}")
    return lines


def address(config: ServerConfig, bound: socket.socket) -> str:
    """Return the URL of the server's pages."""
    port = bound.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{'https' if config.tls_cert else 'http'}://{host}:{port}{config.url_prefix}/"


# --- before the start ---------------------------------------------------------------------------------------------


def _check_address(config: ServerConfig) -> None:
    if is_loopback(config.host) or config.behind_proxy or config.tls_cert is not None:
        return
    raise ConfigError(
        f"other machines can reach {config.host}, and tokens would be sent unencrypted",
        about=config.host,
        hint="Pass `--tls-cert` and `--tls-key`, or `--behind-proxy` if a proxy in front of the server does TLS.",
    )


@contextlib.contextmanager
def _bound(config: ServerConfig) -> Iterator[socket.socket]:
    """Listen on the address."""
    host = config.host.strip("[]")
    bound = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        if os.name != "nt":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # accepted connections inherit it: one whose client does not read is closed after that time
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD)
        bound.bind(place)
        # from now on a second server fails, and early clients wait
        bound.listen(_BACKLOG)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise _unbound(config, error) from None
    with bound:
        yield bound


def _unbound(config: ServerConfig, error: OSError) -> CetoolError:
    place = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        hint = "Stop the program that uses it, or choose another address with `--bind`; port 0 is any free port."
        return CetoolError(f"{place} is in use", code="address-unusable", about=place, hint=hint)
    return CetoolError(
        f"cannot listen on {place}: {error.strerror}",
        code="address-unusable",
        about=place,
        hint="Choose an address of this machine, and a port above 1023, with `--bind`.",
    )


def _allow_files() -> None:
    """Raise the limit of open files, since each connection is one."""
    if os.name == "nt":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# --- HTTP ---------------------------------------------------------------------------------------------------------


class _Protocol(H11Protocol):
    """HTTP/1.1 that does not wait forever for a request, as uvicorn does until the first one is complete."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._late = self.loop.call_later(_HEAD, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request's head, but not for the rest of its body, which is the gate's."""
        super().data_received(data)
        begun = self.conn.their_state is not h11.IDLE
        if begun and self._late is not None:
            self._late.cancel()
            self._late = None
        elif not begun and self._late is None:
            self._late = self.loop.call_later(_HEAD, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _too_late(self) -> None:
        self._late = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.abort()


class _Quiet(logging.Handler):
    """Takes what uvicorn reports; the gate has reported what matters of it."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.ERROR)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write errors of uvicorn itself; to cut an answer on purpose is not an error."""
        text = record.getMessage()
        if not text.startswith(("ASGI callable", "Exception in ASGI", "Cancel ")):
            self._journal.write("http", problem=text)


class _Http(uvicorn.Server):
    """uvicorn, which leaves the process alive when it stops, and tells streams to end."""

    def __init__(self, server: Server, app: Any) -> None:
        config = server.config
        self._news = server.news
        logger = logging.getLogger("uvicorn")
        logger.propagate = False
        logger.handlers = [_Quiet(server.journal)]
        settings = uvicorn.Config(
            app,
            http=_Protocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the gate reads them
            server_header=False,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=_GRACE,
            h11_max_incomplete_event_size=1 << 16,
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
        )
        try:
            settings.load()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"cannot use the certificate {config.tls_cert} with the key {config.tls_key}: {error}",
                about=str(config.tls_cert),
                hint="Both files are PEM; the certificate's file has the whole chain.",
            ) from None
        super().__init__(settings)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT, SIGTERM and the end of the terminal, at a second one without waiting for answers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = ("SIGINT", "SIGTERM", "SIGHUP")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        # under nohup, the end of the terminal stays ignored
        numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Allow more threads than usual, so that requests that wait for the database do not block all others."""
        current_default_thread_limiter().total_tokens = _THREADS
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams first, then wait for answers, and close connections whose clients do not read."""
        self._news.close()
        # a thread that waits for a locked database cannot be interrupted; what it has begun is undone
        last = threading.Timer(_LAST, os._exit, (0,))
        last.daemon = True
        last.start()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        await asyncio.sleep(0)

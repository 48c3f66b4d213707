"""An HTTP server for a directory that can fail like servers of channels do."""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["status", "hang", "slow", "corrupt", "truncate"]


@dataclass(frozen=True)
class Fault:
    """A failure for requests whose path matches the shell pattern (``*.conda``, ``*/repodata.json``).

    ``status`` answers with that status; ``hang`` never answers; ``slow`` takes ``seconds`` for the body; ``corrupt``
    changes bytes in the middle, but not the length; ``truncate`` breaks the connection half-way. The first ``after``
    matching requests are answered correctly.
    """

    pattern: str
    kind: Kind
    status: int = 500
    seconds: float = 1.0
    after: int = 0


@dataclass
class ChannelServer:
    """A running server; set ``token``, ``credentials`` and ``faults`` at any time.

    With a ``token`` only paths below ``/t/TOKEN/`` are answered, with ``credentials`` (user, password) only requests
    with basic authentication. ``requests`` lists the requested paths without ``/t/TOKEN``, and ``authorizations`` the
    header of each. With a ``redirect`` all requests are redirected to that root.
    """

    directory: Path
    port: int = 0
    token: str | None = None
    credentials: tuple[str, str] | None = None
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    redirect: str | None = None
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """The server's root, without credentials."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def secret_url(self) -> str:
        """The server's root with the credentials that it requires: ``http://user:password@127.0.0.1:PORT/t/TOKEN``."""
        user = "" if self.credentials is None else "{}:{}@".format(*self.credentials)
        token = "" if self.token is None else f"/t/{self.token}"
        return f"http://{user}127.0.0.1:{self.port}{token}"

    def count(self, pattern: str) -> int:
        """Return the number of requests for paths that match the pattern."""
        return sum(fnmatch.fnmatch(path, pattern) for path in self.requests)

    def fault(self, path: str) -> Fault | None:
        """Return the fault for a request that was just counted."""
        for fault in self.faults:
            if fnmatch.fnmatch(path, fault.pattern) and self.count(fault.pattern) > fault.after:
                return fault
        return None


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[ChannelServer]:
    """Serve the directory on a free port of 127.0.0.1 until the block ends."""
    state = ChannelServer(directory)

    class Handler(_Handler):
        server_state = state

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore clients that disconnect early."""

    with Server(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            state.closing.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_state: ChannelServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        state = self.server_state
        path = unquote(urlsplit(self.path).path)
        if state.token is not None:
            prefix = f"/t/{state.token}"
            if not path.startswith(prefix + "/"):
                return self._refuse(401)
            path = path[len(prefix) :]
        state.requests.append(path)
        state.authorizations.append(self.headers.get("Authorization"))
        if state.redirect is not None:
            self.send_response(302)
            self.send_header("Location", state.redirect + path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if not self._authorized():
            return self._refuse(401)
        fault = state.fault(path)
        if fault is not None and fault.kind == "hang":
            state.closing.wait()
            self.close_connection = True
            return None
        if fault is not None and fault.kind == "status":
            return self._refuse(fault.status)
        file = state.directory / path.lstrip("/")
        if file.is_dir():
            file /= "index.html"
        if ".." in path.split("/") or not file.is_file():
            return self._refuse(404)
        return self._send(file.read_bytes(), fault)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Do not print requests, which are counted."""

    def _authorized(self) -> bool:
        if self.server_state.credentials is None:
            return True
        wanted = base64.b64encode(":".join(self.server_state.credentials).encode()).decode()
        return self.headers.get("Authorization") == f"Basic {wanted}"

    def _refuse(self, status: int) -> None:
        body = f"status {status}\n".encode()  # conda 26.7 crashes on an error whose body is JSON but not an object
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="channel"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send(self, body: bytes, fault: Fault | None) -> None:
        self.send_response(200)
        kinds = {b"{": "application/json", b"<": "text/html"}
        self.send_header("Content-Type", kinds.get(body[:1], "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        middle = len(body) // 2
        if fault is None:
            self.wfile.write(body)
        elif fault.kind == "corrupt":
            self.wfile.write(
                body[:middle] + bytes(byte ^ 0xFF for byte in body[middle : middle + 8]) + body[middle + 8 :]
            )
        elif fault.kind == "truncate":
            self.wfile.write(body[:middle])
            self.close_connection = True
        else:
            self._trickle(body, fault.seconds)

    def _trickle(self, body: bytes, seconds: float) -> None:
        pieces = 20
        size = len(body) // pieces + 1
        for start in range(0, len(body), size):
            self.wfile.write(body[start : start + size])
            self.wfile.flush()
            if self.server_state.closing.is_set():
                return
            time.sleep(seconds / pieces)

"""A server that signs what tests give it, and can lie: an HTTP server with the routes that a client's runs use."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cetool.declare.platforms import current_platform
from cetool.lock.records import read_installed
from cetool.remote.records import BuildRecord, sealed
from cetool.store.store import read_marker
from support.home import Home

#: What a server does instead of answering a request; it gets the handler.
Trick = Callable[[BaseHTTPRequestHandler], None]
TOKEN = "secret-token-of-tests"


@dataclass
class AnsweringServer:
    """A running server: envelopes by request, files by SHA-256, builds by number, and what was requested."""

    url: str = ""
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    envelopes: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    #: Documents of the API by path, and what happens instead.
    documents: dict[str, Any] = field(default_factory=dict)
    tricks: dict[str, Trick] = field(default_factory=dict)
    #: The requests that are being built.
    running: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    uploads: list[dict[str, Any]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    #: Stops answering.
    close: Callable[[], None] = lambda: None

    @property
    def public(self) -> bytes:
        """The raw public key."""
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def asked(self) -> list[str]:
        """The requests of answers."""
        return [path for path in self.requests if "/answers/" in path]

    def record(self, prefix: Path, build: int = 7, **changes: Any) -> BuildRecord:
        """Return the record of an environment that exists here."""
        marker = read_marker(prefix)
        assert marker is not None
        lock = read_installed(prefix, marker.subdir).lock
        record = BuildRecord(
            marker.spec.digest,
            marker.subdir,
            build,
            marker.spec,
            lock.conda,
            lock.pypi,
            environment="team/base",
            engine="rattler 0",
            created="2026-11-28T12:00:00Z",
            server="tests",
        )
        for package in lock.conda:
            if package.local is not None and package.sha256 is not None:
                self.files[package.sha256] = package.local
        return record._replace(**changes)

    def add(self, record: BuildRecord, request: str | None = None) -> None:
        """Sign a record, and answer a request with it: its own, unless another is given."""
        self.envelopes[request or record.request] = sealed(record, self.public, self.key.sign)

    def log_in(self, home: Home) -> None:
        """Have a user log in."""
        done = home.cetool("login", self.url, "--token", TOKEN)
        assert done.returncode == 0, done.stderr


def answers(server: AnsweringServer, handler: BaseHTTPRequestHandler) -> None:
    """Answer one request."""
    path = handler.path.removeprefix("/cetool/1").partition("?")[0]
    server.requests.append(f"{handler.command} {path}")
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    trick = next((trick for start, trick in server.tricks.items() if path.startswith(start)), None)
    if trick is not None:
        trick(handler)
    elif path == "":
        token = handler.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            send(
                handler,
                {"title": "Unauthorized", "detail": "the token is unknown", "code": "not-authenticated"},
                status=401,
            )
            return
        key = {"id": "", "public": base64.b64encode(server.public).decode()}
        send(handler, {"server": "tests", "version": "0", "key": key, "user": "alice" if token else None})
    elif handler.command == "POST" and path == "/answers":
        server.uploads.append(json.loads(body))
        send(handler, {"build": 8}, status=202)
    elif path in server.documents:
        send(handler, server.documents[path])
    elif path.startswith("/answers/"):
        _answer(server, handler, path.rpartition("/")[2])
    elif path.startswith("/blobs/") and path.split("/")[3] in server.files:
        data = server.files[path.split("/")[3]].read_bytes()
        send(handler, data)
    else:
        send(handler, {"title": "Not Found", "detail": "there is no such thing", "code": "not-found"}, status=404)


def _answer(server: AnsweringServer, handler: BaseHTTPRequestHandler, request: str) -> None:
    envelope = server.envelopes.get(request)
    if envelope is not None:
        etag = f'"{hash(envelope) & 0xFFFFFFFF:x}"'
        if handler.headers.get("If-None-Match") == etag:
            send(handler, b"", status=304, ETag=etag)
        else:
            send(handler, envelope.encode(), ETag=etag)
    elif request in server.running:
        send(handler, {"build": server.running[request], "events": "/"}, status=202)
    else:
        send(handler, {"title": "Not Found", "detail": "no answer", "code": "not-found"}, status=404)


def send(handler: BaseHTTPRequestHandler, body: Any, *, status: int = 200, **headers: str) -> None:
    """Send bytes, or a JSON document."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


@contextlib.contextmanager
def answering(certificate: Path | None = None) -> Iterator[AnsweringServer]:
    """Run such a server until the block ends; over HTTPS with a certificate."""
    server = AnsweringServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answers(server, self)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        server.url = f"http{'' if certificate is None else 's'}://127.0.0.1:{httpd.server_address[1]}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()

        def close() -> None:
            server.closing.set()
            httpd.shutdown()
            thread.join()
            httpd.server_close()

        server.close = close
        try:
            yield server
        finally:
            close()


# --- tricks -----------------------------------------------------------------------------------------------------------


def says_nothing(server: AnsweringServer) -> Trick:
    """Return a trick that never answers."""
    return lambda handler: (bool(server.closing.wait(60)) and None) or None


def drips(server: AnsweringServer, data: bytes) -> Trick:
    """Return a trick that sends a byte at a time."""

    def trick(handler: BaseHTTPRequestHandler) -> None:
        for byte in data:
            if server.closing.is_set():
                return
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.1)

    return trick


def never_ends(server: AnsweringServer) -> Trick:
    """Return a trick that sends a body without an end."""

    def trick(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not server.closing.is_set():
            handler.wfile.write(b'{"payload": "' + b"A" * 1_000_000)

    return trick


def platform() -> str:
    """Return this machine's subdir."""
    return current_platform()

"""Web servers with given answers, over HTTPS with a certificate made here, under the names of real hosts."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = b"#!/usr/bin/env bash\r\necho \xc3\xa4\n"
Answer = Callable[[BaseHTTPRequestHandler], None]
#: Names in the certificate, in addition to 127.0.0.1.
HOSTS = (
    "localhost",
    "github.com",
    "raw.githubusercontent.com",
    "gist.github.com",
    "gist.githubusercontent.com",
    "api.github.com",
    "gitlab.com",
    "codeberg.org",
    "other.example",
)
OPENSSL_CONFIG = f"""
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = localhost
[extensions]
subjectAltName = {",".join(f"DNS:{host}" for host in HOSTS)},IP:127.0.0.1
basicConstraints = critical,CA:TRUE
keyUsage = critical,digitalSignature,keyCertSign
subjectKeyIdentifier = hash
"""


@dataclass
class Server:
    """A running server: ``answers`` by path, or by host and path; ``requests`` as (path, Authorization).

    ``asked`` has the same by host and path, ``headers`` those of the last request.
    """

    url: str
    answers: dict[str, Answer]
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        """Its address on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])


def sends(data: bytes = SCRIPT, *, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    """Return an answer with this body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(data) if length is None else length), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return answer


def sends_if_changed(data: bytes, etag: str) -> Answer:
    """Return an answer with an entity tag, and without a body for clients that know the tag."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        same = request.headers.get("If-None-Match") == etag
        body = b"" if same else data
        sends(body, status=304 if same else 200, ETag=etag)(request)

    return answer


def leads_to(target: str, status: int = 302) -> Answer:
    """Return a redirect."""
    return sends(b"moved", status=status, Location=target)


def mute(server: Server, asked: threading.Event | None = None) -> Answer:
    """Return no answer at all."""

    def answer(_: BaseHTTPRequestHandler) -> None:
        if asked is not None:
            asked.set()
        server.closing.wait()

    return answer


def says(text: bytes) -> Answer:
    """Return exactly these bytes."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(text)

    return answer


@contextlib.contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    """Serve on a free port of 127.0.0.1 until the block ends; over HTTPS with a certificate."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            sent = self.headers.get("Authorization")
            place = f"{self.headers.get('Host', '')}{self.path}"
            state.requests.append((self.path, sent))
            state.asked.append((place, sent))
            state.headers = dict(self.headers.items())
            answer = state.answers.get(place) or state.answers.get(self.path) or sends(b"none", status=404)
            self.close_connection = True
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = False  # server_close waits for it: nothing outlives the test
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
            scheme = "https"
        state = Server(f"{scheme}://127.0.0.1:{httpd.server_address[1]}", {"/s.sh": sends()})
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            state.closing.set()
            httpd.shutdown()
            thread.join()


@contextlib.contextmanager
def tunnelling(server: Server) -> Iterator[str]:
    """Return the URL of a proxy (CONNECT) through which every host's port 443 is this server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                thread = threading.Thread(target=_tunnel, args=(client, server.port))
                thread.start()
                threads.append(thread)

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join()


def _tunnel(client: socket.socket, port: int) -> None:
    with client, contextlib.suppress(OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            part = client.recv(4096)
            if not part:
                return
            head += part
        if not head.startswith(b"CONNECT ") or b":443 " not in head.partition(b"\r\n")[0]:
            client.sendall(b"HTTP/1.1 403 No\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", port)) as inside:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pump, args=(inside, client))
            back.start()
            _pump(client, inside)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def make_certificate(directory: Path) -> Path:
    """Make a file with a key and its self-signed certificate; ``cert.pem`` next to it only has the certificate."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on the PATH to make a certificate with")
    (directory / "config").write_text(OPENSSL_CONFIG)
    made = directory / "both.pem"
    command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -config config -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=directory, check=True, capture_output=True, timeout=60)
    made.write_bytes((directory / "key.pem").read_bytes() + (directory / "cert.pem").read_bytes())
    return made

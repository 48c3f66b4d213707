"""A real server for tests: ``cetool serve`` as a process on a free port, in a scratch home, and requests to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from support.home import Home

_ADDRESS = re.compile(r"Serving .* at (https?://(\S+):(\d+)(\S*)/)$", re.MULTILINE)
_TOKEN = re.compile(r"Administrator token.*: (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8")

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class RunningServer:
    """A server's process. ``token`` is the administrator's, which requests send unless they say otherwise."""

    process: subprocess.Popen[bytes]
    data: Path
    log: Path
    host: str
    port: int
    prefix: str
    token: str
    #: Tokens of other data directories' first starts do not appear again: a restarted server gets this one.
    options: tuple[str, ...] = field(default=())

    @property
    def url(self) -> str:
        """Its address without a slash at the end."""
        return f"http://{self.host}:{self.port}{self.prefix}"

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and return the answer: a body that is not bytes or text is sent as JSON.

        ``token``: empty for the administrator's, None for none.
        """
        sent = {"Accept": "application/json", **(headers or {})}
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {token or self.token}")
        data: bytes | None = None
        if body is not None:
            data = (
                body
                if isinstance(body, bytes)
                else body.encode()
                if isinstance(body, str)
                else json.dumps(body).encode()
            )
            sent.setdefault("Content-Type", "application/json")
        connection = HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, f"{self.prefix}{path}", data, sent)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> Answer:
        """GET a path."""
        return self.request("GET", path, **more)

    def post(self, path: str, body: object = None, **more: Any) -> Answer:
        """POST to a path."""
        return self.request("POST", path, body, **more)

    @contextlib.contextmanager
    def stream(self, path: str, *, token: str | None = "", accept: str = "text/event-stream") -> Iterator[HTTPResponse]:
        """Open a stream of server-sent events."""
        connection = HTTPConnection(self.host, self.port, timeout=60)
        headers = {"Accept": accept}
        if token is not None:
            headers["Authorization"] = f"Bearer {token or self.token}"
        try:
            connection.request("GET", f"{self.prefix}{path}", headers=headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def wait(self, build: int, *, timeout: float = 120) -> dict[str, Any]:
        """Wait until a build has ended, and return it."""
        deadline = time.monotonic() + timeout
        while True:
            found: dict[str, Any] = self.get(f"/cetool/1/builds/{build}").json
            if found["status"] not in ("QUEUED", "BUILDING"):
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"build {build} is {found['status']}: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 20) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def start_server(
    home: Home,
    *options: str,
    data: Path | None = None,
    token: str = "",
    env: Mapping[str, str | None] | None = None,
    timeout: float = 60,
) -> RunningServer:
    """Start a server and return it when it answers; ``token`` is for a data directory that was used before."""
    data = data or home.path / "server"
    log = home.path / f"server-{time.monotonic_ns()}.log"
    words = [str(home.bin / "cetool"), "serve", "--data", str(data), "--bind", "127.0.0.1:0", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, env=home.environment(env), cwd=home.path, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    deadline = time.monotonic() + timeout
    while (found := _ADDRESS.search(log.read_text("utf-8", "replace"))) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError(f"the server did not start: {log.read_text('utf-8', 'replace')}")
        time.sleep(0.02)
    # the token's line follows the address's, and the server answers after both
    host, port = found[2].strip("[]"), int(found[3])
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
            break
        time.sleep(0.02)
    server = RunningServer(process, data, log, host, port, found[4], token, options)
    if not found[1].startswith("https") and server.get("/health", token=None).status != 200:
        server.stop()
        raise RuntimeError(f"the server does not work: {log.read_text('utf-8', 'replace')}")
    first = _TOKEN.search(log.read_text("utf-8", "replace"))
    if first is not None:
        server.token = first[1]
    return server


@contextlib.contextmanager
def running_server(home: Home, *options: str, **more: Any) -> Iterator[RunningServer]:
    """Run a server until the block ends."""
    server = start_server(home, *options, **more)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(20)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
        if os.environ.get("CETOOL_TEST_SERVER_LOG"):
            print(server.log.read_text("utf-8", "replace"))

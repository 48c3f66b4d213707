"""Many connections, clients that do not read or do not speak, and streams."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import psutil
import pytest
from support.home import Home
from support.serving import RunningServer, running_server, start_server


@pytest.fixture(scope="module")
def server(settled: Home) -> Iterator[RunningServer]:
    with running_server(settled, data=settled.path / "connections") as running:
        yield running


def connected(server: RunningServer) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=30)


def events(response: HTTPResponse, count: int) -> list[tuple[str, Any]]:
    """Read this many events of a stream."""
    found: list[tuple[str, Any]] = []
    kind = ""
    while len(found) < count:
        line = response.readline().decode().rstrip("\n")
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((kind, json.loads(line.removeprefix("data: "))))
        assert not response.closed
    return found


def test_a_thousand_idle_connections_do_not_stop_others(server: RunningServer) -> None:
    before = server.get("/cetool/1/builds").json
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connected(server))
        assert server.get("/health", token=None).status == 200
        assert server.get("/cetool/1/builds").json == before


def test_events_are_streamed_and_continued(server: RunningServer) -> None:
    with server.stream("/cetool/1/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        server.post("/cetool/1/namespaces", {"name": "streamed"})
        ((kind, data),) = events(stream, 1)
    assert (kind, data["namespace"]) == ("namespace.created", "streamed")
    server.post("/cetool/1/namespaces", {"name": "later"})
    with server.stream(f"/cetool/1/events?after={data['id']}") as stream:
        ((kind, data),) = events(stream, 1)
    assert (kind, data["namespace"]) == ("namespace.created", "later")


def test_a_stream_ends_when_its_token_is_revoked(server: RunningServer) -> None:
    made = server.post("/cetool/1/tokens", {"name": "short"}).json
    with server.stream("/cetool/1/events", token=made["token"]) as stream:
        server.request("DELETE", f"/cetool/1/tokens/{made['id']}")
        assert b"event:" not in stream.read()


def test_events_that_may_not_be_seen_are_not_sent(server: RunningServer) -> None:
    grants = [{"pattern": "mine/*", "role": "viewer"}]
    made = server.post("/cetool/1/tokens", {"name": "mine", "grants": grants}).json
    with server.stream("/cetool/1/events", token=made["token"]) as stream:
        server.post("/cetool/1/namespaces", {"name": "others"})
        server.post("/cetool/1/namespaces", {"name": "mine"})
        ((_, data),) = events(stream, 1)
    assert data["namespace"] == "mine"


def test_too_many_streams_of_a_user_are_refused(home: Home) -> None:
    with running_server(home, env={"CETOOL_SERVER_STREAMS": "3"}) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            assert stack.enter_context(server.stream("/cetool/1/events")).status == 200
        answer = server.get("/cetool/1/events")
        assert (answer.status, answer.json["code"]) == (429, "rate-limited")
        assert int(answer.headers["retry-after"]) > 0
        stack.close()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with server.stream("/cetool/1/events") as stream:
                if stream.status == 200:
                    return
            time.sleep(0.1)
        raise AssertionError("a closed stream keeps its place")


def test_a_server_stops_in_spite_of_clients_that_do_not_read_or_speak(home: Home) -> None:
    server = start_server(home)
    head = f"GET /cetool/1/events?after=0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for number in range(100):
            connection = stack.enter_context(connected(server))
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                connection.sendall(head.encode())
            else:
                connection.sendall(b"GET / HT")
        for number in range(20):
            server.post("/cetool/1/namespaces", {"name": f"n{number}"})
        assert server.stop() == 0


def test_logs_and_events_that_are_never_read_take_little_memory(server: RunningServer) -> None:
    number = server.post("/cetool/1/requests", {"namespace": "log", "name": "e", "specs": ["hello-bin"]}).json["build"]
    server.wait(number)
    with (server.data / "logs" / f"{number}.log").open("ab") as log:
        log.write((b"01:02:03 " + b"x" * 90 + b"\n") * 200_000)
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    paths = (f"/cetool/1/builds/{number}/log", "/cetool/1/events?after=0")
    with contextlib.ExitStack() as stack:
        for each in range(60):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((server.host, server.port))
            accept = "text/plain" if each % 3 else "text/event-stream"
            head = f"GET {paths[each % 2]} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n"
            connection.sendall(f"{head}Authorization: Bearer {server.token}\r\n\r\n".encode())
        for _ in range(10):
            assert server.get("/cetool/1/builds").status == 200
        assert process.memory_info().rss - before < 100 << 20  # 60 times the log are 1200 MB


def test_equal_requests_at_once_are_all_answered(server: RunningServer) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(server.get("/cetool/1/environments").status)) for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 50

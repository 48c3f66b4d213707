"""What every request passes: hosts, sizes, nesting, headers; and errors in one form."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from support.home import Home
from support.serving import RunningServer, running_server

NAMESPACES = "/cetool/1/namespaces"


@pytest.fixture(scope="module")
def server(settled: Home) -> Iterator[RunningServer]:
    """A server whose bodies may have 100 kB."""
    env = {"CETOOL_SERVER_BODY_SIZE": "100 kB"}
    with running_server(settled, data=settled.path / "gate", env=env) as running:
        yield running


def raw(server: RunningServer, data: bytes, *, most: int = 65536) -> bytes:
    """Send bytes, and return what is answered until the server closes the connection or is silent."""
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        connection.sendall(data)
        found = b""
        while b"\r\n\r\n" not in found and (part := connection.recv(most)):
            found += part
    return found


def test_an_error_is_a_problem_with_a_code(server: RunningServer) -> None:
    """RFC 9457: Members of a Problem Details Object."""
    answer = server.get("/cetool/1/builds/7")
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert (problem["status"], problem["title"], problem["type"]) == (404, "Not Found", "about:blank")
    assert (problem["code"], problem["detail"]) == ("not-found", "there is no build 7")
    assert problem["request_id"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("{", 422, "request-malformed"),
        ("[1, 2]", 422, "request-malformed"),
        ("null", 422, "request-malformed"),
        ('{"name": "a", "colour": "red"}', 422, "request-malformed"),
        ('{"name": 7}', 422, "request-malformed"),
        ('{"name": "a b"}', 400, "request-malformed"),
        ('{"name": ".."}', 400, "request-malformed"),
        ('{"name": "\\ud800"}', 400, "request-malformed"),
        ('{"name": "a", "metadata": {"x": NaN}}', 400, "request-malformed"),
        ('{"name": "a", "metadata": {"x": 1e999}}', 400, "request-malformed"),
        ('{"name": "a", "metadata": {"x": 1' + "0" * 30 + "}}", 400, "request-malformed"),
        ('{"name": "a", "metadata": {"x": ' + "[" * 500 + "]" * 500 + "}}", 400, "request-malformed"),
        (b'{"name": "\xff"}', 400, "request-malformed"),
        ('{"name": "%s"}' % ("a" * 300), 422, "request-malformed"),
        ("[" * 90_000, 400, "request-malformed"),
        ('{"name": "%s"}' % ("a" * 200_000), 413, "too-large"),
    ],
)
def test_a_hostile_body_is_refused(server: RunningServer, body: str | bytes, status: int, code: str) -> None:
    answer = server.post(NAMESPACES, body)
    assert (answer.status, answer.json["code"]) == (status, code), answer.text


def test_a_large_body_needs_a_token(home: Home) -> None:
    with running_server(home) as server:
        body = {"name": "x", "metadata": {"text": "a" * 200_000}}
        assert server.post(NAMESPACES, body, token=None).status == 413
        assert server.post(NAMESPACES, {**body, "metadata": {"text": "a" * 300_000}}).status == 201
        assert server.post(NAMESPACES, body | {"metadata": {"text": "a" * 11_000_000}}).status == 413


def test_a_chunked_body_is_limited_too(server: RunningServer) -> None:
    head = f"POST {NAMESPACES} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n"
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    data = head.encode() + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 10
    assert raw(server, data).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("request_line", "host", "status"),
    [
        ("GET /health HTTP/1.1", "localhost", 200),
        ("GET /health HTTP/1.1", "evil.example", 421),
        ("GET /health HTTP/1.1", "localhost.evil.example", 421),
        ("GET /health HTTP/1.1", "[::1]:80", 200),
        ("GET /health HTTP/1.1", "a/b", 400),
        ("GET /cetool/1/environments/a%2fb/c HTTP/1.1", "localhost", 404),
        ("GET /%00 HTTP/1.1", "localhost", 404),
        ("GET /%ff%fe HTTP/1.1", "localhost", 404),
        ("GET /" + "a" * 10_000 + " HTTP/1.1", "localhost", 404),
        ("GET /" + "a" * 100_000 + " HTTP/1.1", "localhost", 400),
        ("HEAD /health HTTP/1.1", "localhost", 200),
        ("HEAD /cetool/1/events HTTP/1.1", "localhost", 401),
        ("BREW /health HTTP/1.1", "localhost", 405),
        ("GET //health HTTP/1.1", "localhost", 404),
        ("GET http://evil.example/health HTTP/1.1", "localhost", 404),
        ("nonsense", "localhost", 400),
    ],
)
def test_a_hostile_request_gets_an_answer(server: RunningServer, request_line: str, host: str, status: int) -> None:
    answer = raw(server, f"{request_line}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer


def test_answers_protect_pages_of_the_server(server: RunningServer) -> None:
    headers = server.get("/cetool/1").headers
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")
    assert "server" not in headers


def test_a_method_that_a_path_does_not_support_is_named(server: RunningServer) -> None:
    """RFC 9110: Allow."""
    answer = server.request("PUT", "/cetool/1/environments/a/b")
    assert (answer.status, answer.json["code"]) == (405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD, PATCH, DELETE"
    assert server.request("GET", "/cetool/1/requests").headers["allow"] == "POST"


def test_head_has_the_headers_of_get_and_no_body(server: RunningServer) -> None:
    answer = server.request("HEAD", "/cetool/1")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) == len(server.get("/cetool/1").body)
    assert server.request("HEAD", "/cetool/1/events").status == 200


def test_an_unknown_token_gets_401_with_the_reason(server: RunningServer) -> None:
    answer = server.get("/cetool/1/builds", token="cet_unknown")
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json["detail"] == "the token is unknown"


def test_proxy_headers_count_only_behind_a_proxy(home: Home) -> None:
    forged = {"X-Forwarded-For": "10.0.0.1, 10.0.0.2", "X-Forwarded-Host": "team.example", "Host": "inside"}
    with running_server(home, "--behind-proxy", env={"CETOOL_SERVER_LOG_REQUESTS": "true"}) as behind:
        assert behind.get("/health", headers=forged).status == 200
    assert "address=10.0.0.2" in behind.log.read_text()
    with running_server(home, env={"CETOOL_SERVER_LOG_REQUESTS": "true", "CETOOL_SERVER_LOG": "json"}) as front:
        front.get("/cetool/1/builds", headers={"X-Forwarded-For": "10.0.0.1"}, token=behind.token)
    entries = [json.loads(line) for line in front.log.read_text().splitlines() if line.startswith("{")]
    entry = next(each for each in entries if each.get("path") == "/cetool/1/builds")
    assert (entry["address"], entry["status"], entry["user"]) == ("127.0.0.1", 200, "admin")

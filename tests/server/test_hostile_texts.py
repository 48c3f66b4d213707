"""Requests whose text or body is made to harm the server: each gets an answer, and others are answered meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import psutil
import pytest
from support.channel import Channel
from support.home import make_home, remove_home
from support.serving import RunningServer, running_server

MEGABYTE = 1 << 20
LEVELS = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DEPENDENCIES = "dependencies: [hello-bin]\n"

#: What is sent as text, and the code of the answer; None if it is accepted.
TEXTS: dict[str, tuple[str, str | None]] = {
    "aliases that multiply": (f"a: &a [x, x, x]\n{LEVELS}dependencies: *i\n", "yaml-invalid"),
    "an alias within itself": ("dependencies: &a [*a]\n", "yaml-invalid"),
    "a harmless alias": ("x: &x hello-bin\ndependencies: [*x]\n", None),
    "a merged mapping": (f"x: &x {{a: 1}}\ny:\n  <<: *x\n{DEPENDENCIES}", None),
    "half a million packages": ("dependencies:\n" + "- p\n" * 500_000, "too-large"),
    "more packages than allowed": ("dependencies:\n" + "".join(f"- p{n}\n" for n in range(1001)), "too-large"),
    "more PyPI packages than allowed": (
        "dependencies:\n- python\n- pip\n- pip:\n" + "".join(f"  - p{n}\n" for n in range(1001)),
        "too-large",
    ),
    "more variables than allowed": ("variables:\n" + "".join(f"  V{n}: x\n" for n in range(1001)) + DEPENDENCIES, "*"),
    "more channels than allowed": (f"channels: [{', '.join(f'c{n}' for n in range(1001))}]\n{DEPENDENCIES}", "*"),
    "deep lists": ("dependencies: " + "[" * 100_000, "yaml-invalid"),
    "deep blocks": ("".join(" " * n + "- \n" for n in range(500)), "*"),
    "a long name": (f"name: {'a' * 200_000}\n{DEPENDENCIES}", None),
    "a long spec": (f"dependencies: [{'a' * 200_000}]\n", "match-spec-invalid"),
    "a long text": (f"{'#' * 5 * MEGABYTE}\n{DEPENDENCIES}", "too-large"),
    "a long script": (f"# conda execute\n# env: [{'hello-bin, ' * 20_000}]\n", "*"),
    "a script with many blocks": ("# /// script\n" * 100_000, "*"),
    "a deep block": (f"# /// script\n# dependencies = {'[' * 10_000}\n# ///\n", "*"),
    "NUL": (f"{DEPENDENCIES}\0", "yaml-invalid"),
    "an escaped NUL": ('dependencies: ["hello-bin\\0"]\n', "block-malformed"),
    "a surrogate": ('dependencies: ["\\ud800"]\n', "match-spec-invalid"),
    "an escape for terminals": ('dependencies: ["hello-bin\\x1b[31m"]\n', "block-malformed"),
    "an object of Python": ("dependencies: !!python/object/apply:os.system [id]\n", "yaml-invalid"),
    "a key twice": (f"{DEPENDENCIES}{DEPENDENCIES}", "block-malformed"),
    "a long number": (f"dependencies: [{'9' * 100_000}]\n", "block-malformed"),
    "no text": ("dependencies: [null, true, {pip: null}, []]\n", "block-malformed"),
    "a list as a key": (f"? [a, b]\n: c\n{DEPENDENCIES}", "block-malformed"),
    "a mapping for a list": ("dependencies: {hello-bin: 1}\n", "block-malformed"),
    "many spaces": (f"dependencies: ['hello-bin{' ' * 100_000}!']\n", "match-spec-invalid"),
    "many brackets": (f"dependencies: ['{'a[' * 50_000}']\n", "match-spec-invalid"),
    "many versions": (f"dependencies: ['python >={'1.*|' * 50_000}']\n", "match-spec-invalid"),
    "many documents": ("---\n" * 50_000 + DEPENDENCIES, "*"),
    "many lines of a lock": ("@EXPLICIT\n" + "https://conda.example/noarch/a-1-0.conda\n" * 10_000, "*"),
    "many packages of a lock": ("version: 1\nmetadata: {}\npackage:\n" + "- {name: a}\n" * 10_000, "*"),
    "many marks of byte order": ("\ufeff" * 1000 + DEPENDENCIES, "*"),
    "a variable for the linker": ("variables: {LD_PRELOAD: /x.so, 'A=B': c}\n" + DEPENDENCIES, "*"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, local_channel: Channel) -> Iterator[RunningServer]:
    home = make_home(tmp_path_factory.mktemp("texts") / "home", local_channel)
    with running_server(home, "--workers", "0") as running:
        yield running
    remove_home(home)


@contextlib.contextmanager
def others(server: RunningServer) -> Iterator[list[int]]:
    """Ask the server again and again meanwhile; give the statuses of the answers."""
    statuses: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            statuses.append(server.get("/cetool/1/environments").status)
            ended.wait(0.05)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        thread.join()


def test_hostile_texts_are_refused_with_a_sentence_or_do_no_harm(server: RunningServer) -> None:
    before = psutil.Process(server.process.pid).memory_info().rss
    wrong = []
    with others(server) as statuses:
        for what, (text, code) in TEXTS.items():
            answer = server.post("/cetool/1/requests", {"namespace": "team", "name": "x", "text": text})
            found = answer.json
            assert answer.status in (200, 202) or (400 <= answer.status < 500 and found["detail"]), (what, answer.text)
            if code not in ("*", found.get("code")):
                wrong.append((what, answer.text[:200]))
            assert len(answer.body) < 20_000, what
            with contextlib.suppress(KeyError):
                assert not any(ord(char) < 32 for char in found["detail"]), what
    assert not wrong
    assert set(statuses) == {200}
    assert psutil.Process(server.process.pid).memory_info().rss - before < 200 * MEGABYTE
    assert "event=defect" not in server.log.read_text("utf-8", "replace")


def test_bodies_that_never_end_take_a_bounded_amount_of_memory(server: RunningServer) -> None:
    head = f"POST /cetool/1/requests HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n"
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    refused = 0
    with contextlib.ExitStack() as stack, others(server) as statuses:
        for _ in range(50):  # 9 of the allowed 10 MB, and no end
            connection = stack.enter_context(socket.create_connection((server.host, server.port), timeout=30))
            with contextlib.suppress(ConnectionError):
                connection.sendall(head.encode() + b"Content-Length: 9999999\r\n\r\n" + b" " * 9_000_000)
        for _ in range(3):  # pieces without an end
            connection = stack.enter_context(socket.create_connection((server.host, server.port), timeout=30))
            with contextlib.suppress(ConnectionError):
                connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(2000):
                    connection.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
                refused -= 1
            refused += 1
        assert process.memory_info().rss - before < 250 * MEGABYTE
    assert refused == 3
    assert statuses and set(statuses) == {200}
    text = json.dumps({"namespace": "team", "name": "later", "specs": ["hello-bin"]})
    assert server.post("/cetool/1/requests", text).status == 202


def test_clients_that_send_one_byte_at_a_time_do_not_stop_others(server: RunningServer) -> None:
    line = b"GET /cetool/1/environments HTTP/1.1\r\nHost: localhost\r\nX-Slow: aaaa"
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=30)) for _ in range(200)
        ]
        for index in range(len(line)):
            for connection in slow:
                connection.send(line[index : index + 1])
            if index % 16 == 0:
                assert server.get("/cetool/1/environments").status == 200
        slow[0].sendall(b"\r\nAuthorization: Bearer " + server.token.encode() + b"\r\n\r\n")
        assert slow[0].recv(12) == b"HTTP/1.1 200"

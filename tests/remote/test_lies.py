"""A server that lies, or does not answer, costs a warning and no more than a moment: cetool solves here."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.answering import AnsweringServer, answering, drips, never_ends, says_nothing, send
from support.home import Home

from cetool.remote.records import BuildRecord


def another_request(server: AnsweringServer, record: BuildRecord) -> None:
    server.add(record._replace(request="0" * 64), request=record.request)


def another_platform(server: AnsweringServer, record: BuildRecord) -> None:
    server.add(record._replace(platform="osx-arm64"))


def wrong_signature(server: AnsweringServer, record: BuildRecord) -> None:
    server.add(record)
    envelope = json.loads(server.envelopes[record.request])
    envelope["payload"] = base64.b64encode(base64.b64decode(envelope["payload"]).replace(b"hello-bin", b"sax")).decode()
    server.envelopes[record.request] = json.dumps(envelope)


def another_key(server: AnsweringServer, record: BuildRecord) -> None:
    key = Ed25519PrivateKey.generate()
    server.key = key
    server.add(record)


def no_digests(server: AnsweringServer, record: BuildRecord) -> None:
    server.add(record._replace(conda=tuple(each._replace(sha256=None, md5=None) for each in record.conda)))


def no_packages(server: AnsweringServer, record: BuildRecord) -> None:
    server.add(record._replace(conda=()))


def not_json(server: AnsweringServer, record: BuildRecord) -> None:
    server.tricks["/answers/"] = lambda handler: send(handler, b"<html>")


def redirect(server: AnsweringServer, record: BuildRecord) -> None:
    server.tricks["/answers/"] = lambda handler: send(handler, b"", status=307, Location="http://127.0.0.1:9/")


def huge_headers(server: AnsweringServer, record: BuildRecord) -> None:
    def trick(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000)

    server.tricks["/answers/"] = trick


def endless_body(server: AnsweringServer, record: BuildRecord) -> None:
    server.tricks["/answers/"] = never_ends(server)


def refused_token(server: AnsweringServer, record: BuildRecord) -> None:
    problem = {"detail": "the token was revoked", "code": "not-authenticated"}
    server.tricks["/answers/"] = lambda handler: send(handler, problem, status=401)


LIES: dict[Callable[[AnsweringServer, BuildRecord], None], str] = {
    another_request: "its answer is about another request",
    another_platform: "its answer is for osx-arm64",
    wrong_signature: "the answer's signature is wrong",
    another_key: "signs with another key than the one that `cetool login` stored",
    no_digests: "its answer has no digest for",
    no_packages: "its answer has no packages",
    not_json: "the answer is malformed",
    redirect: "it redirects to http://127.0.0.1:9/",
    huge_headers: "it is not HTTP",
    endless_body: "its answer",
    refused_token: "the token was revoked",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_lie_is_one_warning_and_cetool_solves_here(
    answers: AnsweringServer, solved: BuildRecord, member: Home, lie: Callable[[AnsweringServer, BuildRecord], None]
) -> None:
    lie(answers, solved)
    done = member.cetool("create", "hello-bin")
    assert done.returncode == 0, done.stderr
    warning, created = done.stderr.splitlines()
    assert warning.startswith("cetool: warning: ") and LIES[lie] in warning
    assert created.startswith("Created ") and created.endswith("with rattler")
    # it is not asked again for a minute, and so does not warn again
    answers.requests.clear()
    assert "warning" not in member.cetool("create", "hello-bin", "--refresh").stderr
    assert answers.requests == []


def test_a_server_that_does_not_answer_is_not_asked_again_for_a_minute(
    answers: AnsweringServer, solved: BuildRecord, member: Home
) -> None:
    answers.tricks["/answers/"] = says_nothing(answers)
    done = member.cetool("create", "-v", "hello-bin")
    assert done.returncode == 0, done.stderr
    assert "does not answer; not tried again for a minute" in done.stderr
    done = member.cetool("create", "-v", "--refresh", "hello-bin")
    assert "did not answer a moment ago, and is not asked" in done.stderr
    assert len(answers.asked) == 1


def test_a_server_that_is_down_is_reported_with_verbose_only(home: Home) -> None:
    with answering() as server:
        server.log_in(home)
    [created] = home.cetool("create", "hello-bin").stderr.splitlines()
    assert created.startswith("Created ") and created.endswith("with rattler")
    done = home.cetool("create", "-v", "--refresh", "hello-bin")
    assert "did not answer a moment ago, and is not asked" in done.stderr


def test_an_answer_that_drips_is_given_up(answers: AnsweringServer, solved: BuildRecord, member: Home) -> None:
    answers.tricks["/answers/"] = drips(answers, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"a" * 1000)
    done = member.cetool("create", "-v", "hello-bin")
    assert done.returncode == 0, done.stderr
    assert "not tried again for a minute" in done.stderr


def test_a_changed_package_comes_from_the_channel(answers: AnsweringServer, solved: BuildRecord, member: Home) -> None:
    answers.add(solved)
    answers.tricks["/blobs/"] = lambda handler: send(handler, b"something else")
    done = member.cetool("create", "hello-bin")
    assert done.returncode == 0, done.stderr
    warning, created = done.stderr.splitlines()
    assert "has another SHA-256 than the signed one; fetching from the channels" in warning or "is larger" in warning
    assert f"from {answers.url.removeprefix('http://')}" in created


def test_packages_that_nobody_has_are_solved_again_here(
    answers: AnsweringServer, solved: BuildRecord, member: Home
) -> None:
    gone = tuple(each._replace(url=each.url.replace("hello-", "hallo-"), sha256="1" * 64) for each in solved.conda)
    answers.add(solved._replace(conda=gone))
    done = member.cetool("create", "hello-bin")
    assert done.returncode == 0, done.stderr
    assert "cannot be used" in done.stderr and "with rattler" in done.stderr


def test_a_download_that_breaks_off_continues_where_it_was(
    answers: AnsweringServer, solved: BuildRecord, member: Home
) -> None:
    """RFC 9110, 14.2: Range."""
    answers.add(solved)
    [package] = solved.conda
    assert package.sha256 is not None
    data = answers.files[package.sha256].read_bytes()
    ranges: list[str | None] = []

    def breaks_off(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        ranges.append(asked)
        if asked is None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data[:100])
            handler.close_connection = True
        else:
            send(handler, data[int(asked.removeprefix("bytes=").removesuffix("-")) :], status=206)

    answers.tricks["/blobs/"] = breaks_off
    member.condarc.write_text("channel_alias: http://127.0.0.1:9\nchannels: [conda-forge]\n")
    done = member.cetool("create", "hello-bin")
    assert done.returncode == 0, done.stderr
    assert ranges == [None, "bytes=100-"]

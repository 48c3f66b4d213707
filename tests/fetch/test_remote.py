"""Scripts from URLs: only complete scripts, over secure connections, within limits, without showing secrets."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from support.web import SCRIPT, Answer, Server, leads_to, make_certificate, mute, says, sends, serving

import cetool.base.errors
from cetool.base.errors import EXIT_FAILURE, EXIT_NOT_FOUND, EXIT_USAGE, CetoolError
from cetool.declare.source import MAX_SIZE, is_url
from cetool.fetch.scripts import fetch_script


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def http() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a self-signed certificate."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def https(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.parent / "cert.pem"))
    with serving(certificate) as server:
        yield server


def refused(url: str, status: int = EXIT_FAILURE, *, insecure: bool = True, timeout: float = 10.0) -> CetoolError:
    with pytest.raises(CetoolError) as caught:
        fetch_script(url, insecure=insecure, timeout=timeout)
    assert caught.value.exit_status == status and caught.value.hint and caught.value.where is not None
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_a_script_is_fetched_unchanged_over_https(https: Server) -> None:
    fetched = fetch_script(f"{https.url}/s.sh#L3")
    assert (fetched.url, fetched.data, fetched.name) == (f"{https.url}/s.sh", SCRIPT, "s.sh")
    assert https.requests == [("/s.sh", None)]


def test_an_untrusted_certificate_is_refused(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", str(certificate.parent / "none"))
    with serving(certificate) as server:
        error = refused(f"{server.url}/s.sh")  # --insecure is about http://, not about this
        assert "certificate of 127.0.0.1 is not valid" in error.message and "SSL_CERT_FILE" in str(error.hint)
        assert server.requests == []


def test_plain_http_needs_insecure(http: Server) -> None:
    error = refused(f"{http.url}/s.sh", EXIT_USAGE, insecure=False)
    assert "--insecure" in str(error.hint) and http.requests == []
    assert fetch_script(f"{http.url}/s.sh", insecure=True).data == SCRIPT


def test_redirects_stay_within_https(https: Server, http: Server) -> None:
    https.answers["/down"] = leads_to(f"{http.url}/s.sh")
    https.answers["/file"] = leads_to("file:///etc/passwd")
    https.answers["/nowhere"] = leads_to("https://host:99999/s.sh")
    error = refused(f"{https.url}/down", insecure=False)
    assert f"{http.url}/s.sh, which is not an https" in error.message and http.requests == []
    assert fetch_script(f"{https.url}/down", insecure=True).url == f"{http.url}/s.sh"
    for path in ("file", "nowhere"):
        assert "redirects to an invalid address" in refused(f"{https.url}/{path}").message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(http: Server, status: int) -> None:
    http.answers["/short"] = leads_to("a/b%20c.py?x=1", status)
    http.answers["/a/b%20c.py?x=1"] = sends()
    fetched = fetch_script(f"{http.url}/short", insecure=True)
    assert (fetched.url, fetched.name) == (f"{http.url}/a/b%20c.py?x=1", "b c.py")


def test_the_number_of_redirects_is_limited(http: Server) -> None:
    for number in range(6):
        http.answers[f"/{number}"] = leads_to(f"/{number + 1}")
    http.answers["/6"] = sends()
    assert fetch_script(f"{http.url}/1", insecure=True).data == SCRIPT
    assert "more than 5" in refused(f"{http.url}/0").message
    http.answers["/loop"] = leads_to("/loop")
    assert "too many redirects" in refused(f"{http.url}/loop").message


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (sends(status=404), EXIT_NOT_FOUND, "the script was not found on"),
        (sends(status=401), EXIT_FAILURE, "refuses access"),
        (sends(status=503), EXIT_FAILURE, "status 503"),
        (sends(status=302), EXIT_FAILURE, "status 302"),
        (sends(Content_Type="Text/HTML; charset=utf-8"), EXIT_FAILURE, "web page"),
        (sends(b"\n <!DOCTYPE HTML><html># conda execute"), EXIT_FAILURE, "web page"),
        (sends(Content_Encoding="gzip"), EXIT_FAILURE, "compressed"),
        (sends(length=len(SCRIPT) + 9), EXIT_FAILURE, f"was lost after {len(SCRIPT)} of"),
        (sends(length=MAX_SIZE + 1), EXIT_FAILURE, "larger than 10 MiB"),
        (says(b"SSH-2.0-x\r\n"), EXIT_FAILURE, "a valid HTTP response"),
        (says(b""), EXIT_FAILURE, "was lost"),
    ],
)
def test_answers_without_a_script_are_refused(http: Server, answer: Answer, status: int, message: str) -> None:
    http.answers["/x"] = answer
    assert message in refused(f"{http.url}/x", status).message


def test_the_size_is_limited_even_if_the_header_is_wrong(http: Server) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not http.closing.is_set():
            request.wfile.write(b"#" * 65536)

    http.answers |= {"/endless": endless, "/most": sends(b"#" * MAX_SIZE)}
    assert "larger than" in refused(f"{http.url}/endless").message
    assert len(fetch_script(f"{http.url}/most", insecure=True).data) == MAX_SIZE


def test_chunks_are_joined_and_a_missing_last_chunk_is_detected(http: Server) -> None:
    def chunked(*pieces: bytes) -> Answer:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            for piece in pieces:
                request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

        return answer

    http.answers |= {"/whole": chunked(b"echo", b" 1\n", b""), "/half": chunked(b"rm -r /tmp", b"/x")}
    assert fetch_script(f"{http.url}/whole", insecure=True).data == b"echo 1\n"
    assert "was lost" in refused(f"{http.url}/half").message


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["header", "body"])
def test_a_server_that_sends_byte_by_byte_times_out(http: Server, head: bytes) -> None:
    def dribble(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(head or b"HTTP/1.1 200 OK\r\n")
        while not http.closing.wait(0.02):
            request.wfile.write(b"x")

    http.answers["/slow"] = dribble
    assert "took longer than 1 second" in refused(f"{http.url}/slow", timeout=0.25).message


def test_a_silent_server_times_out(http: Server) -> None:
    http.answers["/mute"] = mute(http)
    assert "did not answer within 0.2 seconds" in refused(f"{http.url}/mute", timeout=0.2).message


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_stops_a_download_at_once(http: Server) -> None:
    asked = threading.Event()
    http.answers["/mute"] = mute(http, asked)
    code = f"from cetool.fetch.scripts import fetch_script; fetch_script('{http.url}/mute', insecure=True, timeout=600)"
    environ = {**os.environ, "PYTHONPATH": str(Path(cetool.base.errors.__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environ, stderr=subprocess.PIPE)
    try:
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert b"KeyboardInterrupt" in said and process.returncode == -signal.SIGINT
    finally:
        process.kill()
        process.communicate()


def test_a_password_is_sent_only_to_its_host_and_never_shown(http: Server) -> None:
    with serving() as other:
        secret = http.url.replace("//", "//us%40er:p%2Fw@")
        expected = "Basic " + base64.b64encode(b"us@er:p/w").decode()
        http.answers |= {"/near": leads_to("/s.sh"), "/far": leads_to(f"{other.url}/s.sh")}
        for path, end in (("s.sh", http), ("near", http), ("far", other)):
            assert fetch_script(f"{secret}/{path}", insecure=True).url == f"{end.url}/s.sh"
        assert {sent for _, sent in http.requests} == {expected}
        assert other.requests == [("/s.sh", None)]
        http.answers["/no"] = sends(status=401)
        for error in (
            refused(f"{secret}/no"),
            refused(f"{secret}/no", EXIT_USAGE, insecure=False),
            refused("https://user:p%2Fw@nowhere.invalid/x", timeout=2.0),
            refused("https://user:p%2Fw@host:port/x", EXIT_USAGE),
            refused("https://user:a/p%2Fw@host/x", EXIT_USAGE),
            refused("https://user:a@p%2Fw@ho st/x", EXIT_USAGE),
            refused("ftp://user:p%2Fw@host/x", EXIT_USAGE),
            refused(f"{http.url}/x?token=p%2Fw", EXIT_NOT_FOUND),
            refused(f"{http.url}/x?a=b&X-Amz-Signature=p%2Fw", EXIT_NOT_FOUND),
        ):
            assert not re.search(r"p%2Fw|p/w|user", f"{error} {error.hint}".replace("USER:PASSWORD", ""))


def test_connection_errors_are_distinguished(http: Server) -> None:
    assert "no secure connection" in refused(http.url.replace("http:", "https:") + "/s.sh").message
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but not listening
        assert "refused the connection" in refused(f"http://127.0.0.1:{free.getsockname()[1]}/s").message
    # without a network, a name server may not answer
    assert re.search("cannot find the address|took longer", refused("https://cetool.invalid/s.py", timeout=3.0).message)


def test_proxies_in_variables_are_used(http: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", http.url)
    http.answers["http://cetool.invalid/p.py"] = sends()
    assert fetch_script("http://cetool.invalid/p.py", insecure=True).data == SCRIPT
    monkeypatch.setenv("https_proxy", http.url)  # which does not support CONNECT
    error = refused("https://cetool.invalid/p.py")
    assert "501" in error.message and "https_proxy" in str(error.hint)
    for proxy in ("socks5://user:p%2Fw@127.0.0.1:1", "http://user:p%2Fw@127.0.0.1:port", "://", "http://["):
        monkeypatch.setenv("http_proxy", proxy)
        error = refused("http://cetool.invalid/p.py")
        assert "http_proxy" in str(error.hint) and "p%2Fw" not in f"{error} {error.hint}"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/s.py", "not an https:// URL"),
        ("file:///tmp/s.py", "not supported"),
        ("https://", "no valid host"),
        ("https://host:99999/s.py", "no valid host"),
        ("https://ho%20st/s.py", "no valid host"),
        ("https://a..b/s.py", "no valid host"),
        ("https://[::1/s.py", "no valid host"),
        ("https://host/my script.py", "' '"),
        ("https://host/\x1b[2Js.py", r"'\x1b'"),
        ("https://good.example\\@evil.example/s.py", r"'\\'"),
        ("https://host/\udcff", r"'\udcff'"),
    ],
)
def test_an_invalid_url_is_refused(url: str, says: str) -> None:
    assert is_url(url)
    error = refused(url, EXIT_USAGE)
    assert says in error.message and str(error).isprintable()


def test_which_words_are_urls() -> None:
    assert is_url("HTTPS://x/y") and is_url("http://x")
    assert not any(map(is_url, ["s.py", "./https://x", "C:\\s.py", "c://s.py", "https:/x", "-", ""]))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", "script"),
        ("/d/..%2F..%2Fx.sh", "x.sh"),
        ("/%1b%5b2Jx%0a.py", "[2Jx.py"),
        ("/%2e%2e", "script"),
        ("/%C3%A4.py?raw=x/y.sh", "\u00e4.py"),
    ],
)
def test_names_are_safe(http: Server, path: str, name: str) -> None:
    http.answers[path or "/"] = sends()
    fetched = fetch_script(http.url + path, insecure=True).name
    assert fetched == name or (fetched.endswith(name) and "/" not in fetched and not fetched.startswith("."))

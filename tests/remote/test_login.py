"""Logging in pins a server's key and stores a token where only the user can read it."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.answering import TOKEN, AnsweringServer, answering, send
from support.home import Home
from support.scripts import told
from support.web import make_certificate

from cetool.remote.records import key_id


def servers(home: Home) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(home.cetool("servers", "--json").stdout)["servers"]
    return found


@pytest.mark.parametrize("how", ["option", "input", "variable"])
def test_login_stores_key_and_token_and_has_runs_ask_the_server(answers: AnsweringServer, home: Home, how: str) -> None:
    option = ("--token", TOKEN) if how == "option" else ()
    variable = {"CETOOL_SERVER_TOKEN": TOKEN} if how == "variable" else None
    done = home.cetool("login", answers.url, *option, input=f"{TOKEN}\n" if how == "input" else "", env=variable)
    assert done.returncode == 0, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Logged in to {answers.url.removeprefix('http://')} as alice (its key is ")
    assert key_id(answers.public) in line
    [known] = servers(home)
    assert known["user"] == "alice" and known["asked"] and known["token"] is (how != "variable")
    assert known["key"] == key_id(answers.public)
    config = home.path / ".config/cetool/config.yaml"
    assert TOKEN not in config.read_text() and answers.url in config.read_text()
    stored = [path for path in home.path.rglob("*") if path.is_file() and TOKEN in path.read_text(errors="ignore")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in stored] == ([] if how == "variable" else [0o600])


def test_logout_forgets_the_server(answers: AnsweringServer, home: Home) -> None:
    answers.log_in(home)
    done = home.cetool("logout", answers.url)
    assert done.returncode == 0 and done.stderr.startswith("Logged out of ")
    assert servers(home) == []
    assert not any(TOKEN in path.read_text(errors="ignore") for path in home.path.rglob("*") if path.is_file())
    assert home.cetool("logout", answers.url).stderr.startswith("Not logged in to ")


def test_a_wrong_token_is_refused_and_not_stored(answers: AnsweringServer, home: Home) -> None:
    done = home.cetool("login", answers.url, "--token", "wrong")
    assert done.returncode == 125
    assert "the token is unknown" in done.stderr and servers(home) == []


def test_a_changed_key_is_an_error_until_the_user_logs_out(answers: AnsweringServer, home: Home) -> None:
    answers.log_in(home)
    answers.key = Ed25519PrivateKey.generate()
    answers.requests.clear()
    done = home.cetool("login", answers.url, "--token", TOKEN)
    assert done.returncode == 125
    assert "signs with another key than the one that `cetool login` stored" in done.stderr
    assert f"cetool logout {answers.url}" in done.stderr
    assert home.cetool("logout", answers.url).returncode == 0
    answers.log_in(home)


def test_the_key_can_be_required(answers: AnsweringServer, home: Home) -> None:
    assert home.cetool("login", answers.url, "--key", "0" * 64, "--token", TOKEN).returncode == 125
    key = key_id(answers.public)
    assert home.cetool("login", answers.url, "--key", f"SHA256:{key[:32].upper()}", "--token", TOKEN).returncode == 0


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("http://example.org", "pass --insecure"),
        ("https://user:pw@example.org", "has no user, password, query or fragment"),
        ("ftp://example.org", "not an https:// URL"),
        ("https://", "no valid host name"),
    ],
)
def test_an_unusable_url_is_refused_before_anything_is_sent(settled: Home, url: str, advice: str) -> None:
    done = settled.cetool("login", url, "--token", TOKEN)
    assert done.returncode in (2, 125) and advice in "\n".join(told(done.stderr))


def test_a_server_below_a_prefix(answers: AnsweringServer, home: Home) -> None:
    done = home.cetool("login", f"{answers.url}/team/", "--token", TOKEN)
    # the fake server has no prefix: what matters is where it was asked
    assert done.returncode == 125
    assert answers.requests == ["GET /team/cetool/1"]


def test_the_token_is_asked_for_without_echo(answers: AnsweringServer, home: Home) -> None:
    words = [str(home.bin / "cetool"), "login", answers.url]
    main, terminal = pty.openpty()
    with subprocess.Popen(words, env=home.env, cwd=home.path, stdin=terminal, stdout=terminal, stderr=terminal) as run:
        os.close(terminal)
        shown = b""
        while b"Token" not in shown:
            shown += os.read(main, 1000)
        os.write(main, f"{TOKEN}\n".encode())
        while True:
            try:
                part = os.read(main, 1000)
            except OSError:
                break
            if not part:
                break
            shown += part
        assert run.wait(30) == 0
    assert key_id(answers.public).encode() in shown and TOKEN.encode() not in shown


def test_certificates_are_those_of_the_system_or_of_conda(home: Home, tmp_path: Path) -> None:
    with answering(make_certificate(tmp_path)) as server:
        done = home.cetool("login", server.url, "--token", TOKEN)
        assert done.returncode == 125
        assert "its certificate is not valid" in done.stderr and "ssl_verify" in done.stderr
        with home.condarc.open("a") as file:
            file.write(f"ssl_verify: {tmp_path / 'cert.pem'}\n")
        server.log_in(home)
        assert [each["url"] for each in servers(home)] == [server.url]


def test_a_token_in_the_variable_goes_to_the_first_server_only(home: Home) -> None:
    sent: list[str | None] = []
    with answering() as one, answering() as other:
        for server in (one, other):
            server.log_in(home)

        def note(handler: BaseHTTPRequestHandler) -> None:
            sent.append(handler.headers.get("Authorization"))
            send(handler, {"detail": "unknown", "code": "not-found"}, status=404)

        one.tricks["/answers/"] = other.tricks["/answers/"] = note
        done = home.cetool("create", "hello-bin", env={"CETOOL_SERVER_TOKEN": "of-the-first"})
        assert done.returncode == 0, done.stderr
    assert sent == ["Bearer of-the-first", f"Bearer {TOKEN}"]

"""The accounts of a server on the command line, while the server runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.serving import RunningServer, running_server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, local_channel: Channel) -> Iterator[Home]:
    made = make_home(tmp_path_factory.mktemp("commands") / "home", local_channel)
    yield made
    remove_home(made)


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[RunningServer]:
    with running_server(home) as running:
        yield running


def run(home: Home, *words: str, status: int = 0, input: str = "") -> subprocess.CompletedProcess[str]:
    done = home.cetool("server", *words, "--data", "server", input=input)
    assert done.returncode == status, done.stderr
    return done


def user_of(server: RunningServer, token: str) -> str | None:
    found: str | None = server.get("/cetool/1", token=token).json["user"]
    return found


def test_a_token_works_at_once_and_is_refused_at_once(home: Home, server: RunningServer) -> None:
    secret = run(home, "token", "create", "ci", "--role", "editor", "--on", "team/*", "--expires", "1d").stdout.strip()
    assert user_of(server, secret) == "ci"
    assert secret not in run(home, "token", "list").stdout
    run(home, "token", "revoke", "ci")
    assert server.get("/cetool/1/tokens", token=secret).status == 401
    again = run(home, "token", "revoke", "ci", status=125)
    assert again.stderr == "cetool: there is no token 'ci'\n"


def test_tokens_with_one_name_are_told_apart_by_their_numbers(home: Home, server: RunningServer) -> None:
    words = ("token", "create", "twice", "--role", "viewer", "--on", "*/*", "--json")
    numbers = [json.loads(run(home, *words).stdout)["id"] for _ in range(2)]
    done = run(home, "token", "revoke", "twice", status=125)
    assert "2 tokens are called 'twice'" in done.stderr and f"{numbers[1]}, {numbers[0]}" in done.stderr
    run(home, "token", "revoke", *map(str, numbers))


def test_a_token_without_rights_is_refused(home: Home, server: RunningServer) -> None:
    assert "the token would have no rights" in run(home, "token", "create", "x", status=2).stderr
    assert "belong together" in run(home, "token", "create", "x", "--role", "viewer", status=2).stderr
    assert "there is no user 'eve'" in run(home, "token", "create", "x", "--user", "eve", status=125).stderr
    wrong = run(home, "token", "create", "x", "--role", "owner", "--on", "*/*", status=125)
    assert "'owner' is not a role" in wrong.stderr


def test_a_user_logs_in_with_the_password_that_was_sent_to_the_command(home: Home, server: RunningServer) -> None:
    run(home, "user", "add", "ana", "--password-stdin", "--role", "contributor", "--on", "team/*", input="long one\n")
    login = {"username": "ana", "password": "long one"}
    assert server.post("/login/", login, token=None).status == 200
    run(home, "user", "password", "ana", "--password-stdin", input="another one\n")
    assert server.post("/login/", login, token=None).status == 403
    assert "characters" in run(home, "user", "password", "ana", "--password-stdin", status=125, input="x\n").stderr
    assert "there is already a user ana" in run(home, "user", "add", "ana", status=125).stderr


def test_the_reasons_for_a_users_rights_are_explained(home: Home, server: RunningServer) -> None:
    run(home, "user", "add", "bob")
    run(home, "grant", "add", "developer", "lab/gpu-*", "--user", "bob")
    lines = run(home, "explain-access", "bob", "lab/gpu-1").stdout.splitlines()
    found = {line.split()[0]: line.split(None, 2)[1:] for line in lines[1:]}
    assert found["environment::update"] == ["yes", "editor on lab/gpu-* (granted to bob)"]
    assert found["environment::delete"] == ["no", "no grant: it needs the role admin on lab/gpu-1"]
    grants = json.loads(run(home, "grant", "list", "--json").stdout)["grants"]
    number = next(each["id"] for each in grants if each["subject"] == "bob")
    run(home, "grant", "remove", str(number))
    assert " yes " not in run(home, "explain-access", "bob", "lab/gpu-1").stdout
    assert "yes" not in run(home, "explain-access", "anonymous", "default").stdout


def test_what_the_commands_change_is_in_the_audit_table(home: Home, server: RunningServer) -> None:
    run(home, "user", "add", "carl")
    run(home, "user", "remove", "carl")
    rows = server.get("/cetool/1/audit?limit=2").json["audit"]
    assert [(each["who"], each["action"], each["object"], each["address"]) for each in rows] == [
        ("operator", "user.delete", "user carl", None),
        ("operator", "user.create", "user carl", None),
    ]


def test_a_directory_without_a_server_is_refused_and_not_created(home: Home, server: RunningServer) -> None:
    done = home.cetool("server", "token", "list", "--data", "elsewhere")
    assert done.returncode == 125 and "is not the data directory of a server" in done.stderr
    assert not (home.path / "elsewhere").exists()

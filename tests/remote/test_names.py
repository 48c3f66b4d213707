"""An environment that the user names comes from the server, or it is an error: cetool solves nothing instead."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.answering import AnsweringServer
from support.home import Home
from support.scripts import told

from cetool.remote.records import BuildRecord, sealed

SCRIPT = "#!/bin/sh\n# conda execute\n# environment: team/base\nhello\n"


def name(server: AnsweringServer, record: BuildRecord) -> None:
    """Have ``team/base`` mean a record."""
    server.documents["/environments/team/base"] = {"namespace": "team", "name": "base", "build": record.build}
    envelope = sealed(record, server.public, server.key.sign)
    server.documents[f"/builds/{record.build}/record/{record.platform}"] = json.loads(envelope)


def test_a_lie_about_a_name_is_an_error(answers: AnsweringServer, solved: BuildRecord, member: Home) -> None:
    answers.key = Ed25519PrivateKey.generate()
    name(answers, solved)
    done = member.cetool("run", member.write("script.sh", SCRIPT))
    assert done.returncode == 125
    assert "signs with another key than the one that `cetool login` stored" in told(done.stderr)[0]
    assert "log in again" in done.stderr
    name(answers, solved._replace(platform="osx-arm64"))
    answers.documents[f"/builds/7/record/{solved.platform}"] = answers.documents.pop("/builds/7/record/osx-arm64")
    assert member.cetool("run", "script.sh").returncode == 125


@pytest.mark.parametrize("how", ["down", "offline"])
def test_without_the_server_the_last_answer_counts(
    answers: AnsweringServer, solved: BuildRecord, member: Home, how: str
) -> None:
    name(answers, solved)
    assert member.cetool("run", member.write("first.sh", SCRIPT)).returncode == 0
    script = member.write("second.sh", SCRIPT)
    if how == "down":
        answers.close()
        done = member.cetool("run", script)
        assert "using build 7 of team/base from" in done.stderr
    else:
        done = member.cetool("run", "--offline", script)
    assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
    done = member.cetool("run", "--env", "team/other", script, *(["--offline"] if how == "offline" else []))
    assert done.returncode != 0


def test_a_name_needs_a_server(settled: Home) -> None:
    script = settled.write("named.sh", SCRIPT)
    done = settled.cetool("run", script)
    assert done.returncode == 125 and "no server is configured" in done.stderr
    assert "`cetool login URL` adds a server." in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--with", "six"),
        ("--base", "base"),
        ("--baseline", "list.txt"),
        ("--exclude-newer", "7d"),
        ("--lock-file", "x.lock"),
    ],
)
def test_options_that_add_packages_are_refused(settled: Home, words: tuple[str, str]) -> None:
    script = settled.write("plain.sh", "hello\n")
    done = settled.cetool("run", "--env", "team/base", *words, script)
    assert done.returncode == 2 and f"--env and {words[0]} cannot be used together" in done.stderr


def test_the_python_that_a_script_needs_is_checked(answers: AnsweringServer, solved: BuildRecord, member: Home) -> None:
    name(answers, solved)
    text = '# /// script\n# requires-python = ">=3"\n# [tool.cetool]\n# environment = "team/base"\n# ///\n'
    done = member.cetool("run", member.write("script.py", text))
    assert done.returncode == 125
    assert "the environment team/base has no python" in told(done.stderr)[0]


def test_a_named_environment_is_not_locked(answers: AnsweringServer, solved: BuildRecord, member: Home) -> None:
    name(answers, solved)
    done = member.cetool("lock", member.write("script.sh", SCRIPT))
    assert done.returncode == 2 and "it cannot be locked" in done.stderr

"""A run takes its packages from a server that knows them, without a solver and a channel; else it solves here."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from support.answering import TOKEN, AnsweringServer, send
from support.home import Home
from support.web import sends, serving

from cetool.remote.records import BuildRecord
from cetool.store.store import read_marker

SCRIPT = "# conda execute\n# env: [hello-bin]\nhello\n"


def test_a_known_environment_is_linked_without_channel_and_solver(
    answers: AnsweringServer, solved: BuildRecord, away: Home
) -> None:
    answers.add(solved)
    done = away.cetool("create", "-v", "hello-bin")
    assert done.returncode == 0, done.stderr
    assert "has this environment: build 7" in done.stderr
    assert "Solving" not in done.stderr and "metadata" not in done.stderr
    prefix = Path(done.stdout.strip())
    marker = read_marker(prefix)
    assert marker is not None and marker.origin is not None
    assert (marker.origin.server, marker.origin.build) == (answers.url, 7)
    # package records name the channel, not the server
    for record in (prefix / "conda-meta").glob("*.json"):
        assert answers.url not in record.read_text()
    assert f"server:     {answers.url} (build 7 of team/base)" in away.cetool("show", prefix.name).stdout
    [listed] = json.loads(away.cetool("list", "--json").stdout)["environments"]
    assert (listed["server"], listed["server_build"], listed["server_environment"]) == (answers.url, 7, "team/base")


def test_only_packages_that_the_cache_lacks_are_fetched_and_an_unchanged_answer_is_not_sent_again(
    answers: AnsweringServer, solved: BuildRecord, away: Home
) -> None:
    answers.add(solved)
    assert away.cetool("create", "hello-bin").returncode == 0
    assert sum("/blobs/" in path for path in answers.requests) == len(solved.conda)
    answers.requests.clear()
    assert away.cetool("create", "hello-bin").returncode == 0
    assert answers.requests == []  # it exists
    assert away.cetool("create", "hello-bin", "--refresh").returncode == 0
    assert len(answers.requests) == 1 and "/answers/" in answers.requests[0]


def test_without_an_answer_cetool_solves_and_tells_the_server(answers: AnsweringServer, member: Home) -> None:
    script = member.write("script.sh", "# conda execute\n# env: [hello-bin]\nhello\n")
    done = member.cetool("run", script)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 30
    while not answers.uploads and time.monotonic() < deadline:
        time.sleep(0.05)
    [upload] = answers.uploads
    assert upload["spec"]["packages"] == ["hello-bin"]
    assert [package["name"] for package in upload["conda"]] == ["hello-bin"]
    assert all(package["sha256"] for package in upload["conda"])


def test_nothing_is_told_if_the_setting_forbids_it(answers: AnsweringServer, member: Home) -> None:
    done = member.cetool("create", "hello-bin", env={"CETOOL_SERVER_UPLOAD": "false"})
    assert done.returncode == 0, done.stderr
    time.sleep(0.5)
    assert answers.uploads == [] and len(answers.asked) == 1


def test_a_server_without_the_answer_is_not_asked_again_for_a_minute(answers: AnsweringServer, member: Home) -> None:
    prefix = member.cetool("create", "hello-bin").stdout.strip()
    assert member.cetool("remove", prefix).returncode == 0
    assert member.cetool("create", "hello-bin").returncode == 0
    assert len(answers.asked) == 1


@pytest.mark.parametrize("option", ["--no-server", "--offline"])
def test_no_server_is_asked_if_the_user_says_so(
    answers: AnsweringServer, solved: BuildRecord, member: Home, option: str
) -> None:
    answers.add(solved)
    assert member.cetool("create", "hello-bin", "--no-server").returncode == 0
    answers.requests.clear()
    done = member.cetool("create", "hello-bin", "--refresh", option)
    assert done.returncode == 0, done.stderr
    assert answers.requests == []


def test_a_lock_next_to_the_script_wins(answers: AnsweringServer, solved: BuildRecord, member: Home) -> None:
    answers.add(solved)
    script = member.write("script.sh", SCRIPT)
    assert member.cetool("lock", script).returncode == 0
    answers.requests.clear()
    assert member.cetool("run", script).returncode == 0
    assert answers.asked == []


def test_a_warm_run_asks_no_server(answers: AnsweringServer, solved: BuildRecord, member: Home) -> None:
    answers.add(solved)
    script = member.write("script.sh", SCRIPT)
    for _ in range(3):
        done = member.cetool("run", script)
        assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
    assert len(answers.asked) == 1


def test_cetool_waits_for_a_server_that_is_building(answers: AnsweringServer, solved: BuildRecord, away: Home) -> None:
    answers.running[solved.request] = 9
    answers.documents["/builds/9"] = {"id": 9, "status": "BUILDING", "progress": {"stage": "Solving"}}

    def build() -> None:
        deadline = time.monotonic() + 30
        # with the second request, the client has the answer to the first one
        while sum("/builds/9" in path for path in answers.requests) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        answers.add(solved)
        answers.documents["/builds/9"] = {"id": 9, "status": "COMPLETED", "progress": {}}

    thread = threading.Thread(target=build)
    thread.start()
    done = away.cetool("create", "-v", "hello-bin")
    thread.join()
    assert done.returncode == 0, done.stderr
    assert "Building on" in done.stderr and "Solving" in done.stderr
    assert "has this environment: build 7" in done.stderr


def test_cetool_solves_if_the_server_builds_for_too_long(answers: AnsweringServer, member: Home) -> None:
    answers.tricks["/answers/"] = lambda handler: send(handler, {"build": 9}, status=202)
    answers.documents["/builds/9"] = {"id": 9, "status": "BUILDING"}
    done = member.cetool("create", "-v", "hello-bin", env={"CETOOL_SERVER_WAIT": "1s"})
    assert done.returncode == 0, done.stderr
    assert "is still building after 1 seconds; solving here" in done.stderr
    assert len(answers.asked) == 1


def test_servers_are_asked_in_order(answers: AnsweringServer, solved: BuildRecord, away: Home) -> None:
    answers.add(solved)
    done = away.cetool("create", "-v", "hello-bin", env={"CETOOL_SERVERS": f"http://127.0.0.1:9,{answers.url}"})
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1:9 is not known yet" in done.stderr
    assert "has this environment" in done.stderr


def test_an_answer_for_another_machine_is_not_used(answers: AnsweringServer, solved: BuildRecord, member: Home) -> None:
    answers.add(solved._replace(requires=("__cuda >=99",)))
    done = member.cetool("create", "-v", "hello-bin")
    assert done.returncode == 0, done.stderr
    assert "needs __cuda >=99, which this machine lacks" in done.stderr and "Solving" in done.stderr


def test_verify_channels_takes_only_what_the_channels_have(
    answers: AnsweringServer, solved: BuildRecord, member: Home
) -> None:
    answers.add(solved)
    verify = {"CETOOL_VERIFY_CHANNELS": "true"}
    done = member.cetool("create", "-v", "hello-bin", env=verify)
    assert done.returncode == 0, done.stderr
    assert "has this environment" in done.stderr and "Solving" not in done.stderr
    [package] = solved.conda
    answers.add(solved._replace(conda=(package._replace(sha256="0" * 64),)))
    done = member.cetool("create", "-v", "--refresh", "hello-bin", env=verify)
    assert done.returncode == 0, done.stderr
    assert f"the channels do not have {package.file_name} with the same SHA-256" in done.stderr
    assert "Solving" in done.stderr


def test_a_token_is_in_no_launch_record_and_no_command_line(
    answers: AnsweringServer, solved: BuildRecord, member: Home
) -> None:
    answers.add(solved)
    script = member.write("script.sh", SCRIPT)
    token = {"CETOOL_SERVER_TOKEN": "token-in-a-variable"}
    for _ in range(2):
        assert member.cetool("run", script, env=token).returncode == 0
    for path in member.cache.rglob("*"):
        if path.is_file() and path.stat().st_size < 1_000_000:
            assert b"token-in-a-variable" not in path.read_bytes(), path


def test_a_kept_answer_that_is_damaged_is_fetched_again(
    answers: AnsweringServer, solved: BuildRecord, away: Home
) -> None:
    answers.add(solved)
    assert away.cetool("create", "hello-bin").returncode == 0
    [kept] = (away.cache / "answers" / "records").iterdir()
    document = json.loads(kept.read_text())
    kept.write_text(json.dumps({**document, "envelope": document["envelope"].replace("payload", "poyload")}))
    done = away.cetool("create", "--refresh", "hello-bin")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    assert len(answers.asked) == 3


def test_a_script_from_a_url_does_not_get_the_token(
    answers: AnsweringServer, solved: BuildRecord, member: Home, tmp_path: Path
) -> None:
    answers.add(solved)
    text = b'#!/bin/sh\n# conda execute\n# env: [hello-bin]\necho "token: $CETOOL_SERVER_TOKEN"\n'
    with serving() as web:
        web.answers["/s.sh"] = sends(text)
        env = {"CETOOL_SERVER_TOKEN": TOKEN}
        done = member.cetool("run", "--insecure", "--yes", f"{web.url}/s.sh", env=env)
    assert (done.returncode, done.stdout) == (0, "token: \n"), done.stderr
    assert "from 127.0.0.1" in done.stderr

"""Machines of a team and a real server: the first run solves, every other run links; environments by name."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.scripts import eventually, told
from support.serving import RunningServer, running_server

SCRIPT = "#!/bin/sh\n# conda execute\n# env: [hello-bin !=9]\nhello\n"


@contextlib.contextmanager
def new_home(channel: Channel) -> Iterator[Home]:
    made = make_home(Path(tempfile.mkdtemp(prefix="cetool-")).resolve() / "home", channel)
    yield made
    remove_home(made)
    shutil.rmtree(made.path.parent, ignore_errors=True)


@pytest.fixture(scope="module")
def server(local_channel: Channel) -> Iterator[RunningServer]:
    """A server that the tests of this module share. It accepts packages whose URLs are in the test channel."""
    allowed = {"CETOOL_SERVER_CHANNELS_ALLOWED": f"conda-forge,{local_channel.url}"}
    with new_home(local_channel) as home, running_server(home, env=allowed) as running:
        yield running


@pytest.fixture
def member(home: Home, server: RunningServer) -> Home:
    """A user of the server."""
    done = home.cetool("login", server.url, "--token", server.token)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def away(local_channel: Channel, server: RunningServer) -> Iterator[Home]:
    """Another machine, which cannot reach a channel."""
    with new_home(local_channel) as home:
        assert home.cetool("login", server.url, "--token", server.token).returncode == 0
        home.condarc.write_text("channel_alias: http://127.0.0.1:9\nchannels: [conda-forge]\n")
        yield home


def test_what_the_first_machine_solves_the_second_links_without_a_channel(
    server: RunningServer, member: Home, away: Home
) -> None:
    def builds() -> Any:
        return server.get("/cetool/1/builds").json["builds"]

    before = [each["id"] for each in builds()]
    done = member.cetool("run", "-v", member.write("script.sh", SCRIPT))
    assert done.returncode == 0 and "does not have this environment yet" in done.stderr, done.stderr
    [build] = eventually(lambda: [each for each in builds() if each["ended"] and each["id"] not in before])
    assert (build["origin"], build["status"]) == ("upload", "COMPLETED"), build
    done = away.cetool("run", "-v", away.write("script.sh", SCRIPT))
    assert done.returncode == 0, done.stderr
    assert f"has this environment: build {build['id']}" in done.stderr and "Solving" not in done.stderr
    # an answer that has not changed is not sent again, nor are packages that are here
    done = away.cetool("run", "-v", "--refresh", "script.sh")
    assert done.returncode == 0 and "Download" not in done.stderr, done.stderr


def test_environments_are_created_shown_compared_moved_and_deleted(server: RunningServer, member: Home) -> None:
    file = member.write("environment.yml", "channels: [conda-forge]\ndependencies: [six]\n")
    created = member.cetool("env", "create", "moves/base", "--file", file)
    assert created.returncode == 0 and created.stdout == "", created.stderr
    [line] = created.stderr.splitlines()
    assert line.startswith("Created moves/base (build "), line
    again = member.cetool("env", "create", "moves/base", "--file", file).stderr
    assert again.startswith("moves/base is up to date (build ")
    other = json.loads(member.cetool("env", "create", "moves/base", "six", "idna", "--json").stdout)
    assert (other["status"], other["environment"], other["is_new"]) == ("COMPLETED", "moves/base", True)
    listed = json.loads(member.cetool("env", "list", "moves", "--json").stdout)["environments"]
    assert [(each["namespace"], each["name"], each["build"]) for each in listed] == [("moves", "base", other["build"])]
    assert "moves/base" in member.cetool("env", "list").stdout
    shown = json.loads(member.cetool("env", "show", "moves/base", "--json").stdout)
    assert {each["name"] for each in shown["packages"]} == {"python", "six", "idna"}
    history = json.loads(member.cetool("env", "history", "moves/base", "--json").stdout)["history"]
    first = history[-1]["build"]
    assert [each["build"] for each in history] == [other["build"], first]
    changes = json.loads(member.cetool("env", "diff", "moves/base", str(first), "--json").stdout)["changes"]
    assert [(each["name"], each["before"]) for each in changes] == [("idna", None)]
    assert "idna: none -> " in member.cetool("env", "diff", "moves/base", str(first)).stdout
    assert "Completed: 3 packages" in member.cetool("env", "log", "moves/base", "-f").stdout
    for words, says in (
        (("rollback", "moves/base"), f"moves/base is build {first} again"),
        (("use", "moves/base", str(other["build"])), f"moves/base is build {other['build']} now"),
        (("rename", "moves/base", "core"), "Renamed moves/base to moves/core"),
        (("cancel", "moves/core"), f"Build {other['build']} has already ended (COMPLETED)"),
        (("delete", "moves/core"), "Deleted moves/core ("),
    ):
        done = member.cetool("env", *words)
        assert done.returncode == 0 and done.stderr.startswith(says) and done.stderr.count("\n") == 1, done.stderr
    assert member.cetool("env", "show", "moves/core").returncode == 125


def test_a_script_runs_in_an_environment_that_it_names(server: RunningServer, member: Home, away: Home) -> None:
    assert member.cetool("env", "create", "apps/hello", "hello-bin").returncode == 0
    declared = away.write("declared.sh", "#!/bin/sh\n# conda execute\n# environment: apps/hello\nhello\n")
    plain = away.write("plain.sh", "#!/bin/sh\nhello\n")
    for words in (("run", declared), ("run", "--env", "apps/hello", plain)):
        done = away.cetool(*words)
        assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
    # later, the name means another build
    assert member.cetool("env", "create", "apps/hello", "idna", "python").returncode == 0
    done = away.cetool("run", "--refresh", declared)
    assert done.returncode != 0 and "hello: not found" in done.stderr, done.stderr
    builds = json.loads(away.cetool("env", "history", "apps/hello", "--json").stdout)["history"]
    done = away.cetool("run", "--env", f"apps/hello@{builds[-1]['build']}", plain)
    assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr


def test_a_baseline_and_a_base_can_be_an_environment_of_a_server(server: RunningServer, member: Home) -> None:
    assert member.cetool("env", "create", "lab/base", "python", "six").returncode == 0
    printing = "import six, idna\nprint(six.__name__, idna.__name__)\n"
    for keys in ("baseline: server:lab/base\n# env: [idna]", "base: server:lab/base\n# conda: [idna]"):
        script = member.write("script.py", f"# conda execute\n# {keys}\n{printing}")
        done = member.cetool("run", script)
        assert (done.returncode, done.stdout) == (0, "six idna\n"), done.stderr
    script = member.write("same.py", "# conda execute\n# baseline: server:lab/base\nprint()\n")
    assert member.cetool("run", script).returncode == 0
    assert "server:lab/base: unchanged" in member.cetool("baseline", "status", script).stdout


def test_a_failed_build_shows_the_end_of_its_log_and_mistakes_have_their_line(
    server: RunningServer, member: Home
) -> None:
    done = member.cetool("env", "create", "team/bad", "no-such-package")
    assert done.returncode == 125
    assert "of team/bad failed: package 'no-such-package' was not found" in told(done.stderr)[0]
    assert "Solving" in done.stderr and "`cetool env log " in done.stderr
    file = member.write("bad.yml", "channels: [conda-forge]\ndependencies:\n - six\n - 'six ==1 =='\n")
    done = member.cetool("env", "create", "team/bad", "--file", file)
    assert done.returncode == 125 and f"{file}:4: " in told(done.stderr)[0], done.stderr


def test_ctrl_c_leaves_the_build_on_the_server(server: RunningServer, member: Home) -> None:
    words = [sys.executable, "-m", "cetool", "env", "create", "-v", "team/long", "python", "numpy", "six"]
    with subprocess.Popen(words, cwd=member.path, env=member.env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "Building" not in process.stderr.readline():
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "continues on the server" in rest or "Created" in rest
    eventually(lambda: "COMPLETED" in member.cetool("env", "show", "team/long").stdout)


def test_a_server_that_stopped_is_not_waited_for(server: RunningServer, member: Home) -> None:
    server.process.send_signal(signal.SIGSTOP)
    try:
        done = member.cetool("create", "-v", "hello-bin")
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert done.returncode == 0 and "not tried again for a minute" in done.stderr, done.stderr
    done = member.cetool("run", "--env", "team/none", member.write("x.sh", "true\n"))
    assert done.returncode == 125 and "has no environment team/none" in done.stderr


def test_machines_that_ask_at_once_all_get_the_answer(server: RunningServer, member: Home, scale: int) -> None:
    assert member.cetool("env", "create", "many/hello", "hello-bin").returncode == 0
    words = [sys.executable, "-m", "cetool", "create", "-v", "hello-bin"]
    running = []
    for number in range(5 * scale):
        env = {**member.env, "CETOOL_CACHE_DIR": str(member.path / f"cache{number}")}
        running.append(subprocess.Popen(words, cwd=member.path, env=env, stderr=subprocess.PIPE, text=True))
    for process in running:
        errors = process.communicate()[1]
        assert process.returncode == 0 and "has this environment" in errors, errors

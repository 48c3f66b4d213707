"""Warm runs of tools: which command lines of ``cex`` and ``cetool exec`` are warm, and that tools cannot tell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import started, unconfirmed
from support.server import ChannelServer
from support.warm import COLD, learn, records, settle, trap

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is no warm path")

HELLO = ("--spec", "hello-bin", "hello")
IMPORTED = {
    *("cetool", "cetool.__main__", "cetool.warm.files", "cetool.launch", "cetool.warm.environ"),
    *("cetool.warm.handover", "cetool.warm", "fcntl"),
}


def _warm(home: Home, *words: str, env: dict[str, str | None] | None = None) -> bool:
    done = home.run(*words, env={**(env or {}), **trap(home)})
    assert done.returncode in (0, COLD), done.stderr
    return done.returncode == 0


@pytest.fixture
def warmed(home: Home) -> Home:
    """A home in which ``cex --spec hello-bin hello`` is warm."""
    learn(home, "exec", *HELLO)
    assert _warm(home, "cex", *HELLO)
    return home


def test_a_warm_tool_imports_almost_nothing(warmed: Home) -> None:
    def modules(*words: str | Path) -> set[str]:
        done = warmed.run(sys.executable, "-X", "importtime", *words)
        assert done.returncode == 0, done.stderr
        return set(re.findall(r"^import time: .*\|\s*(\S+)$", done.stderr, re.MULTILINE)) - {"package"}

    program = warmed.bin / "cex"
    own = set(re.findall(r"^import (\w+)$", program.read_text(), re.MULTILINE))
    stub = set().union(*(modules("-c", f"import {name}") for name in own))
    nothing = modules(warmed.write("nothing.py", "import cetool\n"))
    assert modules(program, "-q", *HELLO, "x") - nothing - stub <= IMPORTED
    assert modules("-m", "cetool", "exec", *HELLO, "x") - nothing - modules("-m", "this") <= IMPORTED


def test_these_tool_command_lines_are_warm(warmed: Home) -> None:
    warm_ones: tuple[tuple[str, ...], ...] = (
        ("cex", *HELLO, "an argument", "--spec"),
        ("cex", "-q", *HELLO),
        ("cex", "--quiet", "--spec=hello-bin", "hello"),
        ("cetool", "exec", *HELLO),
        ("cetool", "exec", "--spec=hello-bin", "-q", "hello"),
    )
    for words in warm_ones:
        done = warmed.run(*words, env=trap(warmed))
        assert done.returncode == 0 and done.stdout.startswith("hello from "), words
    cold_ones: tuple[tuple[str, ...], ...] = (
        ("-v", *HELLO),
        ("--offline", *HELLO),
        ("--refresh", *HELLO),
        ("--", *HELLO),
        ("--channel", "conda-forge", *HELLO),
        ("--spec", "activated", *HELLO),
        ("hello",),
        ("--spec", "hello-bin"),
        ("--spec", "hello-bin", "hello2"),
        (),
    )
    for words in cold_ones:
        assert not _warm(warmed, "cex", *words), words
    added = ("-c", "conda-forge", "--with", "activated", "--with=six", *HELLO)
    learn(warmed, "exec", *added)
    assert _warm(warmed, "cex", *added)
    assert not _warm(warmed, "cex", *added[2:])
    assert not _warm(warmed, "cex", *added[:2], *added[4:])
    channel = ("--channel", "conda-forge", *HELLO)
    learn(warmed, "exec", *channel)
    assert _warm(warmed, "cex", *channel) and _warm(warmed, "cex", *HELLO)
    # what depends on the working directory, or was requested for one run
    count = len(records(warmed))
    shutil.copytree(warmed.condarc.read_text().split("file://")[1].split()[0], warmed.path / "here")
    unkept: tuple[tuple[str, ...], ...] = (
        ("--channel", "./here/conda-forge", *HELLO),
        ("--spec", "./here/conda-forge::hello-bin", "hello"),
        ("--engine", "rattler", *HELLO),
        ("--trust-cache-dir", *HELLO),
        (*HELLO[:2], "/bin/true"),
    )
    for words in unkept:
        learn(warmed, "exec", *words)
        assert not _warm(warmed, "cex", *words), words
    assert len(records(warmed)) == count


def test_any_doubt_leads_a_tool_to_the_cold_path(warmed: Home) -> None:
    assert not _warm(warmed, "cex", *HELLO, env={"CONDA_CHANNELS": "other"})
    assert not _warm(warmed, "cex", *HELLO, env={"CETOOL_VERBOSITY": "verbose"})
    warmed.condarc.write_text(warmed.condarc.read_text() + "# changed\n")
    settle(warmed.condarc)
    assert not _warm(warmed, "cex", *HELLO)
    learn(warmed, "exec", *HELLO)
    assert _warm(warmed, "cex", *HELLO)
    program = Path(warmed.cetool("path", "--spec", "hello-bin").stdout.strip()) / "bin/hello"
    program.rename(program.with_name("gone"))
    assert not _warm(warmed, "cex", *HELLO)
    done = warmed.run("cex", *HELLO)
    assert done.returncode in (0, 127) and "Traceback" not in done.stderr
    warmed.cetool("remove", program.parents[1])
    assert not _warm(warmed, "cex", *HELLO)
    assert learn(warmed, "exec", *HELLO).startswith("hello from ")
    assert _warm(warmed, "cex", *HELLO)


def test_a_tool_cannot_distinguish_a_warm_run(settled: Home) -> None:
    # the numbers of descriptors may differ, their count may not
    facts = "sys.argv, dict(os.environ), len(os.listdir('/proc/self/fd')), os.getcwd()"
    code = f"import os, sys, json; print(json.dumps([{facts}]))"
    words = ("--spec", "python", "--spec", "activated", "python", "-c", code, "a", "")
    env = {**trap(settled), "OUTER": "a\nb", "CONDA_PREFIX": "/outer", "PATH": f"/outer/bin:{settled.env['PATH']}"}
    armed = settled.path / "trap" / "sitecustomize.py"
    armed.rename(armed.with_suffix(".aside"))
    try:
        settle(settled.condarc)
        cold = settled.run("cex", *words, env=env)
    finally:
        armed.with_suffix(".aside").rename(armed)
    again = settled.run("cex", *words, env=env)
    assert (cold.returncode, again.returncode, unconfirmed(cold.stderr), unconfirmed(again.stderr)) == (0, 0, "", "")
    assert json.loads(cold.stdout) == json.loads(again.stdout)


def test_a_tool_is_in_use_while_it_runs(home: Home) -> None:
    wait = "import sys; print('ready', flush=True); sys.stdin.readline()"
    words = ("python", "-c", wait)
    home.cetool("exec", *words)
    assert _warm(home, "cex", *words)
    for env in ({}, trap(home)):
        with started(home, "exec", *words, env=env, stdin=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            (listed,) = json.loads(home.cetool("list", "--json").stdout)["environments"]
            assert listed["running"] == [process.pid]
            assert "in use" in home.cetool("gc", "--older-than", "0s").stderr
            process.communicate("\n")
            assert process.returncode == 0
    assert listed["runs"] == 4


def test_records_contain_no_password(home: Home, server: ChannelServer) -> None:
    server.token = "sEcReT"
    channel = f"{server.secret_url}/conda-forge"
    for words in (("--channel", channel, *HELLO), ("--spec", f"{channel}::hello-bin", "hello")):
        for _ in range(2):
            settle(home.condarc)
            done = home.run("cex", "-v", *words)
            assert done.returncode == 0 and "sEcReT" not in done.stderr, done.stderr
    assert not any(b"sEcReT" in path.read_bytes() for path in records(home))

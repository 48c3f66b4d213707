"""What blocks, or is not there: pipes in the place of files, an engine that makes nothing, a directory that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import SEEDS, eventually, shell_script, told

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes with names are POSIX's")

HELLO = shell_script("hello | cut -c 1-5")


def test_a_pipe_in_place_of_a_file_holds_no_run_up(home: Home) -> None:
    script = home.write("s.sh", HELLO)
    assert home.cetool("run", script).stdout == home.cetool("run", script).stdout == "hello\n"
    (prefix,) = (home.cache / "envs").iterdir()
    (record,) = (home.cache / "launch").iterdir()
    (package,) = home.cache.glob("pkgs/pkgs/hello-bin-*/info/paths.json")
    pipes = {
        package: "hello\n",
        record: "hello\n",
        prefix / "conda-meta/cetool": "hello\n",
        prefix / "etc/conda/env_vars.d/x.json": None,
        home.cache / "usage.sqlite3": "hello\n",
        home.cache / "spool/uses": "hello\n",
        home.cache / f"logs/{prefix.name}.failed.json": "hello\n",
        home.path / ".netrc": "hello\n",
        script: "",
    }
    for path, output in pipes.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        for option in ("--quiet", "--refresh" if path.name in (".netrc", "paths.json") else "--offline"):
            done = home.cetool("run", option, script, timeout=60)
            assert output is None or done.stdout == output, (path, done.stderr)
            if done.returncode:
                told(done.stderr)
        for words in (("list",), ("gc", "--dry-run")):
            assert home.cetool(*words, timeout=60).returncode == 0, path
        if path.is_fifo():
            path.unlink()


def test_work_in_the_background_ends_by_itself(home: Home) -> None:
    hung = home.write("hung.py", "import time\ntime.sleep(1000)\n")
    code = (
        "import sys, os\nfrom cetool.app.background import start_detached\n"
        f"start_detached([sys.executable, {str(hung)!r}], dict(os.environ), most_seconds=1)\n"
    )
    signals = {signal.SIGALRM: signal.SIG_IGN}

    def ignore() -> None:
        for number, handler in signals.items():
            signal.signal(number, handler)

    subprocess.run([sys.executable, "-c", code], check=True, env=home.env, preexec_fn=ignore)

    def running() -> list[str]:
        lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
        return [line for line in lines if str(hung) in line]

    eventually(lambda: not running())


def test_an_engine_that_ends_well_and_makes_nothing(home: Home) -> None:
    fake = '#!/bin/sh\n# from conda.cli import main\ntest "$1" = --version && echo conda 26.1.0\nexit 0\n'
    home.write("bin/conda", fake, executable=True)
    done = home.cetool("run", "--engine", "conda", home.write("s.sh", HELLO))
    assert done.returncode == 125
    assert "conda reported success but made no environment" in told(done.stderr)[0]
    assert not list((home.cache / "envs").iterdir())


def test_a_working_directory_that_was_deleted(settled: Home) -> None:
    script = settled.write("gone.py", SEEDS)
    start = 'mkdir gone; cd gone; rmdir "$PWD"; exec "$@"'
    commands: list[tuple[str, ...]] = [
        ("run", str(script)),
        ("exec", "--spec", "hello-bin", "hello"),
        ("run", "gone.py"),
    ]
    commands += [("run", "-c", "# conda execute", "# env: [hello-bin]", "hello"), ("create", "./x")]
    for words in commands:
        done = settled.run("sh", "-c", start, "sh", "cetool", *words)
        assert done.returncode == 0 or "working directory was deleted" in told(done.stderr)[0], (words, done.stderr)
    assert Path(script).exists()

"""``conda-execute`` and ``conda-tmpenv`` with the command lines of the original, as conda calls them."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli
from support.home import Home
from support.scripts import FIVE_NUMBERS, SEEDS, SEEDS_NAME, environments, shell_script, started, told, unconfirmed
from support.server import serving

ROOT = Path(__file__).resolve().parents[2]
LINES = ("# conda execute", "# env: [hello-bin]", "# run_with: /bin/sh", 'hello; echo "$@"')


@pytest.fixture
def conda(settled: Home) -> Path:
    """A conda that does nothing but what conda does with commands it does not know: run ``conda-NAME``."""
    # not in ~/conda, where cetool looks for a conda
    return settled.write(
        "compat/conda", '#!/bin/sh\ncommand="$1"; shift; exec "conda-$command" "$@"\n', executable=True
    )


def test_conda_execute_runs_the_example_of_the_original(settled: Home, conda: Path) -> None:
    settled.write("my_script.py", SEEDS)
    settled.cetool("create", "python >=3", "numpy")
    for words in ((conda, "execute"), ("conda-execute",)):
        done = settled.run(*words, "-v", "my_script.py")
        assert re.fullmatch(FIVE_NUMBERS, done.stdout)
        assert done.stderr == (
            "Using specification: \nenv: [python >=3, numpy]\nrun_with: [/usr/bin/env, python]\n\n"
            f"Prefix: {settled.cache}/envs/{SEEDS_NAME}\n\n"
        )
        done = settled.run(*words, "--quiet", "my_script.py")
        assert re.fullmatch(FIVE_NUMBERS, done.stdout) and unconfirmed(done.stderr) == ""


def test_conda_execute_runs_lines_and_standard_input(settled: Home, conda: Path) -> None:
    """conda-execute: command line."""
    done = settled.run(conda, "execute", "-c", *LINES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("hello from ")
    assert settled.run("conda-execute", "-v", "--code", *LINES).stdout == done.stdout
    for option in ("-c", "--code", "-qc"):
        assert settled.run(conda, "execute", option, input="\n".join(LINES)).stdout == done.stdout
    assert settled.run("conda-execute", "-", input="\n".join(LINES)).stdout == done.stdout


def test_conda_execute_takes_urls_of_plain_http_servers(settled: Home, conda: Path) -> None:
    settled.write("site/hello.sh", "\n".join(LINES))
    with serving(settled.path / "site") as server:
        done = settled.run(conda, "execute", f"{server.url}/hello.sh", "a", "-b")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\na -b\n")


def test_conda_execute_passes_arguments_and_status_as_cetool_does(settled: Home) -> None:
    script = settled.write("fails.sh", shell_script('printf "<%s>" "$@"; exit 7'))
    words = ["-v", "--help", "--", "-c", "", "a b", "--force-env"]
    done = settled.run("conda-execute", script, *words)
    assert (done.returncode, done.stdout) == (7, "".join(f"<{word}>" for word in words))
    assert unconfirmed(done.stderr) == ""
    for words, status in (
        ([], 2),
        (["--nope", "x"], 2),
        (["-v", "-q", str(script)], 2),
        (["missing.py"], 127),
        ([str(settled.path)], 126),
        (["-c", "print(1)"], 125),
    ):
        done = settled.run("conda-execute", *words)
        assert done.returncode == status, words
        assert "Traceback" not in done.stderr and done.stderr
    assert "--force-env" in settled.run("conda-execute", "--help").stdout


@pytest.mark.parametrize("option", ["-f", "--force-env"])
def test_force_env_creates_the_environment_again(home: Home, option: str) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    first = home.run("conda-execute", script)
    before = environments(home)
    assert home.run("conda-execute", option, script).stdout == first.stdout
    after = environments(home)
    assert after.keys() == before.keys() and after != before


def test_tmpenv_creates_lists_names_and_clears_environments(home: Home) -> None:
    """conda-execute: command line."""
    assert home.run("conda-tmpenv", "list").stdout == ""
    file = home.write("specs.txt", "hello-bin\n")
    name = home.run("conda-tmpenv", "name", "python >=3", "numpy")
    assert name.stdout == f"{home.cache}/envs/{SEEDS_NAME}\n"
    named = home.run("conda-tmpenv", "name", "--file", file, "activated").stdout
    assert environments(home) == {}
    done = home.run("conda-tmpenv", "-v", "create", "activated", "--file", file)
    assert (done.returncode, done.stdout) == (0, named), done.stderr
    made = environments(home)
    assert home.run("conda-tmpenv", "create", "hello-bin", "activated").stdout == named
    assert environments(home) == made
    assert home.run("conda-tmpenv", "create", "--force", "hello-bin", "activated").stdout == named
    assert environments(home) != made
    script = home.write("waits.sh", shell_script("echo ready; read line", env="hello-bin, activated"))
    with started(home, "run", script, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert re.fullmatch(
            rf"1 processes \(newest created 0:00:\d\d(\.\d+)? ago\) using {named.strip()} "
            rf"\(running PIDs {process.pid}\)\n",
            home.run("conda-tmpenv", "list").stdout,
        )
        # whatever its age, it is in use
        done = home.run("conda-tmpenv", "clear", "--min-age", "0")
        assert (done.returncode, len(environments(home))) == (0, 1)
        process.communicate("end\n")
    assert home.run("conda-tmpenv", "list").stdout.startswith("0 processes (newest created 0:00:")


def test_tmpenv_clear_counts_hours(home: Home) -> None:
    """conda-execute: removal."""
    old, new = (Path(home.run("conda-tmpenv", "create", spec).stdout.strip()) for spec in ("hello-bin", "activated"))
    home.run("conda-tmpenv", "list")
    with sqlite3.connect(home.cache / "usage.sqlite3") as connection:
        used = time.time() - 30 * 3600
        connection.execute("UPDATE uses SET last_used = ? WHERE directory = ?", (used, old.name))
    connection.close()
    assert home.run("conda-tmpenv", "clear", "--min-age", "31").stderr == ""
    assert environments(home).keys() == {old.name, new.name}
    # the setting's 25 hours
    done = home.run("conda-tmpenv", "clear")
    assert done.stderr == f"Removing unused temporary environment {old}.\n"
    assert environments(home).keys() == {new.name}
    assert home.run("conda-tmpenv", "clear", "--min-age", "0.5").stderr == ""
    assert home.run("conda-tmpenv", "clear", "--min-age", "0").returncode == 0
    assert environments(home) == {}


def test_tmpenv_refuses_wrong_command_lines(settled: Home) -> None:
    done = settled.run("conda-tmpenv", "create")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: no packages to install, must supply command line package specs or --file.\n"
    for words in ([], ["nope"], ["clear", "--min-age", "x"], ["clear", "--min-age", "-1"], ["create", "--nope", "x"]):
        done = settled.run("conda-tmpenv", *words)
        assert done.returncode == 2 and "`conda tmpenv" in told(done.stderr)[-1], words
        assert "_hours" not in done.stderr
    done = settled.run("conda-tmpenv", "create", "hello >>1")
    assert done.returncode == 125
    told(done.stderr)


@pytest.mark.real_conda
def test_a_real_conda_runs_conda_execute_and_conda_tmpenv(settled: Home, real_conda: str, tmp_path: Path) -> None:
    """From 26.3 on it runs plugins only: what an installation in its Python does, a path and metadata do here."""
    told_version = json.loads(settled.run(real_conda, "info", "--json").stdout)["python_version"]
    if not told_version.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}."):
        pytest.skip("conda's Python cannot import what this one can")
    declared = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["conda"]
    metadata = tmp_path / "cetool_as_plugin-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: cetool-as-plugin\nVersion: 0\n")
    lines = [f"{name} = {module}" for name, module in declared.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[conda]", *lines, ""]))
    env: dict[str, str | None] = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, sys.path)])}
    script = settled.write("seeds.py", SEEDS)
    settled.cetool("create", "python >=3", "numpy")
    done = settled.run(real_conda, "execute", "-v", script, env=env)
    assert done.returncode == 0, done.stderr
    assert f"{settled.cache}/envs/{SEEDS_NAME}" in done.stderr
    assert re.fullmatch(FIVE_NUMBERS, done.stdout)
    assert settled.run(real_conda, "execute", "missing.py", env=env).returncode == 127
    assert SEEDS_NAME in settled.run(real_conda, "tmpenv", "list", env=env).stdout
    assert settled.run(real_conda, "tmpenv", "name", "python >=3", "numpy", env=env).stdout.endswith(f"{SEEDS_NAME}\n")

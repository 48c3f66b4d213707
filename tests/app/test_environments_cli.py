"""``create``, ``name``, ``list``, ``show``, ``info`` and ``remove``: their output, and the form of their JSON."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.channel import Channel
from support.home import Home
from support.scripts import (
    SEEDS,
    SEEDS_NAME,
    assert_nothing_half_made,
    bound_by_modes,
    environments,
    eventually,
    held_locks,
    shell_script,
    started,
    told,
    unconfirmed,
)

from cetool.store.store import FROZEN, MARKER

WAITS = shell_script("echo $$; read line")


def document(home: Home, *args: str | Path, **options: Any) -> dict[str, Any]:
    """Return what a command prints with ``--json``."""
    done = home.cetool(*args, "--json", **options)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert isinstance(found, dict) and next(iter(found)) == "schema"
    return found


def shape(value: Any) -> Any:
    """Return the form of a JSON value: its keys, in order, and types."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


SPEC_SHAPE = {
    "channels": ["str"],
    "specs": ["str"],
    "pypi": [],
    "variables": {},
    "pypi_settings": {},
    "solver_settings": {},
    "virtual_packages": {},
    "locked": "bool",
    "exclude_newer": "NoneType",
}


def test_create_prints_the_same_prefix_as_name(home: Home) -> None:
    specs = ("python>=3", "numpy")
    before = home.cetool("name", *specs)
    assert before.stdout == f"{home.cache}/envs/{SEEDS_NAME}\n"
    assert document(home, "name", *specs) == {
        "schema": "cetool.name/1",
        "name": SEEDS_NAME,
        "prefix": f"{home.cache}/envs/{SEEDS_NAME}",
        "exists": False,
    }
    assert environments(home) == {} and not home.cache.exists()
    created = home.cetool("create", *specs)
    assert (created.stdout, unconfirmed(created.stderr)) == (before.stdout, "")
    made = environments(home)
    again = home.cetool("create", "-v", *reversed(specs))
    assert (again.stdout, again.stderr) == (before.stdout, "")
    assert environments(home) == made
    assert document(home, "name", home.write("my_script.py", SEEDS))["exists"] is True
    done = subprocess.run(
        [f"{created.stdout.strip()}/bin/python", "-c", "import numpy; print(numpy.__name__)"], capture_output=True
    )
    assert done.stdout == b"numpy\n"


def test_create_takes_scripts_and_environment_files(settled: Home, channel: Path) -> None:
    text = settled.write("specs.txt", "hello-bin\n# a comment\nactivated >=1\n")
    yaml = settled.write("environment.yml", "name: x\ndependencies: [six]\nvariables: {A: b}\n")
    done = settled.cetool("create", "many-files", "--file", text, "--file", yaml)
    prefix = Path(done.stdout.strip())
    names = {path.name.rsplit("-", 2)[0] for path in (prefix / "conda-meta").glob("*.json")}
    assert {"hello-bin", "activated", "many-files", "six"} <= names, done.stderr
    assert json.loads((prefix / "conda-meta" / "state").read_text())["env_vars"] == {"A": "b"}
    named = settled.cetool("name", "--file", yaml, "--file", text, "many-files")
    assert named.stdout == done.stdout
    other = settled.cetool("name", "--file", yaml, "--file", text, "many-files", "--channel", channel / "conda-forge")
    assert other.stdout != done.stdout


def test_an_environment_is_frozen_private_and_described(settled: Home) -> None:
    """CEP 22: Specification."""
    prefix = Path(settled.cetool("create", "hello-bin", env={"CONDA_OVERRIDE_CUDA": "12.4"}).stdout.strip())
    assert json.loads((prefix / FROZEN).read_text())["message"].startswith("cetool made this environment")
    marker = json.loads((prefix / MARKER).read_text())
    assert marker["spec"] == {
        "packages": ["hello-bin"],
        "channels": ["conda-forge"],
        "virtual-packages": {"__cuda": "12.4"},
    }
    assert (marker["name"], marker["prefix"], marker["engine"]) == (prefix.name, str(prefix), "rattler")
    for directory in (settled.cache, settled.cache / "envs", settled.cache / "locks", settled.cache / "logs"):
        assert directory.stat().st_mode & 0o777 == 0o700, directory
    settled.cetool("list")  # reads the spool into the log
    for path in (settled.cache / "usage.sqlite3", *(settled.cache / "logs").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


def test_list_shows_environments(home: Home) -> None:
    empty = home.cetool("list")
    assert (empty.returncode, empty.stdout) == (0, "")
    assert empty.stderr == f"There are no environments in {home.cache}/envs yet. `cetool run SCRIPT` creates one.\n"
    assert document(home, "list") == {"schema": "cetool.list/1", "environments": []}
    home.cetool("create", "hello-bin")
    started_at = time.time()
    home.cetool("run", home.write("a.sh", shell_script("true", env="activated, {pip: []}")))
    rows = document(home, "list")["environments"]
    assert [row["specs"] for row in rows] == [["activated"], ["hello-bin"]]
    assert shape(rows[0]) == {
        "name": "str",
        "prefix": "str",
        **SPEC_SHAPE,
        "size_bytes": "int",
        "packages": "int",
        "engine": "str",
        "engine_version": "str",
        "created": "float",
        "last_used": "float",
        "runs": "int",
        "running": [],
        "short": "str",
        "scripts": ["str"],
        "daemons": [],
        "in_use": "bool",
        "server": "NoneType",
        "server_build": "NoneType",
        "server_environment": "NoneType",
    }
    assert rows[0]["last_used"] >= started_at > rows[1]["last_used"]
    assert (rows[0]["runs"], rows[0]["packages"], rows[0]["engine"]) == (1, 1, "rattler")
    lines = home.cetool("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "SCRIPTS", "SPECS", "SIZE", "LAST", "USED"]
    assert re.fullmatch(rf"{rows[0]['short']}  a.sh     activated  +\d+ kB  (just now|\d+ min ago)", lines[1])
    assert lines[3] == f"2 environments, {lines[3].split(', ')[1]}, in ~/cetool/envs" and len(lines) == 4


def test_show_describes_a_script(settled: Home) -> None:
    script = settled.write("show/my_script.py", SEEDS)
    found = document(settled, "show", script)
    assert shape(found) == {
        "schema": "str",
        "script": "str",
        "sha256": "str",
        "dialect": "str",
        "lines": ["int"],
        "name": "str",
        "digest": "str",
        "prefix": "str",
        "exists": "bool",
        **SPEC_SHAPE,
        "lock": "NoneType",
        "cell": "NoneType",
        "kernel": "NoneType",
        "base": "NoneType",
        "overlay": [],
        "baselines": [],
        "baseline_packages": "NoneType",
        "without": [],
        "added": [],
        "conda": [],
        "engine": "str",
        "engine_reason": "str",
        "run_with": ["str"],
        "entrypoint": "NoneType",
        "command": ["str"],
    }
    assert found["schema"] == "cetool.show/1"
    assert (found["dialect"], found["lines"], found["name"]) == ("conda execute", [7, 10], SEEDS_NAME)
    assert found["digest"].startswith(SEEDS_NAME) and len(found["digest"]) == 64
    assert found["command"][-1] == str(script)
    text = settled.cetool("show", script).stdout
    assert "dialect:    conda execute, lines 7 to 10\n" in text and "run_with:   [/usr/bin/env, python]\n" in text
    # looking makes nothing, and standard input can be a script
    new = settled.cetool("show", "-", input="#!/bin/sh\n# conda execute\n# env: [never-made]\n")
    assert "(does not exist yet)" in new.stdout
    given = document(
        settled,
        "show",
        "--with",
        "six",
        "--channel",
        "https://me:sEcReT@example.org/c",
        "--engine",
        "rattler",
        script,
    )
    assert given["specs"] == ["numpy", "python >=3", "six"] and "sEcReT" not in str(given)
    assert (given["channels"], given["engine_reason"]) == (["https://example.org/c"], "rattler was requested")


def test_info_describes_the_installation(settled: Home) -> None:
    found = document(settled, "info", env={"CETOOL_OFFLINE": "1", "CONDA_OVERRIDE_CUDA": "12"})
    assert list(found) == [
        "schema",
        "versions",
        "paths",
        "engines",
        "engine",
        "engine_reason",
        "channels",
        "channel_alias",
        "condarc",
        "variables",
    ]
    assert found["schema"] == "cetool.info/1"
    assert [engine["name"] for engine in found["engines"]] == ["mamba", "micromamba", "conda", "rattler"]
    assert set(found["engines"][0]) == {"name", "version", "path", "how", "problem"}
    assert found["paths"]["environments"] == f"{settled.cache}/envs"
    assert found["condarc"] == [str(settled.condarc)]
    assert {"CETOOL_OFFLINE", "CONDA_OVERRIDE_CUDA"} <= set(found["variables"])
    text = settled.cetool("info").stdout
    assert "rattler" in text and str(settled.cache) in text
    assert not settled.cetool("info", "--engine", "conda").returncode


def test_version_and_help_are_printed(settled: Home) -> None:
    assert re.fullmatch(r"cetool \d+\.\d+\.\d+\S*\n", settled.cetool("--version").stdout)
    for words in (("--help",), ("-h",), ("run", "--help"), ("gc", "-h"), ("config", "--help")):
        done = settled.cetool(*words)
        assert (done.returncode, done.stderr) == (0, "") and "Usage: cetool" in done.stdout


def test_remove_takes_names_prefixes_and_scripts(home: Home) -> None:
    script = home.write("a.sh", shell_script("true", env="activated"))
    one, two, three = (
        Path(home.cetool("create", spec).stdout.strip()) for spec in ("hello-bin", "activated", "many-files")
    )
    kept = home.cetool("create", "six").stdout.strip()
    done = home.cetool("remove", one.name, f"{two.parent}/./{two.name}/", cwd=home.path)
    assert done.returncode == 0
    assert re.fullmatch(r"Removed 2 environments \(.*B\)\n", done.stderr)
    assert sorted(environments(home)) == sorted([three.name, Path(kept).name])
    home.cetool("create", "activated")
    assert home.cetool("remove", "-q", script).stderr == ""
    assert sorted(environments(home)) == sorted([three.name, Path(kept).name])
    # everything possible is done
    done = home.cetool("remove", script, "nonesuch", three.name, three.name)
    assert done.returncode == 125
    assert environments(home).keys() == {Path(kept).name}
    assert done.stderr.count("there is no environment") == 3
    assert_nothing_half_made(home)
    assert not (home.cache / "locks" / f"{three.name}.lock").exists()


def test_remove_leaves_what_is_in_use(home: Home) -> None:
    script = home.write("waits.sh", WAITS)
    with started(home, "run", script, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip()
        done = home.cetool("remove", script)
        assert done.returncode == 125
        assert f"is in use by process {pid}" in told(done.stderr)[0]
        assert len(environments(home)) == 1
        process.communicate("end\n")
    assert home.cetool("remove", script).returncode == 0
    assert environments(home) == {}


def test_remove_refuses_anything_else(home: Home) -> None:
    home.cetool("create", "hello-bin")
    other = home.path / "other"
    (other / "conda-meta").mkdir(parents=True)
    for target in (other, home.cache, home.cache / "envs", "/", "..", "", "*", f"{home.cache}/envs/../../other"):
        done = home.cetool("remove", target)
        assert done.returncode in (125, 126, 127), target
        told(done.stderr)
    assert other.is_dir() and len(environments(home)) == 1


# --- the usage log and the cache directory ----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["garbage", "truncated", "emptied", "no tables"])
def test_a_damaged_usage_log_is_rebuilt(home: Home, damage: str) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    output = home.cetool("run", script).stdout
    home.cetool("create", "activated")
    known = document(home, "list")["environments"]
    database = home.cache / "usage.sqlite3"
    if damage == "no tables":
        with sqlite3.connect(database) as connection:
            connection.execute("DROP TABLE environments")
        connection.close()
    else:
        content = database.read_bytes()
        database.write_bytes(
            {"garbage": b"x" * 9000, "truncated": content[: len(content) // 2], "emptied": b""}[damage]
        )
    done = home.cetool("run", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")
    done = home.cetool("list", "--json")
    rebuilt = json.loads(done.stdout)["environments"]
    assert sorted(row["name"] for row in rebuilt) == sorted(row["name"] for row in known)
    if damage != "emptied":
        assert done.stderr.count("cetool: warning: The usage log was damaged") == 1
        assert list(home.cache.glob("usage.sqlite3.damaged-*"))
    assert home.cetool("list").stderr == ""


def test_a_usage_log_of_a_newer_cetool_is_left_alone(home: Home) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    home.cetool("run", script)
    with sqlite3.connect(home.cache / "usage.sqlite3") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    assert home.cetool("run", script).returncode == 0
    assert home.cetool("create", "activated").returncode == 0
    done = home.cetool("list")
    assert done.returncode == 125
    assert "was written by a newer cetool" in told(done.stderr)[0]


def test_commands_work_with_a_read_only_cache(home: Home) -> None:
    script = home.write("hello.sh", shell_script('hello; test -w "$CONDA_PREFIX" || echo read-only'))
    home.cetool("run", script)
    for directory in [home.cache, *filter(Path.is_dir, home.cache.rglob("*"))]:
        directory.chmod(0o500)
    done = home.run(*bound_by_modes(), "cetool", "run", script)
    assert done.stdout.endswith("read-only\n"), done.stderr
    done = home.run(*bound_by_modes(), "cetool", "create", "activated")
    assert done.returncode == 125
    assert "is not writable" in told(done.stderr)[0]
    for command in ("list", "gc", "remove"):
        done = home.run(*bound_by_modes(), "cetool", command, *([script] if command == "remove" else []))
        assert done.returncode in (0, 125)
        assert "Traceback" not in done.stderr and "defect" not in done.stderr
    assert len(environments(home)) == 1


def test_a_cache_that_others_can_write_to_is_refused(home: Home) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    home.cetool("run", script)
    home.cache.chmod(0o777)
    for words in (("run", script), ("create", "activated"), ("gc",), ("list",), ("remove", script)):
        done = home.cetool(*words)
        assert done.returncode == 125, words
        assert "is writable by everyone" in told(done.stderr)[0]
        assert "--trust-cache-dir" in done.stderr
    assert home.cetool("run", "--trust-cache-dir", script).stdout.startswith("hello from ")
    assert home.cetool("run", script, env={"CETOOL_TRUST_CACHE_DIR": "true"}).stdout.startswith("hello from ")


def test_environments_can_be_in_another_directory(home: Home) -> None:
    home.write(
        ".condarc", home.condarc.read_text() + "conda-execute:\n  env-dir: '{config.envs_dirs[0]}/../tmp_envs'\n"
    )
    script = home.write("hello.sh", shell_script("hello"))
    prefix = home.cetool("run", script).stdout.split()[-1]
    assert Path(prefix).parent == home.path / ".conda" / "tmp_envs"
    assert document(home, "list")["environments"][0]["prefix"] == prefix
    assert held_locks(home) == []
    assert home.cetool("remove", prefix).returncode == 0
    assert not Path(prefix).exists()
    refused = home.cetool("run", script, env={"CETOOL_ENV_DIR": str(home.path / ".conda" / "envs")})
    assert refused.returncode == 125
    told(refused.stderr)


def test_a_moved_environment_is_made_again(home: Home, local_channel: Channel) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    prefix = Path(home.cetool("run", script).stdout.split()[-1])
    home.cache.rename(home.path / "moved")
    env = {"CETOOL_CACHE_DIR": str(home.path / "moved")}
    done = home.cetool("run", script, env=env)
    assert done.stdout == f"hello from {home.path}/moved/envs/{prefix.name}\n", done.stderr
    # an environment without a marker is incomplete
    made = home.path / "moved" / "envs" / prefix.name
    (made / MARKER).unlink()
    (made / "rubbish").touch()
    assert home.cetool("run", script, env=env).stdout == done.stdout
    assert not (made / "rubbish").exists()
    eventually(lambda: not list((home.path / "moved" / "trash").iterdir()))

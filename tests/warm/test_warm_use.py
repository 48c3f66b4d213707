"""A warm run's use of an environment: noted once, listed, and safe from removal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support.home import Home
from support.scripts import bound_by_modes, eventually, shell_script, started, unconfirmed
from support.warm import command, is_warm, learn, records, settle, trap

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is no warm path")


# --- noting uses ------------------------------------------------------------------------------------------------------


def _listed(home: Home) -> dict[str, object]:
    done = home.cetool("list", "--json")
    assert done.returncode == 0, done.stderr
    (environment,) = json.loads(done.stdout)["environments"]
    assert isinstance(environment, dict)
    return environment


def test_every_use_is_noted_once(home: Home) -> None:
    script = home.write("hello.sh", shell_script("exit 0"))
    learn(home, script)
    before = time.time()
    for _ in range(5):
        assert is_warm(home, script)
    listed = _listed(home)
    assert listed["runs"] == 6
    again = _listed(home)
    assert again["runs"] == 6
    assert before - 1 <= _seconds(again["last_used"]) <= time.time() + 1


def _seconds(value: object) -> float:
    import datetime

    return value if isinstance(value, float) else datetime.datetime.fromisoformat(str(value)).timestamp()


def test_a_running_script_is_listed_and_keeps_its_environment(home: Home) -> None:
    script = home.write("waits.sh", shell_script("echo ready; read line; hello"))
    home.cetool(script, input="x\n")
    settle(script)
    home.cetool(script, input="x\n")
    with started(home, script, env=trap(home), stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert _listed(home)["running"] == [process.pid]
        done = home.cetool("gc", "--older-than", "0s")
        assert "is in use" in done.stdout + done.stderr
        assert home.cetool("remove", script).returncode != 0
        out, err = process.communicate("go on\n")
        assert (process.returncode, unconfirmed(err)) == (0, "") and out.startswith("hello from ")
    home.cetool("gc", "--older-than", "0s")
    assert list((home.cache / "envs").iterdir()) == []


def test_a_run_works_with_a_spool_that_cannot_be_written(home: Home) -> None:
    script = home.write("hello.sh", shell_script("exit 0"))
    learn(home, script)
    spool = home.cache / "spool"
    shutil.rmtree(spool)
    assert is_warm(home, script)
    (spool / "uses").unlink()
    os.mkfifo(spool / "uses")
    assert is_warm(home, script)
    shutil.rmtree(spool)
    spool.touch()
    assert is_warm(home, script)


def test_a_run_works_with_a_read_only_cache(home: Home) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    learn(home, script)
    for directory in (*home.cache.glob("*/"), home.cache):
        directory.chmod(0o500)
    for path in (home.cache / "spool" / "uses", home.cache / "gc.stamp"):
        path.chmod(0o400)
    done = home.run(*bound_by_modes(), *command(script), env=trap(home))
    assert (done.returncode, unconfirmed(done.stderr)) == (0, "") and done.stdout.startswith("hello from ")


# --- concurrent removals ----------------------------------------------------------------------------------------------


def test_concurrent_runs_and_removals_do_not_interfere(home: Home, scale: int) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    other = home.write("other.sh", shell_script("hello", env="hello-bin, six"))
    for name in (script, other):
        learn(home, name)
    count = 200 * scale
    loop = f'for i in $(seq {count}); do "$@" || exit 1; done'
    remove = f"while sleep 0.1; do {sys.executable} -m cetool gc -q --older-than 0s || exit 1; done"
    collecting = subprocess.Popen(
        ["sh", "-c", remove], env=home.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        done = home.run("sh", "-c", loop, "sh", *command(script), timeout=600 * scale)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("hello from ") == count
        assert unconfirmed(done.stderr) == ""
        assert collecting.poll() is None
    finally:
        os.killpg(collecting.pid, signal.SIGKILL)
        collecting.wait()
    assert eventually(lambda: home.cetool(other).returncode == 0)
    assert records(home)

"""An environment is complete or absent, whatever interrupts its creation, and the next run makes it."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from engines import install_fakes
from support.creations import HEAVY, STAGES, alive, creations, read, wait_for_stage
from support.home import Home
from support.scripts import (
    assert_nothing_half_made,
    assert_unknown_to_conda,
    environments,
    eventually,
    held_locks,
    shell_script,
    started,
)
from support.server import ChannelServer

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")


def assert_recovers(home: Home, script: Path) -> None:
    """Check that the interrupted command works again, and that only gc has anything left to remove."""
    done = home.cetool("run", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"hello from {home.cache}/envs/{next(iter(environments(home)))}\n"
    assert len(environments(home)) == 1
    assert held_locks(home) == []
    assert_unknown_to_conda(home)
    assert home.cetool("gc").returncode == 0
    assert_nothing_half_made(home)
    assert len(environments(home)) == 1


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
def test_a_kill_at_any_stage_leaves_no_half_environment(
    home: Home, slow: ChannelServer, stage: str, group: bool
) -> None:
    script = home.write("heavy.sh", HEAVY)
    with started(home, "run", "-v", script) as process:
        wait_for_stage(process, stage)
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    slow.faults.clear()
    assert_recovers(home, script)


def test_kills_at_random_moments_leave_no_half_environment(home: Home, slow: ChannelServer) -> None:
    script = home.write("heavy.sh", HEAVY)
    moments = random.Random(1)
    for _ in range(6):
        with started(home, "run", script) as process:
            time.sleep(moments.uniform(0.1, 1.2))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
    slow.faults.clear()
    assert_recovers(home, script)


@pytest.mark.parametrize("engine", ["conda", "micromamba"])
def test_a_kill_also_ends_the_engines_program(home: Home, engine: str) -> None:
    install_fakes(home.bin, engine)
    script = home.write("heavy.sh", HEAVY)
    asked = home.path / "asked.jsonl"
    env = {"FAKE_ENGINE_LOG": str(asked)}
    for kill, fault in ((os.kill, ""), (os.killpg, ""), (os.kill, "hang"), (os.kill, "hang-after-registering")):
        with started(home, "run", script, env={**env, "FAKE_ENGINE_FAULT": fault}) as process:
            eventually(lambda: any(map(alive, creations(asked))))
            kill(process.pid, signal.SIGKILL)
            process.wait(60)
        eventually(lambda: not any(map(alive, creations(asked))))
        for entry in read(asked):
            if "child" in entry and alive(entry["child"]):
                os.kill(entry["child"], signal.SIGKILL)  # the fake engine's, out of reach
    assert_recovers(home, script)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_at_any_stage_leaves_nothing(
    home: Home, slow: ChannelServer, stage: str, signum: signal.Signals
) -> None:
    script = home.write("heavy.sh", HEAVY)
    with started(home, "run", "-v", script) as process:
        wait_for_stage(process, stage)
        os.killpg(process.pid, signum)
        rest = process.communicate(timeout=60)[1]
        assert process.returncode == 128 + signum, rest
        assert "Traceback" not in rest and "defect" not in rest
    assert environments(home) == {}
    assert_nothing_half_made(home)


@pytest.mark.parametrize("engine", ["conda", "micromamba"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_engines_program(home: Home, engine: str, signum: signal.Signals) -> None:
    install_fakes(home.bin, engine)
    asked = home.path / "asked.jsonl"
    env = {"FAKE_ENGINE_LOG": str(asked), "FAKE_ENGINE_FAULT": "hang"}
    with started(home, "create", "hello-bin", env=env) as process:
        eventually(lambda: len(read(asked)) == 2)
        os.killpg(process.pid, signum)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 128 + signum
    assert not any(alive(entry.get("pid", entry.get("child", 0))) for entry in read(asked))
    assert environments(home) == {}
    assert_nothing_half_made(home)


def test_an_interrupted_wait_does_not_interrupt_the_creation(home: Home) -> None:
    install_fakes(home.bin, "micromamba")
    asked = home.path / "asked.jsonl"
    env = {"FAKE_ENGINE_LOG": str(asked), "FAKE_ENGINE_FAULT": "hang"}
    script = home.write("hello.sh", shell_script("hello"))
    with started(home, "run", script, env=env) as maker:
        eventually(lambda: creations(asked))
        with started(home, "run", "-v", script) as waiting:
            wait_for_stage(waiting, f"Waiting for process {maker.pid} (for {script})")
            os.kill(waiting.pid, signal.SIGINT)
            assert waiting.wait(60) == 130
        with started(home, "run", script) as heir:
            # another process finishes what the first did not
            os.kill(maker.pid, signal.SIGTERM)
            assert maker.wait(60) == 143
            assert heir.communicate(timeout=120)[0].startswith("hello from ")
            assert heir.returncode == 0
    assert len(creations(asked)) == 1  # the other process keeps no log
    assert_nothing_half_made(home)


def test_an_interrupted_refresh_keeps_the_old_environment(home: Home) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    before = home.cetool("run", script).stdout
    made = environments(home)
    install_fakes(home.bin, "conda")
    env = {"FAKE_ENGINE_LOG": str(home.path / "asked.jsonl"), "FAKE_ENGINE_FAULT": "hang"}
    with started(home, "run", "--refresh", script, env=env) as process:
        eventually(lambda: creations(home.path / "asked.jsonl"))
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    done = home.cetool("run", "--refresh", script, env={"FAKE_ENGINE_FAULT": "transcript:24-bad-option"})
    assert done.returncode == 125
    assert environments(home) == made
    assert home.cetool("run", script).stdout == before
    assert_nothing_half_made(home)

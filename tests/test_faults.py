"""What goes wrong in the world: kills, interrupts, races, dead servers, specs that cannot be had, secrets to keep."""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from engines import install_fakes
from support.home import Home
from support.scripts import (
    assert_nothing_half_made,
    assert_unknown_to_conda,
    environments,
    eventually,
    held_locks,
    shell_script,
    started,
    told,
)
from support.server import ChannelServer, Fault

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")

#: Takes its time in every stage: 6 MB to download, 400 files to link.
HEAVY = shell_script("hello", env="hello-bin, bigpkg, many-files")
STAGES = ("Engine:", "Fetching", "Downloading", "Linking")


@pytest.fixture
def slow(home: Home, server: ChannelServer) -> ChannelServer:
    """A channel whose repodata and largest package take a while."""
    home.condarc.write_text(f"channel_alias: {server.url}\nchannels: [conda-forge]\n")
    server.faults += [Fault("*/repodata.json*", "slow", seconds=0.3), Fault("*bigpkg*", "slow", seconds=1.0)]
    return server


def wait_for_stage(process: subprocess.Popen[str], stage: str) -> None:
    """Read what a verbose cetool says until this stage begins."""
    assert process.stderr is not None
    heard = []
    for line in process.stderr:
        heard.append(line)
        if line.startswith(stage):
            return
    raise AssertionError("".join(heard))


def assert_recovers(home: Home, script: Path) -> None:
    """The command that was broken off works, and what it left is gone but for what gc clears."""
    done = home.cetool("run", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"hello from {home.cache}/envs/{next(iter(environments(home)))}\n"
    assert len(environments(home)) == 1
    assert held_locks(home) == []
    assert_unknown_to_conda(home)
    assert home.cetool("gc").returncode == 0
    assert_nothing_half_made(home)
    assert len(environments(home)) == 1


# --- kills and interrupts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
def test_killed_while_it_makes_an_environment(home: Home, slow: ChannelServer, stage: str, group: bool) -> None:
    script = home.write("heavy.sh", HEAVY)
    with started(home, "run", "-v", script) as process:
        wait_for_stage(process, stage)
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    slow.faults.clear()
    assert_recovers(home, script)


def test_killed_at_any_moment(home: Home, slow: ChannelServer) -> None:
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
def test_killed_together_with_a_program_that_makes_it(home: Home, engine: str) -> None:
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
                os.kill(entry["child"], signal.SIGKILL)  # the fake's own, which nothing reaches
    assert_recovers(home, script)


def read(asked: Path) -> list[dict[str, int]]:
    """What the fake engines wrote down."""
    return [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []


def creations(asked: Path) -> list[int]:
    """The processes of the fake engines that were asked for an environment."""
    return [entry["pid"] for entry in read(asked) if "pid" in entry]


def alive(pid: int) -> bool:
    """Whether there is such a process, and no mere zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_makes_an_environment(
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
def test_interrupted_while_a_program_makes_it(home: Home, engine: str, signum: signal.Signals) -> None:
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


def test_interrupted_while_it_waits_for_another(home: Home) -> None:
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
            # what the first did not finish another does
            os.kill(maker.pid, signal.SIGTERM)
            assert maker.wait(60) == 143
            assert heir.communicate(timeout=120)[0].startswith("hello from ")
            assert heir.returncode == 0
    assert len(creations(asked)) == 1  # the heir keeps no log
    assert_nothing_half_made(home)


def test_a_refresh_that_is_interrupted_leaves_the_old_one(home: Home) -> None:
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


# --- races ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["rattler", "conda"])
def test_twenty_at_once_start_one_engine(home: Home, engine: str, scale: int) -> None:
    count = 20 * scale
    if engine == "conda":
        install_fakes(home.bin, engine)
    asked = home.path / "asked.jsonl"
    script = home.write("heavy.sh", HEAVY)
    command = ["cetool", "run", "-v", str(script)]
    env = home.environment({"FAKE_ENGINE_LOG": str(asked)})
    running = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    results = [(*process.communicate(timeout=300), process.returncode) for process in running]
    assert [status for _, _, status in results] == [0] * count, results
    [name] = environments(home)
    assert {output for output, _, _ in results} == {f"hello from {home.cache}/envs/{name}\n"}
    assert sum("\nCreated " in said for _, said, _ in results) == 1
    assert len(creations(asked)) == (1 if engine == "conda" else 0)
    assert held_locks(home) == []
    [row] = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert (row["runs"], row["running"], row["engine"]) == (count, [], engine)
    assert_nothing_half_made(home)


def test_different_environments_are_made_side_by_side(home: Home) -> None:
    specs = ["hello-bin", "many-files", "six", "hello-bin six"]
    for engine in ("rattler", "conda"):
        install_fakes(home.bin, "conda")
        processes = [
            subprocess.Popen(
                ["cetool", "create", "--engine", engine, "--refresh", *spec.split()],
                env=home.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for spec in specs
        ]
        for process in processes:
            output, said = process.communicate(timeout=300)
            assert process.returncode == 0 and Path(output.strip()).is_dir(), said
    assert len(environments(home)) == len(specs)
    assert_nothing_half_made(home)


# --- channels and specs that do not serve ---------------------------------------------------------------------------


@pytest.fixture
def refused() -> Iterator[str]:
    """The URL of a port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def fails(home: Home, *words: str | Path, env: dict[str, str | None] | None = None) -> str:
    """The one paragraph of a creation that cannot succeed, after a look at what it left."""
    done = home.cetool(*words, env=env)
    assert (done.returncode, done.stdout) == (125, ""), done.stderr
    lines = told(done.stderr)
    assert len(lines) <= 4
    assert environments(home) == {}
    assert_nothing_half_made(home)
    return "\n".join(lines)


@pytest.mark.parametrize("engine", ["rattler", "conda", "micromamba"])
def test_specs_that_cannot_be_had(home: Home, engine: str) -> None:
    if engine != "rattler":
        install_fakes(home.bin, engine)
    typo = home.write("typo.sh", shell_script("true", env="hello-bin, numpyy >=2"))
    text = fails(home, "run", typo)
    assert "numpyy" in text and "Traceback" not in text
    text = fails(home, "create", "conflict-a", "conflict-b")
    assert "conflict-a" in text and "conflict-b" in text and "shared-lib" in text
    assert "does-not-exist" in fails(home, "create", "missingdep")
    assert "3.1415" in fails(home, "create", "python 3.1415.*")
    # what the engine printed is kept
    log = re.search(r"All that was printed is in (\S+)", text)
    assert log is not None and Path(log[1]).stat().st_size


@pytest.mark.parametrize("engine", ["rattler", "micromamba"])
def test_a_channel_that_refuses_the_connection(home: Home, refused: str, engine: str) -> None:
    if engine != "rattler":
        install_fakes(home.bin, engine)
    text = fails(home, "create", "hello-bin", "--channel", f"{refused}/conda-forge")
    assert f"{refused}/conda-forge" in text


def test_a_channel_that_never_answers(home: Home, server: ChannelServer) -> None:
    server.faults.append(Fault("*", "hang"))
    url = f"{server.url}/conda-forge"
    text = fails(home, "create", "hello-bin", "--channel", url, env={"CETOOL_STALL_TIMEOUT": "1.5"})
    assert "1.5 seconds" in text and url in text


def test_a_package_that_never_arrives(home: Home, server: ChannelServer) -> None:
    url = f"{server.url}/conda-forge"
    server.faults.append(Fault("*bigpkg*", "hang"))
    text = fails(home, "create", "bigpkg", "--channel", url, env={"CETOOL_STALL_TIMEOUT": "1.5"})
    assert "1.5 seconds" in text
    server.faults[:] = [Fault("*bigpkg*", "truncate")]
    assert "bigpkg" in fails(home, "create", "bigpkg", "--channel", url)
    server.faults.clear()
    assert home.cetool("create", "bigpkg", "--channel", url).returncode == 0


def test_an_engine_that_stands_still(home: Home) -> None:
    install_fakes(home.bin, "conda")
    text = fails(home, "create", "hello-bin", env={"FAKE_ENGINE_FAULT": "hang", "CETOOL_STALL_TIMEOUT": "1.5s"})
    assert "conda showed no sign of progress for 1.5 seconds" in text


def test_an_engine_that_lies(home: Home) -> None:
    install_fakes(home.bin, "micromamba")
    for fault in ("no-env", "half"):
        text = fails(home, "create", "hello-bin", env={"FAKE_ENGINE_FAULT": fault})
        assert "reported success, but" in text


def test_a_wrong_setting_names_its_place(home: Home) -> None:
    file = home.write(".config/cetool/config.yaml", "# mine\nremove-if-unused: 5\n")
    assert f"{file}:2: there is no setting 'remove-if-unused'" in fails(home, "create", "hello-bin")
    file.write_text("max-size: 20\n")
    assert f"{file}:1: max-size " in fails(home, "run", "missing.py")
    file.unlink()
    assert "CETOOL_ENGINE: " in fails(home, "create", "hello-bin", env={"CETOOL_ENGINE": "condaa"})
    home.condarc.write_text("channels: [a\n")
    assert f"{home.condarc}:" in fails(home, "create", "hello-bin")


# --- a terminal ---------------------------------------------------------------------------------------------------


def test_a_terminal_is_shown_progress_and_given_back(home: Home, slow: ChannelServer) -> None:
    import pty
    import termios

    script = home.write("heavy.sh", HEAVY)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    env = home.environment({"TERM": "xterm", "COLUMNS": "100"})
    process = subprocess.Popen(
        ["cetool", "run", str(script)], env=env, stdin=slave, stdout=subprocess.PIPE, stderr=slave
    )
    shown = b""
    while process.poll() is None or select.select([master], [], [], 0.2)[0]:
        if select.select([master], [], [], 0.2)[0]:
            shown += os.read(master, 65536)
    assert process.stdout is not None
    assert process.stdout.read().startswith(b"hello from ") and process.returncode == 0, shown
    assert termios.tcgetattr(slave) == before
    process.stdout.close()
    os.close(master)
    os.close(slave)
    text = shown.decode()
    assert "Downloading" in text
    assert re.search(r"Created [0-9a-f]{20} \(hello-bin, bigpkg, many-files; 3 packages, [\d.]+ MB\) in ", text)
    assert "\x1b[?25l" not in text  # the cursor was never hidden

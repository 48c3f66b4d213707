"""A failed creation ends with one paragraph that names the cause, and leaves nothing."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import (
    assert_nothing_half_made,
    environments,
    shell_script,
    told,
)
from support.server import ChannelServer, Fault

from engines import install_fakes

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")


@pytest.fixture
def refused() -> Iterator[str]:
    """The URL of a port where no server listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def fails(home: Home, *words: str | Path, env: dict[str, str | None] | None = None) -> str:
    """Return the paragraph of a failed creation, after checking that it left nothing."""
    done = home.cetool(*words, env=env)
    assert (done.returncode, done.stdout) == (125, ""), done.stderr
    lines = told(done.stderr)
    assert len([line for line in lines if not line.startswith("  ")]) <= 4
    assert environments(home) == {}
    assert_nothing_half_made(home)
    return "\n".join(lines)


@pytest.mark.parametrize("engine", ["rattler", "conda", "micromamba"])
def test_unsatisfiable_specs_are_named(home: Home, engine: str) -> None:
    if engine != "rattler":
        install_fakes(home.bin, engine)
    typo = home.write("typo.sh", shell_script("true", env="hello-bin, numpyy >=2"))
    text = fails(home, "run", typo)
    assert "numpyy" in text and "Traceback" not in text
    text = fails(home, "create", "conflict-a", "conflict-b")
    assert "conflict-a" in text and "conflict-b" in text and "shared-lib" in text
    assert "does-not-exist" in fails(home, "create", "missingdep")
    assert "3.1415" in fails(home, "create", "python 3.1415.*")
    # the engine's output is kept
    log = re.search(r"The engine's log is (\S+)", text)
    assert log is not None and Path(log[1]).stat().st_size


@pytest.mark.parametrize("engine", ["rattler", "micromamba"])
def test_a_channel_that_refuses_connections_is_named(home: Home, refused: str, engine: str) -> None:
    if engine != "rattler":
        install_fakes(home.bin, engine)
    text = fails(home, "create", "hello-bin", "--channel", f"{refused}/conda-forge")
    assert f"{refused}/conda-forge" in text


def test_a_channel_that_never_answers_times_out(home: Home, server: ChannelServer) -> None:
    server.faults.append(Fault("*", "hang"))
    url = f"{server.url}/conda-forge"
    text = fails(home, "create", "hello-bin", "--channel", url, env={"CETOOL_STALL_TIMEOUT": "1.5"})
    assert "1.5 seconds" in text and url in text


def test_a_package_that_never_arrives_times_out(home: Home, server: ChannelServer) -> None:
    url = f"{server.url}/conda-forge"
    server.faults.append(Fault("*bigpkg*", "hang"))
    text = fails(home, "create", "bigpkg", "--channel", url, env={"CETOOL_STALL_TIMEOUT": "1.5"})
    assert "1.5 seconds" in text
    server.faults[:] = [Fault("*bigpkg*", "truncate")]
    assert "bigpkg" in fails(home, "create", "bigpkg", "--channel", url)
    server.faults.clear()
    assert home.cetool("create", "bigpkg", "--channel", url).returncode == 0


def test_an_engine_without_progress_is_stopped(home: Home) -> None:
    install_fakes(home.bin, "conda")
    text = fails(home, "create", "hello-bin", env={"FAKE_ENGINE_FAULT": "hang", "CETOOL_STALL_TIMEOUT": "1.5s"})
    assert "conda made no progress for 1.5 seconds" in text


def test_a_false_success_of_an_engine_is_detected(home: Home) -> None:
    install_fakes(home.bin, "micromamba")
    for fault in ("no-env", "half"):
        text = fails(home, "create", "hello-bin", env={"FAKE_ENGINE_FAULT": fault})
        assert "reported success, but" in text


def test_a_wrong_setting_is_reported_with_its_place(home: Home) -> None:
    file = home.write(".config/cetool/config.yaml", "# mine\nremove-if-unused: 5\n")
    assert f"{file}:2: unknown setting 'remove-if-unused'" in fails(home, "create", "hello-bin")
    file.write_text("max-size: 20\n")
    assert f"{file}:1: max-size: " in fails(home, "run", "missing.py")
    file.unlink()
    assert "CETOOL_ENGINE: " in fails(home, "create", "hello-bin", env={"CETOOL_ENGINE": "condaa"})
    home.condarc.write_text("channels: [a\n")
    assert f"{home.condarc}:" in fails(home, "create", "hello-bin")

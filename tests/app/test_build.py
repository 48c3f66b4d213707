"""Builds for a server, by the real process: what it makes, what link scripts can do, and what is left after a kill."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.build_process import WITHOUT_NAMESPACES, BuildProcess, named, request, write_hostile_channel
from support.home import Home

from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.store.store import valid_marker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a channel whose link scripts misbehave."""
    return write_hostile_channel(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def data(home: Home) -> Path:
    """A server's data directory."""
    path = home.path / "data"
    path.mkdir(mode=0o700)
    (path / "secret").write_text("the key")
    return path


@pytest.fixture
def builder(home: Home) -> Iterator[BuildProcess]:
    """A process that builds."""
    with BuildProcess({**home.environment(), "SECRET_OF_SERVER": "hidden"}) as process:
        yield process


def left(data: Path) -> list[str]:
    """Return the command lines of processes that have something of this directory, or of a link script."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        info = process.info
        if info["status"] != psutil.STATUS_ZOMBIE and str(data) in f"{info['cwd']} {info['cmdline']}":
            found.append(" ".join(info["cmdline"] or []))
    return found


def environments(data: Path) -> list[str]:
    """Return the names of all directories of environments, complete or not."""
    return sorted(os.listdir(data / "envs")) if (data / "envs").exists() else []


def test_build_makes_an_environment_and_keeps_the_archives(builder: BuildProcess, data: Path) -> None:
    events = builder.build(request(1, data, "hello-bin", "postlink"))
    assert events[-1] == {"event": "done"}
    lock, realized = named(events, "lock")["lock"], named(events, "realized")
    assert realized["created"]
    marker = valid_marker(data / "envs" / realized["name"])
    assert marker is not None and marker.packages == 2 == len(lock["conda"])
    assert (data / "envs" / realized["name"] / "postlink.txt").read_text() == "postlink\n"
    for package in lock["conda"]:
        archive = data / "blobs" / "sha256" / package["sha256"][:2] / package["sha256"]
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == package["sha256"]
    assert os.listdir(data / "scratch") == []


def test_build_with_a_known_lock_makes_nothing(builder: BuildProcess, data: Path) -> None:
    first = named(builder.build(request(1, data, "hello-bin")), "realized")
    events = builder.build(request(2, data, "hello-bin", "hello-bin >=1"))
    assert named(events, "realized") == {**first, "created": False}
    assert len(environments(data)) == 1


def test_build_without_the_archive_of_a_cached_package_fetches_it_again(builder: BuildProcess, data: Path) -> None:
    events = builder.build(request(1, data, "hello-bin"))
    digest = named(events, "lock")["lock"]["conda"][0]["sha256"]
    archive = data / "blobs" / "sha256" / digest[:2] / digest
    archive.write_bytes(b"damaged")
    builder.build(request(2, data, "hello-bin", "activated"))
    archive.unlink()
    events = builder.build(request(3, data, "hello-bin", "postlink"))
    assert events[-1] == {"event": "done"}
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest


def test_pypi_packages_are_kept_as_wheels_and_installed_without_the_network(builder: BuildProcess, data: Path) -> None:
    message = request(1, data, "python")
    (wish,) = message["platforms"]
    spec = EnvironmentSpec(Solve(("python",), ("idna",)), channels=("conda-forge",))
    wish |= {"spec": spec.as_dict(), "request": spec.digest}
    events = builder.build(message)
    assert events[-1] == {"event": "done"}, events[-1]
    (package,) = named(events, "lock")["lock"]["pypi"]
    assert (
        package["name"] == "idna" and (data / "blobs" / "sha256" / package["sha256"][:2] / package["sha256"]).exists()
    )
    prefix = data / "envs" / named(events, "realized")["name"]
    done = subprocess.run([prefix / "bin" / "python", "-c", "import idna"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_build_locks_other_platforms_without_making_them(builder: BuildProcess, data: Path) -> None:
    message = request(1, data, "hello-bin")
    (here,) = message["platforms"]
    message["platforms"] = [{**here, "platform": "osx-arm64"}, here]
    events = builder.build(message)
    assert events[-1] == {"event": "done"}
    assert [each["platform"] for each in events if each["event"] == "lock"] == ["osx-arm64", here["platform"]]
    assert len(environments(data)) == 1


def test_build_that_cannot_be_solved_is_not_transient(builder: BuildProcess, data: Path) -> None:
    *_, failed = builder.build(request(1, data, "conflict-a", "conflict-b"))
    assert (failed["event"], failed["code"], failed["transient"]) == ("failed", "spec-unsatisfiable", False)
    assert failed["details"]


def test_build_from_a_channel_that_does_not_answer_is_transient(builder: BuildProcess, data: Path) -> None:
    *_, failed = builder.build(request(1, data, "hello-bin", channels=("http://127.0.0.1:9/none",)))
    assert (failed["code"], failed["transient"]) == ("channel-unreachable", True)


def test_link_scripts_see_no_network_no_secrets_and_change_only_their_environment(
    builder: BuildProcess, data: Path, hostile: str
) -> None:
    if builder.ready["sandbox"]:  # type: ignore[index]
        pytest.skip(f"no sandbox here: {builder.ready['sandbox']}")  # type: ignore[index]
    (data / "logs").mkdir()
    (data / "logs" / "1.log").write_text("another build's")
    events = builder.build(request(1, data, "curious", channels=(hostile,)))
    prefix = data / "envs" / named(events, "realized")["name"]
    seen = (prefix / "seen").read_text()
    assert "the key" not in seen and "1.log" not in seen and "SECRET_OF_SERVER" not in seen
    assert "cat: /etc/shadow: " in seen
    assert "/dev/mem" in seen and seen.count("No such file") >= 2
    interfaces = (prefix / "interfaces").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    assert environments(data) == [prefix.name]
    assert not (data / "secret2").exists() and not Path("/usr/cetool-was-here").exists()


def test_link_scripts_cannot_change_files_of_other_environments(
    builder: BuildProcess, data: Path, hostile: str
) -> None:
    texts = []
    for number, specs in enumerate([("plain",), ("plain", "vandal"), ("plain", "plain >=1")]):
        name = named(builder.build(request(number, data, *specs, channels=(hostile,))), "realized")["name"]
        texts.append(data / "envs" / name / "share" / "hello" / "plain.txt")
    assert [path.read_text() for path in texts] == ["plain\n", "plain\nvandalized\n", "plain\n"]


@pytest.mark.parametrize(
    ("package", "limits", "code"),
    [
        ("bomb", {"processes": 100}, "build-limit-exceeded"),
        ("endless", {}, "build-limit-exceeded"),
        ("hungry", {"memory": 600 << 20}, "memory-exceeded"),
        ("sleeper", {"seconds": 2.0}, "build-timed-out"),
        ("sleeper", {"stall": 1.0}, "engine-stalled"),
        ("failing", {}, "link-script-failed"),
    ],
)
def test_link_script_without_measure_ends_with_a_reason_and_leaves_nothing(
    builder: BuildProcess, data: Path, hostile: str, package: str, limits: dict[str, float], code: str
) -> None:
    *_, failed = builder.build(request(1, data, package, channels=(hostile,), **limits))
    assert (failed["event"], failed["code"]) == ("failed", code)
    assert environments(data) == []
    assert left(data) == []
    assert builder.build(request(2, data, "hello-bin"))[-1] == {"event": "done"}


def test_daemon_of_a_link_script_ends_with_the_build(builder: BuildProcess, data: Path, hostile: str) -> None:
    before = {process.pid for process in psutil.process_iter() if process.name() == "sleep"}
    assert builder.build(request(1, data, "daemon", channels=(hostile,)))[-1] == {"event": "done"}
    assert {process.pid for process in psutil.process_iter() if process.name() == "sleep"} <= before


def test_cancel_ends_a_build_in_any_step(builder: BuildProcess, data: Path, hostile: str) -> None:
    builder.send(request(1, data, "sleeper", channels=(hostile,)))
    builder.until("stage", text="Linking")
    builder.send({"cancel": 7})
    builder.send({"cancel": 1})
    *_, failed = builder.events()
    assert failed["code"] == "build-canceled"
    assert "while linking" in failed["message"]
    builder.send({"cancel": 1})
    assert builder.build(request(2, data, "hello-bin"))[-1] == {"event": "done"}
    assert len(environments(data)) == 1


def test_a_machine_that_cannot_confine_says_so_and_ends_what_link_scripts_left(
    home: Home, data: Path, hostile: str
) -> None:
    if subprocess.run([*WITHOUT_NAMESPACES, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare, and user namespaces to hide them")
    with BuildProcess(home.environment(), within=WITHOUT_NAMESPACES) as builder:
        assert builder.ready is not None and builder.ready["sandbox"]
        before = {process.pid for process in psutil.process_iter() if process.name() == "sleep"}
        assert builder.build(request(1, data, "daemon", channels=(hostile,)))[-1] == {"event": "done"}
        assert {process.pid for process in psutil.process_iter() if process.name() == "sleep"} <= before
        *_, failed = builder.build(request(2, data, "sleeper", channels=(hostile,), seconds=2.0))
        assert failed["code"] == "build-timed-out"
        assert left(data) == []


@pytest.mark.parametrize("victim", ["builder", "input", "step"])
@pytest.mark.parametrize("after", range(0, 6, 2))
def test_kill_at_any_step_leaves_no_process_and_the_next_build_succeeds(
    home: Home, data: Path, victim: str, after: int
) -> None:
    with BuildProcess(home.environment()) as builder:
        builder.send(request(1, data, "hello-bin", "many-files"))
        for _, event in zip(range(after), builder.events(), strict=False):
            if event["event"] in ("done", "failed"):
                break
        family = psutil.Process(builder.process.pid).children(recursive=True)
        if victim == "builder":
            os.kill(builder.process.pid, signal.SIGKILL)
        elif victim == "input":
            assert builder.process.stdin is not None
            builder.process.stdin.close()
        else:
            for each in family:
                with pytest.MonkeyPatch.context():
                    os.kill(each.pid, signal.SIGKILL)
            events = list(builder.events())
            assert not events or events[-1]["event"] == "done" or events[-1]["code"] == "build-crashed"
        if victim != "step":
            builder.process.wait(10)
        deadline = time.monotonic() + 10
        while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with BuildProcess(home.environment()) as builder:
        assert builder.build(request(1, data, "hello-bin", "many-files"))[-1] == {"event": "done"}
    (name,) = environments(data)
    assert valid_marker(data / "envs" / name) is not None

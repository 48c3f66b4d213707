"""Builders of a server: what they make, and that nothing is lost whenever one is killed, stopped or canceled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.build_process import WITHOUT_NAMESPACES, write_hostile_channel
from support.building import ADMIN, Builders
from support.home import Home
from support.server import ChannelServer, Fault

from cetool.remote.records import opened
from cetool.server.artifacts import lock_file
from cetool.server.builds import logs
from cetool.server.data import answers, builds, environments, locks, namespaces
from cetool.server.submitting import Submission, rebuild, submit
from cetool.store.store import valid_marker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")


@pytest.fixture
def builders(home: Home) -> Iterator[Builders]:
    """Two builders."""
    with Builders(home) as found:
        yield found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a channel whose link scripts misbehave."""
    return write_hostile_channel(tmp_path_factory.mktemp("hostile"))


def log_of(builders: Builders, number: int) -> str:
    """Return a build's log."""
    return logs.read(builders.data, number)[0].decode()


def test_build_has_a_lock_a_signed_answer_a_link_and_a_log(builders: Builders) -> None:
    number = builders.ask("team/web", "hello-bin", "postlink").build_id
    found = builders.wait(number)
    assert (found.status, found.reason) == ("COMPLETED", "made an environment of 2 packages")
    (part,) = found.platforms
    with builders.server.database.read() as tx:
        answer = answers.find(tx, part.platform, part.request)
    assert answer is not None
    record = opened(answer.record, builders.server.signer.public)
    assert (record.request, record.build, record.environment) == (part.request, number, "team/web")
    assert record.spec.exactly(record.conda, record.pypi).name == part.realization
    link = builders.data / "names" / "team" / "web"
    assert valid_marker(Path(os.path.realpath(link))) is not None
    text = log_of(builders, number)
    assert f"Build {number} of team/web, requested by root (api)" in text.splitlines()[0]
    assert "packages hello-bin, postlink" in text and "Completed: 2 packages" in text.splitlines()[-1]
    for digest in (package.sha256 for package in record.conda):
        assert digest is not None and builders.server.files.blob(digest) is not None
    builders.check()


def test_the_same_request_under_another_name_is_complete_at_once(builders: Builders) -> None:
    first = builders.wait(builders.ask("team/web", "hello-bin").build_id)
    second = builders.ask("team/other", "hello-bin")
    assert (second.status, second.created) == ("COMPLETED", True)
    links = [os.readlink(builders.data / "names" / "team" / name) for name in ("web", "other")]
    assert links[0] == links[1] and str(first.platforms[0].realization) in links[0]


def test_requests_of_fifty_users_at_once_are_one_build(builders: Builders) -> None:
    numbers = [builders.ask(f"team{user % 7}/e{user}", "hello-bin", "many-files").build_id for user in range(50)]
    assert len(set(numbers)) == 50
    assert {builders.wait(number).status for number in numbers} == {"COMPLETED"}
    assert sum("Solving" in log_of(builders, number) for number in numbers) == 1
    assert len(os.listdir(builders.data / "envs")) == 1
    builders.check()


def test_unsatisfiable_requests_are_not_repeated(builders: Builders) -> None:
    found = builders.wait(builders.ask("team/web", "conflict-a", "conflict-b").build_id)
    assert (found.status, found.code, found.attempts) == ("FAILED", "spec-unsatisfiable", 1)
    assert found.reason == "these packages conflict: conflict-a, conflict-b"
    assert "shared-lib" in log_of(builders, found.id)
    assert not (builders.data / "names" / "team").exists()


def test_network_failures_are_repeated(home: Home, server: ChannelServer) -> None:
    home.condarc.write_text(f"channel_alias: {server.url}\nchannels: [conda-forge]\nremote_max_retries: 0\n")
    fault = Fault("*/noarch/hello-bin*", "status", status=503)
    server.faults.append(fault)
    with Builders(home, retries=20) as builders:
        number = builders.ask("team/web", "hello-bin").build_id
        while builders.get(number).attempts < 2:
            time.sleep(0.01)
        server.faults.remove(fault)
        found = builders.wait(number)
        assert (found.status, found.attempts >= 2) == ("COMPLETED", True)
        assert "Back in the queue: attempt 1 failed: " in log_of(builders, number)


def test_a_build_that_always_crashes_ends_with_a_reason(builders: Builders, hostile: str) -> None:
    number = builders.ask("team/web", "sleeper", channel=hostile).build_id
    killed: set[int] = set()
    while not builders.get(number).is_finished:
        assert builders.process is not None
        for process in psutil.Process(builders.process.pid).children(recursive=True):
            if "sleep 600" in " ".join(_words(process)) and process.pid not in killed:
                killed.add(process.pid)
                with contextlib.suppress(psutil.Error):
                    process.parent().kill()  # type: ignore[union-attr]
        time.sleep(0.02)
    found = builders.get(number)
    assert (found.status, found.code, found.attempts) == ("FAILED", "build-crashed", 4)
    assert found.reason == "the build crashed (SIGKILL) while linking"
    assert os.listdir(builders.data / "envs") == []


@pytest.mark.parametrize("stage", ["queued", "Solving", "Downloading", "Linking", "ended"])
def test_cancel_in_every_phase_and_twice(builders: Builders, hostile: str, stage: str) -> None:
    channel, spec = (hostile, "sleeper") if stage == "Linking" else (None, "bigpkg")
    number = builders.ask("team/web", spec, channel=channel).build_id
    if stage == "ended":
        builders.wait(number)
    elif stage != "queued":
        next((each for each in builders.stages(number) if each == stage), None)
    for _ in range(2):
        with builders.server.database.write() as tx:
            status = builds.cancel(tx, number, "ana")
        assert status in ("CANCELED", "COMPLETED")
    found = builders.get(number)
    if stage == "Linking":
        assert (found.status, found.reason) == ("CANCELED", "canceled by ana")
        wait_until_gone(builders, "sleep 600")
    if stage == "ended":
        assert found.status == "COMPLETED"
    again = builders.ask("team/web", "hello-bin").build_id
    assert builders.wait(again).status == "COMPLETED"
    builders.check()


def wait_until_gone(builders: Builders, command: str) -> None:
    """Wait until no process of the builders has this in its command line."""
    assert builders.process is not None
    deadline = time.monotonic() + 10
    while any(command in " ".join(_words(each)) for each in psutil.Process(builders.process.pid).children(True)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("moment", (0, 2, 3, 5, 7))
def test_a_killed_server_loses_no_build(home: Home, moment: int) -> None:
    with Builders(home) as builders:
        number = builders.ask("team/web", "hello-bin", "many-files").build_id
        other = builders.ask("lab/web", "postlink").build_id
        seen = 0
        while seen < moment and not builders.get(number).is_finished:
            seen += 1
            size = len(log_of(builders, number))
            deadline = time.monotonic() + 2
            while len(log_of(builders, number)) == size and time.monotonic() < deadline:
                time.sleep(0.002)
        assert builders.process is not None
        family = psutil.Process(builders.process.pid).children(recursive=True)
        builders.kill()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        builders.check()
        builders.start()
        assert [builders.wait(each).status for each in (number, other)] == ["COMPLETED"] * 2
        builders.check()
        assert len(os.listdir(builders.data / "envs")) == 2
        assert os.listdir(builders.data / "scratch") == []


def test_a_holder_that_was_stopped_past_its_lease_changes_nothing(home: Home, hostile: str) -> None:
    with Builders(home, lease=1.0, workers=1) as builders:
        number = builders.ask("team/web", "hello-bin", "many-files", "bigpkg").build_id
        next(builders.stages(number))
        first = builders.process
        assert first is not None
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(1.5)
        builders.start()  # another server on the same data
        if (builders.get(number).status, builders.get(number).attempts) != ("COMPLETED", 1):
            found = builders.wait(number)
            assert (found.status, found.attempts) == ("COMPLETED", 2)
        before = builders.get(number)
        os.kill(first.pid, signal.SIGCONT)
        time.sleep(1.0)
        assert builders.get(number) == before
        first.kill()
        first.wait()
        builders.check()


def test_a_stopped_server_puts_its_builds_back(home: Home, hostile: str) -> None:
    with Builders(home, workers=1) as builders:
        number = builders.ask("team/web", "sleeper", channel=hostile).build_id
        next(each for each in builders.stages(number) if each == "Linking")
        builders.kill(signal.SIGTERM)
        found = builders.get(number)
        assert (found.status, found.reason, found.attempts) == ("QUEUED", "the server was stopped", 0)
        assert "Back in the queue" in log_of(builders, number)


def test_a_server_that_must_confine_refuses_to_start_where_it_cannot(home: Home) -> None:
    if subprocess.run([*WITHOUT_NAMESPACES, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare, and user namespaces to hide them")
    builders = Builders(home, sandbox="required")
    done = subprocess.run(
        [*WITHOUT_NAMESPACES, *builders.command], env=builders.environ, capture_output=True, text=True
    )
    assert done.returncode != 0 and "link scripts cannot be confined on this machine" in done.stderr
    builders.server.close()


def test_namespaces_take_turns(home: Home) -> None:
    builders = Builders(home, workers=1)
    many = [builders.ask(f"many/e{number}", f"hello-bin >={number / 10}").build_id for number in range(4)]
    few = builders.ask("few/e", "postlink").build_id
    with builders:
        builders.wait(few)
        assert sum(builders.get(each).is_finished for each in many) <= 2


def test_links_follow_the_database_and_are_repaired_at_the_start(builders: Builders) -> None:
    first = builders.wait(builders.ask("team/web", "hello-bin").build_id)
    builders.wait(builders.ask("team/web", "postlink").build_id)
    link = builders.data / "names" / "team" / "web"
    assert (link / "postlink.txt").exists()
    server = builders.server
    with server.database.write() as tx:
        environments.use(tx, "team", "web", environments.Move(first.id, "use", "root"))
    server.files.follow(server.database, "team", "web")
    assert (link / "bin" / "hello").exists()
    builders.kill()
    link.unlink()
    (builders.data / "names" / "gone").mkdir()
    (builders.data / "names" / "gone" / "x").symlink_to("../../envs")
    builders.start()
    assert (link / "bin" / "hello").exists() and not (builders.data / "names" / "gone").exists()
    with server.database.write() as tx:
        namespaces.delete(tx, "team", by="root")
    server.files.follow(server.database, "team", "web")
    assert not os.path.lexists(link)


def test_rebuild_solves_again_and_costs_a_row_if_nothing_changed(builders: Builders) -> None:
    first = builders.wait(builders.ask("team/web", "hello-bin").build_id)
    again = builders.wait(rebuild(builders.server, first.id, ADMIN))
    assert again.status == "COMPLETED" and again.platforms[0].lock == first.platforms[0].lock
    assert "Exists already" in log_of(builders, again.id)
    assert len(os.listdir(builders.data / "envs")) == 1


def test_the_database_can_be_locked_meanwhile(home: Home) -> None:
    with Builders(home, database_wait=0.2, lease=2.0) as builders:
        number = builders.ask("team/web", "hello-bin", "many-files").build_id
        next(builders.stages(number))
        with builders.server.database.write():
            time.sleep(2.0)
        assert builders.wait(number).status == "COMPLETED"
        builders.check()


@pytest.fixture
def small_disk(home: Home) -> Iterator[Path]:
    """A disk of 24 MB as the data directory."""
    place = home.path / "server"
    place.mkdir(mode=0o700)
    mounted = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_fails_the_build_with_the_reason_and_is_usable_afterwards(home: Home, small_disk: Path) -> None:
    with Builders(home) as builders:
        found = builders.wait(builders.ask("team/web", "python").build_id)  # 50 MB
        assert (found.status, found.code) == ("FAILED", "disk-full")
        assert builders.wait(builders.ask("team/web", "postlink").build_id).status == "COMPLETED"
        builders.check()


def test_a_lock_is_built_without_solving(builders: Builders) -> None:
    first = builders.wait(builders.ask("team/web", "hello-bin", "activated").build_id)
    with builders.server.database.read() as tx:
        found = locks.of_build(tx, first.id)
    text = lock_file(list(found.values()))
    asked = submit(builders.server, Submission("team", "copy", text, ADMIN))
    copy = builders.wait(asked.build_id)
    assert copy.status == "COMPLETED"
    assert "Solving" not in log_of(builders, copy.id)
    assert [each.lock for each in copy.platforms] == [each.lock for each in first.platforms]
    with builders.server.database.read() as tx:
        assert locks.of_build(tx, copy.id) == found

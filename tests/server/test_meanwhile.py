"""Cancellation and deletion through the API while builds, downloads and processes are at it; disks that fill up."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.build_process import write_hostile_channel
from support.home import Home
from support.scripts import eventually
from support.serving import RunningServer, running_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a channel whose link scripts misbehave."""
    return write_hostile_channel(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def server(home: Home, hostile: str) -> Iterator[RunningServer]:
    allowed = {"CETOOL_SERVER_CHANNELS_ALLOWED": f"conda-forge,{hostile}"}
    with running_server(home, "--workers", "1", env=allowed) as running:
        yield running


def ask(server: RunningServer, place: str, *specs: str, channel: str | None = None) -> int:
    namespace, _, name = place.partition("/")
    text = "dependencies:\n" + "".join(f"  - {each}\n" for each in specs)
    if channel is not None:
        text = f"channels: [{channel}, nodefaults]\n{text}"
    answer = server.post("/cetool/1/requests", {"namespace": namespace, "name": name, "text": text})
    assert answer.status in (200, 202), answer.text
    return int(answer.json["build"])


def reach(server: RunningServer, number: int, stage: str) -> None:
    """Wait until a build is in a stage, or has ended."""
    eventually(lambda: stage in server.get(f"/cetool/1/builds/{number}/log").text or _ended(server, number))


def _ended(server: RunningServer, number: int) -> bool:
    return server.get(f"/cetool/1/builds/{number}").json["status"] not in ("QUEUED", "BUILDING")


def sleepers(server: RunningServer) -> list[psutil.Process]:
    """Return the link scripts that still sleep."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "sleep 600" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_build_is_canceled_in_each_phase_twice_and_after_its_end(server: RunningServer, hostile: str) -> None:
    running = ask(server, "team/linking", "sleeper", channel=hostile)
    eventually(lambda: sleepers(server))
    waiting = ask(server, "team/waiting", "hello-bin")
    for number in (waiting, running):
        for _ in range(2):
            assert server.post(f"/cetool/1/builds/{number}/cancel").status == 200
        found = server.get(f"/cetool/1/builds/{number}").json
        assert (found["status"], found["code"]) == ("CANCELED", "build-canceled") and found["reason"]
    eventually(lambda: not sleepers(server))
    done = ask(server, "team/done", "hello-bin")
    assert server.wait(done)["status"] == "COMPLETED"
    before = server.get(f"/cetool/1/builds/{done}").json
    assert server.post(f"/cetool/1/builds/{done}/cancel").status == 200
    assert server.get(f"/cetool/1/builds/{done}").json == before
    assert {path.name for path in server.data.glob("names/team/*")} == {"done"}
    for stage in ("starting", "Solving", "Downloading", "Linking"):
        number = ask(server, f"team/{stage.lower()}", "bigpkg", f"hello-bin >=0.0{len(stage)}")
        reach(server, number, stage)
        statuses = {server.post(f"/cetool/1/builds/{number}/cancel").status for _ in range(2)}
        found = server.wait(number)
        assert statuses == {200} and found["status"] in ("CANCELED", "COMPLETED") and found["reason"]
        linked = (server.data / "names" / "team" / stage.lower() / "conda-meta").is_dir()
        assert linked == (found["status"] == "COMPLETED")
    eventually(lambda: not os.listdir(server.data / "scratch"))
    assert server.get("/health", token=None).status == 200


@pytest.mark.parametrize("what", ["environment", "namespace", "build"])
def test_what_is_deleted_during_its_build_stays_deleted(server: RunningServer, hostile: str, what: str) -> None:
    number = ask(server, "team/e", "sleeper", channel=hostile)
    eventually(lambda: sleepers(server))
    paths = {"environment": "/environments/team/e", "namespace": "/namespaces/team", "build": f"/builds/{number}"}
    assert server.request("DELETE", f"/cetool/1{paths[what]}").status in (200, 204)
    eventually(lambda: not sleepers(server))
    assert server.get(f"/cetool/1{paths[what]}").status == 404 or what == "build"
    if what != "namespace":
        found = server.get(f"/cetool/1/builds/{number}").json
        assert (found["status"], bool(found["deleted"])) == ("CANCELED", True), found
    assert not list(server.data.glob("names/*/*"))
    again = ask(server, "team/e", "hello-bin")
    assert again > number and server.wait(again)["status"] == "COMPLETED"
    eventually((server.data / "names" / "team" / "e" / "bin" / "hello").exists)


def test_a_deletion_leaves_downloads_and_processes_what_they_use(server: RunningServer, home: Home) -> None:
    number = ask(server, "team/e", "hello-bin")
    assert server.wait(number)["status"] == "COMPLETED"
    package = server.get(f"/cetool/1/builds/{number}/packages").json["packages"][0]
    (archive,) = (each for each in server.data.rglob(f"*{package['sha256']}*") if each.is_file())
    archive.chmod(0o644)
    with archive.open("ab") as file:  # longer than what the kernel buffers
        file.truncate(64 * MEGABYTE)
    prefix = (server.data / "names" / "team" / "e").resolve()
    held = subprocess.Popen(["tail", "-f", str(prefix / "conda-meta" / "history")], stdout=subprocess.DEVNULL)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    try:
        place = f"/cetool/1/blobs/{number}/{package['sha256']}/x"
        connection.request("GET", place, headers={"Authorization": f"Bearer {server.token}"})
        answer = connection.getresponse()
        assert answer.status == 200 and len(answer.read(MEGABYTE)) == MEGABYTE
        written = server.get(f"/api/v1/build/{number}/archive/")
        assert written.status == 200 and written.body[:2] == b"\x1f\x8b"
        assert server.request("DELETE", "/cetool/1/environments/team/e").status == 200
        assert not list(server.data.glob("names/*/*"))
        # the download ends with all bytes or with an error, never with other bytes
        with contextlib.suppress(http.client.IncompleteRead):
            assert len(answer.read()) == 63 * MEGABYTE
        assert server.get(f"/api/v1/build/{number}/archive/").status == 404
        assert held.poll() is None
    finally:
        connection.close()
        held.kill()
        held.wait()
    again = ask(server, "team/e", "hello-bin")
    assert server.wait(again)["status"] == "COMPLETED"
    eventually((server.data / "names" / "team" / "e" / "bin" / "hello").exists)


# --- disks and databases ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """Mount a small disk, or skip the test."""
    place.mkdir(mode=0o700)
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(place)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(file: Path, leave: int) -> None:
    """Fill a disk except for some bytes."""
    free = os.statvfs(file.parent)
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        rest = free.f_bavail * free.f_frsize - leave
        while rest > 0:
            rest -= filler.write(bytes(min(rest, 65536)))


def test_a_disk_that_is_full_at_any_step_loses_nothing_and_works_again_without_a_restart(home: Home) -> None:
    data = home.path / "small"
    env = {"CETOOL_SERVER_STORAGE_THRESHOLD": "1kB", "CETOOL_SERVER_RETRIES": "0", "CETOOL_SERVER_DATABASE_WAIT": "2s"}
    with small_disk(data, "40m"), running_server(home, "--workers", "1", data=data, env=env) as server:
        accepted: list[int] = []
        for step, leave in enumerate((0, 4096, 100_000, 400_000, 1_000_000, 1_500_000, 2_000_000, 3_000_000)):
            fill(data / "filler", leave)
            body = {"namespace": "team", "name": f"e{step}", "specs": ["hello-bin", "many-files", f"six >=0.{step}"]}
            answer = server.post("/cetool/1/requests", body)
            assert answer.status in (202, 507), answer.text
            assert server.get("/cetool/1/builds").status == 200
            if answer.status == 202:
                accepted.append(answer.json["build"])
                time.sleep(0.5)
            (data / "filler").unlink()
            for number in accepted:
                found = server.wait(number)
                assert found["status"] in ("COMPLETED", "FAILED") and found["reason"], found
                assert found["status"] == "COMPLETED" or found["code"] == "disk-full", found
            last = ask(server, f"team/after{step}", f"postlink >=0.{step}")
            assert server.wait(last)["status"] == "COMPLETED"
        assert accepted
        rows = server.get("/cetool/1/environments").json["environments"]
        wanted = {row["name"] for row in rows if row["build"] is not None}
        eventually(lambda: {path.name for path in data.glob("names/team/*") if path.exists()} == wanted)
        assert "event=defect" not in server.log.read_text("utf-8", "replace")


def test_a_build_survives_a_database_that_is_locked_for_longer_than_its_lease(home: Home) -> None:
    env = {"CETOOL_SERVER_DATABASE_WAIT": "1s", "CETOOL_SERVER_LEASE": "2s", "CETOOL_SERVER_RETRY_BACKOFF": "0.1s"}
    with running_server(home, "--workers", "1", env=env) as server:
        number = ask(server, "team/e", "hello-bin", "many-files")
        reach(server, number, "Solving")
        other = sqlite3.connect(server.data / "server.sqlite3", isolation_level=None, timeout=10)
        other.execute("BEGIN IMMEDIATE")
        refused = server.post("/cetool/1/requests", {"namespace": "team", "name": "x", "specs": ["six"]})
        assert (refused.status, refused.json["code"]) == (503, "database-busy")
        assert server.get("/cetool/1/builds").status == 200
        time.sleep(2.5)
        other.close()
        assert server.wait(number)["status"] == "COMPLETED"
        assert server.wait(ask(server, "team/x", "postlink"))["status"] == "COMPLETED"
        assert {path.name for path in server.data.glob("names/team/*") if path.exists()} == {"e", "x"}

"""A server that is killed or stopped: no build is lost, no name leads nowhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from support.home import Home
from support.scripts import eventually
from support.serving import RunningServer, start_server

from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.declare.platforms import current_platform
from cetool.server.data import builds, locks
from cetool.server.data.database import Database
from cetool.store.store import valid_marker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")


def ask(server: RunningServer, place: str, *specs: str) -> int:
    namespace, _, name = place.partition("/")
    body = {"namespace": namespace, "name": name, "specs": list(specs)}
    return int(server.post("/cetool/1/requests", body).json["build"])


def kill(server: RunningServer) -> None:
    """Kill the server, and wait until what it had started has ended with it."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    server.process.wait()
    assert not psutil.wait_procs(family, timeout=20)[1]


def again(home: Home, server: RunningServer, *options: str, **more: object) -> RunningServer:
    """Start another server on the same data."""
    return start_server(home, *options, data=server.data, token=server.token, **more)  # type: ignore[arg-type]


def check(server: RunningServer) -> None:
    """Check the invariants on the disk and in the database."""
    database = Database.open(server.data / "server.sqlite3")
    with database.read() as tx:
        assert tx.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        made = locks.realizations(tx)
        assert len({each.lock for each in made}) == len(made)
        for row in builds.listed(tx, builds.BuildQuery()).rows:
            assert row.reason or not row.is_finished
            if row.status == "COMPLETED":
                (part,) = row.platforms
                assert part.lock is not None and part.realization is not None
                assert valid_marker(server.data / "envs" / part.realization) is not None
    for link in server.data.glob("names/*/*"):
        assert valid_marker(Path(os.path.realpath(link))) is not None
    database.close()


@pytest.mark.parametrize("stage", ["Solving", "Downloading", "Linking", "Completed"])
def test_a_server_killed_in_a_stage_of_a_build_builds_on(home: Home, stage: str, scale: int) -> None:
    if scale == 1 and stage in ("Solving", "Completed"):
        pytest.skip("in the long run; test_building kills the builders at these moments too")
    server = start_server(home, "--workers", "1")
    first = ask(server, "team/old", "postlink")
    server.wait(first)
    numbers = [ask(server, "team/web", "hello-bin", "many-files"), ask(server, "team/old", "hello-bin")]
    log = server.data / "logs" / f"{numbers[0]}.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and stage in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.002)
    kill(server)
    check(server)
    (server.data / "names" / "team" / "old").unlink()
    (server.data / "names" / "team" / "none").symlink_to("../../envs/none")
    second = again(home, server, "--workers", "1")
    try:
        assert [second.wait(number)["status"] for number in numbers] == ["COMPLETED"] * 2
        eventually(lambda: sorted(os.listdir(server.data / "names" / "team")) == ["old", "web"])
        eventually((server.data / "names" / "team" / "old" / "bin" / "hello").exists)
        assert len(os.listdir(server.data / "envs")) == 3 and os.listdir(server.data / "scratch") == []
        check(server)
    finally:
        second.stop()


def test_a_server_killed_during_uploads_keeps_those_that_it_accepted(home: Home) -> None:
    server = start_server(home, "--workers", "0")
    build = {"name": "p", "version": "1", "build": "0", "subdir": "noarch"}
    accepted: dict[int, str] = {}
    stopped = threading.Event()

    def send(first: int) -> None:
        for number in range(first, 10_000, 4):
            if stopped.is_set():
                return
            spec = EnvironmentSpec(Solve((f"p >={number}",)), channels=("conda-forge",))
            package = {**build, "url": "https://conda.anaconda.org/conda-forge/noarch/p-1-0.conda", "sha256": "a" * 64}
            body = {"spec": spec.as_dict(), "platform": current_platform(), "conda": [package]}
            with contextlib.suppress(OSError):
                answer = server.post("/cetool/1/answers", body)
                assert answer.status == 202, answer.text
                accepted[answer.json["build"]] = spec.digest

    threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(accepted) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    kill(server)
    stopped.set()
    for thread in threads:
        thread.join()
    assert len(accepted) >= 10
    second = again(home, server, "--workers", "0")
    try:
        for number, digest in accepted.items():
            found = second.get(f"/cetool/1/builds/{number}").json
            assert (found["status"], found["platforms"][0]["request"]) == ("QUEUED", digest)
        check(server)
    finally:
        second.stop()


def test_a_server_that_is_stopped_past_its_leases_continues(home: Home) -> None:
    server = start_server(home, "--workers", "1", env={"CETOOL_SERVER_LEASE": "1s"})
    try:
        number = ask(server, "team/web", "hello-bin", "bigpkg")
        log = server.data / "logs" / f"{number}.log"
        while not log.exists():
            time.sleep(0.002)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        server.process.send_signal(signal.SIGCONT)
        assert server.wait(number)["status"] == "COMPLETED"
        check(server)
    finally:
        server.stop()

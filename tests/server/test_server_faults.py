"""A server whose process or database has an accident while clients send requests."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest
from support.home import Home
from support.serving import RunningServer, running_server, start_server

from cetool.server.data.database import Database


@pytest.fixture
def server(home: Home) -> Iterator[RunningServer]:
    running = start_server(home, "--workers", "0", env={"CETOOL_SERVER_DATABASE_WAIT": "1s"})
    yield running
    running.stop(signal.SIGKILL)


def body(number: int) -> dict[str, object]:
    return {"namespace": "team", "name": f"e{number}", "specs": [f"python <{number + 10}"]}


def test_a_server_that_is_killed_during_requests_keeps_what_it_accepted(home: Home, server: RunningServer) -> None:
    accepted: dict[int, str] = {}
    lock = threading.Lock()
    stopped = threading.Event()

    def send(first: int) -> None:
        number = first
        while not stopped.is_set():
            with contextlib.suppress(OSError):
                answer = server.post("/cetool/1/requests", body(number))
                if answer.status == 202:
                    with lock:
                        accepted[answer.json["build"]] = f"e{number}"
            number += 10

    threads = [threading.Thread(target=send, args=(first,)) for first in range(10)]
    for thread in threads:
        thread.start()
    while len(accepted) < 20:
        time.sleep(0.01)
    server.stop(signal.SIGKILL)
    stopped.set()
    for thread in threads:
        thread.join()
    again = start_server(home, "--workers", "0", data=server.data, token=server.token)
    try:
        for number, name in accepted.items():
            found = again.get(f"/cetool/1/builds/{number}").json
            assert (found["status"], found["namespace"], found["name"]) == ("QUEUED", "team", name)
        assert again.post("/cetool/1/requests", body(99_999)).json["build"] > max(accepted)
    finally:
        again.stop()
    with Database.open(server.data / "server.sqlite3").read() as tx:
        assert tx.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_a_locked_database_is_503_for_changes_and_nothing_for_the_rest(server: RunningServer) -> None:
    assert server.post("/cetool/1/requests", body(1)).status == 202
    other = sqlite3.connect(server.data / "server.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = server.post("/cetool/1/requests", body(2))
    assert (refused.status, refused.json["code"]) == (503, "database-busy")
    assert server.get("/cetool/1/builds").status == 200
    other.execute("ROLLBACK")
    assert server.post("/cetool/1/requests", body(2)).status == 202
    assert len(server.get("/cetool/1/builds").json["builds"]) == 2


def test_a_restored_server_creates_its_environments_again(home: Home) -> None:
    with running_server(home, "--workers", "1") as server:
        asked = server.post("/cetool/1/requests", {"namespace": "team", "name": "e", "specs": ["six"]}).json["build"]
        assert server.wait(asked)["status"] == "COMPLETED"
        key, packages = server.get("/cetool/1").json["key"], server.get(f"/cetool/1/builds/{asked}/packages").json
        file, data = home.path / "backup.tar", home.path / "restored"
        home.cetool("server", "backup", str(file), "--data", str(server.data))
    done = home.run("cetool", "server", "restore", str(file), "--data", str(data))
    assert "the server will create 1 environment again" in done.stderr
    with running_server(home, "--workers", "1", data=data, token=server.token) as again:
        assert again.get("/cetool/1").json["key"] == key
        assert again.wait(asked + 1)["status"] == "COMPLETED"
        assert again.get(f"/cetool/1/builds/{asked + 1}/packages").json["packages"] == packages["packages"]
        assert (data / "names/team/e/conda-meta").is_dir()

"""Many requests and many clients at once: identical ones are one build, different ones all end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.scripts import eventually
from support.serving import Answer, RunningServer, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, local_channel: Channel) -> Iterator[RunningServer]:
    home = make_home(tmp_path_factory.mktemp("once") / "home", local_channel)
    allowed = {"CETOOL_SERVER_CHANNELS_ALLOWED": f"conda-forge,{local_channel.url}"}
    with running_server(home, "--workers", "2", env=allowed) as running:
        yield running
    remove_home(home)


def asked(server: RunningServer, place: str, spec: str) -> Answer:
    namespace, _, name = place.partition("/")
    return server.post("/cetool/1/requests", {"namespace": namespace, "name": name, "specs": [spec]})


def test_fifty_identical_requests_at_once_are_one_build_and_one_process(server: RunningServer) -> None:
    before = set(server.data.glob("envs/*"))
    places = ["team/same"] * 25 + [f"team{number % 5}/e{number}" for number in range(25)]
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda place: asked(server, place, "hello-bin"), places))
    assert {answer.status for answer in answers} <= {200, 202}
    numbers = [answer.json["build"] for answer in answers]
    assert len(set(numbers[:25])) == 1 and sum(answer.json["created"] for answer in answers[:25]) == 1
    assert len(set(numbers)) == 26
    assert {server.wait(number)["status"] for number in numbers} == {"COMPLETED"}
    logs = [server.get(f"/cetool/1/builds/{number}/log").text for number in set(numbers)]
    assert sum("Solving" in log for log in logs) == 1
    links = {path.resolve() for path in server.data.glob("names/team*/*")}
    assert len(links) == 1 and {path.resolve() for path in server.data.glob("envs/*") if path not in before} <= links


def test_two_hundred_different_requests_at_once_all_end_and_namespaces_take_turns(
    server: RunningServer, scale: int
) -> None:
    few = 8
    places = [f"few/e{number}" if number % 25 == 24 else f"many/e{number}" for number in range(200)]
    with ThreadPoolExecutor(50) as threads:
        answers = list(
            threads.map(lambda number: asked(server, places[number], f"hello-bin >=0.{number + 1}"), range(200))
        )
    assert {answer.status for answer in answers} == {202}
    numbers = [answer.json["build"] for answer in answers]
    assert len(set(numbers)) == 200
    mine = dict(zip(numbers, places, strict=True))
    for number in (each for each, place in mine.items() if place.startswith("few/")):
        assert server.wait(number)["status"] == "COMPLETED"
    if scale == 1:  # those of the other namespace are as many seconds of work as builds
        with ThreadPoolExecutor(20) as threads:
            list(threads.map(lambda number: server.post(f"/cetool/1/builds/{number}/cancel"), numbers))
    rows = {number: server.wait(number, timeout=600) for number in numbers}
    assert all(row["reason"] and f"{row['namespace']}/{row['name']}" == mine[row["id"]] for row in rows.values())
    assert {row["status"] for row in rows.values()} <= {"COMPLETED", "CANCELED"}
    if scale > 1:
        assert {row["status"] for row in rows.values()} == {"COMPLETED"}
    others = [row for row in rows.values() if row["namespace"] == "few"]
    since = max(row["scheduled"] for row in others)
    until = max(row["started"] for row in others)
    between = [row for row in rows.values() if row["started"] and since < row["started"] < until]
    assert sum(row["namespace"] == "many" for row in between) <= few + 2


def test_machines_that_run_a_new_script_at_once_all_link_and_the_server_builds_once(
    server: RunningServer, home: Home, scale: int
) -> None:
    assert home.cetool("login", server.url, "--token", server.token).returncode == 0
    script = home.write("x.sh", "#!/bin/sh\n# conda execute\n# env: [hello-bin, postlink]\nhello\n")
    running = []
    for number in range(12 * min(scale, 4)):
        env = home.environment({"CETOOL_CACHE_DIR": str(home.path / f"cache{number}")})
        words = [sys.executable, "-m", "cetool", "run", str(script)]
        running.append(
            subprocess.Popen(words, cwd=home.path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    for process in running:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0 and out, errors

    def uploaded() -> list[dict[str, object]]:
        return [row for row in server.get("/cetool/1/builds").json["builds"] if row["origin"] == "upload"]

    (found,) = eventually(uploaded)  # cetool tells the server while the script runs
    assert server.wait(found["id"])["status"] == "COMPLETED"

    def uploading() -> bool:
        found = (each.info["cmdline"] or () for each in psutil.process_iter(["cmdline"]))
        return any("upload" in words and server.url in words for words in found)

    eventually(lambda: not uploading())  # the others
    assert [row["id"] for row in uploaded()] == [found["id"]]

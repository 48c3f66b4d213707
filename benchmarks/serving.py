"""The server: builds, requests, answers and clients, compared with ``cetool create`` on the same machine."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil
from support.serving import RunningServer, start_server

from benchmarks.cold import remover
from benchmarks.groups import Difference, Group, Peak, Ratio
from benchmarks.measure import Case, Failed
from benchmarks.scene import Scene
from cetool.declare.platforms import current_platform

#: What a build may take, as a multiple of what `cetool create` takes, and six builds as a multiple of one.
OVERHEAD, SIX = 1.5, 3.5
#: Seconds: the same request again; POST, list, get; list with many rows; an answer.
AGAIN, POST, LIST, GET, LIST_MANY, ANSWER = 0.050, 0.025, 0.010, 0.005, 0.015, 0.003
#: Seconds: a thousand answers; what a server that is down, and a miss, add to a run; start to first answer.
THOUSAND, DOWN, MISS, START = 1.0, 0.3, 0.020, 1.0
#: Bytes of a server with two idle builders.
MEMORY = 150e6
#: The environments of the comparison with conda-store in the issue that asked for the server.
SIZES = {
    "python, six": ("python", "six"),
    "python, numpy, six": ("python", "numpy", "six"),
    "python, ipykernel, numpy": ("python", "ipykernel", "numpy"),
}
#: Seconds after which a client opens a new connection: servers close idle ones.
_IDLE = 10.0
#: Requests in one timed run: the median of one request varies less.
_REQUESTS = 20


class Client:
    """One connection to a server that stays open, as programs use it."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._connection = HTTPConnection(server.host, server.port, timeout=120)
        self._used = 0.0

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body. Raises Failed for an error of the server."""
        sent = {"Authorization": f"Bearer {self._server.token}", "Accept": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        if time.monotonic() - self._used > _IDLE:
            self._connection.close()  # the server has done so, or will
        self._connection.request(method, f"{self._server.prefix}{path}", data, sent)
        response = self._connection.getresponse()
        text = response.read()
        self._used = time.monotonic()
        if response.status >= 400 and response.status != 404:
            raise Failed(f"{method} {path} was answered with {response.status}: {text[:500]!r}")
        return response.status, {name.lower(): value for name, value in response.getheaders()}, text

    def json(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer's JSON."""
        return json.loads(self.ask(method, path, body)[2])

    def build(self, name: str, text: str) -> int:
        """Request a build; return its number."""
        asked = {"namespace": "bench", "name": name, "kind": "environment-yaml", "text": text}
        return int(self.json("POST", "/cetool/1/requests", asked)["build"])

    def wait(self, number: int) -> dict[str, Any]:
        """Wait until a build is completed; return it. Raises Failed if it ends otherwise."""
        while True:
            found: dict[str, Any] = self.json("GET", f"/cetool/1/builds/{number}")
            if found["status"] == "COMPLETED":
                return found
            if found["status"] not in ("QUEUED", "BUILDING"):
                raise Failed(f"build {number} is {found['status']}: {found.get('reason')}")
            time.sleep(0.005)


def document(packages: tuple[str, ...], mark: str) -> str:
    """Return an environment.yml; different marks make different requests for the same packages."""
    listed = "".join(f"  - {package}\n" for package in packages)
    return f"channels: [conda-forge]\ndependencies:\n{listed}variables:\n  MARK: '{mark}'\n"


@contextlib.contextmanager
def measured_server(scene: Scene, rounds: int, tell: Callable[[str], None], rows: int) -> Iterator[Group]:
    """Provide the group: servers with two builders, with many rows and without builders, and clients of them."""
    with contextlib.ExitStack() as servers:
        tell("starting servers")
        built = servers.enter_context(_running(scene, "built", "--workers", "2"))
        parts = [
            _building(scene, built),
            _requesting(scene, servers, tell, rows),
            _answering(scene, built),
            _clients(scene, servers, built),
            _starting(scene),
        ]
        cases = [case for part in parts for case in part[0]]
        comparisons = [each for part in parts for each in part[1]]
        notes = [
            "Server and client run on the same machine, with a channel on its disk and packages in the cache.",
            f"Requests: the mean of {_REQUESTS} on one connection, with a token.",
            "conda-store 2025.2.2 took 28, 23 and 29 times as long as `cetool create` for these environments, 60 to "
            "700 ms for a POST, 60 to 72 ms for a list and 20 ms for one build, on such a machine.",
        ]
        yield Group("server", "The server", rounds, cases, comparisons, notes)


@contextlib.contextmanager
def _running(scene: Scene, name: str, *options: str, **env: str) -> Iterator[RunningServer]:
    server = start_server(scene.home, *options, data=scene.home.path / name, env=env)
    try:
        yield server
    finally:
        server.stop()


_Part = tuple[list[Case], list[Ratio | Difference | Peak]]


# --- builds ---------------------------------------------------------------------------------------------------------


def _building(scene: Scene, server: RunningServer) -> _Part:
    cases: list[Case] = []
    comparisons: list[Ratio | Difference | Peak] = []
    marks = itertools.count()
    client = Client(server)
    cache = scene.home.path / "cache-server-create"
    env = scene.home.environment({"CETOOL_CACHE_DIR": str(cache), "CETOOL_PKG_DIR": str(scene.home.path / "pkgs")})
    for size, packages in SIZES.items():
        file = scene.home.write(f"{size.replace(', ', '-')}.yml", document(packages, "create"))
        local, served = f"cetool create: {size}", f"server: {size}"
        cases.append(
            Case(local, (scene.cetool, "create", "-q", "--file", str(file)), env, prepare=remover(cache / "envs"))
        )

        def build(packages: tuple[str, ...] = packages, name: str = size) -> tuple[float, int | None]:
            begun = time.perf_counter()
            client.wait(client.build(re.sub(r"\W+", "-", name), document(packages, f"{next(marks)}-{begun}")))
            return time.perf_counter() - begun, None

        cases.append(Case(served, prepare=_sync, timed=build))
        comparisons.append(Ratio(f"a build, of cetool create: {size}", served, local, target=OVERHEAD))
    size = "python, numpy, six"
    again = document(SIZES[size], "again")
    client.wait(client.build("again", again))

    def repeat() -> tuple[float, int | None]:
        begun = time.perf_counter()
        client.wait(client.build("again", again))
        return time.perf_counter() - begun, None

    def six() -> tuple[float, int | None]:
        texts = [document(SIZES[size], f"{next(marks)}-{time.time()}") for _ in range(6)]
        clients = [Client(server) for _ in texts]
        begun = time.perf_counter()
        with ThreadPoolExecutor(6) as pool:
            numbers = list(pool.map(lambda at: clients[at].build(f"six-{at}", texts[at]), range(6)))
        for number in numbers:
            client.wait(number)
        return time.perf_counter() - begun, None

    cases.append(Case("server: the same request again", timed=repeat))
    cases.append(Case("server: six builds at once", prepare=_sync, timed=six))
    comparisons.append(Difference("the same request again", "server: the same request again", target=AGAIN))
    comparisons.append(Ratio("six builds, of one", "server: six builds at once", f"server: {size}", target=SIX))
    return cases, comparisons


def _sync() -> None:
    os.sync()


# --- requests -------------------------------------------------------------------------------------------------------


def _requesting(scene: Scene, servers: contextlib.ExitStack, tell: Callable[[str], None], rows: int) -> _Part:
    cases: list[Case] = []
    marks = itertools.count()
    more = {"CETOOL_SERVER_QUEUE_LENGTH": "1000000"}
    few = servers.enter_context(_running(scene, "few", "--workers", "0", **more))
    client = Client(few)
    for number in range(120):
        client.build(f"few-{number}", document(("python",), f"few-{number}"))
    tell(f"adding {rows} rows")
    many = _filled(scene, few, rows)
    large = servers.enter_context(_running(scene, many.name, "--workers", "0", **more))
    large.token = few.token
    big = Client(large)
    first = client.json("GET", "/cetool/1/builds?limit=1")["builds"][0]["id"]

    def post() -> None:
        client.build("posted", document(("python",), f"{next(marks)}-{time.time()}"))

    paths = {
        "list 100 builds": (client, "/cetool/1/builds?limit=100"),
        "get one build": (client, f"/cetool/1/builds/{first}"),
        f"list 100 of {rows:,} builds": (big, "/cetool/1/builds?limit=100"),
        f"list 100 of {rows:,} builds, a later page": (big, _later_page(big)),
    }
    cases.append(Case("POST a specification", timed=_mean(post)))
    for name, (each, path) in paths.items():
        cases.append(Case(name, timed=_mean(functools.partial(each.ask, "GET", path))))
    targets = (POST, LIST, GET, LIST_MANY, LIST_MANY)
    return cases, [Difference(case.name, case.name, target=target) for case, target in zip(cases, targets, strict=True)]


def _mean(request: Callable[[], object]) -> Callable[[], tuple[float, int | None]]:
    """Return a function that measures one of several requests."""

    def timed() -> tuple[float, int | None]:
        begun = time.perf_counter()
        for _ in range(_REQUESTS):
            request()
        return (time.perf_counter() - begun) / _REQUESTS, None

    return timed


def _later_page(client: Client) -> str:
    path = "/cetool/1/builds?limit=100"
    found = path
    for _ in range(5):
        cursor = client.json("GET", found)["next"]
        if not cursor:
            break
        found = f"{path}&cursor={cursor}"
    return found


def _filled(scene: Scene, server: RunningServer, rows: int) -> Path:
    """Copy a server's data, and add builds to the copy: each a copy of an existing one."""
    data = scene.home.path / "many"
    shutil.copytree(server.data, data, ignore=shutil.ignore_patterns("*.sqlite3*", "server.lock"))
    old, new = (sqlite3.connect(each / "server.sqlite3") for each in (server.data, data))
    with contextlib.closing(old), contextlib.closing(new):
        old.backup(new)
        columns = [row[1] for row in new.execute("PRAGMA table_info(build)") if row[1] != "id"]
        first, count = new.execute("SELECT min(id), count(*) FROM build").fetchone()
        listed = ", ".join(f'"{each}"' for each in columns)
        ended = {"status": "'FAILED'", "reason": "'measured'", "ended": "scheduled", "request": "request || n"}
        chosen = ", ".join(ended.get(each, f'"{each}"') for each in columns)
        new.execute(
            f"WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {rows}) "
            f"INSERT INTO build ({listed}) SELECT {chosen} FROM counted "
            f"JOIN build ON build.id = {first} + n % {count}"
        )
        new.execute(
            "INSERT INTO build_platform (build_id, platform, request, spec) "
            f"SELECT b.id, p.platform, p.request, p.spec FROM build b JOIN build_platform p ON p.build_id = {first} "
            "WHERE b.id NOT IN (SELECT build_id FROM build_platform)"
        )
        new.execute("ANALYZE")
        new.commit()
    return data


# --- answers --------------------------------------------------------------------------------------------------------


def _answering(scene: Scene, server: RunningServer) -> _Part:
    client = Client(server)
    text = document(SIZES["python, numpy, six"], "answer")
    done = client.wait(client.build("answer", text))
    platform = current_platform()
    request = next(each["request"] for each in done["platforms"] if each["platform"] == platform)
    path = f"/cetool/1/answers/{platform}/{request}"
    status, headers, _ = client.ask("GET", path)
    if status != 200:
        raise Failed(f"GET {path} was answered with {status}")
    cases = [
        Case("an answer: hit", timed=_mean(lambda: client.ask("GET", path))),
        Case("an answer: not modified", timed=_mean(lambda: client.ask("GET", path, If_None_Match=headers["etag"]))),
        Case("an answer: none", timed=_mean(lambda: client.ask("GET", f"/cetool/1/answers/{platform}/{'0' * 64}"))),
    ]
    comparisons = [Difference(case.name, case.name, target=ANSWER) for case in cases]
    wrk = shutil.which("wrk")
    if wrk is None:
        scene.skipped["a thousand answers"] = "wrk is not on the PATH"
        return cases, list(comparisons)
    command = (wrk, "-t2", "-c16", "-d3s", "-H", f"Authorization: Bearer {server.token}", f"{server.url}{path}")

    def thousand() -> tuple[float, int | None]:
        said = subprocess.run(command, capture_output=True, text=True).stdout
        found = re.search(r"Requests/sec:\s*([0-9.]+)", said)
        if found is None or "Non-2xx" in said:
            raise Failed(f"wrk printed {said}")
        return 1000 / float(found[1]), None

    cases.append(Case("a thousand answers, 16 connections", timed=thousand))
    comparisons.append(Difference("a thousand answers", "a thousand answers, 16 connections", target=THOUSAND))
    return cases, list(comparisons)


# --- clients --------------------------------------------------------------------------------------------------------


def _clients(scene: Scene, servers: contextlib.ExitStack, server: RunningServer) -> _Part:
    script = scene.script("served.py", env="[python, numpy, six]")
    packages = scene.home.path / "pkgs"

    def place(name: str, url: str | None, token: str = "") -> tuple[dict[str, str], Path]:
        cache = scene.home.path / f"client-{name}"
        config = scene.home.path / f"config-{name}"
        variables = {"CETOOL_CACHE_DIR": str(cache), "CETOOL_PKG_DIR": str(packages)}
        # uploads after a miss are a process of their own, which would slow down the next case
        variables |= {"CETOOL_SERVER_UPLOAD": "true" if name == "hit" else "false"}
        variables |= {"XDG_CONFIG_HOME": str(config), "XDG_DATA_HOME": str(scene.home.path / f"share-{name}")}
        if url is not None:
            scene.ask(scene.cetool, "login", url, "--token", token, env=variables)
        return scene.home.environment(variables), cache

    closed = servers.enter_context(_running(scene, "down", "--workers", "0"))
    idle = servers.enter_context(_running(scene, "idle", "--workers", "0"))
    places = {
        "no server": place("none", None),
        "a hit": place("hit", server.url, server.token),
        "a miss": place("miss", idle.url, idle.token),
        "a server that is down": place("down", closed.url, closed.token),
    }
    closed.stop()
    # the first run asks, solves and uploads; the second is a hit
    scene.ask(scene.cetool, script, env=places["a hit"][0])
    cases = []
    for name, (env, cache) in places.items():
        prepare = remover(cache) if name != "a miss" else _forgetting(cache, idle)
        cases.append(Case(f"cold run, {name}", (scene.cetool, "-q", script), env, None, prepare))
    warm = {name: places[name] for name in ("no server", "a hit")}
    for name, (env, _) in warm.items():
        cases.append(Case(f"warm run, {name}", (scene.cetool, script), env))
    comparisons: list[Ratio | Difference | Peak] = [
        Ratio("a cold run with a hit, of one without a server", "cold run, a hit", "cold run, no server", target=1.0),
        Difference("a server that is down adds", "cold run, a server that is down", "cold run, no server", DOWN),
        Difference("a miss adds", "cold run, a miss", "cold run, no server", MISS),
        Ratio("a warm run with a server, of one without", "warm run, a hit", "warm run, no server", target=1.05),
    ]
    return cases, comparisons


def _forgetting(cache: Path, server: RunningServer) -> Callable[[], None]:
    """Return a function that makes the next run a miss: the server has no answer, the client has not asked."""
    remove = remover(cache)

    def forget() -> None:
        remove()
        with contextlib.closing(sqlite3.connect(server.data / "server.sqlite3", timeout=30)) as database:
            database.execute("DELETE FROM answer")
            database.execute("UPDATE build SET status = 'CANCELED', reason = 'measured', ended = scheduled")
            database.commit()

    return forget


# --- start and memory -----------------------------------------------------------------------------------------------


def _starting(scene: Scene) -> _Part:
    data = scene.home.path / "started"
    name, idle = "start to first answer", "two idle builders"

    def start() -> tuple[float, int | None]:
        words = (scene.cetool, "serve", "--data", str(data), "--bind", "127.0.0.1:0", "--workers", "2")
        begun = time.perf_counter()
        process = subprocess.Popen(words, env=scene.env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            assert process.stderr is not None
            found = re.search(r"http://([^:]+):(\d+)", process.stderr.readline())
            if found is None:
                raise Failed("the server printed no address")
            while True:
                try:
                    connection = HTTPConnection(found[1], int(found[2]), timeout=10)
                    connection.request("GET", "/cetool/1")
                    connection.getresponse().read()
                    break
                except (OSError, HTTPException):
                    time.sleep(0.002)
            seconds = time.perf_counter() - begun
            return seconds, _memory(process.pid)
        finally:
            process.terminate()
            process.wait()

    case = Case(name, timed=start)

    def settle() -> tuple[float, int | None]:
        server = start_server(scene.home, "--workers", "2", data=data, token="none")
        try:
            time.sleep(3)
            return 3.0, _memory(server.process.pid)
        finally:
            server.stop()

    comparisons: list[Ratio | Difference | Peak] = [
        Difference(name, name, target=START),
        Peak("memory of a server with two idle builders", idle, MEMORY),
    ]
    return [case, Case(idle, timed=settle, every=4)], comparisons


def _memory(pid: int) -> int:
    """Return the bytes that a process and its children take; what they share counts once (Linux)."""
    total = 0
    for each in (process := psutil.Process(pid), *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            used = each.memory_full_info()
            total += getattr(used, "pss", used.uss)
    return total

"""A server's builders as a process, without HTTP, to be killed and stopped.

It is started as ``python -m support.building DATA OPTIONS``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from cetool.declare.platforms import current_platform
from cetool.server.access import Grant, Principal
from cetool.server.builds.dispatcher import LocalDispatcher
from cetool.server.config import ServerConfig
from cetool.server.data import builds, locks
from cetool.server.data.builds import Build
from cetool.server.journal import Journal
from cetool.server.server import open_server
from cetool.server.submitting import Submission, Submitted, submit
from cetool.store.store import valid_marker
from support.home import Home

ADMIN = Principal("root", grants=(Grant("*/*", "admin"),), authenticated=True)


def main() -> None:
    """Build until a signal, or the end of standard input."""
    data, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    server = open_server(ServerConfig(data, **options), Journal())
    server.dispatcher = LocalDispatcher(server, server.config.workers)
    server.dispatcher.start()
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    print("ready", flush=True)
    while not stopping:
        time.sleep(0.02)
    server.dispatcher.stop(0.0)
    server.close()


class Builders:
    """Such a process, and the database that it works on."""

    def __init__(self, home: Home, **options: Any) -> None:
        self.home = home
        self.options = {"storage_threshold": None, "retry_backoff": 0.1, "channels_allowed": ["*"], **options}
        self.data = home.path / "server"
        self.server = open_server(ServerConfig(self.data, **self.options), Journal())
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Builders:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.server.close()

    @property
    def command(self) -> list[str]:
        """The command line of the process."""
        return [sys.executable, "-m", "support.building", str(self.data), json.dumps(self.options)]

    @property
    def environ(self) -> dict[str, str]:
        """Its variables."""
        return {**self.home.environment(), "PYTHONPATH": str(Path(__file__).resolve().parents[1])}

    def start(self) -> subprocess.Popen[str]:
        """Start the process and wait until it builds."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=self.environ)
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"
        return self.process

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill the process."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def ask(self, place: str, *specs: str, channel: str | None = None, **more: Any) -> Submitted:
        """Submit match specs for ``namespace/name``; a process that builds sees them within a second."""
        space, _, name = place.partition("/")
        text = "dependencies:\n" + "".join(f"  - {json.dumps(each)}\n" for each in specs)
        if channel is not None:
            text = f"channels: [{channel}, nodefaults]\n{text}"
        return submit(self.server, Submission(space, name, text, ADMIN, **more))

    def get(self, number: int) -> Build:
        """Return a build."""
        with self.server.database.read() as tx:
            return builds.get(tx, number)

    def wait(self, number: int, *, until: tuple[str, ...] = (), seconds: float = 60) -> Build:
        """Wait until a build has ended, or has one of the statuses."""
        deadline = time.monotonic() + seconds
        while not ((found := self.get(number)).is_finished or found.status in until):
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
        return found

    def wait_for_attempt(self, number: int, attempt: int, *, seconds: float = 60) -> None:
        """Wait until a build has been started so many times."""
        deadline = time.monotonic() + seconds
        while (found := self.get(number)).attempts < attempt:
            assert not found.is_finished and time.monotonic() < deadline, found
            time.sleep(0.01)

    def stages(self, number: int) -> Iterator[str]:
        """Yield each new stage of a build until it has ended."""
        last = None
        while not (found := self.get(number)).is_finished:
            if found.stage != last and found.stage is not None:
                last = found.stage
                yield last
            time.sleep(0.002)

    def check(self) -> None:
        """Check what must always hold: no build is lost or complete without marker and lock; names lead to builds."""
        with self.server.database.read() as tx:
            rows = builds.listed(tx, builds.BuildQuery()).rows
            made = locks.realizations(tx)
        assert len({each.lock for each in made}) == len(made)
        for row in rows:
            assert row.reason or not row.is_finished
            if row.status == "COMPLETED":
                (part,) = (each for each in row.platforms if each.platform == current_platform())
                assert part.lock is not None and part.realization is not None
                assert valid_marker(self.data / "envs" / part.realization) is not None
        for link in self.server.files.names.glob("*/*"):
            assert valid_marker(Path(os.path.realpath(link))) is not None


if __name__ == "__main__":
    main()

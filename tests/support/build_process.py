"""The process that builds for a server, and a channel with packages whose link scripts misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from cetool.base.process import own_program
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.declare.platforms import current_platform
from support.archive import Entry, Package, write_package, write_repodata

#: The start of a command line that runs a program on a machine without user namespaces, as it appears.
WITHOUT_NAMESPACES = (
    *("unshare", "-Ur", "sh", "-c"),
    'echo 1 > /proc/sys/user/max_user_namespaces; exec unshare -U --map-user=1000 --map-group=1000 "$@"',
    "sh",
)

Event = dict[str, Any]
#: What link scripts do, by the name of the package.
SCRIPTS = {
    # bounded: as root, no limit of processes holds, and an endless one stops the whole machine
    "bomb": "n=0; while [ $n -lt 500 ]; do sleep 60 & n=$((n+1)); done; wait",
    "endless": "yes endless",
    "hungry": "exec python3 -c 'x = bytearray(1 << 30); import time; time.sleep(60)'",
    "sleeper": "echo $$ > $PREFIX/pid; exec sleep 600",
    "daemon": "setsid sleep 600 > /dev/null 2>&1 < /dev/null &",
    "curious": """exec > "$PREFIX/seen" 2>&1
cat "$PREFIX/../../secret" /etc/shadow; head -c 1 /dev/[vs]d? /dev/mem; ls -A /home /root "$PREFIX/../../logs"; env
touch "$PREFIX/../other" "$PREFIX/../../secret2" /usr/cetool-was-here
cat /proc/net/dev > "$PREFIX/interfaces"
true""",
    "vandal": 'echo vandalized >> "$PREFIX/share/hello/plain.txt"',
    "failing": 'echo "no luck today" > "$PREFIX/.messages.txt"; exit 3',
}


def write_hostile_channel(root: Path) -> str:
    """Write a channel with a package for each of :data:`SCRIPTS`; return its URL."""
    packages = [
        Package(name, "1.0", entries=(Entry(f"bin/.{name}-post-link.sh", f"#!/bin/sh\n{text}\n".encode(), True),))
        for name, text in SCRIPTS.items()
    ]
    packages.append(Package("plain", "1.0", entries=(Entry("share/hello/plain.txt", b"plain\n"),)))
    write_repodata({f"{each.stem}{each.suffix}": write_package(each, root) for each in packages}, "noarch", root)
    write_repodata({}, current_platform(), root)
    return root.as_uri()


def request(
    build: int, data: Path, *specs: str, channels: tuple[str, ...] = ("conda-forge",), **limits: float
) -> dict[str, Any]:
    """Return the request for a build of match specs on this platform."""
    spec = EnvironmentSpec(Solve(tuple(sorted(specs))), channels=channels)
    wish = {"platform": current_platform(), "request": spec.digest, "spec": spec.as_dict()}
    usual = {"memory": 4 << 30, "processes": 512, "seconds": 120.0, "stall": 60.0}
    usual |= {"output": 16 << 20, "size": 1 << 40, "free": 0}
    wanted = {"schema": 1, "build": build, "platforms": [wish], "realize": current_platform()}
    return {**wanted, "data": str(data), "limits": {**usual, **limits}}


class BuildProcess:
    """``cetool.app.build``, started."""

    def __init__(self, environ: Mapping[str, str], *, within: tuple[str, ...] = ()) -> None:
        command = [*within, *own_program(module="cetool.app.build")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environ), start_new_session=True
        )
        self.ready = self.event()

    def __enter__(self) -> BuildProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def send(self, message: Mapping[str, Any]) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def event(self) -> Event | None:
        """Wait for the next event; None at the end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def events(self) -> Iterator[Event]:
        """Yield the events of a build up to its last one."""
        while (event := self.event()) is not None:
            yield event
            if event["event"] in ("done", "failed"):
                return

    def build(self, message: Mapping[str, Any]) -> list[Event]:
        """Send a request, and return all events."""
        self.send(message)
        return list(self.events())

    def until(self, event: str, **fields: str) -> Event:
        """Wait for an event with these fields."""
        found = next(each for each in self.events() if each["event"] == event and fields.items() <= each.items())
        return found


def named(events: list[Event], kind: str) -> Event:
    """Return the event of a kind."""
    return next(each for each in events if each["event"] == kind)

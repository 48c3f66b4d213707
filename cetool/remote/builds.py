"""Follow builds on a server: their progress and log, as server-sent events, or by asking again and again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from cetool.base.errors import CetoolError
from cetool.base.limits import parse_json
from cetool.base.values import Value
from cetool.remote.connection import Access, Connection

#: The states in which a build can end.
ENDS = ("COMPLETED", "FAILED", "CANCELED")
#: Seconds between two questions, if there is no stream of events: at first, and at most.
_PAUSE, _LONGEST_PAUSE = 0.2, 2.0


class BuildState(Value):
    """How far a build is."""

    #: ``QUEUED``, ``BUILDING``, or how it ended.
    status: str = "QUEUED"
    #: What it does now.
    stage: str = ""
    done: int = 0
    total: int = 0
    #: New text of its log.
    log: str = ""

    @property
    def ended(self) -> bool:
        """Whether the build is over."""
        return self.status in ENDS


def watched(access: Access, build: int, deadline: float = float("inf")) -> Iterator[BuildState]:
    """Yield a build's state whenever it changes, until it ends or the deadline (monotonic). Raises CetoolError."""
    state = BuildState()
    with contextlib.suppress(CetoolError), Connection(access) as connection:
        for told in _events(connection, build, state):
            state = told
            yield state
            if state.ended or time.monotonic() >= deadline:
                return
    pause = _PAUSE
    with Connection(access) as connection:
        while time.monotonic() < deadline:
            found = _state(connection.get(f"/builds/{build}"), state._replace(log=""))
            if found != state:
                state = found
                yield state
            if state.ended:
                return
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
            pause = min(pause * 1.2, _LONGEST_PAUSE)


def _events(connection: Connection, build: int, state: BuildState) -> Iterator[BuildState]:
    """Yield the states that a stream of events tells, also if nothing has changed."""
    response = connection.request(
        "GET", f"/builds/{build}/events", headers={"Accept": "text/event-stream"}, streams=True
    )
    name, data = "", []
    for line in response.lines():
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line:
            if data:
                state = _after(name, "\n".join(data), state)
            name, data = "", []
            yield state
            state = state._replace(log="")
        elif line.startswith(":"):  # a sign of life
            yield state


def _after(name: str, data: str, state: BuildState) -> BuildState:
    """Return the state after an event."""
    try:
        told = parse_json(data)
    except ValueError:
        told = data
    if name == "log":
        text = told.get("text") if isinstance(told, dict) else told
        return state._replace(log=state.log + str(text))
    if not isinstance(told, dict):
        return state
    if name == "stage":
        state = state._replace(status="BUILDING", done=0, total=0)
    return _state(told, state)


def _state(told: Any, state: BuildState) -> BuildState:
    """Return the state with what a document tells about it."""
    if not isinstance(told, dict):
        return state
    inner = told.get("progress")
    near = inner if isinstance(inner, dict) else told
    status, stage = told.get("status"), near.get("text", near.get("stage"))
    done, total = near.get("done"), near.get("total")
    return state._replace(
        status=status if isinstance(status, str) else state.status,
        stage=stage[:200] if isinstance(stage, str) else state.stage,
        done=int(done) if isinstance(done, (int, float)) else state.done,
        total=int(total) if isinstance(total, (int, float)) else state.total,
    )

"""Run the embedded engine in a separate process if rattler needs other environment variables.

rattler reads proxies, certificates and credential stores from the variables of its process. A library must not change
those, and other threads may need other values: so the work is done by a process that starts with them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from cetool.base.errors import CetoolError, EngineError
from cetool.base.limits import PACKAGE, read_json
from cetool.base.process import own_program
from cetool.declare.package import Package
from cetool.engines.private import PrivateFiles
from cetool.engines.protocol import EngineRequest, Hold, Progress
from cetool.engines.subprocesses import Invocation, run_engine

#: Additional seconds in which the process itself can report that there is no progress.
_GRACE = 15.0
#: The methods of :class:`~cetool.engines.protocol.Progress` that are forwarded.
_EVENTS = ("stage", "packages", "download", "link", "written", "note")


class Embedded(Protocol):
    """The part of :class:`~cetool.engines.rattler.engine.RattlerEngine` that this module uses."""

    environ: Mapping[str, str]
    cache_dir: Path


def perform_apart(
    engine: Embedded,
    request: EngineRequest,
    progress: Progress,
    hold: Hold,
    variables: Mapping[str, str | None],
    *,
    link: bool,
) -> list[Package]:
    """Do the engine's work in a process with these variables set, or unset if they are None."""
    import pickle  # takes 4 ms, and is rarely needed

    environ = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    told = {"environ": dict(engine.environ), "cache": str(engine.cache_dir), "link": link, "request": request.as_dict()}
    outcome: list[Any] = []
    reading, writing = os.pipe()

    def listen() -> None:
        with os.fdopen(reading, "rb") as pipe, suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                name, values = pickle.load(pipe)
                if name in _EVENTS:
                    getattr(progress, name)(*values)
                else:
                    outcome[:] = [name, values]

    listener = threading.Thread(target=listen, name="cetool-rattler-apart", daemon=True)
    listener.start()
    try:
        request.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with PrivateFiles(request) as files:
            path = files.write("request.json", json.dumps(told))
            argv = own_program(str(path), str(writing), entry="work", module="cetool.engines.rattler.engine")
            watched = (request.prefix, engine.cache_dir)
            invocation = Invocation(tuple(argv), environ, watched, (*hold.descriptors, writing))
            patient = request._replace(stall_timeout=request.stall_timeout + _GRACE)
            ended = run_engine(invocation, patient, lambda line, whole: None)
    finally:
        os.close(writing)
        listener.join()
    if not outcome:
        how = f"status {ended.status}" if ended.signum is None else f"signal {ended.signum}"
        raise EngineError(
            f"the embedded engine failed ({how})",
            code="engine-failed",
            hint="Try another engine, such as --engine conda.",
            log=str(request.log),
        )
    name, value = outcome
    if name == "raised":
        kind, message, fields = value
        error: CetoolError = kind.__new__(kind, message)
        error.__dict__.update(fields)
        raise error
    return list(value)


class _Telling:
    """Sends the progress and result of this process as messages to the process that started it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def tell(self, name: str, values: Any) -> None:
        """Send a message."""
        import pickle

        with self._lock, suppress(OSError):
            pickle.dump((name, values), self._pipe)

    def __getattr__(self, name: str) -> Any:
        return lambda *values: self.tell(name, values)


def answer(perform: Callable[[Mapping[str, str], Path, EngineRequest, Progress, bool], list[Package]]) -> None:
    """Do the work described in the file of the first argument; report to the descriptor of the second argument."""
    os.set_inheritable(int(sys.argv[2]), False)  # not for link scripts
    told = read_json(sys.argv[1], PACKAGE, exact=True)
    request = EngineRequest.from_dict(told["request"])
    with os.fdopen(int(sys.argv[2]), "wb", buffering=0) as pipe:
        telling = _Telling(pipe)
        try:
            packages = perform(told["environ"], Path(told["cache"]), request, telling, told["link"])
        except CetoolError as error:
            telling.tell("raised", (type(error), error.message, error.__dict__))
        else:
            telling.tell("done", packages)

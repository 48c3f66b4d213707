"""The embedded engine in a process of its own, where rattler is to see other variables than this process has.

rattler reads proxies, certificates and stores of credentials from the variables of its process. Those are not the
library's to change, and other threads may want others: so the work is done by a process that has them from its start.
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

#: Seconds that the process has to say itself that nothing moves.
_GRACE = 15.0
#: What is passed on of a :class:`~cetool.engines.protocol.Progress`.
_EVENTS = ("stage", "packages", "download", "link", "written", "note")


class Embedded(Protocol):
    """What is needed of :class:`~cetool.engines.rattler.engine.RattlerEngine`."""

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
    """What the engine would do here, with these variables of the process set, or unset where they are None."""
    import pickle  # takes 4 ms, and few need it

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
            f"the embedded engine ended with {how}",
            code="engine-failed",
            hint="Another engine may succeed: --engine conda.",
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
    """The progress of the process, and its outcome, as messages to the one that started it."""

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
    """Do what a file says, whose path is the first argument; report to the descriptor that is the second."""
    os.set_inheritable(int(sys.argv[2]), False)  # link scripts have nothing to say here
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

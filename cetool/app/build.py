"""``python -m cetool.app.build``: builds of a server, one after another, each as processes that end with this one.

It reads requests from standard input, one JSON object on each line, and writes events to standard output, one JSON
object on each line; ``done`` or ``failed`` ends a build. ``{"cancel": BUILD}`` ends a running build, and the end of the
input ends everything. The work is done by forked processes (:mod:`cetool.app.build_steps`). So this one keeps its
imports and a single thread, and the next build starts at once. It watches what they use.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from cetool.app.build_steps import BuildRequest, LinkPlan, check_size, link, link_plan, solve_and_fetch
from cetool.app.build_watch import TICK, Watch
from cetool.app.world import World, world_in
from cetool.base.codec import decode
from cetool.base.confining import (
    adopt_orphans,
    confine,
    descendants,
    die_with_parent,
    group_of_processes,
    limit,
    unavailable,
)
from cetool.base.errors import CetoolError, EngineError, Interrupted, is_disk_full
from cetool.base.urls import scrub
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.package import Package, PypiPackage
from cetool.store.making import remove
from cetool.store.store import Directory

#: Errors that another attempt may not meet.
TRANSIENT = frozenset(
    (
        *("build-crashed", "channel-unreachable", "download-failed", "engine-stalled", "index-unreachable"),
        # a package was replaced or removed in the cache between the steps
        *("url-unreachable", "offline-missing"),
    )
)
_SCHEMA = 1
#: The most bytes of an event, and of everything that is not a lock in a build's events.
_LONGEST = 64 << 20
#: Modules that the steps import; the first build does not wait for them.
_NEEDED = ("rattler", "asyncio", "ctypes", "rattler.networking.middleware", "rattler.package_streaming", "portalocker")


def main() -> None:
    """Serve builds until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    for name in _NEEDED:
        import_module(name)
    adopt_orphans()
    gc.collect()
    gc.freeze()
    lines = _Lines(0)
    problem = unavailable()
    _send({"event": "ready", "sandbox": problem})
    while (line := lines.next()) is not None:
        try:
            data = json.loads(line)
            if "cancel" in data:
                continue  # of a build that has ended
            request = decode(BuildRequest, data, schema=_SCHEMA)
        except ValueError as error:
            _send(_failure(CetoolError(f"the request for a build is malformed: {error}", code="defect")))
            continue
        _serve(request, lines, confined=problem is None)


def _serve(request: BuildRequest, lines: _Lines, *, confined: bool) -> None:
    """Do one build, and report how it ended."""
    try:
        _Build(request, lines, confined=confined).run()
        last = {"event": "done"}
    except CetoolError as error:
        last = _failure(error)
    except Exception as error:
        last = _failure(_defect(error))
    shutil.rmtree(request.scratch, ignore_errors=True)
    _send(last)


class _Build:
    """One build, seen from the process that watches it."""

    def __init__(self, request: BuildRequest, lines: _Lines, *, confined: bool) -> None:
        self.request = request
        self.lines = lines
        self.confined = confined and request.confined
        self.exact: EnvironmentSpec | None = None
        self.realized: dict[str, Any] | None = None
        self.stage = "starting"
        self.deadline = time.monotonic() + request.limits.seconds

    def run(self) -> None:
        """Take both steps. Raises CetoolError."""
        request = self.request
        shutil.rmtree(request.scratch, ignore_errors=True)
        try:
            request.scratch.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise _cannot_write(error) from None
        world = world_in(request.data, request.settings)
        self._step(lambda tell: solve_and_fetch(request, world, tell, confined=self.confined))
        if self.realized is None and self.exact is not None and request.realize is not None:
            self._link(world, self.exact, request.realize)
        if self.realized is not None:
            check_size(self.realized["size"], request.limits)

    def _link(self, world: World, exact: EnvironmentSpec, platform: str) -> None:
        plan = link_plan(self.request, exact, world)
        try:
            self._step(lambda tell: link(plan, tell, platform), plan=plan if self.confined else None)
        except BaseException:
            _send({"event": "note", "text": _last_words(self.request.scratch / "link.log")})
            _remove_remains(world, exact)
            raise
        if self.realized is None:
            raise EngineError("linking ended without a result", code="build-crashed")

    # --- a step in a process --------------------------------------------------------------------------------------

    def _step(self, work: Callable[[_Told], None], plan: LinkPlan | None = None) -> None:
        """Do the work in a forked process; return when it is done, raise CetoolError if it fails."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        above = os.getpid()
        with group_of_processes(2 * self.request.limits.processes) as join:
            pid = os.fork()
            if pid == 0:
                join()
                _work(work, writing, above, self.request, plan)
            os.close(writing)
            patience = 0.0
            try:
                ended = self._follow(_Lines(reading), pid, confined=plan is not None)
                patience = 2.0
            finally:
                status = _end(pid, patience)
                os.close(reading)
        if ended is None:
            raise self._crash(status)
        if ended["event"] == "failed":
            raise _reported(ended)

    def _follow(self, events: _Lines, pid: int, *, confined: bool) -> dict[str, Any] | None:
        """Pass events on until the last one, which is returned; None if the process ends without it."""
        limits = self.request.limits
        written = [self.request.scratch]
        if self.exact is not None:
            written.append(self.request.data / "envs" / self.exact.name)
        watch = Watch(self.request, pid, written, quiet=2 if confined else 1)
        while True:
            tick = 0 if events.has_line else TICK
            ready = select.select([events.descriptor, self.lines.descriptor], [], [], tick)[0]
            if self.lines.descriptor in ready or self.lines.has_line:
                self._listen()
            if events.descriptor in ready or events.has_line:
                watch.beat()
                event = json.loads(events.next() or b"null")
                if event is None or event["event"] in ("done", "failed"):
                    return None if event is None else dict(event)
                self._take(event)
            if time.monotonic() > self.deadline:
                raise CetoolError(
                    f"the build took longer than {limits.seconds:g} seconds, while {self.stage}",
                    code="build-timed-out",
                    hint="Ask the server's operator for a higher limit if it needs more time.",
                )
            watch.look(self.stage)

    def _listen(self) -> None:
        """Read standard input: its end, or a cancellation."""
        line = self.lines.next()
        if line is None:
            raise Interrupted(signal.SIGHUP)
        with contextlib.suppress(ValueError, AttributeError):
            if json.loads(line).get("cancel") == self.request.build:
                raise CetoolError(f"canceled while {self.stage}", code="build-canceled")

    def _take(self, event: dict[str, Any]) -> None:
        """Note what an event says, and pass it on."""
        kind = event["event"]
        if kind == "stage":
            self.stage = event["text"][:1].lower() + event["text"][1:]
        elif kind == "lock" and event["platform"] == self.request.realize:
            wish = next(each for each in self.request.platforms if each.platform == event["platform"])
            conda = tuple(decode(Package, each) for each in event["lock"]["conda"])
            pypi = tuple(decode(PypiPackage, each) for each in event["lock"]["pypi"])
            self.exact = wish.spec.exactly(conda, pypi)
        elif kind == "realized":
            # what links runs next to others' code: check what it says
            if self.exact is None or event["name"] != self.exact.name or type(event["size"]) is not int:
                raise CetoolError("linking ended with a wrong result", code="build-crashed")
            self.realized = event
        _send(event)

    def _crash(self, status: int) -> CetoolError:
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        hint = "The machine may have run out of memory." if status == -signal.SIGKILL else None
        _send({"event": "note", "text": _last_words(self.request.scratch / "output.log")})
        return CetoolError(f"the build crashed ({name}) while {self.stage}", code="build-crashed", hint=hint)


# --- in the forked process --------------------------------------------------------------------------------------------

_Told = Callable[..., None]


def _work(
    work: Callable[[_Told], None], pipe: int, above: int, request: BuildRequest, plan: LinkPlan | None
) -> NoReturn:
    """Do a step in this process, confined if there is a plan for that, and end it."""
    status = 1
    try:
        die_with_parent(above)
        _use_own_files(request.scratch / "output.log")
        os.environ["TMPDIR"] = tempfile.tempdir = str(request.scratch)  # visible when confined, and removed afterwards
        limit({resource.RLIMIT_CORE: 0, resource.RLIMIT_DATA: 2 * request.limits.memory})
        os.nice(5)
        if plan is not None:
            if os.geteuid():
                limit({resource.RLIMIT_NPROC: 4 * request.limits.processes})
            confine(plan.walls)

        writes = threading.Lock()

        def tell(event: str, **fields: Any) -> None:
            with writes:
                _write(pipe, {"event": event, **fields})

        try:
            work(tell)
        except CetoolError as error:
            _write(pipe, _failure(error))
        except MemoryError:
            _write(pipe, _failure(CetoolError("the build ran out of memory", code="memory-exceeded")))
        except OSError as error:
            _write(pipe, _failure(_cannot_write(error)))
        else:
            _write(pipe, {"event": "done"})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status)


def _use_own_files(output: Path) -> None:
    """Detach from the server: no standard input, and a file for what is printed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (printed, 1), (printed, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(printed)


def _last_words(output: Path) -> str:
    """Return the end of what a step printed, for the log."""
    with contextlib.suppress(OSError), open(output, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4000))
        return scrub(file.read().decode(errors="replace")).strip()
    return ""


# --- processes and pipes ----------------------------------------------------------------------------------------------


def _end(pid: int, patience: float) -> int:
    """Wait for the end of a step, then kill it; return its exit status, or minus its signal. No process is left."""
    deadline = time.monotonic() + patience
    ended, status = 0, 0
    while not ended:
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, 0)
        else:
            ended, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0 if ended else 0.001)
    while left := descendants(os.getpid()):  # of a step that was not confined
        for each in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(status)


def _remove_remains(world: World, exact: EnvironmentSpec) -> None:
    """Remove what a failed or killed step left of an environment, unless another process uses it."""
    with contextlib.suppress(OSError, CetoolError):
        for directory in world.store.directories(exact.name):
            if not directory.is_marked:
                lock = world.store.hold_for_removal(directory)
                if lock is not None:
                    remove(world.store, Directory(directory.prefix, directory.name), lock)


class _Lines:
    """Reads lines from a descriptor, without a buffer that ``select`` does not see."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._kept = bytearray()

    @property
    def has_line(self) -> bool:
        """Whether the next line is there already."""
        return b"\n" in self._kept

    def next(self) -> bytes | None:
        """Wait for the next line; return None at the end, and for one that is too long."""
        while not self.has_line and len(self._kept) < _LONGEST:
            data = os.read(self.descriptor, 1 << 16)
            if not data:
                return None
            self._kept += data
        line, found, rest = self._kept.partition(b"\n")
        self._kept = rest
        return bytes(line) if found else None


def _send(event: dict[str, Any]) -> None:
    """Write an event to standard output; end if the server does not read any more."""
    try:
        _write(1, event)
    except OSError:
        os._exit(1)


def _write(descriptor: int, event: dict[str, Any]) -> None:
    data = memoryview(json.dumps(event, separators=(",", ":")).encode() + b"\n")
    while data:
        data = data[os.write(descriptor, data) :]


def _failure(error: CetoolError) -> dict[str, Any]:
    hint = None if error.hint is None else scrub(error.hint)
    return {
        "event": "failed",
        "code": error.code,
        "message": scrub(str(error)),
        "hint": hint,
        "details": [scrub(line) for line in error.details],
        "transient": error.code in TRANSIENT,
    }


def _reported(event: dict[str, Any]) -> CetoolError:
    """Return the error that a step has reported."""
    message, code, hint, details = (event[key] for key in ("message", "code", "hint", "details"))
    return CetoolError(message, code=code, hint=hint, details=tuple(details))


def _defect(error: Exception) -> CetoolError:
    return CetoolError(f"cetool has a bug: {type(error).__name__}: {error}", code="defect")


def _cannot_write(error: OSError) -> CetoolError:
    code = "disk-full" if is_disk_full(error) else "cache-not-writable"
    return CetoolError(f"cannot write on the server's disk: {error.strerror or error}", code=code)


if __name__ == "__main__":
    main()

"""The processes that build: started ahead of time, spoken to in lines of JSON, killed with everything they started."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any

from cetool.base.codec import decode
from cetool.base.errors import CetoolError
from cetool.base.process import own_program
from cetool.declare.package import Package, PypiPackage
from cetool.lock.model import PlatformLock
from cetool.server.config import PREFIX, ServerConfig

#: The most bytes of one event.
_LONGEST = 64 << 20
#: Seconds that a new process may take for its imports.
_PATIENCE = 60.0
_ENDED: dict[str, Any] = {}


def environ_of_children() -> dict[str, str]:
    """Return the variables for processes of the server, without its own settings, which may be secret."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


class Child:
    """One process of :mod:`cetool.app.build`. One thread uses it, except for :meth:`wake`."""

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                own_program(module="cetool.app.build"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environ_of_children(),
                start_new_session=True,
            )
        except OSError as error:
            raise CetoolError(f"cannot start a builder: {error.strerror}", code="build-crashed") from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._waking, self._woken = os.pipe()
        self._kept = bytearray()
        self._ready: Mapping[str, Any] | None = None

    @property
    def pid(self) -> int:
        """Its process, which is also its group."""
        return self._process.pid

    def ready(self) -> Mapping[str, Any]:
        """Wait until its imports are done; return its first event. Raises CetoolError if it fails before."""
        if self._ready is None:
            deadline = time.monotonic() + _PATIENCE
            while (event := self.event(deadline - time.monotonic())) is None:
                if time.monotonic() > deadline:
                    raise CetoolError("a builder did not start in time", code="build-crashed")
            if event is _ENDED:
                raise CetoolError(f"a builder ended at its start: {self.how()}", code="build-crashed")
            self._ready = event
        return self._ready

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a line. A process that has ended is noticed by :meth:`event`."""
        data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._input, data) :]

    def wake(self) -> None:
        """Make :meth:`event` return, from any thread."""
        with contextlib.suppress(OSError):
            os.write(self._woken, b".")

    def event(self, timeout: float) -> dict[str, Any] | None:
        """Return the next event; None after ``timeout`` seconds or :meth:`wake`, an empty one at the end."""
        while b"\n" not in self._kept:
            ready = select.select([self._output, self._waking], [], [], max(0.0, timeout))[0]
            if self._waking in ready:
                os.read(self._waking, 4096)
                return None
            if not ready:
                return None
            data = os.read(self._output, 1 << 16)
            if not data or len(self._kept) > _LONGEST:
                return _ENDED
            self._kept += data
        line, _, self._kept = self._kept.partition(b"\n")
        try:
            event = json.loads(line)
        except ValueError:
            return _ENDED
        return event if isinstance(event, dict) and event.get("event") else _ENDED

    def how(self) -> str:
        """Kill it, and return how it ended."""
        status = self.kill()
        return signal.Signals(-status).name if status < 0 else f"status {status}"

    def kill(self) -> int:
        """Kill it with all processes that it started; return its exit status, or minus its signal."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def close(self) -> None:
        """Kill it, and release its descriptors."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        for descriptor in (self._waking, self._woken):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._woken = self._waking = -1


class Spares:
    """Processes that wait for a build. ``most`` of them are kept: each takes 40 MB, and 0.4 s to start."""

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._idle: list[Child] = []
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> Child:
        """Return a process that is ready. Raises CetoolError."""
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                child = Child()
            try:
                child.ready()
            except BaseException:
                child.close()
                raise
            if child.event(0.0) is None:  # it is still there
                return child
            child.close()

    def give_back(self, child: Child) -> None:
        """Keep a process whose build has ended, or end it."""
        with self._lock:
            kept = not self._closed and len(self._idle) < self._most
            if kept:
                self._idle.append(child)
        if not kept:
            child.close()

    def close(self) -> None:
        """End all."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()


def failure_of(event: Mapping[str, Any]) -> CetoolError:
    """Return the error that a process has reported."""
    message, code, hint, details = (event[key] for key in ("message", "code", "hint", "details"))
    return CetoolError(message, code=code, hint=hint, details=tuple(details))


def lock_of(platform: str, reported: Mapping[str, Any]) -> PlatformLock:
    """Return the packages that a process has reported for a platform."""
    conda = tuple(decode(Package, each) for each in reported["conda"])
    return PlatformLock(platform, conda, tuple(decode(PypiPackage, each) for each in reported["pypi"]))


def why_not_confined(child: Child, config: ServerConfig) -> str | None:
    """Return why a process cannot confine others' code; None if it can, and if it need not.

    Raises CetoolError if the configuration requires that it can.
    """
    problem = None if config.sandbox == "off" else child.ready().get("sandbox")
    if problem is not None and config.sandbox == "required":
        raise CetoolError(
            f"link scripts cannot be confined on this machine: {problem}",
            code="setting-invalid",
            about="sandbox",
            hint="Allow user namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, "
            "kernel.apparmor_restrict_unprivileged_userns), or set `sandbox: auto`.",
        )
    return problem


def is_end(event: Mapping[str, Any]) -> bool:
    """Return whether an event says that the process has ended without a result."""
    return event is _ENDED or not event

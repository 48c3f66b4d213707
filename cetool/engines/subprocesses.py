"""Run an engine as a subprocess that ends with cetool: the only module that starts such processes.

The engine gets its own process group, no standard input, and a time limit without progress; it is stopped by signals
when cetool stops. When :func:`run_engine` returns or raises, no process of the group is alive. Output of the engine is
written to the log without credentials, and passed to a callback as it arrives.
"""

from __future__ import annotations

import os
import queue
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cetool.base.errors import EngineError, Interrupted
from cetool.base.urls import redact
from cetool.base.values import Value
from cetool.engines.output import Feed, Log, OnLine
from cetool.engines.protocol import EngineRequest

#: A process below these limits in an interval is idle: it may show a spinner, or poll its sockets.
_BUSY_SHARE = 0.1
_BUSY_BYTES = 512


class Vitals:
    """Detects progress of a process and its children: output, CPU time, bytes written, changes in its directories.

    Output counts immediately. The others are measured only if there is no output, at most every ``interval`` seconds.
    """

    interval = 1.0

    def __init__(self, pid: int, watched: tuple[Path, ...], clock: Callable[[], float]) -> None:
        self._pid = pid
        self._watched = watched
        self._clock = clock
        self._alive_at = self._looked_at = clock()
        self._cpu = 0.0
        self._written = 0
        self._disk: tuple[int, ...] = ()

    def spoke(self) -> None:
        """Note that the process has just printed something."""
        self._alive_at = self._clock()

    def still_for(self) -> float:
        """Return the seconds since the last sign of progress."""
        now = self._clock()
        if now - max(self._looked_at, self._alive_at) >= self.interval:
            if self._moves(now - self._looked_at):
                self._alive_at = now
            self._looked_at = now
        return now - self._alive_at

    def _moves(self, elapsed: float) -> bool:
        cpu, written = _consumption(self._pid)
        disk = tuple(_fingerprint(path) for path in self._watched)
        moves = cpu - self._cpu > _BUSY_SHARE * elapsed or written - self._written > _BUSY_BYTES or disk != self._disk
        self._cpu, self._written, self._disk = cpu, written, disk
        return moves


def _consumption(pid: int) -> tuple[float, int]:
    """Return the CPU time in seconds, and the bytes written, of a process and its living descendants."""
    import psutil  # takes 10 ms, and is not needed in the first second

    cpu, written = 0.0, 0
    try:
        leader = psutil.Process(pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return cpu, written
    for process in family:
        try:
            times = process.cpu_times()
            cpu += times.user + times.system
            if hasattr(process, "io_counters"):
                counters = process.io_counters()
                written += getattr(counters, "write_chars", counters.write_bytes)
        except psutil.Error:
            continue
    return cpu, written


def _fingerprint(directory: Path, depth: int = 1) -> int:
    """Return a number that changes when an entry of the directory, or one level below, is added, removed or changed."""
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                total += hash((entry.name, status.st_size, status.st_mtime_ns))
                if depth and entry.is_dir(follow_symlinks=False):
                    total += _fingerprint(Path(entry.path), depth - 1)
    except OSError:
        return total
    return total


#: Signals and the seconds to wait after each; SIGKILL follows.
_FAREWELL = ((signal.SIGINT, 3.0), (signal.SIGTERM, 2.0))
_TICK = 0.25
_WINDOWS = os.name == "nt"


class Ended(Value):
    """How an engine's run ended."""

    #: Its exit status, or the signal that killed it.
    status: int | None
    signum: int | None
    #: The last part of its output, without credentials.
    stdout: str
    stderr: str


class Invocation(Value):
    """A command line to run."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    #: Directories in which a change is a sign of progress.
    watched: tuple[Path, ...] = ()
    pass_fds: tuple[int, ...] = ()


def run_engine(invocation: Invocation, request: EngineRequest, on_line: OnLine) -> Ended:
    """Run the engine to its end; return how it ended.

    Raises EngineError if it cannot be started, or made no progress for ``request.stall_timeout`` seconds. Any exception
    while it runs (KeyboardInterrupt, :class:`~cetool.base.errors.Interrupted`) stops it first: by SIGINT, after 3
    seconds by SIGTERM, after 2 more by SIGKILL; a second interruption kills it at once.
    """
    with Log(request.log) as log:
        log.write(f"$ {shlex.join(invocation.argv)}\n")
        with _watchdog() as watch:
            process = _start(invocation)
            try:
                watch(process.pid)
                stdout, stderr = _attend(process, invocation, request, on_line, log)
            except BaseException:
                _stop(process)
                raise
            finally:
                _reap(process)
        status = process.returncode
        log.write(f"[ended with {status}]\n")
    if status < 0:
        return Ended(None, -status, stdout, stderr)
    return Ended(status, None, stdout, stderr)


def _start(invocation: Invocation) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            invocation.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(invocation.environ),
            start_new_session=not _WINDOWS,
            pass_fds=() if _WINDOWS else tuple(dict.fromkeys(invocation.pass_fds)),
        )
    except OSError as error:
        raise EngineError(f"cannot start {invocation.argv[0]}: {error.strerror}", code="engine-not-working") from error


#: Waits until the pipe is closed, because the process at its other end has ended, and kills the given group.
_WATCH = 'read -r group && { read -r _; kill -s KILL -- "-$group"; }'


@contextmanager
def _watchdog() -> Iterator[Callable[[int], None]]:
    """Kill a process group when this process ends, even by ``kill -9``; the yielded function takes the group.

    A shell in its own session does this. (Linux's parent death signal would be sent when the thread that started the
    group ends.) Without a shell, nothing happens.
    """
    try:
        dog = None if _WINDOWS else _started_dog()
    except OSError:
        dog = None
    if dog is None or dog.stdin is None:
        yield lambda group: None
        return
    line = dog.stdin.fileno()

    def watch(group: int) -> None:
        with suppress(OSError):
            os.write(line, b"%d\n" % group)

    try:
        yield watch
    finally:
        dog.kill()  # before the pipe ends
        dog.wait()
        with suppress(OSError):
            dog.stdin.close()


def _started_dog() -> subprocess.Popen[bytes]:
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        ("/bin/sh", "-c", _WATCH),
        bufsize=0,
        cwd="/",
        env={"PATH": os.defpath},
        stdin=subprocess.PIPE,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
    )


def _attend(
    process: subprocess.Popen[bytes], invocation: Invocation, request: EngineRequest, on_line: OnLine, log: Log
) -> tuple[str, str]:
    """Pass the output to log and callback until the process has ended; raise EngineError if it makes no progress."""
    chunks: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    assert process.stdout is not None and process.stderr is not None
    feeds = [Feed(log, on_line), Feed(log, on_line)]
    readers = [
        threading.Thread(target=_read, args=(pipe, number, chunks), daemon=True)
        for number, pipe in enumerate((process.stdout, process.stderr))
    ]
    for reader in readers:
        reader.start()
    vitals = Vitals(process.pid, invocation.watched, time.monotonic)
    open_pipes = len(readers)
    while open_pipes or not _has_ended(process):
        try:
            number, chunk = chunks.get(timeout=_TICK)
        except queue.Empty:
            if _has_ended(process):
                break
            if vitals.still_for() > request.stall_timeout:
                raise _stalled(invocation, request, feeds) from None
            continue
        if chunk:
            feeds[number].add(chunk)
            vitals.spoke()
        else:
            open_pipes -= 1
    _reap(process)  # a process remaining in the group could keep the pipes open
    for reader in readers:
        reader.join(timeout=2.0)
    with suppress(queue.Empty):
        while True:
            number, chunk = chunks.get_nowait()
            feeds[number].add(chunk)
    return feeds[0].close(), feeds[1].close()


def _read(pipe: IO[bytes], number: int, chunks: queue.SimpleQueue[tuple[int, bytes]]) -> None:
    """Move the output of a pipe into the queue; empty bytes mark its end."""
    with suppress(OSError, ValueError):
        while chunk := os.read(pipe.fileno(), 65536):
            chunks.put((number, chunk))
    chunks.put((number, b""))


def _stalled(invocation: Invocation, request: EngineRequest, feeds: Sequence[Feed]) -> EngineError:
    last = next((feed.last_line for feed in feeds if feed.last_line), "")
    channels = ", ".join(map(redact, request.channels))
    name = Path(invocation.argv[0]).name
    return EngineError(
        f"{name} made no progress for {request.stall_timeout:g} seconds and was stopped"
        + (f"; its last output was: {last}" if last else ""),
        code="engine-stalled",
        hint=f"Usually a server does not answer (channels: {channels}). Try again later, or increase `stall-timeout`.",
        log=str(request.log),
    )


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether the process has ended; it is not reaped yet, so that its ID still identifies its group."""
    if process.returncode is not None:
        return True
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return process.poll() is not None


def _signal_group(process: subprocess.Popen[bytes], signum: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if _WINDOWS:
            process.terminate()
        else:
            os.killpg(process.pid, signum)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the process by increasingly strong signals. Another interruption while waiting skips to the end."""
    with suppress(BaseException):
        for signum, patience in _FAREWELL:
            _signal_group(process, signum)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if _has_ended(process):
                    return
                time.sleep(0.02)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Kill the remaining processes of the group and reap the first process; interruptions are raised afterwards."""
    interruption: BaseException | None = None
    while process.returncode is None:
        try:
            if not _WINDOWS:
                _signal_group(process, signal.SIGKILL)
            elif process.poll() is None:
                process.kill()
            process.wait()
            _await_group(process.pid)
        except (KeyboardInterrupt, Interrupted) as error:
            interruption = error
    if interruption is not None:
        raise interruption


def _await_group(group: int, patience: float = 2.0) -> None:
    """Wait until the killed processes of a group are gone, which takes a moment, but at most ``patience`` seconds.

    If no process reaps orphans, zombies remain in the group.
    """
    deadline = time.monotonic() + patience
    while not _WINDOWS and time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except OSError:
            return
        if not _has_living(group):
            return
        time.sleep(0.005)


def _has_living(group: int) -> bool:
    """Return whether a process of the group is not a zombie."""
    import psutil  # takes 10 ms, and an engine rarely leaves processes

    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return True
        except (psutil.Error, OSError):
            continue
    return False

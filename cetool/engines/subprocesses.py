"""Runs an engine as a subprocess that cannot outlive its purpose: the only starter of such processes.

The engine gets a process group of its own, no standard input, a time limit on standing still, and the signals that
make it stop when cetool has to; when :func:`run_engine` returns or raises, no process of the group is alive. What the
engine prints goes into the log, without credentials, and to a callback as it comes.
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

#: Less than this in an interval is a process that idles: a spinner, a poll of its sockets.
_BUSY_SHARE = 0.1
_BUSY_BYTES = 512


class Vitals:
    """The signs of life of a process and its children: what it prints, the processor time it takes, the bytes that are
    written, and what changes in the directories that it fills.

    Output counts at once. The other signs are looked at only when there is none, and not more often than the answer
    can change: at most every ``interval`` seconds.
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
        """It has just printed something."""
        self._alive_at = self._clock()

    def still_for(self) -> float:
        """For how many seconds no sign of life has been seen."""
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
    """Seconds of processor time and bytes written by a process and its living descendants."""
    import psutil  # takes 10 ms, and nobody asks before a second has passed

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
    """A number that changes when something in the directory, or one level below, is made, removed or grows."""
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


#: Signals and how many seconds each is given to work, from an invitation to a certainty.
_FAREWELL = ((signal.SIGINT, 3.0), (signal.SIGTERM, 2.0))
_TICK = 0.25
_WINDOWS = os.name == "nt"


class Ended(Value):
    """How an engine's run ended."""

    #: Its exit status, or the signal that killed it.
    status: int | None
    signum: int | None
    #: The last part of what it printed, credentials taken out.
    stdout: str
    stderr: str


class Invocation(Value):
    """One command line to be run."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    #: Directories in which a change is a sign of life.
    watched: tuple[Path, ...] = ()
    pass_fds: tuple[int, ...] = ()


def run_engine(invocation: Invocation, request: EngineRequest, on_line: OnLine) -> Ended:
    """Run the engine to its end; say how it ended.

    Raises EngineError when it cannot be started or stood still for ``request.stall_timeout`` seconds. Whatever is
    raised while it runs (KeyboardInterrupt, :class:`~cetool.base.errors.Interrupted`) ends it first: SIGINT, after 3
    seconds SIGTERM, after 2 more SIGKILL; another interruption meanwhile kills it at once.
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
        raise EngineError(
            f"{invocation.argv[0]} cannot be started: {error.strerror}", code="engine-not-working"
        ) from error


#: Waits for the end of a pipe, which is that of the process at its other end, and kills the group that it was told.
_WATCH = 'read -r group && { read -r _; kill -s KILL -- "-$group"; }'


@contextmanager
def _watchdog() -> Iterator[Callable[[int], None]]:
    """Have a process group, which is told to what this yields, die with this process, even by ``kill -9``.

    A shell does it, in a session of its own. (Linux's death signal would come with the end of the thread that started
    the group.) Where there is no shell it is not done.
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
    """Feed the output to log and callback until the leader has ended; raise EngineError when nothing moves any more."""
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
    _reap(process)  # a process left behind in the group could hold the pipes open
    for reader in readers:
        reader.join(timeout=2.0)
    with suppress(queue.Empty):
        while True:
            number, chunk = chunks.get_nowait()
            feeds[number].add(chunk)
    return feeds[0].close(), feeds[1].close()


def _read(pipe: IO[bytes], number: int, chunks: queue.SimpleQueue[tuple[int, bytes]]) -> None:
    """Move what comes out of a pipe into the queue; empty bytes stand for its end."""
    with suppress(OSError, ValueError):
        while chunk := os.read(pipe.fileno(), 65536):
            chunks.put((number, chunk))
    chunks.put((number, b""))


def _stalled(invocation: Invocation, request: EngineRequest, feeds: Sequence[Feed]) -> EngineError:
    last = next((feed.last_line for feed in feeds if feed.last_line), "")
    channels = ", ".join(map(redact, request.channels))
    name = Path(invocation.argv[0]).name
    return EngineError(
        f"{name} showed no sign of progress for {request.stall_timeout:g} seconds and was ended"
        + (f"; the last that it said: {last}" if last else ""),
        code="engine-stalled",
        hint=f"Mostly a server does not answer (channels: {channels}): try again later, or raise the time limit.",
        log=str(request.log),
    )


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the leader has ended. It is not reaped yet, so that its number still names its group and no other."""
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
    """End the leader, politely first. A further interruption while waiting ends the politeness."""
    with suppress(BaseException):
        for signum, patience in _FAREWELL:
            _signal_group(process, signum)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if _has_ended(process):
                    return
                time.sleep(0.02)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever of the group still lives and take the leader's exit status; interruptions wait for that."""
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
    """Wait until the killed members of a group are gone: a signal is sent at once, but dying takes a moment.

    No longer than ``patience`` seconds: where nobody reaps orphans, the dead stay in the group.
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
    """Whether a process of the group is more than a zombie that whoever adopted it has not looked at yet."""
    import psutil  # takes 10 ms, and an engine rarely leaves a process behind

    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return True
        except (psutil.Error, OSError):
            continue
    return False

"""Waits for a child in such a way that signals reach it as if cetool were not there."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

#: Signals that somebody sends to cetool and means for the program that it waits for.
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM")
#: Signals that a terminal sends to every process in the foreground: the program has them already.
_SHARED = ("SIGINT", "SIGQUIT")


class Child:
    """The child that signals go to while there is one; those that come before or after it are kept."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.kept: list[int] = []
        self.wakeup: int | None = None

    def adopt(self, pid: int) -> None:
        """From now on signals are this child's, those that were kept first."""
        self.pid = pid
        kept, self.kept = self.kept, []
        for number in kept:
            self.forward(number, None)

    def wait(self, stream: int | None = None) -> tuple[int, bytes]:
        """Wait for the child's end and that of ``stream``: the status (negative: a signal's number), what was read.

        Waiting is for a descriptor that every signal writes to. Were it in waitpid, a signal that came a moment before
        would be dealt with only once the child had ended (handlers run between two steps of the interpreter).
        """
        assert self.pid is not None
        output = bytearray()
        if self.wakeup is None:
            while stream is not None and (data := os.read(stream, 1 << 16)):
                output += data
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), bytes(output)
        status: int | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(self.wakeup, selectors.EVENT_READ)
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ)
            while True:
                if self.pid is not None:
                    pid, ended = os.waitpid(self.pid, os.WNOHANG)
                    if pid:
                        self.pid = None  # the number may soon be somebody else's
                        status = os.waitstatus_to_exitcode(ended)
                # a daemon may hold the stream open for ever: then a signal is cetool's own again
                if status is not None and (stream is None or self.kept):
                    return status, bytes(output)
                for key, _ in selector.select():
                    data = os.read(key.fd, 1 << 16)
                    if key.fd == stream:
                        output += data
                        if not data:
                            selector.unregister(stream)
                            stream = None

    def forward(self, number: int, frame: FrameType | None) -> None:
        """Handler of a signal that was sent to cetool alone."""
        try:
            if self.pid is not None:
                os.kill(self.pid, number)
                return
        except OSError:  # it has just ended, or is somebody else's (setuid)
            pass
        self.kept.append(number)

    def leave(self, number: int, frame: FrameType | None) -> None:
        """Handler of a signal that the terminal has sent to the child as well; what others send is passed on."""
        if self.pid is None:
            self.kept.append(number)
        elif not _in_foreground():
            self.forward(number, frame)


def _in_foreground() -> bool:
    """Whether a terminal sends its signals to this process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


@contextlib.contextmanager
def signals_for_child() -> Iterator[Child]:
    """Have signals reach the child that is started within, adopted, and waited for.

    Handlers, not SIG_IGN, so that exec puts them back to their defaults in the child; a signal that the caller had
    ignored stays ignored in both. Off the main thread, where handlers cannot be set, signals do what they did before.
    """
    child = Child()
    if threading.current_thread() is not threading.main_thread():
        yield child
        return
    child.wakeup, writer = os.pipe()
    os.set_blocking(writer, False)
    before: dict[int, Any] = {}
    old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        # needed even where the caller ignores it: the kernel would throw the child's status away
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for names, handler in ((_FORWARDED, child.forward), (_SHARED, child.leave)):
            for number in (getattr(signal, name) for name in names):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, handler)
        yield child
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
        signal.set_wakeup_fd(old_writer)
        os.close(writer)
        os.close(child.wakeup)
        for number in child.kept:  # there was no child to take it: it was meant for cetool
            os.kill(os.getpid(), number)

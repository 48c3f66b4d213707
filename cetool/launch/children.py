"""Run commands as children of cetool, wait for them and capture their output.

Signals reach them as if cetool were not there.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from cetool.base.errors import CetoolError
from cetool.base.process import Consent, own_code
from cetool.launch.process import Command, launch_error, run_on_windows, shell_if_needed, sourced_on_windows
from cetool.warm.environ import ON_WINDOWS
from cetool.warm.handover import IGNORED_BY_PYTHON, find_shell, flush_streams, sourcing_argv

#: Signals that other processes send to cetool and mean for the program that it waits for.
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM")
#: Signals that a terminal sends to all processes in the foreground: the program gets them without cetool.
_SHARED = ("SIGINT", "SIGQUIT")


def spawn_and_wait(command: Command, consent: Consent, *, keep: Sequence[int] = ()) -> int:
    """Run the command as a child and wait: return its exit status, or the negative number of the signal that ended it.

    The child is in cetool's process group, so the terminal treats both as one job. The child handles signals that the
    terminal sends to the group; cetool passes on those that only it gets. Raises like :func:`exec_command`.
    """
    if ON_WINDOWS:
        return run_on_windows(command)[0]
    program, argv = shell_if_needed(command)
    with signals_for_child() as child:
        child.adopt(_posix_spawn(command.program, program, argv, command.environ, keep))
        return child.wait()[0]


def capture_output(command: Command, consent: Consent, *, keep: Sequence[int] = ()) -> tuple[int, bytes]:
    """Run the command like :func:`spawn_and_wait`, without standard input; return its status and standard output."""
    if ON_WINDOWS:
        return run_on_windows(command, capture=True)
    program, argv = shell_if_needed(command)
    return _capture(command.program, (program, *argv[1:]), command.environ, keep, 1)


def sourced_environ(
    scripts: Sequence[str], environ: Mapping[str, str], consent: Consent, *, keep: Sequence[int] = ()
) -> dict[str, str]:
    """Return the environment after one shell has taken these steps, for several commands to share.

    What the scripts print goes to cetool's standard streams. Raises CetoolError if one of them ends the shell.
    """
    if not scripts:
        return dict(environ)
    if ON_WINDOWS:
        return sourced_on_windows(scripts, environ)
    shell = find_shell(environ)
    # Python writes its environment to a descriptor that the scripts do not print to. Unlike `env -0`, this works
    # everywhere; -I and -S keep Python from loading anything else.
    dump = own_code(_DUMP, str(_DUMP_FD))
    argv = sourcing_argv(shell, scripts, dump)
    status, output = _capture(shell, argv, environ, keep, _DUMP_FD)
    if status != 0 or not output.endswith(b"\0"):
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise CetoolError(
            f"the environment's activation scripts ended their shell ({how})",
            code="activation-failed",
            hint="Run with --no-activate, or report it to the maintainers of the package that has the script.",
        )
    after = dict(os.fsdecode(pair).partition("=")[::2] for pair in output[:-1].split(b"\0"))
    after.pop("_", None)  # set by the shell itself
    if "_" in environ:
        after["_"] = environ["_"]
    return after


_DUMP_FD = 9
# os.environb would include an LC_CTYPE that Python added (PEP 538); the kernel's copy does not.
_DUMP = """\
import os, sys
try:
    with open("/proc/self/environ", "rb") as file:
        data = file.read()
except OSError:
    data = b"".join(name + b"=" + value + b"\\0" for name, value in os.environb.items())
with open(int(sys.argv[1]), "wb") as file:
    file.write(data)
"""


def _posix_spawn(
    name: str,
    program: str,
    argv: Sequence[str],
    environ: Mapping[str, str],
    keep: Sequence[int],
    descriptors: Mapping[int, int] | None = None,
) -> int:
    """Start a child with these descriptors, and with default handling of the signals that Python ignores."""
    flush_streams()  # so that cetool's output comes before the child's
    for descriptor in keep:
        os.set_inheritable(descriptor, True)
    actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in (descriptors or {}).items()]
    try:
        return os.posix_spawn(
            program, list(argv), environ, file_actions=actions, setsigdef=[int(number) for number in IGNORED_BY_PYTHON]
        )
    except (OSError, ValueError) as error:
        raise launch_error(error, name) from error
    finally:
        for descriptor in keep:  # children that other threads start must not inherit them
            os.set_inheritable(descriptor, False)


def _capture(
    name: str, argv: Sequence[str], environ: Mapping[str, str], keep: Sequence[int], target: int
) -> tuple[int, bytes]:
    """Run a child and read all that it writes to descriptor ``target``; with target 1 its standard input is empty."""
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reader)
        ends = contextlib.ExitStack()
        with ends:
            ends.callback(os.close, writer)
            descriptors = {target: _out_of_the_way(writer, ends)}
            if target == 1:
                nothing = ends.enter_context(open(os.devnull, "rb"))
                descriptors[0] = _out_of_the_way(nothing.fileno(), ends)
            child = stack.enter_context(signals_for_child())
            child.adopt(_posix_spawn(name, argv[0], argv, environ, keep, descriptors))
        return child.wait(reader)


def _out_of_the_way(descriptor: int, stack: contextlib.ExitStack) -> int:
    """Duplicate a descriptor to a number that the child does not use: a pipe gets 0 or 1 if the caller closed them."""
    import fcntl

    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _DUMP_FD + 1)
    stack.callback(os.close, copy)
    return copy


# --- signals ----------------------------------------------------------------------------------------------------------


class Child:
    """The child that receives signals; those that come before or after it are kept."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.kept: list[int] = []
        self.wakeup: int | None = None

    def adopt(self, pid: int) -> None:
        """Send signals to this child from now on, first those that were kept."""
        self.pid = pid
        kept, self.kept = self.kept, []
        for number in kept:
            self.forward(number, None)

    def wait(self, stream: int | None = None) -> tuple[int, bytes]:
        """Wait for the end of the child and of ``stream``: return the status (negative: a signal's number) and the data
        read.

        Waits for a descriptor that every signal writes to. In waitpid, a signal that came a moment before would be
        handled only after the child's end, because handlers run between two steps of the interpreter.
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
                        self.pid = None  # another process may soon get this number
                        status = os.waitstatus_to_exitcode(ended)
                # a daemon may hold the stream open forever: then signals are for cetool again
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
        """Pass on a signal that was sent to cetool alone."""
        try:
            if self.pid is not None:
                os.kill(self.pid, number)
                return
        except OSError:  # it has just ended, or belongs to another user (setuid)
            pass
        self.kept.append(number)

    def leave(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal that the terminal has also sent to the child; pass it on if another process sent it."""
        if self.pid is None:
            self.kept.append(number)
        elif not _in_foreground():
            self.forward(number, frame)


def _in_foreground() -> bool:
    """Return whether a terminal sends its signals to this process group."""
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
    """Have signals reach the child that is started, adopted and waited for within this context.

    Handlers are used instead of SIG_IGN, so that exec resets them in the child; a signal that the caller ignored stays
    ignored in both. Outside the main thread, where handlers cannot be set, signals are unchanged.
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
        # needed even if the caller ignores it: the kernel would discard the child's status
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
        for number in child.kept:  # no child took it: it was meant for cetool
            os.kill(os.getpid(), number)

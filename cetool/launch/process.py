"""A command, and how cetool becomes it: by exec on POSIX, by a child that is waited for elsewhere.

Exit status, signals, terminal, standard streams and working directory are the program's own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from cetool.base.errors import CetoolError, NotExecutableError, ProgramNotFoundError
from cetool.base.process import Consent
from cetool.base.values import Value
from cetool.warm.environ import ON_WINDOWS
from cetool.warm.handover import find_shell, flush_streams, replace_process, sourcing_argv


class Command(Value):
    """What is to be run: plain data, all of it.

    What its steps print goes where it goes under conda: to the standard output and error of the program.
    """

    #: An absolute path.
    program: str
    #: The whole command line; with steps the program sees its path as the first word.
    argv: tuple[str, ...]
    #: All its variables.
    environ: dict[str, str]
    #: The steps that a shell takes before, as :func:`cetool.warm.environ.activated` gives them.
    scripts: tuple[str, ...] = ()


def exec_command(command: Command, consent: Consent, *, keep: Sequence[int] = ()) -> NoReturn:
    """Become the command; descriptors in ``keep`` (locks) stay open in it. Does not return.

    On Windows, which has no exec, cetool waits for the program and ends as it does. Raises ProgramNotFoundError (127)
    or NotExecutableError (126) where the system will not run it.
    """
    if ON_WINDOWS:
        end_like(run_on_windows(command)[0])
    if command.scripts:
        check_executable(command.program)  # the shell's own words on it would be less clear
    try:
        replace_process(command.program, command.argv, command.environ, command.scripts, keep)
    except (OSError, ValueError) as error:
        raise launch_error(error, command.program) from error


def end_like(returncode: int) -> NoReturn:
    """End this process as a child ended: with its exit status, or by the signal (a negative number) that it died of."""
    flush_streams()
    if returncode < 0 and not ON_WINDOWS:
        number = -returncode
        import resource

        with contextlib.suppress(OSError, ValueError):  # the child has left its core; ours would overwrite it
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with contextlib.suppress(OSError, ValueError):  # SIGKILL takes no handler
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # a signal that does not end a process
    if ON_WINDOWS and returncode >= 1 << 31:  # NTSTATUS values, which sys.exit takes as signed
        returncode -= 1 << 32
    sys.exit(returncode)


def command_line(command: Command) -> list[str]:
    """The words that start the command on POSIX, its steps and all, for those who start programs by themselves."""
    program, argv = shell_if_needed(command)
    return [program, *argv[1:]]


def check_executable(program: str) -> None:
    """Raise what :func:`exec_command` would raise for the most frequent reasons, before anything is started."""
    if os.path.isdir(program):
        raise launch_error(OSError(errno.EISDIR, "is a directory"), program)
    if not os.path.exists(program):
        raise launch_error(OSError(errno.ENOENT, "no such file"), program)
    if not os.access(program, os.X_OK):
        raise launch_error(OSError(errno.EACCES, "permission denied"), program)
    interpreter = _interpreter(program)
    if interpreter and not os.path.exists(interpreter):
        raise launch_error(OSError(errno.ENOENT, "no interpreter"), program)


#: What the system may say of a program that is there, and what to do about it.
_REASONS = {
    errno.E2BIG: (
        "cannot be started: arguments and environment together are longer than this system allows",
        "Pass fewer or shorter arguments, or a file that lists them.",
    ),
    errno.EACCES: ("may not be executed", "chmod +x {}, unless its file system is mounted noexec"),
    errno.ENOEXEC: (
        "is nothing that this machine can run",
        "A script needs a first line like #!/bin/sh; a program may be made for another architecture.",
    ),
    errno.ETXTBSY: ("is being written by another process", "Try again when that is done."),
}


def launch_error(error: OSError | ValueError, program: str) -> CetoolError:
    """The sentence for what the system said when it was asked to run ``program``."""
    if not isinstance(error, OSError):
        return NotExecutableError(f"{program} cannot be started: {error} in its arguments or environment")
    number = errno.EACCES if error.errno == errno.EPERM else error.errno
    if number in (errno.ENOENT, errno.ENOTDIR):
        if not os.path.lexists(program):
            return ProgramNotFoundError(f"there is no program {program}", about=program)
        interpreter = _interpreter(program)
        if interpreter:
            return NotExecutableError(
                f"{program} is to be run by {interpreter}, which does not exist",
                hint="Correct the first line of that file, or add what it names to the script's packages.",
            )
        return NotExecutableError(
            f"{program} cannot be started: it is a broken link, or made for another system (its loader is missing)"
        )
    if number == errno.EISDIR or (error.errno == errno.EACCES and os.path.isdir(program)):
        return NotExecutableError(f"{program} is a directory, not a program")
    if number not in _REASONS:
        return NotExecutableError(f"{program} cannot be started: {error.strerror or error}")
    problem, hint = _REASONS[number]
    return NotExecutableError(f"{program} {problem}", hint=hint.format(program))


def _interpreter(program: str) -> str | None:
    """The interpreter that the first line of a file names, if it names one by an absolute path."""
    try:
        with open(program, "rb") as file:
            first = file.readline(512)
    except OSError:
        return None
    words = os.fsdecode(first[2:]).split(None, 1) if first.startswith(b"#!") else []
    return words[0] if words and words[0].startswith("/") else None


def shell_if_needed(command: Command) -> tuple[str, Sequence[str]]:
    """The program and the words that start the command: a shell's, where there are steps to take before."""
    if not command.scripts:
        return command.program, command.argv
    check_executable(command.program)
    shell = find_shell(command.environ)
    return shell, sourcing_argv(shell, command.scripts, (command.program, *command.argv[1:]))


# Windows. Written from its documentation and not tested: no such machine was at hand. There is no exec there; a child
# in the same console gets CTRL-C itself, and activation scripts are batch files that only cmd.exe can run.


def run_on_windows(command: Command, *, capture: bool = False) -> tuple[int, bytes]:
    """Run the command as a child: its exit status, and with ``capture`` its standard output, its input being empty."""
    import subprocess

    environ = sourced_on_windows(command.scripts, command.environ)
    given, taken = (subprocess.DEVNULL, subprocess.PIPE) if capture else (None, None)
    try:
        process = subprocess.Popen(command.argv, executable=command.program, env=environ, stdin=given, stdout=taken)
    except (OSError, ValueError) as error:
        raise launch_error(error, command.program) from error
    while True:
        try:
            output = process.communicate()[0]
        except KeyboardInterrupt:  # the program has it too, and decides
            continue
        return process.returncode, output or b""


def sourced_on_windows(scripts: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The environment after one cmd.exe has taken these steps. Raises CetoolError where one of them ended it."""
    import subprocess

    after = {**environ, **dict(step.split("=", 1) for step in scripts if not os.path.isabs(step))}
    files = [step for step in scripts if os.path.isabs(step)]
    if any(c in file for file in files for c in '"%\r\n'):
        raise CetoolError(
            "an activation script's path has a character in it that cmd.exe does not take", code="activation-failed"
        )
    mark = "cetool-variables"
    line = " & ".join([*(f'call "{file}"' for file in files), f"echo {mark}", "set"])
    done = subprocess.run(f'cmd.exe /d /u /s /c "{line}"', env=after, stdout=subprocess.PIPE)
    _, found, text = done.stdout.decode("utf-16-le", "replace").rpartition(mark)
    if not found:
        raise CetoolError(
            "the environment's activation scripts ended the shell that ran them", code="activation-failed"
        )
    return dict(row.split("=", 1) for row in text.splitlines() if "=" in row[1:])

"""Find a command's program, in the environment first and then on the PATH, and have cetool become it.

On POSIX by exec, elsewhere by waiting for a child. Exit status, signals, terminal, standard streams and working
directory are the program's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from cetool.base.errors import CetoolError, NotExecutableError, ProgramNotFoundError, UsageError
from cetool.base.process import Consent
from cetool.base.values import Value
from cetool.declare.languages import package_of_program
from cetool.warm.environ import ON_WINDOWS, path_dirs
from cetool.warm.handover import find_shell, flush_streams, replace_process, sourcing_argv

#: An environment's prefix; for an overlay its own prefix and its base's.
Prefixes = Path | tuple[Path, ...]


def resolve_command(run_with: Sequence[str], environ: Mapping[str, str], prefix: Prefixes) -> tuple[str, ...]:
    """Return the command line that ``run_with`` means here; its first word is an absolute path.

    ``environ`` is the environment of the program, activated or not. Programs are searched for in the environment at
    ``prefix`` (in the first of several that has it), then on PATH. ``env`` without options (and ``env -S``) is skipped;
    with options or variables it stays, and the program after it is resolved. An absolute path whose file name is also a
    program of the environment, as in a shebang, means the environment's program.

    Raises ProgramNotFoundError (127), naming packages that may have the program, NotExecutableError (126), or
    UsageError if ``run_with`` names no program.
    """
    words = list(run_with)
    if not words or not words[0]:
        raise UsageError("no program to run the script with", hint="Name one in 'run_with'.")
    if os.path.basename(words[0]) == "env" and len(words) > 1:
        return _resolve_env(words, environ, prefix)
    return (find_program(words[0], environ, prefix), *words[1:])


def _resolve_env(words: list[str], environ: Mapping[str, str], prefix: Prefixes) -> tuple[str, ...]:
    """Return the command line for ``env [-S] [options] [NAME=value]... program [arguments]``."""
    env, *rest = words
    rest = _split_string(rest)
    at = _program_index(rest)
    if at is None:  # options that only env understands, or no program: leave it to env
        return (find_program(env, environ, prefix), *words[1:])
    rest[at] = find_program(rest[at], environ, prefix)
    return tuple(rest) if at == 0 else (find_program(env, environ, prefix), *rest)


def _split_string(rest: list[str]) -> list[str]:
    """Return the arguments of ``env`` with a leading ``-S`` resolved, if that is possible outside ``env``."""
    first = rest[0]
    if first in ("-S", "--split-string"):
        rest = rest[1:]
    elif first.startswith("--split-string="):
        rest = [first.removeprefix("--split-string="), *rest[1:]]
    elif first.startswith("-S"):
        rest = [first[2:], *rest[1:]]
    else:
        return rest
    if not rest or any(c in rest[0] for c in "\\$"):  # env's own escapes and ${VARIABLES}
        return ["-S", *rest]
    try:
        return [*shlex.split(rest[0]), *rest[1:]] or ["-S"]
    except ValueError:
        return ["-S", *rest]


def _program_index(rest: Sequence[str]) -> int | None:
    """Return the index of the program among the arguments of ``env``; None if it cannot be determined."""
    at = 0
    while at < len(rest):
        word = rest[at]
        if word in ("-u", "--unset", "-C", "--chdir"):
            at += 2
        elif word in ("-", "-i", "--ignore-environment", "--") or word.startswith(("--unset=", "--chdir=", "-u")):
            at += 1
        elif word.startswith("-"):
            return None
        elif "=" in word:
            at += 1
        else:
            return at
    return None


def find_program(name: str, environ: Mapping[str, str], prefix: Prefixes | None = None) -> str:
    """Return the absolute path of a program: from the environment at ``prefix`` if it has it, else from PATH.

    A name with a slash is a path, relative to the working directory; an absolute one whose file name is also a program
    of the environment means that program. Raises like :func:`resolve_command`.
    """
    prefixes = prefix if isinstance(prefix, tuple) else () if prefix is None else (prefix,)
    own = tuple(folder for each in prefixes for folder in path_dirs(os.fspath(each)))
    blocked: list[str] = []
    if _is_path(name):
        folder, base = os.path.split(name)
        found = look_in(own, base, []) if os.path.isabs(name) else None
        found = found or look_in((folder,), base, blocked)
        if found is None and os.path.isdir(name):
            raise NotExecutableError(f"{name} is a directory, not a program", hint="Correct 'run_with' or the shebang.")
    else:
        entries = environ.get("PATH", os.defpath).split(os.pathsep)
        found = look_in((*own, *entries), name, blocked)
    if found is not None:
        return os.path.abspath(found)
    if blocked:
        raise NotExecutableError(f"{blocked[0]} is not executable", hint=f"Run `chmod +x {blocked[0]}`.")
    raise not_found(name, prefix)


def program_outside(argv: Sequence[str], prefixes: Prefixes) -> str | None:
    """Return the program that a command starts, also through ``env``, if it is outside all prefixes; else None."""
    roots = prefixes if isinstance(prefixes, tuple) else (prefixes,)
    started = (
        word for word in argv if os.path.isabs(word) and os.path.basename(word) != "env" and os.path.isfile(word)
    )
    program = next(started, None)
    if program is None or any(Path(program).is_relative_to(root) for root in roots):
        return None
    return program


def not_in_environment(path: str, name: str) -> ProgramNotFoundError:
    """Return the error for a program that exists at ``path`` but not in the environment."""
    package = package_of_program(name) or name.lower()
    return ProgramNotFoundError(
        f"the script runs with {name!r}, which its environment lacks; {path} would not find its packages",
        hint=f"Add {package!r} to the packages that the script declares, or name another program in 'run_with'.",
    )


def not_found(name: str, prefix: Prefixes | None) -> ProgramNotFoundError:
    """Return the error for a program that was not found, with the package that may have it."""
    if _is_path(name) and not os.path.isabs(name):
        return ProgramNotFoundError(
            f"program {name!r} was not found", about=name, hint="Relative paths start at the working directory."
        )
    program = os.path.basename(name)
    if _is_path(name):
        message = f"program {name!r} was not found"
    elif prefix is None:
        message = f"program {name!r} was not found on the PATH"
    else:
        message = f"program {name!r} was not found in the environment or on the PATH"
    known = package_of_program(program)
    if known is not None:
        hint = f"Add {known!r}, which has this program, to the packages that the script declares."
    else:
        hint = f"Add the package that has it to those that the script declares (often it is named {program.lower()!r})."
    return ProgramNotFoundError(message, hint=hint)


def _is_path(name: str) -> bool:
    return "/" in name or (ON_WINDOWS and ("\\" in name or ":" in name))


def look_in(folders: Sequence[str], name: str, blocked: list[str]) -> str | None:
    """Return the first executable file of that name; add files that are not executable to ``blocked``."""
    for folder in folders:
        path = os.path.join(folder, name)  # an empty entry of PATH is the working directory
        if ON_WINDOWS:
            import shutil

            found = shutil.which(path)  # respects PATHEXT
            if found is not None:
                return found
        elif os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            blocked.append(path)
    return None


class Command(Value):
    """A command to run, as plain data.

    What its steps print goes to the standard output and error of the program, as with conda.
    """

    #: An absolute path.
    program: str
    #: The whole command line; if there are steps, the program sees its path as the first word.
    argv: tuple[str, ...]
    #: All its variables.
    environ: dict[str, str]
    #: The steps that a shell takes first, from :func:`cetool.warm.environ.activated`.
    scripts: tuple[str, ...] = ()


def exec_command(command: Command, consent: Consent, *, keep: Sequence[int] = ()) -> NoReturn:
    """Become the command; descriptors in ``keep`` (locks) stay open in it. Does not return.

    On Windows, which has no exec, cetool waits for the program and exits with its status. Raises ProgramNotFoundError
    (127) or NotExecutableError (126) if the system cannot run it.
    """
    if ON_WINDOWS:
        end_like(run_on_windows(command)[0])
    if command.scripts:
        check_executable(command.program)  # the shell's own message would be less clear
    try:
        replace_process(command.program, command.argv, command.environ, command.scripts, keep)
    except (OSError, ValueError) as error:
        raise launch_error(error, command.program) from error


def end_like(returncode: int) -> NoReturn:
    """End this process as a child ended: with its exit status, or by the signal (a negative number) that ended it."""
    flush_streams()
    if returncode < 0 and not ON_WINDOWS:
        number = -returncode
        import resource

        with contextlib.suppress(OSError, ValueError):  # the child has written its core file; ours would overwrite it
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with contextlib.suppress(OSError, ValueError):  # SIGKILL cannot have a handler
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # the signal does not end a process
    if ON_WINDOWS and returncode >= 1 << 31:  # NTSTATUS values, which sys.exit takes as signed
        returncode -= 1 << 32
    sys.exit(returncode)


def command_line(command: Command) -> list[str]:
    """Return the words that start the command on POSIX, including its steps, for code that starts programs itself."""
    program, argv = shell_if_needed(command)
    return [program, *argv[1:]]


def check_executable(program: str) -> None:
    """Raise the most frequent errors of :func:`exec_command` before anything is started."""
    if os.path.isdir(program):
        raise launch_error(OSError(errno.EISDIR, "is a directory"), program)
    if not os.path.exists(program):
        raise launch_error(OSError(errno.ENOENT, "no such file"), program)
    if not os.access(program, os.X_OK):
        raise launch_error(OSError(errno.EACCES, "permission denied"), program)
    interpreter = _interpreter(program)
    if interpreter and not os.path.exists(interpreter):
        raise launch_error(OSError(errno.ENOENT, "no interpreter"), program)


#: Errors of the system for an existing program, and what to do about them.
_REASONS = {
    errno.E2BIG: (
        "cannot be started: the arguments and the environment are too long for this system",
        "Pass fewer or shorter arguments, or a file that lists them.",
    ),
    errno.EACCES: ("is not executable", "Run `chmod +x {}`, unless its file system is mounted noexec."),
    errno.ENOEXEC: (
        "cannot run on this machine",
        "A script needs a first line such as #!/bin/sh; a program may be built for another architecture.",
    ),
    errno.ETXTBSY: ("is being written by another process", "Try again when it is complete."),
}


def launch_error(error: OSError | ValueError, program: str) -> CetoolError:
    """Return the error for an exception raised by running ``program``."""
    if not isinstance(error, OSError):
        return NotExecutableError(f"{program} cannot be started: {error} in its arguments or environment")
    number = errno.EACCES if error.errno == errno.EPERM else error.errno
    if number in (errno.ENOENT, errno.ENOTDIR):
        if not os.path.lexists(program):
            return ProgramNotFoundError(f"program {program} does not exist", about=program)
        interpreter = _interpreter(program)
        if interpreter:
            return NotExecutableError(
                f"the interpreter of {program}, {interpreter}, does not exist",
                hint="Correct the file's first line, or add the interpreter to the packages that the script declares.",
            )
        return NotExecutableError(
            f"{program} cannot be started: broken link, or built for another system (its loader is missing)"
        )
    if number == errno.EISDIR or (error.errno == errno.EACCES and os.path.isdir(program)):
        return NotExecutableError(f"{program} is a directory, not a program")
    if number not in _REASONS:
        return NotExecutableError(f"{program} cannot be started: {error.strerror or error}")
    problem, hint = _REASONS[number]
    return NotExecutableError(f"{program} {problem}", hint=hint.format(program))


def _interpreter(program: str) -> str | None:
    """Return the interpreter in a file's first line, if it is an absolute path."""
    try:
        with open(program, "rb") as file:
            first = file.readline(512)
    except OSError:
        return None
    words = os.fsdecode(first[2:]).split(None, 1) if first.startswith(b"#!") else []
    return words[0] if words and words[0].startswith("/") else None


def shell_if_needed(command: Command) -> tuple[str, Sequence[str]]:
    """Return the program and the words that start the command: a shell's if there are steps to take first."""
    if not command.scripts:
        return command.program, command.argv
    check_executable(command.program)
    shell = find_shell(command.environ)
    return shell, sourcing_argv(shell, command.scripts, (command.program, *command.argv[1:]))


# Windows: written from its documentation and untested, for lack of a machine. It has no exec; a child in the same
# console gets CTRL-C itself, and activation scripts are batch files that only cmd.exe can run.


def run_on_windows(command: Command, *, capture: bool = False) -> tuple[int, bytes]:
    """Run the command as a child; return its exit status and, with ``capture``, its standard output (without input)."""
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
        except KeyboardInterrupt:  # the program gets it too, and decides
            continue
        return process.returncode, output or b""


def sourced_on_windows(scripts: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment after one cmd.exe has taken these steps. Raises CetoolError if one of them ended it."""
    import subprocess

    after = {**environ, **dict(step.split("=", 1) for step in scripts if not os.path.isabs(step))}
    files = [step for step in scripts if os.path.isabs(step)]
    if any(c in file for file in files for c in '"%\r\n'):
        raise CetoolError(
            "an activation script's path contains a character that cmd.exe cannot handle", code="activation-failed"
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

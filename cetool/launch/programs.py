"""Finds the program that runs a script: in its environment first, then on the PATH."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from cetool.base.errors import NotExecutableError, ProgramNotFoundError, UsageError
from cetool.declare.languages import package_of_program
from cetool.warm.environ import ON_WINDOWS, path_dirs

#: An environment's prefix; of one that lies over another, its own and that one's.
Prefixes = Path | tuple[Path, ...]


def resolve_command(run_with: Sequence[str], environ: Mapping[str, str], prefix: Prefixes) -> tuple[str, ...]:
    """The command line that ``run_with`` stands for here; its first word is an absolute path.

    ``environ`` is the environment that the program will run in, activated or not. Programs are looked up in the
    environment at ``prefix`` (or in the first of several that has it) first, then on PATH. ``env`` without options is
    looked through (``env -S`` too); with options or variables it stays, the program behind it resolved. An absolute
    path whose last part is also a program of the environment, as in a shebang, stands for the environment's own.

    Raises ProgramNotFoundError (127), naming packages that may bring the program, NotExecutableError (126), or
    UsageError where there is no program in ``run_with`` at all.
    """
    words = list(run_with)
    if not words or not words[0]:
        raise UsageError("there is no program to run the script with", hint="Name one in run_with.")
    if os.path.basename(words[0]) == "env" and len(words) > 1:
        return _resolve_env(words, environ, prefix)
    return (find_program(words[0], environ, prefix), *words[1:])


def _resolve_env(words: list[str], environ: Mapping[str, str], prefix: Prefixes) -> tuple[str, ...]:
    """The command line behind ``env [-S] [options] [NAME=value]... program [arguments]``."""
    env, *rest = words
    rest = _split_string(rest)
    at = _program_index(rest)
    if at is None:  # options that only env itself understands, or no program: its business
        return (find_program(env, environ, prefix), *words[1:])
    rest[at] = find_program(rest[at], environ, prefix)
    return tuple(rest) if at == 0 else (find_program(env, environ, prefix), *rest)


def _split_string(rest: list[str]) -> list[str]:
    """The arguments of ``env`` with a leading ``-S`` done away with, as far as it can be without being ``env``."""
    first = rest[0]
    if first in ("-S", "--split-string"):
        rest = rest[1:]
    elif first.startswith("--split-string="):
        rest = [first.removeprefix("--split-string="), *rest[1:]]
    elif first.startswith("-S"):
        rest = [first[2:], *rest[1:]]
    else:
        return rest
    if not rest or any(c in rest[0] for c in "\\$"):  # escapes and ${VARIABLES} of its own
        return ["-S", *rest]
    try:
        return [*shlex.split(rest[0]), *rest[1:]] or ["-S"]
    except ValueError:
        return ["-S", *rest]


def _program_index(rest: Sequence[str]) -> int | None:
    """Where the program is among the arguments of ``env``; None where that cannot be known."""
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
    """The absolute path of a program: of the environment at ``prefix`` if it has one of that name, else from PATH.

    A name with a slash in it is a path, taken from the working directory; an absolute one whose last part is also a
    program of the environment is served by that one. Raises as :func:`resolve_command` does.
    """
    prefixes = prefix if isinstance(prefix, tuple) else () if prefix is None else (prefix,)
    own = tuple(folder for each in prefixes for folder in path_dirs(os.fspath(each)))
    blocked: list[str] = []
    if _is_path(name):
        folder, base = os.path.split(name)
        found = look_in(own, base, []) if os.path.isabs(name) else None
        found = found or look_in((folder,), base, blocked)
        if found is None and os.path.isdir(name):
            raise NotExecutableError(f"{name} is a directory, not a program", hint="Correct run_with or the shebang.")
    else:
        entries = environ.get("PATH", os.defpath).split(os.pathsep)
        found = look_in((*own, *entries), name, blocked)
    if found is not None:
        return os.path.abspath(found)
    if blocked:
        raise NotExecutableError(f"{blocked[0]} may not be executed", hint=f"chmod +x {blocked[0]}")
    raise not_found(name, prefix)


def program_outside(argv: Sequence[str], prefixes: Prefixes) -> str | None:
    """The program that a command starts, by way of ``env`` too, where it is in none of the prefixes; else None."""
    roots = prefixes if isinstance(prefixes, tuple) else (prefixes,)
    started = (
        word for word in argv if os.path.isabs(word) and os.path.basename(word) != "env" and os.path.isfile(word)
    )
    program = next(started, None)
    if program is None or any(Path(program).is_relative_to(root) for root in roots):
        return None
    return program


def not_in_environment(path: str, name: str) -> ProgramNotFoundError:
    """The error for a program that is on this machine, at ``path``, but not in the environment."""
    package = package_of_program(name) or name.lower()
    return ProgramNotFoundError(
        f"{name!r} is to run the script, and its environment has none: {path} would see nothing of its packages",
        hint=f"Add {package!r} to the packages that the script declares, or name another program with run_with.",
    )


def not_found(name: str, prefix: Prefixes | None) -> ProgramNotFoundError:
    """The error that says a program is nowhere, and which package may bring it."""
    if _is_path(name) and not os.path.isabs(name):
        return ProgramNotFoundError(
            f"there is no program {name!r}", about=name, hint="Its path counts from the working directory."
        )
    program = os.path.basename(name)
    if _is_path(name):
        message = f"there is no program {name!r}"
    elif prefix is None:
        message = f"the program {name!r} is not on the PATH"
    else:
        message = f"the program {name!r} is neither in the environment nor on the PATH"
    known = package_of_program(program)
    if known is not None:
        hint = f"Add {known!r} to the packages that the script declares: it brings {program!r}."
    else:
        hint = f"Add the package that brings it to those the script declares (often it is called {program.lower()!r})."
    return ProgramNotFoundError(message, hint=hint)


def _is_path(name: str) -> bool:
    return "/" in name or (ON_WINDOWS and ("\\" in name or ":" in name))


def look_in(folders: Sequence[str], name: str, blocked: list[str]) -> str | None:
    """The first executable file of that name; files that may not be executed are added to ``blocked``."""
    for folder in folders:
        path = os.path.join(folder, name)  # an empty entry of PATH is the working directory
        if ON_WINDOWS:
            import shutil

            found = shutil.which(path)  # honours PATHEXT
            if found is not None:
                return found
        elif os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            blocked.append(path)
    return None

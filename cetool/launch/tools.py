"""Tools: which package a program's name stands for, and which programs the packages of an environment bring."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.base.errors import CetoolError, NotExecutableError, ProgramNotFoundError, UsageError
from cetool.declare.languages import package_of_program
from cetool.declare.match_specs import canonical_spec, spec_name
from cetool.launch.process import find_program, look_in
from cetool.packages.prefix import sound_records
from cetool.warm.environ import ON_WINDOWS, path_dirs

#: A match spec's channel, its name, and all the rest of it. Programs' names have a + where packages' have none.
_WORD = re.compile(r"\s*((?:[^\s\[]*::)?)([A-Za-z0-9_][A-Za-z0-9_.+-]*)(.*)", re.DOTALL)
#: Programs named in a message.
_MOST_TOLD = 20
#: What Windows runs without its being said.
_EXECUTABLE = (".exe", ".bat", ".cmd", ".com") if ON_WINDOWS else ()


@dataclass(frozen=True)
class Tool:
    """A program, and the match spec of the package that brings it."""

    program: str
    spec: str


def read_tool(word: str) -> Tool:
    """The tool that a word such as ``ruff``, ``ruff>=0.4``, ``bioconda::samtools`` or ``Rscript`` means.

    The spec is not looked at any closer than to tell its name. Raises UsageError where the word is a file's path.
    """
    if word.partition("#")[0].partition("[")[0].rstrip().endswith((".conda", ".tar.bz2")):
        canonical = canonical_spec(word)
        if "[" in canonical:  # a package file, by its path or URL
            return Tool(spec_name(canonical), word)
    found = _WORD.match(word)
    separators = ("/", "\\") if ON_WINDOWS else ("/",)
    if any(separator in word.rpartition("::")[2].partition("[")[0] for separator in separators) and "://" not in word:
        raise UsageError(
            f"{word!r} is a path, and TOOL the name of a program",
            hint=f"`cetool run {word}` runs a script; with --spec, programs by their path are run as well.",
        )
    if found is None:
        return Tool(word, word)
    channel, name, rest = found.groups()
    return Tool(name, f"{channel}{package_of_program(name) or name}{rest}")


def find_tool(program: str, prefix: Path, packages: Sequence[str], *, command: str) -> str:
    """The absolute path of a program of the environment at ``prefix``; one that is named by a path is that file.

    ``packages`` are the names of those that were asked for, ``command`` what the user may type to ask for others.
    Raises ProgramNotFoundError (127), which lists what the packages bring, or NotExecutableError (126).
    """
    if "/" in program or (ON_WINDOWS and "\\" in program):
        return find_program(program, {})
    blocked: list[str] = []
    found = look_in(path_dirs(os.fspath(prefix)), program, blocked)
    if found is not None:
        return os.path.abspath(found)
    if blocked:
        raise NotExecutableError(f"{blocked[0]} may not be executed", hint="Make the environment anew with --refresh.")
    raise _no_program(program, prefix, packages, command)


def _no_program(program: str, prefix: Path, packages: Sequence[str], command: str) -> CetoolError:
    brought = programs_of(prefix, packages)
    plural = len(packages) != 1
    whose = f"the package{'s' if plural else ''} {_listed(packages)}"
    way_out = f"If another package brings it: `{command} --spec PACKAGE {program}`."
    near = difflib.get_close_matches(program, brought, n=1)
    told = ", ".join(brought[:_MOST_TOLD])
    if len(brought) > _MOST_TOLD:
        told += f", and {len(brought) - _MOST_TOLD} more"
    what = f"{'They bring' if plural else 'It brings'} {told or 'no programs'}."
    meant = f" Was {near[0]!r} meant?" if near else ""
    return ProgramNotFoundError(
        f"{whose} {'bring' if plural else 'brings'} no program {program!r}",
        about=program,
        hint=f"{what}{meant} {way_out}",
    )


def programs_of(prefix: Path, packages: Iterable[str]) -> list[str]:
    """The programs that these packages put into the environment at ``prefix``, by their conda-meta records, sorted."""
    wanted = set(packages)
    folders = {os.path.normcase(folder) for folder in path_dirs(os.fspath(prefix))}
    found: set[str] = set()
    sound, _ = sound_records(prefix)  # a message must not fail for want of facts
    for file in (file for record in sound if record.name in wanted for file in record.files):
        folder, name = os.path.split(os.path.join(prefix, file))
        if os.path.normcase(os.path.normpath(folder)) in folders and _is_program(os.path.join(folder, name)):
            found.add(name)
    return sorted(found)


def _is_program(path: str) -> bool:
    if os.path.basename(path).startswith("."):  # a package's own scripts of installation
        return False
    if ON_WINDOWS:
        return path.lower().endswith(_EXECUTABLE)
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "asked for"

"""Tools: the package that a program's name stands for, and the programs in the packages of an environment."""

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

#: A match spec's channel, its name, and the rest. Unlike package names, names of programs may contain +.
_WORD = re.compile(r"\s*((?:[^\s\[]*::)?)([A-Za-z0-9_][A-Za-z0-9_.+-]*)(.*)", re.DOTALL)
#: Maximum number of programs in a message.
_MOST_TOLD = 20
#: Suffixes of programs on Windows.
_EXECUTABLE = (".exe", ".bat", ".cmd", ".com") if ON_WINDOWS else ()


@dataclass(frozen=True)
class Tool:
    """A program, and the match spec of the package that has it."""

    program: str
    spec: str


def read_tool(word: str) -> Tool:
    """Return the tool for a word such as ``ruff``, ``ruff>=0.4``, ``bioconda::samtools`` or ``Rscript``.

    Only the name is extracted from the spec; the rest is not checked. Raises UsageError if the word is a path.
    """
    if word.partition("#")[0].partition("[")[0].rstrip().endswith((".conda", ".tar.bz2")):
        canonical = canonical_spec(word)
        if "[" in canonical:  # a package file, by its path or URL
            return Tool(spec_name(canonical), word)
    found = _WORD.match(word)
    separators = ("/", "\\") if ON_WINDOWS else ("/",)
    if any(separator in word.rpartition("::")[2].partition("[")[0] for separator in separators) and "://" not in word:
        raise UsageError(
            f"{word!r} is a path, not the name of a program",
            hint=f"Run a script with `cetool run {word}`; to run a program by its path, name its packages with --spec.",
        )
    if found is None:
        return Tool(word, word)
    channel, name, rest = found.groups()
    return Tool(name, f"{channel}{package_of_program(name) or name}{rest}")


def find_tool(program: str, prefix: Path, packages: Sequence[str], *, command: str) -> str:
    """Return the absolute path of a program in the environment at ``prefix``; a path stands for that file.

    ``packages`` are the names of the requested packages, ``command`` is what the user can type to request others.
    Raises ProgramNotFoundError (127), which lists the programs of the packages, or NotExecutableError (126).
    """
    if "/" in program or (ON_WINDOWS and "\\" in program):
        return find_program(program, {})
    blocked: list[str] = []
    found = look_in(path_dirs(os.fspath(prefix)), program, blocked)
    if found is not None:
        return os.path.abspath(found)
    if blocked:
        raise NotExecutableError(f"{blocked[0]} is not executable", hint="Re-create the environment with --refresh.")
    raise _no_program(program, prefix, packages, command)


def _no_program(program: str, prefix: Path, packages: Sequence[str], command: str) -> CetoolError:
    available = programs_of(prefix, packages)
    plural = len(packages) != 1
    shown = ", ".join(available[:_MOST_TOLD])
    if len(available) > _MOST_TOLD:
        shown += f", and {len(available) - _MOST_TOLD} more"
    near = difflib.get_close_matches(program, available, n=1)
    hints = [
        f"Did you mean {near[0]!r}?" if near else "",
        f"{'Their' if plural else 'Its'} programs: {shown}." if shown else "",
        f"To use another package, run `{command} --spec PACKAGE {program}`.",
    ]
    subject = f"package{'s' if plural else ''} {_listed(packages)} {'have' if plural else 'has'}"
    return ProgramNotFoundError(
        f"{subject} no program {program!r}",
        about=program,
        hint=" ".join(filter(None, hints)),
    )


def programs_of(prefix: Path, packages: Iterable[str]) -> list[str]:
    """Return the programs of these packages in the environment at ``prefix``, by their conda-meta records, sorted."""
    wanted = set(packages)
    folders = {os.path.normcase(folder) for folder in path_dirs(os.fspath(prefix))}
    found: set[str] = set()
    sound, _ = sound_records(prefix)  # the message must not fail because of a damaged record
    for file in (file for record in sound if record.name in wanted for file in record.files):
        folder, name = os.path.split(os.path.join(prefix, file))
        if os.path.normcase(os.path.normpath(folder)) in folders and _is_program(os.path.join(folder, name)):
            found.add(name)
    return sorted(found)


def _is_program(path: str) -> bool:
    if os.path.basename(path).startswith("."):  # a package's installation scripts
        return False
    if ON_WINDOWS:
        return path.lower().endswith(_EXECUTABLE)
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "requested"

"""Which program runs a script: what is refused before anything is made, and what the environment has to bring."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cetool.app.session import Session
from cetool.app.sources import Source
from cetool.base.errors import CetoolError, Location, MetadataError
from cetool.declare.blocks import CONDA_EXECUTE
from cetool.declare.metadata import ENVIRONMENT_FILE, ScriptMetadata
from cetool.declare.run_with import NO_INTERPRETER, is_own_program, not_chosen, shebang_program, shell_choice
from cetool.declare.source import Script
from cetool.warm.environ import DEPTH, MOST_DEPTH
from cetool.warm.environ import count_run as counted


def with_shell(metadata: ScriptMetadata, source: Source, *, original: bool) -> ScriptMetadata:
    """The metadata with ``/bin/sh`` for a script that conda-execute ran by it.

    That is any that does not say what it runs with for conda-execute itself (``original``); for cetool one that was
    typed, as lines or on standard input, and whose packages name no interpreter.
    """
    typed = source.data is not None and source.origin is None
    if metadata.language is not None or metadata.chosen not in ("packages", "nothing"):
        return metadata
    if original or (typed and metadata.undecided == NO_INTERPRETER):
        return metadata.run_by(shell_choice(source.script))
    return metadata


def count_run(environ: dict[str, str]) -> None:
    """Count a run in the variables that its program gets. Raises CetoolError for one within too many others."""
    if not counted(environ):
        raise CetoolError(
            f"cetool runs a script that runs cetool, {int(environ[DEPTH]) - 1} times over: it would go on for ever",
            code="recursion",
            hint="See that what runs the script is not cetool again: run_with, an entrypoint, a shebang, an alias. "
            f"{MOST_DEPTH} raises the limit.",
        )


def refuse_unrunnable(metadata: ScriptMetadata, script: Script) -> None:
    """Raise MetadataError, before anything is made, where nothing says which program runs the script, or cetool does.

    Only what the script itself says is looked at here; counting the runs ends every other recursion.
    """
    first = None if metadata.lines is None else metadata.lines[0]
    words = metadata.run_with or tuple((metadata.entrypoint or "").split())
    if not words:
        raise not_chosen(script, first, metadata.choice)
    where = script.at(first) if metadata.entrypoint is None else entrypoint_place(metadata, script)
    by_itself = words[0].strip("'\"") == "${SCRIPT}" and is_own_program(shebang_program(script))
    if by_itself or (is_own_program(words[0]) and (len(words) == 1 or words[1] in ("run", "${SCRIPT}", "-q", "-v"))):
        raise MetadataError(
            f"the script is to be run by cetool ({words[0]}), which would run it by cetool again, for ever",
            code="recursion",
            where=where,
            hint="Name the program that its text is written for, as in `run_with: python`.",
        )


def program_of(
    metadata: ScriptMetadata, name: str, environ: Mapping[str, str], prefixes: tuple[Path, ...], session: Session
) -> tuple[str, ...]:
    """The command line that runs the script, its path and arguments left out; its first word is an absolute path.

    ``name`` is what messages call the script.

    Raises ProgramNotFoundError where it is nowhere, and where cetool chose a program that the environment lacks: the
    machine's own would see none of the packages. One that a shebang names runs with a warning, as it did in
    conda-execute.
    """
    from cetool.declare.languages import POSIX_PROGRAMS, language_of_program
    from cetool.launch.programs import not_in_environment, program_outside, resolve_command

    argv = resolve_command(metadata.run_with or (), environ, prefixes)
    outside = None if metadata.chosen in ("declared", "shell") else program_outside(argv, prefixes)
    program = os.path.basename(outside or "")
    if (
        outside is None
        or program in POSIX_PROGRAMS
        or (metadata.chosen == "shebang" and not language_of_program(program))
    ):
        return argv
    error = not_in_environment(outside, program)
    if metadata.chosen != "shebang" or metadata.dialect not in (CONDA_EXECUTE, ENVIRONMENT_FILE):
        raise error
    session.repeats_itself = True
    session.voice.warn(f"{name}: {error.message}. {error.hint}")
    return argv


def entrypoint_place(metadata: ScriptMetadata, script: Script) -> Location:
    """The line of the script that its entrypoint stands at."""
    first, last = metadata.lines or (1, 1)
    rows = enumerate(script.text.split("\n")[first - 1 : last], start=first)
    return script.at(next((number for number, row in rows if "entrypoint" in row), first))

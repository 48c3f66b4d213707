"""Prepares the start of a script: its program, its variables, and the file locks that it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cetool import warm
from cetool.app.decision import Decision, Wish
from cetool.app.ensuring import activation_of
from cetool.app.reporting import Reporter
from cetool.app.sources import Source
from cetool.app.world import NOTHING, PASSING, Evidence, World
from cetool.base.errors import CetoolError, Location, MetadataError
from cetool.base.filelock import FileLock
from cetool.base.process import Consent
from cetool.base.values import Value
from cetool.declare.blocks import CONDA_EXECUTE
from cetool.declare.languages import POSIX_PROGRAMS, language_of_program
from cetool.declare.metadata import (
    ENVIRONMENT_FILE,
    ScriptMetadata,
    is_original,
    is_own_program,
    not_chosen,
    shebang_program,
)
from cetool.declare.source import Script
from cetool.launch.activation import PREFIX, Activation, activated_environ, overlaid_environ, unactivated_environ
from cetool.launch.process import Command, not_in_environment, program_outside, resolve_command
from cetool.launch.records import Basis, Learned, write_launch_record
from cetool.store.store import Lease
from cetool.warm.environ import DEPTH, MOST_DEPTH
from cetool.warm.environ import count_run as counted

if TYPE_CHECKING:  # few scripts are kept, or have a directory of their own
    from cetool.store.scripts import Held


class NotebookOptions(Value):
    """The options for notebooks."""

    #: The file for the notebook with its outputs; ``-`` is standard output.
    out: Path | None = None
    #: ``NAME=VALUE``, unparsed.
    parameters: tuple[str, ...] = ()
    #: ``NAME=TEXT``, whose value is always a string.
    raw_parameters: tuple[str, ...] = ()


class RunOptions(Value):
    """How to run a script, apart from the settings."""

    wish: Wish = Wish()
    #: Whether to activate the environment.
    activate: bool = True
    #: Whether to use an overlay unchanged although its base has changed.
    keep: bool = False
    #: The file for a run record.
    record: Path | None = None
    notebook: NotebookOptions = NotebookOptions()


class Ready(Value):
    """A script whose environment exists and is noted as used."""

    decision: Decision
    lease: Lease
    consent: Consent
    how: RunOptions
    world: World
    reporter: Reporter

    @property
    def source(self) -> Source:
        """The script."""
        assert self.decision.source is not None
        return self.decision.source

    @property
    def activation(self) -> Activation:
        """What the activation of the environment does."""
        return activation_of(self.lease, self.world, self.decision.metadata.dialect)


# --- the command ------------------------------------------------------------------------------------------------------


class Start(Value):
    """A script about to start."""

    ready: Ready
    #: The script's path, as its program gets it.
    path: str
    activation: Activation
    environ: dict[str, str]
    #: Commands that a shell runs first.
    steps: tuple[str, ...]
    #: File locks that are held as long as it runs: for the environment, the script, its cache directory.
    held: tuple[FileLock | None, ...]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors of the file locks, which stay open."""
        return tuple(lock.fd for lock in self.held if lock is not None)


def start_of(ready: Ready) -> Start:
    """Return what a script is started with. A script that is not a file is saved as one."""
    world, lease, source, activation = ready.world, ready.lease, ready.source, ready.activation
    held: tuple[FileLock | None, ...] = lease.locks
    path = source.given
    if source.data is not None:
        from cetool.store.scripts import ScriptStore  # only for scripts that are not files

        kept = ScriptStore(world.paths.scripts, trust=world.paths.trusted).hold(source.data, source.name)
        path, held = str(kept.path), (*held, kept.lock)
    steps: tuple[str, ...] = ()
    if ready.how.activate:
        environ, steps = activated_environ(activation, world.environ)
    elif lease.base is not None:
        environ = overlaid_environ(activation, world.environ)
    else:
        environ = unactivated_environ(activation, world.environ)
    if not ready.how.activate and ready.decision.metadata.dialect == CONDA_EXECUTE:
        environ = {**environ, PREFIX: dict(activation.set)[PREFIX]}
    count_run(environ)
    return Start(ready, path, activation, environ, steps, held)


def command_of(start: Start, arguments: Sequence[str]) -> tuple[Command, Evidence]:
    """Return the command that runs the script by its ``run_with``, and the evidence for it."""
    ready = start.ready
    argv, evidence = _program_of(ready.decision, start.environ, ready.lease.prefixes, ready.reporter)
    # a program would read a name that starts with a dash as an option
    name = f".{os.sep}{start.path}" if start.path.startswith("-") else start.path
    return Command(argv[0], (*argv, name, *arguments), start.environ, start.steps), evidence


def remember(start: Start, argv: tuple[str, ...], evidence: Evidence, cache: Held | None = None) -> None:
    """Write the launch record, if the next run would decide the same."""
    ready = start.ready
    how, source, world, metadata = ready.how, ready.source, ready.world, ready.decision.metadata
    evidence = ready.decision.evidence.plus(evidence)
    plain = how.wish.is_plain and how.activate and not how.keep
    if source.seen is None or not plain or not evidence.lasts or not world.is_plain():
        return
    caller = b""
    if metadata.chosen in ("packages", "shell") and not is_original(source.script):
        caller = warm.CONDA_EXECUTE if how.wish.original else warm.CETOOL
    around = Basis(
        about=warm.absolute(source.given),
        seen=source.seen,
        since=world.since,
        configuration=evidence.configuration,
        locks=evidence.files,
        environ=world.environ,
        by_path=evidence.by_path,
        collects=world.settings.auto_gc,
        stamp=evidence.stamp,
        caller=caller,
    )
    learned = Learned(argv, start.activation, metadata.path, metadata, cache)
    write_launch_record(learned, around, ready.lease, world.paths)


# --- which program ----------------------------------------------------------------------------------------------------


def count_run(environ: dict[str, str]) -> None:
    """Count nested runs in the variables of the program. Raises CetoolError if there are too many."""
    if not counted(environ):
        raise CetoolError(
            f"the script runs itself by cetool: {int(environ[DEPTH]) - 1} runs are nested",
            code="recursion",
            hint="Check run_with, the entrypoint, the shebang and aliases: one of them runs cetool again. "
            f"{MOST_DEPTH} raises the limit.",
        )


def entrypoint_place(metadata: ScriptMetadata, script: Script) -> Location:
    """Return the line of the script's entrypoint."""
    first, last = metadata.lines or (1, 1)
    rows = enumerate(script.text.split("\n")[first - 1 : last], start=first)
    return script.at(next((number for number, row in rows if "entrypoint" in row), first))


def refuse_unrunnable(metadata: ScriptMetadata, script: Script) -> None:
    """Raise MetadataError, before an environment is created, if no program runs the script, or cetool would.

    This looks only at what the script declares; the count of nested runs ends any other recursion.
    """
    first = None if metadata.lines is None else metadata.lines[0]
    words = metadata.run_with or tuple((metadata.entrypoint or "").split())
    if not words:
        raise not_chosen(script, first, metadata.choice)
    where = script.at(first) if metadata.entrypoint is None else entrypoint_place(metadata, script)
    by_itself = words[0].strip("'\"") == "${SCRIPT}" and is_own_program(shebang_program(script))
    if by_itself or (is_own_program(words[0]) and (len(words) == 1 or words[1] in ("run", "${SCRIPT}", "-q", "-v"))):
        raise MetadataError(
            f"the script names cetool ({words[0]}) as the program that runs it, which would never end",
            code="recursion",
            where=where,
            hint="Name the interpreter of its language, as in `run_with: python`.",
        )


def _program_of(
    decision: Decision, environ: Mapping[str, str], prefixes: tuple[Path, ...], reporter: Reporter
) -> tuple[tuple[str, ...], Evidence]:
    """Return the command that runs the script, without its path and arguments; the first word is an absolute path.

    Raises ProgramNotFoundError if the program does not exist, and if cetool chose a program that the environment lacks:
    the machine's own would not find the packages. A program of a shebang runs with a warning, as in conda-execute.
    """
    assert decision.source is not None
    metadata = decision.metadata
    argv = resolve_command(metadata.run_with or (), environ, prefixes)
    outside = None if metadata.chosen in ("declared", "shell") else program_outside(argv, prefixes)
    program = os.path.basename(outside or "")
    if (
        outside is None
        or program in POSIX_PROGRAMS
        or (metadata.chosen == "shebang" and not language_of_program(program))
    ):
        return argv, NOTHING
    error = not_in_environment(outside, program)
    if metadata.chosen != "shebang" or metadata.dialect not in (CONDA_EXECUTE, ENVIRONMENT_FILE):
        raise error
    reporter.warn(f"{decision.source.script.name}: {error.message}. {error.hint}")
    return argv, PASSING

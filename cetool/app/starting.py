"""What a script is started with: its program, the variables that it gets, and the locks that it holds."""

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
    """What can be asked for where a notebook is run."""

    #: The file for the notebook with its outputs, ``-`` for standard output.
    out: Path | None = None
    #: ``NAME=VALUE``, as they were written.
    parameters: tuple[str, ...] = ()
    #: ``NAME=TEXT``: always a text.
    raw_parameters: tuple[str, ...] = ()


class RunOptions(Value):
    """How a script is to be run, apart from the settings."""

    wish: Wish = Wish()
    #: Whether the environment is activated for it.
    activate: bool = True
    #: Whether an overlay is used unchanged though its base has changed.
    keep: bool = False
    #: The file that a run record is written to.
    record: Path | None = None
    notebook: NotebookOptions = NotebookOptions()


class Ready(Value):
    """A script whose environment is there, and noted as used."""

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
        """What activating the environment does."""
        return activation_of(self.lease, self.world, self.decision.metadata.dialect)


# --- the command ------------------------------------------------------------------------------------------------------


class Start(Value):
    """A script about to start: what it is given."""

    ready: Ready
    #: The script's path, as its program is given it.
    path: str
    activation: Activation
    environ: dict[str, str]
    #: The steps that a shell takes before.
    steps: tuple[str, ...]
    #: What is held as long as it runs: the environment, the script, its cache directory.
    held: tuple[FileLock | None, ...]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The locks' descriptors, to be kept open."""
        return tuple(lock.fd for lock in self.held if lock is not None)


def start_of(ready: Ready) -> Start:
    """What a script is started with; one that is no file is kept as one."""
    world, lease, source, activation = ready.world, ready.lease, ready.source, ready.activation
    held: tuple[FileLock | None, ...] = lease.locks
    path = source.given
    if source.data is not None:
        from cetool.store.scripts import ScriptStore  # only what is no file here is kept

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
    """The command that runs the script by its ``run_with``, and what that rests on."""
    ready = start.ready
    argv, evidence = _program_of(ready.decision, start.environ, ready.lease.prefixes, ready.reporter)
    # a program would take a name that starts with a dash for an option
    name = f".{os.sep}{start.path}" if start.path.startswith("-") else start.path
    return Command(argv[0], (*argv, name, *arguments), start.environ, start.steps), evidence


def remember(start: Start, argv: tuple[str, ...], evidence: Evidence, cache: Held | None = None) -> None:
    """Write the command down for the next run, if that would decide the same."""
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
    """Count a run in the variables that its program gets. Raises CetoolError for one within too many others."""
    if not counted(environ):
        raise CetoolError(
            f"cetool runs a script that runs cetool, {int(environ[DEPTH]) - 1} times over: it would go on for ever",
            code="recursion",
            hint="See that what runs the script is not cetool again: run_with, an entrypoint, a shebang, an alias. "
            f"{MOST_DEPTH} raises the limit.",
        )


def entrypoint_place(metadata: ScriptMetadata, script: Script) -> Location:
    """The line of the script that its entrypoint is at."""
    first, last = metadata.lines or (1, 1)
    rows = enumerate(script.text.split("\n")[first - 1 : last], start=first)
    return script.at(next((number for number, row in rows if "entrypoint" in row), first))


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


def _program_of(
    decision: Decision, environ: Mapping[str, str], prefixes: tuple[Path, ...], reporter: Reporter
) -> tuple[tuple[str, ...], Evidence]:
    """The command line that runs the script, its path and arguments left out; its first word is an absolute path.

    Raises ProgramNotFoundError where it is nowhere, and where cetool chose a program that the environment lacks: the
    machine's own would see none of the packages. One that a shebang names runs with a warning, as it did in
    conda-execute.
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

"""From a script to the process that it becomes: source, declare, decide, consent, ensure, note, become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from cetool import warm
from cetool.app.consent import consent_to
from cetool.app.deciding import decide, specification
from cetool.app.decision import Decision, refuse_overlay
from cetool.app.ensuring import ensure, note_used, store_of
from cetool.app.reporting import Reporter
from cetool.app.sources import Source
from cetool.app.starting import (
    NotebookOptions,
    Ready,
    RunOptions,
    Start,
    command_of,
    read_entrypoint,
    refuse_unrunnable,
    start_of,
    surroundings_of,
)
from cetool.app.world import NOTHING, Evidence, World
from cetool.base.errors import UsageError
from cetool.declare.run_with import is_original
from cetool.declare.source import is_notebook
from cetool.launch.entrypoint import Entrypoint, run_entrypoint, simple_argv
from cetool.launch.process import exec_command
from cetool.launch.programs import find_program
from cetool.launch.records import Basis, Learned, write_launch_record
from cetool.store.scripts import Held

#: The last step: what becomes of cetool once the environment is there.
Become = Callable[[Ready], NoReturn]


def run(source: Source, arguments: Sequence[str], how: RunOptions, world: World, reporter: Reporter) -> NoReturn:
    """Run a script in its environment, made where it is missing. Does not return: cetool becomes the script."""
    _refuse(source, how)
    decision = decide(source, how.wish, world, reporter)
    become = _last_step(decision, arguments, how, reporter)
    consent = consent_to(decision, world, reporter)
    reporter.block(specification(decision, store_of(decision.spec, world).prefix(decision.spec.name)))
    lease = ensure(decision, world, reporter, consent=consent, refresh=how.wish.refresh, keep=how.keep)
    note_used(lease, source.noted, world, reporter)
    become(Ready(decision, lease, consent, how, world, reporter))


def _refuse(source: Source, how: RunOptions) -> None:
    """Raise UsageError for options that are not for this kind of script."""
    name = source.script.name
    if not is_notebook(source.script):
        if how.notebook != NotebookOptions():
            raise UsageError(f"--out and parameters are for notebooks, and {name} is none")
    elif how.record is not None:
        raise UsageError(
            f"--record is for scripts, and {name} is a notebook",
            hint="--out keeps a notebook with all that it printed.",
        )


def _last_step(decision: Decision, arguments: Sequence[str], how: RunOptions, reporter: Reporter) -> Become:
    """What is done at last. Raises CetoolError, before anything is made, for what can be seen to fail there."""
    assert decision.source is not None
    metadata, script = decision.metadata, decision.source.script
    if is_notebook(script):
        from cetool.app.notebooks import prepare_notebook  # notebooks bring nbformat

        return prepare_notebook(decision, arguments, how.notebook, reporter)
    entry = read_entrypoint(metadata, script)
    refuse_unrunnable(metadata, script)
    if how.record is None:
        return partial(_become_script, entry, arguments)
    refuse_overlay(decision.requirements, script.name, "that cannot be recorded")
    from cetool.app.recording import Recording, run_as_child  # few runs are recorded

    return partial(run_as_child, entry, arguments, Recording(how.record))


def _become_script(entry: Entrypoint | None, arguments: Sequence[str], ready: Ready) -> NoReturn:
    """Become the script's program, or its entrypoint."""
    start = start_of(ready)
    if entry is None:
        command, evidence = command_of(start, arguments)
        _write_launch_record(start, command.argv[: len(command.argv) - len(arguments) - 1], evidence)
        exec_command(command, ready.consent, keep=start.descriptors)
    surroundings, cache = surroundings_of(start)
    words = simple_argv(entry, surroundings.script, surroundings.cache)
    if words is not None:
        prefixes = None if Path(words[0]).is_absolute() else ready.lease.prefixes
        _write_launch_record(start, (find_program(words[0], start.environ, prefixes), *words[1:]), NOTHING, cache)
    run_entrypoint(entry, arguments, surroundings)


def _write_launch_record(start: Start, argv: tuple[str, ...], evidence: Evidence, cache: Held | None = None) -> None:
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

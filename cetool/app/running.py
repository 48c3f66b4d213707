"""From a script to its process: source, declaration, decision, consent, environment, note, exec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from cetool.app.consent import consent_to
from cetool.app.deciding import decide, specification
from cetool.app.decision import Decision, refuse_overlay
from cetool.app.ensuring import ensure, note_used, store_of
from cetool.app.reporting import Reporter
from cetool.app.sources import Source
from cetool.app.starting import NotebookOptions, Ready, RunOptions, command_of, refuse_unrunnable, remember, start_of
from cetool.app.world import World
from cetool.base.errors import UsageError
from cetool.declare.source import is_notebook
from cetool.launch.process import exec_command
from cetool.settings.settings import SERVER_TOKEN

#: The last step, in which cetool becomes another program.
Become = Callable[[Ready], NoReturn]


def run(source: Source, arguments: Sequence[str], how: RunOptions, world: World, reporter: Reporter) -> NoReturn:
    """Run a script in its environment, which is made if it is missing. Does not return: cetool becomes the script."""
    _refuse(source, how)
    decision = decide(source, how.wish, world, reporter)
    become = _last_step(decision, arguments, how, reporter)
    consent = consent_to(decision, world, reporter)
    reporter.block(specification(decision, store_of(decision.spec, world).prefix(decision.spec.name)))
    lease = ensure(decision, world, reporter, consent=consent, refresh=how.wish.refresh, keep=how.keep)
    note_used(lease, source.noted, world, reporter)
    if source.remote is not None:
        world = world.without(SERVER_TOKEN)  # not for code from elsewhere
    become(Ready(decision, lease, consent, how, world, reporter))


def _refuse(source: Source, how: RunOptions) -> None:
    """Raise UsageError for options that are not for this kind of script."""
    name = source.script.name
    if not is_notebook(source.script):
        if how.notebook != NotebookOptions():
            raise UsageError(f"--out and -p are for notebooks, and {name} is not a notebook")
    elif how.record is not None:
        raise UsageError(
            f"--record cannot be used with a notebook ({name})",
            hint="Use --out, which writes the notebook with its outputs.",
        )


def _last_step(decision: Decision, arguments: Sequence[str], how: RunOptions, reporter: Reporter) -> Become:
    """Return the last step. Raises CetoolError for errors that can be detected before anything is made."""
    assert decision.source is not None
    metadata, script = decision.metadata, decision.source.script
    if is_notebook(script):
        from cetool.app.notebooks import prepare_notebook  # notebooks import nbformat

        return prepare_notebook(decision, arguments, how.notebook, reporter)
    if how.record is not None:
        from cetool.app.recording import prepare_recorded  # few runs are recorded

        refuse_overlay(decision.requirements, script.name, "such a run cannot be recorded")
        become: Become = prepare_recorded(decision, arguments, how.record)
    elif metadata.entrypoint is not None:
        from cetool.app.entrypoints import prepare_entrypoint  # few scripts have one

        become = prepare_entrypoint(decision, arguments)
    else:
        become = partial(_become_command, arguments)
    refuse_unrunnable(metadata, script)
    return become


def _become_command(arguments: Sequence[str], ready: Ready) -> NoReturn:
    """Become the program that runs the script."""
    start = start_of(ready)
    command, evidence = command_of(start, arguments)
    remember(start, command.argv[: len(command.argv) - len(arguments) - 1], evidence)
    exec_command(command, ready.consent, keep=start.descriptors)

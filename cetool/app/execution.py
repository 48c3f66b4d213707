"""From a script to the process that it becomes: what ``cetool run`` and ``conda execute`` have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cetool import warm
from cetool.app.baseline_options import NO_BASELINE, BaselineOptions
from cetool.app.locked import Asked, LockChoice, refuse_overlay, spec_of
from cetool.app.program import count_run, entrypoint_place, program_of, refuse_unrunnable, with_shell
from cetool.app.session import Session, canonical_requirements
from cetool.app.sources import Source, open_source
from cetool.base.errors import UsageError
from cetool.base.filelock import FileLock
from cetool.base.process import Consent
from cetool.base.urls import strip_credentials
from cetool.base.values import Value
from cetool.cli.output import flow
from cetool.declare.blocks import CONDA_EXECUTE, find_block
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.metadata import ScriptMetadata, metadata_from_file, read_metadata
from cetool.declare.requirements import Requirements
from cetool.declare.run_with import is_original
from cetool.declare.source import Script, is_notebook
from cetool.store.scripts import Held, ScriptStore
from cetool.store.store import Lease, note_use

if TYPE_CHECKING:  # what is needed once there is an environment is imported while it is made: see _get_ready
    from cetool.launch.activation import Activation
    from cetool.launch.entrypoint import Entrypoint, EntrypointContext
    from cetool.launch.process import Command


class NotebookOptions(Value):
    """What can be asked for where a notebook is run: a file for the result, parameters as they were written."""

    out: Path | None = None
    parameters: tuple[str, ...] = ()
    raw_parameters: tuple[str, ...] = ()


class RunOptions(Value):
    """How a script is to be run, apart from the settings.

    ``unasked``: one from a URL is run where nobody can be asked, unless a setting says what becomes of it.
    ``original``: a script that does not say with which program it runs is run by ``/bin/sh``, as conda-execute did.
    """

    extra: tuple[str, ...] = ()
    env_file: Path | None = None
    refresh: bool = False
    activate: bool = True
    unasked: bool = False
    original: bool = False
    notebook: NotebookOptions = NotebookOptions()
    lock: LockChoice = LockChoice()
    exclude_newer: str | None = None
    baselines: BaselineOptions = BaselineOptions()
    record: Path | None = None
    keep: bool = False
    base: str | None = None
    overlay: tuple[str, ...] = ()


def run_plainly(target: str, arguments: Sequence[str], verbosity: str | None) -> NoReturn:
    """Run the script at a path or URL without any option but how much is said: as a shebang has it run."""
    session = Session({"verbosity": verbosity})
    run_source(open_source(target, session), arguments, session, RunOptions())


def run_source(source: Source, arguments: Sequence[str], session: Session, how: RunOptions) -> NoReturn:
    """Run a script in its environment, made where it is missing. Does not return: cetool becomes the script."""
    if is_notebook(source.script):
        from cetool.cli.notebooks import run_notebook

        if how.record is not None:
            raise UsageError(
                f"--record is for scripts, and {source.script.name} is a notebook",
                hint="--out keeps a notebook with all that it printed.",
            )
        run_notebook(source, arguments, session, how)
    if how.notebook != NotebookOptions():
        raise UsageError(f"--out and parameters are for notebooks, and {source.script.name} is none")
    metadata, spec, locked_by = read_locked_declaration(source, session, how)
    entry = read_entrypoint(metadata, source.script)
    refuse_unrunnable(metadata, source.script)
    if how.record is not None:
        refuse_overlay(metadata.requirements, source.script.name, "that cannot be recorded")
    consent = session.consent()
    session.voice.block(specification(metadata, session.store_of(spec).prefix(spec.name), locked_by))
    purpose = f"for {source.script.name}"
    lease = session.environment(
        metadata.requirements, spec, refresh=how.refresh, keep=how.keep, purpose=purpose, meanwhile=_get_ready
    )
    run = prepare_run(source, session, how, lease, metadata, consent)
    if how.record is not None:
        from cetool.app.recording import Recording, run_as_child

        run_as_child(run, entry, arguments, Recording(how.record, spec))
    if entry is not None:
        _become_entrypoint(run, entry, arguments)
    _become_command(run, arguments)


def _get_ready() -> None:
    """Load what the script's start takes: while the engine is at work that costs no time."""
    for module in ("activation", "process", "programs", "records"):
        import_module(f"cetool.launch.{module}")
    for module in ("cetool.app.background", "cetool.warm.notes", "ctypes"):  # ctypes brings it all to the disk
        import_module(module)


def read_entrypoint(metadata: ScriptMetadata, script: Script) -> Entrypoint | None:
    """The script's entrypoint, if it has one: what is wrong with it is told before anything is made."""
    if metadata.entrypoint is None:
        return None
    from cetool.launch.entrypoint import parse_entrypoint

    return parse_entrypoint(metadata.entrypoint, entrypoint_place(metadata, script))


def prepare_run(
    source: Source, session: Session, how: RunOptions, lease: Lease, metadata: ScriptMetadata, consent: Consent
) -> Run:
    """A script that is about to run in its environment: that is noted as used, the script held as a file."""
    from cetool.app.background import collect_in_background
    from cetool.launch.activation import activated_environ, unactivated_environ

    held: list[FileLock | None] = list(lease.locks)
    path = source.given
    if source.data is not None:
        kept = source.keep(session)
        path = str(kept.path)
        held.append(kept.lock)
    note(session, lease, source.script.name if source.data is not None else str(source.script.path))
    collect_in_background(session)
    activation = activation_of(lease, session, metadata.dialect)
    steps: tuple[str, ...] = ()
    if how.activate:
        environ, steps = activated_environ(activation, session.environ)
    elif lease.base is not None:
        from cetool.launch.activation import overlaid_environ

        environ = overlaid_environ(activation, session.environ)
    else:
        environ = unactivated_environ(activation, session.environ)
    if not how.activate and metadata.dialect == CONDA_EXECUTE:
        from cetool.launch.activation import PREFIX

        environ = {**environ, PREFIX: dict(activation.set)[PREFIX]}
    count_run(environ)
    return Run(source, session, how, lease, metadata, activation, path, environ, steps, held, consent)


class Run(Value):
    """A script that is about to run: all that was found out, and the locks that it will hold."""

    source: Source
    session: Session
    how: RunOptions
    lease: Lease
    metadata: ScriptMetadata
    activation: Activation
    path: str
    environ: dict[str, str]
    steps: tuple[str, ...]
    held: list[FileLock | None]
    consent: Consent

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The locks' descriptors, to be kept open."""
        return tuple(lock.fd for lock in self.held if lock is not None)

    def remember(self, argv: tuple[str, ...], cache: Held | None = None) -> None:
        """Write the command down for the next run, if that would find out the same."""
        how, source, session = self.how, self.source, self.session
        as_is = how.lock == LockChoice() and how.exclude_newer is None and not how.keep
        plain = how.env_file is None and not how.extra and how.activate and as_is
        plain = plain and how.base is None and not how.overlay and how.baselines == NO_BASELINE
        if source.seen is None or not plain or not session.is_usual:
            return
        if self.lease.base is not None:
            from cetool.app.overlaying import watch_entries

            if not watch_entries(session, self.lease.marker.spec):
                return
        from cetool.launch.records import Basis, Learned, write_launch_record

        caller = b""
        if self.metadata.chosen in ("packages", "shell") and not is_original(source.script):
            caller = warm.CONDA_EXECUTE if how.original else warm.CETOOL
        learned = Learned(argv, self.activation, self.metadata.path, self.metadata, cache)
        around = Basis(
            about=warm.absolute(source.given),
            seen=source.seen,
            since=session.started,
            configuration=session.configuration,
            locks=session.locks,
            environ=session.environ,
            by_path=session.asked_engine,
            collects=session.settings.auto_gc,
            stamp=session.stamp,
            caller=caller,
        )
        write_launch_record(learned, around, self.lease, session.paths)


def _become_command(run: Run, arguments: Sequence[str]) -> NoReturn:
    """Run the script by its ``run_with``."""
    from cetool.launch.process import exec_command

    argv = program_of(run.metadata, run.source.script.name, run.environ, run.lease.prefixes, run.session)
    run.remember(argv)
    exec_command(command_of(run, argv, arguments), run.consent, keep=run.descriptors)


def command_of(run: Run, argv: tuple[str, ...], arguments: Sequence[str]) -> Command:
    """The command that runs the script by these words, which its ``run_with`` comes to."""
    from cetool.launch.process import Command

    # a program would take a name that starts with a dash for an option
    name = f".{os.sep}{run.path}" if run.path.startswith("-") else run.path
    return Command(argv[0], (*argv, name, *arguments), run.environ, run.steps)


def _become_entrypoint(run: Run, entry: Entrypoint, arguments: Sequence[str]) -> NoReturn:
    """Run the script by conda-script's ``entrypoint``."""
    from cetool.launch.entrypoint import run_entrypoint, simple_argv
    from cetool.launch.programs import find_program

    surroundings, cache = surroundings_of(run)
    words = simple_argv(entry, surroundings.script, surroundings.cache)
    if words is not None:
        program = find_program(words[0], run.environ, None if Path(words[0]).is_absolute() else run.lease.prefixes)
        run.remember((program, *words[1:]), cache)
    run_entrypoint(entry, arguments, surroundings)


def surroundings_of(run: Run) -> tuple[EntrypointContext, Held]:
    """What an entrypoint runs in, and the script's own cache directory, held in use by the run."""
    from cetool.launch.entrypoint import EntrypointContext

    script = Path(warm.absolute(run.path))
    cache = ScriptStore(run.session.paths.scripts, trust=run.session.paths.trusted).hold_cache_dir(script)
    run.held.append(cache.lock)
    prefix = run.lease.prefix
    return EntrypointContext(run.environ, script, cache.path, prefix, run.consent, run.steps, run.descriptors), cache


def read_declaration(source: Source, session: Session, how: RunOptions) -> tuple[ScriptMetadata, EnvironmentSpec]:
    """What the script declares, with what the command line adds, and the environment that this stands for."""
    metadata, spec, _ = read_locked_declaration(source, session, how)
    return metadata, spec


def read_locked_declaration(
    source: Source, session: Session, how: RunOptions
) -> tuple[ScriptMetadata, EnvironmentSpec, str | None]:
    """As :func:`read_declaration`, with where the lock is that decides the environment, None where it is solved."""
    if how.env_file is None and how.base is not None and find_block(source.script) is None:
        metadata = metadata_from_file(source.script, Requirements())
    elif how.env_file is None:
        metadata = read_metadata(source.script)
    else:
        block = find_block(source.script)
        if block is not None:
            raise UsageError(
                f"--env-file is for scripts without metadata of their own, and {source.script.name} has some "
                f"(lines {block.first} to {block.last})",
                hint="Leave --env-file out; --with adds single packages.",
            )
        from cetool.declare.dialects.environment_yml import read_environment_file

        metadata = metadata_from_file(source.script, read_environment_file(how.env_file, session.platform))
    declared = metadata.requirements
    needs = how.baselines.added_to(declared)
    if how.base is not None or how.overlay:
        from cetool.app.overlaying import with_overlay

        needs = with_overlay(needs, how.base, how.overlay)
    if how.extra:
        more = canonical_requirements(how.extra)
        if needs.overlay is not None:
            from cetool.app.overlaying import add_conda

            needs = add_conda(needs, more.packages)
        else:
            needs = needs.plus(more)
    metadata = with_shell(metadata._replace(requirements=needs), source, original=how.original)
    for foreign in session.foreign:
        if foreign.source is source:
            foreign.metadata, foreign.unasked = metadata, how.unasked
    for warning in metadata.requirements.warnings:
        session.voice.warn(str(warning))
    options = {"--with": how.extra, "--channel": session.channels_given, "--exclude-newer": how.exclude_newer}
    options.update(how.baselines.given)
    additions = tuple(option for option, given in options.items() if given)
    asked = Asked(declared, metadata.requirements, additions, how.exclude_newer, how.refresh, how.baselines.insecure)
    return metadata, *spec_of(source, asked, how.lock, session)


def specification(metadata: ScriptMetadata, prefix: Path, locked_by: str | None = None) -> str:
    """What ``-v`` tells before the script runs, in the original's form; ``locked_by`` is where the lock is."""
    needs = metadata.requirements
    lines = ["Using specification: "]
    if needs.channels is not None:
        lines.append(f"channels: {flow(needs.channels)}")
    if needs.overlay is None:
        lines.append(f"env: {flow(needs.packages)}")
    else:
        lines += [f"base: {needs.overlay.base}", f"overlay: {flow(needs.overlay.entries)}"]
        lines += [f"conda: {flow(needs.overlay.conda)}"] if needs.overlay.conda else []
    if needs.baselines:
        lines.append(f"baseline: {flow(list(map(strip_credentials, needs.baselines)))}")
    if needs.without:
        lines.append(f"without: {flow(needs.without)}")
    if needs.pypi:
        lines.append(f"pip: {flow(needs.pypi)}")
    if needs.variables:
        lines.append(f"variables: {flow([f'{name}={value}' for name, value in needs.variables])}")
    if metadata.language is not None:
        lines.append(f"kernel: {metadata.language}")
    if locked_by is not None:
        lines.append(f"lock: {locked_by}")
    if metadata.run_with is not None:
        lines.append(f"run_with: {flow(metadata.run_with)}")
    if metadata.entrypoint is not None:
        lines.append(f"entrypoint: {metadata.entrypoint}")
    return "\n".join([*lines, "", f"Prefix: {prefix}", ""])


def activation_of(lease: Lease, session: Session, dialect: str | None = None) -> Activation:
    """What activating the environment does, for a script of this dialect; with an overlay, what that takes as well."""
    from cetool.launch.activation import read_activation, variables_of

    variables = variables_of(lease.marker.spec.variables, dialect, lease.base or lease.prefix)
    if lease.base is None:
        return read_activation(lease.prefix, variables, user_site=session.settings.user_site)
    from cetool.launch.activation import read_overlay_activation

    return read_overlay_activation(lease.base, lease.prefix, variables, user_site=session.settings.user_site)


def note(session: Session, lease: Lease, script: str) -> None:
    """Note that the environment is used; where that cannot be written down the script runs all the same."""
    from cetool.warm.notes import touch_shared

    for lock in lease.locks:
        touch_shared(lock.fd, os.fsencode(lock.path))
    if lease.base is not None and lease.below is None:
        return  # neither of them is in the log
    try:
        note_use(session.paths.spool, (lease.base or lease.prefix).name, script)
    except OSError as error:
        session.voice.detail(f"The use of {lease.prefix} could not be noted: {error.strerror or error}")

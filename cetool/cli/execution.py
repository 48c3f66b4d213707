"""From a script to the process that it becomes: what ``cetool run`` and ``conda execute`` have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from cetool.cache.locks import FileLock
from cetool.cache.scripts import ScriptStore
from cetool.cache.spool import note_use
from cetool.cache.store import Lease
from cetool.cli.background import collect_in_background
from cetool.cli.output import flow
from cetool.cli.session import Session, canonical_requirements
from cetool.cli.sources import Source, open_source
from cetool.errors import UsageError
from cetool.launch import warm
from cetool.launch.activation import activated_environ, read_activation
from cetool.launch.process import Command, exec_command
from cetool.launch.programs import find_program, resolve_command
from cetool.launch.records import Circumstances, Learned, write_launch_record
from cetool.launch.shell import Surroundings, parse_entrypoint, run_entrypoint, simple_argv
from cetool.spec.blocks import find_block
from cetool.spec.environment import EnvironmentSpec
from cetool.spec.metadata import ScriptMetadata, metadata_from_file, read_metadata


@dataclass(frozen=True)
class RunOptions:
    """How a script is to be run, apart from the settings."""

    extra: tuple[str, ...] = ()
    env_file: Path | None = None
    refresh: bool = False
    activate: bool = True


def run_plainly(target: str, arguments: Sequence[str], verbosity: str | None) -> NoReturn:
    """Run the script at a path or URL without any option but how much is said: as a shebang has it run."""
    session = Session({"verbosity": verbosity})
    run_source(open_source(target, session), arguments, session, RunOptions())


def run_source(source: Source, arguments: Sequence[str], session: Session, how: RunOptions) -> NoReturn:
    """Run a script in its environment, made where it is missing. Does not return: cetool becomes the script."""
    metadata, spec = read_declaration(source, session, how)
    entry = None
    if metadata.entrypoint is not None:  # what is wrong with it is told before anything is made
        entry = parse_entrypoint(metadata.entrypoint, source.script.at())
    session.voice.block(specification(metadata, session.store.prefix(spec.name)))
    lease = session.environment(metadata.requirements, spec, refresh=how.refresh, purpose=f"for {source.script.name}")
    held = [lease.lock]
    path = source.given
    if source.data is not None:
        kept = source.keep(session)
        path = str(kept.path)
        held.append(kept.lock)
    note(session, lease, source.script.name if source.data is not None else str(source.script.path))
    collect_in_background(session)
    activation = read_activation(lease.prefix, dict(spec.variables))
    environ = session.environ
    steps: tuple[str, ...] = ()
    if how.activate:
        environ, steps = activated_environ(activation, session.environ)
    if entry is not None:
        script = Path(warm.absolute(path))
        cache = ScriptStore(session.paths.scripts).hold_cache_dir(script)
        held.append(cache.lock)
        words = simple_argv(entry, script, cache.path)
        if words is not None:
            program = find_program(words[0], environ, None if Path(words[0]).is_absolute() else lease.prefix)
            learned = Learned((program, *words[1:]), activation, metadata, cache)
            remember(learned, source, session, lease, how)
        run_entrypoint(
            entry, arguments, Surroundings(environ, script, cache.path, lease.prefix, steps, _descriptors(held))
        )
    argv = resolve_command(metadata.run_with or (), environ, lease.prefix)
    remember(Learned(argv, activation, metadata), source, session, lease, how)
    # a program would take a name that starts with a dash for an option
    name = f".{os.sep}{path}" if path.startswith("-") else path
    exec_command(Command(argv[0], (*argv, name, *arguments), environ, steps), keep=_descriptors(held))


def _descriptors(locks: Sequence[FileLock | None]) -> tuple[int, ...]:
    return tuple(lock.fd for lock in locks if lock is not None)


def read_declaration(source: Source, session: Session, how: RunOptions) -> tuple[ScriptMetadata, EnvironmentSpec]:
    """What the script declares, with what the command line adds, and the environment that this stands for."""
    if how.env_file is None:
        metadata = read_metadata(source.script)
    else:
        block = find_block(source.script)
        if block is not None:
            raise UsageError(
                f"--env-file is for scripts without metadata of their own, and {source.script.name} has some "
                f"(lines {block.first} to {block.last})",
                hint="Leave --env-file out; --with adds single packages.",
            )
        from cetool.spec.environment_file import read_environment_file

        metadata = metadata_from_file(source.script, read_environment_file(how.env_file))
    if how.extra:
        metadata = replace(metadata, requirements=metadata.requirements.plus(canonical_requirements(how.extra)))
    for warning in metadata.requirements.warnings:
        session.voice.warn(f"{source.script.name}: {warning}")
    return metadata, session.spec_of(metadata.requirements)


def specification(metadata: ScriptMetadata, prefix: Path) -> str:
    """What ``-v`` tells before the script runs, in the original's form."""
    needs = metadata.requirements
    lines = ["Using specification: "]
    if needs.channels is not None:
        lines.append(f"channels: {flow(needs.channels)}")
    lines.append(f"env: {flow(needs.packages)}")
    if needs.pypi:
        lines.append(f"pip: {flow(needs.pypi)}")
    if needs.variables:
        lines.append(f"variables: {flow([f'{name}={value}' for name, value in needs.variables])}")
    if metadata.run_with is not None:
        lines.append(f"run_with: {flow(metadata.run_with)}")
    if metadata.entrypoint is not None:
        lines.append(f"entrypoint: {metadata.entrypoint}")
    return "\n".join([*lines, "", f"Prefix: {prefix}", ""])


def remember(learned: Learned, source: Source, session: Session, lease: Lease, how: RunOptions) -> None:
    """Write down what was found out, where the next run of the same script would find out the same."""
    plain = how.env_file is None and not how.extra and how.activate
    if source.seen is None or not plain or not session.is_usual:
        return
    context = Circumstances(
        script=warm.absolute(source.given),
        seen=source.seen,
        since=session.started,
        configuration=session.configuration(of_engine=learned.metadata.requirements.channels is None),
        environ=session.environ,
    )
    write_launch_record(learned, context, lease, session.paths)


def note(session: Session, lease: Lease, script: str) -> None:
    """Note that the environment is used; where that cannot be written down the script runs all the same."""
    try:
        note_use(session.paths.spool, lease.prefix.name, script)
    except OSError as error:
        session.voice.detail(f"The use of {lease.prefix} could not be noted: {error.strerror or error}")

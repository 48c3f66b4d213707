"""Runs a program of a package, opens a shell in an environment, and says where an environment is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cetool import warm
from cetool.app.consent import OWN, consent_to
from cetool.app.deciding import canonical_requirements, decide, decide_requirements, specification
from cetool.app.decision import Decision, Wish
from cetool.app.ensuring import activation_of, ensure, note_used, store_of
from cetool.app.environments import requirements_of
from cetool.app.names import LEAST_SHOWN, Target, named_target
from cetool.app.reporting import Reporter
from cetool.app.sources import open_source
from cetool.app.starting import count_run
from cetool.app.world import World
from cetool.base.errors import EngineError, ProgramNotFoundError, UsageError
from cetool.base.urls import strip_credentials
from cetool.declare.match_specs import names_file, spec_name
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.requirements import Requirements
from cetool.launch.activation import Activation, activated_environ, read_activation
from cetool.launch.process import Command, exec_command, look_in
from cetool.launch.records import Basis, Learned, write_launch_record
from cetool.launch.shells import Opening, find_user_shell, open_reading_shell, open_shell
from cetool.launch.tools import Tool, find_tool, read_tool
from cetool.store.scripts import ScriptStore
from cetool.store.store import Lease
from cetool.warm.environ import path_dirs

# --- exec -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment of a tool is made of, and how."""

    #: Match specs instead of the tool's own package.
    specs: tuple[str, ...] = ()
    #: Match specs next to those.
    extra: tuple[str, ...] = ()
    #: Whether it is re-created.
    refresh: bool = False


def execute(
    tool: str, arguments: Sequence[str], environment: Environment, world: World, reporter: Reporter
) -> NoReturn:
    """Become a program of a conda package, in an environment of its own.

    Raises CetoolError where there is no such program.
    """
    specs = environment.specs
    wanted = Tool(tool, "") if specs else read_tool(tool)
    texts = [*(specs or (wanted.spec,)), *environment.extra]
    metadata = ScriptMetadata("exec", tool, None, canonical_requirements(texts), (wanted.program,))
    called = strip_credentials(f"exec {tool}")
    decision = decide_requirements(metadata, Wish(), world, reporter, purpose=f"for {called}")
    reporter.block(specification(decision, world.store.prefix(decision.spec.name)))
    try:
        lease = ensure(decision, world, reporter, consent=OWN, refresh=environment.refresh)
    except EngineError as error:
        added = {spec_name(each) for each in metadata.requirements.packages[len(texts) - len(environment.extra) :]}
        if not specs and error.code == "package-not-found" and error.about not in added:
            elsewhere = f"If another package has it: `cetool exec --spec PACKAGE {wanted.program}`."
            raise error.but(hint=" ".join(filter(None, (error.hint, elsewhere)))) from None
        raise
    names = [spec_name(package) for package in metadata.requirements.packages]
    program = find_tool(wanted.program, lease.prefix, names, command="cetool exec")
    note_used(lease, called, world, reporter)
    activation = read_activation(lease.prefix, {}, user_site=world.settings.user_site)
    if not _depends_on_directory(wanted.program, texts):
        given = world.options.get("channels") or ()
        key = warm.tool_key(tool, specs, given if isinstance(given, tuple) else (), environment.extra)
        _write_launch_record(key, Learned((program,), activation, called), decision, lease, world)
    environ, steps = activated_environ(activation, world.environ)
    count_run(environ)
    exec_command(Command(program, (program, *arguments), environ, steps), OWN, keep=_descriptors(lease))


def _write_launch_record(key: str, learned: Learned, decision: Decision, lease: Lease, world: World) -> None:
    """Write the tool's launch record, if the next run would decide the same."""
    evidence = decision.evidence
    if not evidence.lasts or not world.is_plain("channels"):
        return
    around = Basis(
        about=key,
        seen=None,
        since=world.since,
        configuration=evidence.configuration,
        environ=world.environ,
        by_path=evidence.by_path,
        collects=world.settings.auto_gc,
    )
    write_launch_record(learned, around, lease, world.paths)


def _depends_on_directory(program: str, specs: Sequence[str]) -> bool:
    """Return whether the words can mean something else in another directory, or when a file there has changed."""
    return os.sep in program or any(spec.strip().startswith(".") or names_file(spec) for spec in specs)


# --- shell and path -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """The environment of a script, or of match specs."""

    decision: Decision
    #: The world without what is hidden from the script.
    world: World
    #: Its name in a prompt.
    label: str
    #: Its name in the usage log.
    noted: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asks for."""

    #: The command, for messages.
    command: str
    #: The script; None if ``specs`` or the wish's environment file list the packages.
    target: str | None
    specs: tuple[str, ...]
    wish: Wish
    #: Whether plain http is allowed for the script.
    insecure: bool
    #: The digest that the script must have.
    sha256: str | None


def wanted(asked: Asked, world: World, reporter: Reporter) -> Wanted:
    """Return the environment of a script or of match specs. Raises UsageError for neither or both."""
    specs, wish, command = asked.specs, asked.wish, asked.command
    if asked.target is not None:
        if specs:
            raise UsageError(
                "a script and --spec cannot be used together",
                hint="`--with SPEC` adds packages to those that a script declares.",
            )
        named = named_target(asked.target, world)
        if named is not None:
            return _of_environment(named, asked, world)
        source, world = open_source(asked.target, world, reporter, insecure=asked.insecure, sha256=asked.sha256)
        decision = decide(source, wish, world, reporter)
        return Wanted(decision, world, source.name or source.script.path.name, source.noted)
    if wish.lock.file is not None:
        raise UsageError("--lock-file needs a script", hint=f"Run `cetool {command} --lock-file FILE SCRIPT`.")
    if wish.env_file is not None and not specs:
        requirements = requirements_of(wish.extra, [wish.env_file])
    elif specs and wish.env_file is None:
        requirements = requirements_of([*specs, *wish.extra], [])
    else:
        raise UsageError(
            "no script was given" if wish.env_file is None else "--spec and --env-file cannot be used together",
            hint=f"Run `cetool {command} SCRIPT` or `cetool {command} --spec SPEC`.",
        )
    for warning in requirements.warnings:
        reporter.warn(str(warning))
    label = ",".join(map(spec_name, requirements.packages)) or "shell"
    metadata = ScriptMetadata(command, label, None, requirements, None)
    decision = decide_requirements(metadata, wish, world, reporter, purpose="")
    return Wanted(decision, world, label, f"{command} {label}")


def _of_environment(named: Target, asked: Asked, world: World) -> Wanted:
    """Return an environment that was named itself. Raises UsageError for options that change a script's environment."""
    if asked.wish != Wish() or asked.sha256 is not None:
        raise UsageError(
            f"{asked.target} is an environment, and the options given are for scripts",
            hint=f"`cetool {asked.command} {asked.target}` takes the environment unchanged.",
        )
    label = named.name[:LEAST_SHOWN]
    metadata = ScriptMetadata(asked.command, label, None, Requirements(), None)
    return Wanted(Decision(metadata, named.spec), world, label, f"{asked.command} {label}")


def open_in(found: Wanted, reporter: Reporter, *, repl: bool | None, refresh: bool) -> NoReturn:
    """Become a shell in the environment, or with ``repl`` an interpreter; None opens one for notebooks."""
    world, decision = found.world, found.decision._replace(purpose=f"for a shell of {found.label}")
    consent = consent_to(decision, world, reporter)
    reporter.block(specification(decision, store_of(decision.spec, world).prefix(decision.spec.name)))
    lease = ensure(decision, world, reporter, consent=consent, refresh=refresh)
    note_used(lease, found.noted, world, reporter)
    python = decision.metadata.language == "python" if repl is None else repl
    opening = _opening(activation_of(lease, world), world, found.label, repl=python)
    locks = () if opening.held is None or opening.held.lock is None else (opening.held.lock.fd,)
    exec_command(opening.command, consent, keep=(*_descriptors(lease), *locks))


def _opening(activation: Activation, world: World, label: str, *, repl: bool) -> Opening:
    terminal = os.isatty(0)
    if repl:
        # without a terminal the plain interpreter runs, which prints no banner there
        program = (look_in(activation.path, "ipython", []) if terminal else None) or _python(activation.prefix)
        environ, steps = activated_environ(activation, world.environ)
        return Opening(Command(program, (program,), environ, steps))
    user_shell = find_user_shell(world.environ)
    store = ScriptStore(world.paths.scripts, trust=world.paths.trusted)
    if terminal:
        return open_shell(user_shell, activation, world.environ, label, store)
    return open_reading_shell(user_shell, activation, world.environ, store)


@dataclass(frozen=True, slots=True)
class Located:
    """Where an environment is, and how it is activated."""

    name: str
    prefix: Path
    #: The path of its python, if it has one.
    python: str | None
    activation: Activation


def locate(found: Wanted, reporter: Reporter, *, refresh: bool, python: bool) -> Located:
    """Return where the environment is, and create it if it is missing.

    With ``python``, raises ProgramNotFoundError if it has no python.
    """
    world, decision = found.world, found.decision._replace(purpose=f"for the path of {found.label}")
    lease = ensure(decision, world, reporter, refresh=refresh)
    note_used(lease, found.noted, world, reporter)
    lease.release()
    prefix = lease.prefixes[-1]
    interpreter = _python(prefix) if python else _own("python", prefix)
    return Located(decision.spec.name, lease.prefix, interpreter, activation_of(lease, world))


def _descriptors(lease: Lease) -> tuple[int, ...]:
    return tuple(lock.fd for lock in lease.locks)


def _own(program: str, prefix: Path) -> str | None:
    return look_in(path_dirs(str(prefix)), program, [])


def _python(prefix: Path) -> str:
    """Return the environment's python. Raises ProgramNotFoundError if it has none."""
    found = _own("python", prefix)
    if found is None:
        raise ProgramNotFoundError(
            f"there is no python in the environment {prefix}",
            hint="Declare python in the script, or add it with `--with python`.",
        )
    return found

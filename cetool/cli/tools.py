"""``cetool exec``, ``shell`` and ``path``: any program of any package, a shell, and what an editor needs to know."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool import warm
from cetool.app.background import collect_in_background
from cetool.app.execution import RunOptions, activation_of, note, read_declaration, specification
from cetool.app.program import count_run
from cetool.app.session import Session, canonical_requirements
from cetool.app.sources import open_source
from cetool.base.errors import EngineError, ProgramNotFoundError, UsageError
from cetool.base.urls import strip_credentials
from cetool.cli import options
from cetool.cli.completion import with_shell
from cetool.cli.environments import requirements_of
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json
from cetool.cli.run import CONTEXT
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.match_specs import names_file, spec_name
from cetool.declare.metadata import ScriptMetadata
from cetool.launch.activation import Activation, activated_environ, read_activation
from cetool.launch.process import Command, exec_command
from cetool.launch.programs import look_in
from cetool.launch.records import Basis, Learned, write_launch_record
from cetool.launch.shells import Opening, find_user_shell, open_reading_shell, open_shell
from cetool.launch.tools import Tool, find_tool, read_tool
from cetool.store.scripts import ScriptStore
from cetool.store.store import Lease
from cetool.warm.environ import path_dirs

PATH_SCHEMA = "cetool.path/1"

#: How engines' errors say that a channel has no such package.

_Specs = Annotated[
    list[str] | None,
    option("--spec", metavar="SPEC", help="A package of the environment; repeat for more."),
]
_Target = Annotated[
    str | None,
    typer.Argument(metavar="SCRIPT", help="A path, or a URL: the environment that it declares.", show_default=False),
]
_With = Annotated[
    list[str] | None,
    option("--with", metavar="SPEC", help="A package besides those declared; repeat for more."),
]


# --- exec -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExecOptions(options.Output, options.Making):
    """The options of ``cetool exec``."""

    spec: Annotated[
        list[str] | None,
        option("--spec", metavar="SPEC", help="A package, instead of TOOL's own; repeat for more."),
    ] = None


@options.command
def execute(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="A program; a version may follow: 'ruff>=0.4'.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="The program's own.", show_default=False)
    ] = None,
    *,
    given: ExecOptions,
) -> None:
    """Run a program out of a conda package, in an environment of its own."""
    session = options.open_session(given)
    wanted = Tool(tool, "") if given.spec else read_tool(tool)
    specs = given.spec or [wanted.spec]
    requirements = canonical_requirements(specs)
    environment = session.spec_of(requirements)
    shown = ScriptMetadata("exec", tool, None, requirements, (wanted.program,))
    session.voice.block(specification(shown, session.store.prefix(environment.name)))
    called = strip_credentials(f"exec {tool}")
    try:
        lease = session.environment(requirements, environment, refresh=given.refresh, purpose=f"for {called}")
    except EngineError as error:
        if not given.spec and error.code == "package-not-found":
            way_out = f"If another package brings it: `cetool exec --spec PACKAGE {wanted.program}`."
            raise error.but(hint=" ".join(filter(None, (error.hint, way_out)))) from None
        raise
    names = [spec_name(package) for package in requirements.packages]
    program = find_tool(wanted.program, lease.prefix, names, command="cetool exec")
    _used(session, lease, called)
    activation = read_activation(lease.prefix, {}, user_site=session.settings.user_site)
    if not _depends_on_directory(wanted.program, specs):
        _remember(
            warm.tool_key(tool, given.spec or (), given.channel or ()),
            Learned((program,), activation, called),
            lease,
            session,
        )
    environ, steps = activated_environ(activation, session.environ)
    count_run(environ)
    command = Command(program, (program, *(arguments or [])), environ, steps)
    exec_command(command, session.consent(), keep=_descriptors(lease))


def _remember(key: str, learned: Learned, lease: Lease, session: Session) -> None:
    """Write the tool down for the next run, if that would find out the same."""
    if not session.comes_again("channels"):
        return
    around = Basis(
        about=key,
        seen=None,
        since=session.started,
        configuration=session.configuration,
        environ=session.environ,
        by_path=session.asked_engine,
        collects=session.settings.auto_gc,
    )
    write_launch_record(learned, around, lease, session.paths)


def _depends_on_directory(program: str, specs: Sequence[str]) -> bool:
    """Whether the same words may mean something else in another directory, or once a file there has changed."""
    return os.sep in program or any(spec.strip().startswith(".") or names_file(spec) for spec in specs)


def cex(words: Sequence[str]) -> int:
    """``cex`` with these arguments: the exit status, where it does not become the tool. Raises CetoolError."""
    app = typer.Typer(name="cex", pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(context_settings={**CONTEXT, "help_option_names": ["-h", "--help"]}, no_args_is_help=True)(execute)
    result = app(with_shell(words, os.environ), prog_name="cex", standalone_mode=False)
    return result if isinstance(result, int) else 0


# --- shell ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShellOptions(options.Output, options.Making, options.Remote, options.Lock):
    """The options of ``cetool shell``."""

    spec: _Specs = None
    repl: Annotated[
        bool | None,
        option(
            "--repl/--no-repl",
            help="Open Python instead of a shell, as is usual for notebooks: ipython where the environment has it.",
        ),
    ] = None
    extra: _With = None
    env_file: options.EnvFile = None
    exclude_newer: options.ExcludeNewer = None


@options.command
def shell(target: _Target = None, *, given: ShellOptions) -> None:
    """Open a shell in the environment of a script, or of match specs."""
    session = options.open_session(given)
    how = RunOptions(tuple(given.extra or ()), given.env_file, lock=given.choice, exclude_newer=given.exclude_newer)
    wanted = _wanted("shell", target, given.spec, session, how, _Fetching(given.insecure, given.sha256))
    session.voice.block(specification(wanted.metadata, session.store_of(wanted.spec).prefix(wanted.spec.name)))
    lease = session.environment(
        wanted.metadata.requirements, wanted.spec, refresh=given.refresh, purpose=f"for a shell of {wanted.label}"
    )
    _used(session, lease, wanted.noted)
    python = wanted.metadata.language == "python" if given.repl is None else given.repl
    opening = _opening(activation_of(lease, session), session, wanted.label, repl=python)
    locks = () if opening.held is None or opening.held.lock is None else (opening.held.lock.fd,)
    exec_command(opening.command, session.consent(), keep=(*_descriptors(lease), *locks))


def _opening(activation: Activation, session: Session, label: str, *, repl: bool) -> Opening:
    terminal = os.isatty(0)
    if repl:
        # ipython is for people: what is no terminal gets the plain interpreter, which prints no banner there
        program = (look_in(activation.path, "ipython", []) if terminal else None) or _python(activation.prefix)
        environ, steps = activated_environ(activation, session.environ)
        return Opening(Command(program, (program,), environ, steps))
    user_shell = find_user_shell(session.environ)
    store = ScriptStore(session.paths.scripts, trust=session.paths.trusted)
    if terminal:
        return open_shell(user_shell, activation, session.environ, label, store)
    return open_reading_shell(user_shell, activation, session.environ, store)


# --- path -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PathOptions(options.Output, options.Making, options.Remote, options.Lock):
    """The options of ``cetool path``."""

    spec: _Specs = None
    python: Annotated[bool, option("--python", help="Print the path of its python instead.")] = False
    as_json: options.AsJson = False
    extra: _With = None
    env_file: options.EnvFile = None
    exclude_newer: options.ExcludeNewer = None


@options.command
def path(target: _Target = None, *, given: PathOptions) -> None:
    """Print the prefix of the environment of a script, or of match specs, made if it is missing: for editors."""
    session = options.open_session(given)
    how = RunOptions(tuple(given.extra or ()), given.env_file, lock=given.choice, exclude_newer=given.exclude_newer)
    wanted = _wanted("path", target, given.spec, session, how, _Fetching(given.insecure, given.sha256))
    lease = session.environment(
        wanted.metadata.requirements, wanted.spec, refresh=given.refresh, purpose=f"for the path of {wanted.label}"
    )
    _used(session, lease, wanted.noted)
    lease.release()
    prefix = lease.prefix
    interpreter = _python(lease.prefixes[-1]) if given.python else _own("python", lease.prefixes[-1])
    if not given.as_json:
        print_data(f"{interpreter if given.python and interpreter else prefix}\n")
        return
    activation = activation_of(lease, session)
    print_json(
        {
            "schema": PATH_SCHEMA,
            "name": wanted.spec.name,
            "prefix": str(prefix),
            "python": interpreter,
            "path": list(activation.path),
            "variables": dict(activation.set),
        }
    )


# --- what they have in common ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wanted:
    """An environment that is asked for: its spec, how a prompt calls it, and how the usage log does."""

    metadata: ScriptMetadata
    spec: EnvironmentSpec
    label: str
    noted: str


@dataclass(frozen=True)
class _Fetching:
    """How a script may come from a URL, and which content it must have."""

    insecure: bool
    sha256: str | None


def _wanted(
    command: str,
    target: str | None,
    specs: list[str] | None,
    session: Session,
    how: RunOptions,
    fetching: _Fetching,
) -> _Wanted:
    """What a script, or match specs, ask for. Raises UsageError where it is neither or both."""
    if target is not None:
        if specs:
            raise UsageError(
                "either a script or --spec says what is in the environment",
                hint="--with adds packages to those that a script declares.",
            )
        source = open_source(target, session, insecure=fetching.insecure, sha256=fetching.sha256)
        metadata, spec = read_declaration(source, session, how)
        name = source.name or source.script.path.name
        noted = str(source.script.path) if source.data is None else source.script.name
        return _Wanted(metadata, spec, name, noted)
    if how.lock.file is not None:
        raise UsageError(
            "--lock-file is for the environment of a script", hint=f"cetool {command} --lock-file FILE SCRIPT"
        )
    if how.env_file is not None and not specs:
        requirements = requirements_of(how.extra, [how.env_file])
    elif specs and how.env_file is None:
        requirements = requirements_of([*specs, *how.extra], [])
    else:
        raise UsageError(
            "no script was given" if how.env_file is None else "--spec and --env-file exclude each other",
            hint=f"cetool {command} SCRIPT, or cetool {command} --spec SPEC...",
        )
    for warning in requirements.warnings:
        session.voice.warn(str(warning))
    label = ",".join(map(spec_name, requirements.packages)) or "shell"
    metadata = ScriptMetadata(command, label, None, requirements, None)
    return _Wanted(
        metadata, session.spec_of(requirements, exclude_newer=how.exclude_newer), label, f"{command} {label}"
    )


def _used(session: Session, lease: Lease, called: str) -> None:
    note(session, lease, called)
    collect_in_background(session)


def _descriptors(lease: Lease) -> tuple[int, ...]:
    return tuple(lock.fd for lock in lease.locks)


def _own(program: str, prefix: Path) -> str | None:
    return look_in(path_dirs(str(prefix)), program, [])


def _python(prefix: Path) -> str:
    """The environment's python. Raises ProgramNotFoundError where it has none."""
    found = _own("python", prefix)
    if found is None:
        raise ProgramNotFoundError(
            f"there is no python in the environment {prefix}",
            hint="Declare python in the script, or add it with --with python.",
        )
    return found

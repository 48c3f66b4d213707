"""``cetool kernel``: kernels for Jupyter whose environments are made when they are first started."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cetool.app.background import collect_in_background
from cetool.app.execution import RunOptions, note, read_declaration
from cetool.app.session import Session
from cetool.app.sources import open_source
from cetool.base.errors import CetoolError, ScriptNotFoundError, UsageError
from cetool.base.text import printable
from cetool.cli import options
from cetool.cli.environments import requirements_of
from cetool.cli.options import option
from cetool.cli.output import print_json, print_table
from cetool.declare.dialects.notebook import KERNEL_PACKAGES, with_kernel
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.languages import language_of
from cetool.declare.match_specs import spec_name
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script, is_url
from cetool.launch.activation import read_activation, variables_of
from cetool.launch.kernels import (
    InstalledKernel,
    KernelSource,
    check_name,
    find_kernel,
    install_kernel,
    installed_kernels,
    kernel_command,
    prefix_directory,
    remove_kernel,
    searched_directories,
    user_directory,
)
from cetool.launch.process import exec_command

LIST_SCHEMA = "cetool.kernel.list/1"
#: Languages of scripts by the package that runs them.
_RUN_BY = {"python": "python", "r-base": "r", "bash": "bash"}

app = typer.Typer(name="kernel", help="Install kernels for Jupyter that run in an environment.", no_args_is_help=True)

_Specs = Annotated[
    list[str] | None, option("--spec", metavar="SPEC", help="A package of the environment; repeat for more.")
]
_With = Annotated[
    list[str] | None,
    option("--with", metavar="SPEC", help="A package besides those declared; repeat for more."),
]
_Language = Annotated[str | None, option("--language", metavar="LANGUAGE", help="The kernel's: python, r or bash.")]
_Prefix = Annotated[
    str | None, option("--prefix", metavar="DIR", help="For the Jupyter that is installed there, not for you.")
]


@dataclass(frozen=True)
class InstallOptions(options.Output):
    """The options of ``cetool kernel install``."""

    name: Annotated[
        str | None, option("--name", metavar="NAME", help="What Jupyter knows it by; the script's, if left out.")
    ] = None
    spec: _Specs = None
    display_name: Annotated[str | None, option("--display-name", metavar="TEXT", help="What Jupyter shows.")] = None
    language: _Language = None
    extra: _With = None
    channel: options.Channels = None
    env_file: options.EnvFile = None
    prefix: _Prefix = None
    force: Annotated[bool, option("--force", help="Replace a kernel that cetool did not write.")] = False
    create: Annotated[bool, option("--create", help="Make its environment now, not when it starts.")] = False


@app.command("install")
@options.command
def install(
    target: Annotated[
        str | None,
        typer.Argument(metavar="SCRIPT", help="A script or notebook whose environment it is.", show_default=False),
    ] = None,
    *,
    given: InstallOptions,
) -> None:
    """Write a kernel spec that starts through cetool; its environment is made when it first starts."""
    session = options.open_session(given)
    if target is not None and (target == "-" or is_url(target)):
        raise UsageError(
            "a kernel is started again and again, so its script has to be a file", hint="Save it, and give its path."
        )
    source = KernelSource(
        given.language or "",
        None if target is None else Path(os.path.abspath(target)),
        tuple(given.spec or ()),
        tuple(given.extra or ()),
        tuple(given.channel or ()),
        None if given.env_file is None else Path(os.path.abspath(given.env_file)),
    )
    if given.name is None and target is None:
        raise UsageError("the kernel has no name", hint="Give it one: --name NAME.")
    chosen = check_name(given.name or Path(target or "").stem)
    source, metadata, environment = _declared(source, session)
    directory = user_directory() if given.prefix is None else prefix_directory(given.prefix)
    shown = given.display_name or f"{given.name or chosen} (cetool)"
    installed = install_kernel(directory, chosen, shown, source, force=given.force)
    session.voice.result(f"Wrote {installed.directory / 'kernel.json'}")
    if given.create:
        lease = session.environment(metadata.requirements, environment, purpose=f"for the kernel {chosen}")
        note(session, lease, f"kernel {chosen}")
        lease.release()
        find_kernel(lease.prefix, source.language)


@dataclass(frozen=True)
class ListKernelsOptions(options.Group):
    """The options of ``cetool kernel list``."""

    as_json: options.AsJson = False


@app.command("list")
@options.command
def list_kernels(*, given: ListKernelsOptions) -> None:
    """Show the kernels that start through cetool."""
    session = Session()
    silent = Session({"verbosity": "quiet"})  # what there is to warn of in a script is told when it starts
    rows = [_row(kernel, silent) for kernel in installed_kernels(searched_directories())]
    if given.as_json:
        print_json({"schema": LIST_SCHEMA, "kernels": rows})
        return
    if not rows:
        session.voice.result("There are no kernels that start through cetool.")
        return
    print_table(
        ("NAME", "LANGUAGE", "FOR", "ENVIRONMENT", "DIRECTORY"),
        [
            (
                str(row["name"]),
                str(row["language"]),
                str(row["script"] or row["env_file"] or ", ".join(row["specs"])),
                str(row["problem"] or ("made" if row["exists"] else "not made")),
                str(row["directory"]),
            )
            for row in rows
        ],
    )


@dataclass(frozen=True)
class RemoveOptions(options.Group):
    """The options of ``cetool kernel remove``."""

    quiet: options.Quiet = False


@app.command("remove")
@options.command
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Kernels, by name.")], *, given: RemoveOptions
) -> None:
    """Remove kernels that start through cetool; their environments go when they are unused."""
    session = options.open_session(given)
    kernels = installed_kernels(searched_directories())
    wanted: list[InstalledKernel] = []
    for name in dict.fromkeys(map(str.lower, names)):
        found = [kernel for kernel in kernels if kernel.name.lower() == name]
        if not found:
            known = ", ".join(kernel.name for kernel in kernels)
            raise UsageError(
                f"there is no kernel {printable(name)!r} that cetool wrote, so nothing was removed",
                hint=f"There are: {known}." if known else "`jupyter kernelspec list` shows those of others.",
            )
        wanted += found
    for kernel in wanted:
        remove_kernel(kernel)
        session.voice.result(f"Removed {kernel.directory}")


@dataclass(frozen=True)
class StartOptions(options.Group):
    """The options of ``cetool kernel start``."""

    connection_file: Annotated[str, option("--connection-file", metavar="FILE", help="Jupyter's.")]
    script: Annotated[Path | None, option("--script", metavar="SCRIPT", help="Whose environment it is.")] = None
    language: _Language = None
    spec: _Specs = None
    extra: _With = None
    channel: options.Channels = None
    env_file: options.EnvFile = None


@app.command("start", hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@options.command
def start(context: typer.Context, *, given: StartOptions) -> None:
    """Become a kernel, as Jupyter asks for it: what kernel specs call. All other words are the kernel's own."""
    session = options.open_session(given)
    source = KernelSource(
        given.language or "",
        given.script,
        tuple(given.spec or ()),
        tuple(given.extra or ()),
        tuple(given.channel or ()),
        given.env_file,
    )
    source, metadata, wanted = _declared(source, session)
    label = f"kernel {source.script or source.env_file or ','.join(map(spec_name, metadata.requirements.packages))}"
    lease = session.environment(metadata.requirements, wanted, purpose=f"for the {label}")
    note(session, lease, label)
    collect_in_background(session)
    kernel = find_kernel(lease.prefix, source.language, metadata.kernel)
    variables = variables_of(wanted.variables, metadata.dialect, lease.prefix)
    activation = read_activation(lease.prefix, variables, user_site=session.settings.user_site)
    command = kernel_command(kernel, activation, session.environ, given.connection_file, context.args)
    exec_command(command, session.consent(), keep=() if lease.lock is None else (lease.lock.fd,))


def _declared(source: KernelSource, session: Session) -> tuple[KernelSource, ScriptMetadata, EnvironmentSpec]:
    """The source with its language, what the kernel's environment is to have, a kernel among it, and that environment.

    It is the one that the script's lock names, unless a kernel has to be added to what the script declares.
    """
    locked: EnvironmentSpec | None = None
    if source.script is None:
        if bool(source.specs) == (source.env_file is not None):
            raise UsageError(
                "nothing says what is in the kernel's environment"
                if not source.specs
                else "--spec and --env-file exclude each other",
                hint="cetool kernel install SCRIPT, or cetool kernel install --spec SPEC... --name NAME",
            )
        files = [] if source.env_file is None else [source.env_file]
        needs = requirements_of([*source.specs, *source.extra], files)
        metadata = ScriptMetadata("kernel", "", None, needs, None)
        language = _language_of_packages(needs)
    else:
        if source.specs:
            raise UsageError(
                "either a script or --spec says what is in the environment",
                hint="--with adds packages to those that a script declares.",
            )
        script = open_source(str(source.script), session)
        metadata, locked = read_declaration(script, session, RunOptions(source.extra, source.env_file))
        language = metadata.language or _language_of_script(script.script, metadata.requirements)
    language = metadata.language or (source.language or language).lower()
    if language not in KERNEL_PACKAGES and metadata.language is None:
        raise UsageError(
            f"cetool knows of no kernel for {printable(language)!r}", hint=f"It can be: {', '.join(KERNEL_PACKAGES)}."
        )
    requirements, added = with_kernel(metadata.requirements, language)
    spec = session.spec_of(requirements) if locked is None or added else locked
    return replace(source, language=language), metadata._replace(requirements=requirements), spec


def _language_of_packages(needs: Requirements) -> str:
    """The language of an environment: that of the kernel that is asked for, else Python unless only R is there."""
    names = {spec_name(package) for package in needs.packages}
    named = next((language for language, known in KERNEL_PACKAGES.items() if names & set(known)), None)
    return named or ("r" if "r-base" in names and "python" not in names else "python")


def _language_of_script(script: Script, needs: Requirements) -> str:
    return _RUN_BY.get(language_of(script).package or "", "") or _language_of_packages(needs)


def _row(kernel: InstalledKernel, session: Session) -> dict[str, Any]:
    source = kernel.source
    prefix, problem = None, None
    try:
        spec = _declared(source, session)[2]
        prefix = session.store.prefix(spec.name)
    except ScriptNotFoundError:
        problem = "its script is gone"
    except CetoolError as error:
        problem = str(error)
    if problem is None and not os.access(kernel.argv[0], os.X_OK):
        problem = f"there is no {kernel.argv[0]} any more"
    return {
        "name": kernel.name,
        "display_name": kernel.display_name,
        "language": source.language,
        "directory": str(kernel.directory),
        "script": None if source.script is None else str(source.script),
        "specs": list(source.specs),
        "env_file": None if source.env_file is None else str(source.env_file),
        "prefix": None if prefix is None else str(prefix),
        "exists": prefix is not None
        and any(item.marker is not None for item in session.store.directories(prefix.name)),
        "problem": problem,
    }

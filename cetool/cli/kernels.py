"""``cetool kernel``: install Jupyter kernels whose environments are created when they first start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool.app import kernels
from cetool.app.kernels import ListedKernel
from cetool.base.errors import UsageError
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.cli.tables import Cell, Column, Items, short_path, show_table
from cetool.declare.source import is_url, read_script
from cetool.launch.kernels import KernelSource

LIST_SCHEMA = "cetool.kernel.list/1"
app = options.Commands("kernel", help="Install Jupyter kernels that run in environments.")

_Language = Annotated[str | None, option("--language", metavar="LANGUAGE", help="Run a kernel for python, r or bash.")]
_Prefix = Annotated[str | None, option("--prefix", metavar="DIR", help="Install for the Jupyter in this prefix.")]


@dataclass(frozen=True)
class InstallOptions(options.Output):
    """The options of ``cetool kernel install``."""

    name: Annotated[
        str | None, option("--name", metavar="NAME", help="Name the kernel.", show_default="the script's name")
    ] = None
    spec: options.Specs = None
    display_name: Annotated[str | None, option("--display-name", metavar="TEXT", help="Show this name in Jupyter.")] = (
        None
    )
    language: _Language = None
    extra: options.With = options.with_help("Add a package to the kernel's environment.")
    channel: options.Channels = None
    env_file: options.EnvFile = None
    create: Annotated[bool, option("--create", help="Create the environment now.")] = False
    force: Annotated[bool, option("--force", help="Replace a kernel that cetool did not write.")] = False
    prefix: _Prefix = None


@app.command("install")
@options.command
def install(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="SCRIPT", help="The script or notebook whose environment the kernel uses.", show_default=False
        ),
    ] = None,
    *,
    given: InstallOptions,
) -> None:
    """Install a kernel that runs in an environment.

    The environment is that of a script or notebook, or has the packages that `--spec` names. It is created when the
    kernel first starts.
    """
    world, voice = options.open_world(given)
    if target is not None and (target == "-" or is_url(target)):
        raise UsageError(
            "a kernel needs a script in a file, not a URL or standard input", hint="Save the script, and pass its path."
        )
    if target is not None and not os.path.exists(target):
        read_script(target)  # its error has the path as the user wrote it
    source = KernelSource(
        given.language or "",
        None if target is None else Path(os.path.abspath(target)),
        tuple(given.spec or ()),
        tuple(given.extra or ()),
        tuple(given.channel or ()),
        None if given.env_file is None else Path(os.path.abspath(given.env_file)),
    )
    wish = kernels.KernelWish(given.name, given.display_name, given.prefix, given.force, given.create)
    kernels.install(source, wish, world, voice)


@dataclass(frozen=True)
class ListKernelsOptions(options.Group):
    """The options of ``cetool kernel list``."""

    as_json: options.AsJson = False


@app.command("list")
@options.command
def list_kernels(*, given: ListKernelsOptions) -> None:
    """List the kernels that cetool installed."""
    world, voice = options.open_world(given)
    found = kernels.list_kernels(world)
    if given.as_json:
        print_json({"schema": LIST_SCHEMA, "kernels": list(map(_document, found))})
    elif not found:
        voice.say("No kernels installed by cetool")
    else:
        home = world.environ.get("HOME", "")
        columns = [Column("NAME", style="cyan"), Column("LANGUAGE", rank=2), Column("FOR")]
        columns += [Column("ENVIRONMENT", rank=1, least=15), Column("DIRECTORY", rank=3)]
        show_table(columns, [_cells(each, home) for each in found])


def _cells(listed: ListedKernel, home: str) -> tuple[Cell, ...]:
    kernel, source = listed.kernel, listed.kernel.source
    tops = ((os.getcwd(), ""), (home, "~/"))
    file = source.script or source.env_file
    return (
        kernel.name,
        source.language,
        Items((short_path(str(file), *tops),), (file.name,), paths=True) if file is not None else Items(source.specs),
        Items((listed.problem or ("exists" if listed.exists else "not created yet"),)),
        Items((short_path(str(kernel.directory), *tops),), paths=True),
    )


def _document(listed: ListedKernel) -> dict[str, object]:
    kernel, source = listed.kernel, listed.kernel.source
    return {
        "name": kernel.name,
        "display_name": kernel.display_name,
        "language": source.language,
        "directory": str(kernel.directory),
        "script": None if source.script is None else str(source.script),
        "specs": list(source.specs),
        "env_file": None if source.env_file is None else str(source.env_file),
        "prefix": None if listed.prefix is None else str(listed.prefix),
        "exists": listed.exists,
        "problem": listed.problem,
    }


@dataclass(frozen=True)
class RemoveOptions(options.Group):
    """The options of ``cetool kernel remove``."""

    quiet: options.Quiet = False


@app.command("remove")
@options.command
def remove(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", autocompletion=completing.kernels, help="The names of kernels.")
    ],
    *,
    given: RemoveOptions,
) -> None:
    """Remove kernels that cetool installed.

    Their environments stay until they have been unused for a while.
    """
    _, voice = options.open_world(given)
    kernels.remove(names, voice)


@dataclass(frozen=True)
class StartOptions(options.Group):
    """The options of ``cetool kernel start``."""

    connection_file: Annotated[
        str, option("--connection-file", metavar="FILE", help="Read this connection file of Jupyter.")
    ]
    script: Annotated[Path | None, option("--script", metavar="SCRIPT", help="Use the environment of this script.")] = (
        None
    )
    language: _Language = None
    spec: options.Specs = None
    extra: options.With = None
    channel: options.Channels = None
    env_file: options.EnvFile = None


@app.command("start", hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@options.command
def start(context: typer.Context, *, given: StartOptions) -> None:
    """Start a kernel for Jupyter.

    Kernel specs call this. Further arguments are passed to the kernel.
    """
    world, voice = options.open_world(given)
    source = KernelSource(
        given.language or "",
        given.script,
        tuple(given.spec or ()),
        tuple(given.extra or ()),
        tuple(given.channel or ()),
        given.env_file,
    )
    kernels.start(source, given.connection_file, context.args, world, voice)

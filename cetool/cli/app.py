"""cetool's command line: the commands, and what becomes of their errors."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cetool import __version__
from cetool.__main__ import COMMANDS
from cetool.cli import (
    baseline_commands,
    checking,
    collection,
    editing,
    environments,
    kernels,
    locking,
    overlay_use,
    reproducing,
    run,
    scripts,
    settings,
    tools,
    trusting,
)

#: Options that are cetool's own rather than those of ``run``.
_OWN_OPTIONS = ("--help", "--version", "--install-completion", "--show-completion")

app = typer.Typer(
    name="cetool",
    help="Run a script in the conda environment that it declares. `cetool SCRIPT` is short for `cetool run SCRIPT`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", cls=run.RunCommand, context_settings=run.CONTEXT)(run.run)
app.command("exec", context_settings=run.CONTEXT)(tools.execute)
app.command("rerun", context_settings=run.CONTEXT)(reproducing.rerun)
app.command("shell")(tools.shell)
app.command("create")(environments.create)
app.command("name")(environments.name)
app.command("path")(tools.path)
app.command("list")(environments.list_environments)
app.command("show")(scripts.show)
app.command("init")(editing.init)
app.command("add")(editing.add)
app.command("drop")(editing.drop)
app.command("remove-dep", hidden=True)(editing.drop)
app.command("convert")(editing.convert)
app.command("check")(checking.check)
app.command("lock")(locking.lock)
app.command("export")(reproducing.export)
app.command("gc")(collection.gc)
app.command("verify")(reproducing.verify)
app.command("remove")(environments.remove)
app.command("info")(scripts.info)
app.add_typer(trusting.app)
app.add_typer(kernels.app)
app.add_typer(settings.app)
app.add_typer(overlay_use.app)
app.add_typer(baseline_commands.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cetool {__version__}")
        raise typer.Exit


@app.callback()
def _cetool(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print cetool's version.")
    ] = False,
) -> None:
    """Run a script in the conda environment that it declares. `cetool SCRIPT` is short for `cetool run SCRIPT`."""


def with_command(arguments: list[str]) -> list[str]:
    """The arguments, ``run`` put in front where they begin with a script or with an option of ``run``.

    That is how the kernel calls a script whose shebang is ``#!/usr/bin/env cetool``, or ``-S cetool -v``.
    """
    if not arguments or arguments[0] in COMMANDS or arguments[0] == "-h":
        return arguments
    if arguments[0].partition("=")[0] in _OWN_OPTIONS:
        return arguments
    return ["run", *arguments]


def run_app(arguments: list[str]) -> int:
    """Obey a command line; its exit status. Raises CetoolError."""
    result = app(with_command(arguments), prog_name="cetool", standalone_mode=False)
    sys.stdout.flush()
    return result if isinstance(result, int) else 0

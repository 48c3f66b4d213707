"""Prints errors: a paragraph on standard error, JSON with ``--json``, and an exit status."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress

import typer

from cetool.base.errors import EXIT_USAGE, CetoolError, EngineError, Interrupted
from cetool.base.process import is_panic, panic_text
from cetool.base.urls import scrub
from cetool.cli.output import print_json, print_tree, printable_lines, write_error
from cetool.cli.usage import is_clicks, shown_page, usage_error

#: Set to see where in cetool an error comes from.
TRACEBACK = "CETOOL_TRACEBACK"
SCHEMA = "cetool.error/1"


def tell(error: BaseException) -> int:
    """Print an error and return its exit status."""
    if os.environ.get(TRACEBACK):
        _print("".join(traceback.format_exception(error)).rstrip("\n"))
    if isinstance(error, Interrupted):
        return error.exit_status
    if isinstance(error, typer.Abort):
        return 128 + signal.SIGINT
    if (context := shown_page(error)) is not None:
        from cetool.cli.help import render  # few command lines ask for help
        from cetool.cli.pages import page_of

        write_error(render(page_of(context.command, context), sys.stderr) + "\n")
        return EXIT_USAGE
    known = as_cetool_error(error)
    foreign = _is_foreign(error)
    _print(f"cetool: {known}", foreign=foreign)
    if known.details:
        print_tree([scrub(line) if foreign else line for line in known.details])
    lines = [*filter(None, [known.hint])]
    if known.log and os.path.exists(known.log):
        lines.append(f"The engine's log is {known.log}")
    if lines:
        _print("\n".join(lines), foreign=foreign)
    return known.exit_status


def tell_as_json(error: BaseException) -> None:
    """Print an error as JSON (docs/reference/json.md) on standard output, except for a signal or a refusal."""
    if isinstance(error, (Interrupted, typer.Abort, typer.Exit)) or not isinstance(error, Exception):
        return
    found = as_cetool_error(error).as_json()
    if _is_foreign(error):
        found = {name: _scrubbed(value) for name, value in found.items()}
    with suppress(OSError):  # the error is what is to be reported
        print_json({"schema": SCHEMA, "error": found})


def _scrubbed(value: object) -> object:
    if isinstance(value, list):
        return [_scrubbed(item) for item in value]
    return scrub(value) if isinstance(value, str) else value


def as_cetool_error(error: BaseException) -> CetoolError:
    """Turn any exception into the error to print; an unexpected one is a defect."""
    if isinstance(error, CetoolError):
        return error
    if is_clicks(error):
        return usage_error(error)
    reason = f"{type(error).__name__}: {error}"
    if is_panic(error):
        return CetoolError(
            f"py-rattler stopped because of a defect: {panic_text(error)}",
            code="defect",
            hint="Please report it to cetool with the output of `cetool info`.",
        )
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_directory():
        return CetoolError("the working directory was deleted", hint="Change to a directory that exists.")
    if isinstance(error, OSError):
        return CetoolError(f"{error.strerror or reason}" + (f": {error.filename}" if error.filename else ""))
    return CetoolError(
        f"this is a defect in cetool: {reason}",
        code="defect",
        hint=f"Please report it with the output of `cetool info` and of the same command with {TRACEBACK}=1.",
    )


def _is_foreign(error: BaseException) -> bool:
    """Return whether an error has text from programs or libraries."""
    return isinstance(error, EngineError) or not isinstance(error, CetoolError)


def _has_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _print(text: str, *, foreign: bool = True) -> None:
    """Print a paragraph; ``foreign`` text comes from programs or libraries and may have secrets."""
    write_error(printable_lines(scrub(text) if foreign else text) + "\n")

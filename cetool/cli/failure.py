"""What becomes of an error: one paragraph on standard error, and an exit status."""

from __future__ import annotations

import os
import signal
import traceback

import typer

from cetool.base.errors import EXIT_FAILURE, CetoolError, EngineError, Interrupted
from cetool.base.panics import is_panic, panic_text
from cetool.base.urls import scrub
from cetool.cli.output import write_error
from cetool.cli.progress import printable_lines

#: Set to see where in cetool an error comes from.
TRACEBACK = "CETOOL_TRACEBACK"


def tell(error: BaseException) -> int:
    """Print what went wrong, and return the exit status that says so."""
    if os.environ.get(TRACEBACK):
        _print("".join(traceback.format_exception(error)).rstrip("\n"))
    if isinstance(error, Interrupted):
        return error.exit_status
    if isinstance(error, typer.Abort):
        return 128 + signal.SIGINT
    if isinstance(error, CetoolError):
        _print(_paragraph(error), foreign=isinstance(error, EngineError))
        return error.exit_status
    show = getattr(error, "show", None)
    if show is not None and isinstance(getattr(error, "exit_code", None), int):  # click's: the command line is wrong
        told = error.format_message  # type: ignore[attr-defined]
        error.format_message = lambda: printable_lines(told())  # type: ignore[attr-defined]
        show()
        return int(error.exit_code)  # type: ignore[attr-defined]
    reason = f"{type(error).__name__}: {error}"
    if is_panic(error):
        _print(
            f"cetool: py-rattler stopped because of a defect: {panic_text(error)}\n"
            "Please report it to cetool, with the output of `cetool info`."
        )
    elif isinstance(error, FileNotFoundError) and error.filename is None and not _has_directory():
        _print("cetool: the working directory was deleted\nChange to a directory that exists.")
        return EXIT_FAILURE
    elif isinstance(error, OSError):
        _print(f"cetool: {error.strerror or reason}" + (f": {error.filename}" if error.filename else ""))
    else:
        _print(
            f"cetool: this is a defect of cetool's: {reason}\n"
            f"Please report it, with what {TRACEBACK}=1 prints and with the output of `cetool info`."
        )
    return EXIT_FAILURE


def _has_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _paragraph(error: CetoolError) -> str:
    lines = [f"cetool: {error}"]
    if error.hint:
        lines.append(error.hint)
    if isinstance(error, EngineError) and error.log and os.path.exists(error.log):
        lines.append(f"All that was printed is in {error.log}")
    return "\n".join(lines)


def _print(text: str, *, foreign: bool = True) -> None:
    """Print a paragraph; if it is ``foreign``, programs and libraries have words in it."""
    write_error(printable_lines(scrub(text) if foreign else text) + "\n")

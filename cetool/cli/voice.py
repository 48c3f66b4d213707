"""Report to the user on standard error, as much as the verbosity allows, and ask questions."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from cetool.app.reporting import plain
from cetool.app.world import World, load_world
from cetool.base.errors import CetoolError
from cetool.base.text import neutral
from cetool.base.urls import scrub
from cetool.cli.output import Output, can_redraw, printable_lines, write, write_error
from cetool.settings.settings import ignored_variable

if TYPE_CHECKING:
    from cetool.cli.progress import CreationProgress

_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
#: Bytes that are read of an answer.
_MOST_TYPED = 4096


def start(options: Mapping[str, object] | None = None) -> tuple[World, Voice]:
    """Return the world with these options, and the voice that reports in it."""
    world = load_world(options, own_process=True)
    voice = Voice(world.settings.verbosity, world.environ)
    for variable in world.loaded.unknown:
        voice.warn(ignored_variable(variable))
    return world, voice


class Voice:
    """Prints on standard error by verbosity: ``quiet``, ``normal`` or ``verbose``.

    Only ``output`` raises. To a stream that is closed, broken or None nothing is printed.
    """

    def __init__(self, verbosity: str, environ: Mapping[str, str], stream: TextIO | None = None) -> None:
        self.verbosity = verbosity
        self._out = Output(sys.stderr if stream is None else stream)
        live = verbosity != "quiet" and self._out.terminal and can_redraw(environ)
        self._live = environ if live else None

    def say(self, text: str) -> None:
        """Confirm what was done, unless quiet, whether or not a terminal shows it."""
        if self.verbosity != "quiet":
            self._out.line(plain(text))

    def detail(self, text: str) -> None:
        """Print a line with ``-v``."""
        if self.verbosity == "verbose":
            self._out.line(plain(text))

    def block(self, text: str) -> None:
        """Print lines unchanged with ``-v``."""
        if self.verbosity == "verbose":
            self._out.line(printable_lines(text))

    def warn(self, text: str) -> None:
        """Warn, unless quiet."""
        if self.verbosity != "quiet":
            self._out.line(f"cetool: warning: {scrub(plain(text))}")

    def fail(self, error: CetoolError) -> None:
        """Print an error as the one that ends cetool is printed."""
        from cetool.cli.failure import tell  # it brings Typer, which few errors need

        tell(error)

    def output(self, text: str, *, error: bool = False, colours: bool = True) -> None:
        """Write what a script printed to the standard stream that it belongs to. Raises OSError."""
        stream = sys.stderr if error else sys.stdout
        if stream is None:
            return
        write(text if colours or stream.isatty() else _COLOURS.sub("", text), error=error)
        stream.flush()

    @contextmanager
    def progress(self) -> Iterator[CreationProgress]:
        """Show how far long work is for as long as the context lasts, and leave no trace on the terminal."""
        from cetool.cli.progress import CreationProgress  # only long work needs it

        creation = CreationProgress(self.detail, self._out, self._live, lines=self.verbosity == "verbose")
        try:
            creation.begin()
            yield creation
        finally:
            creation.end()

    # --- the question -----------------------------------------------------------------------------------------------

    def can_ask(self) -> bool:
        """Return whether a user can see a question and answer it."""
        keyboard = _keyboard()
        if keyboard:  # 0 is standard input
            os.close(keyboard)
        return keyboard is not None

    def ask(self, lines: Sequence[str]) -> bool:
        """Ask on standard error, even with ``-q``. Input after the answer's line is left unread.

        Ctrl-C and the end of the input mean no.
        """
        typed = b""
        try:
            keyboard = _keyboard()
            write(neutral("".join(f"{line}\n" for line in lines)) + "Run it? [y/N] ", error=True)
            # a terminal hands out one line at a time, so the rest stays the script's
            while keyboard is not None and b"\n" not in typed and len(typed) < _MOST_TYPED:
                part = os.read(keyboard, 1024)
                if not part:
                    break
                typed += part
        except (KeyboardInterrupt, OSError, ValueError):
            typed = b""
        if b"\n" not in typed:
            write_error("\n")
            return False
        return typed.strip().lower() in (b"y", b"yes")


def _keyboard() -> int | None:
    """Return a descriptor to read an answer from; None if there is no terminal to ask on.

    The user has to see the question, so standard error must be a terminal. If standard input is a pipe, it belongs to
    the script, and the answer is read from the terminal itself.
    """
    try:
        if sys.stderr is None or not sys.stderr.isatty():
            return None
        if os.isatty(0):
            return 0
        return os.open("CONIN$" if os.name == "nt" else "/dev/tty", os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError):
        return None

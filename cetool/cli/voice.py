"""The command line as a reporter: sentences on standard error, as many as were asked for, and the question."""

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
    """The world with these options, and what speaks in it."""
    world = load_world(options, own_process=True)
    voice = Voice(world.settings.verbosity, world.environ)
    for variable in world.loaded.unknown:
        voice.warn(ignored_variable(variable))
    return world, voice


class Voice:
    """What is said on standard error, by verbosity: ``quiet``, ``normal`` or ``verbose``.

    Nothing is ever raised because it cannot be said: to a stream that is closed, broken or None nothing is.
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
        """Say what only ``-v`` asks for."""
        if self.verbosity == "verbose":
            self._out.line(plain(text))

    def block(self, text: str) -> None:
        """Say lines that only ``-v`` asks for, their form kept."""
        if self.verbosity == "verbose":
            self._out.line(printable_lines(text))

    def warn(self, text: str) -> None:
        """Warn, unless quiet."""
        if self.verbosity != "quiet":
            self._out.line(f"cetool: warning: {scrub(plain(text))}")

    def fail(self, error: CetoolError) -> None:
        """Report an error, as that which ends cetool is reported."""
        from cetool.cli.failure import tell  # it brings Typer, which few errors need

        tell(error)

    def output(self, text: str, *, error: bool = False, colours: bool = True) -> None:
        """Write what a script printed to the standard stream that it is for. Raises OSError."""
        stream = sys.stderr if error else sys.stdout
        if stream is None:
            return
        write(text if colours or stream.isatty() else _COLOURS.sub("", text), error=error)
        stream.flush()

    @contextmanager
    def progress(self) -> Iterator[CreationProgress]:
        """Show how an environment is made, for as long as the context lasts; no trace of a live display stays."""
        from cetool.cli.progress import CreationProgress  # only for what is made

        creation = CreationProgress(self.detail, self._out, self._live, lines=self.verbosity == "verbose")
        try:
            creation.begin()
            yield creation
        finally:
            creation.end()

    # --- the question -----------------------------------------------------------------------------------------------

    def can_ask(self) -> bool:
        """Whether a person sees a question and can answer it."""
        keyboard = _keyboard()
        if keyboard:  # 0 is standard input
            os.close(keyboard)
        return keyboard is not None

    def ask(self, lines: Sequence[str]) -> bool:
        """Ask, on standard error however quiet the rest is to be. What follows the line that is typed is left unread.

        Nothing but a yes is one: not Ctrl-C, not the end of the input.
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
    """A descriptor to read an answer from, None where nobody can be asked.

    The question has to be seen, so standard error is a terminal. Standard input may be piped and is then the script's:
    the terminal itself is read.
    """
    try:
        if sys.stderr is None or not sys.stderr.isatty():
            return None
        if os.isatty(0):
            return 0
        return os.open("CONIN$" if os.name == "nt" else "/dev/tty", os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError):
        return None

"""The way to standard output and standard error: nothing in cetool prints but by this module and its Voice.

What is written for people passes :func:`~cetool.base.text.neutral`, so that a terminal obeys no text from a script, a
channel or a file, and :func:`~cetool.base.urls.redact`. What programs read (:func:`print_data`) is exact wherever no
terminal shows it.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TextIO

from cetool.base.text import json_escaped, neutral, without_controls
from cetool.base.urls import cleaned, redact

_ERASE_LINE = "\r\x1b[K"
#: How a tree is drawn where the stream has no characters for it.
_ASCII = str.maketrans("├└│─", "|`|-")
#: What stands out in a solver's tree, as rich's styles. Later ones win.
_TREE_STYLES = (
    (r"(?<=─ )[\w.\-]+", "bold"),
    (r"(?<=[\s(])(?:[=<>!~]+ ?[\w.*+!\-]+|v?\d[\w.*+!\-]*)", "cyan"),
    (r"(?:cannot|could not) be installed|not installable|conflicts? with|in versions that conflict", "red"),
    (
        r"no candidates were found|does not exist|nothing provides|incompatible|unsatisfiable|none of the providers",
        "red",
    ),
    (r"^[ │├└─]+", "dim"),
)


def print_json(document: dict[str, object]) -> None:
    """Print a document on standard output; its first key is ``schema``, as docs/reference/json.md describes it."""
    text = json.dumps(cleaned(document, redact), indent=2, ensure_ascii=False)
    write(json_escaped(text) + "\n")


def print_line(text: str = "", *, error: bool = False) -> None:
    """Print a line of facts on standard output, or on standard error, without credentials."""
    write(neutral(redact(text)) + "\n", error=error)


def print_data(text: str) -> None:
    """Print what a program reads: a path, code for a shell, the text of a file. On a terminal it is made neutral."""
    write(neutral(redact(text)) if is_terminal() else text)


def print_tree(lines: Sequence[str]) -> None:
    """Print the lines of a solver's tree on standard error, with colours where a terminal shows them."""
    text = "".join(f"  {printable_lines(line)}\n" for line in lines)
    if not (getattr(sys.stderr, "encoding", None) or "utf").lower().startswith("utf"):
        text = text.translate(_ASCII)
    elif is_terminal(sys.stderr):
        from rich.console import Console
        from rich.text import Text

        console = Console(file=sys.stderr)
        tree = Text()
        for line in text.splitlines(keepends=True):
            row = Text(line)
            for expression, style in _TREE_STYLES:
                row.highlight_regex(expression, style)
            tree.append_text(row)
        with console.capture() as captured:
            console.print(tree, end="", soft_wrap=True)
        text = captured.get()
    write_error(text)


def write(text: str, *, error: bool = False) -> None:
    """Write to standard output, or standard error, what has been made fit for it. Raises OSError.

    Characters that the stream has no code for become escapes; the bytes of a file's name stay what they are.
    """
    stream: TextIO | None = sys.stderr if error else sys.stdout
    if stream is None or not text:
        return
    encoding = stream.encoding or "utf-8"
    try:
        data = text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode(encoding, "backslashreplace")
    stream.flush()
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(data.decode(encoding, "replace"))
    else:
        buffer.write(data.replace(b"\n", os.linesep.encode()) if os.linesep != "\n" else data)
    if error:
        stream.flush()


def write_error(text: str) -> None:
    """Write to standard error if anything there takes it: nothing is raised because it cannot be said."""
    with suppress(OSError, ValueError, AttributeError):
        write(text, error=True)


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a stream is a terminal: standard output if none is given."""
    stream = sys.stdout if stream is None else stream
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def printable_lines(text: str) -> str:
    """The text, its lines and blanks kept, without what a terminal would obey and without credentials."""
    return "\n".join(redact(without_controls(line)) for line in text.split("\n"))


def can_redraw(environ: Mapping[str, str]) -> bool:
    """Whether a terminal takes back what it shows: one that is dumb does not, and the log of a CI run keeps it all."""
    if environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    return environ.get("TERM", "" if os.name == "nt" else "dumb") not in ("dumb", "unknown")


class Output:
    """A stream: whole lines, and below them at most one that is drawn again and again."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.lock = threading.RLock()
        self.terminal = False
        self._descriptor: int | None = None
        self._drawn = False
        with suppress(OSError, ValueError, AttributeError):
            if stream is not None:
                self.terminal = stream.isatty()
                number = stream.fileno() if os.name == "posix" else None
                # should there be no copy, writing to it fails and leaves nothing in the stream's buffer
                self._descriptor = number
                # one of its own: while an engine works in this process, standard error leads to its log
                self._descriptor = None if number is None else os.dup(number)

    @property
    def width(self) -> int:
        """Columns of the terminal now."""
        try:
            return os.get_terminal_size(2 if self._descriptor is None else self._descriptor).columns or 80
        except (OSError, ValueError):
            return 80

    @property
    def foreground(self) -> bool:
        """Whether the terminal is this job's to draw on; a shell in front of it draws its own lines."""
        if self._descriptor is None:
            return True
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:  # not the terminal that governs us: no job control
            return True

    def line(self, text: str) -> None:
        """Write a line, above the drawn one."""
        with self.lock:
            self._write(self._erasure() + neutral(text) + "\n")

    def draw(self, text: str) -> None:
        """Put ``text``, which fits into a line, in the place of what was drawn last."""
        with self.lock:
            if self.foreground:
                self._drawn = True
                self._write(_ERASE_LINE + text)

    def erase(self) -> None:
        """Leave nothing of what was drawn."""
        with self.lock:
            self._write(self._erasure())

    def _erasure(self) -> str:
        drawn, self._drawn = self._drawn, False
        return _ERASE_LINE if drawn and self.foreground else ""

    def _write(self, text: str) -> None:
        """Write past the stream's buffer: what stays there after an error makes Python exit with 120."""
        stream = self.stream
        if stream is None or not text:
            return
        try:
            encoding = stream.encoding or "utf-8"
            data = text.encode(encoding, "backslashreplace")
            stream.flush()
            if self._descriptor is None:
                stream.write(data.decode(encoding))
                stream.flush()
                return
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # some program before us has left the terminal so; give it a moment, not more
                    if not select.select([], [self._descriptor], [], 1.0)[1]:
                        return
        except (OSError, ValueError):
            self.stream = None

"""How use cases report what they do: through a reporter, since nothing in ``app`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from cetool.base.errors import CetoolError
from cetool.base.text import counted, neutral_line, pattern, without_controls
from cetool.base.urls import redact
from cetool.engines.protocol import Progress, SilentProgress

#: First characters of texts that YAML reads unquoted in a flow sequence.
_PLAIN_FIRST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/."
_NOT_PLAIN = ",[]{}#:\"'"
#: Characters of a line; more is not read.
_MAX_LINE = 4000
_BREAKS = pattern(r"[\t\n\v\f\r\x85\u2028\u2029]+")


class CreationProgress(Progress, Protocol):
    """The progress of long work: an environment, which another process may be creating, or anything that is counted."""

    def wait(self, holder: str) -> None:
        """Another process creates the environment; ``holder`` says which, and may be empty."""

    def count(self, done: int, total: int, unit: str) -> None:
        """So many of ``total`` things are done; ``unit`` is the noun for one of them."""


class Reporter(Protocol):
    """What a use case reports to. A closed or broken stream is no error: no method but ``output`` raises."""

    @property
    def verbosity(self) -> str:
        """``quiet``, ``normal`` or ``verbose``."""

    def say(self, text: str) -> None:
        """Confirm what was done, in one line, unless ``quiet``: on a terminal, in a pipe, under cron."""

    def detail(self, text: str) -> None:
        """Say what only ``verbose`` asks for."""

    def block(self, text: str) -> None:
        """Say lines that only ``verbose`` asks for, their form kept."""

    def warn(self, text: str) -> None:
        """Warn, unless ``quiet``."""

    def fail(self, error: CetoolError) -> None:
        """Report an error that does not end what is going on."""

    def output(self, text: str, *, error: bool = False, colours: bool = True) -> None:
        """Print what a script printed. Raises OSError when the reader has closed the stream.

        Without ``colours``, escape sequences are removed unless a terminal shows them.
        """

    def progress(self) -> AbstractContextManager[CreationProgress]:
        """Show how far long work is, for as long as the context lasts; short work shows nothing."""

    def can_ask(self) -> bool:
        """Return whether a user can see a question and answer it."""

    def ask(self, lines: Sequence[str]) -> bool:
        """Show ``lines`` about a script and ask whether it may run; everything but a clear yes means no."""


class _SilentCreation(SilentProgress):
    def wait(self, holder: str) -> None:
        """Say nothing."""

    def count(self, done: int, total: int, unit: str) -> None:
        """Say nothing."""


class SilentReporter:
    """A reporter that prints nothing and refuses every question."""

    verbosity = "quiet"

    def say(self, text: str) -> None:
        """Say nothing."""

    detail = block = warn = say

    def fail(self, error: CetoolError) -> None:
        """Say nothing."""

    def output(self, text: str, *, error: bool = False, colours: bool = True) -> None:
        """Print nothing."""

    def progress(self) -> AbstractContextManager[CreationProgress]:
        """Progress that is not shown."""
        return nullcontext(_SilentCreation())

    def can_ask(self) -> bool:
        """Return False: there is no terminal."""
        return False

    def ask(self, lines: Sequence[str]) -> bool:
        """Return False."""
        return False


def plain(text: str) -> str:
    """Return the text as one line without control characters and without the credentials in URLs."""
    line = text[: 2 * _MAX_LINE]
    if not (line.isascii() and line.isprintable()):
        line = without_controls(_BREAKS.sub(" ", line))
    if len(text) > 2 * _MAX_LINE or len(line) > _MAX_LINE:
        # whole words only: in half a URL credentials are not found
        line = line[:_MAX_LINE].rpartition(" ")[0] + " ..."
    return redact(line).strip()


def flow(items: Sequence[str]) -> str:
    """Return a list as a YAML flow sequence: ``[python >=3, numpy]``."""
    return f"[{', '.join(redact(_scalar(neutral_line(item))) for item in items)}]"


def _scalar(text: str) -> str:
    plain = text[:1] in _PLAIN_FIRST and text.strip() == text and not any(char in _NOT_PLAIN for char in text)
    return text if text and plain else "'" + text.replace("'", "''") + "'"


def shorten(names: Sequence[str], most: int) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def named_or_counted(names: Sequence[str], noun: str) -> str:
    """Return what a confirmation calls things: the name of a single one, else ``3 environments``."""
    return names[0] if len(names) == 1 else counted(len(names), noun)


def counting(items: Sequence[str], unit: str, progress: CreationProgress) -> Iterator[str]:
    """Yield the items, and report how many of them are done."""
    for number, item in enumerate(items):
        if len(items) > 1:
            progress.count(number, len(items), unit)
        yield item


def for_each(items: Iterable[str], act: Callable[[str], None], reporter: Reporter) -> None:
    """Do something with each item, even after one has failed. Raises the last error, and warns of those before."""
    failed: list[CetoolError] = []
    for item in items:
        try:
            act(item)
        except CetoolError as error:
            failed.append(error)
    for earlier in failed[:-1]:
        reporter.warn(str(earlier))
    if failed:
        raise failed[-1]

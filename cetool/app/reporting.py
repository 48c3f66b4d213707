"""What a use case says while it works, and to whom: nothing in ``app`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from cetool.base.errors import CetoolError
from cetool.base.text import neutral_line, pattern, without_controls
from cetool.base.urls import redact
from cetool.engines.protocol import Progress, SilentProgress

#: What YAML reads as it is in a list of one line; everything else is quoted.
_PLAIN_FIRST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/."
_NOT_PLAIN = ",[]{}#:\"'"
#: Characters of a line; more is not read.
_MAX_LINE = 4000
_BREAKS = pattern(r"[\t\n\v\f\r\x85\u2028\u2029]+")


class CreationProgress(Progress, Protocol):
    """The progress of one environment, which another process may be making."""

    def wait(self, holder: str) -> None:
        """Another process makes the environment; ``holder`` says which, and may be empty."""


class Reporter(Protocol):
    """Where a use case says what it does. No method raises because it cannot be said."""

    @property
    def verbosity(self) -> str:
        """``quiet``, ``normal`` or ``verbose``."""

    def say(self, text: str) -> None:
        """Say what was done: to a person who watches."""

    def detail(self, text: str) -> None:
        """Say what only ``verbose`` asks for."""

    def result(self, text: str) -> None:
        """Say what a command was called for, unless ``quiet``."""

    def block(self, text: str) -> None:
        """Say lines that only ``verbose`` asks for, their form kept."""

    def warn(self, text: str) -> None:
        """Warn, unless ``quiet``."""

    def fail(self, error: CetoolError) -> None:
        """Report an error that does not end what is going on."""

    def output(self, text: str, *, error: bool = False, colours: bool = True) -> None:
        """Hand on what a script printed. Raises OSError where no program reads it any more.

        Without ``colours``, escape sequences go where no terminal shows them.
        """

    def progress(self) -> AbstractContextManager[CreationProgress]:
        """The progress of an environment, shown for as long as the context lasts."""

    def can_ask(self) -> bool:
        """Whether there is a person who can be asked."""

    def ask(self, lines: Sequence[str]) -> bool:
        """Ask whether a script may run of which ``lines`` tell all; only a yes is one."""


class _SilentCreation(SilentProgress):
    def wait(self, holder: str) -> None:
        """Say nothing."""


class SilentReporter:
    """A reporter that says nothing, and that nobody can be asked through."""

    verbosity = "quiet"

    def say(self, text: str) -> None:
        """Say nothing."""

    detail = result = block = warn = say

    def fail(self, error: CetoolError) -> None:
        """Say nothing."""

    def output(self, text: str, *, error: bool = False, colours: bool = True) -> None:
        """Print nothing."""

    def progress(self) -> AbstractContextManager[CreationProgress]:
        """Progress that is not shown."""
        return nullcontext(_SilentCreation())

    def can_ask(self) -> bool:
        """There is no person to ask."""
        return False

    def ask(self, lines: Sequence[str]) -> bool:
        """There is no yes."""
        return False


def plain(text: str) -> str:
    """The text as one line that a terminal shows and does not obey, without the credentials of URLs."""
    line = text[: 2 * _MAX_LINE]
    if not (line.isascii() and line.isprintable()):
        line = without_controls(_BREAKS.sub(" ", line))
    if len(text) > 2 * _MAX_LINE or len(line) > _MAX_LINE:
        # whole words only: in half a URL credentials are not found
        line = line[:_MAX_LINE].rpartition(" ")[0] + " ..."
    return redact(line).strip()


def flow(items: Sequence[str]) -> str:
    """A list as YAML writes it in one line: ``[python >=3, numpy]``."""
    return f"[{', '.join(redact(_scalar(neutral_line(item))) for item in items)}]"


def _scalar(text: str) -> str:
    plain = text[:1] in _PLAIN_FIRST and text.strip() == text and not any(char in _NOT_PLAIN for char in text)
    return text if text and plain else "'" + text.replace("'", "''") + "'"


def shorten(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    told = ", ".join(names[:most])
    return told + (f", and {len(names) - most} more" if len(names) > most else "")


def for_each(items: Iterable[str], act: Callable[[str], None], reporter: Reporter) -> None:
    """Do something with each, whatever comes of others. Raises the last error, and warns of those before."""
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

"""The one way to a consent: what is the user's own passes, about a script from a URL the user is asked, once for each
content, and the answer is remembered by its SHA-256.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cetool.app.decision import Decision, decision_of, shown_line, wrapped
from cetool.app.session import Session
from cetool.app.sources import Foreign, Origin
from cetool.base.durations import format_size
from cetool.base.errors import CetoolError, StoreError
from cetool.base.process import Consent, issue
from cetool.base.text import neutral
from cetool.cli.output import write, write_error
from cetool.settings.paths import trust_directory
from cetool.settings.settings import BUILT_IN
from cetool.store.trust import Trusted, TrustStore

#: Characters of a question that a person may be expected to read.
_MOST_SHOWN = 64 * 1024
_MOST_TYPED = 4096


def consent_to(foreign: Sequence[Foreign], session: Session) -> Consent:
    """See that the user agrees to what each of these scripts does here, before anything of it is executed or fetched.

    That holds for what a declaration has executed as well: packages' link scripts, builds of PyPI packages, the
    interpreter of a base. An answer is remembered for the content and the places of this machine that the declaration
    leads to; a copy of what may run is kept for ``--offline``.

    Raises CetoolError where the answer is no, or there is no terminal to ask on.
    """
    how = "own"
    for each in foreign:
        if each.agreed is None:
            each.agreed = _agreed(each, session)
            each.origin.keep(session)
        how = each.agreed
    return issue(how)


def trust_store(session: Session) -> TrustStore:
    """Where answers are kept. Raises StoreError where the machine says nowhere where that could be."""
    directory = trust_directory(session.environ)
    if directory is None:
        raise StoreError(
            "there is no place to keep which scripts you agreed to run: HOME is not set",
            code="home-missing",
            hint="Set HOME, or CETOOL_DATA_DIR to the absolute path of a directory that is yours.",
        )
    return TrustStore(directory)


def _agreed(foreign: Foreign, session: Session) -> str:
    """How the user agreed to one script. Raises CetoolError where it is no."""
    decision = decision_of(foreign, session)
    digest, store = foreign.source.sha256, _store(session)
    known = _find(store, digest, session)
    if known is not None and known.covers(decision.places, embedded_lock=decision.lock is not None):
        return "before"
    how = _how(_Question(foreign, digest, decision, known), store, session)
    if how in ("always", "unasked"):  # nobody has looked at this one
        return how
    before = () if known is None else known.places
    places = tuple(sorted({*before, *decision.places}))
    _remember(store, Trusted(digest, foreign.origin.asked.shown, time.time(), how, places), session)
    return how


@dataclass(frozen=True)
class _Question:
    """All that is shown of a script before it may run."""

    foreign: Foreign
    digest: str
    decision: Decision
    known: Trusted | None

    @property
    def origin(self) -> Origin:
        """Where the script came from."""
        return self.foreign.origin

    def lines(self, last: Trusted | None) -> list[str]:
        """The facts, as lines that a terminal can show; ``last`` is the newest answer for this URL."""
        url, data = self.origin.copy.url, self.foreign.source.data or b""
        rows = [("from", url)]
        if self.origin.asked.shown != url:
            rows.append(("by way of", self.origin.asked.shown))
        size = f"{format_size(len(data))}, {len(data.splitlines())} lines"
        rows += [("sha256", self.digest), ("size", size), *self.decision.rows]
        lines = [line for name, value in rows for line in wrapped(name, value)]
        if self.known is not None:
            new = [place for place in self.decision.places if place not in self.known.places]
            lines.append("You agreed to it before, but not to its use of these directories of this machine:")
            lines += [f"  {shown_line(place)}" for place in new]
        elif last is not None:
            day = _day(last.date)
            lines.append(f"It has changed since you agreed to what was there on {day} (sha256 {last.sha256}).")
        return lines


def _how(question: _Question, store: TrustStore | None, session: Session) -> str:
    """How the user agreed. Raises CetoolError where it is no."""
    if question.origin.pinned:
        return "--sha256"
    setting = session.loaded.origins["trust"]
    if setting.value == "always":
        return "--yes" if setting.source == "--yes" else "always"
    where = question.origin.asked.where
    lines = question.lines(None if store is None else _last(store, question.origin.asked.shown))
    keyboard = None if setting.value == "never" else _keyboard()
    if keyboard is None and question.foreign.unasked and setting.source == BUILT_IN:
        session.voice.warn(
            f"{question.origin.copy.url} (sha256 {question.digest}) runs without a question, as conda-execute had it: "
            "nobody can be asked (CETOOL_TRUST=ask refuses that)"
        )
        return "unasked"
    pin = f"Read it; then put --sha256 {question.digest}"
    if sum(map(len, lines)) > _MOST_SHOWN:
        raise CetoolError(
            f"the script declares more than a question can show ({sum(map(len, lines))} characters)",
            code="consent-refused",
            where=where,
            hint=f"{pin} before its URL, or save it and give its path.",
        )
    if keyboard is None:
        if setting.value == "never":
            why, way_out = f"trust is never ({setting.source})", f"{pin} before its URL, or save it and give its path."
        else:
            why, way_out = "it is new here, and nobody can be asked about it", f"{pin} before its URL, or --yes."
        raise CetoolError(
            f"this script from elsewhere was not run: {why}",
            code="consent-refused",
            where=where,
            hint="\n".join([*lines, way_out]),
        )
    if not _agrees(keyboard, ["cetool: this script comes from elsewhere, and would run with your rights:", *lines]):
        raise CetoolError("the script was not run: you did not agree", code="consent-refused", where=where)
    return "asked"


def _day(date: float) -> str:
    from datetime import datetime

    try:
        return datetime.fromtimestamp(date).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return "an unknown day"


# --- the answer -----------------------------------------------------------------------------------------------------


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


def _agrees(keyboard: int, lines: list[str]) -> bool:
    """Ask, on standard error however quiet the rest is to be. What follows the line that is typed is left unread.

    Nothing but a yes is one: not Ctrl-C, not the end of the input.
    """
    typed = b""
    try:
        write(neutral("".join(f"{line}\n" for line in lines)) + "Run it? [y/N] ", error=True)
        # a terminal hands out one line at a time, so the rest stays the script's
        while b"\n" not in typed and len(typed) < _MOST_TYPED:
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


# --- what is remembered ---------------------------------------------------------------------------------------------


def _store(session: Session) -> TrustStore | None:
    try:
        return trust_store(session)
    except StoreError as error:
        session.voice.detail(str(error))
        return None


def _find(store: TrustStore | None, digest: str, session: Session) -> Trusted | None:
    if store is None:
        return None
    try:
        return store.find(digest)
    except StoreError as error:
        session.voice.warn(f"{error}; so no answer that is kept there counts")
        return None


def _last(store: TrustStore, url: str) -> Trusted | None:
    try:
        return store.last_from(url)
    except StoreError:
        return None


def _remember(store: TrustStore | None, agreed: Trusted, session: Session) -> None:
    try:
        (store or trust_store(session)).add(agreed)
    except StoreError as error:
        session.voice.warn(f"that you agreed to this script cannot be remembered: {error}")

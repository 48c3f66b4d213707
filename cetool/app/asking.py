"""Ask whether a script from a URL may run: once for each content, remembered by its SHA-256."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime

from cetool.app.decision import Subject
from cetool.app.fetching import Remote
from cetool.app.question import Question, question_of, shown_line, wrapped
from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.durations import format_size
from cetool.base.errors import CetoolError, StoreError, UsageError
from cetool.base.process import Consent, issue
from cetool.base.text import counted, printable
from cetool.base.urls import strip_credentials
from cetool.declare.source import is_url
from cetool.fetch.scripts import locate_script
from cetool.settings.paths import trust_directory
from cetool.settings.settings import BUILT_IN
from cetool.store.keyed import Trusted, TrustStore

#: Characters of a question that a user can be expected to read.
_MOST_SHOWN = 64 * 1024
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-fA-F]{6,64})\Z")


def ask_about(subject: Subject, remote: Remote, world: World, reporter: Reporter) -> Consent:
    """Get the user's consent to a script before anything of it is executed or fetched.

    The question also covers what the declaration makes cetool execute: packages' link scripts, builds of PyPI packages,
    the interpreter of a base. An answer is remembered for the content and for the directories of this machine that the
    declaration refers to. A copy of the script is kept for ``--offline``.

    Raises CetoolError if the answer is no, or if there is no terminal to ask on.
    """
    how = _agreed(subject, remote, world, reporter)
    remote.keep(world, reporter)
    return issue(how)


def _agreed(subject: Subject, remote: Remote, world: World, reporter: Reporter) -> str:
    """Return how the user agreed. Raises CetoolError if they did not."""
    question = question_of(subject, world)
    digest, store = subject.source.sha256, _store(world, reporter)
    known = _find(store, digest, reporter)
    if known is not None and known.covers(question.places, embedded_lock=question.lock is not None):
        return "before"
    how = _how(_Asked(subject, remote, digest, question, known), store, world, reporter)
    if how in ("always", "unasked"):  # no user has seen this one
        return how
    before = () if known is None else known.places
    places = tuple(sorted({*before, *question.places}))
    agreed = Trusted(digest, remote.asked.shown, time.time(), how, places)
    try:
        (store or trust_store(world)).add(agreed)
    except StoreError as error:
        reporter.warn(f"your consent to this script could not be saved: {error}")
    return how


@dataclass(frozen=True, slots=True)
class _Asked:
    """A script that the user is asked about."""

    subject: Subject
    remote: Remote
    digest: str
    question: Question
    #: The earlier answer, which did not cover everything.
    known: Trusted | None

    def lines(self, last: Trusted | None) -> list[str]:
        """Return the facts as lines for a terminal; ``last`` is the newest answer for this URL."""
        url, data = self.remote.copy.url, self.subject.source.data or b""
        rows = [("from", url)]
        if self.remote.asked.shown != url:
            rows.append(("via", self.remote.asked.shown))
        size = f"{format_size(len(data))}, {counted(len(data.splitlines()), 'line')}"
        rows += [("sha256", self.digest), ("size", size), *self.question.rows]
        lines = [line for name, value in rows for line in wrapped(name, value)]
        if self.known is not None:
            new = [place for place in self.question.places if place not in self.known.places]
            lines.append("You agreed to it before, but not to its use of these directories on this machine:")
            lines += [f"  {shown_line(place)}" for place in new]
        elif last is not None:
            day = _day(last.date)
            lines.append(f"It has changed since you agreed to it on {day} (sha256 {last.sha256}).")
        return lines


def _how(asked: _Asked, store: TrustStore | None, world: World, reporter: Reporter) -> str:
    """Ask, unless an option or a setting answers; return how the user agreed. Raises CetoolError if they did not."""
    if asked.remote.pinned:
        return "--sha256"
    setting = world.loaded.origins["trust"]
    if setting.value == "always":
        return "--yes" if setting.source == "--yes" else "always"
    where = asked.remote.asked.where
    lines = asked.lines(None if store is None else _last(store, asked.remote.asked.shown))
    can_ask = setting.value != "never" and reporter.can_ask()
    if not can_ask and asked.subject.unasked and setting.source == BUILT_IN:
        reporter.warn(
            f"{asked.remote.copy.url} (sha256 {asked.digest}) runs without a question, as in conda-execute, because "
            "there is no terminal to ask on (CETOOL_TRUST=ask refuses such scripts)"
        )
        return "unasked"
    pin = f"Read the script, then put --sha256 {asked.digest}"
    if sum(map(len, lines)) > _MOST_SHOWN:
        raise CetoolError(
            f"the script declares more than a question can show: {sum(map(len, lines))} characters",
            code="consent-refused",
            where=where,
            hint=f"{pin} before its URL, or save it and pass its path.",
        )
    if not can_ask:
        if setting.value == "never":
            why, way = f"trust is never ({setting.source})", f"{pin} before its URL, or save it and pass its path."
        else:
            why, way = (
                "you have not agreed to it, and there is no terminal to ask on",
                f"{pin} or --yes before its URL.",
            )
        raise CetoolError(
            f"the script was not run: {why}",
            code="consent-refused",
            where=where,
            hint="\n".join([*lines, way]),
        )
    if not reporter.ask(["cetool: this script comes from a URL and would run with your permissions:", *lines]):
        raise CetoolError("the script was not run: you did not agree", code="consent-refused", where=where)
    return "asked"


def _day(date: float) -> str:
    try:
        return datetime.fromtimestamp(date).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return "an unknown day"


# --- what is remembered ---------------------------------------------------------------------------------------------


def trust_store(world: World) -> TrustStore:
    """Return where answers are kept. Raises StoreError if there is no home directory."""
    directory = trust_directory(world.environ)
    if directory is None:
        raise StoreError(
            "your consent to scripts cannot be saved: HOME is not set",
            code="home-missing",
            hint="Set HOME, or set CETOOL_DATA_DIR to the absolute path of a directory that you own.",
        )
    return TrustStore(directory)


def trusted_by(words: list[str], trusted: list[Trusted]) -> list[Trusted]:
    """Return the answers for digests and URLs. Raises UsageError for ambiguous ones, CetoolError for unknown ones."""
    return list(dict.fromkeys(item for word in words for item in _matching(word, trusted)))


def _matching(word: str, trusted: list[Trusted]) -> list[Trusted]:
    if is_url(word):
        urls = (strip_credentials(word), locate_script(word, insecure=True).shown)
        found = [item for item in trusted if item.url in urls]
    else:
        digits = _DIGEST.match(word)
        if digits is None:
            raise UsageError(
                f"{printable(word)!r} is neither a URL nor at least six hexadecimal digits",
                hint="`cetool trust list` shows digests and URLs.",
            )
        found = [item for item in trusted if item.sha256.startswith(digits[1].lower())]
        if len(found) > 1:
            raise UsageError(f"{word!r} is ambiguous: {len(found)} digests start with it", hint="Give more digits.")
    if not found:
        shown = printable(strip_credentials(word))
        raise CetoolError(
            f"you have not agreed to run {shown!r}",
            code="consent-not-found",
            hint="`cetool trust list` shows the scripts that you agreed to run.",
        )
    return found


def _store(world: World, reporter: Reporter) -> TrustStore | None:
    try:
        return trust_store(world)
    except StoreError as error:
        reporter.detail(str(error))
        return None


def _find(store: TrustStore | None, digest: str, reporter: Reporter) -> Trusted | None:
    if store is None:
        return None
    try:
        return store.find(digest)
    except StoreError as error:
        reporter.warn(f"{error}; saved answers are ignored")
        return None


def _last(store: TrustStore, url: str) -> Trusted | None:
    try:
        return store.last_from(url)
    except StoreError:
        return None

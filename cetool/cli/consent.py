"""Whether a script from a URL may run: asked once for each content, and remembered by its SHA-256."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from datetime import datetime

from cetool.cache.trust import Trusted, TrustStore
from cetool.cli.output import flow
from cetool.cli.remote import Origin
from cetool.cli.session import Session
from cetool.cli.sources import Source
from cetool.config import BUILT_IN
from cetool.durations import format_size
from cetool.errors import CetoolError, StoreError
from cetool.paths import trust_directory
from cetool.spec.blocks import find_block
from cetool.spec.environment import Requirements
from cetool.spec.metadata import ScriptMetadata, read_metadata
from cetool.spec.source import printable
from cetool.spec.urls import redact

#: Characters of a line of the question: what a script declares must not push out of sight where it comes from.
_LONGEST = 1000
_MOST_TYPED = 4096


def require_consent(
    source: Source, session: Session, metadata: ScriptMetadata | None = None, *, unasked: bool = False
) -> None:
    """See that the user agrees to what a script from a URL does here, before anything of it is executed.

    That holds for what its declaration has executed as well: packages' link scripts, and builds of PyPI packages;
    ``metadata`` is that with what the command line adds to it, or None for what the script says by itself. A script
    from anywhere else passes. An answer is remembered for the content, wherever it comes from; a copy of what may run
    is kept for ``--offline``. With ``unasked`` it passes with a warning where nobody can be asked, unless a setting
    says what becomes of it.

    Raises CetoolError where the answer is no, or nobody is there to be asked.
    """
    origin = source.origin
    if origin is None:
        return
    declared = None if find_block(source.script) is None else read_metadata(source.script)
    digest, places = source.sha256, () if declared is None else _places(declared.requirements)
    store = _store(session)
    known = _find(store, digest, session)
    if known is None or not set(places) <= set(known.places):
        question = _Question(source, origin, digest, metadata or declared, known, places)
        how = _how(question, store, session, unasked=unasked)
        if how is not None:
            before = () if known is None else known.places
            agreed = Trusted(digest, origin.asked.shown, time.time(), how, tuple(sorted({*before, *places})))
            _remember(store, agreed, session)
    session.ask_first = None
    origin.keep(session)


def trust_store(session: Session) -> TrustStore:
    """Where answers are kept. Raises StoreError where the machine says nowhere where that could be."""
    directory = trust_directory(session.environ)
    if directory is None:
        raise StoreError(
            "there is no place to keep which scripts you agreed to run: HOME is not set",
            hint="Set HOME, or CETOOL_DATA_DIR to the absolute path of a directory that is yours.",
        )
    return TrustStore(directory)


@dataclass(frozen=True)
class _Question:
    """All that is told about a script before it may run."""

    source: Source
    origin: Origin
    digest: str
    metadata: ScriptMetadata | None
    known: Trusted | None
    places: tuple[str, ...]

    def lines(self, last: Trusted | None) -> list[str]:
        """The facts, each on a line that a terminal can show; ``last`` is the newest answer for this URL."""
        url, data = self.origin.copy.url, self.source.data or b""
        rows = [("from", url)]
        if self.origin.asked.shown != url:
            rows.append(("by way of", self.origin.asked.shown))
        size = f"{format_size(len(data))}, {len(data.splitlines())} lines"
        rows += [("sha256", self.digest), ("size", size), *([] if self.metadata is None else _wants(self.metadata))]
        lines = [f"  {name + ':':12}{_line(value)}" for name, value in rows]
        if self.known is not None:
            lines.append("You agreed to it before, but not to its use of these directories of this machine:")
            lines += [f"  {_line(place)}" for place in self.places if place not in self.known.places]
        elif last is not None:
            lines.append(
                f"It has changed since you agreed to what was there on {_day(last.date)} (sha256 {last.sha256})."
            )
        return lines


def _how(question: _Question, store: TrustStore | None, session: Session, *, unasked: bool) -> str | None:
    """How the user agreed; None where that is not to be remembered. Raises CetoolError where it is no."""
    if question.origin.pinned:
        return "--sha256"
    setting = session.loaded.origins["trust"]
    if setting.value == "always":
        # who sets this once and for all has not looked at this script
        return "--yes" if setting.source == "--yes" else None
    lines = question.lines(None if store is None else _last(store, question.origin.asked.shown))
    keyboard = None if setting.value == "never" else _keyboard()
    if keyboard is None and unasked and setting.source == BUILT_IN:
        session.voice.warn(
            f"{question.origin.copy.url} (sha256 {question.digest}) runs without a question, as conda-execute had it: "
            "nobody can be asked (CETOOL_TRUST=ask refuses that)"
        )
        return None
    if keyboard is None:
        pin = f"Read it; then put --sha256 {question.digest}"
        if setting.value == "never":
            why, way_out = f"trust is never ({setting.source})", f"{pin} before its URL, or save it and give its path."
        else:
            why, way_out = "it is new here, and nobody can be asked about it", f"{pin} before its URL, or --yes."
        raise CetoolError(
            f"this script from elsewhere was not run: {why}",
            where=question.origin.asked.where,
            hint="\n".join([*lines, way_out]),
        )
    if not _agrees(keyboard, ["cetool: this script comes from elsewhere, and would run with your rights:", *lines]):
        raise CetoolError("the script was not run: you did not agree", where=question.origin.asked.where)
    return "asked"


# --- what is told ---------------------------------------------------------------------------------------------------


def _wants(metadata: ScriptMetadata) -> list[tuple[str, str]]:
    needs, settings = metadata.requirements, metadata.requirements.pypi_settings
    indexes = [*([] if settings.index_url is None else [settings.index_url]), *settings.extra_index_urls]
    rows = [
        ("channels", flow(needs.channels) if needs.channels is not None else "(those of your configuration)"),
        ("env", flow(needs.packages)),
        ("baseline", flow(needs.baselines) if needs.baselines else ""),
        ("without", flow(needs.without) if needs.without else ""),
        ("pip", flow(needs.pypi) if needs.pypi else ""),
        ("indexes", flow(indexes) if indexes else ""),
        ("find-links", flow(settings.find_links) if settings.find_links else ""),
        ("variables", flow([f"{name}={value}" for name, value in needs.variables]) if needs.variables else ""),
        ("run_with", flow(metadata.run_with) if metadata.run_with is not None else ""),
        ("entrypoint", metadata.entrypoint or ""),
    ]
    return [(name, value) for name, value in rows if value]


def _line(text: str) -> str:
    """What others wrote, as one line that a terminal shows and does not obey."""
    shown = printable(redact(text))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ... ({len(shown) - _LONGEST} characters more)"


def _day(date: float) -> str:
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
        sys.stderr.write("".join(f"{line}\n" for line in lines) + "Run it? [y/N] ")
        sys.stderr.flush()
        # a terminal hands out one line at a time, so the rest stays the script's
        while b"\n" not in typed and len(typed) < _MOST_TYPED:
            part = os.read(keyboard, 1024)
            if not part:
                break
            typed += part
    except (KeyboardInterrupt, OSError, ValueError):
        typed = b""
    if b"\n" not in typed:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write("\n")
        return False
    return typed.strip().lower() in (b"y", b"yes")


# --- what is remembered ---------------------------------------------------------------------------------------------


def _places(needs: Requirements) -> tuple[str, ...]:
    """The directories of this machine that packages are taken from."""
    settings = needs.pypi_settings
    texts = (*(needs.channels or ()), *needs.packages, *needs.pypi, *settings.find_links, *settings.extra_index_urls)
    found = (text for text in (*texts, settings.index_url or "") if "file://" in text)
    return tuple(sorted({redact(text) for text in found}))


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

"""Scripts from URLs: fetched, or without a network the last copy; and where each came from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from cetool.cache.copies import Copy, CopyStore
from cetool.cli.session import Session
from cetool.cli.sources import Source
from cetool.durations import format_duration
from cetool.errors import StoreError, UsageError
from cetool.spec.addresses import Address
from cetool.spec.credentials import GITHUB_TOKEN
from cetool.spec.metadata import ScriptMetadata
from cetool.spec.remote import Fetched, Known, UnreachableError, fetch_script, locate_script
from cetool.spec.source import decode, looks_like_python, script_from_text


@dataclass(frozen=True)
class Origin:
    """Where a script came from.

    ``asked`` is the address that was asked for, ``copy`` what came, ``pinned`` whether the command line said which
    content it must have, ``fresh`` whether a server had it just now.
    """

    asked: Address
    copy: Copy
    pinned: bool
    fresh: bool

    def keep(self, session: Session) -> None:
        """Keep the copy for a run without a network; where that cannot be the script runs all the same."""
        store = CopyStore(session.paths.copies, trust=session.paths.trusted)
        if not self.fresh:
            store.touch(self.asked.key)
            return
        try:
            store.keep(self.asked.key, self.copy)
        except (StoreError, OSError) as error:
            session.voice.detail(f"No copy of the script could be kept: {error}")


@dataclass
class Foreign:
    """A script from a URL that a command works on, and what is known of what it would have done.

    ``metadata`` is what it declares with what the command line adds, where the command has read that; ``platforms`` are
    those that the command is about (None: this machine's). ``unasked``: it passes where there is no terminal to ask
    on, unless a setting says otherwise. ``agreed`` tells how the user agreed, None as long as nobody has asked.
    """

    source: Source
    origin: Origin
    metadata: ScriptMetadata | None = None
    platforms: tuple[str | None, ...] = (None,)
    unasked: bool = False
    agreed: str | None = None


def open_remote(target: str, session: Session, *, insecure: bool, pinned: bool) -> Source:
    """The script at a URL. Raises CetoolError where it cannot be had.

    GitHub's token is taken out of the session's variables: what runs of the script, or is built for it, gets none. From
    now on the session's consent takes the user's to this script.
    """
    asked = locate_script(target, insecure=insecure)
    last = _last_copy(asked, session)
    if session.offline:
        copy, fresh = _offline(asked, last, session), False
    else:
        copy, fresh = _fetch(asked, last, session, insecure=insecure), True
    session.environ.pop(GITHUB_TOKEN, None)
    text = decode(copy.data, copy.url, python=looks_like_python(copy.data, Path(copy.name)))
    # relative paths start from the working directory, as uv has it: the script's own is the cache's
    script = script_from_text(text, Path.cwd() / copy.name, copy.url)
    origin = Origin(asked, copy, pinned, fresh)
    source = Source(script, target, copy.data, copy.name, origin=origin)
    session.foreign.append(Foreign(source, origin))
    return source


def _last_copy(asked: Address, session: Session) -> Copy | None:
    return CopyStore(session.paths.copies, trust=session.paths.trusted).find(asked.key)


def _offline(asked: Address, last: Copy | None, session: Session) -> Copy:
    if last is None:
        raise UsageError(
            "the script is at a URL, nothing may be downloaded (--offline), and there is no copy of it here",
            where=asked.where,
            hint="A run without --offline keeps one. Or save the script, and give its path.",
        )
    session.voice.result(f"{last.url} is the copy that came {_age(last)} ago (--offline)")
    return last


def _fetch(asked: Address, last: Copy | None, session: Session, *, insecure: bool) -> Copy:
    known = None if last is None else Known(last.address, last.data, last.etag, last.modified)
    try:
        fetched = fetch_script(asked, insecure=insecure, known=known, environ=session.environ)
    except UnreachableError as error:
        if last is not None:
            error.hint = f"{error.hint or ''} `--offline` takes the copy that came {_age(last)} ago.".strip()
        raise
    return _copy_of(fetched)


def _copy_of(fetched: Fetched) -> Copy:
    known = fetched.known
    return Copy(fetched.url, known.address, fetched.name, fetched.data, time.time(), known.etag, known.modified)


def _age(copy: Copy) -> str:
    return format_duration(time.time() - copy.checked)

"""Scripts from URLs: fetched, or without a network the last copy; and where each came from.

Gets a script from where the command line says: a path, a URL, standard input, or the command line itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.app.session import Session
from cetool.base.codec import sha256_of
from cetool.base.durations import format_duration
from cetool.base.errors import CetoolError, ScriptNotFoundError, StoreError, UsageError
from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.source import (
    MAX_SIZE,
    Script,
    decode,
    is_url,
    looks_like_python,
    read_bytes,
    read_script,
    script_from_text,
)
from cetool.fetch.addresses import GITHUB_TOKEN, Address
from cetool.fetch.scripts import Fetched, Known, UnreachableError, fetch_script, locate_script
from cetool.store.keyed import Copy, CopyStore
from cetool.store.scripts import Held, ScriptStore


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
            code="offline-missing",
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
            hint = f"{error.hint or ''} `--offline` takes the copy that came {_age(last)} ago.".strip()
            raise error.but(hint=hint) from None
        raise
    return _copy_of(fetched)


def _copy_of(fetched: Fetched) -> Copy:
    known = fetched.known
    return Copy(fetched.url, known.address, fetched.name, fetched.data, time.time(), known.etag, known.modified)


def _age(copy: Copy) -> str:
    return format_duration(time.time() - copy.checked)


_PIN = pattern(r"(?:sha256[:=-])?([0-9a-fA-F]{64})\Z")


class Source(Value):
    """A script as it was ``given``.

    One that is a file has been ``seen`` in this state before it was read; of another ``data`` are the bytes that it
    will be kept as, and ``name`` what the file will be called. ``origin`` is that of one from a URL.
    """

    script: Script
    given: str
    data: bytes | None = None
    name: str = ""
    seen: os.stat_result | None = None
    origin: Origin | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of its bytes, 64 hex digits; those of a file are read once more. Raises CetoolError."""

        data = read_bytes(self.given, self.script.name) if self.data is None else self.data
        return sha256_of(data)

    def keep(self, session: Session) -> Held:
        """The file in which what came from elsewhere is kept from now on, held in use."""
        assert self.data is not None
        return ScriptStore(session.paths.scripts, trust=session.paths.trusted).hold(self.data, self.name)


def open_source(target: str, session: Session, *, insecure: bool = False, sha256: str | None = None) -> Source:
    """The script that SCRIPT names: ``-`` is standard input.

    With ``sha256`` it must have this digest. Raises CetoolError where there is none to be had, UsageError for what is
    no digest. After one from a URL was opened, :meth:`~cetool.app.session.Session.consent` asks about it.
    """
    if sha256 is not None:
        read_pin(sha256)
    source = _open(target, session, insecure=insecure, pinned=sha256 is not None)
    check_pin(source, sha256)
    return source


def read_pin(text: str) -> str:
    """The 64 hex digits of a pin; ``sha256:`` may stand before them. Raises UsageError for anything else."""
    found = _PIN.match(text.strip())
    if found is None:
        raise UsageError(
            "--sha256 takes the 64 hexadecimal digits of a SHA-256", hint="`sha256sum FILE` and `cetool show` print it."
        )
    return found[1].lower()


def check_pin(source: Source, sha256: str | None) -> None:
    """Raise CetoolError where the script's content is not what was pinned."""
    if sha256 is None or source.sha256 == read_pin(sha256):
        return
    raise CetoolError(
        f"the script is another one than --sha256 names: its SHA-256 is {source.sha256}, not {read_pin(sha256)}",
        code="digest-mismatch",
        where=source.script.at(),
        hint="It was not run. Read it, and find out what has changed, before you pin this digest.",
    )


def _open(target: str, session: Session, *, insecure: bool, pinned: bool) -> Source:
    if target == "-":
        return source_of_stdin()
    if not is_url(target):
        seen = None
        try:
            with contextlib.suppress(OSError, ValueError):
                seen = os.stat(target)
            return Source(read_script(target), target, seen=seen)
        except ScriptNotFoundError as error:
            raise _with_guess(error, target) from None

    return open_remote(target, session, insecure=insecure, pinned=pinned)


def source_of_stdin() -> Source:
    """The script on standard input."""
    data = sys.stdin.buffer.read(MAX_SIZE + 1)
    return _source_of_bytes(data, "stdin")


def source_of_lines(lines: Sequence[str]) -> Source:
    """The script whose lines were given on the command line; standard input's where there are none."""
    if not lines:
        return source_of_stdin()
    return _source_of_bytes(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"), "code")


def _source_of_bytes(data: bytes, name: str) -> Source:
    # relative channels in it start from the working directory, as one would expect of what was just typed
    script = script_from_text(decode(data, f"<{name}>", python=True), Path.cwd() / name, f"<{name}>")
    return Source(script, name, data, name)


def _with_guess(error: ScriptNotFoundError, target: str) -> ScriptNotFoundError:
    """The error, with the command that was probably meant where what is missing looks like one."""
    import difflib

    from cetool.warm import COMMANDS

    if re.match(r"https?:/*\w|(www\.)?(github|gitlab)\.com/|gist\.github\.com/|raw\.githubusercontent\.com/", target):
        hint = "If a URL was meant: it begins with https://, and is written whole."
        return error.but(hint=hint)
    near = ["--help"] if target == "help" else difflib.get_close_matches(target, COMMANDS, n=1)
    if not near or os.sep in target:
        return error
    return error.but(hint=f"If a command was meant: `cetool {near[0]}`. {error.hint or ''}".strip())

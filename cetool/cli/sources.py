"""Gets a script from where the command line says: a path, a URL, standard input, or the command line itself."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.cache.scripts import Held, ScriptStore
from cetool.cli.session import Session
from cetool.digests import sha256_of
from cetool.errors import CetoolError, ScriptNotFoundError, UsageError
from cetool.patterns import pattern
from cetool.spec.source import MAX_SIZE, Script, decode, is_url, read_bytes, read_script, script_from_text
from cetool.values import Value

if TYPE_CHECKING:  # most scripts are files
    from cetool.cli.remote import Origin

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
    no digest. After one from a URL was opened, :meth:`~cetool.cli.session.Session.consent` asks about it.
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
    from cetool.cli.remote import open_remote

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

    from cetool.__main__ import COMMANDS

    if re.match(r"https?:/*\w|(www\.)?(github|gitlab)\.com/|gist\.github\.com/|raw\.githubusercontent\.com/", target):
        hint = "If a URL was meant: it begins with https://, and is written whole."
        return ScriptNotFoundError(error.message, where=error.where, hint=hint)
    near = ["--help"] if target == "help" else difflib.get_close_matches(target, COMMANDS, n=1)
    if not near or os.sep in target:
        return error
    return ScriptNotFoundError(
        error.message, where=error.where, hint=f"If a command was meant: `cetool {near[0]}`. {error.hint or ''}".strip()
    )

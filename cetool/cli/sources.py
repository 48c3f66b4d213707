"""Gets a script from where the command line says: a path, a URL, standard input, or the command line itself."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cetool.cache.scripts import Held, ScriptStore
from cetool.cli.session import Session
from cetool.errors import ScriptNotFoundError, UsageError
from cetool.paths import ensure_private_dir
from cetool.spec.source import MAX_SIZE, Script, decode, is_url, looks_like_python, read_script, script_from_text


class Source(NamedTuple):
    """A script as it was ``given``.

    One that is a file has been ``seen`` in this state before it was read; of another ``data`` are the bytes that it
    will be kept as, and ``name`` what the file will be called.
    """

    script: Script
    given: str
    data: bytes | None = None
    name: str = ""
    seen: os.stat_result | None = None

    def keep(self, session: Session) -> Held:
        """The file in which what came from elsewhere is kept from now on, held in use."""
        assert self.data is not None
        ensure_private_dir(session.paths.scripts, trust=session.settings.trust_cache_dir)
        return ScriptStore(session.paths.scripts).hold(self.data, self.name)


def open_source(target: str, session: Session, *, insecure: bool = False) -> Source:
    """The script that SCRIPT names: ``-`` is standard input. Raises CetoolError where there is none to be had."""
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
    if session.offline:
        raise UsageError(
            "the script is at a URL, and nothing may be downloaded (--offline)", hint="Save it, and give its path."
        )
    from cetool.spec.remote import fetch_script

    fetched = fetch_script(target, insecure=insecure)
    text = decode(fetched.data, fetched.url, python=looks_like_python(fetched.data, Path(fetched.name)))
    return Source(script_from_text(text, Path.cwd() / fetched.name, fetched.url), target, fetched.data, fetched.name)


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

    near = ["--help"] if target == "help" else difflib.get_close_matches(target, COMMANDS, n=1)
    if not near or os.sep in target:
        return error
    return ScriptNotFoundError(
        error.message, where=error.where, hint=f"If a command was meant: `cetool {near[0]}`. {error.hint or ''}".strip()
    )

"""Opens scripts: from a path, a URL, standard input, or the command line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.codec import sha256_of
from cetool.base.errors import CetoolError, ScriptNotFoundError, UsageError
from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.declare.source import (
    MAX_SIZE,
    Script,
    decode,
    is_url,
    read_bytes,
    read_script,
    script_from_text,
)
from cetool.warm import COMMANDS

if TYPE_CHECKING:  # few scripts are from a URL
    from cetool.app.fetching import Remote

#: What other tools call commands of cetool.
_OTHER_COMMANDS = {
    **{"version": "--version", "install": "add", "uninstall": "drop", "update": "upgrade", "execute": "run"},
    **{"ls": "list", "rm": "remove", "delete": "remove", "clean": "gc", "prune": "gc", "activate": "shell"},
}
_PIN = pattern(r"(?:sha256[:=-])?([0-9a-fA-F]{64})\Z")


class Source(Value):
    """A script and where it came from."""

    script: Script
    #: Its name on the command line.
    given: str
    #: Its content, None for a file.
    data: bytes | None = None
    #: The name of the file that a copy is kept in.
    name: str = ""
    #: The state of the file before it was read.
    seen: os.stat_result | None = None
    #: The origin of a script from a URL.
    remote: Remote | None = None

    @property
    def sha256(self) -> str:
        """Its SHA-256 in 64 hex digits; a file is read again. Raises CetoolError."""
        return sha256_of(read_bytes(self.given, self.script.name) if self.data is None else self.data)

    @property
    def noted(self) -> str:
        """Its name in the usage log."""
        return str(self.script.path) if self.data is None else self.script.name

    @property
    def identity(self) -> str | None:
        """Its path or URL, which identifies it in later runs; None for a script without one."""
        if self.remote is not None:
            return self.remote.asked.shown
        return os.path.abspath(self.script.path) if self.data is None else None


def open_source(
    target: str, world: World, reporter: Reporter, *, insecure: bool = False, sha256: str | None = None
) -> tuple[Source, World]:
    """Return the script that SCRIPT names (``-`` is standard input), and the world for it.

    The world of a script from a URL lacks GitHub's token, so that neither the script nor its builds get it. With
    ``sha256`` the script must have this digest. Raises CetoolError if there is no such script, UsageError for an
    invalid digest.
    """
    pinned = sha256 is not None and bool(read_pin(sha256))
    if target != "-" and is_url(target):
        from cetool.app.fetching import open_remote  # only scripts from URLs

        script, remote, world = open_remote(target, world, reporter, insecure=insecure, pinned=pinned)
        source = Source(script, target, remote.copy.data, remote.copy.name, remote=remote)
    else:
        source = source_of_stdin() if target == "-" else _open_file(target)
    check_pin(source, sha256)
    return source, world


def _open_file(target: str) -> Source:
    seen = None
    try:
        with contextlib.suppress(OSError, ValueError):
            seen = os.stat(target)
        return Source(read_script(target), target, seen=seen)
    except ScriptNotFoundError as error:
        raise _with_guess(error, target) from None


def source_of_stdin() -> Source:
    """Return the script on standard input."""
    return _source_of_bytes(sys.stdin.buffer.read(MAX_SIZE + 1), "stdin")


def source_of_lines(lines: Sequence[str]) -> Source:
    """Return the script whose lines are on the command line; without lines, the script on standard input."""
    if not lines:
        return source_of_stdin()
    return _source_of_bytes(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"), "code")


def _source_of_bytes(data: bytes, name: str) -> Source:
    # relative channels in it start from the working directory, where the user typed it
    script = script_from_text(decode(data, f"<{name}>", python=True), Path.cwd() / name, f"<{name}>")
    return Source(script, name, data, name)


# --- pins -------------------------------------------------------------------------------------------------------------


def read_pin(text: str) -> str:
    """Return the 64 hex digits of a pin, which may start with ``sha256:``. Raises UsageError for anything else."""
    found = _PIN.match(text.strip())
    if found is None:
        raise UsageError(
            "--sha256 must be the 64 hexadecimal digits of a SHA-256",
            hint="`sha256sum FILE` and `cetool show SCRIPT` print it.",
        )
    return found[1].lower()


def check_pin(source: Source, sha256: str | None) -> None:
    """Raise CetoolError if the script does not have the pinned digest."""
    if sha256 is None or source.sha256 == read_pin(sha256):
        return
    raise CetoolError(
        f"the script's SHA-256 is {source.sha256}, not {read_pin(sha256)} as in --sha256",
        code="digest-mismatch",
        where=source.script.at(),
        hint="The script was not run. Read what has changed before you pin the new digest.",
    )


def _with_guess(error: ScriptNotFoundError, target: str) -> ScriptNotFoundError:
    """Add a hint to the error if a URL or a command was probably meant."""
    import difflib

    if re.match(r"https?:/*\w|(www\.)?(github|gitlab)\.com/|gist\.github\.com/|raw\.githubusercontent\.com/", target):
        hint = "A URL starts with https://."
        return error.but(hint=hint)
    if not target or os.sep in target or "." in target:
        return error
    near = difflib.get_close_matches(target, COMMANDS, n=1)
    if meant := _OTHER_COMMANDS.get(target) or next(iter(near), None):
        return error.but(hint=f"Did you mean `cetool {meant}`?")
    return error.but(hint=f"{error.hint or ''} `cetool --help` lists the commands.".strip())

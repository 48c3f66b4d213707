"""Where a script comes from: a path, a URL, standard input, or the command line itself."""

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

_PIN = pattern(r"(?:sha256[:=-])?([0-9a-fA-F]{64})\Z")


class Source(Value):
    """A script and where it came from."""

    script: Script
    #: What the command line called it.
    given: str
    #: The bytes that it will be kept as, None for a file.
    data: bytes | None = None
    #: What the file will be called that it is kept in.
    name: str = ""
    #: The state of a file before it was read.
    seen: os.stat_result | None = None
    #: Where one from a URL came from.
    remote: Remote | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of its bytes, 64 hex digits; those of a file are read once more. Raises CetoolError."""
        return sha256_of(read_bytes(self.given, self.script.name) if self.data is None else self.data)

    @property
    def noted(self) -> str:
        """What the usage log calls it."""
        return str(self.script.path) if self.data is None else self.script.name

    @property
    def identity(self) -> str | None:
        """What it is known by from one run to the next: its path or URL; None for one that has no name."""
        if self.remote is not None:
            return self.remote.asked.shown
        return os.path.abspath(self.script.path) if self.data is None else None


def open_source(
    target: str, world: World, reporter: Reporter, *, insecure: bool = False, sha256: str | None = None
) -> tuple[Source, World]:
    """The script that SCRIPT names (``-`` is standard input), and the world that it is worked on in.

    For one from a URL that world lacks GitHub's token: what runs of the script, or is built for it, gets none. With
    ``sha256`` the script must have this digest. Raises CetoolError where there is no such script, UsageError for what
    is not a digest.
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
    """The script on standard input."""
    return _source_of_bytes(sys.stdin.buffer.read(MAX_SIZE + 1), "stdin")


def source_of_lines(lines: Sequence[str]) -> Source:
    """The script whose lines were given on the command line; standard input's where there are none."""
    if not lines:
        return source_of_stdin()
    return _source_of_bytes(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"), "code")


def _source_of_bytes(data: bytes, name: str) -> Source:
    # relative channels in it start from the working directory, as one would expect of what was just typed
    script = script_from_text(decode(data, f"<{name}>", python=True), Path.cwd() / name, f"<{name}>")
    return Source(script, name, data, name)


# --- pins -------------------------------------------------------------------------------------------------------------


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


def _with_guess(error: ScriptNotFoundError, target: str) -> ScriptNotFoundError:
    """The error, with the command that was probably meant where what is missing looks like one."""
    import difflib

    if re.match(r"https?:/*\w|(www\.)?(github|gitlab)\.com/|gist\.github\.com/|raw\.githubusercontent\.com/", target):
        hint = "If a URL was meant: it begins with https://, and is written whole."
        return error.but(hint=hint)
    near = difflib.get_close_matches(target, COMMANDS, n=1)
    if not near or os.sep in target:
        return error
    return error.but(hint=f"If a command was meant: `cetool {near[0]}`. {error.hint or ''}".strip())

"""Where a script comes from: a path, a URL, standard input, or the command line itself."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.codec import sha256_of
from cetool.base.durations import format_duration
from cetool.base.errors import CetoolError, ScriptNotFoundError, StoreError, UsageError
from cetool.base.text import pattern
from cetool.base.values import Value
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
from cetool.fetch.scripts import Known, UnreachableError, fetch_script, locate_script
from cetool.store.keyed import Copy, CopyStore
from cetool.store.scripts import Held, ScriptStore

_PIN = pattern(r"(?:sha256[:=-])?([0-9a-fA-F]{64})\Z")


class Remote(Value):
    """The URL that a script came from."""

    #: The address that was asked for.
    asked: Address
    #: What came.
    copy: Copy
    #: Whether the command line said which content it must have.
    pinned: bool
    #: Whether a server had it just now.
    fresh: bool

    def keep(self, world: World, reporter: Reporter) -> None:
        """Keep the copy for a run without a network; where that cannot be the script runs all the same."""
        store = CopyStore(world.paths.copies, trust=world.paths.trusted)
        if not self.fresh:
            store.touch(self.asked.key)
            return
        try:
            store.keep(self.asked.key, self.copy)
        except (StoreError, OSError) as error:
            reporter.detail(f"No copy of the script could be kept: {error}")


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

    def keep(self, world: World) -> Held:
        """The file in which what came from elsewhere is kept from now on, held in use."""
        assert self.data is not None
        return ScriptStore(world.paths.scripts, trust=world.paths.trusted).hold(self.data, self.name)


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
        source, world = _open_remote(target, world, reporter, insecure=insecure, pinned=pinned)
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


def source_of_text(text: str, name: str = "script") -> Source:
    """The script that a text is. Relative paths in it start from the working directory."""
    script = script_from_text(text, Path.cwd() / name, f"<{name}>")
    return Source(script, name, text.encode("utf-8", "surrogateescape"), name)


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


# --- URLs -------------------------------------------------------------------------------------------------------------


def _open_remote(
    target: str, world: World, reporter: Reporter, *, insecure: bool, pinned: bool
) -> tuple[Source, World]:
    """The script at a URL. Raises CetoolError where it cannot be fetched."""
    asked = locate_script(target, insecure=insecure)
    last = CopyStore(world.paths.copies, trust=world.paths.trusted).find(asked.key)
    copy = _kept(asked, last, reporter) if world.offline else _fetch(asked, last, world, insecure=insecure)
    text = decode(copy.data, copy.url, python=looks_like_python(copy.data, Path(copy.name)))
    # relative paths start from the working directory, as uv has it: the script's own is the cache's
    script = script_from_text(text, Path.cwd() / copy.name, copy.url)
    remote = Remote(asked, copy, pinned, fresh=not world.offline)
    return Source(script, target, copy.data, copy.name, remote=remote), world.without(GITHUB_TOKEN)


def _kept(asked: Address, last: Copy | None, reporter: Reporter) -> Copy:
    if last is None:
        raise UsageError(
            "the script is at a URL, nothing may be downloaded (--offline), and there is no copy of it here",
            code="offline-missing",
            where=asked.where,
            hint="A run without --offline keeps one. Or save the script, and give its path.",
        )
    reporter.result(f"{last.url} is the copy that came {_age(last)} ago (--offline)")
    return last


def _fetch(asked: Address, last: Copy | None, world: World, *, insecure: bool) -> Copy:
    known = None if last is None else Known(last.address, last.data, last.etag, last.modified)
    try:
        fetched = fetch_script(asked, insecure=insecure, known=known, environ=world.environ)
    except UnreachableError as error:
        if last is not None:
            hint = f"{error.hint or ''} `--offline` takes the copy that came {_age(last)} ago.".strip()
            raise error.but(hint=hint) from None
        raise
    now = fetched.known
    return Copy(fetched.url, now.address, fetched.name, fetched.data, time.time(), now.etag, now.modified)


def _age(copy: Copy) -> str:
    return format_duration(time.time() - copy.checked)


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

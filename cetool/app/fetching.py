"""Fetches scripts from URLs and keeps a copy of each for runs without a network."""

from __future__ import annotations

import time
from pathlib import Path

from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.durations import format_duration
from cetool.base.errors import StoreError, UsageError
from cetool.base.values import Value
from cetool.declare.source import Script, decode, looks_like_python, script_from_text
from cetool.fetch.addresses import GITHUB_TOKEN, Address
from cetool.fetch.scripts import Known, UnreachableError, fetch_script, locate_script
from cetool.store.keyed import Copy, CopyStore


class Remote(Value):
    """The URL that a script came from."""

    #: The requested address.
    asked: Address
    #: The content.
    copy: Copy
    #: Whether the command line named the digest of its content.
    pinned: bool
    #: Whether the server was asked just now.
    fresh: bool

    def keep(self, world: World, reporter: Reporter) -> None:
        """Keep the copy for runs without a network. A failure does not stop the script."""
        store = _copies(world)
        if not self.fresh:
            store.touch(self.asked.key)
            return
        try:
            store.keep(self.asked.key, self.copy)
        except (StoreError, OSError) as error:
            reporter.detail(f"The script could not be copied: {error}")


def open_remote(
    target: str, world: World, reporter: Reporter, *, insecure: bool, pinned: bool
) -> tuple[Script, Remote, World]:
    """Return the script at a URL, and the world without GitHub's token. Raises CetoolError if it cannot be fetched."""
    asked = locate_script(target, insecure=insecure)
    last = _copies(world).find(asked.key)
    copy = _kept(asked, last, reporter) if world.offline else _fetch(asked, last, world, insecure=insecure)
    text = decode(copy.data, copy.url, python=looks_like_python(copy.data, Path(copy.name)))
    # relative paths start from the working directory, as with uv: the script's own directory is in the cache
    script = script_from_text(text, Path.cwd() / copy.name, copy.url)
    return script, Remote(asked, copy, pinned, fresh=not world.offline), world.without(GITHUB_TOKEN)


def _copies(world: World) -> CopyStore:
    return CopyStore(world.paths.copies, trust=world.paths.trusted)


def _kept(asked: Address, last: Copy | None, reporter: Reporter) -> Copy:
    if last is None:
        raise UsageError(
            "the script is at a URL and has no copy here, and --offline forbids downloads",
            code="offline-missing",
            where=asked.where,
            hint="Run it once without --offline to keep a copy, or save the script and pass its path.",
        )
    reporter.say(f"Using the copy of {last.url} from {_age(last)} ago (--offline)")
    return last


def _fetch(asked: Address, last: Copy | None, world: World, *, insecure: bool) -> Copy:
    known = None if last is None else Known(last.address, last.data, last.etag, last.modified)
    try:
        fetched = fetch_script(asked, insecure=insecure, known=known, environ=world.environ)
    except UnreachableError as error:
        if last is not None:
            hint = f"{error.hint or ''} `--offline` runs the copy from {_age(last)} ago.".strip()
            raise error.but(hint=hint) from None
        raise
    now = fetched.known
    return Copy(fetched.url, now.address, fetched.name, fetched.data, time.time(), now.etag, now.modified)


def _age(copy: Copy) -> str:
    return format_duration(time.time() - copy.checked)

"""Scripts from URLs: fetched, or without a network the last copy; and that copy, kept."""

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
        store = _copies(world)
        if not self.fresh:
            store.touch(self.asked.key)
            return
        try:
            store.keep(self.asked.key, self.copy)
        except (StoreError, OSError) as error:
            reporter.detail(f"No copy of the script could be kept: {error}")


def open_remote(
    target: str, world: World, reporter: Reporter, *, insecure: bool, pinned: bool
) -> tuple[Script, Remote, World]:
    """The script at a URL, and the world without GitHub's token. Raises CetoolError where it cannot be fetched."""
    asked = locate_script(target, insecure=insecure)
    last = _copies(world).find(asked.key)
    copy = _kept(asked, last, reporter) if world.offline else _fetch(asked, last, world, insecure=insecure)
    text = decode(copy.data, copy.url, python=looks_like_python(copy.data, Path(copy.name)))
    # relative paths start from the working directory, as uv has it: the script's own is the cache's
    script = script_from_text(text, Path.cwd() / copy.name, copy.url)
    return script, Remote(asked, copy, pinned, fresh=not world.offline), world.without(GITHUB_TOKEN)


def _copies(world: World) -> CopyStore:
    return CopyStore(world.paths.copies, trust=world.paths.trusted)


def _kept(asked: Address, last: Copy | None, reporter: Reporter) -> Copy:
    if last is None:
        raise UsageError(
            "the script is at a URL, nothing may be downloaded (--offline), and there is no copy of it here",
            code="offline-missing",
            where=asked.where,
            hint="A run without --offline keeps one. Or save the script, and give its path.",
        )
    reporter.say(f"Using the copy of {last.url} from {_age(last)} ago (--offline)")
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

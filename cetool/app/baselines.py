"""Read or download baselines, keep them, and parse their content."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.errors import CetoolError, MetadataError, ScriptNotFoundError, StoreError, UsageError
from cetool.base.process import Consent
from cetool.base.text import printable
from cetool.base.values import Value
from cetool.declare.baselines import is_remote
from cetool.declare.named import is_named
from cetool.declare.source import read_bytes
from cetool.fetch.addresses import Address
from cetool.fetch.scripts import Known, fetch_script, locate_script
from cetool.lock.find import lock_in
from cetool.lock.model import Lock, PlatformLock
from cetool.store.keyed import BaselineStore, Copy, path_key


class Baseline(Value):
    """A baseline with the content to use."""

    #: Its name in messages.
    shown: str
    #: The key under which it is kept.
    key: str
    data: bytes
    lock: Lock

    def platform(self, platform: str) -> PlatformLock:
        """Return its packages for a platform. Raises MetadataError if it has none."""
        locked = self.lock.platform(platform)
        if locked is None:
            there = ", ".join(each.platform for each in self.lock.platforms)
            raise MetadataError(
                f"baseline {self.shown} has no packages for {platform}" + (f", only for {there}" if there else ""),
                code="lock-platform-missing",
            )
        return locked


def baseline_store(world: World) -> BaselineStore:
    """Return the store of baselines."""
    return BaselineStore(world.paths.baselines, trust=world.settings.trust_cache_dir)


def key_of(named: str, *, insecure: bool) -> tuple[str, str]:
    """Return a baseline's key, and its name in messages. Raises MetadataError for an unusable URL."""
    if not is_remote(named) or is_named(named):
        return path_key(named), printable(named)
    address = locate(named, insecure=insecure)
    return address.key, address.shown


def locate(named: str, *, insecure: bool) -> Address:
    """Return the address of a baseline. Raises MetadataError for an unusable URL."""
    try:
        return locate_script(named, insecure=insecure, what="baseline")
    except UsageError as error:
        raise _about_baseline(error) from None


def read_local(path: str) -> bytes:
    """Return the content of a baseline at a path. Raises MetadataError if it cannot be read."""
    try:
        return read_bytes(path, printable(path), "baseline")
    except CetoolError as error:
        raise error.turned_into(MetadataError, code="baseline-invalid") from None


def fetch_baseline(
    address: Address,
    store: BaselineStore,
    world: World,
    consent: Consent,
    *,
    insecure: bool,
    key: str | None = None,
) -> Copy:
    """Download the current content of a baseline at a URL, and keep it under ``key`` (None: the address's key).

    Raises CetoolError if the download fails.
    """
    key = key or address.key
    last = store.copies.find(key)
    known = None if last is None else Known(last.address, last.data, last.etag, last.modified)
    store.asked(key)
    try:
        fetched = fetch_script(address, insecure=insecure, known=known, environ=world.environ)
    except CetoolError as error:
        raise _about_baseline(error) from None
    now = fetched.known
    copy = Copy(fetched.url, now.address, fetched.name, fetched.data, time.time(), now.etag, now.modified)
    with contextlib.suppress(StoreError, OSError):  # it can be used without being kept
        store.keep(key, copy)
    return copy


def fetch_named(named: str, store: BaselineStore, world: World, reporter: Reporter, platform: str) -> Copy:
    """Get the current content of a baseline that is an environment of a server, and keep it. Raises CetoolError."""
    from cetool.app.named import fetch_baseline as from_server  # few baselines are environments of a server

    key, shown = key_of(named, insecure=False)
    store.asked(key)
    copy = Copy(named, key, shown, from_server(named, world, reporter, platform), time.time())
    with contextlib.suppress(StoreError, OSError):  # it can be used without being kept
        store.keep(key, copy)
    return copy


def _about_baseline(error: CetoolError) -> CetoolError:
    """Turn a download error into one about a baseline: statuses 126 and 127 are for the script itself."""
    if isinstance(error, (ScriptNotFoundError, UsageError)):
        return error.turned_into(MetadataError, code="baseline-invalid")
    return error


def parsed(data: bytes, named: str, shown: str, platform: str) -> Lock:
    """Return the packages in a baseline's content. Raises MetadataError, with file and line, if it is malformed."""
    if is_named(named):
        from cetool.app.named import lock_in_baseline  # few baselines are environments of a server

        return lock_in_baseline(data, shown)
    path = Path(named) if not is_remote(named) else Path(shown.rpartition("/")[2] or "baseline")
    try:
        return lock_in(data, path, shown, platform)[0]
    except MetadataError as error:
        if error.code != "lock-unrecognized":
            raise
        raise error.but(
            message="not a baseline",
            code="baseline-invalid",
            hint="Supported formats: @EXPLICIT, conda-lock.yml, pixi.lock. `cetool baseline create` writes a baseline.",
        ) from None

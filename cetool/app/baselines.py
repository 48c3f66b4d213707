"""The content of baselines: read or fetched, kept, and what is in it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from cetool.app.world import World
from cetool.base.errors import CetoolError, MetadataError, ScriptNotFoundError, StoreError, UsageError
from cetool.base.process import Consent
from cetool.base.text import printable
from cetool.base.values import Value
from cetool.declare.baselines import is_remote
from cetool.declare.source import read_bytes
from cetool.fetch.addresses import Address
from cetool.fetch.scripts import Known, fetch_script, locate_script
from cetool.lock.find import lock_in
from cetool.lock.model import Lock, PlatformLock
from cetool.store.keyed import BaselineStore, Copy, path_key


class Baseline(Value):
    """A baseline with the content that counts."""

    #: What messages call it.
    shown: str
    #: What it is kept by.
    key: str
    data: bytes
    lock: Lock

    def platform(self, platform: str) -> PlatformLock:
        """Its packages for a platform. Raises MetadataError where it has none."""
        locked = self.lock.platform(platform)
        if locked is None:
            there = ", ".join(each.platform for each in self.lock.platforms) or "no platform"
            raise MetadataError(
                f"the baseline {self.shown} has nothing for {platform}, only for {there}", code="lock-platform-missing"
            )
        return locked


def baseline_store(world: World) -> BaselineStore:
    """What is kept of baselines."""
    return BaselineStore(world.paths.baselines, trust=world.settings.trust_cache_dir)


def key_of(named: str, *, insecure: bool) -> tuple[str, str]:
    """What a baseline is kept by, and how messages call it. Raises MetadataError for a URL that cannot be used."""
    if not is_remote(named):
        return path_key(named), printable(named)
    address = locate(named, insecure=insecure)
    return address.key, address.shown


def locate(named: str, *, insecure: bool) -> Address:
    """The address of a baseline. Raises MetadataError for a URL that cannot be used."""
    try:
        return locate_script(named, insecure=insecure, what="baseline")
    except UsageError as error:
        raise _about_baseline(error) from None


def read_local(path: str) -> bytes:
    """The content of a baseline at a path. Raises MetadataError where it cannot be read."""
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
    """The content of a baseline at a URL as it is now; it is kept by ``key``, the address's own where None.

    Raises CetoolError where it cannot be fetched.
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
    with contextlib.suppress(StoreError, OSError):  # it can be used all the same
        store.keep(key, copy)
    return copy


def _about_baseline(error: CetoolError) -> CetoolError:
    """An error of fetching as one of a baseline: 126 and 127 are about the script itself."""
    if isinstance(error, (ScriptNotFoundError, UsageError)):
        return error.turned_into(MetadataError, code="baseline-invalid")
    return error


def parsed(data: bytes, named: str, shown: str, platform: str) -> Lock:
    """The packages in the content of a baseline. Raises MetadataError, with file and line, where it is none."""
    path = Path(named) if not is_remote(named) else Path(shown.rpartition("/")[2] or "baseline")
    try:
        return lock_in(data, path, shown, platform)[0]
    except MetadataError as error:
        if error.code != "lock-unrecognized":
            raise
        raise error.but(
            message="this is no baseline",
            code="baseline-invalid",
            hint="It can be an @EXPLICIT file, a conda-lock.yml or a pixi.lock: `cetool baseline create` writes one.",
        ) from None

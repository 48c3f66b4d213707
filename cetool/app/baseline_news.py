"""Changes of baselines: detected in the background, kept in a file, and reported by the next run."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from cetool.app.background import check_baselines_in_background
from cetool.app.baselines import (
    Baseline,
    baseline_store,
    fetch_baseline,
    fetch_named,
    key_of,
    locate,
    parsed,
    read_local,
)
from cetool.app.consent import OWN, consent_to
from cetool.app.decision import Subject
from cetool.app.reporting import Reporter, SilentReporter
from cetool.app.sources import open_source
from cetool.app.world import NOTHING, Evidence, World
from cetool.base.errors import CetoolError, StoreError
from cetool.base.process import Consent
from cetool.base.text import counted, printable
from cetool.base.urls import scrub
from cetool.declare.baselines import is_remote
from cetool.declare.metadata import read_metadata
from cetool.declare.named import is_named
from cetool.declare.source import read_bytes
from cetool.lock.model import Lock, PackageChange, PlatformLock, changes_between
from cetool.store.keyed import DAY, BaselineStore, Copy, News, use_key


def see_to_news(
    baseline: Baseline, path: str | None, store: BaselineStore, use: str, world: World, reporter: Reporter
) -> Evidence:
    """Report changes of the baseline of an existing environment, and start checks for more.

    ``path`` is its local path, None for a baseline at a URL.
    """
    if path is not None:  # every run that is not warm checks a local file
        with contextlib.suppress(CetoolError):  # the environment no longer needs it
            data = read_bytes(path, printable(path), "baseline")
            _note_news(store, use, _news_of(baseline, data, path, world.platform))
    _say_news(store, use, world, reporter)
    return _look_after(store, baseline.key if path is None else None, world)


def _differences(before: PlatformLock | None, now: PlatformLock | None) -> list[PackageChange]:
    """Return the packages that were added, removed, or have another version or build, sorted by name."""
    return changes_between(*(Lock(() if locked is None else (locked,)) for locked in (before, now)))


def _news_of(baseline: Baseline, data: bytes, named: str, platform: str) -> News | None:
    """Return the news that a baseline's current content means for an environment.

    None if its packages for the platform are unchanged, or if it is no longer a valid baseline.
    """
    if data == baseline.data:
        return None
    try:
        now = parsed(data, named, baseline.shown, platform).platform(platform)
    except CetoolError:
        return None
    before = baseline.lock.platform(platform)
    if now is None or before is None or now.digest == before.digest:
        return None
    count = len(_differences(before, now))
    packages = f"{counted(count, 'package')} {'differs' if count == 1 else 'differ'}"
    text = f"baseline {baseline.shown} has changed since this environment was made ({packages})"
    return News(now.digest, text)


def _note_news(store: BaselineStore, use: str, news: News | None) -> None:
    """Store news for the next run, or remove it. The same news is reported again after a day."""
    if news is None:
        store.clear_news(use)
        return
    before = store.news(use)
    if before is not None and before.content == news.content and not (before.told and time.time() - before.told >= DAY):
        return
    with contextlib.suppress(StoreError, OSError):
        store.tell(use, news)


def _say_news(store: BaselineStore, use: str, world: World, reporter: Reporter) -> None:
    news = store.news(use)
    if news is None or world.settings.verbosity == "quiet":
        return
    if news.told is not None and 0 <= time.time() - news.told < DAY:
        return
    reporter.warn(f"{news.text}; `cetool baseline status` shows the changes, --refresh applies them")
    with contextlib.suppress(StoreError, OSError):
        store.tell(use, news._replace(told=time.time()))


def _look_after(store: BaselineStore, key: str | None, world: World) -> Evidence:
    """Have a background process check, once a day, whether a baseline has changed."""
    if key is None or world.offline:
        return NOTHING
    stamp = b""
    if not world.settings.auto_gc:  # without collections, nothing else makes a warm run cold from time to time
        store.look()
        stamp = os.fsencode(store.looked)
    if store.is_due(key):
        check_baselines_in_background(world)
    return Evidence(stamp=stamp)


# --- status -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BaselineStatus:
    """How a script's baseline differs from what its environment was made from."""

    script: str
    #: The baseline's name in messages.
    shown: str
    #: ``current``, ``changed``, ``unused`` (no environment is made from it yet) or ``unknown``.
    state: str
    #: Why it is unknown.
    problem: str | None
    #: When its content was first used, in seconds since 1970.
    used_since: float | None
    changes: tuple[PackageChange, ...]


def baseline_status(target: str, world: World, reporter: Reporter, *, insecure: bool) -> list[BaselineStatus]:
    """Return how each baseline of a script differs from what its environment was made from. Raises CetoolError."""
    source, world = open_source(target, world, reporter, insecure=insecure)
    named = read_metadata(source.script).requirements.baselines
    name = source.script.name
    if not named:
        reporter.warn(f"{name} declares no baseline")
    consent = OWN
    if not world.offline and any(map(is_remote, named)):
        consent = consent_to(Subject(source), world, reporter)
    return [_status(name, each, source.identity, world, consent, insecure=insecure) for each in named]


def _status(
    script: str, named: str, about: str | None, world: World, consent: Consent, *, insecure: bool
) -> BaselineStatus:
    key, shown = key_of(named, insecure=insecure)
    used = None if about is None else baseline_store(world).uses.find(use_key(about, key))
    platform = world.platform
    changes: list[PackageChange] = []
    state, problem = "unused", None
    try:
        now = parsed(_now(named, world, consent, insecure=insecure), named, shown, platform).platform(platform)
        if used is not None:
            before = parsed(used.data, named, shown, platform).platform(platform)
            changes = _differences(before, now)
            state = "changed" if (now and now.digest) != (before and before.digest) else "current"
    except CetoolError as error:
        state, problem = "unknown", scrub(str(error))
    return BaselineStatus(script, shown, state, problem, None if used is None else used.checked, tuple(changes))


def _now(named: str, world: World, consent: Consent, *, insecure: bool) -> bytes:
    if not is_remote(named):
        return read_local(named)
    store = baseline_store(world)
    if is_named(named) and not world.offline:
        return fetch_named(named, store, world, SilentReporter(), world.platform).data
    if is_named(named):
        last = store.copies.find(key_of(named, insecure=insecure)[0])
        return _copied(last)
    address = locate(named, insecure=insecure)
    if not world.offline:
        return fetch_baseline(address, store, world, consent, insecure=insecure).data
    return _copied(store.copies.find(address.key))


def _copied(last: Copy | None) -> bytes:
    """Return what was downloaded last. Raises StoreError."""
    if last is None:
        raise StoreError("not downloaded yet", hint="Run again without --offline.")
    return last.data


# --- background checks ------------------------------------------------------------------------------------------------


def check_baselines(world: World) -> None:
    """Check the baselines that were not checked for a day; the next run reports changes."""
    if world.offline:
        return
    store = baseline_store(world)
    asked: set[str] = set()
    for key, copy in store.all_uses():
        with contextlib.suppress(CetoolError, OSError):
            _look_at(key, copy, asked, store, world)


def _look_at(key: str, copy: Copy, asked: set[str], store: BaselineStore, world: World) -> None:
    """Check whether the baseline of a script's environment has changed. Raises CetoolError or OSError."""
    if not is_remote(copy.url) or not (copy.address in asked or store.is_due(copy.address)):
        return
    if copy.address not in asked:
        asked.add(copy.address)
        store.asked(copy.address)
        if is_named(copy.url):
            fetch_named(copy.url, store, world, SilentReporter(), world.platform)
        else:
            # plain http was accepted for this baseline before
            insecure = copy.url.startswith("http:")
            address = locate(copy.url, insecure=insecure)
            fetch_baseline(address, store, world, OWN, insecure=insecure, key=copy.address)
    last = store.copies.find(copy.address)
    if last is not None:
        lock = parsed(copy.data, copy.url, copy.url, world.platform)
        baseline = Baseline(copy.url, key, copy.data, lock)
        _note_news(store, key, _news_of(baseline, last.data, copy.url, world.platform))

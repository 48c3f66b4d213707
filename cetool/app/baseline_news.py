"""What is new of baselines: found out by those who look, kept in a file, told in one line by the next run."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from cetool.app.baselines import Baseline, parsed
from cetool.base.errors import CetoolError, StoreError
from cetool.base.text import printable
from cetool.declare.source import read_bytes
from cetool.lock.model import Lock, PlatformLock
from cetool.store.baselines import DAY, BaselineStore, News

if TYPE_CHECKING:
    from cetool.app.session import Session


def see_to_news(baseline: Baseline, path: str | None, store: BaselineStore, use: str, session: Session) -> None:
    """Tell what is new of a baseline by whose content of before a script goes on, and have it looked after.

    ``path`` is where it lies on this machine, None for one at a URL.
    """
    if path is not None:
        _compare_local(path, baseline, store, use, session)
    _tell_news(store, use, session)
    _look_after(store, baseline.key if path is None else None, session)


def differences(before: PlatformLock | None, now: PlatformLock | None) -> list[dict[str, str | None]]:
    """The packages that are new, gone, or another version or build, by name."""
    from cetool.app.lock_report import changes_between

    def lock(locked: PlatformLock | None) -> Lock:
        return Lock(() if locked is None else (locked,))

    return changes_between(lock(before), lock(now))


def news_of(baseline: Baseline, data: bytes, named: str, platform: str) -> News | None:
    """The news that a baseline's content now is for an environment made from what counts; None where its packages for
    the platform are the same, and where it is no baseline any more.
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
    count = len(differences(before, now))
    packages = f"{count} packages differ" if count > 1 else "one package differs"
    text = f"the baseline {baseline.shown} has changed since this environment was made ({packages})"
    return News(now.digest, text)


def note_news(store: BaselineStore, use: str, news: News | None, *, again: bool) -> None:
    """Put news where the next run finds it, or take it back. With ``again`` the same is told once more after a day."""
    if news is None:
        store.clear_news(use)
        return
    before = store.news(use)
    same = before is not None and before.content == news.content
    if same and not (again and before is not None and before.told and time.time() - before.told >= DAY):
        return
    with contextlib.suppress(StoreError, OSError):
        store.tell(use, news)


def _compare_local(path: str, baseline: Baseline, store: BaselineStore, use: str, session: Session) -> None:
    """A file that is here is looked at by every run that is not a warm one."""
    try:
        data = read_bytes(path, printable(path), "baseline")
    except CetoolError:
        return  # the environment does not need it any more
    note_news(store, use, news_of(baseline, data, path, session.platform), again=True)


def _tell_news(store: BaselineStore, use: str, session: Session) -> None:
    news = store.news(use)
    if news is None or session.settings.verbosity == "quiet":
        return
    if news.told is not None and 0 <= time.time() - news.told < DAY:
        return
    session.voice.warn(f"{news.text}: --refresh follows, `cetool baseline status` shows how")
    with contextlib.suppress(StoreError, OSError):
        store.tell(use, news._replace(told=time.time()))


def _look_after(store: BaselineStore, key: str | None, session: Session) -> None:
    """Have it found out, once a day and by a process that nobody waits for, whether a baseline has changed."""
    if key is None or session.offline:
        return
    if not session.settings.auto_gc:  # nothing else leads a warm run here from time to time
        store.look()
        session.stamp = os.fsencode(store.looked)
    if store.is_due(key):
        from cetool.app.background import check_baselines_in_background

        check_baselines_in_background(session)

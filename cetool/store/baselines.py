"""What is kept of baselines: how each last came, which content each script's environment is made from, and news.

An environment stays as it was made, so the content that it was made from is kept for as long as the script is there.
News of a script's baseline is a file of its own: it is there, or not, and a launch record watches that.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cetool.base.errors import StoreError
from cetool.base.files import put_file, sha256_of
from cetool.base.limits import NOTE, read_json
from cetool.base.ownership import ensure_private_dir
from cetool.base.values import Value
from cetool.store.copies import Copy, CopyStore

#: Seconds between two looks at whether a baseline has changed, and between two tellings of the same news.
DAY = 86400.0
#: Seconds between two looks at whether there is one to be looked at.
HOUR = 3600.0
#: Seconds for which is kept what no script that is still there has asked for.
KEPT = 30 * DAY
_LOOKED = "looked"


class News(Value):
    """That a baseline has changed: ``text`` says it, ``content`` stands for the new content (SHA-256), ``told`` is when
    a run last said so, in seconds since 1970, or None.
    """

    content: str
    text: str
    told: float | None = None


class BaselineStore:
    """The files below one directory of this user's own.

    A baseline is known by the key of its address (:attr:`cetool.fetch.addresses.Address.key`, or of a path), a script's
    use of one by :func:`use_key`.
    """

    def __init__(self, directory: Path, *, trust: bool = False) -> None:
        self.directory = directory
        self._trust = trust
        #: The baselines by URL, as each last came.
        self.copies = CopyStore(directory / "copies", trust=trust)
        #: What scripts' environments are made from; of a :class:`Copy` here ``name`` is what the script is called by.
        self.uses = CopyStore(directory / "uses", trust=trust)

    def keep(self, key: str, copy: Copy) -> None:
        """Keep what came from an address. Raises StoreError or OSError where that cannot be."""
        self.copies.keep(key, copy)

    def use(self, key: str, copy: Copy) -> None:
        """Note what a script's environment is made from, which is no news then. Raises StoreError or OSError."""
        self.uses.keep(key, copy)
        self.clear_news(key)

    def all_uses(self) -> Iterator[tuple[str, Copy]]:
        """Every script's use of a baseline, by its key."""
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.uses.directory)):
                copy = self.uses.find(name)
                if copy is not None:
                    yield name, copy

    # --- news -------------------------------------------------------------------------------------------------------

    def news_path(self, key: str) -> Path:
        """The file that is there while there is news for a use."""
        return self.directory / "news" / key

    def news(self, key: str) -> News | None:
        """The news for a use."""
        try:
            data = read_json(self.news_path(key), NOTE, exact=True)
            told = data["told"]
            return News(str(data["content"]), str(data["text"]), None if told is None else float(told))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def tell(self, key: str, news: News) -> None:
        """Put news where the next run finds it. Raises StoreError or OSError."""
        path = self.news_path(key)
        ensure_private_dir(path.parent, trust=self._trust)
        put_file(path, json.dumps(news._asdict()).encode(), mode=0o600, sync=False)

    def clear_news(self, key: str) -> None:
        """Take back what is no news."""
        with contextlib.suppress(OSError):
            self.news_path(key).unlink()

    # --- when it was looked at ----------------------------------------------------------------------------------------

    def is_due(self, key: str) -> bool:
        """Whether a day has passed since the server of an address was asked."""
        return _older_than(self.directory / "checked" / key, DAY)

    def asked(self, key: str) -> None:
        """Note that it is asked now."""
        with contextlib.suppress(OSError, StoreError):
            ensure_private_dir(self.directory / "checked", trust=self._trust)
            _touch(self.directory / "checked" / key)

    def any_due(self) -> bool:
        """Whether there is any address of which it has been a day."""
        with contextlib.suppress(OSError):
            return any(self.is_due(name) for name in os.listdir(self.directory / "checked"))
        return False

    @property
    def looked(self) -> Path:
        """The file whose time says when a run last saw to it that news comes in."""
        return self.directory / _LOOKED

    def look(self) -> None:
        """Note that a run sees to it now, if none did for an hour."""
        with contextlib.suppress(OSError, StoreError):
            if _older_than(self.looked, HOUR):
                ensure_private_dir(self.directory, trust=self._trust)
                _touch(self.looked)

    # --- collection ---------------------------------------------------------------------------------------------------

    def collect(self, *, dry_run: bool = False) -> int:
        """Remove what no script asks for any more; the bytes that this frees."""
        if not self.directory.is_dir():
            return 0
        addresses = set()
        freed = 0
        for key, copy in self.all_uses():
            path = self.uses.directory / key
            if not os.path.isabs(copy.name) or os.path.lexists(copy.name) or not _older_than(path, KEPT):
                addresses.add(copy.address)
                continue
            freed += path.stat().st_size
            if not dry_run:
                self.clear_news(key)
                path.unlink(missing_ok=True)
        for kind in ("copies", "checked"):
            with contextlib.suppress(OSError):
                for name in os.listdir(self.directory / kind):
                    path = self.directory / kind / name
                    if name not in addresses and _older_than(path, KEPT):
                        freed += path.stat().st_size
                        if not dry_run:
                            path.unlink()
        return freed


def use_key(about: str, address: str) -> str:
    """What a script's use of a baseline is known by; ``about`` is the script's absolute path, or its URL."""
    return sha256_of(f"{about}\0{address}".encode("utf-8", "surrogatepass"))


def path_key(path: str) -> str:
    """What a baseline at a path is known by."""
    return sha256_of(f"file:{path}".encode("utf-8", "surrogatepass"))


def _older_than(path: Path, seconds: float) -> bool:
    """Whether so much time has passed since a file was written; true of one that is not there."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return True
    return not 0 <= age < seconds  # a time in the future tells that the clock was set back


def _touch(path: Path) -> None:
    path.touch(0o600)
    os.utime(path)

"""What is kept of baselines: how each last came, which content each script's environment is made from, and news.

An environment never changes, so the content that it was made from is kept for as long as the script is there.
News of a script's baseline is a file of its own: it is there, or not, and a launch record watches that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from cetool.base.codec import decode, encode, sha256_of
from cetool.base.limits import NOTE, parse_json
from cetool.base.values import Value
from cetool.store.keyed import Copy, CopyStore, KeyedFiles

#: Seconds between two looks at whether a baseline has changed, and between two reports of the same news.
DAY = 86400.0
#: Seconds between two looks at whether there is one to be looked at.
HOUR = 3600.0
#: Seconds for which is kept what no script that is still there has asked for.
KEPT = 30 * DAY
_LOOKED = "looked"


class News(Value):
    """That a baseline has changed."""

    #: The SHA-256 of the new content.
    content: str
    text: str
    #: When a run last reported it, in seconds since 1970.
    told: float | None = None


class BaselineStore:
    """The files below one directory of this user's own.

    A baseline is known by the key of its address (:attr:`cetool.fetch.addresses.Address.key`, or of a path), a script's
    use of one by :func:`use_key`.
    """

    def __init__(self, directory: Path, *, trust: bool = False) -> None:
        self.directory = directory
        #: The baselines by URL, as each last came.
        self.copies = CopyStore(directory / "copies", trust=trust)
        #: What scripts' environments are made from; of a :class:`Copy` here ``name`` is what the script is called by.
        self.uses = CopyStore(directory / "uses", trust=trust)
        #: When the server of an address was last asked.
        self.checked = KeyedFiles(directory / "checked", trust=trust)
        self._news = KeyedFiles(directory / "news", trust=trust)
        self._own = KeyedFiles(directory, trust=trust)

    def keep(self, key: str, copy: Copy) -> None:
        """Keep what came from an address. Raises StoreError or OSError where that cannot be."""
        self.copies.keep(key, copy)

    def use(self, key: str, copy: Copy) -> None:
        """Note what a script's environment is made from, which is no news then. Raises StoreError or OSError."""
        self.uses.keep(key, copy)
        self.clear_news(key)

    def all_uses(self) -> Iterator[tuple[str, Copy]]:
        """Every script's use of a baseline, by its key."""
        for key in self.uses:
            copy = self.uses.find(key)
            if copy is not None:
                yield key, copy

    # --- news -------------------------------------------------------------------------------------------------------

    def news_path(self, key: str) -> Path:
        """The file that is there while there is news for a use."""
        return self._news.path(key)

    def news(self, key: str) -> News | None:
        """The news for a use."""
        try:
            return decode(News, parse_json(self._news.read(key, NOTE), exact=True))
        except (OSError, ValueError):
            return None

    def tell(self, key: str, news: News) -> None:
        """Put news where the next run finds it. Raises StoreError or OSError."""
        self._news.write(key, json.dumps(encode(news)).encode())

    def clear_news(self, key: str) -> None:
        """Remove what is no news any more."""
        self._news.remove(key)

    # --- when it was looked at ----------------------------------------------------------------------------------------

    def is_due(self, key: str) -> bool:
        """Whether a day has passed since the server of an address was asked."""
        return self.checked.is_due(key, DAY)

    def asked(self, key: str) -> None:
        """Note that it is asked now."""
        self.checked.touch(key, create=True)

    def any_due(self) -> bool:
        """Whether there is any address of which it has been a day."""
        return any(map(self.is_due, self.checked))

    @property
    def looked(self) -> Path:
        """The file whose time says when a run last saw to it that news comes in."""
        return self._own.path(_LOOKED)

    def look(self) -> None:
        """Note that a run sees to it now, if none did for an hour."""
        if self._own.is_due(_LOOKED, HOUR):
            self._own.touch(_LOOKED, create=True)


def use_key(about: str, address: str) -> str:
    """What a script's use of a baseline is known by; ``about`` is the script's absolute path, or its URL."""
    return sha256_of(f"{about}\0{address}".encode("utf-8", "surrogatepass"))


def path_key(path: str) -> str:
    """What a baseline at a path is known by."""
    return sha256_of(f"file:{path}".encode("utf-8", "surrogatepass"))


def is_script_gone(copy: Copy) -> bool:
    """Whether the script of a use is a file that is no longer there; of one from a URL that cannot be known."""
    return os.path.isabs(copy.name) and not os.path.lexists(copy.name)

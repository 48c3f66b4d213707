"""Small files by key: copies of scripts from URLs, answers about scripts, and what is kept of baselines.

Copies allow runs without a network, and revalidation instead of a download. A copy is one file, so that it is complete
or absent: a line of JSON, then the script's bytes. Scripts do not run from there, so a copy needs no lock. Answers are
not a cache: no collection removes them, and they are stored apart from what can be fetched again.

An environment never changes, so the content of the baselines that it was made from is kept as long as its script
exists. News about a script's baseline is a separate file whose existence a launch record checks.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cetool.base.codec import decode, encode, sha256_of
from cetool.base.durations import is_due
from cetool.base.errors import StoreError
from cetool.base.files import put_file, sync_directory
from cetool.base.limits import NOTE, SCRIPT, parse_json, read_regular
from cetool.base.ownership import ensure_private_dir
from cetool.base.text import pattern
from cetool.base.values import Value

_COPY_SCHEMA = "cetool.copy/1"
#: Seconds for which a copy is kept after its last use.
COPIES_KEPT = 30 * 86400.0
#: Keys of copies and answers: SHA-256 digests.
SHA256 = pattern(r"[0-9a-f]{64}\Z")
_LARGEST_HEAD = 64 * 1024


class KeyedFiles:
    """Files in a private directory (0700), each written in one step."""

    def __init__(self, directory: Path, *, trust: bool = False, suffix: str = "", sync: bool = False) -> None:
        self.directory = directory
        self._trust = trust
        self._suffix = suffix
        self._sync = sync

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.directory / f"{key}{self._suffix}"

    def check(self) -> None:
        """Raise StoreError if another user could have written the files."""
        ensure_private_dir(self.directory, trust=self._trust, writable=False)

    def __iter__(self) -> Iterator[str]:
        """Yield the keys of all files, sorted."""
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.directory)):
                if name.endswith(self._suffix):
                    yield name.removesuffix(self._suffix)

    def read(self, key: str, limit: int) -> bytes:
        """Return the bytes of a regular file. Raises OSError."""
        return read_regular(self.path(key), limit, follow=False)

    def write(self, key: str, data: bytes) -> None:
        """Write or replace a file (0600). Raises StoreError or OSError."""
        ensure_private_dir(self.directory, trust=self._trust)
        put_file(self.path(key), data, mode=0o600, sync=self._sync)

    def remove(self, key: str) -> None:
        """Remove a file, if it exists."""
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def touch(self, key: str, *, create: bool = False) -> None:
        """Set a file's time to now, if possible."""
        with contextlib.suppress(OSError, StoreError):
            if create:
                ensure_private_dir(self.directory, trust=self._trust)
                self.path(key).touch(0o600)
            os.utime(self.path(key))

    def is_due(self, key: str, seconds: float) -> bool:
        """Return whether a file is at least this old or does not exist."""
        try:
            return is_due(self.path(key).stat().st_mtime, seconds)
        except OSError:
            return True


class Copy(Value):
    """A script as last downloaded."""

    #: Final URL, without credentials, and its key.
    url: str
    address: str
    #: File name.
    name: str
    data: bytes
    #: When the server last confirmed this content, in seconds since 1970.
    checked: float
    #: The server's validators.
    etag: str | None = None
    modified: str | None = None


class CopyStore(KeyedFiles):
    """Copies by the key of the requested address."""

    def find(self, key: str) -> Copy | None:
        """Return the copy for an address; None if it is missing, damaged, or another user could have written it."""
        try:
            self.check()
            text, _, data = self.read(key, _LARGEST_HEAD + SCRIPT).partition(b"\n")
            head = parse_json(text, exact=True)
            if head["schema"] != _COPY_SCHEMA or head["sha256"] != sha256_of(data):
                return None
            etag, modified = (None if head[name] is None else str(head[name]) for name in ("etag", "modified"))
            url, address, name = (str(head[part]) for part in ("url", "address", "name"))
            return Copy(url, address, name, data, float(head["checked"]), etag, modified)
        except (OSError, StoreError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def keep(self, key: str, copy: Copy) -> None:
        """Write or replace a copy. Raises StoreError or OSError."""
        head = {"schema": _COPY_SCHEMA, "sha256": sha256_of(copy.data), **copy._asdict()}
        del head["data"]
        self.write(key, json.dumps(head).encode() + b"\n" + copy.data)


_TRUSTED_SCHEMA = "cetool.trusted/2"
#: The previous format: its question did not show embedded locks, nor all places.
_FORMER = "cetool.trusted/1"
_LARGEST = 1 << 20
_ELSEWHERE = "Set CETOOL_DATA_DIR to a directory that only you can write to."


@dataclass(frozen=True)
class Trusted:
    """The user's agreement to run the content with this digest."""

    sha256: str
    #: Where it came from at the time, without credentials.
    url: str
    #: Seconds since 1970.
    date: float
    #: ``asked``, ``--yes`` or ``--sha256``.
    how: str
    #: Local directories and files that it depends on: package sources, bases, baselines, and the working directory if
    #: it matters.
    places: tuple[str, ...] = ()
    #: False for an answer to a question that did not show a lock in the script.
    complete: bool = True

    def covers(self, places: Collection[str], *, embedded_lock: bool) -> bool:
        """Return whether the answer covers a use of these places and of a lock in the script."""
        return set(places) <= set(self.places) and (self.complete or not embedded_lock)


class TrustStore(KeyedFiles):
    """All answers, each in a file that is written in one step."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, suffix=".json", sync=True)

    def find(self, sha256: str) -> Trusted | None:
        """Return the answer for this content. Raises StoreError if another user could have written it."""
        self.check()
        return self._find(sha256)

    def all(self) -> list[Trusted]:
        """Return all answers, the newest first. Raises StoreError if another user could have written them."""
        self.check()
        found = [self._find(key) for key in self if SHA256.match(key)]
        return sorted((item for item in found if item is not None), key=lambda item: (-item.date, item.sha256))

    def last_from(self, url: str) -> Trusted | None:
        """Return the newest answer for anything from this URL. Raises StoreError like :meth:`all`."""
        return next((item for item in self.all() if item.url == url), None)

    def add(self, trusted: Trusted) -> None:
        """Store an answer, replacing an earlier one for the same content. Raises StoreError."""
        kept = encode(trusted, schema=_TRUSTED_SCHEMA)
        del kept["complete"]
        try:
            self.write(trusted.sha256, json.dumps(kept, indent=1).encode())
        except StoreError as error:
            raise error.but(hint=_ELSEWHERE) from None
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.directory}: {error.strerror}", code="cache-not-writable", hint=_ELSEWHERE
            ) from None

    def forget(self, sha256: str) -> bool:
        """Withdraw an answer; return whether there was one. Raises StoreError."""
        path = self.path(sha256)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"cannot remove {path}: {error.strerror}", code="cache-not-writable") from None
        sync_directory(self.directory)
        return True

    def check(self) -> None:
        """Raise StoreError if another user could have written the answers."""
        try:
            super().check()
        except StoreError as error:
            raise error.but(hint=_ELSEWHERE) from None

    def _find(self, sha256: str) -> Trusted | None:
        """Return one answer; None if the file is missing or not in this format."""
        try:
            status = self.path(sha256).lstat()
            data = parse_json(self.read(sha256, _LARGEST), exact=True)
            found = replace(decode(Trusted, data), complete=data.get("schema") == _TRUSTED_SCHEMA)
        except (OSError, ValueError):
            return None
        ours = _own(status) and data.get("schema") in (_TRUSTED_SCHEMA, _FORMER)
        return found if ours and found.sha256 == sha256 else None


def _own(status: os.stat_result) -> bool:
    """Return whether no other user could have written the file."""
    if os.name == "nt":
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and status.st_nlink == 1


#: Seconds between two checks whether a baseline has changed, and between two reports of the same news.
DAY = 86400.0
#: Seconds between two searches for baselines that are due for a check.
HOUR = 3600.0
#: Seconds for which files are kept that no existing script uses.
BASELINES_KEPT = 30 * DAY
_LOOKED = "looked"


class News(Value):
    """News that a baseline has changed."""

    #: SHA-256 of the new content.
    content: str
    text: str
    #: When a run last reported it, in seconds since 1970.
    told: float | None = None


class BaselineStore:
    """The files of baselines, below one private directory.

    A baseline's key is that of its address (:attr:`cetool.fetch.addresses.Address.key`) or path; the key of a script's
    use of one comes from :func:`use_key`.
    """

    def __init__(self, directory: Path, *, trust: bool = False) -> None:
        self.directory = directory
        #: The last downloaded copies of baselines, by URL.
        self.copies = CopyStore(directory / "copies", trust=trust)
        #: What scripts' environments are made from; in these copies ``name`` is the script.
        self.uses = CopyStore(directory / "uses", trust=trust)
        #: When the server of an address was last asked.
        self.checked = KeyedFiles(directory / "checked", trust=trust)
        self._news = KeyedFiles(directory / "news", trust=trust)
        self._own = KeyedFiles(directory, trust=trust)

    def keep(self, key: str, copy: Copy) -> None:
        """Keep the content of an address. Raises StoreError or OSError."""
        self.copies.keep(key, copy)

    def use(self, key: str, copy: Copy) -> None:
        """Note the content that a script's environment is made from, and remove news about it. Raises StoreError or
        OSError.
        """
        self.uses.keep(key, copy)
        self.clear_news(key)

    def all_uses(self) -> Iterator[tuple[str, Copy]]:
        """Yield every script's use of a baseline, with its key."""
        for key in self.uses:
            copy = self.uses.find(key)
            if copy is not None:
                yield key, copy

    # --- news ---------------------------------------------------------------------------------------------------------

    def news_path(self, key: str) -> Path:
        """Return the file that exists while there is news for a use."""
        return self._news.path(key)

    def news(self, key: str) -> News | None:
        """Return the news for a use."""
        try:
            return decode(News, parse_json(self._news.read(key, NOTE), exact=True))
        except (OSError, ValueError):
            return None

    def tell(self, key: str, news: News) -> None:
        """Write news for the next run. Raises StoreError or OSError."""
        self._news.write(key, json.dumps(encode(news)).encode())

    def clear_news(self, key: str) -> None:
        """Remove news that no longer applies."""
        self._news.remove(key)

    # --- times of checks ----------------------------------------------------------------------------------------------

    def is_due(self, key: str) -> bool:
        """Return whether the server of an address was last asked a day ago or earlier."""
        return self.checked.is_due(key, DAY)

    def asked(self, key: str) -> None:
        """Note that the server is asked now."""
        self.checked.touch(key, create=True)

    def any_due(self) -> bool:
        """Return whether any address is due."""
        return any(map(self.is_due, self.checked))

    @property
    def looked(self) -> Path:
        """The file whose time is when a run last started a check."""
        return self._own.path(_LOOKED)

    def look(self) -> None:
        """Note that a run starts a check now, unless one did within the last hour."""
        if self._own.is_due(_LOOKED, HOUR):
            self._own.touch(_LOOKED, create=True)


def use_key(about: str, address: str) -> str:
    """Return the key of a script's use of a baseline; ``about`` is the script's absolute path, or its URL."""
    return sha256_of(f"{about}\0{address}".encode("utf-8", "surrogatepass"))


def path_key(path: str) -> str:
    """Return the key of a baseline at a path."""
    return sha256_of(f"file:{path}".encode("utf-8", "surrogatepass"))


def is_script_gone(copy: Copy) -> bool:
    """Return whether the script of a use was a file that no longer exists; always false for a URL."""
    return os.path.isabs(copy.name) and not os.path.lexists(copy.name)

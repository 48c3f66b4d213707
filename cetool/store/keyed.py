"""Small files by key: the last copy of each script from a URL, answers about scripts, and what is kept of baselines.

Copies are for runs without a network, and so that a server is asked only for what has changed. A copy is one file, so
that it is whole or absent: a line of JSON, then the script's bytes. It is not executed where it is, so nothing has to
hold it. Answers are no cache: no collection takes them, and they are apart from what can be fetched again.

An environment never changes, so the content of the baselines that it was made from is kept as long as its script is
there. News of a script's baseline is a file of its own: it is there, or not, and a launch record watches that."""

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
#: The keys of copies and answers: SHA-256 digests.
SHA256 = pattern(r"[0-9a-f]{64}\Z")
_LARGEST_HEAD = 64 * 1024


class KeyedFiles:
    """Files in one directory of this user's own, 0700; each is written in one step."""

    def __init__(self, directory: Path, *, trust: bool = False, suffix: str = "", sync: bool = False) -> None:
        self.directory = directory
        self._trust = trust
        self._suffix = suffix
        self._sync = sync

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.directory / f"{key}{self._suffix}"

    def check(self) -> None:
        """Raise StoreError where others could have written the files."""
        ensure_private_dir(self.directory, trust=self._trust, writable=False)

    def __iter__(self) -> Iterator[str]:
        """The keys of all files, sorted."""
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.directory)):
                if name.endswith(self._suffix):
                    yield name.removesuffix(self._suffix)

    def read(self, key: str, limit: int) -> bytes:
        """The bytes of a regular file. Raises OSError."""
        return read_regular(self.path(key), limit, follow=False)

    def write(self, key: str, data: bytes) -> None:
        """Write a file, 0600, in place of the one before. Raises StoreError or OSError."""
        ensure_private_dir(self.directory, trust=self._trust)
        put_file(self.path(key), data, mode=0o600, sync=self._sync)

    def remove(self, key: str) -> None:
        """Remove a file where there is one."""
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def touch(self, key: str, *, create: bool = False) -> None:
        """Let a file's time be now; that it cannot be set is no error."""
        with contextlib.suppress(OSError, StoreError):
            if create:
                ensure_private_dir(self.directory, trust=self._trust)
                self.path(key).touch(0o600)
            os.utime(self.path(key))

    def is_due(self, key: str, seconds: float) -> bool:
        """Whether so much time has passed since a file was written; true where there is none."""
        try:
            return is_due(self.path(key).stat().st_mtime, seconds)
        except OSError:
            return True


class Copy(Value):
    """A script as it last came."""

    #: Where it was in the end, without credentials, and the key of that address.
    url: str
    address: str
    #: Its file name.
    name: str
    data: bytes
    #: When the server last had it so, in seconds since 1970.
    checked: float
    #: What the server said.
    etag: str | None = None
    modified: str | None = None


class CopyStore(KeyedFiles):
    """Copies by the keys of the addresses that were asked for."""

    def find(self, key: str) -> Copy | None:
        """The copy of what was asked for by this address; None where it is damaged, or others could have written it."""
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
        """Keep a copy in place of the one before. Raises StoreError or OSError where it cannot be written."""
        head = {"schema": _COPY_SCHEMA, "sha256": sha256_of(copy.data), **copy._asdict()}
        del head["data"]
        self.write(key, json.dumps(head).encode() + b"\n" + copy.data)


_TRUSTED_SCHEMA = "cetool.trusted/2"
#: What the version before wrote: its question showed no embedded locks, and not all places.
_FORMER = "cetool.trusted/1"
_LARGEST = 1 << 20
_ELSEWHERE = "Set CETOOL_DATA_DIR to a directory that is yours alone."


@dataclass(frozen=True)
class Trusted:
    """That the user agreed to run what has this digest."""

    sha256: str
    #: Where it came from then, without credentials.
    url: str
    #: Seconds since 1970.
    date: float
    #: ``asked``, ``--yes`` or ``--sha256``.
    how: str
    #: The directories and files of this machine that it depends on: what packages are taken from, bases, baselines, and
    #: the working directory where that decides.
    places: tuple[str, ...] = ()
    #: False for an answer to a question that did not show a lock in the script.
    complete: bool = True

    def covers(self, places: Collection[str], *, embedded_lock: bool) -> bool:
        """Whether the answer holds for a use of these places, and of a lock in the script."""
        return set(places) <= set(self.places) and (self.complete or not embedded_lock)


class TrustStore(KeyedFiles):
    """All answers; each is a file that is written in one step."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, suffix=".json", sync=True)

    def find(self, sha256: str) -> Trusted | None:
        """The answer for this content. Raises StoreError where others could have written it."""
        self.check()
        return self._find(sha256)

    def all(self) -> list[Trusted]:
        """All answers, the newest first. Raises StoreError where others could have written them."""
        self.check()
        found = [self._find(key) for key in self if SHA256.match(key)]
        return sorted((item for item in found if item is not None), key=lambda item: (-item.date, item.sha256))

    def last_from(self, url: str) -> Trusted | None:
        """The newest answer for anything that came from this URL. Raises StoreError as :meth:`all`."""
        return next((item for item in self.all() if item.url == url), None)

    def add(self, trusted: Trusted) -> None:
        """Remember an answer, in place of an earlier one for the same content. Raises StoreError with the reason."""
        kept = encode(trusted, schema=_TRUSTED_SCHEMA)
        del kept["complete"]
        try:
            self.write(trusted.sha256, json.dumps(kept, indent=1).encode())
        except StoreError as error:
            raise error.but(hint=_ELSEWHERE) from None
        except OSError as error:
            raise StoreError(
                f"{self.directory} cannot be written to: {error.strerror}", code="cache-not-writable", hint=_ELSEWHERE
            ) from None

    def forget(self, sha256: str) -> bool:
        """Take an answer back; whether there was one. Raises StoreError where it cannot be."""
        path = self.path(sha256)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"{path} cannot be removed: {error.strerror}", code="cache-not-writable") from None
        sync_directory(self.directory)
        return True

    def check(self) -> None:
        """Raise StoreError where others could have written the answers."""
        try:
            super().check()
        except StoreError as error:
            raise error.but(hint=_ELSEWHERE) from None

    def _find(self, sha256: str) -> Trusted | None:
        """One answer; what is no file of this form is none."""
        try:
            status = self.path(sha256).lstat()
            data = parse_json(self.read(sha256, _LARGEST), exact=True)
            found = replace(decode(Trusted, data), complete=data.get("schema") == _TRUSTED_SCHEMA)
        except (OSError, ValueError):
            return None
        ours = _own(status) and data.get("schema") in (_TRUSTED_SCHEMA, _FORMER)
        return found if ours and found.sha256 == sha256 else None


def _own(status: os.stat_result) -> bool:
    """Whether no other user could have written the file."""
    if os.name == "nt":
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and status.st_nlink == 1


#: Seconds between two looks at whether a baseline has changed, and between two reports of the same news.
DAY = 86400.0
#: Seconds between two looks at whether there is one to be looked at.
HOUR = 3600.0
#: Seconds for which is kept what no script that is still there has asked for.
BASELINES_KEPT = 30 * DAY
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

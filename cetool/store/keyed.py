"""Small files by key, and what is kept that way of each script that ran from a URL: its last copy.

Copies are for runs without a network, and so that a server is asked only for what has changed. A copy is one file, so
that it is whole or absent: a line of JSON, then the script's bytes. It is not executed where it lies, so nothing has to
hold it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from cetool.base.codec import sha256_of
from cetool.base.durations import is_due
from cetool.base.errors import StoreError
from cetool.base.files import put_file
from cetool.base.limits import SCRIPT, parse_json, read_regular
from cetool.base.ownership import ensure_private_dir
from cetool.base.text import pattern
from cetool.base.values import Value

SCHEMA = "cetool.copy/1"
#: Seconds for which a copy is kept after its last use.
KEPT = 30 * 86400.0
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
            if head["schema"] != SCHEMA or head["sha256"] != sha256_of(data):
                return None
            etag, modified = (None if head[name] is None else str(head[name]) for name in ("etag", "modified"))
            url, address, name = (str(head[part]) for part in ("url", "address", "name"))
            return Copy(url, address, name, data, float(head["checked"]), etag, modified)
        except (OSError, StoreError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def keep(self, key: str, copy: Copy) -> None:
        """Keep a copy in place of the one before. Raises StoreError or OSError where it cannot be written."""
        head = {"schema": SCHEMA, "sha256": sha256_of(copy.data), **copy._asdict()}
        del head["data"]
        self.write(key, json.dumps(head).encode() + b"\n" + copy.data)

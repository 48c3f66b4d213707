"""The last copy of each script that ran from a URL: for runs without a network, and to ask only for what has changed.

A copy is one file, so that it is whole or absent: a line of JSON, then the script's bytes. It is not executed where it
lies, so nothing has to hold it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cetool.base.errors import StoreError
from cetool.base.files import put_file, sha256_of
from cetool.base.limits import parse_json
from cetool.base.ownership import ensure_private_dir
from cetool.base.values import Value

SCHEMA = "cetool.copy/1"
#: Seconds for which a copy is kept after its last use.
KEPT = 30 * 86400.0
_NAME = re.compile(r"[0-9a-f]{64}\Z")
_LARGEST_HEAD = 64 * 1024
_LARGEST = 11 * 1024 * 1024
#: Seconds after which what a killed process began to write is nobody's.
_ABANDONED = 3600.0


class Copy(Value):
    """A script as it last came.

    ``url`` is where it lay in the end, without credentials, ``address`` the key of that address; ``name`` is its file
    name; ``checked`` when the server last had it so, in seconds since 1970; ``etag`` and ``modified`` what it said.
    """

    url: str
    address: str
    name: str
    data: bytes
    checked: float
    etag: str | None = None
    modified: str | None = None


class CopyStore:
    """Copies by the keys of the addresses that were asked for, in one directory of this user's own."""

    def __init__(self, directory: Path, *, trust: bool = False) -> None:
        self.directory = directory
        self._trust = trust

    def find(self, key: str) -> Copy | None:
        """The copy of what was asked for by this address; None where it is damaged, or others could have written it."""
        try:
            ensure_private_dir(self.directory, trust=self._trust, writable=False)
        except StoreError:
            return None
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            with open(os.open(self.directory / key, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return None
                head = parse_json(file.readline(_LARGEST_HEAD), exact=True)
                data = file.read(_LARGEST)
            if head["schema"] != SCHEMA or head["sha256"] != sha256_of(data):
                return None
            etag, modified = (None if head[name] is None else str(head[name]) for name in ("etag", "modified"))
            url, address, name = (str(head[part]) for part in ("url", "address", "name"))
            return Copy(url, address, name, data, float(head["checked"]), etag, modified)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def keep(self, key: str, copy: Copy) -> None:
        """Keep a copy in place of the one before. Raises StoreError or OSError where it cannot be written."""
        ensure_private_dir(self.directory, trust=self._trust)
        head = {
            "schema": SCHEMA,
            "url": copy.url,
            "address": copy.address,
            "name": copy.name,
            "sha256": sha256_of(copy.data),
            "checked": copy.checked,
            "etag": copy.etag,
            "modified": copy.modified,
        }
        data = json.dumps(head).encode() + b"\n" + copy.data
        put_file(self.directory / key, data, mode=0o600, sync=False)

    def touch(self, key: str) -> None:
        """Note a use."""
        with contextlib.suppress(OSError):
            os.utime(self.directory / key)

    def collect(self, older_than: float, *, dry_run: bool = False) -> int:
        """Remove what was unused for at least so many seconds; the bytes that this frees."""
        freed = 0
        for path, limit in self._files(older_than):
            with contextlib.suppress(OSError, StoreError):
                status = path.stat(follow_symlinks=False)
                # a clock that was set back makes a use lie in the future: that one was just now
                if stat.S_ISREG(status.st_mode) and max(0.0, time.time() - status.st_mtime) >= limit:
                    if not dry_run:
                        path.unlink()
                    freed += getattr(status, "st_blocks", 0) * 512
        return freed

    def _files(self, older_than: float) -> Iterator[tuple[Path, float]]:
        """Copies, and what was begun and never finished, each with the age at which it goes."""
        try:
            names = sorted(os.listdir(self.directory))
        except OSError:
            return
        for name in names:
            if _NAME.match(name):
                yield self.directory / name, older_than
            elif name.startswith(".") and name.endswith(".cetool"):
                yield self.directory / name, _ABANDONED

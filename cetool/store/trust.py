"""Which scripts from elsewhere the user agreed to run, by the SHA-256 of their content: one small file for each.

These are answers, not a cache: no collection takes them, and they lie apart from what can be had again.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from cetool.base.codec import decode, encode
from cetool.base.errors import StoreError
from cetool.base.files import sync_directory
from cetool.base.limits import parse_json
from cetool.store.keyed import SHA256, KeyedFiles

SCHEMA = "cetool.trusted/2"
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
        kept = encode(trusted, schema=SCHEMA)
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
            found = replace(decode(Trusted, data), complete=data.get("schema") == SCHEMA)
        except (OSError, ValueError):
            return None
        ours = _own(status) and data.get("schema") in (SCHEMA, _FORMER)
        return found if ours and found.sha256 == sha256 else None


def _own(status: os.stat_result) -> bool:
    """Whether no other user could have written the file."""
    if os.name == "nt":
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and status.st_nlink == 1

"""Which scripts from elsewhere the user agreed to run, by the SHA-256 of their content: one small file for each.

These are answers, not a cache: no collection takes them, and they lie apart from what can be had again.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from cetool.base.errors import StoreError
from cetool.base.files import put_file, sync_directory
from cetool.base.limits import parse_json
from cetool.base.ownership import ensure_private_dir

SCHEMA = "cetool.trusted/2"
#: What the version before wrote: its question showed no embedded locks, and not all places.
_FORMER = "cetool.trusted/1"
_NAME = re.compile(r"([0-9a-f]{64})\.json\Z")
_LARGEST = 1 << 20
_ELSEWHERE = "Set CETOOL_DATA_DIR to a directory that is yours alone."


@dataclass(frozen=True)
class Trusted:
    """That the user agreed to run what has this digest.

    ``url`` is where it came from then, without credentials; ``date`` seconds since 1970; ``how`` it was agreed to:
    ``asked``, ``--yes`` or ``--sha256``; ``places`` are the directories and files of this machine that it depends on:
    what packages are taken from, bases, baselines, and the working directory where that decides. ``complete`` is false
    for an answer to a question that did not show a lock in the script.
    """

    sha256: str
    url: str
    date: float
    how: str
    places: tuple[str, ...] = ()
    complete: bool = True

    def covers(self, places: Collection[str], *, embedded_lock: bool) -> bool:
        """Whether the answer holds for a use of these places, and of a lock in the script."""
        return set(places) <= set(self.places) and (self.complete or not embedded_lock)


class TrustStore:
    """All answers in one directory of this user's own, 0700; each is a file that is written in one step."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def find(self, sha256: str) -> Trusted | None:
        """The answer for this content. Raises StoreError where others could have written it."""
        self._check()
        return self._read(sha256)

    def all(self) -> list[Trusted]:
        """All answers, the newest first. Raises StoreError where others could have written them."""
        self._check()
        try:
            names = os.listdir(self.directory)
        except OSError:
            return []
        found = [self._read(match[1]) for name in names if (match := _NAME.match(name))]
        return sorted((item for item in found if item is not None), key=lambda item: (-item.date, item.sha256))

    def last_from(self, url: str) -> Trusted | None:
        """The newest answer for anything that came from this URL. Raises StoreError as :meth:`all`."""
        return next((item for item in self.all() if item.url == url), None)

    def add(self, trusted: Trusted) -> None:
        """Remember an answer, in place of an earlier one for the same content. Raises StoreError with the reason."""
        try:
            ensure_private_dir(self.directory, trust=False)
            kept = {key: value for key, value in asdict(trusted).items() if key != "complete"}
            data = json.dumps({"schema": SCHEMA, **kept}, indent=1)
            put_file(self._path(trusted.sha256), data.encode(), mode=0o600)
        except StoreError as error:
            raise error.but(hint=_ELSEWHERE) from None
        except OSError as error:
            raise StoreError(
                f"{self.directory} cannot be written to: {error.strerror}", code="cache-not-writable", hint=_ELSEWHERE
            ) from None

    def forget(self, sha256: str) -> bool:
        """Take an answer back; whether there was one. Raises StoreError where it cannot be."""
        try:
            self._path(sha256).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self._path(sha256)} cannot be removed: {error.strerror}", code="cache-not-writable"
            ) from None
        sync_directory(self.directory)
        return True

    def _path(self, sha256: str) -> Path:
        return self.directory / f"{sha256}.json"

    def _check(self) -> None:
        try:
            ensure_private_dir(self.directory, trust=False, writable=False)
        except StoreError as error:
            raise error.but(hint=_ELSEWHERE) from None

    def _read(self, sha256: str) -> Trusted | None:
        """One answer; what is no file of this form is none."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            with open(os.open(self._path(sha256), flags), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST or not _own(status):
                    return None
                data = parse_json(file.read(_LARGEST), exact=True)
            found = Trusted(
                str(data["sha256"]),
                str(data["url"]),
                float(data["date"]),
                str(data["how"]),
                tuple(map(str, data["places"])),
                data.get("schema") == SCHEMA,
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return found if data.get("schema") in (SCHEMA, _FORMER) and found.sha256 == sha256 else None


def _own(status: os.stat_result) -> bool:
    """Whether nobody else could have written the file."""
    if os.name == "nt":
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and status.st_nlink == 1

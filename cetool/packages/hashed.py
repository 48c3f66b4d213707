"""Remembers what the files of unpacked packages hashed to, so that linking them again need not read them all again.

As in git's index, a file whose inode, time of change and size are what they were when it was hashed counts as having
the content that it had then. What is remembered lies in the unpacked package itself, and goes when that is replaced.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cetool.base.files import sync_file_system
from cetool.base.limits import PACKAGE, read_json
from cetool.packages.verify import linked_from

#: Nanoseconds that a file must have been left alone for: the clock of a file system has ticks, within which it could
#: be changed once more and keep its time. Some have whole seconds.
_TICK = 100_000_000
_COARSE_TICK = 2_000_000_000
_KEPT = Path("info", "cetool-hashes.json")
#: Time of change in nanoseconds since 1970, size in bytes, SHA-256 in lowercase hex digits.
Known = tuple[int, int, str]


class Hashed:
    """What is known of the files of an environment from when the packages that it was linked from were last hashed.

    ``there`` has the status of each file by its path below the prefix, taken just before; ``learns`` whether more may
    be remembered: only in a package cache that is the tool's own.
    """

    def __init__(self, there: Mapping[str, os.stat_result], *, learns: bool) -> None:
        self._there = there
        self._learns = learns
        self._began = time.time_ns()
        self._known: dict[str, dict[int, Known]] = {}
        self._news: dict[str, dict[int, Known]] = {}
        self._sources: dict[str, Path] = {}

    def whole(self, package: str, record: Mapping[str, Any], hashes: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Those of the files of a package, by their paths below the prefix and SHA-256, that are known to have it."""
        source = linked_from(record)
        if source is None:
            return
        self._sources[package] = source
        self._known[package] = known = _recall(source)
        if not known:
            return
        there = self._there
        for path, sha256 in hashes:  # thousands
            status = there.get(path)
            if (
                status is not None
                and known.get(status.st_ino) == (status.st_mtime_ns, status.st_size, sha256)
                and stat.S_ISREG(status.st_mode)
            ):
                yield path

    def learn(self, package: str, path: str, sha256: str) -> None:
        """A file of a package was hashed just now."""
        status = self._there.get(path)
        # one that has no other name was not linked from the package, but copied
        if not self._learns or status is None or status.st_nlink < 2 or not stat.S_ISREG(status.st_mode):
            return
        tick = _TICK if status.st_mtime_ns % 1_000_000_000 else _COARSE_TICK
        if status.st_mtime_ns < self._began - tick:
            news = self._news.setdefault(package, {})
            news[status.st_ino] = (status.st_mtime_ns, status.st_size, sha256)

    def keep(self) -> None:
        """Write down what was learnt; where that cannot be done it is learnt again."""
        news = {package: found for package, found in self._news.items() if package in self._sources}
        with suppress(OSError):
            # after a power cut a file can have its time and size, and nothing of its content
            for cache in {self._sources[package].parent for package in news}:
                sync_file_system(cache)
            for package, found in news.items():
                files = [[inode, *known] for inode, known in {**self._known[package], **found}.items()]
                _put(self._sources[package] / _KEPT, json.dumps({"version": 1, "files": files}))


def _put(place: Path, text: str) -> None:
    """Write the notes in one step, unless another does."""
    temporary = place.with_name(f".{place.name}.new")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:  # what one left who was killed goes; where one is at it, neither is in the other's way
        temporary.unlink()
        return
    os.replace(temporary, place)


def _recall(package: Path) -> dict[int, Known]:
    try:
        kept = read_json(package / _KEPT, PACKAGE, exact=True)
        if kept["version"] != 1:
            return {}
        return {inode: (changed, size, sha256) for inode, changed, size, sha256 in kept["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # TypeError: no list, or one that has no hash
        return {}

"""Hashes of files, and what the files of unpacked packages hashed to when they were linked before."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

from cetool.base.files import put_file, sync_file_system
from cetool.base.limits import PACKAGE, read_json
from cetool.packages.prefix import PackagePath, PrefixRecord

_BLOCK = 1 << 20
#: Bytes from which on a file is hashed in a thread.
_LARGE = 1 << 18
#: Nanoseconds that a file must have been left alone for: the clock of a file system has ticks, within which it could
#: be changed once more and keep its time. Some have whole seconds.
_TICK = 100_000_000
_COARSE_TICK = 2_000_000_000
_KEPT = Path("info", "cetool-hashes.json")
#: By inode: time of change in nanoseconds since 1970, size in bytes, SHA-256 in lowercase hex digits.
_Notes = dict[int, tuple[int, int, str]]
_T = TypeVar("_T")
_R = TypeVar("_R")


def digest_of(path: str | Path, algorithm: str = "sha256") -> str:
    """The digest of a file's content by an algorithm of hashlib, lowercase hex digits. Raises OSError."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    # environments have thousands of small files, of which a file object would cost more than the digest
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe in a file's place would hold us
    try:
        size = min(os.fstat(descriptor).st_size + 1, _BLOCK)
        while block := os.read(descriptor, size):
            digest.update(block)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def in_parallel(work: Callable[[_T], _R], items: Sequence[_T], path_of: Callable[[_T], str]) -> list[_R]:
    """The results in the order of the items, each of which has a file at ``path_of`` it.

    Hashing a large file leaves Python's lock: threads do that. Of small ones, which are most, threads would only
    quarrel about it. Where it is interrupted, what has not begun is not begun any more.
    """
    from concurrent.futures import ThreadPoolExecutor

    large = [number for number, item in enumerate(items) if _size(path_of(item)) > _LARGE]
    pool = ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2)) if len(large) > 1 else None
    try:
        begun = {} if pool is None else {number: pool.submit(work, items[number]) for number in large}
        results = [None if number in begun else work(item) for number, item in enumerate(items)]
        for number, future in begun.items():
            results[number] = future.result()
        return cast("list[_R]", results)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


class KnownHashes:
    """What the files of an environment hashed to when the packages that it was linked from were linked before.

    As in git's index, a file whose inode, time of change and size are what they were when it was hashed counts as
    having the content that it had then. The notes are in the unpacked package itself, and go when that is replaced.

    They stay for speed: the embedded engine looks at what an unpacked package lists, and not at its files. Of 37
    packages (145 MB, 4,556 files in the page cache) the look at an environment takes 35 ms with them and 170 ms
    without; of an environment of some gigabytes it would take seconds.

    ``there`` has the status of each file by its path below the prefix, taken just before; ``learns`` whether more may
    be noted: only in a package cache that is the tool's own.
    """

    def __init__(
        self, records: Iterable[PrefixRecord], there: Mapping[str, os.stat_result], *, learns: bool = False
    ) -> None:
        self._sources = {record.stem: source for record in records if (source := record.source) is not None}
        self._known = {package: _recall(source) for package, source in self._sources.items()}
        self._news: dict[str, _Notes] = {}
        self._there = there
        self._learns = learns
        self._began = time.time_ns()

    def has(self, entry: PackagePath) -> bool:
        """Whether a file is known to have the content that its package had packed."""
        notes, status = self._known.get(entry.package), self._there.get(entry.path)
        if not notes or status is None or entry.sha256 != entry.expected or not stat.S_ISREG(status.st_mode):
            return False
        return notes.get(status.st_ino) == (status.st_mtime_ns, status.st_size, entry.sha256)

    def learn(self, entry: PackagePath) -> None:
        """The file was hashed just now, and has the content that its package had packed."""
        status = self._there.get(entry.path)
        if not self._learns or entry.kind != "hardlink" or not entry.sha256 or entry.sha256 != entry.expected:
            return
        # one that has no other name was not linked from the package, but copied
        if status is None or status.st_nlink < 2 or not stat.S_ISREG(status.st_mode):
            return
        tick = _TICK if status.st_mtime_ns % 1_000_000_000 else _COARSE_TICK
        if status.st_mtime_ns < self._began - tick and entry.package in self._sources:
            news = self._news.setdefault(entry.package, {})
            news[status.st_ino] = (status.st_mtime_ns, status.st_size, entry.sha256)

    def keep(self) -> None:
        """Write down what was learnt; where that cannot be done it is learnt again."""
        with suppress(OSError):
            # after a power cut a file can have its time and size, and nothing of its content
            for cache in {self._sources[package].parent for package in self._news}:
                sync_file_system(cache)
            for package, found in self._news.items():
                files = [[inode, *known] for inode, known in {**self._known[package], **found}.items()]
                put_file(
                    self._sources[package] / _KEPT, json.dumps({"version": 1, "files": files}).encode(), sync=False
                )


def _recall(package: Path) -> _Notes:
    try:
        kept = read_json(package / _KEPT, PACKAGE, exact=True)
        if kept["version"] != 1:
            return {}
        return {inode: (changed, size, sha256) for inode, changed, size, sha256 in kept["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # TypeError: no list, or one that has no hash
        return {}

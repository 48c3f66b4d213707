"""Hash files, and remember the hashes of files in unpacked packages from one linking to the next."""

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
#: Files larger than this (bytes) are hashed in a thread.
_LARGE = 1 << 18
#: A hash is remembered only if the file has been unchanged for so many nanoseconds: within one tick of the file
#: system's clock, a file could change again and keep its time. Some file systems store whole seconds.
_TICK = 100_000_000
_COARSE_TICK = 2_000_000_000
_KEPT = Path("info", "cetool-hashes.json")
#: By inode: modification time in nanoseconds since 1970, size in bytes, SHA-256 in lowercase hex digits.
_Notes = dict[int, tuple[int, int, str]]
#: Is called with the number of files that are done, and of all.
Watch = Callable[[int, int], object]
_T = TypeVar("_T")
_R = TypeVar("_R")


def digest_of(path: str | Path, algorithm: str = "sha256") -> str:
    """Return a file's digest by an algorithm of hashlib, lowercase hex digits. Raises OSError."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    # environments have thousands of small files: creating a file object would cost more than the digest
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe in place of the file would block
    try:
        size = min(os.fstat(descriptor).st_size + 1, _BLOCK)
        while block := os.read(descriptor, size):
            digest.update(block)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def in_parallel(
    work: Callable[[_T], _R], items: Sequence[_T], path_of: Callable[[_T], str], watch: Watch | None = None
) -> list[_R]:
    """Apply ``work`` to the items, each of which has a file at ``path_of(item)``; return the results in order.

    Large files are hashed in threads, since hashing releases the GIL. Small files, which are the majority, would only
    contend for it. After an interruption no further items are started.
    """
    from concurrent.futures import ThreadPoolExecutor

    large = [number for number, item in enumerate(items) if _size(path_of(item)) > _LARGE]
    pool = ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2)) if len(large) > 1 else None
    try:
        begun = {} if pool is None else {number: pool.submit(work, items[number]) for number in large}
        results: list[_R | None] = [None] * len(items)
        small = (number for number in range(len(items)) if number not in begun)
        for done, number in enumerate((*small, *begun), 1):
            results[number] = begun[number].result() if number in begun else work(items[number])
            if watch is not None:
                watch(done, len(items))
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
    """Hashes of an environment's files, remembered from the previous linking of the same packages.

    As in git's index, a file with the same inode, modification time and size as when it was hashed counts as
    unchanged. The hashes are stored in the unpacked package itself, so that they disappear when it is replaced.

    They save time: the embedded engine checks what an unpacked package lists, but not its files. Checking an
    environment of 37 packages (145 MB, 4,556 files in the page cache) takes 35 ms with them and 170 ms without; for
    an environment of several gigabytes it would take seconds.

    ``there`` has the status of each file by its path below the prefix, taken just before. ``learns`` says whether new
    hashes may be stored, which is allowed only in a package cache that belongs to the tool.
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
        """Return whether a file is known to have the content that was packed."""
        notes, status = self._known.get(entry.package), self._there.get(entry.path)
        if not notes or status is None or entry.sha256 != entry.expected or not stat.S_ISREG(status.st_mode):
            return False
        return notes.get(status.st_ino) == (status.st_mtime_ns, status.st_size, entry.sha256)

    def learn(self, entry: PackagePath) -> None:
        """Remember that the file was just hashed and has the content that was packed."""
        status = self._there.get(entry.path)
        if not self._learns or entry.kind != "hardlink" or not entry.sha256 or entry.sha256 != entry.expected:
            return
        # a file with a single link was copied from the package, not linked
        if status is None or status.st_nlink < 2 or not stat.S_ISREG(status.st_mode):
            return
        tick = _TICK if status.st_mtime_ns % 1_000_000_000 else _COARSE_TICK
        if status.st_mtime_ns < self._began - tick and entry.package in self._sources:
            news = self._news.setdefault(entry.package, {})
            news[status.st_ino] = (status.st_mtime_ns, status.st_size, entry.sha256)

    def keep(self) -> None:
        """Store new hashes; if this fails they are computed again next time."""
        with suppress(OSError):
            # after a power failure a file can have its time and size without its content
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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # TypeError: not a list, or without a hash
        return {}

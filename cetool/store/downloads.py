"""What the embedded engine has downloaded (packages and channel metadata) and the logs of creations: which of it goes.

A package that an environment shares files with stays: removing it would free nothing. Of any other, the newest change
of its files and directories is its last use: hard links that come or go set a file's change time, and the engine sets
the directory's time when it links without them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from cetool.base.files import room, walk
from cetool.base.values import Value
from cetool.packages.cache import METADATA, PACKAGES, held_for_collection
from cetool.store.disk import Freed

#: Seconds after which the directories that a killed download left behind are removed.
_LEFTOVERS_KEPT = 86400.0


class Removed(Value):
    """What was, or with a dry run would be, removed: ``packages`` their number, ``freed`` bytes in all."""

    packages: int = 0
    freed: int = 0

    def plus(self, other: Removed) -> Removed:
        """What this and another removal did."""
        return Removed(self.packages + other.packages, self.freed + other.freed)


class _Item(Value):
    """Something that can be downloaded again: a package's directory, or a file. ``size`` in bytes."""

    path: Path
    last_used: float
    size: int
    is_package: bool = False


class Downloads:
    """Everything of this kind in some directories.

    ``caches`` are directories of the embedded engine, ``logs`` the directory of logs. ``freed`` counts what else is
    removed in the same collection: a package whose other links go with that is free to go as well.
    """

    def __init__(self, caches: Iterable[Path], logs: Path, freed: Freed, *, dry_run: bool = False) -> None:
        self._caches = [cache for cache in caches if _is_own(cache)]
        self._logs = logs
        self._freed = freed
        self._dry_run = dry_run
        self._now = time.time()
        self.removed = Removed()
        self._going: set[Path] = set()

    @property
    def size(self) -> int:
        """Bytes that could be freed: packages that no environment shares, metadata and logs."""
        return sum(item.size for item in self._items() if item.path not in self._going)

    def collect(self, older_than: float, logs_older_than: float) -> None:
        """Remove what was not used for so many seconds."""
        old = [item for item in self._items() if self._now - item.last_used >= older_than]
        self._remove(old)
        self._remove([log for log in self._files(self._logs) if self._now - log.last_used >= logs_older_than])

    def shrink(self, excess: int) -> int:
        """Remove the least recently used until so many bytes are free; returns how many that were."""
        going: list[_Item] = []
        left = excess
        for item in sorted(self._items(), key=lambda item: item.last_used):
            if left <= 0:
                break
            if item.path not in self._going:
                going.append(item)
                left -= item.size
        return self._remove(going)

    def _items(self) -> list[_Item]:
        found = [*self._files(self._logs)]
        for cache in self._caches:
            found += [*self._packages(cache / PACKAGES), *self._files(cache / METADATA)]
        return found

    def _packages(self, directory: Path) -> Iterator[_Item]:
        """The unpacked packages that share no file with an environment that stays."""
        for path in _entries(directory):
            if path.name.startswith(".") or not _is_directory(path):
                continue
            size, newest = 0, 0.0
            with contextlib.suppress(OSError):
                newest = path.lstat().st_mtime
            for _, status in walk(path):
                if not stat.S_ISDIR(status.st_mode):
                    if not self._freed.is_last_name(status):
                        break
                    newest = max(newest, status.st_ctime)
                size += room(status)
            else:
                yield _Item(path, min(newest, self._now), size, is_package=True)

    def _files(self, directory: Path) -> Iterator[_Item]:
        """The files below a directory, each with the time when it was last written or read."""
        for name, status in walk(directory):
            if stat.S_ISREG(status.st_mode):
                yield _Item(Path(directory, name), min(status.st_mtime, self._now), room(status))

    def _remove(self, items: list[_Item]) -> int:
        """Remove these, packages only where no engine is at work; returns the bytes freed."""
        freed = 0
        for root in [*self._caches, self._logs]:
            mine = [item for item in items if item.path.is_relative_to(root) and item.path not in self._going]
            if self._dry_run or root == self._logs:
                gone = [item for item in mine if self._dry_run or _unlink(item.path)]
            else:
                gone = self._remove_from(root, mine)
            self._going.update(item.path for item in gone)
            here = sum(item.size for item in gone)
            self.removed = self.removed.plus(Removed(sum(item.is_package for item in gone), here))
            freed += here
        return freed

    def _remove_from(self, cache: Path, items: list[_Item]) -> list[_Item]:
        """Move these out of the cache while no engine uses it, and delete them then; those that went."""
        gone: list[_Item] = []
        try:
            with held_for_collection(cache) as held:
                if not held:
                    return []
                leftovers = [path for path in _entries(cache / PACKAGES) if _is_leftover(path, self._now)]
                if not items and not leftovers:
                    return []
                aside = tempfile.mkdtemp(prefix=".removed-", dir=cache)
                for number, path in enumerate([*leftovers, *(item.path for item in items)]):
                    with contextlib.suppress(OSError):
                        os.rename(path, Path(aside, str(number)))
                        gone += [item for item in items if item.path == path]
                        for suffix in (".cetool", ".lock"):
                            path.with_name(path.name + suffix).unlink(missing_ok=True)
        except OSError:  # a cache that cannot be written to stays as it is
            return gone
        for path in _entries(cache):
            if path.name.startswith(".removed-"):
                shutil.rmtree(path, ignore_errors=True)
        return gone


def _is_own(cache: Path) -> bool:
    """Whether a directory is this user's: others remove what is theirs."""
    try:
        status = cache.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and (os.name == "nt" or status.st_uid == os.geteuid())


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_leftover(path: Path, now: float) -> bool:
    """Whether a directory is one in which a download was unpacked that never came to its end."""
    try:
        return path.name.startswith(".cetool-") and now - path.lstat().st_mtime > _LEFTOVERS_KEPT
    except OSError:
        return False


def _entries(directory: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [directory / name for name in sorted(os.listdir(directory))]
    return []


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True

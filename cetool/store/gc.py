"""Collection: which environments go, by age and by size; never one that is in use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cetool.base.errors import StoreError
from cetool.base.process import prefixes_in_use
from cetool.store.disk import Freed, delete_tree
from cetool.store.store import Directory, Store
from cetool.store.usage import UsageLog
from cetool.warm.notes import ACTIVE


@dataclass(frozen=True)
class Policy:
    """Who may go: what was unused for ``older_than`` seconds (None: no age is too old), the least recently used beyond
    ``max_size`` bytes (None: no limit), or ``everything`` that is not in use."""

    older_than: float | None = None
    max_size: int | None = None
    everything: bool = False


@dataclass(frozen=True)
class Collected:
    """What was, or with a dry run would be, removed: ``unused`` seconds, ``freed`` bytes, and why it went."""

    directory: Directory
    reason: str
    unused: float | None
    freed: int


@dataclass(frozen=True)
class Report:
    """What a collection did: what went, what it left because it was in use, and what could not be removed, and why."""

    collected: tuple[Collected, ...]
    in_use: tuple[Directory, ...]
    dry_run: bool
    failed: tuple[tuple[Directory, StoreError], ...] = ()

    @property
    def freed(self) -> int:
        """Bytes freed in all."""
        return sum(item.freed for item in self.collected)

    def plus(self, other: Report) -> Report:
        """What this and another collection did."""
        return Report(
            self.collected + other.collected, self.in_use + other.in_use, self.dry_run, self.failed + other.failed
        )


class Replaceable(Protocol):
    """What counts towards ``max_size`` and can be downloaded again: it goes before any environment does."""

    @property
    def size(self) -> int:
        """Bytes that could be freed."""

    def shrink(self, excess: int) -> int:
        """Remove the least recently used until so many bytes are free; returns how many that were."""


@dataclass(frozen=True)
class _Candidate:
    """A directory as it was when the collection began; an incomplete one has no ``last_used``."""

    directory: Directory
    last_used: float | None
    size: int


def collect(
    store: Store,
    usage: UsageLog,
    policy: Policy,
    *,
    dry_run: bool = False,
    on_removed: Callable[[Path], None] | None = None,
    downloads: Replaceable | None = None,
    freed: Freed | None = None,
) -> Report:
    """Remove what the policy lets go, the least recently used first; ``on_removed`` is told each prefix that is gone.

    ``downloads`` count towards the policy's ``max_size``; ``freed`` counts what is removed elsewhere as well.

    Raises StoreError where the usage log or the directory of environments cannot be read; one environment that cannot
    be removed is no reason to keep the others.
    """
    collection = _Collection(store, usage, policy, dry_run, on_removed, downloads, freed or Freed())
    collection.run()
    if not dry_run:
        store.clear_trash()
        store.clear_locks()
    return Report(tuple(collection.collected), tuple(collection.in_use), dry_run, tuple(collection.failed))


class _Collection:
    """One collection at work."""

    def __init__(
        self,
        store: Store,
        usage: UsageLog,
        policy: Policy,
        dry_run: bool,
        on_removed: Callable[[Path], None] | None,
        downloads: Replaceable | None,
        freed: Freed,
    ) -> None:
        self._store, self._usage, self._policy, self._dry_run = store, usage, policy, dry_run
        self._on_removed = on_removed
        self._downloads = downloads
        self._now = time.time()
        self._freed = freed
        self._alive: set[Path] = set()
        self.collected: list[Collected] = []
        self.in_use: list[Directory] = []
        self.failed: list[tuple[Directory, StoreError]] = []

    def run(self) -> None:
        if not self._dry_run:
            self._usage.tidy(self._now)
        candidates = sorted(self._candidates(), key=lambda item: (item.last_used or 0.0, item.directory.prefix.name))
        going = [(item, reason) for item in candidates if (reason := self._reason(item)) is not None]
        limit = self._policy.max_size
        may_go = going if limit is None else [(item, "") for item in candidates]
        self._alive = prefixes_in_use(item.directory.prefix for item, _ in may_go)
        size = sum(item.size for item in candidates)
        for item, reason in going:
            if self._take(item, reason):
                size -= item.size
        if limit is None:
            return
        if self._downloads is not None:
            size += self._downloads.size
            if size > limit:
                size -= self._downloads.shrink(size - limit)
        for item in candidates:
            if size <= limit:
                break
            if self._reason(item) is None and self._take(item, "over the size limit"):
                size -= item.size

    def _candidates(self) -> Iterable[_Candidate]:
        rows = self._usage.rows()
        for directory in self._store.directories():
            row = rows.get(directory.prefix.name)
            if row is None:  # made since the log was opened, or incomplete
                marker = directory.marker
                yield _Candidate(directory, None if marker is None else self._now, 0 if marker is None else marker.size)
            elif not directory.is_marked:
                yield _Candidate(directory, None, 0)
            else:
                # a clock that was set back makes a use lie in the future: that was just now, not a negative time ago
                last_used = max(row.last_used, self._store.last_shared_use(directory))
                yield _Candidate(directory, min(last_used, self._now), row.size)

    def _reason(self, item: _Candidate) -> str | None:
        """Why the directory is to go, whatever the size of all; None where it is not."""
        if item.last_used is None:
            return "incomplete"  # the lock tells it from one that is being made at this moment
        if self._policy.everything:
            return "not in use"
        older_than = self._policy.older_than
        return "unused" if older_than is not None and self._now - item.last_used >= older_than else None

    def _take(self, item: _Candidate, reason: str) -> bool:
        """Remove a directory, or tell that it would be; whether it went."""
        directory = item.directory
        prefix = directory.prefix
        try:
            if (self._alive and prefix in self._alive) or self._store.in_use(directory):
                self._keep(directory)
                return False
            freed = self._freed.add(prefix) if self._dry_run else self._remove(item)
        except StoreError as error:
            self.failed.append((directory, error))
            return False
        if freed is None:
            return False
        unused = None if item.last_used is None else self._now - item.last_used
        self.collected.append(Collected(directory, reason, unused, freed))
        return True

    def _remove(self, item: _Candidate) -> int | None:
        """Remove a directory and return the bytes freed; None where it was used since it became a candidate."""
        prefix = item.directory.prefix
        if not self._policy.everything and (self._store.paths.spool / ACTIVE).exists():
            self._usage.take_in()  # removing those before it may have taken minutes
        lock = self._store.hold_for_removal(item.directory)
        if lock is None:
            self._keep(item.directory)
            return None
        with lock:
            if self._was_used(item):
                return None
            gone = self._store.put_away(item.directory, lock)
        freed = 0
        if gone is not None:
            # measured where nobody waits for it any more
            freed = self._freed.add(gone)
            delete_tree(gone)
        self._usage.forget(prefix.name)
        if self._on_removed is not None:
            self._on_removed(prefix)
        return freed

    def _was_used(self, item: _Candidate) -> bool:
        """Whether it was made or used, and left again, while the ones before it were removed."""
        if item.last_used is None:
            return item.directory.marker is not None
        if self._policy.everything:
            return False
        last = self._usage.last_used(item.directory.prefix.name) or 0.0
        return max(last, self._store.last_shared_use(item.directory)) > self._now

    def _keep(self, directory: Directory) -> None:
        self.in_use.append(directory)
        if not self._dry_run:
            self._usage.saw_in_use(directory.prefix.name, time.time())

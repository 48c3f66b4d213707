"""Collection: which environments go, by age and by size; never one that is in use."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cetool.cache.processes import prefixes_in_use
from cetool.cache.sizes import Freed
from cetool.cache.store import Directory, Store
from cetool.cache.usage import Row, UsageLog


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
    """What a collection did, and how many environments it left because they were in use."""

    collected: tuple[Collected, ...]
    in_use: tuple[Directory, ...]
    dry_run: bool

    @property
    def freed(self) -> int:
        """Bytes freed in all."""
        return sum(item.freed for item in self.collected)


def collect(
    store: Store,
    usage: UsageLog,
    policy: Policy,
    *,
    dry_run: bool = False,
    on_removed: Callable[[Path], None] | None = None,
) -> Report:
    """Remove what the policy lets go. ``on_removed`` is told each prefix that is gone."""
    now = time.time()
    rows = usage.rows()
    candidates = _candidates(store, rows, policy, now)
    alive = prefixes_in_use(directory.prefix for directory, _ in candidates)
    freed = Freed()
    collected: list[Collected] = []
    in_use: list[Directory] = []
    for directory, reason in candidates:
        row = rows.get(directory.prefix.name)
        lock = None if directory.prefix in alive else store.hold_for_removal(directory)
        if lock is None:
            in_use.append(directory)
            if not dry_run:
                usage.saw_in_use(directory.prefix.name, now)
            continue
        try:
            unused = None if row is None else max(0.0, now - row.last_used)
            collected.append(Collected(directory, reason, unused, freed.add(directory.prefix)))
            if not dry_run:
                store.remove(directory, lock)
                usage.forget(directory.prefix.name)
                if on_removed is not None:
                    on_removed(directory.prefix)
        finally:
            lock.release()
    if not dry_run:
        store.clear_trash()
        store.clear_locks()
    return Report(tuple(collected), tuple(in_use), dry_run)


def _candidates(store: Store, rows: dict[str, Row], policy: Policy, now: float) -> list[tuple[Directory, str]]:
    """Who would go if nothing ran, least recently used first, and why."""
    kept: list[tuple[float, Directory]] = []
    going: list[tuple[float, Directory, str]] = []
    for directory in store.directories():
        row = rows.get(directory.prefix.name)
        if row is None or directory.marker is None:
            # the lock tells it from one that is being made at this moment
            going.append((0.0, directory, "incomplete"))
            continue
        # a clock that was set back makes a use lie in the future: that one was just now, not a negative time ago
        last = min(row.last_used, now)
        if policy.everything:
            going.append((last, directory, "not in use"))
        elif policy.older_than is not None and now - last >= policy.older_than:
            going.append((last, directory, "unused"))
        else:
            kept.append((last, directory))
    if policy.max_size is not None:
        size = sum(rows[directory.prefix.name].size for _, directory in kept)
        for last, directory in sorted(kept, key=lambda item: item[0]):
            if size <= policy.max_size:
                break
            size -= rows[directory.prefix.name].size
            going.append((last, directory, "over the size limit"))
    return [(directory, reason) for _, directory, reason in sorted(going, key=lambda item: item[0])]

"""Collection: remove things by age and by size, but nothing that is in use.

Each :class:`Kind` (environments, kept scripts, downloads, ...) lists its items, holds one so that no process starts to
use it, and removes one. A :class:`Collection` decides, removes and reports for all kinds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cetool.base.durations import age
from cetool.base.errors import StoreError
from cetool.base.filelock import is_locked, try_lock
from cetool.store.disk import Freed, delete_tree


@dataclass(frozen=True, slots=True)
class Policy:
    """What a collection removes."""

    #: Remove what was unused for this many seconds; None for no limit.
    older_than: float | None = None
    #: Remove the least recently used items until the rest takes at most this many bytes; None for no limit.
    max_size: int | None = None
    #: Remove everything that is not in use.
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Removable:
    """An item that can be removed."""

    path: Path
    #: Last use, in seconds since 1970; None if it was never completed.
    used: float | None
    #: Bytes that count towards the size limit.
    size: int = 0
    #: Reason to remove it whatever its age; None if its age decides.
    reason: str | None = None
    #: Whether to keep it whatever its age.
    kept: bool = False
    #: The environment's name; empty for other kinds.
    name: str = ""


@dataclass(frozen=True, slots=True)
class Collected:
    """An item that was removed, or would be (dry run)."""

    kind: str
    item: Removable
    reason: str
    #: Seconds since its last use; None if it was never completed.
    unused: float | None
    #: Bytes.
    freed: int


class Kind:
    """A kind of item that can be removed."""

    #: Its name in reports.
    name = ""
    #: Whether a report lists its items; of other kinds only the bytes are reported.
    listed = False
    #: Seconds for which an item is kept after its last use; None if the policy decides.
    after: float | None = None
    #: Whether ``after`` also applies when the policy removes everything.
    always = False

    def items(self, freed: Freed) -> Iterable[Removable]:
        """Return the items; ``freed`` knows what this collection has already removed."""
        raise NotImplementedError

    def in_use(self, item: Removable) -> bool:
        """Return whether a process uses the item now."""
        return False

    def held(self, item: Removable) -> AbstractContextManager[bool]:
        """Hold an item so that no process starts to use it; the context's value is whether that worked."""
        return contextlib.nullcontext(True)

    def used(self, item: Removable) -> float | None:
        """Return the item's last use, read again while it is held."""
        return item.used

    def put_away(self, item: Removable) -> Path | None:
        """Remove an item in one step; return what is left to delete, if anything. Raises OSError or StoreError."""
        item.path.unlink()
        return None

    def freed_by(self, item: Removable, path: Path, freed: Freed) -> int:
        """Return the bytes that are freed with ``path``: the item, or what is left of it."""
        return item.size

    def saw_in_use(self, item: Removable) -> None:
        """Note that an item was left because it is in use."""

    def forget(self, item: Removable) -> None:
        """Note that an item is gone."""

    def tidy(self) -> None:
        """Finish what an interrupted collection left."""


@contextlib.contextmanager
def held_by_lock(path: Path, guarded: Path) -> Iterator[bool]:
    """Hold a file lock exclusively; yield whether it was free. Its file is deleted together with what it guards."""
    lock = try_lock(path, shared=False)
    if lock is None:
        yield False
        return
    with lock:
        yield True
        if not os.path.lexists(guarded):
            lock.delete()


class Locked(Kind):
    """Directories that are in use while a file lock is held, and that are measured after they were moved away."""

    def lock_path(self, item: Removable) -> Path:
        """Return the file lock that every user of the item shares."""
        raise NotImplementedError

    def in_use(self, item: Removable) -> bool:
        return is_locked(self.lock_path(item))

    def held(self, item: Removable) -> AbstractContextManager[bool]:
        return held_by_lock(self.lock_path(item), item.path)

    def freed_by(self, item: Removable, path: Path, freed: Freed) -> int:
        return freed.add(path)


class Collection:
    """A collection at work: removes the items of one kind after another, and lists what it did."""

    def __init__(
        self, policy: Policy, *, dry_run: bool = False, watch: Callable[[str, int, int], None] | None = None
    ) -> None:
        """``watch`` is called with a kind's name, the number of its items that are done, and of all of them."""
        self.policy = policy
        self.watch = watch
        self.dry_run = dry_run
        self.now = time.time()
        self.collected: list[Collected] = []
        self.in_use: list[Removable] = []
        self.failed: list[tuple[Removable, StoreError]] = []
        self._freed = Freed()
        self._gone: set[Path] = set()
        self._tried: set[Path] = set()

    @property
    def freed(self) -> int:
        """Bytes freed in total."""
        return sum(item.freed for item in self.collected)

    def of(self, *kinds: str) -> list[Collected]:
        """Return what was removed of these kinds, in order of removal."""
        return [item for item in self.collected if item.kind in kinds]

    def collect(self, *kinds: Kind) -> None:
        """Remove the items that go whatever the total size, the least recently used first.

        If one item cannot be removed, the others still are. Raises StoreError if the items cannot be listed.
        """
        for kind in kinds:
            items = self._items(kind)
            for number, item in enumerate(items):
                if self.watch is not None:
                    self.watch(kind.name, number, len(items))
                reason = self._reason(kind, item)
                if reason is not None:
                    self._take(kind, item, reason)
            if not self.dry_run:
                kind.tidy()

    def shrink(self, *groups: Sequence[Kind]) -> None:
        """Remove the least recently used items until the total is within the policy's size, the first groups first."""
        limit = self.policy.max_size
        if limit is None:
            return
        listed = [self._by_age((kind, item) for kind in group for item in self._items(kind)) for group in groups]
        size = sum(item.size for group in listed for _, item in group)
        for kind, item in (pair for group in listed for pair in group):
            if size <= limit:
                return
            if item.path not in self._tried and not item.kept and self._take(kind, item, "over the size limit"):
                size -= item.size

    def _items(self, kind: Kind) -> list[Removable]:
        """Return the items of a kind that still exist, the least recently used first."""
        found = ((kind, item) for item in kind.items(self._freed) if item.path not in self._gone)
        return [item for _, item in self._by_age(found)]

    def _by_age(self, found: Iterable[tuple[Kind, Removable]]) -> list[tuple[Kind, Removable]]:
        def key(pair: tuple[Kind, Removable]) -> tuple[float, str]:
            _, item = pair
            return 0.0 if item.used is None else min(item.used, self.now), item.path.name

        return sorted(found, key=key)

    def _reason(self, kind: Kind, item: Removable) -> str | None:
        """Return why an item is removed whatever the total size; None if it stays."""
        if item.reason is not None or item.kept:
            return item.reason
        if item.used is None:
            return "incomplete"  # or being made: then its lock is held
        if self.policy.everything and not kind.always:
            return "not in use"
        limit = self.policy.older_than if kind.after is None else kind.after
        return "unused" if limit is not None and age(item.used, self.now) >= limit else None

    def _take(self, kind: Kind, item: Removable, reason: str) -> bool:
        """Remove an item, or note that it would be removed; return whether it was."""
        self._tried.add(item.path)
        try:
            if kind.in_use(item):
                return self._leave(kind, item)
            freed = kind.freed_by(item, item.path, self._freed) if self.dry_run else self._remove(kind, item)
        except (OSError, StoreError) as error:
            if kind.listed:
                self.failed.append((item, error if isinstance(error, StoreError) else StoreError(str(error))))
            return False
        if freed is None:
            return False
        self._gone.add(item.path)
        unused = None if item.used is None else age(item.used, self.now)
        self.collected.append(Collected(kind.name, item, reason, unused, freed))
        return True

    def _remove(self, kind: Kind, item: Removable) -> int | None:
        """Remove an item; return the bytes freed, or None if it is in use or was used since the collection began."""
        with kind.held(item) as held:
            if not held:
                self._leave(kind, item)
                return None
            if self._was_used(kind, item):
                return None
            left = kind.put_away(item)
        # measure and delete after the lock is released, so that no process waits
        freed = kind.freed_by(item, left or item.path, self._freed)
        if left is not None:
            delete_tree(left)
        kind.forget(item)
        return freed

    def _was_used(self, kind: Kind, item: Removable) -> bool:
        """Return whether an item was made or used while the items before it were removed."""
        if item.used is not None and self.policy.everything:
            return False
        used = kind.used(item)
        return used is not None and (item.used is None or used > max(item.used, self.now))

    def _leave(self, kind: Kind, item: Removable) -> bool:
        if kind.listed:
            self.in_use.append(item)
        if not self.dry_run:
            kind.saw_in_use(item)
        return False

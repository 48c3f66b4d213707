"""Collection: what is removed, by age and by size; never what is in use.

Each kind of thing that can be removed (environments, kept scripts, downloads, ...) says what there is of it, how it is
held against use, and how it is put away. One :class:`Collection` decides, removes and reports for all of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cetool.base.durations import age
from cetool.base.errors import StoreError
from cetool.base.filelock import is_locked, try_lock
from cetool.store.disk import Freed, delete_tree


@dataclass(frozen=True, slots=True)
class Policy:
    """What is removed."""

    #: What was unused for so many seconds; None: no age is too old.
    older_than: float | None = None
    #: The least recently used beyond so many bytes; None: no limit.
    max_size: int | None = None
    #: All that is not in use.
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Removable:
    """Something that can be removed."""

    path: Path
    #: When it was last used, in seconds since 1970; None for what was never completed.
    used: float | None
    #: Bytes that count towards a size limit.
    size: int = 0
    #: Why it is removed whatever its age; None where its age decides.
    reason: str | None = None
    #: Whether its age is no reason.
    kept: bool = False
    #: The environment's name, where it is one.
    name: str = ""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was, or with a dry run would be, removed."""

    kind: str
    item: Removable
    reason: str
    #: Seconds since its last use; None for what was never completed.
    unused: float | None
    #: Bytes.
    freed: int


class Kind:
    """A kind of things that can be removed."""

    #: What a report calls it.
    name = ""
    #: Whether a report lists its items and what became of each; of other kinds only the bytes count.
    listed = False
    #: Seconds for which an item is kept after its last use; None where the policy says it.
    after: float | None = None
    #: Whether it is kept so long even where everything is to be removed.
    always = False

    def items(self, freed: Freed) -> Iterable[Removable]:
        """What there is; ``freed`` knows what the same collection has removed before."""
        raise NotImplementedError

    def in_use(self, item: Removable) -> bool:
        """Whether a process uses it now."""
        return False

    def held(self, item: Removable) -> AbstractContextManager[bool]:
        """Hold an item against use; the context's value is whether that could be done."""
        return contextlib.nullcontext(True)

    def used(self, item: Removable) -> float | None:
        """When it was last used, looked up again while it is held."""
        return item.used

    def put_away(self, item: Removable) -> Path | None:
        """Remove it in one step; where to, if something is left there to be deleted. Raises OSError or StoreError."""
        item.path.unlink()
        return None

    def freed_by(self, item: Removable, path: Path, freed: Freed) -> int:
        """Bytes that are freed with what is at ``path``: the item, or what is left of it."""
        return item.size

    def saw_in_use(self, item: Removable) -> None:
        """Called for an item that was left because it is in use."""

    def forget(self, item: Removable) -> None:
        """Called once an item is gone."""

    def tidy(self) -> None:
        """Finish what an interrupted collection left."""


@contextlib.contextmanager
def held_by_lock(path: Path, guarded: Path) -> Iterator[bool]:
    """Hold a file lock exclusively; yields whether it was free. Its file goes with what it guards."""
    lock = try_lock(path, shared=False)
    if lock is None:
        yield False
        return
    with lock:
        yield True
        if not os.path.lexists(guarded):
            lock.delete()


class Locked(Kind):
    """Directories that are held in use by a file lock each, and are measured when they are out of the way."""

    def lock_path(self, item: Removable) -> Path:
        """The file lock that is shared by all who use the item."""
        raise NotImplementedError

    def in_use(self, item: Removable) -> bool:
        return is_locked(self.lock_path(item))

    def held(self, item: Removable) -> AbstractContextManager[bool]:
        return held_by_lock(self.lock_path(item), item.path)

    def freed_by(self, item: Removable, path: Path, freed: Freed) -> int:
        return freed.add(path)


class Collection:
    """One collection at work: it removes items of one kind after another, and keeps what became of them."""

    def __init__(self, policy: Policy, *, dry_run: bool = False) -> None:
        self.policy = policy
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
        """Bytes freed in all."""
        return sum(item.freed for item in self.collected)

    def of(self, *kinds: str) -> list[Collected]:
        """What was removed of these kinds, in the order in which it went."""
        return [item for item in self.collected if item.kind in kinds]

    def collect(self, *kinds: Kind) -> None:
        """Remove what is to go whatever the size of all, the least recently used first.

        One item that cannot be removed is no reason to keep the others. Raises StoreError where what
        there is cannot be listed.
        """
        for kind in kinds:
            for item in self._items(kind):
                reason = self._reason(kind, item)
                if reason is not None:
                    self._take(kind, item, reason)
            if not self.dry_run:
                kind.tidy()

    def shrink(self, *groups: Sequence[Kind]) -> None:
        """Remove the least recently used until all together are within the policy's size, the first groups first."""
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
        """The items of a kind that are still there, the least recently used first."""
        found = ((kind, item) for item in kind.items(self._freed) if item.path not in self._gone)
        return [item for _, item in self._by_age(found)]

    def _by_age(self, found: Iterable[tuple[Kind, Removable]]) -> list[tuple[Kind, Removable]]:
        def key(pair: tuple[Kind, Removable]) -> tuple[float, str]:
            _, item = pair
            return 0.0 if item.used is None else min(item.used, self.now), item.path.name

        return sorted(found, key=key)

    def _reason(self, kind: Kind, item: Removable) -> str | None:
        """Why an item goes, whatever the size of all; None where it stays."""
        if item.reason is not None or item.kept:
            return item.reason
        if item.used is None:
            return "incomplete"  # its lock tells it from one that is being made at this moment
        if self.policy.everything and not kind.always:
            return "not in use"
        limit = self.policy.older_than if kind.after is None else kind.after
        return "unused" if limit is not None and age(item.used, self.now) >= limit else None

    def _take(self, kind: Kind, item: Removable, reason: str) -> bool:
        """Remove an item, or note that it would be; whether it went."""
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
        """Remove an item; the bytes freed, None where it is in use or was used since the collection began."""
        with kind.held(item) as held:
            if not held:
                self._leave(kind, item)
                return None
            if self._was_used(kind, item):
                return None
            left = kind.put_away(item)
        # measured and deleted once no process can wait for it
        freed = kind.freed_by(item, left or item.path, self._freed)
        if left is not None:
            delete_tree(left)
        kind.forget(item)
        return freed

    def _was_used(self, kind: Kind, item: Removable) -> bool:
        """Whether an item was made or used, and left again, while the ones before it were removed."""
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

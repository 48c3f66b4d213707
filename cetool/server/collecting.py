"""Remove what nothing needs any more: builds by retention, their environments, logs and archives; downloads.

What is removed is decided in the database, and removed from the disk while its file lock is held, so that no build and
no process starts to use it in between. Each step can be interrupted: the next collection continues.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cetool.base.below import room
from cetool.base.process import processes_in
from cetool.server.artifacts import kept as kept_artifacts
from cetool.server.config import ServerConfig
from cetool.server.data import events, locks
from cetool.server.data.database import Database, now
from cetool.server.data.ending import Freed as GivenUp
from cetool.server.data.ending import give_up
from cetool.server.data.locks import forget_realization, realizations, unused_realizations
from cetool.server.data.schema import (
    UNFINISHED,
    build,
    build_platform,
    environment,
    lock,
    realization,
)
from cetool.store.disk import Freed
from cetool.store.gc import Collection, Kind, Policy, Removable
from cetool.store.kinds import DOWNLOADS, Directories, Files, downloads
from cetool.store.store import Store

if TYPE_CHECKING:
    from cetool.server.server import Server

#: Environments that are measured while a client waits.
_MEASURED = 10
#: Builds that are given up in one transaction, so that no request waits long.
_BATCH = 100
#: Seconds for which files that a running build may have just written are kept.
_FRESH = 3600.0
#: Seconds for which events are kept.
_EVENTS_KEPT = 30 * 86400.0
#: Seconds for which logs of engines, and the temporary files of a build that was killed, are kept.
_ENGINE_LOGS_KEPT, _SCRATCH_KEPT = 14 * 86400.0, 86400.0
_ENGINE_LOG = re.compile(r"[0-9a-f]{20}")
_SHA256 = re.compile(r'"sha256": ?"([0-9a-f]{64})"')


@dataclass(frozen=True, slots=True)
class Place:
    """What a collection works on: a server's database and data directory."""

    config: ServerConfig
    database: Database
    store: Store
    #: The embedded engine's package caches.
    caches: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a collection did, or would do (dry run)."""

    #: The builds that were given up because of their age.
    builds: tuple[int, ...]
    collection: Collection

    @property
    def freed(self) -> int:
        """Bytes freed in all."""
        return self.collection.freed

    def freed_by(self, *kinds: str) -> int:
        """Bytes freed with these kinds of items."""
        return sum(item.freed for item in self.collection.of(*kinds))


#: The kinds of items in the order of collection, and what reports call them.
KINDS = {
    "environments": "environment",
    "build logs": "log",
    "artifacts": "artifact",
    "archives": "archive",
    "temporary files": "temporary directory",
    **dict.fromkeys(DOWNLOADS, "download"),
}


def collect(
    place: Place,
    *,
    dry_run: bool = False,
    everything: bool = False,
    watch: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Collect; with ``everything``, also what was used lately. Raises CetoolError."""
    config = place.config
    kept = 0.0 if everything else config.keep_unused_for
    fresh = max(kept, _FRESH)
    collection = Collection(Policy(older_than=fresh), dry_run=dry_run, watch=watch)
    builds, free = _expire(place, dry_run=dry_run)
    collection.collect(_Environments(place, free, kept), _Logs(place))
    collection.collect(_Artifacts(place, free, fresh), _Archives(place, fresh))
    # the directory of logs also has those of builds, which have an age of their own
    logs, scratch = place.store.paths.logs, config.data / "scratch"
    collection.collect(Files("logs", logs, _ENGINE_LOGS_KEPT, pattern=_ENGINE_LOG), _Scratch(scratch))
    collection.collect(*(each for each in downloads(place.caches, logs) if each.name != "logs"))
    if not dry_run:
        with place.database.write() as tx:
            events.prune(tx, now(tx) - _EVENTS_KEPT)
            locks.forget_unneeded(tx, now(tx) - config.keep_logs_for)
    return Result(builds, collection)


def freed_bytes(store: Store, names: Iterable[str]) -> int:
    """Return the bytes that are freed if these environments are removed from the disk: files that others share stay."""
    freed = Freed()
    return sum(freed.add(each.prefix) for name in names for each in store.directories(name))


def measured(server: Server, freed: GivenUp) -> GivenUp:
    """Return what a deletion gives up with the bytes that this frees, without files that others share."""
    # measuring reads the state of each file; many environments would take longer than a client waits
    if len(freed.realizations) > _MEASURED:
        return freed
    return replace(freed, bytes=freed_bytes(server.world.store, freed.realizations))


def gave_up(server: Server, freed: GivenUp) -> GivenUp:
    """Have what a deletion gave up removed soon, and return it as :func:`measured`."""
    found = measured(server, freed)
    if server.collector is not None:
        server.collector.wake()
    return found


# --- builds by retention --------------------------------------------------------------------------------------------


def _expire(place: Place, *, dry_run: bool) -> tuple[tuple[int, ...], frozenset[str]]:
    """Give up the builds that retention does not keep.

    Returns them, and the environments on disk that no build needs then.
    """
    gone: list[int] = []
    while True:
        with place.database.read() as tx:
            found = tx.scalars(_expired(place.config, now(tx)).limit(None if dry_run else _BATCH)).all()
        if dry_run:
            return tuple(found), _free_without(place.database, found)
        if found:
            with place.database.write() as tx:  # an environment may have returned to one of them meanwhile
                again = tx.scalars(_expired(place.config, now(tx)).where(build.c.id.in_(found))).all()
                give_up(tx, build.c.id.in_(again), "retention")
            gone += again
        if len(found) < _BATCH:
            break
    return tuple(gone), _free_without(place.database, ())


class _Undone(Exception):
    """Undoes a transaction."""


def _unused(tx: sa.Connection) -> frozenset[str]:
    return frozenset(each.name for each in unused_realizations(tx))


def _free_without(database: Database, numbers: Sequence[int]) -> frozenset[str]:
    """Return the environments on disk that no build needs, if these builds were given up."""
    if not numbers:
        with database.read() as tx:
            return _unused(tx)
    found: frozenset[str] = frozenset()
    with contextlib.suppress(_Undone), database.write() as tx:
        give_up(tx, build.c.id.in_(numbers), "retention")
        found = _unused(tx)
        raise _Undone
    return found


def _expired(config: ServerConfig, at: float) -> sa.Select[Any]:
    """Return the builds that are neither current, nor among the last completed ones, nor recent, nor an answer."""
    later = build.alias()
    # the oldest of the completed builds that are kept; there is none if the environment has fewer
    oldest = (
        sa.select(later.c.id)
        .where(
            later.c.environment_id == build.c.environment_id,
            later.c.status == "COMPLETED",
            later.c.deleted.is_(None),
        )
        .order_by(later.c.id.desc())
        .limit(1)
        .offset(config.keep_builds - 1)
        .correlate(build)
        .scalar_subquery()
    )
    current = sa.select(environment.c.id).where(environment.c.build_id == build.c.id).correlate(build)
    # without an environment it is the answer to a script's request, for as long as there is no other
    unnamed = sa.and_(build.c.environment_id.is_(None), build.c.status == "COMPLETED")
    return (
        sa.select(build.c.id)
        .where(
            build.c.deleted.is_(None),
            build.c.status.not_in(UNFINISHED),
            build.c.ended < at - config.keep_builds_for,
            ~sa.exists(current),
            ~unnamed,
            sa.or_(build.c.status != "COMPLETED", build.c.id < oldest),
        )
        .order_by(build.c.id)
    )


# --- kinds ----------------------------------------------------------------------------------------------------------


class _Environments(Directories):
    """Environments on disk that no build needs, and those that no build knows."""

    name = "environments"

    def __init__(self, place: Place, free: frozenset[str], kept: float) -> None:
        super().__init__(place.store)
        self._database = place.database
        self._free = free
        self._kept = kept
        # of those that no build knows: what a builder or a collection left that was killed
        self.after = min(kept, _FRESH)
        self._alive: dict[Path, list[int]] | None = None

    def items(self, freed: Freed) -> Iterator[Removable]:
        with self._database.read() as tx:
            known = {each.name: (each.used, each.size) for each in realizations(tx)}
            idle = set(tx.scalars(_idle(now(tx) - self._kept)))
        found = list(self.store.directories())
        complete = {each.name for each in found if each.is_marked}
        for each in found:
            used, size = known.get(each.name, (None, 0))
            if each.name in known and (each.is_marked or each.name not in complete):
                reason = "no build needs it" if each.name in self._free else None
                if reason is None and each.name in idle:
                    reason = "unused"
                yield Removable(each.prefix, used, size, reason, kept=reason is None, name=each.name)
            else:
                marker = each.marker
                yield Removable(each.prefix, None if marker is None else marker.created, name=each.name)

    def in_use(self, item: Removable) -> bool:
        if self._alive is None:  # programs that run there without cetool hold no file lock
            self._alive = processes_in(each.prefix for each in self.store.directories())
        return item.path in self._alive or super().in_use(item)

    @contextlib.contextmanager
    def held(self, item: Removable) -> Iterator[bool]:
        """Hold the file lock, and forget the environment unless a build has come to need it."""
        with super().held(item) as held:
            yield held and self._forgotten(item)

    def _forgotten(self, item: Removable) -> bool:
        with self._database.write() as tx:
            if item.used is None and item.path.name != item.name:
                return True  # superseded by another directory of the same name
            return forget_realization(tx, item.name, realization.c.name.in_(_idle(now(tx) - self._kept)))


def _idle(since: float) -> sa.Select[Any]:
    """Return the environments that only builds without a name need, and that were not used since a moment."""
    named = (
        sa.select(build_platform.c.build_id)
        .join(build, build.c.id == build_platform.c.build_id)
        .where(
            build_platform.c.realization == realization.c.name,
            build.c.deleted.is_(None),
            build.c.environment_id.is_not(None),
        )
        .correlate(realization)
    )
    return sa.select(realization.c.name).where(~sa.exists(named), realization.c.used < since)


class _Logs(Kind):
    """The logs of builds that were deleted."""

    name = "build logs"

    def __init__(self, place: Place) -> None:
        self._place = place

    def items(self, freed: Freed) -> Iterator[Removable]:
        with self._place.database.read() as tx:
            at = now(tx)
            kept = at - self._place.config.keep_logs_for
            old = sa.select(build.c.id).where(build.c.deleted.is_not(None), build.c.deleted < kept)
            gone = set(tx.scalars(old))
            last = tx.scalar(sa.select(sa.func.max(build.c.id))) or 0
        for path in self._place.store.paths.logs.glob("*.log"):
            if _ENGINE_LOG.match(path.name) or not path.stem.isdecimal():
                continue
            with contextlib.suppress(OSError):
                status = path.stat()
                # the database does not know later builds after it was restored from a backup
                if int(path.stem) in gone or (int(path.stem) > last and status.st_mtime < at - _FRESH):
                    yield Removable(path, status.st_mtime, room(status), "its build was deleted")


class _Scratch(Kind):
    """The temporary files of builds whose processes were killed."""

    name = "temporary files"
    after = _SCRATCH_KEPT

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def items(self, freed: Freed) -> Iterator[Removable]:
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                yield Removable(path, path.lstat().st_mtime)

    def put_away(self, item: Removable) -> Path | None:
        return item.path

    def freed_by(self, item: Removable, path: Path, freed: Freed) -> int:
        return freed.add(path)


class _Artifacts(Kind):
    """Archives of environments, which are written again when a client asks for them."""

    name = "artifacts"

    def __init__(self, place: Place, free: frozenset[str], after: float) -> None:
        self._data = place.config.data
        self._free = free
        self.after = after

    def items(self, freed: Freed) -> Iterator[Removable]:
        for each in kept_artifacts(self._data):
            reason = "no build needs it" if each.realization in self._free else None
            yield Removable(each.path, each.used, each.size, reason)


class _Archives(Kind):
    """Archives of packages that are in no lock of a build."""

    name = "archives"

    def __init__(self, place: Place, after: float) -> None:
        self._place = place
        self.after = after

    def items(self, freed: Freed) -> Iterator[Removable]:
        paths = list(archives_below(self._place.config.data))
        wanted = _locked_archives(self._place.database) if paths else set()
        for path in paths:
            if path.name not in wanted:
                with contextlib.suppress(OSError):
                    status = path.stat()
                    yield Removable(path, max(status.st_mtime, status.st_atime), room(status))


def archives_below(data: Path) -> Iterator[Path]:
    """Yield the archives of packages that a server keeps; their names are their digests."""
    for directory, _, names in os.walk(data / "blobs" / "sha256"):
        for name in names:
            yield Path(directory, name)


def _locked_archives(database: Database) -> set[str]:
    """Return the digests of all packages in locks of builds that are not deleted."""
    needed = (
        sa.select(build_platform.c.lock)
        .join(build, build.c.id == build_platform.c.build_id)
        .where(build_platform.c.lock.is_not(None), build.c.deleted.is_(None))
    )
    # as text: parsing would take a hundred times as long
    query = sa.select(sa.cast(lock.c.content, sa.Text)).where(lock.c.digest.in_(needed))
    found: set[str] = set()
    with database.read() as tx:
        for (content,) in tx.execute(query.execution_options(yield_per=50)):
            found.update(_SHA256.findall(content))
    return found


def place_of(server: Server) -> Place:
    """Return what a collection of a running server works on."""
    return Place(server.config, server.database, server.world.store, (server.world.packages,))

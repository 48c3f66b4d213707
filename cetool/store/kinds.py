"""The kinds of items in the cache that a collection removes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cetool.base.below import room, walk
from cetool.base.durations import age
from cetool.base.process import processes_in
from cetool.packages.cache import METADATA, PACKAGES, held_for_collection
from cetool.settings.paths import Paths
from cetool.store.disk import Freed, delete_tree, discard
from cetool.store.gc import Collection, Kind, Locked, Removable
from cetool.store.keyed import BASELINES_KEPT, COPIES_KEPT, SHA256, BaselineStore, is_script_gone
from cetool.store.making import put_away, tidy
from cetool.store.scripts import ScriptStore
from cetool.store.store import Directory, Store
from cetool.store.usage import UsageLog
from cetool.warm.files import ACTIVE

#: Seconds for which logs of environments are kept.
_LOGS_KEPT = 14 * 86400.0
#: Seconds for which a launch record is kept after it was written.
_RECORDS_KEPT = 30 * 86400.0
#: Seconds after which the remains of a killed download, and files that a killed process began to write, are removed.
_UNPACKING_ABANDONED, _ABANDONED = 86400.0, 3600.0
#: The names that :func:`~cetool.base.files.put_file` gives to unfinished files.
_BEGUN = re.compile(r"\..*\.cetool\Z")
#: Prefix of the directories to which items in a package cache are moved.
_ASIDE = ".removed-"


class Directories(Locked):
    """The directories of a store."""

    listed = True

    def __init__(self, store: Store) -> None:
        self.store = store

    def lock_path(self, item: Removable) -> Path:
        return self.store.use_lock(item.path)

    def put_away(self, item: Removable) -> Path | None:
        return put_away(self.store, Directory(item.path, item.name))

    def tidy(self) -> None:
        tidy(self.store)


class Environments(Directories):
    """The environments in the usage log; ``on_removed`` is called with each prefix that is gone."""

    name = "environments"

    def __init__(self, store: Store, usage: UsageLog, on_removed: Callable[[Path], None] | None = None) -> None:
        super().__init__(store)
        self._usage = usage
        self._on_removed = on_removed
        self._items: list[Removable] | None = None
        self._alive: dict[Path, list[int]] | None = None

    def items(self, freed: Freed) -> Iterable[Removable]:
        if self._items is None:
            rows = self._usage.rows()
            self._items = []
            for directory in self.store.directories():
                row = rows.get(directory.prefix.name)
                used, size = None, 0
                if row is None:  # made after the log was opened, or incomplete
                    if (marker := directory.marker) is not None:
                        used, size = time.time(), marker.size
                elif directory.is_marked:
                    used, size = max(row.last_used, self.store.last_shared_use(directory)), row.size
                self._items.append(Removable(directory.prefix, used, size, name=directory.name))
        return self._items

    def in_use(self, item: Removable) -> bool:
        if self._alive is None:
            self._alive = processes_in(each.path for each in self._items or ())
        return item.path in self._alive or super().in_use(item)

    def held(self, item: Removable) -> contextlib.AbstractContextManager[bool]:
        if (self.store.paths.spool / ACTIVE).exists():
            self._usage.take_in()  # removing the earlier ones may have taken minutes
        return super().held(item)

    def used(self, item: Removable) -> float | None:
        directory = Directory(item.path, item.name)
        if item.used is None:
            return None if directory.marker is None else time.time()
        return max(self._usage.last_used(item.path.name) or 0.0, self.store.last_shared_use(directory))

    def saw_in_use(self, item: Removable) -> None:
        self._usage.saw_in_use(item.path.name, time.time())

    def forget(self, item: Removable) -> None:
        self._usage.forget(item.path.name)
        if self._on_removed is not None:
            self._on_removed(item.path)


def collect_environments(
    collection: Collection,
    store: Store,
    usage: UsageLog,
    *,
    downloads: Sequence[Kind] = (),
    on_removed: Callable[[Path], None] | None = None,
) -> None:
    """Remove the environments that the policy selects; ``downloads`` count towards its size, and go first."""
    if not collection.dry_run:
        usage.tidy(collection.now)
    environments = Environments(store, usage, on_removed)
    collection.collect(environments)
    collection.shrink(downloads, [environments])


class KeptScripts(Locked):
    """Scripts that are kept as files, and scripts' cache directories."""

    name = "scripts"

    def __init__(self, store: ScriptStore) -> None:
        self._store = store

    def items(self, freed: Freed) -> Iterable[Removable]:
        for path in self._store.entries():
            with contextlib.suppress(OSError):
                yield Removable(path, path.lstat().st_mtime)

    def lock_path(self, item: Removable) -> Path:
        return self._store.lock_path(item.path)

    def used(self, item: Removable) -> float | None:
        return item.path.lstat().st_mtime

    def put_away(self, item: Removable) -> Path | None:
        return discard(item.path, self._store.trash)

    def tidy(self) -> None:
        self._store.tidy()


class Files(Kind):
    """The files in a directory, all or those that match a pattern; removing one frees its size."""

    def __init__(
        self,
        name: str,
        directory: Path,
        after: float | None = None,
        *,
        always: bool = False,
        pattern: re.Pattern[str] | None = None,
    ) -> None:
        self.name, self.directory, self.after, self.always = name, directory, after, always
        self._pattern = pattern

    def items(self, freed: Freed) -> Iterable[Removable]:
        for name, status in walk(self.directory):
            if stat.S_ISREG(status.st_mode) and (self._pattern is None or self._pattern.match(name)):
                yield Removable(Path(self.directory, name), status.st_mtime, room(status))


class _Baselines(Files):
    """Files kept for baselines whose scripts are gone."""

    def __init__(self, store: BaselineStore) -> None:
        super().__init__("scripts", store.directory, BASELINES_KEPT, always=True)
        self._store = store

    def items(self, freed: Freed) -> Iterable[Removable]:
        wanted = set()
        now = time.time()
        for key, copy in self._store.all_uses():
            item = _item(self._store.uses.path(key))
            if item is not None and is_script_gone(copy) and age(item.used or 0.0, now) >= BASELINES_KEPT:
                yield item
            else:
                wanted.add(copy.address)
        for files in (self._store.copies, self._store.checked):
            for key in files:
                item = None if key in wanted else _item(files.path(key))
                if item is not None:
                    yield item

    def forget(self, item: Removable) -> None:
        if item.path.parent == self._store.uses.directory:
            self._store.clear_news(item.path.name)


def kept_sources(paths: Paths) -> list[Kind]:
    """Return the kinds of what is kept about baselines, servers, and scripts that do not come from files."""
    trust = paths.trusted
    return [
        KeptScripts(ScriptStore(paths.scripts, trust=trust)),
        _Baselines(BaselineStore(paths.baselines, trust=trust)),
        Files("scripts", paths.copies, COPIES_KEPT, pattern=SHA256),
        Files("scripts", paths.answers, COPIES_KEPT),
        Files("scripts", paths.copies, _ABANDONED, always=True, pattern=_BEGUN),
    ]


def launch_records(paths: Paths) -> Kind:
    """Return the kind of the warm path's launch records; the next run rewrites one that is still useful."""
    return Files("records", paths.launch, _RECORDS_KEPT, always=True)


def _item(path: Path) -> Removable | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return Removable(path, status.st_mtime, room(status))


# --- downloads --------------------------------------------------------------------------------------------------------


class _InCache(Files):
    """Items in a package cache that can be downloaded again: removed only while no engine works there."""

    def __init__(self, name: str, cache: Path, below: str) -> None:
        super().__init__(name, cache / below)
        self._cache = cache

    def held(self, item: Removable) -> contextlib.AbstractContextManager[bool]:
        return held_for_collection(self._cache)

    def put_away(self, item: Removable) -> Path | None:
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._cache))
        item.path.rename(aside / item.path.name)
        for suffix in (".cetool", ".lock"):
            item.path.with_name(item.path.name + suffix).unlink(missing_ok=True)
        return aside

    def tidy(self) -> None:
        for path in _entries(self._cache):
            if path.name.startswith(_ASIDE):
                shutil.rmtree(path, ignore_errors=True)


class _Packages(_InCache):
    """Unpacked packages that share no file with a remaining environment: removing others would free nothing.

    A package's last use is the latest change of its files and directories: adding or removing a hard link sets a file's
    change time, and the engine sets the directory's time when it links without hard links.
    """

    def items(self, freed: Freed) -> Iterable[Removable]:
        for path in _entries(self.directory):
            if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
                continue
            size, newest = 0, 0.0
            with contextlib.suppress(OSError):
                newest = path.lstat().st_mtime
            for _, status in walk(path):
                if not stat.S_ISDIR(status.st_mode):
                    if not freed.is_last_name(status):
                        break
                    newest = max(newest, status.st_ctime)
                size += room(status)
            else:
                yield Removable(path, newest, size)

    def used(self, item: Removable) -> float | None:
        return max(item.used or 0.0, item.path.lstat().st_mtime)

    def tidy(self) -> None:
        for path in _entries(self.directory):
            with contextlib.suppress(OSError):
                if path.name.startswith(".cetool-") and age(path.lstat().st_mtime, time.time()) > _UNPACKING_ABANDONED:
                    with held_for_collection(self._cache) as held:
                        left = self.put_away(Removable(path, None)) if held else None
                    if left is not None:
                        delete_tree(left)
        super().tidy()


#: The kinds of downloads.
PACKAGES_KIND = "packages"
DOWNLOADS = (PACKAGES_KIND, "metadata", "logs")


def downloads(caches: Iterable[Path], logs: Path) -> list[Kind]:
    """Return the kinds of the embedded engine's downloads (packages and channel metadata) and of the logs."""
    found: list[Kind] = [Files("logs", logs, _LOGS_KEPT)]
    for cache in caches:
        if _is_own(cache):
            found += [_Packages(PACKAGES_KIND, cache, PACKAGES), _InCache("metadata", cache, METADATA)]
    return found


def _is_own(cache: Path) -> bool:
    """Return whether this user owns a directory: other users remove what is theirs."""
    try:
        status = cache.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and (os.name == "nt" or status.st_uid == os.geteuid())


def _entries(directory: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [directory / name for name in sorted(os.listdir(directory))]
    return []

"""The usage log: an SQLite database of environments and the runs in them, which decides who is collected.

It is a memory, not an authority: the directories say what exists, their file locks what is in use. So it may be lost
without harm. A damaged one is set aside and made again from what is on disk; where the disk is full a copy in memory is
used, since a collection, which makes room, needs to know what was used when.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cetool.base.errors import StoreError
from cetool.base.filelock import FileLock, wait_for_lock
from cetool.base.process import running_processes
from cetool.base.values import Value
from cetool.settings.paths import Paths
from cetool.store.store import Marker, Store, valid_marker
from cetool.store.usage_files import (
    DATABASE_ERRORS,
    all_files,
    connect,
    copy_in_memory,
    is_damage,
    lacks_room,
    read_uses,
    refused,
    set_aside,
    taken_files,
)
from cetool.warm.files import host_name

#: Seconds that another process may take to bring the spool into the log.
_LONGEST_TURN = 30.0
#: Seconds that single runs are remembered; how many there were is not forgotten.
_RUNS_KEPT = 90 * 86400.0
_T = TypeVar("_T")


class Row(Value):
    """What the log knows of a directory."""

    directory: str
    name: str
    engine: str
    #: Seconds since 1970.
    created: float
    #: How long it took to make it.
    seconds: float
    packages: int
    #: Bytes.
    size: int
    #: Seconds since 1970.
    last_used: float
    runs: int


class UsageLog:
    """The log, open. Use :func:`open_usage_log`.

    All methods raise StoreError where the database cannot be used; one that is found damaged is built again.
    """

    def __init__(self, paths: Paths, store: Store, warn: Callable[[str], None]) -> None:
        self._paths = paths
        self._store = store
        self._warn = warn
        self._in_memory = False
        self._seen = self._status()
        try:
            self._db = connect(paths.database)
            self._seen = self._status()
        except DATABASE_ERRORS as error:
            self._db = self._mend(error, None)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def take_in(self) -> None:
        """Move what runs have noted into the log: each use once, none lost, whatever is killed in between."""
        if self._in_memory:
            self._take_in_memory()
            return
        try:
            with self._turn():
                if not _is_same(self._seen, self._status()):
                    self._reopen()  # somebody set aside the one that we had opened
                for path in taken_files(self._paths.spool):
                    self._add_uses(path)
                    self._db.commit()
                    path.unlink()
        except DATABASE_ERRORS as error:
            self._roll_back()
            self._db = self._mend(error, self._db)
            self.agree_with_disk()  # what is still in the spool is taken in the next time
        except OSError as error:
            self._roll_back()
            raise refused(self._paths.database, error) from error

    def _add_uses(self, path: Path) -> None:
        made: list[str] = []

        def runs() -> Iterator[tuple[object, ...]]:
            for use in read_uses(path):
                if use.made:
                    made.append(use.directory)
                else:
                    yield use.host, use.pid, use.process_start, use.time_ns, use.directory, use.script

        # a trigger counts those that are new
        self._db.executemany(
            "INSERT OR IGNORE INTO runs (host, pid, process_start, started_ns, directory, script)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            runs(),
        )
        for directory in dict.fromkeys(made):
            marker = valid_marker(self._paths.envs / directory)
            if marker is not None:
                _insert(self._db, directory, marker, marker.created)

    def _take_in_memory(self) -> None:
        """Read what runs have noted, and leave it where it is for a log that will last."""
        for path in all_files(self._paths.spool):
            with contextlib.suppress(FileNotFoundError):  # taken in by another meanwhile
                self._add_uses(path)
        self._db.commit()

    def _roll_back(self) -> None:
        with contextlib.suppress(*DATABASE_ERRORS):
            self._db.rollback()

    def agree_with_disk(self) -> None:
        """Forget the directories that are gone, remember those that appeared since."""
        self._do(lambda _: self._agree())

    def _agree(self) -> None:
        listed = {row[0] for row in self._db.execute("SELECT directory FROM environments")}
        # of one that damage took out of either table nothing would be known, and it would stay for ever
        known = {row[0] for row in self._db.execute("SELECT directory FROM environments JOIN uses USING (directory)")}
        there = {directory.prefix.name: directory for directory in self._store.directories()}
        now = time.time()
        for name in listed - there.keys():
            _forget(self._db, name)
        for name in there.keys() - known:
            marker = there[name].marker
            if marker is not None:
                # its uses may have been lost together with a log: it counts as used now rather than as never
                _insert(self._db, name, marker, now)

    def rows(self) -> dict[str, Row]:
        """What is known, by directory."""
        query = (
            "SELECT directory, name, engine, created, seconds, packages, bytes, last_used, runs"
            " FROM environments JOIN uses USING (directory)"
        )
        return self._do(lambda db: {row[0]: _row(row) for row in db.execute(query)})

    def last_used(self, directory: str) -> float | None:
        """When the directory was last used, in seconds since 1970; None where the log does not know it."""
        query = "SELECT last_used FROM uses WHERE directory = ?"

        def ask(db: sqlite3.Connection) -> float | None:
            row = db.execute(query, (directory,)).fetchone()
            return None if row is None else float(row[0])

        return self._do(ask)

    def running(self) -> dict[str, list[int]]:
        """PIDs, by directory, of this host's logged processes that are really running (PID and start time match)."""
        query = "SELECT DISTINCT directory FROM runs WHERE host = ? AND pid = ? AND process_start = ?"
        host = host_name()

        def ask(db: sqlite3.Connection) -> dict[str, list[int]]:
            result: dict[str, list[int]] = {}
            for pid, start in running_processes():
                for (directory,) in db.execute(query, (host, pid, start)):
                    result.setdefault(directory, []).append(pid)
            return result

        return self._do(ask)

    def scripts(self) -> dict[str, list[str]]:
        """Return what used each directory, the last use first: scripts as the runs noted them."""
        query = "SELECT directory, script FROM runs WHERE script != '' GROUP BY 1, 2 ORDER BY max(started_ns) DESC"

        def ask(db: sqlite3.Connection) -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            for directory, script in db.execute(query):
                found.setdefault(directory, []).append(str(script))
            return found

        return self._do(ask)

    def saw_in_use(self, directory: str, when: float) -> None:
        """An environment seen in use counts as used until it is seen free."""
        query = "UPDATE uses SET last_used = max(last_used, ?) WHERE directory = ?"
        self._do(lambda db: db.execute(query, (when, directory)))

    def forget(self, directory: str) -> None:
        """An environment was removed; its runs stay as history."""
        self._do(lambda db: _forget(db, directory))

    def tidy(self, now: float) -> None:
        """Forget the runs of long ago; bring back to ``now`` what a clock that was wrong has put into the future."""

        def act(db: sqlite3.Connection) -> None:
            db.execute("UPDATE uses SET last_used = ? WHERE last_used > ?", (now, now))
            db.execute("DELETE FROM runs WHERE started_ns < ?", (int((now - _RUNS_KEPT) * 1e9),))

        self._do(act)

    def _do(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        """The action's result, in a transaction; done again in a new database where this one turns out damaged."""
        try:
            with self._db:
                return action(self._db)
        except DATABASE_ERRORS as error:
            self._db = self._mend(error, self._db)
        try:
            with self._db:
                self._agree()
                return action(self._db)
        except DATABASE_ERRORS as error:
            raise refused(self._paths.database, error) from error

    def _mend(self, error: Exception, broken: sqlite3.Connection | None) -> sqlite3.Connection:
        """A new database in place of a damaged one, one in memory where the disk is full.

        Raises StoreError where neither is the matter, and where the database cannot be replaced.
        """
        database = self._paths.database
        if lacks_room(error, database) and not self._in_memory:
            return self._memory(error, broken)
        if not is_damage(error, database):
            raise refused(database, error) from error
        if broken is not None:
            broken.close()
        try:
            with self._turn():
                if not _is_same(self._seen, self._status()):
                    with contextlib.suppress(*DATABASE_ERRORS):  # somebody has replaced it already
                        return self._opened()
                aside = set_aside(database)
                connection = self._opened()
        except (OSError, *DATABASE_ERRORS) as again:
            raise StoreError(
                f"the usage log {database} is damaged ({error}) and cannot be replaced: {again}",
                code="usage-log-unusable",
                hint="Remove it: it is built anew from the environments on disk.",
            ) from again
        self._warn(f"The usage log was damaged ({error}); it is kept as {aside} and built anew from what is on disk.")
        return connection

    def _memory(self, error: Exception, broken: sqlite3.Connection | None) -> sqlite3.Connection:
        if broken is not None:
            broken.close()
        try:
            self._db = copy_in_memory(self._paths.database)
            self._in_memory = True
            self._take_in_memory()
        except (OSError, *DATABASE_ERRORS) as again:
            raise refused(self._paths.database, error) from again
        self._warn(f"The usage log cannot be written to ({error}): what is done now is not remembered there.")
        return self._db

    def _reopen(self) -> None:
        self._db.close()
        self._db = self._opened()

    def _opened(self) -> sqlite3.Connection:
        connection = connect(self._paths.database)
        self._seen = self._status()
        return connection

    def _status(self) -> os.stat_result | None:
        try:
            return os.stat(self._paths.database)
        except OSError:
            return None

    def _turn(self) -> FileLock:
        """The lock of those who replace the database or take in the spool."""
        lock = wait_for_lock(self._paths.root / "usage.lock", at_most=_LONGEST_TURN)
        lock.write_holder(f"process {os.getpid()}")
        return lock


@contextlib.contextmanager
def open_usage_log(paths: Paths, store: Store, *, warn: Callable[[str], None]) -> Iterator[UsageLog]:
    """The log, in agreement with the spool and the disk.

    A damaged database is set aside and built again; ``warn`` gets a sentence. Raises StoreError where it cannot be
    written to, or was written by a newer cetool.
    """
    log = UsageLog(paths, store, warn)
    try:
        log.take_in()
        log.agree_with_disk()
        yield log
    finally:
        log.close()


def _row(values: tuple[Any, ...]) -> Row:
    """A row whose values are of their kind. Raises ValueError: SQLite stores what it is given, damage too."""
    for value, kind in zip(values, (str, str, str, float, float, int, int, float, int), strict=True):
        if not isinstance(value, kind) or (isinstance(value, (int, float)) and not 0 <= value < 2**63):
            raise ValueError(f"{value!r} in the place of a {'text' if kind is str else 'number'}")
    return Row(*values)


def _is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


def _insert(db: sqlite3.Connection, directory: str, marker: Marker, used: float) -> None:
    values = (
        directory,
        _text(marker.name),
        json.dumps(marker.spec.as_dict(), sort_keys=True),
        _text(marker.engine),
        _text(marker.engine_version),
        marker.created,
        marker.seconds,
        marker.packages,
        marker.size,
        _text(marker.cetool),
    )
    db.execute(f"INSERT OR REPLACE INTO environments VALUES ({', '.join('?' * len(values))})", values)
    db.execute("INSERT OR IGNORE INTO uses (directory) VALUES (?)", (directory,))
    db.execute("UPDATE uses SET last_used = max(last_used, ?) WHERE directory = ?", (used, directory))


def _forget(db: sqlite3.Connection, directory: str) -> None:
    db.execute("DELETE FROM environments WHERE directory = ?", (directory,))
    db.execute("DELETE FROM uses WHERE directory = ?", (directory,))


def _text(text: str) -> str:
    """The text without what SQLite does not store."""
    return text.encode("utf-8", "replace").decode()

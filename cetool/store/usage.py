"""The usage log: an SQLite database of environments and their runs, by which a collection decides.

It is not the source of truth: the directories say what exists, and their file locks what is in use, so the log may be
lost without harm. A damaged log is set aside and rebuilt from the disk. If the disk is full, a copy in memory is used,
because a collection, which frees space, needs the times of last use.
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

#: Seconds that another process may take to move the spool into the log.
_LONGEST_TURN = 30.0
#: Seconds for which runs are kept; their number is kept for longer.
_RUNS_KEPT = 90 * 86400.0
_T = TypeVar("_T")


class Row(Value):
    """What the log knows about a directory."""

    directory: str
    name: str
    engine: str
    #: Seconds since 1970.
    created: float
    #: Seconds that it took to make.
    seconds: float
    packages: int
    #: Bytes.
    size: int
    #: Seconds since 1970.
    last_used: float
    runs: int


class UsageLog:
    """The open log. Use :func:`open_usage_log`.

    All methods raise StoreError if the database cannot be used; a damaged one is rebuilt.
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
        """Move the uses noted by runs into the log, each exactly once, even if a process is killed in between."""
        if self._in_memory:
            self._take_in_memory()
            return
        try:
            with self._turn():
                if not _is_same(self._seen, self._status()):
                    self._reopen()  # another process set aside the one that we had opened
                for path in taken_files(self._paths.spool):
                    self._add_uses(path)
                    self._db.commit()
                    path.unlink()
        except DATABASE_ERRORS as error:
            self._roll_back()
            self._db = self._mend(error, self._db)
            self.agree_with_disk()  # the rest of the spool is read next time
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

        # a trigger counts the new ones
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
        """Read the uses noted by runs, but leave them for a log that lasts."""
        for path in all_files(self._paths.spool):
            with contextlib.suppress(FileNotFoundError):  # moved by another process meanwhile
                self._add_uses(path)
        self._db.commit()

    def _roll_back(self) -> None:
        with contextlib.suppress(*DATABASE_ERRORS):
            self._db.rollback()

    def agree_with_disk(self) -> None:
        """Forget directories that are gone, and add those that have appeared."""
        self._do(lambda _: self._agree())

    def _agree(self) -> None:
        listed = {row[0] for row in self._db.execute("SELECT directory FROM environments")}
        # an environment that damage removed from one of the tables would otherwise stay forever
        known = {row[0] for row in self._db.execute("SELECT directory FROM environments JOIN uses USING (directory)")}
        there = {directory.prefix.name: directory for directory in self._store.directories()}
        now = time.time()
        for name in listed - there.keys():
            _forget(self._db, name)
        for name in there.keys() - known:
            marker = there[name].marker
            if marker is not None:
                # its uses may be lost with an earlier log: count it as used now rather than never
                _insert(self._db, name, marker, now)

    def rows(self) -> dict[str, Row]:
        """Return what is known, by directory."""
        query = (
            "SELECT directory, name, engine, created, seconds, packages, bytes, last_used, runs"
            " FROM environments JOIN uses USING (directory)"
        )
        return self._do(lambda db: {row[0]: _row(row) for row in db.execute(query)})

    def last_used(self, directory: str) -> float | None:
        """Return the directory's last use in seconds since 1970, or None if the log does not know it."""
        query = "SELECT last_used FROM uses WHERE directory = ?"

        def ask(db: sqlite3.Connection) -> float | None:
            row = db.execute(query, (directory,)).fetchone()
            return None if row is None else float(row[0])

        return self._do(ask)

    def running(self) -> dict[str, list[int]]:
        """Return, by directory, the PIDs of this host's logged processes that still run (PID and start time match)."""
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
        """Note that an environment was in use at this time."""
        query = "UPDATE uses SET last_used = max(last_used, ?) WHERE directory = ?"
        self._do(lambda db: db.execute(query, (when, directory)))

    def forget(self, directory: str) -> None:
        """Note that an environment was removed; its runs stay as history."""
        self._do(lambda db: _forget(db, directory))

    def tidy(self, now: float) -> None:
        """Delete old runs, and correct times in the future (from a wrong clock) to ``now``."""

        def act(db: sqlite3.Connection) -> None:
            db.execute("UPDATE uses SET last_used = ? WHERE last_used > ?", (now, now))
            db.execute("DELETE FROM runs WHERE started_ns < ?", (int((now - _RUNS_KEPT) * 1e9),))

        self._do(act)

    def _do(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run the action in a transaction; if the database is damaged, run it again in a new one."""
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
        """Replace a damaged database; use one in memory if the disk is full.

        Raises StoreError if the error has another cause, and if the database cannot be replaced.
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
                    with contextlib.suppress(*DATABASE_ERRORS):  # another process has already replaced it
                        return self._opened()
                aside = set_aside(database)
                connection = self._opened()
        except (OSError, *DATABASE_ERRORS) as again:
            raise StoreError(
                f"usage log {database} is damaged ({error}) and cannot be replaced: {again}",
                code="usage-log-unusable",
                hint="Remove the file: cetool rebuilds it from the environments on disk.",
            ) from again
        self._warn(f"The usage log was damaged ({error}). cetool moved it to {aside} and rebuilt it from the disk.")
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
        self._warn(f"The usage log cannot be written ({error}): changes made now are not recorded in it.")
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
        """Take the lock of processes that replace the database or read the spool."""
        lock = wait_for_lock(self._paths.root / "usage.lock", at_most=_LONGEST_TURN)
        lock.write_holder(f"process {os.getpid()}")
        return lock


@contextlib.contextmanager
def open_usage_log(paths: Paths, store: Store, *, warn: Callable[[str], None]) -> Iterator[UsageLog]:
    """Open the log and bring it into agreement with the spool and the disk.

    A damaged database is set aside and rebuilt; ``warn`` gets a sentence. Raises StoreError if it cannot be written or
    was written by a newer cetool.
    """
    log = UsageLog(paths, store, warn)
    try:
        log.take_in()
        log.agree_with_disk()
        yield log
    finally:
        log.close()


def _row(values: tuple[Any, ...]) -> Row:
    """Return a row after checking its types. Raises ValueError: SQLite stores any value, also a damaged one."""
    for value, kind in zip(values, (str, str, str, float, float, int, int, float, int), strict=True):
        if not isinstance(value, kind) or (isinstance(value, (int, float)) and not 0 <= value < 2**63):
            raise ValueError(f"{value!r} is not a {'string' if kind is str else 'number'}")
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
    """Replace what SQLite cannot store."""
    return text.encode("utf-8", "replace").decode()

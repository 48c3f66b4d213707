"""The usage log: an SQLite database of environments and the runs in them, which decides who is collected.

It is a memory, not an authority: what exists is told by the directories, what is in use by their locks. So it may be
lost without harm; a damaged one is set aside and made anew from what is on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cetool.cache.locks import wait_for_lock
from cetool.cache.marker import Marker
from cetool.cache.processes import is_running
from cetool.cache.spool import read_uses, taken_files
from cetool.cache.store import Store
from cetool.errors import StoreError
from cetool.paths import Paths

#: One entry a version: the statements that bring a database of the version before to it.
_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE environments (
        directory TEXT PRIMARY KEY, name TEXT NOT NULL, spec TEXT NOT NULL, engine TEXT NOT NULL,
        engine_version TEXT NOT NULL, created REAL NOT NULL, seconds REAL NOT NULL, packages INTEGER NOT NULL,
        bytes INTEGER NOT NULL, cetool TEXT NOT NULL, last_used REAL NOT NULL, runs INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE runs (
        directory TEXT NOT NULL, script TEXT NOT NULL, pid INTEGER NOT NULL, process_start TEXT NOT NULL,
        started_ns INTEGER NOT NULL, host TEXT NOT NULL, ended INTEGER NOT NULL DEFAULT 0,
        UNIQUE (host, pid, process_start, started_ns)
    );
    CREATE INDEX runs_going_on ON runs (directory) WHERE ended = 0;
    CREATE INDEX runs_by_directory ON runs (directory, started_ns);
    """,
)
_BUSY_SECONDS = 5.0


@dataclass(frozen=True)
class Row:
    """What the log knows of a directory: ``last_used`` and ``created`` in seconds since 1970, ``size`` in bytes."""

    directory: str
    name: str
    engine: str
    created: float
    seconds: float
    packages: int
    size: int
    last_used: float
    runs: int


class UsageLog:
    """The log, open. Use :func:`open_usage_log`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def add_environment(self, directory: str, marker: Marker) -> None:
        """Remember an environment that was made."""
        with self._db:
            self._insert(directory, marker)

    def _insert(self, directory: str, marker: Marker) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO environments (directory, name, spec, engine, engine_version, created, seconds,"
            " packages, bytes, cetool, last_used, runs) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
            " max(?, coalesce((SELECT max(started_ns) / 1e9 FROM runs WHERE directory = ?), 0)),"
            " (SELECT count(*) FROM runs WHERE directory = ?))",
            (
                directory,
                marker.name,
                json.dumps(marker.spec.as_dict(), sort_keys=True),
                marker.engine,
                marker.engine_version,
                marker.created,
                marker.seconds,
                marker.packages,
                marker.size,
                marker.cetool,
                marker.created,
                directory,
                directory,
            ),
        )

    def take_in(self, spool: Path, lock: Path) -> None:
        """Move what runs have noted into the log: each use once, none lost, whatever is killed in between."""
        with wait_for_lock(lock):
            for path in taken_files(spool):
                uses = list(read_uses(path))
                with self._db:
                    for use in uses:
                        added = self._db.execute(
                            "INSERT OR IGNORE INTO runs (directory, script, pid, process_start, started_ns, host)"
                            " VALUES (?, ?, ?, ?, ?, ?)",
                            (use.directory, use.script, use.pid, use.process_start, use.time_ns, use.host),
                        ).rowcount
                        self._db.execute(
                            "UPDATE environments SET runs = runs + ?, last_used = max(last_used, ?)"
                            " WHERE directory = ?",
                            (added, use.time_ns / 1e9, use.directory),
                        )
                path.unlink()

    def agree_with(self, store: Store) -> None:
        """Forget the directories that are gone, remember those that appeared without the log being told."""
        known = {row[0] for row in self._db.execute("SELECT directory FROM environments")}
        there = {directory.prefix.name: directory for directory in store.directories()}
        with self._db:
            for name in known - there.keys():
                self._db.execute("DELETE FROM environments WHERE directory = ?", (name,))
            for name in there.keys() - known:
                marker = there[name].marker
                if marker is not None:
                    self._insert(name, marker)

    def rows(self) -> dict[str, Row]:
        """What is known, by directory."""
        query = "SELECT directory, name, engine, created, seconds, packages, bytes, last_used, runs FROM environments"
        return {row[0]: Row(*row) for row in self._db.execute(query)}

    def running(self) -> dict[str, list[int]]:
        """PIDs, by directory, of the logged processes of this host that are really running (PID and start time
        match).
        """
        host = socket.gethostname()
        result: dict[str, list[int]] = {}
        ended: list[tuple[int]] = []
        query = "SELECT rowid, directory, pid, process_start FROM runs WHERE ended = 0 AND host = ?"
        for rowid, directory, pid, start in self._db.execute(query, (host,)):
            if not is_running(pid, start):
                ended.append((rowid,))
            elif pid not in result.setdefault(directory, []):
                result[directory].append(pid)
        with self._db:
            self._db.executemany("UPDATE runs SET ended = 1 WHERE rowid = ?", ended)
        return result

    def saw_in_use(self, directory: str, when: float) -> None:
        """An environment seen in use counts as used until it is seen free."""
        with self._db:
            self._db.execute(
                "UPDATE environments SET last_used = max(last_used, ?) WHERE directory = ?", (when, directory)
            )

    def forget(self, directory: str) -> None:
        """An environment was removed; its runs stay as history until their directory's name comes again."""
        with self._db:
            self._db.execute("DELETE FROM environments WHERE directory = ?", (directory,))
            self._db.execute("UPDATE runs SET ended = 1 WHERE directory = ?", (directory,))


@contextlib.contextmanager
def open_usage_log(paths: Paths, store: Store, *, warn: Callable[[str], None]) -> Iterator[UsageLog]:
    """The log, in agreement with the spool and the disk.

    A damaged database is set aside and built anew (``warn`` is told). Raises StoreError where it cannot be written to,
    or was written by a newer cetool.
    """
    try:
        log = _open(paths)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and not _damaged(error):
            raise _refused(paths, error) from error
        log = _replace(paths, error, warn)
    try:
        try:
            log.take_in(paths.spool, paths.locks / "usage.lock")
            log.agree_with(store)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _damaged(error):
                raise _refused(paths, error) from error
            log.close()
            log = _replace(paths, error, warn)
            log.agree_with(store)
        yield log
    except sqlite3.OperationalError as error:
        raise _refused(paths, error) from error
    finally:
        log.close()


def _open(paths: Paths) -> UsageLog:
    paths.database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(paths.database, timeout=_BUSY_SECONDS)
    try:
        os.chmod(paths.database, 0o600)
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")  # some file systems cannot: the default serves there
        connection.execute("PRAGMA synchronous = NORMAL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise StoreError(
                f"the usage log {paths.database} was written by a newer cetool (schema {version}, this one knows"
                f" {len(_MIGRATIONS)})",
                hint="Use that cetool, or set CETOOL_CACHE_DIR to another directory for this one.",
            )
        for number in range(version, len(_MIGRATIONS)):
            _migrate(connection, number)
        connection.execute("SELECT count(*) FROM environments").fetchone()
    except BaseException:
        connection.close()
        raise
    return UsageLog(connection)


def _migrate(connection: sqlite3.Connection, number: int) -> None:
    """Bring the schema from ``number`` to the next; another process may be doing the same at this moment."""
    script = f"BEGIN IMMEDIATE; {_MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
    try:
        connection.executescript(script)
    except sqlite3.OperationalError:
        if connection.in_transaction:
            connection.rollback()
        if connection.execute("PRAGMA user_version").fetchone()[0] <= number:
            raise


def _damaged(error: sqlite3.Error) -> bool:
    text = str(error)
    return any(
        sign in text for sign in ("malformed", "not a database", "no such table", "no such column", "disk image")
    )


def _replace(paths: Paths, error: sqlite3.Error, warn: Callable[[str], None]) -> UsageLog:
    """Set the database aside and begin a new one."""
    aside = paths.database.with_name(f"{paths.database.name}.damaged-{int(time.time())}")
    with wait_for_lock(paths.locks / "usage.lock"):
        try:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{paths.database}{suffix}", f"{aside}{suffix}")
            log = _open(paths)
        except (OSError, sqlite3.Error) as again:
            raise StoreError(f"the usage log {paths.database} is damaged and cannot be replaced: {again}") from again
    warn(f"The usage log was damaged ({error}); it is kept as {aside} and built anew from the environments on disk.")
    return log


def _refused(paths: Paths, error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"the usage log {paths.database} cannot be used: {error}",
        hint="Another process may be holding it: try again; or look at its permissions and the room on its disk.",
    )

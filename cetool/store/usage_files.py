"""The usage log's files: its database, and the spool to which runs append their uses.

A run must start whatever the state of the database, so it never opens it. A line of the spool is a use, or says that an
environment was made; PID, start time and clock identify it, so that reading it twice does no harm. The spool is renamed
before it is read, so that no line is lost: a run that finds the file renamed after writing writes its line again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cetool.base.errors import StoreError
from cetool.base.ownership import make_private_dirs
from cetool.base.values import Value
from cetool.store.store import MADE, is_directory_name
from cetool.warm.files import ACTIVE

#: One entry for each version: the statements that migrate a database from the previous version.
_MIGRATIONS: tuple[str, ...] = (
    # "uses" summarizes the runs in a directory, so that a query need not read a million of them. It may know a
    # directory before "environments" does.
    """
    CREATE TABLE environments (
        directory TEXT PRIMARY KEY, name TEXT NOT NULL, spec TEXT NOT NULL, engine TEXT NOT NULL,
        engine_version TEXT NOT NULL, created REAL NOT NULL, seconds REAL NOT NULL, packages INTEGER NOT NULL,
        bytes INTEGER NOT NULL, cetool TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE uses (
        directory TEXT PRIMARY KEY, last_used REAL NOT NULL DEFAULT 0, runs INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE runs (
        host TEXT NOT NULL, pid INTEGER NOT NULL, process_start TEXT NOT NULL, started_ns INTEGER NOT NULL,
        directory TEXT NOT NULL, script TEXT NOT NULL,
        PRIMARY KEY (host, pid, process_start, started_ns)
    ) WITHOUT ROWID;
    CREATE TRIGGER run_counts AFTER INSERT ON runs BEGIN
        INSERT OR IGNORE INTO uses (directory) VALUES (NEW.directory);
        UPDATE uses SET runs = runs + 1, last_used = max(last_used, NEW.started_ns / 1e9)
            WHERE directory = NEW.directory;
    END;
    """,
)
#: Seconds that another process may hold the database before cetool gives up.
BUSY_SECONDS = 5.0
#: KiB of the database kept in memory: with less, reading a million runs takes three times as long.
_MOST_KIB = 32 * 1024
#: Free bytes below which a disk counts as full: the database's shared memory alone takes half of this.
_LEAST_ROOM = 64 * 1024
#: Higher than any real version: such a number is damage, not a newer cetool.
_MOST_VERSIONS = 1000
#: What a damaged database can raise: undecodable text, values of wrong types, and SQLite's own errors.
DATABASE_ERRORS = (sqlite3.Error, UnicodeError, OverflowError, ValueError, TypeError, IndexError)
_SIGNS_OF_DAMAGE = (
    *("malformed", "not a database", "no such table", "no such column", "disk image", "already exists"),
    *("decode", "unsupported file format"),
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the database with the schema that this cetool knows; create it if it is missing.

    Raises one of DATABASE_ERRORS, and StoreError if a newer cetool wrote it or its directory cannot be created.
    """
    make_private_dirs(path.parent)
    if os.path.lexists(path) and not path.is_file():  # SQLite would wait forever for a pipe
        raise sqlite3.DatabaseError("not a file")
    try:
        return _connect(path, wal=True)
    except sqlite3.OperationalError as error:
        if "disk I/O error" not in str(error):
            raise
    _leave_wal(path)
    return _connect(path, wal=False)


def _connect(path: Path, *, wal: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= version < _MOST_VERSIONS:
            raise sqlite3.DatabaseError(f"its version is {version}")
        if version > len(_MIGRATIONS):
            raise StoreError(
                f"usage log {path} was written by a newer cetool (schema {version}, this version reads"
                f" {len(_MIGRATIONS)})",
                code="usage-log-unusable",
                hint="Use the newer cetool, or set CETOOL_CACHE_DIR to another directory for this one.",
            )
        with contextlib.suppress(OSError):
            os.chmod(path, 0o600)
        if wal and connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            with contextlib.suppress(sqlite3.OperationalError):
                # some file systems do not support it: they keep the default
                connection.execute("PRAGMA journal_mode = WAL")
        # without WAL, a power cut could damage the database under NORMAL
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if wal else 'FULL'}")
        connection.execute(f"PRAGMA cache_size = -{_MOST_KIB}")
        for number in range(version, len(_MIGRATIONS)):
            _migrate(connection, number)
        if _schema(connection) != _expected_schema():
            raise sqlite3.DatabaseError("its tables are not those of a usage log")
    except BaseException:
        connection.close()
        raise
    return connection


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    query = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    return [(str(name), " ".join(str(sql).split())) for name, sql in connection.execute(query)]


@functools.cache
def _expected_schema() -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for number in range(len(_MIGRATIONS)):
            _migrate(connection, number)
        return _schema(connection)


def _leave_wal(path: Path) -> None:
    """Switch WAL off in a database on a file system without shared memory (9p, some network mounts)."""
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # needs no shared memory
        connection.execute("PRAGMA journal_mode = DELETE")


def _migrate(connection: sqlite3.Connection, number: int) -> None:
    """Migrate the schema from version ``number`` to the next; another process may be doing the same."""
    script = f"BEGIN IMMEDIATE; {_MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
    try:
        connection.executescript(script)
    except sqlite3.OperationalError:
        if connection.in_transaction:
            connection.rollback()
        if connection.execute("PRAGMA user_version").fetchone()[0] <= number:
            raise


def is_damage(error: Exception, path: Path) -> bool:
    """Return whether the error means that the file is not a usage log any more, not that it cannot be used now."""
    if isinstance(error, sqlite3.OperationalError):
        if "readonly" in str(error) and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            return True  # set in its header, not by the file system
        return path.is_dir() or any(sign in str(error) for sign in _SIGNS_OF_DAMAGE)
    if not isinstance(error, sqlite3.Error):
        return True
    return type(error) in (sqlite3.DatabaseError, sqlite3.IntegrityError, sqlite3.InternalError, sqlite3.DataError)


def lacks_room(error: Exception, path: Path) -> bool:
    """Return whether the error means that the disk is full, not that another process holds the database."""
    text = str(error)
    if not isinstance(error, sqlite3.OperationalError):
        return False
    if "disk is full" in text or "disk I/O error" in text:
        return True
    try:
        room = os.statvfs(path.parent)
    except (OSError, AttributeError):
        return False
    return "unable to open" in text and (room.f_bavail * room.f_frsize < _LEAST_ROOM or 0 <= room.f_ffree < 4)


def copy_in_memory(path: Path) -> sqlite3.Connection:
    """Return a copy of the database that needs no disk.

    A journal cannot be read without writing one: if there is a journal, every environment counts as used at its last
    change. Raises sqlite3.Error.
    """
    memory = sqlite3.connect(":memory:")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as stored:
            if stored.execute("PRAGMA user_version").fetchone()[0] == len(_MIGRATIONS):
                stored.backup(memory)
        if memory.execute("PRAGMA user_version").fetchone()[0] and _schema(memory) != _expected_schema():
            raise sqlite3.DatabaseError("its tables are not those of a usage log")
    except DATABASE_ERRORS:
        memory.close()
        memory = sqlite3.connect(":memory:")
    for number in range(memory.execute("PRAGMA user_version").fetchone()[0], len(_MIGRATIONS)):
        _migrate(memory, number)
    with contextlib.suppress(OSError):
        journal = os.stat(f"{path}-wal")
        if journal.st_size:
            memory.execute("UPDATE uses SET last_used = max(last_used, ?)", (journal.st_mtime,))
            memory.commit()
    return memory


def set_aside(path: Path) -> Path:
    """Rename a damaged database and return its new path. Only one process may do this at a time. Raises OSError."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns() // 1_000_000}")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def refused(path: Path, error: Exception) -> StoreError:
    """Return the error for a database that is not damaged but cannot be used."""
    return StoreError(
        f"usage log {path} cannot be used: {error}",
        code="usage-log-unusable",
        hint="Another process may be using it: try again. Otherwise check its permissions and the free disk space.",
    )


_TAKEN = ".taken"
_LONGEST_LINE = 8192


class Use(Value):
    """One run in an environment."""

    #: Nanoseconds since 1970.
    time_ns: int
    #: The process, its start time and host.
    pid: int
    process_start: str
    host: str
    #: The environment's directory.
    directory: str
    script: str
    #: True if this is not a run: the environment was made.
    made: bool = False

    @classmethod
    def parse(cls, line: bytes) -> Use | None:
        """Return the use in a line, or None if it is damaged."""
        fields = line.decode("utf-8", "backslashreplace").split("\t")
        made = fields[6:] == [MADE]
        if len(fields) != 6 + made or not is_directory_name(fields[4]):
            return None
        try:
            time_ns, pid = int(fields[0]), int(fields[1])
        except ValueError:
            return None
        if not 0 <= time_ns < 2**63 or not 0 <= pid < 2**32:
            return None
        start, host, directory, script = fields[2:6]
        return cls(time_ns, pid, start, host, directory, script, made)


def taken_files(spool: Path) -> list[Path]:
    """Set the spool aside; return all files set aside so far, oldest first. Only one process may do this at a time."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(spool / ACTIVE, spool / f"{ACTIVE}.{time.time_ns():020d}{_TAKEN}")
    try:
        return sorted(spool / entry for entry in os.listdir(spool) if entry.endswith(_TAKEN))
    except FileNotFoundError:
        return []


def all_files(spool: Path) -> list[Path]:
    """Return the files with uses, those set aside first, without moving them."""
    try:
        names = os.listdir(spool)
    except OSError:
        return []
    return [
        *sorted(spool / name for name in names if name.endswith(_TAKEN)),
        *(spool / n for n in names if n == ACTIVE),
    ]


def read_uses(path: Path) -> Iterator[Use]:
    """Yield the uses in a file that was set aside, without damaged lines; none if it is not a regular file."""
    if not path.is_file():  # a socket cannot be opened, a link can be circular
        return
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        while line := file.readline(_LONGEST_LINE):
            use = Use.parse(line.rstrip(b"\n"))
            if use is not None:
                yield use

"""Open the database; read in a snapshot, and write in a transaction that waits its turn.

The database is SQLite in WAL mode, where readers and the writer do not wait for each other. ``synchronous`` is FULL:
a commit is on the disk before the server answers, because clients keep the numbers of builds and signed records, and
after a power failure a number must not be given out a second time. A commit is one sync of the log.

What differs between databases is in this module: the clock, patterns, the start of a transaction, and the errors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cetool.base.errors import CetoolError, is_disk_full
from cetool.base.ownership import make_private_dirs
from cetool.server.data.schema import REVISION, metadata

#: Seconds that a transaction waits for another one, if the configuration says nothing else.
WAIT = 30.0
#: Connections that are kept open, and how many more may be opened: one for each thread that handles a request.
_KEPT, _MORE = 8, 56
#: Pages of the log after which it is copied into the database.
_CHECKPOINT = 1000
#: Bytes to which the log is cut after that, if a long read had let it grow.
_LARGEST_LOG = 64_000_000
#: So many threads wait while another process has locked the database for longer than these seconds.
_PATIENT, _STUCK = 8, 1.0


class Database:
    """An open database. ``read`` and ``write`` give connections; threads may share it."""

    def __init__(self, engine: sa.Engine, path: Path, wait: float) -> None:
        self.engine = engine
        self.path = path
        self.wait = wait
        self._turn = _Turn()

    @classmethod
    def open(cls, path: Path | str, *, wait: float = WAIT) -> Database:
        """Open the database in a file; create the file and its tables if it does not exist.

        Raises CetoolError with the code ``database-outdated`` if its tables are those of an older version (see
        :mod:`cetool.server.data.upgrading`), ``database-newer`` if they are of a newer one, ``database-damaged`` if
        the file is no database of a server.
        """
        path = Path(path)
        database = cls(_engine(path, wait), path, wait)
        try:
            with failures(path):
                make_private_dirs(path.parent)
                if not path.exists():
                    os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600))
                database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one state of the database, and cannot change it.

        Raises CetoolError as :meth:`write`.
        """
        with _errors(self.path), self.engine.connect() as tx, tx.begin():
            yield tx

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that is committed at the end, and undone by any exception.

        Writers take turns. Raises CetoolError with the code ``database-busy`` if another process writes for longer
        than ``wait`` seconds, ``disk-full`` or ``cache-not-writable`` if the database cannot be written.
        """
        deadline = time.monotonic() + self.wait
        if not self._turn.take(deadline):
            raise _busy(self.path)
        try:
            rest = max(0, round((deadline - time.monotonic()) * 1000))
            with _errors(self.path), self.engine.connect() as tx:
                tx = tx.execution_options(cetool_write=rest)
                with tx.begin():
                    self._turn.begun()
                    yield tx
        finally:
            self._turn.give_back()

    def version(self) -> Callable[[], int]:
        """Return a function that returns another number as soon as anything is committed; for one thread.

        SQLite tells it in 5 µs, but does not count what the same connection writes: this has one of its own.
        """
        connection = self.engine.raw_connection()
        connection.detach()  # else the pool would give it to others too
        cursor: Any = connection.cursor()
        return lambda: int(cursor.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.engine.dispose()

    def _prepare(self) -> None:
        with self.read() as tx:
            found = revision_of(tx)
        if found is None:
            with self.write() as tx:
                found = revision_of(tx)
                if found is None:  # else another process created the tables meanwhile
                    create_tables(tx)
                    found = REVISION
        if found != REVISION:
            raise _other_version(found, self.path)


class _Turn:
    """Whose turn it is to write: threads of one process wait here, without polling the database.

    While another process keeps the database locked, only a few wait; the others fail at once, so that threads are left
    for requests that only read.
    """

    def __init__(self) -> None:
        self._free = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        #: The thread whose turn it is, and since when it waits for another process.
        self._writer: int | None = None
        self._since: float | None = None

    def take(self, deadline: float) -> bool:
        """Wait for the turn; return False if that takes too long."""
        if self._writer == threading.get_ident():
            raise RuntimeError("a write within a write would wait for itself")
        with self._counting:
            self._waiting += 1
        try:
            while not self._free.acquire(timeout=max(0.0, min(_STUCK, deadline - time.monotonic()))):
                if time.monotonic() >= deadline or self._is_stuck():
                    return False
        finally:
            with self._counting:
                self._waiting -= 1
        self._writer, self._since = threading.get_ident(), time.monotonic()
        return True

    def begun(self) -> None:
        """Say that the database is not locked by another process."""
        self._since = None

    def give_back(self) -> None:
        """Let the next thread write."""
        self._writer = self._since = None
        self._free.release()

    def _is_stuck(self) -> bool:
        since = self._since
        return self._waiting > _PATIENT and since is not None and time.monotonic() - since > _STUCK


@contextlib.contextmanager
def failures(path: Path) -> Iterator[None]:
    """Turn the errors of a database and its files that operators can fix into errors that say so."""
    try:
        with _errors(path):
            yield
    except FileExistsError:
        raise
    except OSError as error:
        raise _failure(error, path) from error


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn the errors of a database alone; those of files may come from the code in a transaction."""
    try:
        yield
    except PoolTimeout:
        raise _busy(path) from None
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, sqlite3.Error) and (failure := _known(cause, path)) is not None:
            raise failure from error
        raise


def now(tx: sa.Connection) -> float:
    """Return the seconds since 1970 by the database's clock, which all processes share."""
    return float(tx.scalar(sa.text("SELECT (julianday('now') - 2440587.5) * 86400.0")))


def no_earlier(column: sa.ColumnElement[Any], at: float) -> sa.ColumnElement[Any]:
    """Return a moment, or that in a column if it is later: a clock that was set back ends nothing before its start."""
    return sa.case((column > at, column), else_=at)


def matches(column: sa.ColumnElement[Any], pattern: str) -> sa.ColumnElement[bool]:
    """Return the condition that a text matches a pattern, in which ``*`` stands for any text; case counts."""
    if "*" not in pattern:
        return column == pattern
    quoted = "".join(f"[{char}]" if char in "?[" else char for char in pattern)
    return column.op("GLOB", is_comparison=True)(quoted)


def contains(column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
    """Return the condition that a text contains another one; case does not count."""
    return column.icontains(text, autoescape=True)


def unindexed(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return a column that a condition does not look up in its index, because most rows would match."""
    return sa.func.coalesce(column, None)


def revision_of(tx: sa.Connection) -> str | None:
    """Return the last migration of a database, None for an empty one.

    Raises CetoolError for a database with tables that are not a server's.
    """
    tables = set(tx.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")))
    if "alembic_version" in tables:
        return str(tx.scalar(sa.text("SELECT version_num FROM alembic_version")))
    if tables:
        raise CetoolError(
            "the database has tables, but they are not those of a cetool server",
            code="database-damaged",
            hint="Name another data directory with `--data`.",
        )
    return None


def create_tables(tx: sa.Connection) -> None:
    """Create all tables at once: what the migrations do one after the other, without importing Alembic (0.3 s)."""
    metadata.create_all(tx, checkfirst=False)
    tx.execute(sa.text(VERSION_TABLE))
    tx.execute(sa.text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": REVISION})


#: As Alembic creates it.
VERSION_TABLE = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
    "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)


def unchecked_engine(path: Path) -> sa.Engine:
    """Return an engine for a database of any version, for upgrades."""
    return _engine(path, WAIT)


# --- SQLite ---------------------------------------------------------------------------------------------------------


def _engine(path: Path, wait: float) -> sa.Engine:
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(
        url, pool_size=_KEPT, max_overflow=_MORE, pool_timeout=wait, connect_args={"timeout": wait}
    )

    @sa.event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        # transactions begin below: the module would begin none for reads, and late for writes
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
        connection.execute("PRAGMA temp_store = MEMORY")

    @sa.event.listens_for(engine, "begin")
    def begin(tx: sa.Connection) -> None:
        rest = tx.get_execution_options().get("cetool_write")
        reads = rest is None
        connection: Any = tx.connection.dbapi_connection
        # a read that became a write would fail whenever another process wrote in between
        connection.execute(f"PRAGMA query_only = {int(reads)}")
        connection.execute(f"PRAGMA busy_timeout = {round(wait * 1000) if reads else rest}")
        tx.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


# SQLite's result codes, which Python's module has since 3.11
_BUSY = (5, 6)
_READ_ONLY, _IO, _CORRUPT, _FULL, _CANNOT_OPEN, _NO_DATABASE = 8, 10, 11, 13, 14, 26


def _known(error: sqlite3.Error, path: Path) -> CetoolError | None:
    """Return what an error of SQLite means to an operator; None if it is a defect of ours."""
    code = getattr(error, "sqlite_errorcode", None)  # Python 3.11
    text = str(error)
    primary = code & 0xFF if code is not None else _code_of(text)
    if primary in _BUSY:
        return _busy(path)
    if primary == _FULL:
        return _failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
    if primary in (_READ_ONLY, _IO, _CANNOT_OPEN):
        return CetoolError(
            f"cannot use the database {path}: {text}",
            code="cache-not-writable",
            about=str(path),
            hint="Check the disk, who owns the data directory, and its permissions.",
        )
    if primary in (_CORRUPT, _NO_DATABASE):
        return CetoolError(
            f"the database {path} is damaged: {text}",
            code="database-damaged",
            about=str(path),
            hint="Restore a backup into a new data directory with `cetool server restore`.",
        )
    return None


def _code_of(text: str) -> int | None:
    """Return the code of an error by its text, for Python 3.10."""
    texts = {
        "database is locked": 5,
        "database table is locked": 6,
        "attempt to write a readonly database": _READ_ONLY,
        "disk I/O error": _IO,
        "database disk image is malformed": _CORRUPT,
        "database or disk is full": _FULL,
        "unable to open database file": _CANNOT_OPEN,
        "file is not a database": _NO_DATABASE,
    }
    return texts.get(text)


def _busy(path: Path) -> CetoolError:
    return CetoolError(
        f"the database {path} is busy: another process has been writing to it for too long",
        code="database-busy",
        about=str(path),
        hint="Try again later.",
    )


def _failure(error: OSError, path: Path) -> CetoolError:
    full = is_disk_full(error)
    return CetoolError(
        f"cannot write the database {path}: {error.strerror}",
        code="disk-full" if full else "cache-not-writable",
        about=str(path),
        hint="Make room on the disk, for example with `cetool server gc`."
        if full
        else "Check who owns the data directory, and its permissions.",
    )


def newer(found: str, path: Path) -> CetoolError:
    """Return the error for a database with a schema that this version does not know."""
    return CetoolError(
        f"the database {path} is of a newer version of cetool (schema {found}; this version knows {REVISION})",
        code="database-newer",
        about=str(path),
        hint="Upgrade cetool, or restore the backup that the upgrade made.",
    )


def _other_version(found: str, path: Path) -> CetoolError:
    if found > REVISION:
        return newer(found, path)
    return CetoolError(
        f"the database {path} is of an older version of cetool (schema {found}; this version needs {REVISION})",
        code="database-outdated",
        about=str(path),
        hint="Run `cetool server upgrade`.",
    )

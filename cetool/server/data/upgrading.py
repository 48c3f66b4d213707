"""Upgrade a database to this version's schema, after a backup of it.

All migrations run in one transaction: a process that is killed leaves the old schema. Migrations expand first and
contract in a later release, so that the release before can still read the database; :mod:`.migrations` has the rules.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.base.files import sync_directory
from cetool.base.ownership import make_private_dirs
from cetool.server.data.database import Database, failures, newer, revision_of, unchecked_engine
from cetool.server.data.schema import REVISION

MIGRATIONS = Path(__file__).with_name("migrations")
#: Pages of a backup that are copied at once: writers wait for that long.
_PAGES = 2000


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade did."""

    before: str
    after: str
    #: The database before the upgrade; None if there was nothing to do.
    backup: Path | None


def pending(path: Path, migrations: Path = MIGRATIONS) -> tuple[str, tuple[str, ...]]:
    """Return the schema of a database, and the migrations that it needs, in order.

    Raises CetoolError as :meth:`Database.open`.
    """
    with failures(path):
        before = _revision(path)
        if migrations == MIGRATIONS and before == REVISION:  # Alembic takes 0.3 s to import
            return before, ()
        script = _config(migrations)[1]
        try:
            steps = [each.revision for each in script.iterate_revisions("heads", before)]
        except Exception as error:  # a schema that these migrations do not know
            raise newer(before, path) from error
    return before, tuple(reversed(steps))


def upgrade(path: Path, *, backups: Path | None = None, migrations: Path = MIGRATIONS) -> Upgrade:
    """Upgrade a database, and return what was done. Call it only while the data directory is held.

    The backup is in ``backups`` (default: ``backups`` next to the database). Raises CetoolError: as
    :meth:`Database.open`, ``disk-full``, ``cache-not-writable``; then the database is unchanged.
    """
    before, steps = pending(path, migrations)
    if not steps:
        return Upgrade(before, before, None)
    with failures(path):
        directory = backups or path.with_name("backups")
        make_private_dirs(directory)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        backup = directory / f"{path.stem}-{before}-{stamp}.sqlite3"
        copy_database(path, backup)
        migrate(path, migrations)
    return Upgrade(before, steps[-1], backup)


def open_current(path: Path, *, wait: float) -> tuple[Database, Upgrade | None]:
    """Open a database, upgraded if it is of an older version; return it and what that did.

    Call it only while the data directory is held. Raises CetoolError as :meth:`Database.open` and :func:`upgrade`.
    """
    try:
        return Database.open(path, wait=wait), None
    except CetoolError as error:
        if error.code != "database-outdated":
            raise
    done = upgrade(path)
    return Database.open(path, wait=wait), done


def copy_database(source: Path, target: Path) -> None:
    """Copy a database that may be in use into a new file, whole or not at all, and check the copy.

    Raises sqlite3.Error and OSError.
    """
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(partial)) as new:
            old.backup(new, pages=_PAGES)
            # one file, without a log next to it
            new.execute("PRAGMA journal_mode = DELETE")
            check_database(new, source)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        for name in (partial.name, f"{partial.name}-wal", f"{partial.name}-shm", f"{partial.name}-journal"):
            partial.with_name(name).unlink(missing_ok=True)
    sync_directory(target.parent)


def check_database(connection: sqlite3.Connection, path: Path) -> None:
    """Raise CetoolError with the code ``database-damaged`` for a database that SQLite finds damaged."""
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise CetoolError(f"the database {path} is damaged: {found[0]}", code="database-damaged", about=str(path))


def _revision(path: Path) -> str:
    if not path.exists():
        raise CetoolError(f"there is no database {path}", code="not-found", about=str(path))
    with _connected(path) as tx, tx.begin():
        found = revision_of(tx)
    if found is None:
        raise CetoolError(f"the database {path} is empty", code="database-damaged", about=str(path))
    return found


def migrate(path: Path, migrations: Path) -> None:
    """Run the migrations that are missing, in one transaction."""
    from alembic import command

    with _connected(path) as tx:
        # a migration that re-creates a table must not delete what refers to it; this has no effect in a transaction
        _raw(tx).execute("PRAGMA foreign_keys = OFF")
        tx = tx.execution_options(cetool_write=30_000)
        with tx.begin():
            config = _config(migrations)[0]
            config.attributes["connection"] = tx
            command.upgrade(config, "heads")
            broken = tx.execute(sa.text("PRAGMA foreign_key_check")).first()
            if broken is not None:
                raise CetoolError(
                    f"the upgrade of {path} failed: a row of {broken[0]} refers to a missing row of {broken[2]}",
                    code="database-damaged",
                    about=str(path),
                )


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sa.Connection]:
    engine = unchecked_engine(path)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _raw(tx: sa.Connection) -> sqlite3.Connection:
    connection = tx.connection.dbapi_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


def _config(migrations: Path):  # type: ignore[no-untyped-def]
    """Return Alembic's configuration and scripts."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    return config, ScriptDirectory.from_config(config)

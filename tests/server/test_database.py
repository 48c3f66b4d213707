"""The server's database: opened quickly, written in turn, never half."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.server.data import schema
from cetool.server.data.database import Database, now


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.open(tmp_path / "data" / "server.sqlite3", wait=5)


def test_a_failed_write_changes_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as tx:
        tx.execute(schema.meta.insert().values(key="a", value="b"))
        1 / 0  # noqa: B018
    with database.read() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(schema.meta)) == 0


def test_the_audit_refuses_changes(database: Database) -> None:
    with database.write() as tx:
        row = {"at": now(tx), "who": "a", "action": "b", "object": "c", "data": {}}
        tx.execute(schema.audit.insert().values(**row))
    for statement in (schema.audit.update().values(who="x"), schema.audit.delete()):
        with pytest.raises(sa.exc.IntegrityError, match="never changed"), database.write() as tx:
            tx.execute(statement)


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.sqlite3"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(CetoolError) as caught:
        Database.open(path)
    assert caught.value.code == "database-damaged"


def test_the_version_changes_with_each_commit(database: Database) -> None:
    version = database.version()
    before = version()
    for number in range(3):
        with database.read() as tx:
            tx.execute(sa.select(schema.meta))
        assert version() == before
        with database.write() as tx:
            tx.execute(schema.meta.insert().values(key=str(number), value=""))
        assert version() != before
        before = version()


def test_a_write_within_a_write_is_a_defect(database: Database) -> None:
    with pytest.raises(RuntimeError, match="wait for itself"), database.write(), database.write():
        pass
    with database.write() as tx:
        tx.execute(schema.meta.insert().values(key="a", value=""))


def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(CetoolError), database.read() as tx:
        tx.execute(schema.meta.insert().values(key="a", value=""))
    with database.write() as tx:
        tx.execute(schema.meta.insert().values(key="b", value=""))

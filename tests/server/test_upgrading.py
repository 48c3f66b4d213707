"""Upgrades from every released schema, with data; backups and their restoration."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.builds import posted, result

from cetool.base.errors import CetoolError
from cetool.server.config import ServerConfig
from cetool.server.data import answers, builds, environments, leases, locks
from cetool.server.data.backing import back_up, restore
from cetool.server.data.database import Database
from cetool.server.data.schema import REVISION
from cetool.server.data.upgrading import MIGRATIONS, open_current, pending, upgrade

#: A database of each released schema, as ``sqlite3 .dump`` wrote it.
RELEASED = sorted(Path(__file__).with_name("schemas").glob("*.sql"))


def loaded(script: Path, target: Path) -> Path:
    """Create a database from a dump."""
    connection = sqlite3.connect(target)
    connection.executescript(script.read_text(encoding="utf-8"))
    connection.close()
    return target


def schema_of(path: Path) -> dict[str, list[str]]:
    """Return the parts of each table, index and trigger, without their order and white space."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    parts = [(name, " ".join(sql.split()).partition(" (")) for name, sql in rows if not name.startswith("sqlite_")]
    return {name: sorted([start, *rest.rpartition(")")[0].strip().split(", ")]) for name, (start, _, rest) in parts}


def filled(path: Path) -> int:
    """Create a database with a completed build; return its number."""
    database = Database.open(path)
    with database.write() as tx:
        number = posted(tx, "team/one", "python").build_id
        claim = leases.claim(tx, "worker", 60)
        assert claim is not None
        leases.complete(tx, claim, result(claim, "python", "zlib"))
    database.close()
    return number


def with_next(directory: Path, body: str) -> Path:
    """Return a copy of the migrations with one more, whose statements are given."""
    migrations = directory / "migrations"
    if not migrations.exists():
        shutil.copytree(MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    text = f'revision = "9999"\ndown_revision = "{REVISION}"\nfrom alembic import op\n\n\ndef upgrade():\n'
    text += "".join(f"    {line}\n" for line in body.splitlines())
    (migrations / "versions" / "r9999_next.py").write_text(text, encoding="utf-8")
    return migrations


def test_the_migrations_lead_to_the_tables_of_this_version(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.sqlite3"
    Database.open(fresh).close()
    old = sqlite3.connect(tmp_path / "old.sqlite3")
    old.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    old.close()
    upgrade_from_nothing(tmp_path / "old.sqlite3")
    expected, found = schema_of(fresh), schema_of(tmp_path / "old.sqlite3")
    del expected["alembic_version"], found["alembic_version"]
    assert found == expected


def upgrade_from_nothing(path: Path) -> None:
    """Run all migrations on an empty database."""
    from cetool.server.data import upgrading

    upgrading.migrate(path, MIGRATIONS)
    assert pending(path) == (REVISION, ())


def test_every_migration_is_known_to_the_program() -> None:
    last = max(path.stem[1:5] for path in (MIGRATIONS / "versions").glob("r*.py"))
    assert last == REVISION
    assert [path.stem for path in RELEASED] == [f"{number:04}" for number in range(1, int(REVISION) + 1)]


@pytest.mark.parametrize("script", RELEASED, ids=lambda path: path.stem)
def test_a_released_schema_is_upgraded_with_its_data(tmp_path: Path, script: Path) -> None:
    path = loaded(script, tmp_path / "server.sqlite3")
    database, done = open_current(path, wait=5)
    assert (done is None) == (script.stem == REVISION)
    with database.write() as tx:
        one = environments.get(tx, "team", "one")
        assert one.build_id is not None and builds.get(tx, one.build_id).status == "COMPLETED"
        assert [each.name for each in locks.of_build(tx, one.build_id)["linux-64"].conda] == ["python", "zlib"]
        waiting = leases.claim(tx, "worker", 60)
        assert waiting is not None and waiting.name == "two"
        assert posted(tx, "team/three", "python").status == "COMPLETED"
    database.close()


def test_an_upgrade_keeps_a_backup_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "server.sqlite3"
    number = filled(path)
    migrations = with_next(tmp_path, 'op.execute("ALTER TABLE build ADD COLUMN color TEXT")')
    done = upgrade(path, migrations=migrations)
    assert (done.before, done.after) == (REVISION, "9999") and done.backup is not None
    assert "color TEXT" in schema_of(path)["build"] and "color TEXT" not in schema_of(done.backup)["build"]
    backup = Database.open(done.backup)
    with backup.read() as tx:
        assert builds.get(tx, number).status == "COMPLETED"
    backup.close()
    assert upgrade(path, migrations=migrations).backup is None
    with pytest.raises(CetoolError) as caught:
        Database.open(path)
    assert caught.value.code == "database-newer"
    with pytest.raises(CetoolError) as caught:
        pending(path)
    assert caught.value.code == "database-newer"


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "server.sqlite3"
    filled(path)
    before = schema_of(path)
    body = 'op.execute("ALTER TABLE build ADD COLUMN color TEXT")\nop.execute("DELETE FROM specification")'
    with pytest.raises(CetoolError, match="refers to a missing row"):
        upgrade(path, migrations=with_next(tmp_path, body))
    assert schema_of(path) == before


def test_an_upgrade_that_is_killed_leaves_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "server.sqlite3"
    number = filled(path)
    before = schema_of(path)
    killed = (
        'import os\nop.execute("ALTER TABLE build ADD COLUMN color TEXT")\nop.execute("UPDATE build SET color = 1")\n'
    )
    migrations = with_next(tmp_path, killed + f"os.kill(os.getpid(), {int(signal.SIGKILL)})")
    code = "import sys, pathlib; from cetool.server.data.upgrading import upgrade\n"
    code += "upgrade(pathlib.Path(sys.argv[1]), migrations=pathlib.Path(sys.argv[2]))"
    ended = subprocess.run([sys.executable, "-c", code, path, migrations], env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL
    assert schema_of(path) == before
    database = Database.open(path)
    with database.read() as tx:
        assert builds.get(tx, number).status == "COMPLETED"
    database.close()
    with_next(tmp_path, 'op.execute("ALTER TABLE build ADD COLUMN color TEXT")')
    assert upgrade(path, migrations=migrations).after == "9999"


def server(data: Path) -> tuple[ServerConfig, int]:
    """Return a server's configuration, and the number of its completed build."""
    config = ServerConfig(data)
    number = filled(config.database)
    (data / "signing-key.pem").write_text("the key")
    (data / "signing-key.pem").chmod(0o600)
    return config, number


def test_a_backup_is_restored_in_a_new_directory(tmp_path: Path) -> None:
    config, number = server(tmp_path / "old")
    settings = tmp_path / "server.yaml"
    settings.write_text("workers: 1\n")
    running = Database.open(config.database)
    with running.write():  # a backup does not wait for those who write
        done = back_up(config, tmp_path / "backup.tar", configuration=settings)
    running.close()
    assert done.path.stat().st_mode & 0o077 == 0
    restored = restore(done.path, tmp_path / "new")
    assert restored.files == ("server.sqlite3", "server.yaml", "signing-key.pem") == done.files
    assert (tmp_path / "new" / "signing-key.pem").read_text() == "the key"
    assert (tmp_path / "new" / "signing-key.pem").stat().st_mode & 0o077 == 0
    assert restored.queued == 1
    database = Database.open(ServerConfig(tmp_path / "new").database)
    with database.write() as tx:
        assert environments.get(tx, "team", "one").build_id == number
        # the prefix is made again, from the same packages
        claim = leases.claim(tx, "worker", 60)
        assert claim is not None and claim.origin == "rebuild"
        known = answers.known_locks(tx, claim.platforms)
        assert [each.name for each in known["linux-64"].conda] == ["python", "zlib"]
        leases.complete(tx, claim, result(claim, "python", "zlib"))
        assert environments.get(tx, "team", "one").build_id == claim.build_id
    database.close()
    assert not list(tmp_path.glob(".*"))


def test_a_backup_replaces_nothing(tmp_path: Path) -> None:
    config, _ = server(tmp_path / "old")
    target = tmp_path / "backup.tar"
    target.write_text("precious")
    with pytest.raises(CetoolError) as caught:
        back_up(config, target)
    assert caught.value.code == "write-failed" and target.read_text() == "precious"
    target.unlink()
    done = back_up(config, target)
    with pytest.raises(CetoolError) as caught:
        restore(done.path, config.data)
    assert caught.value.code == "conflict"


def test_a_missing_backup_creates_no_directory(tmp_path: Path) -> None:
    with pytest.raises(CetoolError) as caught:
        restore(tmp_path / "none.tar", tmp_path / "new")
    assert caught.value.code == "not-found" and not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "added", "text", "link"])
def test_a_damaged_backup_restores_nothing(tmp_path: Path, damage: str) -> None:
    config, _ = server(tmp_path / "old")
    file = back_up(config, tmp_path / "backup.tar").path
    raw = file.read_bytes()
    if damage == "cut":
        file.write_bytes(raw[: len(raw) // 2])
    elif damage == "changed":
        file.write_bytes(raw.replace(b"the key", b"my  key"))
    elif damage == "text":
        file.write_text("workers: 1\n")
    else:
        with tarfile.open(file, "a" if damage != "foreign" else "w") as archive:
            entry = tarfile.TarInfo("../evil" if damage == "foreign" else "server.yaml")
            if damage == "link":
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(entry)
    with pytest.raises(CetoolError) as caught:
        restore(file, tmp_path / "new")
    assert caught.value.code == "backup-malformed"
    assert {each.name for each in tmp_path.iterdir()} == {"old", "new", "backup.tar"}
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["server.lock"]

"""``cetool server check`` finds nothing in sound data, and each kind of damage with what to do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.home import Home
from support.serving import running_server


@dataclass(frozen=True)
class Data:
    """The data of a server that has built ``team/tools`` and stopped."""

    home: Home
    root: Path
    prefix: Path

    def sql(self, *statements: str) -> None:
        """Change the database as another program could."""
        with contextlib.closing(sqlite3.connect(self.root / "server.sqlite3")) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()

    def check(self) -> list[dict[str, Any]]:
        """Return the problems that a check finds."""
        done = self.home.cetool("server", "check", "--data", self.root, "--json")
        found: list[dict[str, Any]] = json.loads(done.stdout)["problems"]
        assert done.returncode == (1 if found else 0), done.stderr
        return found


@pytest.fixture(scope="module")
def data(settled: Home) -> Iterator[Data]:
    root = settled.path / "check-data"
    with running_server(settled, data=root) as server:
        text = "dependencies: [hello-bin]\n"
        asked = server.post("/cetool/1/requests", {"namespace": "team", "name": "tools", "text": text}).json
        assert server.wait(asked["build"])["status"] == "COMPLETED"
        link = root / "names" / "team" / "tools"
        prefix = Path(os.path.realpath(link))
        done = settled.cetool("server", "check", "--data", root)
        assert (done.returncode, done.stderr) == (0, "Found no problems\n"), done.stdout
    yield Data(settled, root, prefix)


@pytest.fixture
def damaged(data: Data) -> Iterator[Data]:
    """The same data, which are repaired afterwards."""
    copy = data.root.with_name("check-copy")
    shutil.copytree(data.root, copy, symlinks=True)
    yield data
    shutil.rmtree(data.root)
    copy.rename(data.root)


def _open_key(data: Data) -> None:
    (data.root / "signing-key.pem").chmod(0o644)


def _lose_link(data: Data) -> None:
    (data.root / "names" / "team" / "tools").unlink()


def _add_link(data: Data) -> None:
    (data.root / "names" / "team" / "gone").symlink_to(data.prefix)


def _lose_marker(data: Data) -> None:
    (data.prefix / "conda-meta" / "cetool").unlink()


def _lose_record(data: Data) -> None:
    next((data.prefix / "conda-meta").glob("*.json")).unlink()


def _forge_answer(data: Data) -> None:
    data.sql('UPDATE answer SET record = replace(record, \'"sig":"\', \'"sig":"AAAA\')')


def _move_answer(data: Data) -> None:
    data.sql(f"UPDATE answer SET request = '{'0' * 64}'")


def _change_lock(data: Data) -> None:
    data.sql("UPDATE lock SET content = replace(content, 'hello-bin', 'other-bin')")


def _lose_lock(data: Data) -> None:
    data.sql("UPDATE build_platform SET lock = NULL")


def _fail_build(data: Data) -> None:
    data.sql("UPDATE build SET status = 'FAILED'")


def _break_reference(data: Data) -> None:
    data.sql("UPDATE environment SET namespace_id = 999")


def _change_archive(data: Data) -> None:
    path = data.root / "blobs" / "sha256" / "00" / ("0" * 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"something else")


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (_open_key, "file", "other users can read "),
        (_lose_link, "link", "the link of team/tools is missing"),
        (_add_link, "link", "is the link of an environment that does not exist"),
        (_lose_marker, "realization", "is incomplete: it has no marker"),
        (_lose_record, "realization", "is incomplete: 1 of its 1 package records is missing"),
        (_forge_answer, "answer", "is wrong: "),
        (_move_answer, "answer", "it is about another request"),
        (_change_lock, "lock", "does not have the packages of its digest"),
        (_lose_lock, "build", "build 1 is COMPLETED, but has no lock for "),
        (_fail_build, "environment", "team/tools points to build 1, which is FAILED"),
        (_break_reference, "database", "refers to a row of namespace that does not exist"),
        (_change_archive, "archive", "has another content than its name says"),
    ],
    ids=lambda value: getattr(value, "__name__", "").lstrip("_") or None,
)
def test_damage_is_found(damaged: Data, damage: Callable[[Data], None], kind: str, message: str) -> None:
    damage(damaged)
    found = [each for each in damaged.check() if each["kind"] == kind and message in each["message"]]
    assert found and all(each["hint"].endswith(".") and each["about"] for each in found)


def test_a_database_that_is_none_is_reported(damaged: Data) -> None:
    (damaged.root / "server.sqlite3").write_bytes(b"not a database" * 1000)
    done = damaged.home.cetool("server", "check", "--data", damaged.root)
    assert done.returncode == 125 and "is damaged" in done.stderr

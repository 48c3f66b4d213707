"""A collection removes what no build needs, reports the bytes, and never takes what is needed or in use."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.builds import locked, posted
from support.cache import builder, ensure, fork_many, is_whole, wait_until
from support.home import Home
from support.serving import running_server

from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.server.collecting import Place, Result, collect, freed_bytes
from cetool.server.config import ServerConfig
from cetool.server.data import environments, leases
from cetool.server.data.database import Database
from cetool.server.data.leases import Result as Built
from cetool.server.data.locks import Realization
from cetool.server.data.schema import build, build_platform, realization
from cetool.settings.paths import Paths
from cetool.store.disk import disk_size
from cetool.store.making import write_marker
from cetool.store.store import Store, read_marker


@dataclass
class Data:
    """A server's data directory without a server."""

    root: Path
    database: Database

    @classmethod
    def open(cls, root: Path) -> Data:
        """Open it; a process that was forked opens its own."""
        return cls(root, Database.open(root / "server.sqlite3"))

    @property
    def store(self) -> Store:
        """Its environments."""
        root = self.root
        return Store(Paths(root, root / "envs", root / "locks", root / "trash", None))

    def place(self, **config: object) -> Place:
        """What a collection with this configuration works on."""
        settings = ServerConfig(self.root, **config)  # type: ignore[arg-type]
        return Place(settings, self.database, self.store, (self.root / "pkgs",))

    def collect(self, *, dry_run: bool = False, **config: object) -> Result:
        """Collect with this configuration."""
        return collect(self.place(**config), dry_run=dry_run)

    def build(self, name: str, *packages: str, refresh: bool = False) -> tuple[int, Path]:
        """Make an environment as a builder does; return the build and the prefix."""
        with self.database.write() as tx:
            asked = posted(tx, name, *packages, refresh=refresh)
        if asked.status == "QUEUED":
            self.work()
        with self.database.read() as tx:
            chosen = sa.select(build_platform.c.realization).where(build_platform.c.build_id == asked.build_id)
            return asked.build_id, self.root / "envs" / str(tx.scalar(chosen))

    def work(self) -> None:
        """Build what is next in the queue."""
        with self.database.write() as tx:
            claim = leases.claim(tx, f"worker {os.getpid()}", 60)
        if claim is None:
            return
        names = [str(each) for each in (claim.platforms[0].spec or {})["packages"]]
        lock = locked(*names)
        spec = EnvironmentSpec(Solve(tuple(names))).exactly(lock.conda, ())
        with ensure(self.store, spec, builder(spec)) as lease:
            made = Realization(spec.name, lease.marker.size, 1)
            with self.database.write() as tx:
                leases.complete(tx, claim, {claim.platforms[0].platform: Built(lock, "{}", made)})

    def broken(self) -> list[str]:
        """Return what contradicts: completed builds without a complete environment."""
        needed = (
            sa.select(build.c.id, build_platform.c.realization)
            .join(build_platform, build_platform.c.build_id == build.c.id)
            .where(build.c.status == "COMPLETED", build.c.deleted.is_(None))
        )
        with self.database.read() as tx:
            rows = tx.execute(needed).all()
            known = set(tx.scalars(sa.select(realization.c.name)))
        wrong = [f"build {number} has no environment" for number, name in rows if name is None]
        wrong += [
            f"build {number}: {name} is incomplete"
            for number, name in rows
            if name is not None and not is_whole(self.root / "envs" / name)
        ]
        return wrong + [f"{name} is gone" for name in known if not is_whole(self.root / "envs" / name)]


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Data]:
    root = tmp_path / "data"
    root.mkdir(mode=0o700)
    opened = Data.open(root)
    yield opened
    opened.database.close()


def test_a_deleted_environment_is_removed_and_its_bytes_are_reported(data: Data) -> None:
    _, kept = data.build("team/kept", "six")
    _, gone = data.build("team/gone", "numpy")
    assert data.collect().freed == 0
    with data.database.write() as tx:
        freed = environments.delete(tx, "team", "gone", by="ana")
    size = freed_bytes(data.store, freed.realizations)
    told = data.collect(dry_run=True)
    assert [each.item.path for each in told.collection.of("environments")] == [gone] and is_whole(gone)
    done = data.collect()
    assert not gone.exists() and is_whole(kept)
    assert size > 0 and done.freed == told.freed == size
    assert data.collect().collection.collected == []


def test_an_environment_that_another_build_needs_stays(data: Data) -> None:
    _, prefix = data.build("team/one", "six")
    data.build("team/two", "six")
    with data.database.write() as tx:
        freed = environments.delete(tx, "team", "one", by="ana")
    assert freed.realizations == ()
    data.collect()
    assert is_whole(prefix) and data.broken() == []


def test_an_environment_in_use_stays_until_it_is_not(data: Data) -> None:
    _, prefix = data.build("team/gone", "six")
    with data.database.write() as tx:
        environments.delete(tx, "team", "gone", by="ana")
    lease = data.store.lease(prefix.name)
    assert lease is not None
    with lease:
        assert [each.path for each in data.collect().collection.in_use] == [prefix]
        assert is_whole(prefix)
    # a program that was started without cetool holds no file lock
    shutil.copy(shutil.which("sleep") or "/bin/sleep", prefix / "bin" / "sleep")
    program = subprocess.Popen([prefix / "bin" / "sleep", "600"])
    try:
        data.collect()
        assert is_whole(prefix)
    finally:
        program.kill()
        program.wait()
    data.collect()
    assert not prefix.exists()


def test_retention_keeps_the_current_and_the_last_builds(data: Data) -> None:
    made = [data.build("team/moving", f"six{number}") for number in range(4)]
    done = data.collect(keep_builds=2, keep_builds_for=0.0)
    assert done.builds == tuple(number for number, _ in made[:2])
    assert [prefix.exists() for _, prefix in made] == [False, False, True, True]
    with data.database.write() as tx:
        environments.rollback(tx, "team", "moving", by="ana")
    assert data.collect(keep_builds=1, keep_builds_for=0.0).builds == ()
    data.build("team/moving", "six9")
    data.collect(keep_builds=1, keep_builds_for=3600.0)
    assert data.broken() == []


def test_nothing_recent_is_given_up(data: Data) -> None:
    for number in range(4):
        data.build("team/moving", f"six{number}")
    assert data.collect(keep_builds=1, keep_builds_for=3600.0).builds == ()


def test_environments_that_no_build_knows_are_removed_when_they_are_old(data: Data) -> None:
    spec = EnvironmentSpec(Solve(("orphan",)))
    ensure(data.store, spec, builder(spec)).release()
    prefix = data.store.prefix(spec.name)
    (data.root / "envs" / "0123456789abcdef0123").mkdir()
    data.collect()
    assert is_whole(prefix) and not (data.root / "envs" / "0123456789abcdef0123").exists()
    marker = read_marker(prefix)
    assert marker is not None
    write_marker(prefix, marker._replace(created=time.time() - 7200))
    data.collect()
    assert not prefix.exists()


def test_archives_in_locks_stay_and_others_go(data: Data) -> None:
    data.build("team/kept", "six")
    # support.builds gives its packages the first digest
    kept, other = (data.root / "blobs" / "sha256" / each[:2] / each for each in ("a" * 64, "b" * 64))
    for path in (kept, other):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"archive" * 1000)
        os.utime(path, (1e9, 1e9))
    done = data.collect()
    assert kept.exists() and not other.exists()
    assert done.freed_by("archives") > 0


# --- at the same time -----------------------------------------------------------------------------------------------


def test_collections_race_with_builds_and_deletions(data: Data, scale: int) -> None:
    """Two builders, two deleters and two collectors on a few names: no completed build ever lacks its environment."""
    data.database.close()
    until = time.monotonic() + 4 * scale

    def act(number: int) -> None:
        mine = Data.open(data.root)
        choose = random.Random(number)
        while time.monotonic() < until:
            name = f"env{choose.randrange(3)}"
            if number < 2:
                mine.build(f"team/{name}", f"six{choose.randrange(3)}", refresh=choose.random() < 0.3)
            elif number < 4:
                with contextlib.suppress(Exception), mine.database.write() as tx:
                    environments.delete(tx, "team", name, by="ana")
                time.sleep(0.002)
            else:
                mine.collect(keep_builds=1, keep_builds_for=0.0)
        mine.database.close()

    fork_many(6, act)
    again = Data.open(data.root)
    again.collect()
    assert again.broken() == []
    again.database.close()


def test_a_collection_that_is_killed_at_any_step_is_finished_by_the_next(data: Data) -> None:
    """Each process dies at a later change of a file than the last, until one survives."""
    data.database.close()
    for step in range(1, 200):
        mine = Data.open(data.root)
        kept, gone = f"kept{step}", f"gone{step}"
        mine.build(f"team/{kept}", f"six{step}")
        mine.build(f"team/{gone}", f"gone{step}")
        with mine.database.write() as tx:
            environments.delete(tx, "team", gone, by="ana")
        mine.database.close()
        survived = _killed_at(step, data.root)
        mine = Data.open(data.root)
        mine.collect(keep_unused_for=0.0)
        assert mine.broken() == []
        assert [len(os.listdir(data.root / name)) for name in ("envs", "trash")] == [step, 0]
        mine.database.close()
        if survived:
            break
    assert survived and step > 5


_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.chmod", "os.mkdir", "shutil.rmtree")


def _killed_at(step: int, root: Path) -> bool:
    """Collect in a process that kills itself at the given change of a file; return whether it did not come to that."""
    pid = os.fork()
    if pid == 0:
        seen = 0

        def watch(event: str, _: object) -> None:
            nonlocal seen
            if event in _CHANGES:
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            mine = Data.open(root)
            sys.addaudithook(watch)
            mine.collect()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_running_server_removes_what_a_deletion_frees(home: Home) -> None:
    with running_server(home) as server:
        text = "dependencies: [many-files]\n"
        for name in ("kept", "gone"):
            asked = {"namespace": "team", "name": name, "text": f"{text}variables: {{NAME: {name}}}\n"}
            assert server.wait(server.post("/cetool/1/requests", asked).json["build"])["status"] == "COMPLETED"
        kept, gone = (Path(os.path.realpath(server.data / "names" / "team" / name)) for name in ("kept", "gone"))
        assert kept != gone
        freed = server.request("DELETE", "/cetool/1/environments/team/gone").json["freed"]
        # its files are links to those of the other one, apart from its directories and what differs
        assert 0 < freed < disk_size(kept)
        assert not os.path.lexists(server.data / "names" / "team" / "gone")
        wait_until(lambda: not gone.exists())
        assert (kept / "conda-meta" / "cetool").exists()
        wait_until(lambda: "cetool_collected_bytes_total 0" not in server.get("/metrics", token=None).text)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_reports_what_it_removed(home: Home, data: Data) -> None:
    _, gone = data.build("team/gone", "six")
    with data.database.write() as tx:
        environments.delete(tx, "team", "gone", by="ana")
    words = ("server", "gc", "--data", data.root)
    dry = home.cetool(*words, "--dry-run")
    assert dry.returncode == 0 and dry.stdout.startswith(f"{gone.name}: no build needs it"), dry.stderr
    told = json.loads(home.cetool(*words, "--dry-run", "--json").stdout)
    assert told["schema"] == "cetool.server-gc/1" and told["environments"][0]["prefix"] == str(gone)
    done = home.cetool(*words)
    assert done.stderr.startswith("Removed 1 environment ("), done.stderr
    assert not gone.exists()
    assert home.cetool(*words).stderr == "Nothing to remove\n"


def test_a_directory_without_a_server_is_refused(home: Home, tmp_path: Path) -> None:
    done = home.cetool("server", "gc", "--data", tmp_path)
    assert done.returncode == 125 and "is not the data directory of a server" in done.stderr
    assert list(tmp_path.iterdir()) == []

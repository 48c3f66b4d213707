"""Builds under all orders of events, and with several processes at once: none is lost, none is built twice."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.builds import posted, requested, result

from cetool.base.errors import CetoolError
from cetool.server.data import answers, builds, environments, leases, locks, namespaces
from cetool.server.data.builds import BuildQuery
from cetool.server.data.database import Database, now
from cetool.server.data.leases import Claim
from cetool.server.data.paging import Cut
from cetool.server.data.schema import answer, build, build_platform, environment, history, realization

NAMES = ("a/one", "a/two", "b/one", "c/one")
SPECS = ("python", "numpy", "scipy")
PLATFORMS = (("linux-64",), ("osx-arm64",), ("linux-64", "osx-arm64"))


def check_invariants(tx: sa.Connection) -> None:
    """Check what must hold between any two transactions."""
    rows = tx.execute(sa.select(build)).all()
    for row in rows:
        if row.status == "COMPLETED":
            parts = tx.execute(sa.select(build_platform).where(build_platform.c.build_id == row.id)).all()
            assert parts and all(part.lock is not None for part in parts)
        if row.status in ("COMPLETED", "FAILED", "CANCELED"):
            assert row.reason and row.ended >= row.scheduled and row.owner is None and row.lease_until is None
        if row.status == "BUILDING":
            assert row.owner and row.fence >= 1 and row.attempts >= 1
        if row.deleted is not None:
            assert row.status in ("COMPLETED", "FAILED", "CANCELED")
    for number, status, deleted, mine, its in tx.execute(
        sa.select(build.c.id, build.c.status, build.c.deleted, environment.c.id, build.c.environment_id).join(
            environment, environment.c.build_id == build.c.id
        )
    ):
        assert status == "COMPLETED" and deleted is None and mine == its, number
    digests = Counter(tx.scalars(sa.select(realization.c.lock)))
    assert all(count == 1 for count in digests.values())
    for platform, request, status, deleted in tx.execute(
        sa.select(answer.c.platform, answer.c.request, build.c.status, build.c.deleted).join(
            build, build.c.id == answer.c.build_id
        )
    ):
        assert status == "COMPLETED" and deleted is None
        assert answers.find(tx, platform, request) is not None
    running = Counter(
        (each.platform, each.request)
        for row in rows
        if row.status == "BUILDING"
        for each in builds.get(tx, row.id).platforms
    )
    assert all(count == 1 for count in running.values()), "a request is built twice at once"
    moves = sa.select(history.c.environment_id, sa.func.max(history.c.id)).group_by(history.c.environment_id)
    assert all(number > 0 for _, number in tx.execute(moves))


class Builds(RuleBasedStateMachine):
    """All that clients, workers, operators, clocks and crashes do to builds, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self.database = Database.open(Path(self._directory.name, "server.sqlite3"))
        self.claims: list[Claim] = []
        self.asked: set[int] = set()
        self.versions = 0

    def teardown(self) -> None:
        """Let all that is left end, and see that nothing is lost."""
        with self.database.write() as tx:
            leases.release_owned_by_others(tx, "last")
            tx.execute(build.update().values(not_before=0))
            while (claim := leases.claim(tx, "last", 60)) is not None:
                assert leases.complete(tx, claim, result(claim, *claim.platforms[0].spec["packages"]))  # type: ignore[index]
            left = builds.count(tx, BuildQuery(status="QUEUED")) + builds.count(tx, BuildQuery(status="BUILDING"))
            assert left == 0
            assert set(tx.scalars(sa.select(build.c.id))) >= self.asked
            check_invariants(tx)
        self.database.close()
        self._directory.cleanup()

    @rule(
        place=st.sampled_from(NAMES),
        spec=st.sampled_from(SPECS),
        platforms=st.sampled_from(PLATFORMS),
        refresh=st.booleans(),
    )
    def ask(self, place: str, spec: str, platforms: tuple[str, ...], refresh: bool) -> None:
        with self.database.write() as tx:
            asked = posted(tx, place, spec, platforms=platforms, refresh=refresh)
            assert asked.created == (asked.build_id not in self.asked)
            self.asked.add(asked.build_id)
            again = posted(tx, place, spec, platforms=platforms, refresh=refresh)
            if not (refresh and asked.status == "COMPLETED"):
                assert again.build_id == asked.build_id, "the same request twice is one build"

    @rule(owner=st.sampled_from(("w1", "w2")), seconds=st.sampled_from((60.0, -1.0, 1e6)))
    def claim(self, owner: str, seconds: float) -> None:
        with self.database.write() as tx:
            claim = leases.claim(tx, owner, seconds)
            if claim is None:
                return
            earlier = [each for each in self.claims if each.build_id == claim.build_id]
            assert all(each.fence < claim.fence for each in earlier)
            self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), how=st.sampled_from(("complete", "fail", "release", "renew", "again")))
    def work(self, data: st.DataObject, how: str) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        newest = max(each.fence for each in self.claims if each.build_id == claim.build_id)
        with self.database.write() as tx:
            before = builds.get(tx, claim.build_id)
            holds = before.status == "BUILDING" and claim.fence == newest
            if how == "complete":
                self.versions += 1
                done = leases.complete(tx, claim, result(claim, f"p={self.versions % 3}", "zlib"))
                assert not done or holds
            elif how == "fail":
                assert not leases.fail(tx, claim, "engine-failed", "it failed") or holds
            elif how == "release":
                assert not leases.release(tx, claim, not_before=now(tx) + 1e7, reason="later") or holds
            elif how == "renew":
                assert (leases.renew(tx, claim, 60) == "held") <= holds
            if not holds:
                assert builds.get(tx, claim.build_id) == before, "an old holder changed a build"

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.asked)))
        with self.database.write() as tx:
            before = builds.get(tx, number)
            status = builds.cancel(tx, number, "ana")
            assert status == (before.status if before.is_finished else "CANCELED")

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), force=st.booleans())
    def delete(self, data: st.DataObject, force: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.asked)))
        with self.database.write() as tx:
            try:
                freed = builds.delete(tx, number, "ana", force=force)
            except CetoolError as error:
                assert error.code == "conflict" and not force
                return
            for name in freed.realizations:
                assert locks.forget_realization(tx, name)

    @rule(place=st.sampled_from(NAMES), what=st.sampled_from(("delete", "rollback", "rename", "forget")))
    def change(self, place: str, what: str) -> None:
        space, name = place.split("/")
        with self.database.write() as tx:
            try:
                if what == "delete":
                    environments.delete(tx, space, name, by="ana")
                elif what == "rollback":
                    environments.rollback(tx, space, name, by="ana")
                elif what == "rename":
                    environments.rename(tx, space, name, f"{name}-old", by="ana")
                elif namespaces.find(tx, space) is not None:
                    namespaces.delete(tx, space, by="ana")
            except CetoolError as error:
                assert error.code in ("not-found", "conflict")

    @rule(back=st.sampled_from((0.0, 1e7)))
    def set_clock(self, back: float) -> None:
        """Let times be those of a clock that was ahead."""
        with self.database.write() as tx:
            tx.execute(
                build.update().where(build.c.status == "BUILDING").values(lease_until=build.c.lease_until + back)
            )
            tx.execute(build.update().where(build.c.status == "QUEUED").values(not_before=build.c.not_before + back))

    @rule()
    def restart(self) -> None:
        with self.database.write() as tx:
            leases.release_owned_by_others(tx, "w1")

    @invariant()
    def nothing_contradicts(self) -> None:
        with self.database.read() as tx:
            check_invariants(tx)


def test_builds_keep_their_promises_in_any_order_of_events() -> None:
    some = settings(
        max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(Builds, settings=some)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "server.sqlite3")
    yield database
    database.close()


_WORKER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from cetool.server.data import leases
from cetool.server.data.database import Database
from support.builds import result
database = Database.open(Path(sys.argv[1]))
done = []
while True:
    with database.write() as tx:
        claim = leases.claim(tx, sys.argv[2], 60)
    if claim is None:
        break
    with database.write() as tx:
        assert leases.renew(tx, claim, 60, leases.Progress("linking", 1, 2, "packages")) == "held"
    with database.write() as tx:
        done += leases.complete(tx, claim, result(claim, "python"))
print(json.dumps(done))
"""


def test_processes_that_claim_at_once_share_the_work(database: Database) -> None:
    with database.write() as tx:
        numbers = [posted(tx, f"n{number % 3}/e{number}", f"spec{number % 20}").build_id for number in range(60)]
    tests = Path(__file__).resolve().parents[1]
    words = [sys.executable, "-c", _WORKER, str(database.path)]
    workers = [subprocess.Popen([*words, f"w{each}", str(tests)], stdout=subprocess.PIPE) for each in range(3)]
    done = [number for worker in workers for number in json.loads(worker.communicate()[0])]
    assert sorted(done) == numbers
    with database.read() as tx:
        check_invariants(tx)
        assert builds.count(tx, BuildQuery(status="COMPLETED")) == 60


def test_fifty_requests_at_once_are_one_build(database: Database) -> None:
    def ask(number: int) -> tuple[int, bool]:
        with database.write() as tx:
            asked = posted(tx, "team/one", "python")
            return asked.build_id, asked.created

    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(ask, range(50)))
    assert len({number for number, _ in found}) == 1
    assert sum(created for _, created in found) == 1


def test_a_process_that_is_killed_in_a_transaction_changes_nothing(database: Database) -> None:
    with database.write() as tx:
        number = posted(tx, "team/one", "python").build_id
    code = _WORKER.replace("        done +=", "        import os, signal\n        done +=").replace(
        '"python"))', '"python"))\n        os.kill(os.getpid(), signal.SIGKILL)'
    )
    words = [sys.executable, "-c", code, str(database.path), "w", str(Path(__file__).resolve().parents[1])]
    assert subprocess.run(words, capture_output=True).returncode == -9
    with database.write() as tx:
        assert builds.get(tx, number).status == "BUILDING"
        assert leases.release_owned_by_others(tx, "new") == 1
        check_invariants(tx)
        (request,) = requested("python")
        assert answers.find(tx, request.platform, request.request) is None
        page = builds.listed(tx, BuildQuery(Cut(), status="QUEUED"))
        assert [each.id for each in page.rows] == [number]

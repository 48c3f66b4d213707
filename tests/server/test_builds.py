"""Builds: asked for once, worked on by one holder, ended with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.builds import HERE, locked, posted, requested, result

from cetool.base.errors import CetoolError
from cetool.server.access import Reach
from cetool.server.data import answers, builds, environments, events, leases, locks, namespaces
from cetool.server.data.builds import BuildQuery
from cetool.server.data.database import Database, now
from cetool.server.data.locks import Realization
from cetool.server.data.paging import Cut
from cetool.server.data.schema import build


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "server.sqlite3", wait=5)
    yield database
    database.close()


def built(database: Database, *names: str) -> tuple[int, ...]:
    """Claim the next build and complete it."""
    with database.write() as tx:
        claim = leases.claim(tx, "worker", 60)
        assert claim is not None
        return leases.complete(tx, claim, result(claim, *names))


def test_a_build_moves_its_environment_and_answers_its_request(database: Database) -> None:
    with database.write() as tx:
        asked = posted(tx, "team/gpu", "python")
    assert asked.created and asked.status == "QUEUED"
    assert built(database, "python", "zlib") == (asked.build_id,)
    with database.read() as tx:
        done = builds.get(tx, asked.build_id)
        assert (done.status, done.reason, done.size) == ("COMPLETED", "made an environment of 2 packages", 2000)
        assert environments.get(tx, "team", "gpu").build_id == asked.build_id
        (request,) = requested("python")
        answer = answers.find(tx, request.platform, request.request)
        assert answer is not None and answer.build_id == asked.build_id and answer.namespace == "team"
        assert locks.of_build(tx, asked.build_id) == {"linux-64": locked("python", "zlib")}
        kinds = [each.kind for each in events.since(tx, 0)]
    assert kinds == [
        *("namespace.created", "environment.created", "build.queued", "build.started"),
        *("environment.moved", "build.completed"),
    ]


def test_fifty_identical_requests_cause_one_build(database: Database) -> None:
    for number in range(50):
        with database.write() as tx:
            posted(tx, f"team/env{number % 25}", "python")
    done = built(database, "python")
    assert len(done) == 25
    with database.read() as tx:
        assert builds.count(tx, BuildQuery(status="COMPLETED")) == 25
        assert len(locks.realizations(tx)) == 1
    with database.write() as tx:
        assert leases.claim(tx, "worker", 60) is None


def test_a_known_request_completes_at_once_under_another_name(database: Database) -> None:
    with database.write() as tx:
        first = posted(tx, "team/one", "python")
    built(database, "python")
    with database.write() as tx:
        again, other = posted(tx, "team/one", "python"), posted(tx, "team/two", "python")
        assert (again.build_id, again.created) == (first.build_id, False)
        assert other.created and other.status == "COMPLETED"
        assert environments.get(tx, "team", "two").build_id == other.build_id
        assert leases.claim(tx, "worker", 60) is None


def test_an_environment_with_other_variables_has_a_prefix_of_its_own(database: Database) -> None:
    """The variables are files of the prefix: the same packages do not make it the same environment."""
    for number, name in enumerate(("plain", "varied")):
        with database.write() as tx:
            asked = posted(tx, f"team/{name}", f"python{number}")
            claim = leases.claim(tx, "worker", 60)
            assert claim is not None
            made = result(claim, "python")
            made[HERE] = replace(made[HERE], realization=Realization(str(number) * 20, 1000, 1))
            leases.complete(tx, claim, made)
            again = posted(tx, f"team/{name}-again", f"python{number}")
            for build_id in (asked.build_id, again.build_id):
                assert builds.platforms_of(tx, build_id)[0].realization == str(number) * 20


def test_refresh_solves_again(database: Database) -> None:
    with database.write() as tx:
        posted(tx, "team/one", "python")
    built(database, "python=1.0")
    with database.write() as tx:
        asked = posted(tx, "team/one", "python", refresh=True)
        assert asked.created and asked.status == "QUEUED"
        assert posted(tx, "team/one", "python", refresh=True).build_id == asked.build_id
    built(database, "python=2.0")
    with database.read() as tx:
        assert environments.get(tx, "team", "one").build_id == asked.build_id
        changes = environments.differences(tx, 1, asked.build_id)
    assert [(each.name, each.before, each.after) for each in changes] == [("python", "1.0 0", "2.0 0")]


def test_a_holder_that_lost_its_lease_changes_nothing(database: Database) -> None:
    with database.write() as tx:
        asked = posted(tx, "team/one", "python")
        late = leases.claim(tx, "slow", -1)
    with database.write() as tx:
        other = leases.claim(tx, "quick", 60)
    assert late is not None and other is not None
    assert other.build_id == asked.build_id and other.fence > late.fence and other.attempt == 2
    with database.write() as tx:
        assert leases.renew(tx, late, 60) == "lost"
        assert leases.complete(tx, late, result(late, "wrong")) == ()
        assert leases.fail(tx, late, "engine-failed", "it failed") == ()
        assert not leases.release(tx, late, not_before=0, reason="again")
        assert leases.renew(tx, other, 60) == "held"
        assert leases.complete(tx, other, result(other, "right")) == (asked.build_id,)


def test_the_holder_of_a_canceled_build_learns_it(database: Database) -> None:
    with database.write() as tx:
        asked = posted(tx, "team/one", "python")
        claim = leases.claim(tx, "worker", 60)
        assert claim is not None
        assert builds.cancel(tx, asked.build_id, "ana") == "CANCELED"
        assert builds.cancel(tx, asked.build_id, "bob") == "CANCELED"
        assert leases.renew(tx, claim, 60) == "canceled"
        assert leases.complete(tx, claim, result(claim, "python")) == ()
        assert builds.get(tx, asked.build_id).reason == "canceled by ana"


def test_canceling_an_ended_build_changes_nothing(database: Database) -> None:
    with database.write() as tx:
        asked = posted(tx, "team/one", "python")
    built(database, "python")
    with database.write() as tx:
        assert builds.cancel(tx, asked.build_id, "ana") == "COMPLETED"


def test_namespaces_take_turns(database: Database) -> None:
    with database.write() as tx:
        for number in range(3):
            posted(tx, f"busy/e{number}", f"p{number}")
        posted(tx, "calm/e", "q")
        posted(tx, "late/e", "r")
    order = []
    with database.write() as tx:
        while (claim := leases.claim(tx, "worker", 60)) is not None:
            order.append(claim.namespace)
    assert order[:3] == ["busy", "calm", "late"]
    assert len(order) == 5


def test_a_retry_waits_for_its_moment(database: Database) -> None:
    with database.write() as tx:
        posted(tx, "team/one", "python")
        claim = leases.claim(tx, "worker", 60)
        assert claim is not None
        assert leases.release(tx, claim, not_before=now(tx) + 100, reason="the channel does not answer")
        assert leases.claim(tx, "worker", 60) is None
        assert builds.get(tx, claim.build_id).reason == "the channel does not answer"
        tx.execute(build.update().values(not_before=now(tx) - 1))
        again = leases.claim(tx, "worker", 60)
        assert again is not None and again.attempt == 2


def test_a_clock_set_back_delays_nothing_for_long(database: Database) -> None:
    with database.write() as tx:
        posted(tx, "team/one", "python")
        posted(tx, "team/two", "numpy")
        assert leases.claim(tx, "dead", 10 * 86400) is not None
        tx.execute(build.update().where(build.c.status == "QUEUED").values(not_before=now(tx) + 10 * 86400))
        assert leases.claim(tx, "worker", 60) is not None
        assert leases.claim(tx, "worker", 60) is not None


def test_a_restart_puts_builds_back(database: Database) -> None:
    with database.write() as tx:
        posted(tx, "team/one", "python")
        old = leases.claim(tx, "before/1", 3600)
        assert old is not None
        assert leases.release_owned_by_others(tx, "before") == 0
        assert leases.release_owned_by_others(tx, "after") == 1
        new = leases.claim(tx, "after/1", 60)
        assert new is not None and new.fence > old.fence
        assert leases.renew(tx, old, 60) == "lost"


def test_a_build_that_kills_the_server_again_and_again_fails(database: Database) -> None:
    with database.write() as tx:
        number = posted(tx, "team/one", "python").build_id
        for attempt in range(1, 5):
            assert leases.claim(tx, f"server{attempt}/1", 60) is not None
            assert leases.release_owned_by_others(tx, "next", most=3) == 1
        found = builds.get(tx, number)
        assert (found.status, found.code) == ("FAILED", "build-crashed")
        assert found.reason == "the server was killed during the build, in attempt 4"


def test_builds_that_wait_for_the_same_request_fail_together(database: Database) -> None:
    with database.write() as tx:
        first, second = posted(tx, "a/one", "nope"), posted(tx, "b/one", "nope")
        claim = leases.claim(tx, "worker", 60)
        assert claim is not None
        failed = leases.fail(tx, claim, "spec-unsatisfiable", "nope does not exist", "Check the name.")
        assert failed == (first.build_id, second.build_id)
        assert builds.get(tx, second.build_id).hint == "Check the name."
        assert posted(tx, "a/one", "nope").created  # a failure is asked for again


def test_several_platforms_complete_when_all_are_answered(database: Database) -> None:
    both = ("linux-64", "osx-arm64")
    with database.write() as tx:
        alone = posted(tx, "team/alone", "python", platforms=("linux-64",))
        pair = posted(tx, "team/pair", "python", platforms=both)
        first = leases.claim(tx, "worker", 60)
        assert first is not None and first.build_id == alone.build_id
        assert leases.claim(tx, "worker", 60) is None  # shares a request that is being built
        assert leases.complete(tx, first, result(first, "python")) == (alone.build_id,)
        second = leases.claim(tx, "worker", 60)
        assert second is not None and second.build_id == pair.build_id
        assert leases.complete(tx, second, result(second, "python")) == (pair.build_id,)


def test_an_older_build_that_ends_late_moves_nothing_back(database: Database) -> None:
    with database.write() as tx:
        posted(tx, "team/one", "old")
        later = posted(tx, "team/one", "new")
        first, second = leases.claim(tx, "w1", 60), leases.claim(tx, "w2", 60)
        assert first is not None and second is not None
        leases.complete(tx, second, result(second, "new"))
        leases.complete(tx, first, result(first, "old"))
        assert environments.get(tx, "team", "one").build_id == later.build_id


def test_use_and_rollback_move_an_environment(database: Database) -> None:
    numbers = []
    for spec in ("a", "b", "c"):
        with database.write() as tx:
            numbers.append(posted(tx, "team/one", spec).build_id)
        built(database, spec)
    a, b, c = numbers
    with database.write() as tx:
        assert environments.rollback(tx, "team", "one", by="ana").build_id == b
        assert environments.rollback(tx, "team", "one", by="ana").build_id == a
        with pytest.raises(CetoolError, match="no earlier build"):
            environments.rollback(tx, "team", "one", by="ana")
        version = environments.get(tx, "team", "one").version
        moved = environments.use(tx, "team", "one", environments.Move(c, "use", "ana"), version=version)
        assert moved.build_id == c and moved.version == version + 1
        assert environments.rollback(tx, "team", "one", by="ana").build_id == a
        with pytest.raises(CetoolError) as caught:
            environments.use(tx, "team", "one", environments.Move(c, "use", "ana"), version=version)
        assert caught.value.code == "precondition-failed"
        entries = environments.history(tx, moved.id)
    assert [each.action for each in reversed(entries)] == [*["build"] * 3, *["rollback"] * 2, "use", "rollback"]


def test_only_a_completed_build_of_the_environment_can_be_used(database: Database) -> None:
    with database.write() as tx:
        waiting, other = posted(tx, "team/one", "a"), posted(tx, "team/two", "b")
        for number in (waiting.build_id, other.build_id, 99):
            with pytest.raises(CetoolError) as caught:
                environments.use(tx, "team", "one", environments.Move(number, "use", "ana"))
            assert caught.value.code == "conflict"


def test_deleting_an_environment_frees_what_nothing_else_uses(database: Database) -> None:
    with database.write() as tx:
        posted(tx, "team/one", "shared")
        posted(tx, "team/two", "shared")
    built(database, "shared")
    with database.write() as tx:
        running = posted(tx, "team/two", "only")
    built(database, "only", "more")
    with database.write() as tx:
        waiting = posted(tx, "team/two", "waits")
        freed = environments.delete(tx, "team", "two", by="ana")
        assert freed.bytes == 2000 and len(freed.realizations) == 1
        assert {running.build_id, waiting.build_id} <= set(freed.builds)
        assert builds.get(tx, waiting.build_id).status == "CANCELED"
        assert builds.get(tx, running.build_id).environment_id is None
        assert environments.find(tx, "team", "two") is None
        (one,) = requested("shared")
        answer = answers.find(tx, one.platform, one.request)
        assert answer is not None and answer.environment == "one"
        (gone,) = requested("only")
        assert answers.find(tx, gone.platform, gone.request) is None
        assert [each.name for each in locks.unused_realizations(tx)] == list(freed.realizations)
        assert locks.forget_realization(tx, freed.realizations[0])
        assert not locks.forget_realization(tx, locks.realizations(tx)[0].name)
        freed = namespaces.delete(tx, "team", by="ana")
        assert freed.bytes == 1000
        assert builds.get(tx, 1).namespace == ""


def test_a_lock_is_removed_when_only_old_deleted_builds_have_it(database: Database) -> None:
    for spec in ("a", "b"):
        with database.write() as tx:
            posted(tx, f"team/{spec}", spec)
        built(database, spec)
    with database.write() as tx:
        freed = environments.delete(tx, "team", "a", by="ana")
        assert locks.forget_unneeded(tx, now(tx) + 10) == 0  # its prefix is on the disk
        assert locks.forget_realization(tx, freed.realizations[0])
        assert locks.forget_unneeded(tx, now(tx) - 10) == 0
        assert locks.forget_unneeded(tx, now(tx) + 10) == 1
        assert locks.of_build(tx, 1) == {} and list(locks.of_build(tx, 2)) == ["linux-64"]
        assert builds.get(tx, 1).status == "COMPLETED"


def test_a_current_build_is_deleted_only_by_force(database: Database) -> None:
    for spec in ("a", "b"):
        with database.write() as tx:
            number = posted(tx, "team/one", spec).build_id
        built(database, spec)
    with database.write() as tx:
        with pytest.raises(CetoolError) as caught:
            builds.delete(tx, number, "ana")
        assert caught.value.code == "conflict"
        assert builds.delete(tx, number, "ana", force=True).bytes == 1000
        assert environments.get(tx, "team", "one").build_id == number - 1
        assert builds.delete(tx, number, "ana").bytes == 0


def test_renaming_keeps_builds_and_history(database: Database) -> None:
    with database.write() as tx:
        number = posted(tx, "team/one", "a").build_id
        namespaces.set_setting(tx, "team/one", "build-timeout", 5)
        environments.rename(tx, "team", "one", "two", by="ana")
        assert builds.get(tx, number).name == "two"
        assert namespaces.settings(tx, "team", "two") == {"build-timeout": 5}
        posted(tx, "team/three", "a")
        with pytest.raises(CetoolError) as caught:
            environments.rename(tx, "team", "two", "three", by="ana")
        assert caught.value.code == "conflict"


def test_pages_follow_each_other(database: Database) -> None:
    with database.write() as tx:
        numbers = [posted(tx, f"team/e{number:02}", "a").build_id for number in range(25)]
    with database.read() as tx:
        seen: list[int] = []
        after = None
        while True:
            page = builds.listed(tx, BuildQuery(Cut(10, after, descending=True, count=True), namespace="team"))
            assert page.count == 25
            seen += [each.id for each in page.rows]
            if (after := page.next) is None:
                break
        assert seen == numbers[::-1]
        second = builds.listed(tx, BuildQuery(Cut(10, page=2)))
        assert [each.id for each in second.rows] == numbers[10:20]
        names = environments.listed(tx, environments.EnvironmentQuery(Cut(10)))
        more = environments.listed(tx, environments.EnvironmentQuery(Cut(10, names.next)))
        assert [each.name for each in (*names.rows, *more.rows)] == [f"e{number:02}" for number in range(20)]
        for wrong in ("x", "WzFd", "bnVsbA", "W10"):
            with pytest.raises(CetoolError) as caught:
                environments.listed(tx, environments.EnvironmentQuery(Cut(10, wrong)))
            assert caught.value.code == "request-malformed"


def test_events_out_of_reach_are_passed_over_once(database: Database) -> None:
    with database.write() as tx:
        posted(tx, "mine/one", "a")
        posted(tx, "theirs/one", "b")
        end = events.latest(tx)
        mine = Reach((("mine", "*"),))
        found, after = events.following(tx, 0, mine)
        assert {each.namespace for each in found} == {"mine"} and after == end
        assert events.following(tx, after, mine) == ([], end)
        first, after = events.following(tx, 0, mine, limit=1)
        assert [each.id for each in first] == [after]
        posted(tx, "mine/two", "c")
        assert len(events.following(tx, end, mine)[0]) == 2
        assert events.prune(tx, now(tx) + 1) > 0
        assert events.latest(tx) == 0 and events.following(tx, end, mine) == ([], end)


def test_every_end_has_a_reason(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError), database.write() as tx:
        posted(tx, "team/one", "a")
        tx.execute(build.update().values(status="FAILED"))

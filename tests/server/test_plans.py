"""The plans of queries: lists stay fast with 100,000 builds because no query reads a whole table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from support.builds import posted, requested, result

from cetool.server.access import Reach
from cetool.server.data import answers, builds, environments, events, leases, namespaces
from cetool.server.data.builds import BuildQuery
from cetool.server.data.database import Database
from cetool.server.data.environments import EnvironmentQuery
from cetool.server.data.paging import Cut

LATEST = Cut(descending=True)
PAGE = Cut(page=3, descending=True, count=True)
MINE = Reach((("team", "*"), ("other", "*")))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database.open(tmp_path_factory.mktemp("plans") / "server.sqlite3")
    with database.write() as tx:
        posted(tx, "team/one", "python")
        claim = leases.claim(tx, "worker", 60)
        assert claim is not None
        leases.complete(tx, claim, result(claim, "python"))
        posted(tx, "team/two", "numpy")
    yield database
    database.close()


class _Undo(Exception):
    """Undoes what a query changed, for the next one."""


def plans(database: Database, ask: Callable[[sa.Connection], object]) -> list[tuple[str, list[str]]]:
    """Return each SELECT that a function executes with the steps of its plan."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        seen.append((statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        with contextlib.suppress(_Undo), database.write() as tx:
            ask(tx)
            raise _Undo
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)
    found = []
    with database.read() as tx:
        for statement, parameters in seen:
            if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                rows = tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                found.append((statement, [row[3] for row in rows]))
    return found


#: What a client asks for often.
QUERIES: dict[str, Callable[[sa.Connection], object]] = {
    "the latest builds": lambda tx: builds.listed(tx, BuildQuery(LATEST)),
    "those after a cursor": lambda tx: builds.listed(tx, BuildQuery(Cut(after="WzJd", descending=True))),
    "of a page": lambda tx: builds.listed(tx, BuildQuery(PAGE)),
    "in a namespace": lambda tx: builds.listed(tx, BuildQuery(PAGE, namespace="team")),
    "with a name": lambda tx: builds.listed(tx, BuildQuery(LATEST, name="one")),
    "of an environment": lambda tx: builds.listed(tx, BuildQuery(PAGE, environment_id=1)),
    "of an environment's name": lambda tx: builds.listed(
        tx, BuildQuery(PAGE, namespace="team", name="one", sort="scheduled")
    ),
    "with a status": lambda tx: builds.listed(tx, BuildQuery(PAGE, status="FAILED")),
    "of a user": lambda tx: builds.listed(tx, BuildQuery(PAGE, by="ana")),
    "with a package": lambda tx: builds.listed(tx, BuildQuery(LATEST, packages=("python",))),
    "of a request": lambda tx: builds.listed(tx, BuildQuery(PAGE, request="0" * 64)),
    "by time": lambda tx: builds.listed(tx, BuildQuery(LATEST, sort="scheduled")),
    "by start": lambda tx: builds.listed(tx, BuildQuery(LATEST, sort="started")),
    "by end": lambda tx: builds.listed(tx, BuildQuery(LATEST, sort="ended")),
    "one build": lambda tx: builds.get(tx, 1),
    "its platforms": lambda tx: builds.platforms_of(tx, 1),
    "environments": lambda tx: environments.listed(tx, EnvironmentQuery()),
    "environments in a namespace": lambda tx: environments.listed(tx, EnvironmentQuery(namespace="team")),
    "one environment": lambda tx: environments.get(tx, "team", "one"),
    "a history": lambda tx: environments.history(tx, 1),
    "an answer": lambda tx: answers.find(tx, "linux-64", requested("python")[0].request),
    "the builds behind an answer": lambda tx: answers.builds(tx, "linux-64", requested("python")[0].request),
    "what runs": lambda tx: answers.running(tx, "linux-64", requested("numpy")[0].request),
    "events": lambda tx: events.since(tx, 1),
    "the last event": events.latest,
    "usage": lambda tx: namespaces.usage(tx, namespaces.get(tx, "team")),
    "a request": lambda tx: posted(tx, "team/three", "scipy"),
    "an answered request": lambda tx: posted(tx, "team/four", "python"),
    "a claim": lambda tx: leases.claim(tx, "worker", 60),
    "a cancellation": lambda tx: builds.cancel(tx, 2, "ana"),
    "a deletion": lambda tx: builds.delete(tx, 1, "ana", force=True),
    "a claim of a lost build": lambda tx: leases.release_owned_by_others(tx, "other"),
    "a rename": lambda tx: environments.rename(tx, "team", "two", "five", by="ana"),
    "a deleted environment": lambda tx: environments.delete(tx, "team", "two", by="ana"),
    "a deleted namespace": lambda tx: namespaces.delete(tx, "team", by="ana"),
}
#: Tables that grow with builds.
LARGE = ("build", "build_platform", "event", "history", "lock", "lock_package", "realization", "answer")


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_a_whole_table(database: Database, name: str) -> None:
    for statement, steps in plans(database, QUERIES[name]):
        for step in steps:
            words = step.split()
            if words[0] != "SCAN" or words[1] not in LARGE or "COVERING INDEX" in step:
                continue
            # rows in the order that is wanted, until the page is full
            in_order = "LIMIT" in statement and not any("USE TEMP B-TREE" in each for each in steps)
            assert in_order, f"{statement}\n{steps}"


def test_a_reader_of_some_namespaces_reads_only_their_builds(database: Database) -> None:
    for statement, steps in plans(database, lambda tx: builds.listed(tx, BuildQuery(PAGE, MINE))):
        assert not any(each.startswith("SCAN build") and "LIMIT" not in statement for each in steps), steps

"""Environments: names that point to builds, with the history of each name.

An environment without a build is one whose first build has not completed yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.lock.model import Lock, PackageChange, changes_between
from cetool.server.access import Reach, name_checked
from cetool.server.data import events, locks
from cetool.server.data.database import contains, now, unindexed
from cetool.server.data.ending import Freed, give_up
from cetool.server.data.events import News
from cetool.server.data.paging import Cut, Page, cursor, cut
from cetool.server.data.schema import build, build_platform, environment, lock_package, namespace, setting
from cetool.server.data.schema import history as history_table
from cetool.server.data.visibility import visible


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment. Times are seconds since 1970."""

    id: int
    namespace_id: int
    namespace: str
    name: str
    description: str
    #: The build it points to, which is completed; None before the first one is.
    build_id: int | None
    #: Counts its changes.
    version: int
    created: float
    changed: float


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of an environment's history."""

    id: int
    build_id: int | None
    #: One of :data:`cetool.server.data.schema.ACTIONS`.
    action: str
    by: str
    at: float
    note: str | None


@dataclass(frozen=True, slots=True)
class EnvironmentQuery:
    """Which environments to list; the order is by namespace and name."""

    cut: Cut = field(default_factory=Cut)
    reach: Reach | None = None
    namespace: str | None = None
    name: str | None = None
    #: A part of the namespace or name.
    search: str | None = None
    #: The status of the current build.
    status: str | None = None
    #: Names of packages, all of which the current build must have.
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """How an environment comes to point to a build."""

    build_id: int
    #: ``build``, ``upload``, ``use`` or ``rollback``.
    action: str
    by: str
    note: str | None = None


_COLUMNS = [*environment.c, namespace.c.name.label("namespace")]
_JOINED = environment.join(namespace, namespace.c.id == environment.c.namespace_id)


# --- reading ----------------------------------------------------------------------------------------------------------


def get(tx: sa.Connection, space: str, name: str) -> Environment:
    """Return an environment. Raises CetoolError with the code ``not-found``."""
    found = find(tx, space, name)
    if found is None:
        raise CetoolError(f"there is no environment {space}/{name}", code="not-found", about=f"{space}/{name}")
    return found


def find(tx: sa.Connection, space: str, name: str) -> Environment | None:
    """Return an environment, None if there is none."""
    chosen = sa.select(*_COLUMNS).select_from(_JOINED).where(namespace.c.name == space, environment.c.name == name)
    row = tx.execute(chosen).mappings().first()
    return None if row is None else Environment(**row)


def get_by_id(tx: sa.Connection, number: int) -> Environment:
    """Return an environment by its number. Raises CetoolError with the code ``not-found``."""
    chosen = sa.select(*_COLUMNS).select_from(_JOINED).where(environment.c.id == number)
    row = tx.execute(chosen).mappings().first() if 0 < number < 2**63 else None
    if row is None:
        raise CetoolError(f"there is no environment {number}", code="not-found", about=str(number))
    return Environment(**row)


def listed(tx: sa.Connection, query: EnvironmentQuery) -> Page[Environment]:
    """Return one page of environments."""
    where = _conditions(query)
    source = _JOINED.outerjoin(build, build.c.id == environment.c.build_id) if query.status else _JOINED
    keys = (namespace.c.name, environment.c.name)
    chosen = cut(sa.select(*_COLUMNS).select_from(source).where(*where), keys, query.cut, (str, str))
    rows = tx.execute(chosen).mappings().all()
    shown = tuple(Environment(**row) for row in rows[: query.cut.limit])
    count = None
    if query.cut.count:
        count = int(tx.scalar(sa.select(sa.func.count()).select_from(source).where(*where)) or 0)
    more = len(rows) > len(shown) and shown
    return Page(shown, cursor(shown[-1].namespace, shown[-1].name) if more else None, count)


def history(tx: sa.Connection, environment_id: int, *, limit: int = 100, before: int | None = None) -> list[Entry]:
    """Return the entries of a history, the latest first; those with a lower number than ``before``."""
    columns = [each for each in history_table.c if each.name != "environment_id"]
    chosen = sa.select(*columns).where(history_table.c.environment_id == environment_id)
    if before is not None:
        chosen = chosen.where(history_table.c.id < before)
    return [Entry(**row) for row in tx.execute(chosen.order_by(history_table.c.id.desc()).limit(limit)).mappings()]


def differences(tx: sa.Connection, one: int, other: int) -> list[PackageChange]:
    """Return how the packages of two builds differ, by platform and name. Platforms that only one has count too."""
    before, after = (tuple(locks.of_build(tx, number).values()) for number in (one, other))
    return changes_between(Lock(before), Lock(after))


def _conditions(query: EnvironmentQuery) -> list[sa.ColumnElement[bool]]:
    where: list[sa.ColumnElement[bool]] = []
    if query.namespace is not None:
        where.append(namespace.c.name == query.namespace)
    if query.name is not None:
        where.append(environment.c.name == query.name)
    if query.search:
        where.append(sa.or_(contains(namespace.c.name, query.search), contains(environment.c.name, query.search)))
    if query.status:
        where.append(unindexed(build.c.status) == query.status)
    if query.reach is not None and not query.reach.everything:
        where.append(visible(query.reach, namespace.c.name, environment.c.name))
    for package in query.packages:
        has = sa.select(build_platform.c.build_id).join(lock_package, lock_package.c.lock == build_platform.c.lock)
        here = has.where(build_platform.c.build_id == environment.c.build_id, lock_package.c.name == package)
        where.append(sa.exists(here.correlate(environment)))
    return where


# --- changing ---------------------------------------------------------------------------------------------------------


def ensure(tx: sa.Connection, namespace_id: int, name: str, *, by: str, description: str | None = None) -> Environment:
    """Return the environment with a name in a namespace; create it if there is none. A description replaces its own."""
    chosen = sa.select(environment.c.id).where(environment.c.namespace_id == namespace_id, environment.c.name == name)
    number = tx.scalar(chosen)
    if number is None:
        at = now(tx)
        row = {
            "namespace_id": namespace_id,
            "name": name_checked(name, "environment"),
            "description": description or "",
            "created": at,
            "changed": at,
        }
        number = tx.execute(environment.insert().values(row)).inserted_primary_key[0]  # type: ignore[index]
        found = get_by_id(tx, number)
        events.add(tx, News("environment.created", found.namespace, name, None, {"by": by}))
        return found
    found = get_by_id(tx, number)
    if description is None or description == found.description:
        return found
    return describe(tx, found.namespace, name, description, by=by)


def describe(tx: sa.Connection, space: str, name: str, description: str, *, by: str) -> Environment:
    """Change the description. Raises CetoolError with the code ``not-found``."""
    found = get(tx, space, name)
    _change(tx, found, description=description)
    _remember(tx, found, Move(found.build_id or 0, "describe", by))
    events.add(tx, News("environment.described", space, name, found.build_id, {"by": by}))
    return get_by_id(tx, found.id)


def use(tx: sa.Connection, space: str, name: str, move: Move, *, version: int | None = None) -> Environment:
    """Let an environment point to one of its completed builds.

    Raises CetoolError: ``not-found``; ``conflict`` if the build has not completed, is deleted or belongs to another
    environment; ``precondition-failed`` if ``version`` is not the environment's.
    """
    found = get(tx, space, name)
    check_version(found, version)
    row = tx.execute(sa.select(build).where(build.c.id == move.build_id)).mappings().first()
    about, problem = str(move.build_id), None
    if row is None or row["environment_id"] != found.id:
        problem = f"build {move.build_id} is not a build of {space}/{name}"
    elif row["deleted"] is not None:
        problem = f"build {move.build_id} is deleted"
    elif row["status"] != "COMPLETED":
        problem = f"build {move.build_id} is {row['status']}, not COMPLETED"
    if problem is not None:
        raise CetoolError(problem, code="conflict", about=about, hint="Choose a completed build of the environment.")
    if found.build_id != move.build_id:
        move_to(tx, found, move)
    return get_by_id(tx, found.id)


def rollback(tx: sa.Connection, space: str, name: str, *, by: str, version: int | None = None) -> Environment:
    """Let an environment point to the build that it pointed to before this one.

    Raises CetoolError: ``not-found``, ``conflict`` if there is no such build, ``precondition-failed``.
    """
    found = get(tx, space, name)
    check_version(found, version)
    before = previous(tx, found)
    if before is None:
        raise CetoolError(
            f"{space}/{name} has no earlier build that can be used",
            code="conflict",
            about=f"{space}/{name}",
            hint="Let it use one of its completed builds instead.",
        )
    return use(tx, space, name, Move(before, "rollback", by))


def previous(tx: sa.Connection, found: Environment) -> int | None:
    """Return the build that an environment pointed to before its current one, and that can still be used.

    A rollback undoes a step, so that rolling back twice goes back two steps.
    """
    columns = history_table.c
    moves = sa.select(columns.build_id, columns.action).where(
        columns.environment_id == found.id, columns.action.in_(("build", "upload", "use", "rollback"))
    )
    steps: list[int] = []
    for number, action in tx.execute(moves.order_by(columns.id)):
        if action == "rollback":
            while steps and steps[-1] != number:
                steps.pop()
        if not steps or steps[-1] != number:
            steps.append(number)
    usable = sa.select(build.c.id).where(
        build.c.environment_id == found.id, build.c.status == "COMPLETED", build.c.deleted.is_(None)
    )
    good = set(tx.scalars(usable))
    return next((each for each in reversed(steps) if each in good and each != found.build_id), None)


def move_to(tx: sa.Connection, found: Environment, move: Move) -> None:
    """Point an environment to a build, with an entry in the history and an event."""
    _change(tx, found, build_id=move.build_id)
    _remember(tx, found, move)
    data = {"by": move.by, "action": move.action, "from": found.build_id}
    events.add(tx, News("environment.moved", found.namespace, found.name, move.build_id, data))


def unpoint(tx: sa.Connection, found: Environment, *, by: str) -> None:
    """Let an environment point to its previous build, or to none, because its current one is deleted."""
    before = previous(tx, found)
    if before is not None:
        move_to(tx, found, Move(before, "rollback", by, f"build {found.build_id} was deleted"))
        return
    _change(tx, found, build_id=None)
    events.add(tx, News("environment.moved", found.namespace, found.name, None, {"by": by, "from": found.build_id}))


def rename(tx: sa.Connection, space: str, name: str, new: str, *, by: str) -> Environment:
    """Give an environment another name in its namespace; its builds keep its history.

    Raises CetoolError: ``not-found``, ``conflict`` if the name is taken, ``request-malformed`` for an invalid one.
    """
    found = get(tx, space, name)
    name_checked(new, "environment")
    if new == name:
        return found
    if find(tx, space, new) is not None:
        raise CetoolError(f"there is already an environment {space}/{new}", code="conflict", about=f"{space}/{new}")
    _change(tx, found, name=new)
    tx.execute(build.update().where(build.c.environment_id == found.id).values(name=new))
    tx.execute(setting.update().where(setting.c.level == f"{space}/{name}").values(level=f"{space}/{new}"))
    _remember(tx, found, Move(found.build_id or 0, "rename", by, f"{name} to {new}"))
    events.add(tx, News("environment.renamed", space, new, found.build_id, {"by": by, "from": name}))
    return get_by_id(tx, found.id)


def delete(tx: sa.Connection, space: str, name: str, *, by: str) -> Freed:
    """Delete an environment: its name, history and builds; those that run are canceled. Return what that frees.

    Raises CetoolError with the code ``not-found``.
    """
    found = get(tx, space, name)
    # first the name: it never points to a deleted build
    tx.execute(environment.update().where(environment.c.id == found.id).values(build_id=None))
    freed = give_up(tx, build.c.environment_id == found.id, by)
    tx.execute(setting.delete().where(setting.c.level == f"{space}/{name}"))
    tx.execute(environment.delete().where(environment.c.id == found.id))
    events.add(tx, News("environment.deleted", space, name, None, {"by": by, "freed": freed.bytes}))
    return freed


def check_version(found: Environment, version: int | None) -> None:
    """Raise CetoolError with the code ``precondition-failed`` if a given version is not the environment's."""
    if version is not None and version != found.version:
        raise CetoolError(
            f"{found.namespace}/{found.name} has changed meanwhile",
            code="precondition-failed",
            about=f"{found.namespace}/{found.name}",
            hint="Read it again, and repeat the change if it is still right.",
        )


def _change(tx: sa.Connection, found: Environment, **values: Any) -> None:
    changed = max(now(tx), found.changed)
    values = {**values, "version": environment.c.version + 1, "changed": changed}
    tx.execute(environment.update().where(environment.c.id == found.id).values(values))


def _remember(tx: sa.Connection, found: Environment, move: Move) -> None:
    row = {
        "environment_id": found.id,
        "build_id": move.build_id or None,
        "action": move.action,
        "by": move.by,
        "at": now(tx),
        "note": move.note,
    }
    tx.execute(history_table.insert().values(row))

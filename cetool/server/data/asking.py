"""Ask for builds: identical requests share their work, and an answered one costs a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from cetool.server.data import environments, events
from cetool.server.data.builds import BuildPlatform, NewBuild
from cetool.server.data.database import now
from cetool.server.data.schema import UNFINISHED, answer, build, build_platform, environment, history, realization


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a request."""

    build_id: int
    #: Whether there is a new row.
    created: bool
    status: str


def ask(tx: sa.Connection, new: NewBuild) -> Asked:
    """Return the build for a request: an existing one, one that is completed at once, or one in the queue.

    - The environment's current build has this request: that build. Without an environment, any build that has it.
    - A build with this request waits or runs for this environment: that build.
    - The request has an answer on all platforms: a new row, completed at once, that moves the environment.
    - Otherwise a new row in the queue. It is completed together with any other build of the same request.

    With ``refresh`` only a build that waits or runs with ``refresh`` is shared.
    """
    mine = sa.and_(
        build.c.request == new.request,
        build.c.environment_id.is_(None)
        if new.environment_id is None
        else build.c.environment_id == new.environment_id,
        build.c.namespace_id == new.namespace_id,
    )
    running = sa.select(build.c.id, build.c.status).where(mine, build.c.status.in_(UNFINISHED))
    if new.refresh:
        running = running.where(build.c.refresh)
    elif (number := _current(tx, new)) is not None:
        return Asked(number, False, "COMPLETED")
    if (row := tx.execute(running.order_by(build.c.id).limit(1)).first()) is not None:
        return Asked(row.id, False, row.status)
    answered = None if new.refresh else answers_to(tx, new.platforms, new.realize)
    number = add_build(tx, new)
    if answered is None:
        return Asked(number, True, "QUEUED")
    complete_row(tx, number, answered, "an earlier build has the same request")
    return Asked(number, True, "COMPLETED")


def add_build(tx: sa.Connection, new: NewBuild) -> int:
    """Add a row to the queue, whatever else there is; return its number."""
    at = now(tx)
    row = {
        "namespace_id": new.namespace_id,
        "environment_id": new.environment_id,
        "name": new.name,
        "specification_id": new.specification_id,
        "request": new.request,
        "status": "QUEUED",
        "by": new.by,
        "scheduled": at,
        "refresh": new.refresh,
        "profile": new.profile,
        "origin": new.origin,
    }
    number = int(tx.execute(build.insert().values(row)).inserted_primary_key[0])  # type: ignore[index]
    rows = [
        {"build_id": number, "platform": each.platform, "request": each.request, "spec": dict(each.spec or {})}
        for each in new.platforms
    ]
    tx.execute(build_platform.insert(), rows)
    events.add_for_build(tx, "build.queued", number)
    return number


def _current(tx: sa.Connection, new: NewBuild) -> int | None:
    """Return the environment's current build, or the namespace's last without one, if it has this request."""
    chosen = sa.select(build.c.id).where(build.c.request == new.request, build.c.deleted.is_(None))
    if new.environment_id is None:
        here = (build.c.namespace_id == new.namespace_id, build.c.environment_id.is_(None))
        chosen = chosen.where(*here, build.c.status == "COMPLETED").order_by(build.c.id.desc()).limit(1)
    else:
        source = environment.join(build, environment.c.build_id == build.c.id)
        chosen = chosen.select_from(source).where(environment.c.id == new.environment_id)
    number = tx.scalar(chosen)
    if number is None or answers_to(tx, new.platforms, new.realize) is None:
        return None
    return int(number)


def answers_to(
    tx: sa.Connection, platforms: Sequence[BuildPlatform], realize: str | None
) -> list[BuildPlatform] | None:
    """Return the lock and prefix that answer each request; None unless all are answered.

    A prefix is needed for the platform ``realize``, and on no other.
    """
    found = []
    mine, other = build_platform.alias(), build_platform.alias()
    for each in platforms:
        # the prefix may be of another build of the same request: builds of uploaded locks have none
        chosen = (
            sa.select(mine.c.lock, other.c.realization.label("name"))
            .select_from(answer)
            .join(mine, sa.and_(mine.c.build_id == answer.c.build_id, mine.c.platform == answer.c.platform))
            .outerjoin(
                other,
                sa.and_(
                    other.c.platform == answer.c.platform,
                    other.c.request == answer.c.request,
                    other.c.lock == mine.c.lock,
                    other.c.realization.is_not(None),
                ),
            )
            .where(answer.c.platform == each.platform, answer.c.request == each.request)
            .limit(1)
        )
        row = tx.execute(chosen).first()
        if row is None or row.lock is None or (each.platform == realize and row.name is None):
            return None
        prefix = row.name if each.platform == realize else None
        found.append(BuildPlatform(each.platform, each.request, None, row.lock, prefix))
    return found


def complete_row(tx: sa.Connection, number: int, built: Sequence[BuildPlatform], reason: str) -> None:
    """Complete a build with the lock and prefix of each platform, and let its environment point to it.

    The environment stays where it is if a later build of it has completed meanwhile.
    """
    sizes = []
    for each in built:
        this = sa.and_(build_platform.c.build_id == number, build_platform.c.platform == each.platform)
        tx.execute(build_platform.update().where(this).values(lock=each.lock, realization=each.realization))
        if each.realization is not None:
            sizes.append(tx.scalar(sa.select(realization.c.size).where(realization.c.name == each.realization)) or 0)
    row = tx.execute(sa.select(build).where(build.c.id == number)).one()
    ended = max(now(tx), row.started or row.scheduled)
    values = {
        **dict.fromkeys(("code", "hint", "stage", "done", "total", "unit", "owner", "lease_until")),
        "status": "COMPLETED",
        "reason": reason,
        "size": sum(sizes) if sizes else None,
        "started": ended if row.started is None else row.started,
        "ended": ended,
    }
    tx.execute(build.update().where(build.c.id == number).values(values))
    if row.environment_id is not None:
        later = sa.select(history.c.id).where(
            history.c.environment_id == row.environment_id,
            history.c.action.in_(("build", "upload")),
            history.c.build_id > number,
        )
        if tx.execute(later.limit(1)).first() is None:
            action = "upload" if row.origin == "upload" else "build"
            found = environments.get_by_id(tx, row.environment_id)
            environments.move_to(tx, found, environments.Move(number, action, row.by))
    events.add_for_build(tx, "build.completed", number)

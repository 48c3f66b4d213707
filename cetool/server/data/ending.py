"""End builds that nothing needs, and find out which prefixes that frees."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from cetool.server.data import events
from cetool.server.data.database import no_earlier, now
from cetool.server.data.schema import UNFINISHED, answer, build, build_platform, realization


@dataclass(frozen=True, slots=True)
class Freed:
    """What a deletion gave up."""

    #: Of the prefixes, in bytes; garbage collection removes them.
    bytes: int = 0
    #: The names of prefixes that no build needs any more.
    realizations: tuple[str, ...] = ()
    #: The deleted builds, whose logs and artifacts can go.
    builds: tuple[int, ...] = ()


def cancel_rows(tx: sa.Connection, which: sa.ColumnElement[bool], by: str) -> None:
    """Cancel those of these builds that have not ended. A holder of a lease loses it at once."""
    for number in tx.scalars(sa.select(build.c.id).where(which, build.c.status.in_(UNFINISHED))).all():
        tx.execute(
            build.update()
            .where(build.c.id == number)
            .values(
                status="CANCELED",
                reason=f"canceled by {by}",
                code="build-canceled",
                cancel=True,
                ended=no_earlier(sa.func.coalesce(build.c.started, build.c.scheduled), now(tx)),
                fence=build.c.fence + 1,
                owner=None,
                lease_until=None,
                stage=None,
            )
        )
        events.add_for_build(tx, "build.canceled", number)


def give_up(tx: sa.Connection, which: sa.ColumnElement[bool], by: str) -> Freed:
    """Cancel and delete builds, and return what only they needed. No environment may point to them any more.

    ``which`` is a condition on their rows that the deletion leaves true.
    """
    cancel_rows(tx, which, by)
    deleted = tuple(tx.scalars(sa.select(build.c.id).where(which, build.c.deleted.is_(None)).order_by(build.c.id)))
    prefix = build_platform.c.realization
    used = sa.select(prefix).distinct().join(build, build.c.id == build_platform.c.build_id)
    names = sorted(tx.scalars(used.where(which, build.c.deleted.is_(None), prefix.is_not(None))))
    tx.execute(build.update().where(which, build.c.deleted.is_(None)).values(deleted=now(tx)))
    _hand_over_answers(tx, which)
    free = {}
    for name in names:
        chosen = sa.select(realization.c.size).where(realization.c.name == name, unneeded())
        if (size := tx.scalar(chosen)) is not None:
            free[name] = size
    return Freed(sum(free.values()), tuple(free), deleted)


def unneeded() -> sa.ColumnElement[bool]:
    """Return the condition that no build that is not deleted has this prefix."""
    needs = (
        sa.select(build_platform.c.build_id)
        .join(build, build.c.id == build_platform.c.build_id)
        .where(build_platform.c.realization == realization.c.name, build.c.deleted.is_(None))
    )
    return ~sa.exists(needs.correlate(realization))


def _hand_over_answers(tx: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Hand each answer of deleted builds to another build with the same packages, or drop it."""
    mine, other = build_platform.alias(), build_platform.alias()
    rows = tx.execute(
        sa.select(answer.c.platform, answer.c.request, mine.c.lock)
        .join(build, build.c.id == answer.c.build_id)
        .join(mine, sa.and_(mine.c.build_id == answer.c.build_id, mine.c.platform == answer.c.platform))
        .where(which)
    ).all()
    for row in rows:
        heir = tx.scalar(
            sa.select(sa.func.max(build.c.id))
            .join(other, other.c.build_id == build.c.id)
            .where(
                other.c.platform == row.platform,
                other.c.request == row.request,
                other.c.lock == row.lock,
                build.c.status == "COMPLETED",
                build.c.deleted.is_(None),
            )
        )
        this = sa.and_(answer.c.platform == row.platform, answer.c.request == row.request)
        tx.execute(answer.delete().where(this) if heir is None else answer.update().where(this).values(build_id=heir))

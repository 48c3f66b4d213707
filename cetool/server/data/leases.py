"""Leases: who works on which build, until when; and how builds end.

A claim has a fencing number that grows with each claim and cancellation. Every change by a holder checks it in the same
transaction, so a holder that was stopped for longer than its lease cannot change what another one does. The clock is
the database's; if it is set back, leases and pauses that end implausibly late count as over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from cetool.base.text import counted
from cetool.lock.model import PlatformLock
from cetool.server.data import answers, events, locks
from cetool.server.data.asking import answers_to, complete_row
from cetool.server.data.builds import BuildPlatform, platforms_of
from cetool.server.data.database import no_earlier, now
from cetool.server.data.locks import Realization
from cetool.server.data.schema import UNFINISHED, build, build_platform, namespace

#: Pauses and leases are shorter than this; a longer one comes from a clock that was set back.
_LONGEST = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A build that a holder works on."""

    build_id: int
    owner: str
    fence: int
    #: Counts from 1.
    attempt: int
    #: With specifications.
    platforms: tuple[BuildPlatform, ...]
    refresh: bool
    profile: str
    origin: str
    namespace: str
    #: The environment's name.
    name: str | None
    by: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What a build does now."""

    stage: str
    done: float | None = None
    total: float | None = None
    #: Of ``done`` and ``total``: ``packages``, ``bytes``.
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a build resulted in on one platform."""

    lock: PlatformLock
    #: The signed envelope; None leaves the current answer in place.
    record: str | None = None
    #: The prefix, on the platform of this server.
    realization: Realization | None = None


# --- claims -----------------------------------------------------------------------------------------------------------


def claim(tx: sa.Connection, owner: str, seconds: float) -> Claim | None:
    """Take a build that waits, or whose holder lost its lease; return None if there is none to do.

    The namespace with the fewest running builds is next, and of equals the one whose last build started first. A build
    with a request that is being built waits, since it completes together with that one.
    """
    at = now(tx)
    columns = ("id", "namespace_id", "request", "status", "not_before", "lease_until", "owner")
    chosen = sa.select(*(build.c[name] for name in columns)).where(build.c.status.in_(UNFINISHED)).order_by(build.c.id)
    rows = tx.execute(chosen).all()
    lost = {row.id for row in rows if row.status == "BUILDING" and _is_over(row, at, owner)}
    for number in lost:
        _put_back(tx, number, "its builder was lost")
    held = [row for row in rows if row.status == "BUILDING" and row.id not in lost]
    ready = [row for row in rows if row.id in lost or (row.status == "QUEUED" and _is_due(row.not_before, at))]
    if not ready:
        return None
    busy = _requests(tx, [row.id for row in held])
    waiting = {row.request for row in held}  # of equal requests only one is looked at
    for row in _in_turn(tx, ready, held, at):
        if row.request in waiting:
            continue
        if busy.isdisjoint(_requests(tx, [row.id])):
            return _taken(tx, row.id, owner, seconds)
        waiting.add(row.request)
    return None


def renew(
    tx: sa.Connection, held: Claim, seconds: float, progress: Progress | None = None
) -> Literal["held", "lost", "canceled"]:
    """Prolong a lease, and say what the build does; return whether it is still held, else why not."""
    values: dict[str, Any] = {"lease_until": now(tx) + seconds}
    if progress is not None:
        values |= {"stage": progress.stage, "done": progress.done, "total": progress.total, "unit": progress.unit}
    if tx.execute(build.update().where(_mine(held)).values(values)).rowcount:
        return "held"
    canceled = tx.scalar(sa.select(build.c.cancel).where(build.c.id == held.build_id))
    return "canceled" if canceled else "lost"


def release(tx: sa.Connection, held: Claim, *, not_before: float, reason: str, counts: bool = True) -> bool:
    """Put a build back into the queue, not to start before a moment; return False if the lease was lost.

    ``reason`` says what it waits for. With ``counts`` false this was no attempt, as when the server stops.
    """
    values = {**_idle("QUEUED", reason), "not_before": not_before}
    if not counts:
        values["attempts"] = build.c.attempts - 1
    if not tx.execute(build.update().where(_mine(held)).values(values)).rowcount:
        return False
    events.add_for_build(tx, "build.retried", held.build_id, {"reason": reason, "not_before": not_before})
    return True


def release_owned_by_others(tx: sa.Connection, owner: str, *, most: int | None = None) -> int:
    """Put back builds whose holder is not ``owner`` or one of its workers (``OWNER/1``); return how many.

    For the start of the only server on a data directory: every other holder is dead. A build that was tried more often
    than ``most`` fails instead: it may be what kills the server.
    """
    others = ~sa.or_(build.c.owner == owner, build.c.owner.startswith(f"{owner}/", autoescape=True))
    chosen = sa.select(build.c.id, build.c.attempts).where(build.c.status == "BUILDING", others)
    rows = tx.execute(chosen).all()
    for row in rows:
        if most is None or row.attempts <= most:
            _put_back(tx, row.id, "the server was restarted")
            continue
        reason = f"the server was killed during the build, in attempt {row.attempts}"
        _fail_row(tx, row.id, {"code": "build-crashed", "reason": reason, "hint": "Look at the log of the server."})
    return len(rows)


def _put_back(tx: sa.Connection, number: int, reason: str) -> None:
    """Put a build whose holder is lost back into the queue; should the holder return, it has lost its lease."""
    values = {**_idle("QUEUED", reason), "fence": build.c.fence + 1, "not_before": 0.0}
    tx.execute(build.update().where(build.c.id == number).values(values))
    events.add_for_build(tx, "build.retried", number, {"reason": reason})


def _is_over(row: Any, at: float, owner: str) -> bool:
    """Return whether a lease has ended, or ends so late that the clock must have been set back."""
    return bool(row.lease_until < at or (row.lease_until > at + _LONGEST and _process(row.owner) != _process(owner)))


def _process(owner: str) -> str:
    """Return the process of a worker, ``OWNER`` of ``OWNER/1``: it renews the leases of all its workers."""
    return owner.partition("/")[0]


def _is_due(not_before: float, at: float) -> bool:
    return not at < not_before < at + _LONGEST


def _in_turn(tx: sa.Connection, ready: Sequence[Any], held: Sequence[Any], at: float) -> Iterator[Any]:
    """Yield the rows of the builds that could start, in the order of fairness; starts in the future do not count."""
    spaces = list(dict.fromkeys(row.namespace_id for row in ready))
    running = {space: sum(row.namespace_id == space for row in held) for space in spaces}
    last = {}
    for space in spaces:
        of = build.c.namespace_id.is_(None) if space is None else build.c.namespace_id == space
        last[space] = tx.scalar(sa.select(sa.func.max(build.c.started)).where(of, build.c.started <= at)) or 0.0
    for space in sorted(spaces, key=lambda each: (running[each], last[each])):
        yield from (row for row in ready if row.namespace_id == space)


def _requests(tx: sa.Connection, numbers: Sequence[int]) -> set[tuple[str, str]]:
    columns = build_platform.c
    chosen = sa.select(columns.platform, columns.request).where(columns.build_id.in_(numbers))
    return {(platform, request) for platform, request in tx.execute(chosen)}


def _taken(tx: sa.Connection, number: int, owner: str, seconds: float) -> Claim:
    at = now(tx)
    values = {
        **dict.fromkeys(("reason", "code", "hint", "stage", "done", "total", "unit")),
        "status": "BUILDING",
        "owner": owner,
        "lease_until": at + seconds,
        "fence": build.c.fence + 1,
        "attempts": build.c.attempts + 1,
        "started": sa.func.coalesce(build.c.started, no_earlier(build.c.scheduled, at)),
    }
    tx.execute(build.update().where(build.c.id == number).values(values))
    source = build.outerjoin(namespace, namespace.c.id == build.c.namespace_id)
    columns = [*build.c, sa.func.coalesce(namespace.c.name, "").label("space")]
    row = tx.execute(sa.select(*columns).select_from(source).where(build.c.id == number)).one()
    events.add_for_build(tx, "build.started", number, {"attempt": row.attempts})
    return Claim(
        build_id=number,
        owner=owner,
        fence=row.fence,
        attempt=row.attempts,
        platforms=platforms_of(tx, number),
        refresh=row.refresh,
        profile=row.profile,
        origin=row.origin,
        namespace=row.space,
        name=row.name,
        by=row.by,
    )


def _mine(held: Claim) -> sa.ColumnElement[bool]:
    """Return the condition that the claim still holds, whatever the clock says: the fence decides."""
    return sa.and_(
        build.c.id == held.build_id,
        build.c.status == "BUILDING",
        build.c.owner == held.owner,
        build.c.fence == held.fence,
    )


def _idle(status: str, reason: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("stage", "done", "total", "unit", "owner", "lease_until", "code", "hint"))
    return {**nothing, "status": status, "reason": reason}


# --- ends -------------------------------------------------------------------------------------------------------------


def complete(tx: sa.Connection, held: Claim, results: Mapping[str, Result]) -> tuple[int, ...]:
    """Complete a build with a result for each of its platforms, and with it those that wait for the same requests.

    Stores locks and prefixes, moves environments, and makes the records the answers. Returns the completed builds, the
    claimed one first; none if the lease was lost: then nothing has changed.
    """
    if tx.execute(sa.select(build.c.id).where(_mine(held))).first() is None:
        return ()
    built = []
    for each in held.platforms:
        result = results[each.platform]
        digest = locks.put(tx, result.lock)
        prefix = result.realization
        name = None if prefix is None else locks.put_realization(tx, digest, each.platform, prefix)
        built.append(BuildPlatform(each.platform, each.request, None, digest, name))
        if result.record is not None:
            answers.put(tx, each.platform, each.request, held.build_id, result.record)
    complete_row(tx, held.build_id, built, f"made an environment of {_packages(results)}")
    return (held.build_id, *_complete_waiting(tx, held, built))


def fail(tx: sa.Connection, held: Claim, code: str, reason: str, hint: str | None = None) -> tuple[int, ...]:
    """Fail a build, and with it those that wait for the same request; return them, none if the lease was lost."""
    if tx.execute(sa.select(build.c.id).where(_mine(held))).first() is None:
        return ()
    same = sa.select(build.c.request).where(build.c.id == held.build_id).scalar_subquery()
    waiting = sa.select(build.c.id).where(build.c.request == same, build.c.status == "QUEUED").order_by(build.c.id)
    if not held.refresh:
        waiting = waiting.where(~build.c.refresh)
    numbers = (held.build_id, *tx.scalars(waiting))
    for number in numbers:
        _fail_row(tx, number, {"code": code, "reason": reason, "hint": hint})
    return numbers


def _fail_row(tx: sa.Connection, number: int, why: Mapping[str, str | None]) -> None:
    row = tx.execute(sa.select(build.c.started, build.c.scheduled).where(build.c.id == number)).one()
    ended = max(now(tx), row.started or row.scheduled)
    values = {**_idle("FAILED", ""), **why, "ended": ended, "fence": build.c.fence + 1}
    tx.execute(build.update().where(build.c.id == number).values(values))
    events.add_for_build(tx, "build.failed", number, {"code": why["code"], "reason": why["reason"]})


def _complete_waiting(tx: sa.Connection, held: Claim, built: Sequence[BuildPlatform]) -> Iterator[int]:
    """Complete the builds in the queue whose requests are all answered now; yield their numbers."""
    realized = next((each.platform for each in built if each.realization is not None), None)
    seen: set[int] = set()
    for each in built:
        chosen = (
            sa.select(build.c.id)
            .join(build_platform, build_platform.c.build_id == build.c.id)
            .where(
                build_platform.c.platform == each.platform,
                build_platform.c.request == each.request,
                build.c.status == "QUEUED",
            )
            .order_by(build.c.id)
        )
        if not held.refresh:
            chosen = chosen.where(~build.c.refresh)
        for number in tx.scalars(chosen).all():
            if number in seen:
                continue
            seen.add(number)
            found = answers_to(tx, platforms_of(tx, number), realized)
            if found is not None:
                complete_row(tx, number, found, f"build {held.build_id} had the same request")
                yield number


def _packages(results: Mapping[str, Result]) -> str:
    count = max((len(each.lock.conda) + len(each.lock.pypi) for each in results.values()), default=0)
    return counted(count, "package")

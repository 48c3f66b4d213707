"""Locks: exact packages, stored once for all builds that resulted in them; and their prefixes on this server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cetool.base.codec import decode, encode
from cetool.declare.package import Package, PypiPackage
from cetool.lock.model import PlatformLock
from cetool.server.data.database import now
from cetool.server.data.ending import unneeded
from cetool.server.data.schema import build, build_platform, lock, lock_package, realization

#: Locks that are removed in one transaction, so that no request waits long.
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Realization:
    """A prefix below ``envs``."""

    name: str
    #: Bytes on the disk.
    size: int
    packages: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A prefix and what it is of. Times are seconds since 1970."""

    name: str
    lock: str
    platform: str
    size: int
    packages: int
    created: float
    used: float


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """A package in a lock."""

    #: ``conda`` or ``pypi``.
    kind: str
    name: str
    version: str
    build: str
    subdir: str
    #: The channel's URL; empty for PyPI.
    channel: str


def put(tx: sa.Connection, locked: PlatformLock) -> str:
    """Store a lock unless it is stored already; return its digest."""
    digest = locked.digest
    if tx.scalar(sa.select(lock.c.digest).where(lock.c.digest == digest)) is not None:
        return digest
    row = {
        "digest": digest,
        "platform": locked.platform,
        "content": encode(locked._replace(request=None)),
        "packages": len(locked.conda) + len(locked.pypi),
        "size": sum(package.size or 0 for package in locked.conda),
        "created": now(tx),
    }
    tx.execute(lock.insert().values(row))
    rows = list({(row["kind"], row["name"]): row for row in _package_rows(digest, locked)}.values())
    if rows:
        tx.execute(lock_package.insert(), rows)
    return digest


def get(tx: sa.Connection, digest: str, platform: str) -> PlatformLock | None:
    """Return the packages of a lock; ``platform`` is the build's, since a lock of noarch packages is for several."""
    content = tx.scalar(sa.select(lock.c.content).where(lock.c.digest == digest))
    return None if content is None else _lock(content, platform)


def of_build(tx: sa.Connection, number: int) -> dict[str, PlatformLock]:
    """Return a build's locks by platform, sorted; empty before it has completed."""
    chosen = sa.select(build_platform.c.platform, lock.c.content).join(lock, lock.c.digest == build_platform.c.lock)
    rows = tx.execute(chosen.where(build_platform.c.build_id == number).order_by(build_platform.c.platform))
    return {platform: _lock(content, platform) for platform, content in rows}


def sizes(tx: sa.Connection, digests: list[str]) -> dict[str, tuple[int, int]]:
    """Return the number of packages and the bytes of their archives, by lock."""
    chosen = sa.select(lock.c.digest, lock.c.packages, lock.c.size).where(lock.c.digest.in_(digests))
    return {digest: (packages, size) for digest, packages, size in tx.execute(chosen)}


def packages(tx: sa.Connection, digest: str, *, search: str = "") -> list[LockedPackage]:
    """Return the packages of a lock by name; those whose name contains a text."""
    columns = [each for each in lock_package.c if each.name != "lock"]
    chosen = sa.select(*columns).where(lock_package.c.lock == digest).order_by(lock_package.c.name, lock_package.c.kind)
    rows = [LockedPackage(**row) for row in tx.execute(chosen).mappings()]
    return [each for each in rows if search.lower() in each.name.lower()]


# --- prefixes ---------------------------------------------------------------------------------------------------------


def put_realization(tx: sa.Connection, digest: str, platform: str, made: Realization) -> str:
    """Store the prefix of a lock and return its name.

    A lock has one prefix for each set of variables, which are files of a prefix and part of its name.
    """
    at = now(tx)
    known = tx.execute(realization.update().where(realization.c.name == made.name).values(used=at)).rowcount
    if not known:
        row = {"name": made.name, "lock": digest, "platform": platform, "size": made.size, "packages": made.packages}
        tx.execute(realization.insert().values({**row, "created": at, "used": at}))
    return made.name


def realizations(tx: sa.Connection) -> list[Kept]:
    """Return all prefixes, by name."""
    return [Kept(**row) for row in tx.execute(sa.select(realization).order_by(realization.c.name)).mappings()]


def unused_realizations(tx: sa.Connection) -> list[Kept]:
    """Return the prefixes that no build needs which is not deleted, by name."""
    chosen = sa.select(realization).where(unneeded()).order_by(realization.c.name)
    return [Kept(**row) for row in tx.execute(chosen).mappings()]


def forget_realization(tx: sa.Connection, name: str, *others: sa.ColumnElement[bool]) -> bool:
    """Remove a prefix's row if no build needs it, or one of ``others`` holds; return whether it is gone.

    Remove its files afterwards.
    """
    tx.execute(realization.delete().where(realization.c.name == name, sa.or_(unneeded(), *others)))
    return tx.scalar(sa.select(realization.c.name).where(realization.c.name == name)) is None


def forget_unneeded(tx: sa.Connection, before: float) -> int:
    """Remove the locks that only builds need which were deleted before a moment; return how many.

    Those builds keep everything else.
    """
    needed = (
        sa.select(build_platform.c.build_id)
        .join(build, build.c.id == build_platform.c.build_id)
        .where(build_platform.c.lock == lock.c.digest, sa.or_(build.c.deleted.is_(None), build.c.deleted >= before))
        .correlate(lock)
    )
    kept = sa.select(realization.c.name).where(realization.c.lock == lock.c.digest).correlate(lock)
    digests = tx.scalars(sa.select(lock.c.digest).where(~sa.exists(needed), ~sa.exists(kept)).limit(_BATCH)).all()
    for digest in digests:
        tx.execute(build_platform.update().where(build_platform.c.lock == digest).values(lock=None))
        tx.execute(lock.delete().where(lock.c.digest == digest))
    return len(digests)


def _lock(content: dict[str, Any], platform: str) -> PlatformLock:
    return decode(PlatformLock, content)._replace(platform=platform)


def _package_rows(digest: str, locked: PlatformLock) -> Iterator[dict[str, str]]:
    for package in locked.conda:
        yield _row(digest, "conda", package, build=package.build, subdir=package.subdir, channel=package.channel)
    for each in locked.pypi:
        yield _row(digest, "pypi", each, build="", subdir="", channel="")


def _row(digest: str, kind: str, package: Package | PypiPackage, **rest: str) -> dict[str, str]:
    return {"lock": digest, "kind": kind, "name": package.name, "version": package.version, **rest}

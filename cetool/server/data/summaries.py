"""What pages show of builds, next to the names of environments and on their own pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from cetool.server.data.schema import build, build_platform, lock, specification


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """A build in short."""

    id: int
    status: str
    #: Bytes of its prefix; None if it has none here.
    size: int | None
    #: The packages on the platform that has most; 0 before it has completed.
    packages: int


def of_builds(tx: sa.Connection, numbers: Sequence[int]) -> dict[int, BuildSummary]:
    """Return the summaries of builds by their numbers."""
    chosen = (
        sa.select(build.c.id, build.c.status, build.c.size, sa.func.coalesce(sa.func.max(lock.c.packages), 0))
        .select_from(build)
        .outerjoin(build_platform, build_platform.c.build_id == build.c.id)
        .outerjoin(lock, lock.c.digest == build_platform.c.lock)
        .where(build.c.id.in_(numbers))
        .group_by(build.c.id)
    )
    return {row[0]: BuildSummary(*row) for row in tx.execute(chosen)}


def latest(tx: sa.Connection, environment_ids: Sequence[int]) -> dict[int, int]:
    """Return the number of each environment's latest build that is not deleted, by the environment's."""
    chosen = (
        sa.select(build.c.environment_id, sa.func.max(build.c.id))
        .where(build.c.environment_id.in_(environment_ids), build.c.deleted.is_(None))
        .group_by(build.c.environment_id)
    )
    return {environment: number for environment, number in tx.execute(chosen)}


@dataclass(frozen=True, slots=True)
class SpecificationText:
    """What was sent."""

    #: One of :data:`cetool.server.data.schema.KINDS`.
    kind: str
    name: str
    text: str


def text_of(tx: sa.Connection, specification_id: int) -> SpecificationText:
    """Return the text of a specification."""
    columns = specification.c
    chosen = sa.select(columns.kind, columns.name, columns.text).where(columns.id == specification_id)
    return SpecificationText(*tx.execute(chosen).one())

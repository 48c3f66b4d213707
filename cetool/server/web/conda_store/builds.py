"""Builds: list, rebuild, cancel and delete them; their packages."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Response

from cetool.server import changing
from cetool.server.access import Principal
from cetool.server.data.schema import UNFINISHED, build, build_platform, lock_package
from cetool.server.data.schema import namespace as namespaces
from cetool.server.web.conda_store.environments import Filters
from cetool.server.web.conda_store.forms import (
    LAST_ID,
    Here,
    Pages,
    Route,
    Who,
    ack,
    missing,
    ok,
    permit,
    refusal,
)
from cetool.server.web.conda_store.packages import COLUMNS, Wanted
from cetool.server.web.conda_store.rows import (
    artifact_objects,
    build_object,
    builds_query,
    package_object,
    specification_object,
)

router = APIRouter(route_class=Route)
Number = Annotated[int, Path()]
_ORDERS: dict[str, sa.ColumnElement[Any]] = {
    "id": build.c.id,
    "started_on": build.c.started,
    "scheduled_on": build.c.scheduled,
    "ended_on": build.c.ended,
}


def find(tx: sa.Connection, who: Principal, number: int, permission: str = "environment::read") -> Any:
    """Return a build's row. Raises CetoolError if it does not exist, or the permission is not given."""
    row = tx.execute(builds_query(None, [build.c.id == number])).one_or_none() if 0 < number <= LAST_ID else None
    if row is None:
        raise missing("build id does not exist")
    # builds of a deleted namespace belong to administrators
    permit(who, permission, row.namespace or "*", (row.namespace and row.name) or "*")
    return row


@router.get("/api/v1/build/")
def list_builds(
    here: Here, who: Who, pages: Pages, sought: Filters, environment_id: Annotated[int | None, Query()] = None
) -> Response:
    """List builds."""
    filters = sought.builds(build.c.id)
    if environment_id is not None:
        filters.append(build.c.environment_id == max(-1, min(environment_id, LAST_ID)))
    if sought.name:
        filters.append(build.c.name == sought.name)
    if sought.namespace:
        filters.append(namespaces.c.name == sought.namespace)
    columns = {key: column for key, column in _ORDERS.items() if key in pages.sort_by} or {"id": build.c.id}
    with here.database.read() as tx:
        rows, count = pages.fetch(tx, builds_query(who, filters), columns, build.c.id)
    return pages.answer(list(map(build_object, rows)), count)


@router.get("/api/v1/build/{build_id}/")
def get_build(here: Here, who: Who, build_id: Number) -> Response:
    """Return a build with its specification, and with what can be downloaded."""
    with here.database.read() as tx:
        row = find(tx, who, build_id)
        found = {
            **build_object(row),
            "specification": specification_object(tx, row.specification_id, build_id),
            "build_artifacts": artifact_objects(tx, row),
        }
    return ok(found)


@router.put("/api/v1/build/{build_id}/cancel/")
def cancel(here: Here, who: Who, build_id: Number) -> Response:
    """Cancel a build; one that has ended stays unchanged."""
    with here.database.read() as tx:
        find(tx, who, build_id, "build::cancel")
    found = changing.cancel_build(here, who, build_id)
    if found.status != "CANCELED":
        return ack(f"build {build_id} had ended: it is {found.status}")
    return ack(f"build {build_id} canceled")


@router.delete("/api/v1/build/{build_id}/")
def delete(here: Here, who: Who, build_id: Number) -> Response:
    """Delete a build that has ended; its environment goes back to the build before."""
    with here.database.read() as tx:
        row = find(tx, who, build_id, "build::delete")
    if row.status in UNFINISHED:
        raise refusal(f"cannot delete build {build_id} since it is {row.status}: cancel it first")
    changing.delete_build(here, who, build_id, force=True)
    return ack()


@router.get("/api/v1/build/{build_id}/packages/")
def list_packages(here: Here, who: Who, pages: Pages, build_id: Number, wanted: Wanted) -> Response:
    """List the packages of a build, those from PyPI too."""
    query = (
        sa.select(*COLUMNS.values())
        .join(build_platform, build_platform.c.lock == lock_package.c.lock)
        .where(build_platform.c.build_id == build_id, *wanted.conditions)
        .distinct()
    )
    columns = {name: COLUMNS[name] for name in ("channel", "name")}
    with here.database.read() as tx:
        find(tx, who, build_id)
        rows, count = pages.fetch(tx, query, columns, lock_package.c.version)
    return pages.answer([package_object(row.channel, row.name, row.version) for row in rows], count)

"""Rows of the database as conda-store's objects, and the queries that list them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cetool.server.access import Principal, reach
from cetool.server.artifacts import lock_document
from cetool.server.data import locks
from cetool.server.data.database import contains
from cetool.server.data.schema import STATUSES, build, build_platform, environment, grant, lock_package, namespace
from cetool.server.data.schema import specification as specification_table
from cetool.server.data.visibility import visible
from cetool.server.web.conda_store.forms import moment

#: What a build that is COMPLETED has; logs exist from the start. Archives and lock files are made on demand.
ARTIFACTS = ("DIRECTORY", "LOCKFILE", "LOGS", "YAML", "CONDA_PACK")
#: Other kinds that conda-store knows; no build here has one.
ABSENT_ARTIFACTS = ("DOCKER_MANIFEST", "CONSTRUCTOR_INSTALLER", "CONTAINER_REGISTRY", "DOCKER_BLOB")
#: cetool's roles in conda-store's words.
ROLE_NAMES = {"viewer": "viewer", "contributor": "contributor", "editor": "developer", "admin": "admin"}


def number_of(*parts: str) -> int:
    """Return a number that stands for these texts, where conda-store has the number of a row."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:6], "big")


# --- namespaces -------------------------------------------------------------------------------------------------------


def mappings_of(tx: sa.Connection, names: Iterable[str]) -> Mapping[str, list[dict[str, Any]]]:
    """Return by namespace who has roles in it, as ``{id, entity, role}``: namespaces of users, or patterns of them."""
    query = (
        sa.select(grant.c.id, grant.c.subject, grant.c.pattern, grant.c.role)
        .where(grant.c.subject_kind == "namespace", grant.c.pattern.in_([f"{name}/*" for name in names]))
        .order_by(grant.c.id)
    )
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in tx.execute(query):
        entity = row.subject if "/" in row.subject else f"{row.subject}/*"
        mapping = {"id": row.id, "entity": entity, "role": ROLE_NAMES[row.role]}
        found[row.pattern.removesuffix("/*")].append(mapping)
    return found


# --- environments -----------------------------------------------------------------------------------------------------

#: The build of an environment, or the last one that was requested if none has been completed.
_LAST_BUILD = (
    sa.select(sa.func.max(build.c.id))
    .where(build.c.environment_id == environment.c.id, build.c.deleted.is_(None))
    .correlate(environment)
    .scalar_subquery()
)
CURRENT = sa.func.coalesce(environment.c.build_id, _LAST_BUILD)
ENVIRONMENTS = environment.join(namespace, namespace.c.id == environment.c.namespace_id)


def environments_query(who: Principal | None, filters: Sequence[sa.ColumnElement[bool]] = ()) -> sa.Select[Any]:
    """Return the query for environments that a principal may see."""
    query = sa.select(
        environment.c.id,
        environment.c.name,
        environment.c.description,
        CURRENT.label("current"),
        namespace.c.id.label("namespace_id"),
        namespace.c.name.label("namespace"),
        namespace.c.metadata.label("namespace_metadata"),
    ).select_from(ENVIRONMENTS)
    if who is not None:
        query = query.where(visible(reach(who), namespace.c.name, environment.c.name))
    return query.where(*filters)


def environment_objects(tx: sa.Connection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return environments as objects."""
    mappings = mappings_of(tx, sorted({row.namespace for row in rows}))
    return [
        {
            "id": row.id,
            "namespace": {
                "id": row.namespace_id,
                "name": row.namespace,
                "metadata_": row.namespace_metadata or {},
                "role_mappings": mappings.get(row.namespace, []),
            },
            "name": row.name,
            "current_build_id": row.current,
            "current_build": None,
            "description": row.description,
        }
        for row in rows
    ]


def environment_filters(
    search: str | None, namespace_name: str | None, name: str | None
) -> list[sa.ColumnElement[bool]]:
    """Return conditions on the names of environments."""
    found: list[sa.ColumnElement[bool]] = []
    if search:
        found.append(sa.or_(contains(namespace.c.name, search), contains(environment.c.name, search)))
    if namespace_name:
        found.append(namespace.c.name == namespace_name)
    if name:
        found.append(environment.c.name == name)
    return found


def build_filters(
    build_id: sa.ColumnElement[Any], status: str | None, artifact: str | None, packages: Sequence[str]
) -> list[sa.ColumnElement[bool]]:
    """Return conditions on a build: its state, what can be downloaded from it, the packages in it."""
    found: list[sa.ColumnElement[bool]] = []
    states = sa.select(build.c.id).where(build.c.id == build_id).correlate_except(build)
    if status in STATUSES:
        found.append(states.where(build.c.status == status).exists())
    if artifact in ABSENT_ARTIFACTS:
        found.append(sa.false())
    elif artifact == "CONDA_PACK" or artifact == "DIRECTORY":
        realized = sa.select(build_platform.c.build_id).where(build_platform.c.realization.is_not(None))
        found.append(build_id.in_(realized))
    elif artifact is not None and artifact != "LOGS":
        found.append(states.where(build.c.status == "COMPLETED").exists())
    for package in dict.fromkeys(packages):
        locked = (
            sa.select(build_platform.c.build_id)
            .join(lock_package, lock_package.c.lock == build_platform.c.lock)
            .where(lock_package.c.name == package)
        )
        found.append(build_id.in_(locked))
    return found


# --- builds -----------------------------------------------------------------------------------------------------------

BUILDS = build.outerjoin(namespace, namespace.c.id == build.c.namespace_id)


def builds_query(who: Principal | None, filters: Sequence[sa.ColumnElement[bool]] = ()) -> sa.Select[Any]:
    """Return the query for builds that a principal may see."""
    query = sa.select(
        build.c.id,
        build.c.environment_id,
        build.c.name,
        build.c.specification_id,
        build.c.status,
        build.c.reason,
        build.c.size,
        build.c.scheduled,
        build.c.started,
        build.c.ended,
        build.c.deleted,
        namespace.c.name.label("namespace"),
    ).select_from(BUILDS)
    if who is not None:
        query = query.where(visible(reach(who), namespace.c.name, build.c.name))
    return query.where(*filters)


def build_object(row: Any) -> dict[str, Any]:
    """Return a build as in lists."""
    return {
        "id": row.id,
        # of environments that were deleted, no number is left
        "environment_id": row.environment_id or 0,
        "specification": None,
        "packages": None,
        "status": row.status,
        "status_info": row.reason,
        "size": row.size or 0,
        "scheduled_on": moment(row.scheduled),
        "started_on": moment(row.started),
        "ended_on": moment(row.ended),
        "build_artifacts": None,
    }


def specification_object(tx: sa.Connection, number: int, build_id: int) -> dict[str, Any]:
    """Return the specification of a build; if that is a lock, with the build's lock once it is known."""
    table = specification_table
    row = tx.execute(sa.select(table).where(table.c.id == number)).one()
    spec = dict(row.data)
    if row.kind == "lock":
        found = tuple(locks.of_build(tx, build_id).values())
        empty = {"version": 1, "metadata": {"channels": [], "platforms": []}, "package": []}
        spec["lockfile"] = lock_document(found) if found else empty
    return {
        "id": row.id,
        "name": row.name,
        "spec": spec,
        "sha256": row.sha256,
        "created_on": moment(row.created),
    }


def artifact_objects(tx: sa.Connection, row: Any) -> list[dict[str, Any]]:
    """Return what can be downloaded from a build."""
    kinds: tuple[str, ...] = ("LOGS",) if row.started is not None or row.ended is not None else ()
    if row.status == "COMPLETED" and row.deleted is None:
        realized = tx.scalar(sa.select(sa.func.max(build_platform.c.realization)).where(_of(row.id)))
        kinds = ARTIFACTS if realized else ("LOCKFILE", "LOGS", "YAML")
    keys = {"LOGS": "logs", "LOCKFILE": "lockfile", "YAML": "yaml", "CONDA_PACK": "archive"}
    return [
        {"id": 8 * row.id + number, "artifact_type": kind, "key": f"build/{row.id}/{keys.get(kind, 'directory')}"}
        for number, kind in enumerate(ARTIFACTS)
        if kind in kinds
    ]


def _of(number: int) -> sa.ColumnElement[bool]:
    return build_platform.c.build_id == number


# --- packages ---------------------------------------------------------------------------------------------------------


#: The channel of packages from PyPI.
PYPI = "https://pypi.org/simple"


def channel_object(url: str, updated: float | None = None) -> dict[str, Any]:
    """Return a channel."""
    return {"id": number_of(url), "name": url, "last_update": moment(updated)}


def package_object(channel: str, name: str, version: str) -> dict[str, Any]:
    """Return a package; licenses and summaries are not in locks."""
    channel = channel or PYPI
    return {
        "id": number_of(channel, name, version),
        "channel": channel_object(channel),
        "license": None,
        "name": name,
        "version": version,
        "summary": None,
    }

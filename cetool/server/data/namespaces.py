"""Namespaces, and settings by level: of the deployment, a namespace, an environment; the narrower one wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.server.access import Reach, name_checked
from cetool.server.data import events
from cetool.server.data.database import contains, now
from cetool.server.data.ending import Freed, give_up
from cetool.server.data.events import News
from cetool.server.data.paging import Cut, Page, cursor, cut
from cetool.server.data.schema import build, environment, namespace, setting
from cetool.server.data.visibility import visible


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace."""

    id: int
    name: str
    metadata: Mapping[str, Any]
    #: Seconds since 1970.
    created: float
    created_by: str


@dataclass(frozen=True, slots=True)
class NamespaceQuery:
    """Which namespaces to list, by name."""

    cut: Cut = field(default_factory=Cut)
    reach: Reach | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a namespace has."""

    environments: int
    #: Without deleted ones.
    builds: int
    #: Bytes of the prefixes that its builds have; several namespaces may count the same one.
    storage: int


def get(tx: sa.Connection, name: str) -> Namespace:
    """Return a namespace. Raises CetoolError with the code ``not-found``."""
    found = find(tx, name)
    if found is None:
        raise CetoolError(f"there is no namespace {name!r}", code="not-found", about=name)
    return found


def find(tx: sa.Connection, name: str) -> Namespace | None:
    """Return a namespace, None if there is none."""
    row = tx.execute(sa.select(namespace).where(namespace.c.name == name)).mappings().first()
    return None if row is None else Namespace(**row)


def listed(tx: sa.Connection, query: NamespaceQuery) -> Page[Namespace]:
    """Return one page of namespaces."""
    where: list[sa.ColumnElement[bool]] = []
    if query.search:
        where.append(contains(namespace.c.name, query.search))
    if query.reach is not None and not query.reach.everything:
        where.append(visible(query.reach, namespace.c.name))
    rows = tx.execute(cut(sa.select(namespace).where(*where), (namespace.c.name,), query.cut, (str,))).mappings().all()
    shown = tuple(Namespace(**row) for row in rows[: query.cut.limit])
    count = None
    if query.cut.count:
        count = int(tx.scalar(sa.select(sa.func.count()).select_from(namespace).where(*where)) or 0)
    return Page(shown, cursor(shown[-1].name) if len(rows) > len(shown) and shown else None, count)


def create(tx: sa.Connection, name: str, *, by: str) -> Namespace:
    """Create a namespace. Raises CetoolError: ``conflict`` if it exists, ``request-malformed`` for an invalid name."""
    if find(tx, name) is not None:
        raise CetoolError(f"there is already a namespace {name}", code="conflict", about=name)
    return ensure(tx, name, by=by)


def ensure(tx: sa.Connection, name: str, *, by: str) -> Namespace:
    """Return the namespace with a name; create it if there is none."""
    found = find(tx, name)
    if found is not None:
        return found
    row = {"name": name_checked(name, "namespace"), "metadata": {}, "created": now(tx), "created_by": by}
    tx.execute(namespace.insert().values(row))
    events.add(tx, News("namespace.created", name, data={"by": by}))
    return get(tx, name)


def set_metadata(tx: sa.Connection, name: str, metadata: Mapping[str, Any]) -> None:
    """Replace the metadata of a namespace. Raises CetoolError with the code ``not-found``."""
    found = get(tx, name)
    tx.execute(namespace.update().where(namespace.c.id == found.id).values(metadata=dict(metadata)))


def delete(tx: sa.Connection, name: str, *, by: str) -> Freed:
    """Delete a namespace with its environments, builds and settings; return what that frees.

    The rows of its builds stay without a namespace. Grants are :mod:`cetool.server.data.accounts`'. Raises CetoolError
    with the code ``not-found``.
    """
    found = get(tx, name)
    tx.execute(environment.update().where(environment.c.namespace_id == found.id).values(build_id=None))
    freed = give_up(tx, build.c.namespace_id == found.id, by)
    inside = f"{name}/"
    below = sa.or_(setting.c.level == name, sa.func.substr(setting.c.level, 1, len(inside)) == inside)
    tx.execute(setting.delete().where(below))
    tx.execute(namespace.delete().where(namespace.c.id == found.id))
    events.add(tx, News("namespace.deleted", name, data={"by": by, "freed": freed.bytes}))
    return freed


def usage(tx: sa.Connection, found: Namespace) -> Usage:
    """Return what a namespace has."""
    environments = tx.scalar(
        sa.select(sa.func.count()).select_from(environment).where(environment.c.namespace_id == found.id)
    )
    row = tx.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(build.c.size), 0)).where(
            build.c.namespace_id == found.id, build.c.deleted.is_(None)
        )
    ).one()
    return Usage(int(environments or 0), int(row[0]), int(row[1]))


# --- settings ---------------------------------------------------------------------------------------------------------


def level_of(space: str = "", name: str = "") -> str:
    """Return the level of a namespace or environment; empty for the deployment."""
    return f"{space}/{name}" if name else space


def settings(tx: sa.Connection, space: str = "", name: str = "") -> dict[str, Any]:
    """Return the settings that hold for a namespace or environment, those of all levels above included."""
    found: dict[str, Any] = {}
    for level in levels(tx, space, name):
        found |= level
    return found


def levels(tx: sa.Connection, space: str = "", name: str = "") -> tuple[dict[str, Any], ...]:
    """Return the settings of each level: the server's, the namespace's, the environment's, as far as they are named."""
    return tuple(settings_at(tx, level) for level in dict.fromkeys(("", level_of(space), level_of(space, name))))


def settings_at(tx: sa.Connection, level: str) -> dict[str, Any]:
    """Return the settings of one level alone."""
    chosen = sa.select(setting.c.key, setting.c.value).where(setting.c.level == level).order_by(setting.c.key)
    return {key: value for key, value in tx.execute(chosen)}


def set_setting(tx: sa.Connection, level: str, key: str, value: Any) -> None:
    """Set a key at a level; None removes it, so that the level above holds again."""
    this = sa.and_(setting.c.level == level, setting.c.key == key)
    tx.execute(setting.delete().where(this))
    if value is not None:
        tx.execute(setting.insert().values(level=level, key=key, value=value))

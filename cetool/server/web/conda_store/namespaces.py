"""Namespaces, and which users have roles in them."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse

from cetool.base.errors import CetoolError
from cetool.server import access, changing
from cetool.server.access import Grant, Principal, reach
from cetool.server.data import accounts, namespaces
from cetool.server.data.accounts import GivenGrant, NewGrant
from cetool.server.data.schema import namespace as table
from cetool.server.data.visibility import visible
from cetool.server.web.conda_store.forms import (
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
from cetool.server.web.conda_store.rows import ROLE_NAMES, mappings_of

router = APIRouter(route_class=Route)
_SEES_ROLES = ("namespace::read", "namespace-role-mapping::read")


@router.get("/api/v1/namespace/")
def list_namespaces(here: Here, who: Who, pages: Pages) -> Response:
    """List namespaces; this list leaves out what is empty."""
    query = sa.select(table.c.id, table.c.name).where(visible(reach(who, "namespace::read"), table.c.name))
    with here.database.read() as tx:
        rows, count = pages.fetch(tx, query, {"name": table.c.name}, table.c.id)
    data = [{"id": row.id, "name": row.name} for row in rows]
    return JSONResponse({"status": "ok", "data": data, "page": pages.number, "size": pages.size, "count": count})


@router.get("/api/v1/namespace/{namespace}/")
def get_namespace(here: Here, who: Who, namespace: str) -> Response:
    """Return one namespace."""
    permit(who, "namespace::read", namespace)
    with here.database.read() as tx:
        row = _need(tx, namespace)
        mappings = mappings_of(tx, [namespace]).get(namespace, [])
        return ok({"id": row.id, "name": row.name, "metadata_": row.metadata or {}, "role_mappings": mappings})


@router.post("/api/v1/namespace/{namespace}/")
def create_namespace(here: Here, who: Who, namespace: str) -> Response:
    """Create a namespace."""
    _check_name(namespace)
    permit(who, "namespace::create", namespace)
    with here.database.write() as tx:
        if _find(tx, namespace) is not None:
            raise CetoolError("namespace already exists", code="conflict", about=namespace)
        namespaces.create(tx, namespace, by=who.name)
    here.news.publish("events")
    return ack()


@router.put("/api/v1/namespace/{namespace}/")
def update_namespace(
    here: Here,
    who: Who,
    namespace: str,
    metadata: Annotated[dict[str, Any] | None, Body()] = None,
    role_mappings: Annotated[dict[str, list[str]] | None, Body()] = None,
) -> Response:
    """Change the metadata of a namespace, or all its roles."""
    for permission in ("namespace::update", "namespace-role-mapping::create", "namespace-role-mapping::delete"):
        permit(who, permission, namespace)
    asked = [(entity, _role(who, namespace, role)) for entity, roles in (role_mappings or {}).items() for role in roles]
    with here.database.write() as tx:
        _need(tx, namespace)
        if metadata is not None:
            namespaces.set_metadata(tx, namespace, metadata)
        if role_mappings is not None:
            _remove(tx, _roles(tx, namespace))
            for entity, role in asked:
                subject = entity.removesuffix("/*")
                subject = subject if access.is_name(subject) else entity
                accounts.add_grant(tx, NewGrant("namespace", subject, f"{namespace}/*", role), by=who.name)
    return ack()


@router.put("/api/v1/namespace/{namespace}/metadata")
def update_metadata(here: Here, who: Who, namespace: str, metadata: Annotated[dict[str, Any], Body()]) -> Response:
    """Change the metadata of a namespace."""
    permit(who, "namespace::update", namespace)
    with here.database.write() as tx:
        _need(tx, namespace)
        namespaces.set_metadata(tx, namespace, metadata)
    return ack()


@router.delete("/api/v1/namespace/{namespace}/")
def delete_namespace(here: Here, who: Who, namespace: str) -> Response:
    """Delete a namespace with its environments and builds."""
    permit(who, "namespace::delete", namespace)
    with here.database.read() as tx:
        _need(tx, namespace)
    changing.delete_namespace(here, who, namespace)
    return ack()


# --- roles ------------------------------------------------------------------------------------------------------------


@router.get("/api/v1/namespace/{namespace}/roles")
def list_roles(here: Here, who: Who, namespace: str) -> Response:
    """List the namespaces whose users have a role in this one."""
    _permit_roles(who, namespace)
    with here.database.read() as tx:
        _need(tx, namespace)
        return ok([_mapping(each, namespace) for each in _roles(tx, namespace)])


@router.delete("/api/v1/namespace/{namespace}/roles")
def delete_roles(here: Here, who: Who, namespace: str) -> Response:
    """Take all these roles back."""
    _permit_roles(who, namespace, "namespace-role-mapping::delete")
    with here.database.write() as tx:
        _need(tx, namespace)
        _remove(tx, _roles(tx, namespace))
    return ack()


@router.get("/api/v1/namespace/{namespace}/role")
def get_role(here: Here, who: Who, namespace: str, other_namespace: Annotated[str, Query()]) -> Response:
    """Return the role of another namespace's users."""
    _permit_roles(who, namespace)
    with here.database.read() as tx:
        _need(tx, namespace)
        _need_other(tx, other_namespace)
        found = _roles(tx, namespace, other_namespace)
        if not found:
            raise missing("failed to find role")
        return ok(_mapping(found[0], namespace))


Other = Annotated[str, Body()]


@router.post("/api/v1/namespace/{namespace}/role")
def create_role(here: Here, who: Who, namespace: str, other_namespace: Other, role: Other) -> Response:
    """Give another namespace's users a role."""
    _permit_roles(who, namespace, "namespace-role-mapping::create")
    with here.database.write() as tx:
        _need(tx, namespace)
        _need_other(tx, other_namespace)
        new = NewGrant("namespace", other_namespace, f"{namespace}/*", _role(who, namespace, role))
        if _roles(tx, namespace, other_namespace):
            raise CetoolError("the namespace has a role already", code="conflict", about=other_namespace)
        accounts.add_grant(tx, new, by=who.name)
    return ack()


@router.put("/api/v1/namespace/{namespace}/role")
def update_role(here: Here, who: Who, namespace: str, other_namespace: Other, role: Other) -> Response:
    """Change the role of another namespace's users."""
    _permit_roles(who, namespace, "namespace-role-mapping::update")
    with here.database.write() as tx:
        _need(tx, namespace)
        _need_other(tx, other_namespace)
        new = NewGrant("namespace", other_namespace, f"{namespace}/*", _role(who, namespace, role))
        before = _roles(tx, namespace, other_namespace)
        if not before:
            raise missing("failed to find role")
        _remove(tx, before)
        accounts.add_grant(tx, new, by=who.name)
    return ack()


@router.delete("/api/v1/namespace/{namespace}/role")
def delete_role(here: Here, who: Who, namespace: str, other_namespace: Annotated[str, Body(embed=True)]) -> Response:
    """Take a role back; it need not exist."""
    _permit_roles(who, namespace, "namespace-role-mapping::delete")
    with here.database.write() as tx:
        _need(tx, namespace)
        _need_other(tx, other_namespace)
        _remove(tx, _roles(tx, namespace, other_namespace))
    return ack()


def _permit_roles(who: Principal, namespace: str, *permissions: str) -> None:
    for permission in (*_SEES_ROLES, *permissions):
        permit(who, permission, namespace)


def _role(who: Principal, namespace: str, role: str) -> str:
    """Return the role that a name means. Raises CetoolError if there is none, or the caller has fewer rights."""
    try:
        found = access.role_named(role)
    except CetoolError:
        raise refusal(f"invalid role={role[:100]}, valid_roles=['viewer', 'editor', 'developer', 'admin']") from None
    access.check_subset(who, [Grant(f"{namespace}/*", found)])
    return found


def _roles(tx: sa.Connection, namespace: str, other: str | None = None) -> list[GivenGrant]:
    """Return the grants to users of other namespaces on all of this one."""
    return [
        each
        for each in accounts.grants(tx, within=namespace)
        if each.subject_kind == "namespace" and each.pattern == f"{namespace}/*" and other in (None, each.subject)
    ]


def _remove(tx: sa.Connection, grants: list[GivenGrant]) -> None:
    for each in grants:
        accounts.remove_grant(tx, each.id)


def _mapping(given: GivenGrant, namespace: str) -> dict[str, Any]:
    return {
        "id": given.id,
        "namespace": namespace,
        "other_namespace": given.subject,
        "role": ROLE_NAMES[given.role],
    }


# --- rows -------------------------------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    if not access.is_name(name):
        raise refusal(f"'{name[:300]}' is not a valid name of a namespace: ^[A-Za-z0-9-+_@$&?^~.=]+$")


def _find(tx: sa.Connection, name: str) -> Any:
    return tx.execute(sa.select(table).where(table.c.name == name)).one_or_none()


def _need(tx: sa.Connection, name: str) -> Any:
    row = _find(tx, name)
    if row is None:
        raise missing("namespace does not exist")
    return row


def _need_other(tx: sa.Connection, name: str) -> None:
    if _find(tx, name) is None:
        raise refusal(f"Namespace='{name[:300]}' not found")

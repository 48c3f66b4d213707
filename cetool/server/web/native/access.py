"""``/cetool/1/users``, ``grants``, ``access`` and ``audit``: who may do what, why, and who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from cetool.server import access, granting
from cetool.server.access import Principal, is_administrator, require_administrator
from cetool.server.data import audit
from cetool.server.data.accounts import GivenGrant, NewGrant, User
from cetool.server.data.audit import AuditQuery, Entry
from cetool.server.data.paging import cursor as cursor_of
from cetool.server.data.paging import opened
from cetool.server.server import Server
from cetool.server.web import security
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import (
    PAGE,
    Api,
    Body,
    Cursor,
    Here,
    Known,
    Limit,
    Name,
    Number,
    reply,
    server_of,
    when,
)
from cetool.server.web.native.tokens import GrantBody

router = Api(tags=["access"])
_SPACE = "/cetool/1/namespaces/{namespace}/grants"


class SubjectBody(GrantBody):
    """A new grant."""

    subject_kind: str = Field(max_length=50)
    subject: str = Field("", max_length=255)


# --- users ------------------------------------------------------------------------------------------------------------


class UserBody(Body):
    """A new user."""

    name: str = Field(max_length=255)
    #: None for a user who only has tokens.
    password: str | None = Field(None, max_length=1000)
    #: The primary namespace; the user's own has the user's name.
    namespace: str | None = Field(None, max_length=255)
    grants: list[GrantBody] = Field(default=[], max_length=100)


class UserChange(Body):
    """What can be changed of a user."""

    namespace: str | None = Field(None, max_length=255)
    disabled: bool | None = None


class PasswordBody(Body):
    """A new password; users who change their own name the present one."""

    password: str = Field(max_length=1000)
    present: str | None = Field(None, max_length=1000)


@router.on("GET /cetool/1/users", schemas.Users)
def list_users(principal: Known, server: Here) -> Response:
    """List the users, for administrators."""
    with server.database.read() as tx:
        document: schemas.Users = {"users": [_user(each) for each in granting.all_users(tx, principal)]}
    return reply(document)


@router.on("POST /cetool/1/users", schemas.User, status=201, errors=[409, 429])
def create_user(request: Request, principal: Known, server: Here, body: UserBody) -> Response:
    """Add a user, for administrators."""
    grants = [each.grant for each in body.grants]
    made = granting.add_user(
        server, principal, body.name, password=body.password, primary=body.namespace, grants=grants
    )
    security.note(request, "user.create", f"user {made.name}", namespace=made.namespace)
    return reply(_user(made), 201)


@router.on("PATCH /cetool/1/users/{name}", schemas.User, errors=[404])
def change_user(request: Request, principal: Known, server: Here, name: Name, body: UserChange) -> Response:
    """Disable a user, which revokes all tokens, or change the primary namespace; for administrators."""
    security.note(request, "user.change", f"user {name}", **body.model_dump(exclude_none=True))
    with server.database.write() as tx:
        found = granting.change_user(tx, principal, name, primary=body.namespace, disabled=body.disabled)
    return reply(_user(found))


@router.on("PUT /cetool/1/users/{name}/password", schemas.User, errors=[404, 409, 429])
def change_password(request: Request, principal: Known, server: Here, name: Name, body: PasswordBody) -> Response:
    """Change a password: your own, or any for administrators. It ends the sessions of the user."""
    security.note(request, "user.password", f"user {name}")
    address = security.address_of(request)
    found = granting.change_password(server, principal, name, body.password, present=body.present, address=address)
    return reply(_user(found))


@router.on("DELETE /cetool/1/users/{name}", schemas.User, errors=[404])
def remove_user(request: Request, principal: Known, server: Here, name: Name) -> Response:
    """Remove a user with all tokens and grants, for administrators. The environments stay."""
    security.note(request, "user.delete", f"user {name}")
    with server.database.write() as tx:
        found = granting.remove_user(tx, principal, name)
    return reply(_user(found))


# --- grants -----------------------------------------------------------------------------------------------------------


@router.on("GET /cetool/1/grants", schemas.Grants)
def list_grants(principal: Known, server: Here) -> Response:
    """List all grants, for administrators."""
    return _grants(server, principal, None)


@router.on("POST /cetool/1/grants", schemas.Grant, status=201, errors=[404])
def create_grant(request: Request, principal: Known, server: Here, body: SubjectBody) -> Response:
    """Grant a role on any pattern, for administrators."""
    return _create(request, principal, body, None)


@router.on("DELETE /cetool/1/grants/{number}", schemas.Grant, errors=[404])
def remove_grant(request: Request, principal: Known, server: Here, number: Number) -> Response:
    """Remove a grant, for administrators."""
    return _remove(request, principal, number, None)


@router.on(f"GET {_SPACE}", schemas.Grants)
def list_grants_of_namespace(principal: Known, server: Here, namespace: Name) -> Response:
    """List the grants that apply in a namespace."""
    return _grants(server, principal, namespace)


@router.on(f"POST {_SPACE}", schemas.Grant, status=201, errors=[404])
def create_grant_in_namespace(request: Request, principal: Known, namespace: Name, body: SubjectBody) -> Response:
    """Grant a role in a namespace, or on some of its environments: not more than your own rights there."""
    return _create(request, principal, body, namespace)


@router.on(f"DELETE {_SPACE}/{{number}}", schemas.Grant, errors=[404])
def remove_grant_in_namespace(request: Request, principal: Known, namespace: Name, number: Number) -> Response:
    """Remove a grant in a namespace; those on patterns of several namespaces are for administrators."""
    return _remove(request, principal, number, namespace)


def _grants(server: Server, principal: Principal, namespace: str | None) -> Response:
    with server.database.read() as tx:
        found = granting.visible_grants(tx, principal, namespace)
    document: schemas.Grants = {"grants": [_given(each) for each in found]}
    return reply(document)


def _create(request: Request, principal: Principal, body: SubjectBody, namespace: str | None) -> Response:
    new = NewGrant(body.subject_kind, body.subject, body.pattern, body.role)
    with server_of(request).database.write() as tx:
        made = granting.add_grant(tx, principal, new, namespace)
    _note(request, "grant.create", made)
    return reply(_given(made), 201)


def _remove(request: Request, principal: Principal, number: int, namespace: str | None) -> Response:
    with server_of(request).database.write() as tx:
        found = granting.remove_grant(tx, principal, number, namespace)
    _note(request, "grant.delete", found)
    return reply(_given(found))


def _note(request: Request, action: str, found: GivenGrant) -> None:
    subject = f"{found.subject_kind} {found.subject}".strip()
    security.note(request, action, found.pattern, id=found.id, role=found.role, subject=subject)


# --- access and audit -------------------------------------------------------------------------------------------------


@router.on("GET /cetool/1/access", schemas.Access, errors=[404])
def explain_access(
    principal: Known,
    server: Here,
    namespace: Annotated[str, Query(min_length=1, max_length=255)],
    environment: Annotated[str, Query(min_length=1, max_length=255)] = "*",
    user: Annotated[str | None, Query(max_length=255, description="Default: yourself.")] = None,
) -> Response:
    """Explain what a user may do in a namespace: which grant gives each right, or what is missing."""
    about = granting.about_user(server, principal, user, namespace)
    reasons = access.explain(about, namespace, environment)
    document: schemas.Access = {
        "user": about.name,
        "namespace": namespace,
        "environment": environment,
        "roles": access.effective(about) if about is principal or is_administrator(principal) else {},
        "permissions": [
            {"permission": each.permission, "allowed": each.allowed, "reason": each.text} for each in reasons
        ],
    }
    return reply(document)


@router.on("GET /cetool/1/audit", schemas.Audit)
def list_audit(
    principal: Known,
    server: Here,
    who: Annotated[str | None, Query(max_length=500)] = None,
    about: Annotated[str | None, Query(alias="object", max_length=500)] = None,
    action: Annotated[str | None, Query(max_length=500, description="The start of the action.")] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List who changed what, or tried to, the latest first; for administrators."""
    require_administrator(principal)
    before = None if cursor is None else opened(cursor, int)[0]
    with server.database.read() as tx:
        rows = audit.listed(tx, AuditQuery(who, about, action, before, limit + 1))
    shown = rows[:limit]
    document: schemas.Audit = {
        "audit": [_entry(each) for each in shown],
        "next": cursor_of(shown[-1].id) if len(rows) > limit else None,
    }
    return reply(document)


# --- documents --------------------------------------------------------------------------------------------------------


def _user(found: User) -> schemas.User:
    created, disabled = when(found.created), when(found.disabled)
    return {"name": found.name, "namespace": found.namespace, "created": created, "disabled": disabled}


def _given(found: GivenGrant) -> schemas.Grant:
    return {
        "id": found.id,
        "subject_kind": found.subject_kind,
        "subject": found.subject,
        "pattern": found.pattern,
        "role": found.role,
        "by": found.by,
        "created": when(found.created),
    }


def _entry(found: Entry) -> schemas.AuditEntry:
    return {
        "id": found.id,
        "at": when(found.at),
        "who": found.who,
        "action": found.action,
        "object": found.object,
        "data": dict(found.data),
        "address": found.address,
    }

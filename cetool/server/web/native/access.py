"""``/cetool/1/users``, ``grants``, ``access`` and ``audit``: who may do what, why, and who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.server import access
from cetool.server.access import ANONYMOUS, Principal, allows, is_administrator, require, require_administrator
from cetool.server.data import accounts, audit
from cetool.server.data.accounts import GivenGrant, NewGrant, User
from cetool.server.data.audit import AuditQuery, Entry
from cetool.server.data.paging import cursor as cursor_of
from cetool.server.data.paging import opened
from cetool.server.web import security
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import PAGE, Api, Cursor, Here, Known, Limit, Name, Number, reply, when
from cetool.server.web.native.tokens import Body, GrantBody

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
    require_administrator(principal)
    with server.database.read() as tx:
        document: schemas.Users = {"users": [_user(each) for each in accounts.users(tx)]}
    return reply(document)


@router.on("POST /cetool/1/users", schemas.User, status=201, errors=[409])
def create_user(request: Request, principal: Known, server: Here, body: UserBody) -> Response:
    """Add a user, for administrators."""
    require_administrator(principal)
    security.note(request, "user.create", f"user {body.name}"[:300], namespace=body.namespace)
    hashed = None if body.password is None else server.login.hashed(body.password)
    with server.database.write() as tx:
        made = accounts.add_user(tx, body.name, password=hashed, primary=body.namespace)
        for each in body.grants:
            accounts.add_grant(tx, NewGrant("user", made.name, each.pattern, each.role), by=principal.name)
    return reply(_user(made), 201)


@router.on("PATCH /cetool/1/users/{name}", schemas.User, errors=[404])
def change_user(request: Request, principal: Known, server: Here, name: Name, body: UserChange) -> Response:
    """Disable a user, which revokes all tokens, or change the primary namespace; for administrators."""
    require_administrator(principal)
    values = {field: value for field, value in body.model_dump().items() if value is not None}
    security.note(request, "user.change", f"user {name}", **values)
    with server.database.write() as tx:
        return reply(_user(accounts.change_user(tx, name, **values) if values else accounts.need_user(tx, name)))


@router.on("PUT /cetool/1/users/{name}/password", schemas.User, errors=[404, 409, 429])
def change_password(request: Request, principal: Known, server: Here, name: Name, body: PasswordBody) -> Response:
    """Change a password: your own, or any for administrators. It ends the sessions of the user."""
    security.note(request, "user.password", f"user {name}")
    own = principal.user_id is not None and principal.name == name and principal.scope is None
    if not own:
        require_administrator(principal)
    if own and not is_administrator(principal):
        address = request.client.host if request.client else ""
        server.login.check_password(name, body.present or "", address)
    if server.login.is_configured(name):
        raise CetoolError(
            f"the password of {name} is in the server's configuration",
            code="conflict",
            about=name,
            hint="Change it there.",
        )
    hashed = server.login.hashed(body.password)
    with server.database.write() as tx:
        return reply(_user(accounts.change_user(tx, name, password=hashed)))


@router.on("DELETE /cetool/1/users/{name}", schemas.User, errors=[404])
def remove_user(request: Request, principal: Known, server: Here, name: Name) -> Response:
    """Remove a user with all tokens and grants, for administrators. The environments stay."""
    require_administrator(principal)
    security.note(request, "user.delete", f"user {name}")
    with server.database.write() as tx:
        return reply(_user(accounts.remove_user(tx, name)))


# --- grants -----------------------------------------------------------------------------------------------------------


@router.on("GET /cetool/1/grants", schemas.Grants)
def list_grants(principal: Known, server: Here) -> Response:
    """List all grants, for administrators."""
    require_administrator(principal)
    with server.database.read() as tx:
        return _grants(accounts.grants(tx))


@router.on("POST /cetool/1/grants", schemas.Grant, status=201, errors=[404])
def create_grant(request: Request, principal: Known, server: Here, body: SubjectBody) -> Response:
    """Grant a role on any pattern, for administrators."""
    require_administrator(principal)
    return _create(request, principal, server, body)


@router.on("DELETE /cetool/1/grants/{number}", schemas.Grant, errors=[404])
def remove_grant(request: Request, principal: Known, server: Here, number: Number) -> Response:
    """Remove a grant, for administrators."""
    require_administrator(principal)
    with server.database.write() as tx:
        found = accounts.remove_grant(tx, number)
    _note(request, "grant.delete", found)
    return reply(_given(found))


@router.on(f"GET {_SPACE}", schemas.Grants)
def list_grants_of_namespace(principal: Known, server: Here, namespace: Name) -> Response:
    """List the grants that apply in a namespace."""
    require(principal, "namespace-role-mapping::read", namespace)
    with server.database.read() as tx:
        return _grants(accounts.grants(tx, within=namespace))


@router.on(f"POST {_SPACE}", schemas.Grant, status=201, errors=[404])
def create_grant_in_namespace(
    request: Request, principal: Known, server: Here, namespace: Name, body: SubjectBody
) -> Response:
    """Grant a role in a namespace, or on some of its environments: not more than your own rights there."""
    require(principal, "namespace-role-mapping::create", namespace)
    pattern = access.pattern_named(body.pattern)
    if pattern.partition("/")[0] != namespace:
        raise CetoolError(
            f"{pattern} is not in the namespace {namespace}",
            code="request-malformed",
            about="pattern",
            hint=f"Write {namespace}/*, or {namespace}/ and a pattern of environments.",
        )
    access.check_subset(principal, [body.grant])
    return _create(request, principal, server, body)


@router.on(f"DELETE {_SPACE}/{{number}}", schemas.Grant, errors=[404])
def remove_grant_in_namespace(
    request: Request, principal: Known, server: Here, namespace: Name, number: Number
) -> Response:
    """Remove a grant in a namespace; those on patterns of several namespaces are for administrators."""
    require(principal, "namespace-role-mapping::delete", namespace)
    with server.database.write() as tx:
        if accounts.get_grant(tx, number).pattern.partition("/")[0] != namespace:
            raise CetoolError(f"there is no grant {number} in {namespace}", code="not-found", about=str(number))
        found = accounts.remove_grant(tx, number)
    _note(request, "grant.delete", found)
    return reply(_given(found))


def _create(request: Request, principal: Principal, server: Here, body: SubjectBody) -> Response:
    new = NewGrant(body.subject_kind, body.subject, body.pattern, body.role)
    with server.database.write() as tx:
        made = accounts.add_grant(tx, new, by=principal.name)
    _note(request, "grant.create", made)
    return reply(_given(made), 201)


def _note(request: Request, action: str, found: GivenGrant) -> None:
    whom = f"{found.subject_kind} {found.subject}".strip()
    security.note(request, action, found.pattern, id=found.id, role=found.role, subject=whom)


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
    about = principal
    if user is not None and user != principal.name:
        if not allows(principal, "namespace-role-mapping::update", namespace):
            require_administrator(principal)
        with server.database.read() as tx:
            if user == ANONYMOUS:
                about = accounts.anonymous(tx, server.config)
            else:
                about = accounts.user_principal(tx, accounts.need_user(tx, user), server.config)
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


def _grants(found: list[GivenGrant]) -> Response:
    document: schemas.Grants = {"grants": [_given(each) for each in found]}
    return reply(document)


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

"""``/cetool/1/tokens``: list, create and revoke tokens."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from fastapi import Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.server import access
from cetool.server.access import Grant, Principal, is_administrator, require_administrator
from cetool.server.data import accounts, tokens
from cetool.server.data.tokens import NewToken, Token
from cetool.server.web import security
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import Api, Here, Known, Number, reply, when

router = Api(tags=["access"])
_TOKEN = "/cetool/1/tokens/{number}"


class Body(BaseModel):
    """The body of a request; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class GrantBody(Body):
    """A role on a pattern."""

    pattern: str = Field(max_length=600)
    role: str = Field(max_length=50)

    @property
    def grant(self) -> Grant:
        """The grant. Raises CetoolError for an unknown role or a malformed pattern."""
        return Grant(access.pattern_named(self.pattern), access.role_named(self.role))


class TokenBody(Body):
    """A new token."""

    name: str = Field(max_length=200)
    #: At most these rights; without them, all of the one who creates it.
    grants: list[GrantBody] | None = Field(None, max_length=100)
    expires: AwareDatetime | None = None
    #: Administrators may create tokens of other users,
    user: str | None = Field(None, max_length=255)
    #: and tokens without a user, whose rights are ``grants``.
    service: bool = False


@router.on("GET /cetool/1/tokens", schemas.Tokens)
def list_tokens(
    principal: Known,
    server: Here,
    user: Annotated[str | None, Query(max_length=255, description="Of this user; default: your own.")] = None,
    everything: Annotated[bool, Query(alias="all", description="All tokens, for administrators.")] = False,
    sessions: Annotated[bool, Query(description="Also logins in browsers.")] = False,
    ended: Annotated[bool, Query(description="Also expired and revoked ones.")] = False,
) -> Response:
    """List tokens, without their secrets."""
    kinds = ("token", "session") if sessions else ("token",)
    with server.database.read() as tx:
        if everything or (user is not None and user != principal.name):
            require_administrator(principal)
            of = None if user is None else accounts.need_user(tx, user).id
            found = tokens.listed(tx, user_id=of, kinds=kinds, ended=ended)
        else:
            found = [each for each in tokens.listed(tx, kinds=kinds, ended=ended) if _is_own(principal, each)]
    document: schemas.Tokens = {"tokens": [_token(each) for each in found]}
    return reply(document)


@router.on("POST /cetool/1/tokens", schemas.Token, status=201, errors=[404])
def create_token(request: Request, principal: Known, server: Here, body: TokenBody) -> Response:
    """Create a token with at most your own rights. The answer has its secret, which is not shown again."""
    if not principal.authenticated:
        raise access.refused(principal, "creating a token")
    other = body.service or (body.user is not None and body.user != principal.name)
    if other:
        require_administrator(principal)
    with server.database.write() as tx:
        secret, made = tokens.create(tx, _new(tx, principal, body, other=other))
    security.note(request, "token.create", f"token {made.id}", name=made.name, user=made.user)
    document: schemas.Token = {**_token(made), "token": secret}
    return reply(document, 201)


@router.on(f"DELETE {_TOKEN}", schemas.Token, errors=[404])
def revoke_token(request: Request, principal: Known, server: Here, number: Number) -> Response:
    """Revoke a token at once, with those that it created."""
    with server.database.write() as tx:
        found = tokens.get(tx, number)
        if found is None or not (_is_own(principal, found) or is_administrator(principal)):
            raise CetoolError(f"there is no token {number}", code="not-found", about=str(number))
        tokens.revoke(tx, number)
        found = tokens.get(tx, number)
    assert found is not None
    security.note(request, "token.revoke", f"token {number}", name=found.name, user=found.user)
    return reply(_token(found))


def _is_own(principal: Principal, found: Token) -> bool:
    """Return whether a principal may see and revoke a token: one with a scope only itself and those it created."""
    if principal.token_id is not None and principal.token_id in (found.id, found.parent):
        return True
    return principal.user_id is not None and principal.scope is None and found.user_id == principal.user_id


def _new(tx: sa.Connection, principal: Principal, body: TokenBody, *, other: bool) -> NewToken:
    """Return the token to create. Raises CetoolError if it would have more rights than the one who creates it."""
    asked = None if body.grants is None else tuple(each.grant for each in body.grants)
    if asked is not None:
        access.check_subset(principal, asked)
    expires = None if body.expires is None else body.expires.timestamp()
    if principal.kind != "session" and principal.expires is not None:
        expires = principal.expires if expires is None else min(expires, principal.expires)
    user_id, namespace = principal.user_id, principal.namespace
    if other and body.user is not None:
        user = accounts.need_user(tx, body.user)
        user_id, namespace = user.id, user.namespace
    elif other:
        user_id = None
    elif asked is None:
        # as much as the one who creates it: a user's token its scope, another one its grants
        asked = principal.scope if user_id is not None else _own_grants(tx, principal)
    if user_id is None and not asked:
        raise CetoolError(
            "the token would have no rights",
            code="request-malformed",
            about="grants",
            hint='Name its rights, as in "grants": [{"pattern": "team/*", "role": "editor"}].',
        )
    parent = principal.token_id if principal.kind == "token" and not other else None
    return NewToken(body.name, principal.name, user_id, namespace, asked, expires, parent)


def _own_grants(tx: sa.Connection, principal: Principal) -> tuple[Grant, ...]:
    """Return the rights of a token without a user, without those that everyone has."""
    found = None if principal.token_id is None else tokens.get(tx, principal.token_id)
    return (found.grants or ()) if found is not None else principal.grants


def _token(found: Token) -> schemas.Token:
    grants = found.grants
    return {
        "id": found.id,
        "name": found.name,
        "kind": found.kind,
        "user": found.user,
        "namespace": found.namespace,
        "grants": None if grants is None else [{"pattern": each.pattern, "role": each.role} for each in grants],
        "by": found.by,
        "created": when(found.created),
        "expires": when(found.expires),
        "last_used": when(found.last_used),
        "revoked": when(found.revoked),
    }

"""``/cetool/1/tokens``: list, create and revoke tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from pydantic import AwareDatetime, Field
from starlette.responses import Response

from cetool.server import access, granting
from cetool.server.access import Grant
from cetool.server.data.tokens import Token
from cetool.server.granting import AskedToken
from cetool.server.web import security
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import Api, Body, Here, Known, Number, reply, when

router = Api(tags=["access"])
_TOKEN = "/cetool/1/tokens/{number}"


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


@router.on("GET /cetool/1/tokens", schemas.Tokens, errors=[404])
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
        found = granting.visible_tokens(tx, principal, user=user, everything=everything, kinds=kinds, ended=ended)
    document: schemas.Tokens = {"tokens": [_token(each) for each in found]}
    return reply(document)


@router.on("POST /cetool/1/tokens", schemas.Token, status=201, errors=[404])
def create_token(request: Request, principal: Known, server: Here, body: TokenBody) -> Response:
    """Create a token with at most your own rights. The answer has its secret, which is not shown again."""
    asked = AskedToken(
        body.name,
        None if body.grants is None else tuple(each.grant for each in body.grants),
        None if body.expires is None else body.expires.timestamp(),
        body.user,
        body.service,
    )
    with server.database.write() as tx:
        secret, made = granting.create_token(tx, principal, asked)
    security.note(request, "token.create", f"token {made.id}", name=made.name, user=made.user)
    document: schemas.Token = {**_token(made), "token": secret}
    return reply(document, 201)


@router.on(f"DELETE {_TOKEN}", schemas.Token, errors=[404])
def revoke_token(request: Request, principal: Known, server: Here, number: Number) -> Response:
    """Revoke a token at once, with those that it created."""
    with server.database.write() as tx:
        found = granting.revoke_token(tx, principal, number)
    security.note(request, "token.revoke", f"token {number}", name=found.name, user=found.user)
    return reply(_token(found))


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

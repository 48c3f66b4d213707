"""Pages of tokens and users, and of one's own account."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.server import access, granting
from cetool.server.access import ROLES, Grant, Principal, is_administrator
from cetool.server.data.database import now
from cetool.server.data.tokens import Token
from cetool.server.granting import AskedToken
from cetool.server.web import security
from cetool.server.web.pages.asking import Form, Here, Number, Posted, Viewer
from cetool.server.web.pages.rendering import page, seen

router = APIRouter(include_in_schema=False)
#: How long a token is valid: days, and how they are called.
_LIFETIMES = (("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("365", "a year"), ("", "never"))
_SERVICE = "*service"


# --- tokens -----------------------------------------------------------------------------------------------------------


@router.get("/tokens")
def list_tokens(
    request: Request, who: Viewer, server: Here, everyone: Annotated[bool, Query(alias="all")] = False
) -> Response:
    """List the viewer's tokens, for administrators also those of others, and offer to create one."""
    return _tokens_page(request, who, everyone=everyone)


def _tokens_page(
    request: Request,
    who: Principal,
    *,
    everyone: bool = False,
    created: SimpleNamespace | None = None,
    error: CetoolError | None = None,
    form: Form | None = None,
) -> Response:
    if not who.authenticated:
        raise access.refused(who, "this page")
    administrator = is_administrator(who)
    with request.app.state.server.database.read() as tx:
        found = granting.visible_tokens(tx, who, everything=everyone and administrator, ended=True)
        users = [each.name for each in granting.all_users(tx, who)] if administrator else []
        moment = now(tx)
    shown = {"name": "", "days": "90", "role": "", "pattern": "", "user": ""}
    if form is not None:
        shown = {name: form.word(name) for name in shown}
    return page(
        request,
        "tokens",
        status=200 if error is None else 422,
        tokens=[_shown(each, moment) for each in found],
        everyone=everyone and administrator,
        administrator=administrator,
        users=[name for name in users if name != who.name],
        service=_SERVICE,
        created=created,
        error=error,
        form=SimpleNamespace(**shown),
        lifetimes=_LIFETIMES,
        roles=list(ROLES),
    )


@router.post("/tokens")
def create_token(request: Request, who: Viewer, server: Here, form: Posted) -> Response:
    """Create a token, and show its secret this once."""
    try:
        asked = _asked(form)
        with server.database.write() as tx:
            secret, made = granting.create_token(tx, who, asked)
    except CetoolError as error:
        if error.code == "not-authenticated":
            raise
        return _tokens_page(request, who, error=error, form=form)
    security.note(request, "token.create", f"token {made.id}", name=made.name, user=made.user)
    return _tokens_page(request, who, created=SimpleNamespace(name=made.name, secret=secret))


def _asked(form: Form) -> AskedToken:
    """Return the token that a form asks for. Raises CetoolError for an unknown role or a malformed pattern."""
    role, pattern, days, user = (form.word(name) for name in ("role", "pattern", "days", "user"))
    if pattern and not role:
        raise CetoolError(
            "a role is missing", code="request-malformed", about="role", hint="Choose what the token may do there."
        )
    grants = (Grant(access.pattern_named(pattern or "*/*"), access.role_named(role)),) if role else None
    lifetime = int(days) * 86400.0 if days in dict(_LIFETIMES) and days else None
    return AskedToken(
        form.word("name"),
        grants,
        None if lifetime is None else time.time() + lifetime,
        user=user if user not in ("", _SERVICE) else None,
        service=user == _SERVICE,
    )


@router.get("/tokens/{number}/revoke")
def ask_to_revoke(request: Request, who: Viewer, server: Here, number: Number) -> Response:
    """Ask before a token is revoked."""
    with server.database.read() as tx:
        found = _token_for(tx, who, number)
    return page(
        request,
        "confirm",
        question=f"Revoke the token {found.name}?",
        sentences=["Programs that use it lose access at once, also those that are downloading.",
                   "Tokens that were created with it are revoked, too. You cannot undo this."],
        facts=[("May", _scope(found)), ("Created by", found.by)],
        trail=[("Tokens", ("/tokens",))],
        answer="Revoke the token",
        back="/tokens",
    )  # fmt: skip


@router.post("/tokens/{number}/revoke")
def revoke(request: Request, who: Viewer, server: Here, number: Number) -> Response:
    """Revoke a token."""
    with server.database.write() as tx:
        found = granting.revoke_token(tx, who, number)
    security.note(request, "token.revoke", f"token {number}", name=found.name, user=found.user)
    return seen(request, "/tokens", "revoked")


def _token_for(tx: sa.Connection, who: Principal, number: int) -> Token:
    visible = granting.visible_tokens(tx, who, everything=is_administrator(who), ended=True)
    found = next((each for each in visible if each.id == number), None)
    if found is None:
        raise CetoolError(f"there is no token {number}", code="not-found", about=str(number))
    return found


def _scope(found: Token) -> str:
    """Return what a token may do, in words."""
    if found.grants is None:
        return f"Everything that {found.user} may"
    return ", ".join(f"{each.role} on {each.pattern}" for each in found.grants) or "Nothing"


def _shown(found: Token, moment: float) -> SimpleNamespace:
    return SimpleNamespace(
        id=found.id,
        name=found.name,
        user=found.user or "",
        scope=_scope(found),
        last_used=found.last_used,
        expires=found.expires,
        expired=found.expires is not None and found.expires <= moment,
        revoked=found.revoked,
    )


# --- users ------------------------------------------------------------------------------------------------------------


@router.get("/users")
def list_users(request: Request, who: Viewer, server: Here) -> Response:
    """List the users, for administrators, and offer to create one."""
    return _users_page(request, who)


def _users_page(request: Request, who: Principal, error: CetoolError | None = None, name: str = "") -> Response:
    with request.app.state.server.database.read() as tx:
        users = granting.all_users(tx, who)
    values = {"users": users, "error": error, "form": SimpleNamespace(name=name)}
    return page(request, "users", status=200 if error is None else 422, **values)


@router.post("/users")
def create_user(request: Request, who: Viewer, server: Here, form: Posted) -> Response:
    """Create a user, with a password or only with tokens."""
    access.require_administrator(who)
    name = form.word("name")
    security.note(request, "user.create", f"user {name}"[:300])
    try:
        granting.add_user(server, who, name, password=form.text("password") or None)
    except CetoolError as error:
        return _users_page(request, who, error, name)
    return seen(request, "/users", "user")


@router.post("/users/{name}/{change}")
def change_user(request: Request, who: Viewer, server: Here, name: str, change: str) -> Response:
    """Disable or enable a user."""
    if change not in ("disable", "enable"):
        raise CetoolError(f"users cannot be changed by {change[:50]!r}", code="not-found", about=change[:50])
    security.note(request, "user.change", f"user {name}"[:300], disabled=change == "disable")
    with server.database.write() as tx:
        granting.change_user(tx, who, name, disabled=change == "disable")
    return seen(request, "/users", "user-changed")


# --- one's own account ------------------------------------------------------------------------------------------------


@router.get("/account")
def show_account(request: Request, who: Viewer, server: Here) -> Response:
    """Show who the viewer is, and offer to change the password."""
    return _account_page(request, who)


def _account_page(request: Request, who: Principal, error: CetoolError | None = None) -> Response:
    server = request.app.state.server
    own = who.user_id is not None and who.scope is None and not server.login.is_configured(who.name)
    roles = sorted(access.effective(who).items())
    values = {"roles": roles, "may_change": own, "administrator": is_administrator(who), "error": error}
    return page(request, "account", status=200 if error is None else 422, **values)


@router.post("/account/password")
def change_password(request: Request, who: Viewer, server: Here, form: Posted) -> Response:
    """Change the viewer's password, which ends all sessions."""
    security.note(request, "user.password", f"user {who.name}")
    password, present = form.text("password"), form.text("present")
    address = security.address_of(request)
    try:
        if password != form.text("again"):
            raise CetoolError("the two new passwords differ", code="request-malformed", about="again")
        granting.change_password(server, who, who.name, password, present=present, address=address)
    except CetoolError as error:
        if error.code in ("not-authenticated", "rate-limited"):
            raise
        return _account_page(request, who, error)
    return seen(request, "/login/", "password")

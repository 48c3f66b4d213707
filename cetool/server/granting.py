"""Changes to tokens, users and grants by those who may make them: what the native API and the pages share.

Each function takes who asks and raises CetoolError if they may not. The caller writes the audit table.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.server import access
from cetool.server.access import ANONYMOUS, Grant, Principal, allows, is_administrator, require, require_administrator
from cetool.server.data import accounts, tokens
from cetool.server.data.accounts import GivenGrant, NewGrant, User
from cetool.server.data.tokens import NewToken, Token
from cetool.server.server import Server


@dataclass(frozen=True, slots=True)
class AskedToken:
    """A token that someone wants."""

    name: str
    #: At most these rights; None for all of the one who asks.
    grants: tuple[Grant, ...] | None = None
    #: Seconds since 1970.
    expires: float | None = None
    #: For this user: administrators only.
    user: str | None = None
    #: Without a user, with ``grants`` as its rights: administrators only.
    service: bool = False


# --- tokens -----------------------------------------------------------------------------------------------------------


def visible_tokens(
    tx: sa.Connection,
    who: Principal,
    *,
    user: str | None = None,
    everything: bool = False,
    kinds: Collection[str] = ("token",),
    ended: bool = False,
) -> list[Token]:
    """Return your tokens, the latest first; for administrators those of another user, or all."""
    if everything or (user is not None and user != who.name):
        require_administrator(who)
        of = None if user is None else accounts.need_user(tx, user).id
        return tokens.listed(tx, user_id=of, kinds=kinds, ended=ended)
    own = _own_ids(tx, who)
    found = tokens.listed(tx, user_id=who.user_id, kinds=kinds, ended=ended)
    return [each for each in found if _is_own(who, own, each)]


def create_token(tx: sa.Connection, who: Principal, asked: AskedToken) -> tuple[str, Token]:
    """Create a token with at most your own rights; return its secret and the token."""
    if not who.authenticated:
        raise access.refused(who, "creating a token")
    other = asked.service or (asked.user is not None and asked.user != who.name)
    if other:
        require_administrator(who)
    if asked.grants is not None:
        access.check_subset(who, asked.grants)
    grants, expires = asked.grants, asked.expires
    source = tokens.source_of(tx, who.token_id)
    if source is not None and source.expires is not None:
        expires = source.expires if expires is None else min(expires, source.expires)
    user_id, namespace = who.user_id, who.namespace
    if asked.service:
        user_id = None
    elif asked.user is not None and other:
        user = accounts.need_user(tx, asked.user)
        user_id, namespace = user.id, user.namespace
    elif grants is None:
        # as much as the one who asks: a user's token its scope, another one its grants
        grants = who.scope if user_id is not None else _own_grants(tx, who)
    if user_id is None and not grants:
        raise CetoolError(
            "the token would have no rights",
            code="request-malformed",
            about="grants",
            hint="Give it a role on a pattern of environments, such as editor on team/*.",
        )
    parent = source.id if source is not None and not other else None
    return tokens.create(tx, NewToken(asked.name, who.name, user_id, namespace, grants, expires, parent))


def revoke_token(tx: sa.Connection, who: Principal, number: int) -> Token:
    """Revoke a token that you see, with those that it created, and return it."""
    found = tokens.get(tx, number)
    if found is None or not (_is_own(who, _own_ids(tx, who), found) or is_administrator(who)):
        raise CetoolError(f"there is no token {number}", code="not-found", about=str(number))
    tokens.revoke(tx, number)
    return tokens.get(tx, number) or found


def _own_ids(tx: sa.Connection, who: Principal) -> set[int]:
    """Return the numbers of the token of a request, and of the one behind it."""
    source = tokens.source_of(tx, who.token_id)
    return {each for each in (who.token_id, None if source is None else source.id) if each is not None}


def _is_own(who: Principal, own: Collection[int], found: Token) -> bool:
    """Return whether a principal may see and revoke a token: one with a scope only itself and those it created."""
    if found.id in own or found.parent in own:
        return True
    return who.user_id is not None and who.scope is None and found.user_id == who.user_id


def _own_grants(tx: sa.Connection, who: Principal) -> tuple[Grant, ...]:
    """Return the rights of a token without a user, without those that all users have."""
    found = None if who.token_id is None else tokens.get(tx, who.token_id)
    return who.grants if found is None else found.grants or ()


# --- users ------------------------------------------------------------------------------------------------------------


def all_users(tx: sa.Connection, who: Principal) -> list[User]:
    """Return the users, for administrators."""
    require_administrator(who)
    return accounts.users(tx)


def add_user(
    server: Server,
    who: Principal,
    name: str,
    *,
    password: str | None,
    primary: str | None = None,
    grants: Sequence[Grant] = (),
) -> User:
    """Add a user, for administrators."""
    require_administrator(who)
    hashed = None if password is None else server.login.hashed(password)
    with server.database.write() as tx:
        made = accounts.add_user(tx, name, password=hashed, primary=primary)
        for each in grants:
            accounts.add_grant(tx, NewGrant("user", name, each.pattern, each.role), by=who.name)
    return made


def change_user(
    tx: sa.Connection, who: Principal, name: str, *, primary: str | None = None, disabled: bool | None = None
) -> User:
    """Disable a user, which revokes all tokens, or change the primary namespace; for administrators."""
    require_administrator(who)
    given = {"namespace": primary, "disabled": disabled}
    values = {key: value for key, value in given.items() if value is not None}
    return accounts.change_user(tx, name, **values) if values else accounts.need_user(tx, name)


def change_password(
    server: Server, who: Principal, name: str, password: str, *, present: str | None, address: str
) -> User:
    """Change your password, which needs the present one, or any for administrators. It ends the user's sessions."""
    own = who.user_id is not None and who.name == name and who.scope is None
    if not own:
        require_administrator(who)
    elif not is_administrator(who):
        server.login.check_password(name, present or "", address)
    if server.login.is_configured(name):
        raise CetoolError(
            f"the password of {name} is in the server's configuration",
            code="conflict",
            about=name,
            hint="An operator changes it there.",
        )
    hashed = server.login.hashed(password)
    with server.database.write() as tx:
        return accounts.change_user(tx, name, password=hashed)


def remove_user(tx: sa.Connection, who: Principal, name: str) -> User:
    """Remove a user with all tokens and grants, for administrators. The environments stay."""
    require_administrator(who)
    return accounts.remove_user(tx, name)


# --- grants -----------------------------------------------------------------------------------------------------------


def visible_grants(tx: sa.Connection, who: Principal, namespace: str | None = None) -> list[GivenGrant]:
    """Return the grants that apply in a namespace; for administrators all."""
    if namespace is None:
        require_administrator(who)
    else:
        require(who, "namespace-role-mapping::read", namespace)
    return accounts.grants(tx, within=namespace)


def add_grant(tx: sa.Connection, who: Principal, new: NewGrant, namespace: str | None = None) -> GivenGrant:
    """Grant a role in a namespace, not more than your own rights there; without a namespace for administrators."""
    if namespace is None:
        require_administrator(who)
        return accounts.add_grant(tx, new, by=who.name)
    require(who, "namespace-role-mapping::create", namespace)
    pattern = access.pattern_named(new.pattern)
    if pattern.partition("/")[0] != namespace:
        raise CetoolError(
            f"{pattern} is not in the namespace {namespace}",
            code="request-malformed",
            about="pattern",
            hint=f"Write {namespace}/*, or {namespace}/ and a pattern of environments.",
        )
    access.check_subset(who, [Grant(pattern, access.role_named(new.role))])
    return accounts.add_grant(tx, new, by=who.name)


def remove_grant(tx: sa.Connection, who: Principal, number: int, namespace: str | None = None) -> GivenGrant:
    """Remove a grant in a namespace; those on patterns of several namespaces are for administrators."""
    if namespace is None:
        require_administrator(who)
    else:
        require(who, "namespace-role-mapping::delete", namespace)
        if accounts.get_grant(tx, number).pattern.partition("/")[0] != namespace:
            raise CetoolError(f"there is no grant {number} in {namespace}", code="not-found", about=str(number))
    return accounts.remove_grant(tx, number)


# --- reasons ----------------------------------------------------------------------------------------------------------


def about_user(server: Server, who: Principal, user: str | None, namespace: str) -> Principal:
    """Return the principal of a user whose rights in a namespace are asked for: yourself, or one of those you manage.

    ``access.explain`` then says why.
    """
    if user is None or user == who.name:
        return who
    if not allows(who, "namespace-role-mapping::update", namespace):
        require_administrator(who)
    with server.database.read() as tx:
        if user == ANONYMOUS:
            return accounts.anonymous(tx, server.config)
        return accounts.user_principal(tx, accounts.need_user(tx, user), server.config)

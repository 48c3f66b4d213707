"""Tokens: random secrets that stand for a user, or for rights of their own; sessions of browsers are tokens too.

Only the SHA-256 of a secret is stored. With 256 random bits it needs no slow hash: it cannot be guessed.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.server.access import DEFAULT_NAMESPACE, Grant
from cetool.server.data.database import now
from cetool.server.data.schema import token, user

#: What every secret starts with, so that scanners for secrets find it.
PREFIX = "cet_"
#: Characters of a token's name.
_LONGEST_NAME = 200
#: Seconds that ended sessions are kept.
_KEPT = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Token:
    """A token, without its secret."""

    id: int
    #: ``token``, ``session`` or ``predefined``.
    kind: str
    name: str
    #: The user's name; None for a token with rights of its own.
    user: str | None
    user_id: int | None
    namespace: str
    #: With a user, what limits the user's rights, None for no limit; without one, all its rights.
    grants: tuple[Grant, ...] | None
    #: Seconds since 1970, as all times here.
    created: float
    by: str
    expires: float | None
    last_used: float | None
    revoked: float | None
    #: The token that created it, and is revoked with it.
    parent: int | None
    #: The user's primary namespace, which decides on rights; ``namespace`` is only that of requests that name none.
    primary: str | None = None
    #: Whether the user was disabled.
    disabled: bool = False

    def problem(self, moment: float) -> str:
        """Return why it cannot be used at a moment, for people; empty if it can."""
        if self.revoked is not None:
            return "the token was revoked"
        if self.expires is not None and self.expires <= moment:
            return "the session has expired" if self.kind == "session" else "the token has expired"
        return "the user is disabled" if self.disabled else ""


@dataclass(frozen=True, slots=True)
class NewToken:
    """What a token is to be."""

    name: str
    by: str
    user_id: int | None = None
    namespace: str = DEFAULT_NAMESPACE
    grants: Sequence[Grant] | None = None
    expires: float | None = None
    parent: int | None = None
    kind: str = "token"


def new_secret() -> str:
    """Return a new secret: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """Return what is stored of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def create(tx: sa.Connection, new: NewToken) -> tuple[str, Token]:
    """Add a token; return its secret, which is not stored, and the token. Raises CetoolError for an unusable name."""
    name = new.name.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise CetoolError(
            "the token's name is empty, too long or not printable",
            code="request-malformed",
            about="name",
            hint="Name what the token is for, in up to 200 characters.",
        )
    moment = now(tx)
    if new.expires is not None and new.expires <= moment:
        raise CetoolError(
            "the token would expire in the past", code="request-malformed", about="expires", hint="Name a later time."
        )
    secret = new_secret()
    row = {
        "hash": digest_of(secret),
        "kind": new.kind,
        "name": name,
        "user_id": new.user_id,
        "namespace": new.namespace,
        "grants": None if new.grants is None else _as_json(new.grants),
        "created": moment,
        "by": new.by,
        "expires": new.expires,
        "parent": new.parent,
    }
    added = tx.execute(sa.insert(token).values(row)).inserted_primary_key
    assert added is not None
    found = get(tx, int(added[0]))
    assert found is not None
    return secret, found


def get(tx: sa.Connection, number: int) -> Token | None:
    """Return a token by its number."""
    return _one(tx, token.c.id == number)


def find(tx: sa.Connection, secret: str) -> Token | None:
    """Return the token with a secret."""
    return _one(tx, token.c.hash == digest_of(secret))


def source_of(tx: sa.Connection, number: int | None) -> Token | None:
    """Return the token behind a token or session: itself, or the one that was the password; None for a real password.

    What it creates ends with it.
    """
    found = None if number is None else get(tx, number)
    if found is None or found.kind == "token":
        return found
    return None if found.parent is None else get(tx, found.parent)


def listed(
    tx: sa.Connection, *, user_id: int | None = None, kinds: Collection[str] = ("token",), ended: bool = False
) -> list[Token]:
    """Return tokens, the latest first; with ``user_id`` those of a user, with ``ended`` also those that are over."""
    found = _SELECT.where(token.c.kind.in_(kinds)).order_by(token.c.id.desc())
    if user_id is not None:
        found = found.where(token.c.user_id == user_id)
    if not ended:
        alive = sa.or_(token.c.expires.is_(None), token.c.expires > now(tx))
        found = found.where(token.c.revoked.is_(None), alive)
    return [_token(row) for row in tx.execute(found).mappings()]


def revoke(tx: sa.Connection, number: int) -> int:
    """Revoke a token and those that it created; return how many were revoked."""
    ids = {number}
    while more := set(tx.scalars(sa.select(token.c.id).where(token.c.parent.in_(ids)))) - ids:
        ids |= more
    return _revoke(tx, token.c.id.in_(ids))


def revoke_of(tx: sa.Connection, user_id: int, *, but: int | None = None) -> int:
    """Revoke all tokens and sessions of a user, except one; return how many were revoked."""
    return _revoke(tx, sa.and_(token.c.user_id == user_id, token.c.id != (-1 if but is None else but)))


def touch(tx: sa.Connection, uses: Mapping[int, float]) -> None:
    """Write when tokens were last used."""
    if uses:
        change = sa.update(token).where(token.c.id == sa.bindparam("number")).values(last_used=sa.bindparam("moment"))
        tx.execute(change, [{"number": number, "moment": moment} for number, moment in uses.items()])


def prune(tx: sa.Connection) -> None:
    """Remove the sessions that ended a month ago."""
    long_ago = now(tx) - _KEPT
    over = sa.or_(token.c.expires < long_ago, token.c.revoked < long_ago)
    tx.execute(sa.delete(token).where(token.c.kind == "session", over))


def _revoke(tx: sa.Connection, which: sa.ColumnElement[bool]) -> int:
    change = sa.update(token).where(which, token.c.revoked.is_(None)).values(revoked=now(tx))
    return tx.execute(change).rowcount


_SELECT = sa.select(
    *(column for column in token.c if column.name != "hash"),
    user.c.name.label("user"),
    user.c.namespace.label("primary"),
    user.c.disabled.is_not(None).label("disabled"),
).select_from(token.outerjoin(user, user.c.id == token.c.user_id))


def _one(tx: sa.Connection, which: sa.ColumnElement[bool]) -> Token | None:
    row = tx.execute(_SELECT.where(which)).mappings().first()
    return None if row is None else _token(row)


def _token(row: Mapping[Any, Any]) -> Token:
    grants = row["grants"]
    given = None if grants is None else _from_json(grants, row["name"])
    return Token(**{**row, "grants": given, "disabled": bool(row["disabled"] and row["user"] is not None)})


def _as_json(grants: Sequence[Grant]) -> list[dict[str, str]]:
    return [{"pattern": grant.pattern, "role": grant.role} for grant in grants]


def _from_json(document: Sequence[Mapping[str, str]], name: str) -> tuple[Grant, ...]:
    return tuple(Grant(each["pattern"], each["role"], f"token {name}") for each in document)

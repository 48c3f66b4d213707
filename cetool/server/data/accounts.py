"""Users and grants, and what they add up to: the principal of a token.

A user has the grants to the name, to the primary namespace (a group, for the users of one namespace), and to all who
are logged in. A namespace called like the user is the user's own: the user is its admin. Users and their grants may
also be in the configuration; these cannot be changed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.server import access
from cetool.server.access import ANONYMOUS, AUTHENTICATED, Grant, Principal
from cetool.server.config import ServerConfig
from cetool.server.data import tokens
from cetool.server.data.audit import OPERATOR
from cetool.server.data.database import now
from cetool.server.data.schema import grant, meta, namespace, token, user
from cetool.server.data.tokens import NewToken, Token

SUBJECTS = ("user", "namespace", AUTHENTICATED, ANONYMOUS)
#: Names that mean something else, and namespaces that belong to no user.
_RESERVED, _SHARED = (ANONYMOUS, AUTHENTICATED, OPERATOR), ("default", "filesystem")
#: What the first start grants, as conda-store does.
_FIRST_GRANTS = ((AUTHENTICATED, "default/*"), (AUTHENTICATED, "filesystem/*"), (ANONYMOUS, "default/*"))
_STARTED = "accounts-started"


@dataclass(frozen=True, slots=True)
class User:
    """A user."""

    id: int
    name: str
    #: The primary namespace: that of requests that name none.
    namespace: str
    #: Seconds since 1970.
    created: float
    #: When the user was disabled; None for one who is not.
    disabled: float | None
    #: argon2; None for a user without a password.
    password: str | None = None


@dataclass(frozen=True, slots=True)
class GivenGrant:
    """A row of the table of grants."""

    id: int
    #: One of :data:`SUBJECTS`.
    subject_kind: str
    #: The user's or namespace's name, empty for the other kinds; a namespace may be a pattern.
    subject: str
    pattern: str
    role: str
    created: float
    by: str


@dataclass(frozen=True, slots=True)
class NewGrant:
    """A grant that is to be added."""

    subject_kind: str
    subject: str
    pattern: str
    role: str


# --- the first start --------------------------------------------------------------------------------------------------


def add_configured(tx: sa.Connection, config: ServerConfig) -> None:
    """Add the users of the configuration that are not in the table, so that they can get grants and tokens."""
    for each in config.users:
        if find_user(tx, each.name) is None:
            add_user(tx, each.name, password=None, primary=each.namespace)


def first_token(tx: sa.Connection) -> str | None:
    """Return the secret of a new administrator's token on the first start, with no users or tokens; else None."""
    if tx.scalar(sa.select(meta.c.value).where(meta.c.key == _STARTED)) is not None:
        return None
    tx.execute(sa.insert(meta).values(key=_STARTED, value="1"))
    for kind, pattern in _FIRST_GRANTS:
        add_grant(tx, NewGrant(kind, "", pattern, "viewer"), by=OPERATOR)
    if tx.scalar(sa.select(token.c.id).limit(1)) or tx.scalar(sa.select(user.c.id).limit(1)):
        return None
    return tokens.create(tx, NewToken("admin", OPERATOR, grants=(Grant("*/*", "admin"),)))[0]


# --- users ------------------------------------------------------------------------------------------------------------


def add_user(tx: sa.Connection, name: str, *, password: str | None, primary: str | None = None) -> User:
    """Add a user; ``password`` is a hash, ``primary`` the primary namespace (default: the name).

    Raises CetoolError: ``conflict`` if the user exists, or if a namespace has the name and ``primary`` is not given,
    since the user would become its admin.
    """
    access.name_checked(name, "user name")
    if name in _RESERVED:
        raise CetoolError(f"the user name {name!r} has another meaning", code="request-malformed", about="name")
    if find_user(tx, name) is not None:
        raise CetoolError(f"there is already a user {name}", code="conflict", about=name)
    taken = name in _SHARED or tx.scalar(sa.select(namespace.c.id).where(namespace.c.name == name)) is not None
    if primary is None and taken:
        raise CetoolError(
            f"a user {name} would become the admin of the existing namespace {name}",
            code="conflict",
            about=name,
            hint=f"Name the user's primary namespace. It can be {name}, if that is what you want.",
        )
    row = {
        "name": name,
        "password": password,
        "namespace": access.name_checked(primary or name, "namespace"),
        "created": now(tx),
    }
    tx.execute(sa.insert(user).values(row))
    return need_user(tx, name)


def find_user(tx: sa.Connection, name: str) -> User | None:
    """Return a user by name."""
    row = tx.execute(sa.select(user).where(user.c.name == name)).mappings().first()
    return None if row is None else User(**row)


def need_user(tx: sa.Connection, name: str) -> User:
    """Return a user by name. Raises CetoolError with the code ``not-found``."""
    found = find_user(tx, name)
    if found is None:
        raise CetoolError(f"there is no user {name!r}", code="not-found", about=name)
    return found


def users(tx: sa.Connection) -> list[User]:
    """Return all users by name."""
    return [User(**row) for row in tx.execute(sa.select(user).order_by(user.c.name)).mappings()]


def change_user(tx: sa.Connection, name: str, **values: Any) -> User:
    """Change the hash ``password``, the primary ``namespace`` or ``disabled`` (bool) of a user.

    Disabling revokes the user's tokens and sessions, a new password the sessions. Raises CetoolError ``not-found``.
    """
    found = need_user(tx, name)
    if "disabled" in values:
        values["disabled"] = (found.disabled or now(tx)) if values["disabled"] else None
    if "namespace" in values:
        access.name_checked(values["namespace"], "namespace")
    tx.execute(sa.update(user).where(user.c.id == found.id).values(values))
    if values.get("disabled") is not None:
        tokens.revoke_of(tx, found.id)
    elif "password" in values:
        for each in tokens.listed(tx, user_id=found.id, kinds=("session",)):
            tokens.revoke(tx, each.id)
    return need_user(tx, name)


def remove_user(tx: sa.Connection, name: str) -> User:
    """Remove a user with all tokens and grants; the environments stay. Raises CetoolError ``not-found``."""
    found = need_user(tx, name)
    tx.execute(sa.delete(grant).where(grant.c.subject_kind == "user", grant.c.subject == name))
    tx.execute(sa.delete(token).where(token.c.user_id == found.id))
    tx.execute(sa.delete(user).where(user.c.id == found.id))
    return found


# --- grants -----------------------------------------------------------------------------------------------------------


def add_grant(tx: sa.Connection, new: NewGrant, *, by: str) -> GivenGrant:
    """Grant a role; one that exists is returned unchanged. Raises CetoolError for an unknown user or a wrong word."""
    if new.subject_kind not in SUBJECTS:
        raise CetoolError(
            f"{new.subject_kind[:100]!r} cannot have grants",
            code="request-malformed",
            about="subject_kind",
            hint=f"Grant to one of: {', '.join(SUBJECTS)}.",
        )
    if new.subject_kind == "user":
        need_user(tx, new.subject)
    elif new.subject_kind == "namespace":
        access.pattern_named(new.subject)
    values = {
        "subject_kind": new.subject_kind,
        "subject": new.subject if new.subject_kind in ("user", "namespace") else "",
        "pattern": access.pattern_named(new.pattern),
        "role": access.role_named(new.role),
    }
    same = sa.select(grant).where(*(grant.c[name] == value for name, value in values.items()))
    if tx.execute(same).first() is None:
        tx.execute(sa.insert(grant).values({**values, "created": now(tx), "by": by}))
    return GivenGrant(**tx.execute(same).mappings().one())


def grants(tx: sa.Connection, *, subject: tuple[str, str] | None = None, within: str | None = None) -> list[GivenGrant]:
    """Return grants in order; those of a subject (kind and name), those that matter for a namespace."""
    found = sa.select(grant).order_by(grant.c.id)
    if subject is not None:
        found = found.where(grant.c.subject_kind == subject[0], grant.c.subject == subject[1])
    rows = [GivenGrant(**row) for row in tx.execute(found).mappings()]
    return [each for each in rows if within is None or access.matches(each.pattern.partition("/")[0], within)]


def get_grant(tx: sa.Connection, number: int) -> GivenGrant:
    """Return a grant by its number. Raises CetoolError with the code ``not-found``."""
    row = tx.execute(sa.select(grant).where(grant.c.id == number)).mappings().first()
    if row is None:
        raise CetoolError(f"there is no grant {number}", code="not-found", about=str(number))
    return GivenGrant(**row)


def remove_grant(tx: sa.Connection, number: int) -> GivenGrant:
    """Remove a grant. Raises CetoolError with the code ``not-found``."""
    found = get_grant(tx, number)
    tx.execute(sa.delete(grant).where(grant.c.id == number))
    return found


def forget_namespace(tx: sa.Connection, name: str) -> None:
    """Remove the grants on a namespace that is deleted: another one may get its name later."""
    start = f"{name}/"
    here = sa.func.substr(grant.c.pattern, 1, len(start)) == start
    tx.execute(sa.delete(grant).where(here))


# --- principals -------------------------------------------------------------------------------------------------------


def principal_of(tx: sa.Connection, found: Token, config: ServerConfig) -> Principal:
    """Return who a token stands for. Whether the token may be used is :meth:`Token.problem`."""
    name = found.user or found.name
    if found.user is None:
        given, scope = (found.grants or ()) + _granted(tx, None, None), None
    else:
        given, scope = rights(tx, found.user, found.primary or found.user, config), found.grants
    return Principal(
        name,
        found.user_id,
        found.id,
        found.namespace,
        given,
        scope,
        authenticated=True,
        kind=found.kind,
        expires=found.expires,
    )


def user_principal(tx: sa.Connection, found: User, config: ServerConfig) -> Principal:
    """Return the principal of a user, with all rights."""
    given = rights(tx, found.name, found.namespace, config)
    return Principal(found.name, found.id, None, found.namespace, given, authenticated=True)


def anonymous(tx: sa.Connection, config: ServerConfig, problem: str = "") -> Principal:
    """Return the principal of a request without a usable token."""
    given: tuple[Grant, ...] = ()
    if config.anonymous_access:
        given = tuple(Grant(each.pattern, each.role, "anyone") for each in grants(tx, subject=(ANONYMOUS, "")))
    return Principal(ANONYMOUS, namespace=config.default_namespace, grants=given, problem=problem)


def rights(tx: sa.Connection, name: str, primary: str, config: ServerConfig) -> tuple[Grant, ...]:
    """Return all grants of a user, each with its source."""
    own = (Grant(f"{name}/*", "admin", f"own namespace of {name}"),) if primary == name else ()
    configured = tuple(each for other in config.users if other.name == name for each in configured_grants(other.grants))
    return own + configured + _granted(tx, name, primary)


def configured_grants(given: Mapping[str, Sequence[str]]) -> tuple[Grant, ...]:
    """Return grants of the configuration. Raises CetoolError for an unknown role or a malformed pattern."""
    return tuple(
        Grant(access.pattern_named(pattern), access.role_named(role), "the server's configuration")
        for pattern, roles in given.items()
        for role in roles
    )


def _granted(tx: sa.Connection, name: str | None, primary: str | None) -> tuple[Grant, ...]:
    """Return the grants in the table to a user with this primary namespace, and to all who are logged in."""
    kind, subject = grant.c.subject_kind, grant.c.subject
    which = [kind == AUTHENTICATED]
    if name is not None:
        which.append(sa.and_(kind == "user", subject == name))
    if primary is not None:
        which.append(sa.and_(kind == "namespace", sa.or_(subject == primary, subject.contains("*"))))
    rows = tx.execute(sa.select(kind, subject, grant.c.pattern, grant.c.role).where(sa.or_(*which)))
    found = []
    for each_kind, each_subject, pattern, role in rows:
        if each_kind == "namespace" and not access.matches(each_subject.partition("/")[0], primary or ""):
            continue
        sources = {"user": f"granted to {name}", "namespace": f"granted to users of {each_subject}"}
        found.append(Grant(pattern, role, sources.get(each_kind, "granted to all users")))
    return tuple(found)

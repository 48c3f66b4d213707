"""Who the caller is and what they may do; tokens; who has roles in a namespace; what namespaces use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Body, Response

from cetool.base.errors import CetoolError
from cetool.server import access
from cetool.server.access import ROLES, Grant, Principal, reach
from cetool.server.data import tokens
from cetool.server.data.schema import build, build_platform, environment, namespace, realization
from cetool.server.data.tokens import NewToken
from cetool.server.data.visibility import visible
from cetool.server.web.conda_store.forms import VERSION, Here, Route, Who, ok, refusal
from cetool.server.web.conda_store.rows import ROLE_NAMES

router = APIRouter(route_class=Route)
_FIRST_YEAR, _LAST_YEAR = 1971, 9998


@router.get("/api/v1/")
def status() -> Response:
    """Return the version of conda-store whose API this is."""
    return ok({"version": VERSION})


@router.get("/api/v1/permission/")
def permissions(who: Who) -> Response:
    """Return what the caller may do, by pattern."""
    roles = roles_of(who)
    return ok(
        {
            "authenticated": who.authenticated,
            "primary_namespace": who.namespace,
            "entity_permissions": {pattern: sorted(ROLES[role]) for pattern, role in roles.items()},
            "entity_roles": {pattern: [ROLE_NAMES[role]] for pattern, role in roles.items()},
            "expiration": _with_zone(who.expires),
        }
    )


def roles_of(who: Principal) -> dict[str, str]:
    """Return the caller's role by pattern, without those of the caller's own namespace that another one includes."""
    found = access.effective(who)
    own = {grant.pattern for grant in who.grants if grant.source.startswith("own namespace")}
    explicit = [grant for grant in who.grants if grant.pattern not in own]
    redundant = {pattern for pattern in own if any(_includes(grant, pattern, "admin") for grant in explicit)}
    return {pattern: role for pattern, role in found.items() if pattern not in redundant}


def _includes(grant: Grant, pattern: str, role: str) -> bool:
    first, _, second = pattern.partition("/")
    mine, its = grant.parts
    return ROLES[role] <= ROLES[grant.role] and access.matches(mine, first) and access.matches(its, second)


def _with_zone(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@router.get("/api/v1/usage/")
def usage(here: Here, who: Who) -> Response:
    """Return what each namespace has, and the bytes of its environments on disk, each counted once."""
    allowed = reach(who)
    with here.database.read() as tx:
        counts = tx.execute(
            sa.select(namespace.c.name, sa.func.count(environment.c.id))
            .outerjoin(environment, environment.c.namespace_id == namespace.c.id)
            .where(visible(allowed, namespace.c.name))
            .group_by(namespace.c.name)
        ).all()
        builds = tx.execute(
            sa.select(namespace.c.name, sa.func.count(build.c.id))
            .join(build, build.c.namespace_id == namespace.c.id)
            .where(visible(allowed, namespace.c.name, build.c.name), build.c.deleted.is_(None))
            .group_by(namespace.c.name)
        ).all()
        kept = (
            sa.select(namespace.c.name.label("namespace"), realization.c.name, realization.c.size)
            .join(build, build.c.namespace_id == namespace.c.id)
            .join(build_platform, build_platform.c.build_id == build.c.id)
            .join(realization, realization.c.name == build_platform.c.realization)
            .where(visible(allowed, namespace.c.name, build.c.name), build.c.deleted.is_(None))
            .distinct()
            .subquery()
        )
        sizes = tx.execute(sa.select(kept.c.namespace, sa.func.sum(kept.c.size)).group_by(kept.c.namespace)).all()
    made, stored = dict(map(tuple, builds)), dict(map(tuple, sizes))
    return ok(
        {
            name: {"num_environments": count, "num_builds": made.get(name, 0), "storage": stored.get(name, 0)}
            for name, count in counts
        }
    )


@router.post("/api/v1/token/")
def create_token(
    here: Here,
    who: Who,
    primary_namespace: Annotated[str | None, Body()] = None,
    expiration: Annotated[datetime | None, Body()] = None,
    exp: Annotated[datetime | None, Body()] = None,
    role_bindings: Annotated[dict[str, list[str]] | None, Body()] = None,
) -> Response:
    """Return a token with rights of the caller; its command line sends ``exp`` for ``expiration``."""
    asked = grants_of(role_bindings) if role_bindings else _own_grants(who)
    _check(who, asked)
    expires = _expires(who, expiration or exp)
    primary = access.name_checked(primary_namespace or who.namespace, "namespace")
    if not who.authenticated:
        # everyone has the rights of a caller without a token, with this one as well as with any other text
        return ok({"token": tokens.new_secret()})
    with here.database.write() as tx:
        # a token that a browser's session created outlives the session, unless that began with a token
        source = tokens.source_of(tx, who.token_id)
        new = NewToken(
            "conda-store API",
            who.name,
            user_id=who.user_id,
            namespace=primary,
            grants=asked,
            expires=expires,
            parent=None if source is None else source.id,
        )
        return ok({"token": tokens.create(tx, new)[0]})


def _own_grants(who: Principal) -> list[Grant]:
    return [Grant(pattern, role) for pattern, role in access.effective(who).items()]


def grants_of(bindings: Mapping[str, Sequence[str]]) -> list[Grant]:
    """Return conda-store's role bindings as grants. Raises CetoolError for a malformed one."""
    return [
        Grant(access.pattern_named(pattern), access.role_named(role))
        for pattern, roles in bindings.items()
        for role in roles
    ]


def _check(who: Principal, asked: Sequence[Grant]) -> None:
    try:
        access.check_subset(who, asked)
    except CetoolError as error:
        text = "Requested role_bindings are not a subset of current permissions"
        raise refusal(f"{text}: {error.message}") from None


def _expires(who: Principal, wanted: datetime | None) -> float | None:
    if wanted is None:
        return who.expires
    if not _FIRST_YEAR <= wanted.year <= _LAST_YEAR:
        raise refusal("the expiration is not a time in the future")
    if wanted.tzinfo is None:
        wanted = wanted.replace(tzinfo=timezone.utc)
    moment = wanted.timestamp()
    # a client sends the session's own end back, in microseconds
    if who.expires is not None and moment > who.expires + 0.001:
        raise refusal("Requested expiration of token is greater than current permissions")
    return moment if who.expires is None else min(moment, who.expires)

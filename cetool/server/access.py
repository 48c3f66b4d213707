"""What a user or token may do: roles on patterns of namespaces and environments, and why.

A grant gives a role on a pattern ``namespace/environment``, in which ``*`` stands for any run of characters. Grants add
up: one that gives a permission is enough. A token may be limited to a scope, which is a list of grants too; then both
the user's grants and the scope must give the permission. Everything here is pure: the grants come from
:mod:`cetool.server.data.accounts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cetool.base.errors import CetoolError
from cetool.base.text import nearest, shorten

#: What can be allowed, in the words of conda-store's API (the first with a single colon).
PERMISSIONS = (
    "environment:create",
    "environment::read",
    "environment::update",
    "environment::delete",
    "environment::solve",
    "build::cancel",
    "build::delete",
    "namespace::create",
    "namespace::read",
    "namespace::update",
    "namespace::delete",
    "namespace-role-mapping::create",
    "namespace-role-mapping::read",
    "namespace-role-mapping::update",
    "namespace-role-mapping::delete",
    "setting::read",
    "setting::update",
)
_VIEWER = frozenset({"environment::read", "namespace::read", "namespace-role-mapping::read"})
_CONTRIBUTOR = _VIEWER | {"environment:create", "environment::solve"}
_EDITOR = _CONTRIBUTOR | {"environment::update", "build::cancel", "setting::read"}
#: The permissions of each role, the least of them first.
ROLES: Mapping[str, frozenset[str]] = {
    "viewer": _VIEWER,
    "contributor": _CONTRIBUTOR,
    "editor": _EDITOR,
    "admin": frozenset(PERMISSIONS),
}
#: The namespace of a request that names none, for a token without a user.
DEFAULT_NAMESPACE = "default"
#: What the grants of everyone who is logged in, and of everyone, are called.
AUTHENTICATED, ANONYMOUS = "authenticated", "anonymous"

_NAME = re.compile(r"[A-Za-z0-9\-+_@$&?^~.=]{1,255}")
_PATTERN = re.compile(r"[A-Za-z0-9\-+_@$&?^~.=*]{1,255}/[A-Za-z0-9\-+_@$&?^~.=*]{1,255}")


@dataclass(frozen=True, slots=True)
class Grant:
    """A role on a pattern."""

    #: ``namespace/environment``, each with ``*`` for any run of characters.
    pattern: str
    #: A key of :data:`ROLES`.
    role: str
    #: Why it applies, for people: ``granted to ana``, ``primary namespace of ana``.
    source: str = ""

    @property
    def parts(self) -> tuple[str, str]:
        """The patterns of the namespace and of the environment."""
        namespace, _, environment = self.pattern.partition("/")
        return namespace, environment

    def gives(self, permission: str, namespace: str, environment: str) -> bool:
        """Return whether it gives a permission on an environment; ``*`` stands for all in the namespace."""
        mine, its = self.parts
        if permission not in ROLES[self.role] or not matches(mine, namespace):
            return False
        # the right to see one environment shows that its namespace exists
        return permission == "namespace::read" or matches(its, environment)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request, and what they may do."""

    #: The user's name; of a token without a user, the token's; ``anonymous``.
    name: str
    user_id: int | None = None
    token_id: int | None = None
    #: The namespace of requests that name none.
    namespace: str = DEFAULT_NAMESPACE
    grants: tuple[Grant, ...] = ()
    #: What the token is limited to; None for no limit.
    scope: tuple[Grant, ...] | None = None
    authenticated: bool = False
    #: How the request is authenticated: ``token``, ``session``, ``predefined``, ``""``.
    kind: str = ""
    #: Seconds since 1970; None for a token that does not expire.
    expires: float | None = None
    #: Why the token of the request was not accepted, for people: ``the token has expired``.
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Reach:
    """The environments for which a principal has a permission, for queries: patterns of namespace and environment."""

    #: One of these must match,
    granted: tuple[tuple[str, str], ...]
    #: and one of these; None for no limit.
    scope: tuple[tuple[str, str], ...] | None = None

    @property
    def everything(self) -> bool:
        """Whether every environment is within reach."""
        everything = ("*", "*")
        return everything in self.granted and (self.scope is None or everything in self.scope)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a permission is given or refused."""

    permission: str
    allowed: bool
    #: The grant that gives it; None if there is none.
    grant: Grant | None
    #: One sentence for people, without a full stop.
    text: str


def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern matches a text, or all that another pattern matches, in linear time."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    last = rest.pop()
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for part in rest:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def role_named(text: str) -> str:
    """Return the role that a name means; conda-store's ``developer`` is ``editor``. Raises CetoolError."""
    role = {"developer": "editor"}.get(text, text)
    if role not in ROLES:
        raise CetoolError(
            f"{shorten(text)!r} is not a role",
            code="request-malformed",
            about="role",
            hint=nearest(text, ROLES) or f"The roles are {', '.join(ROLES)}.",
        )
    return role


def pattern_named(text: str) -> str:
    """Return the pattern that a text means; a bare namespace stands for all its environments. Raises CetoolError."""
    pattern = re.sub(r"\*+", "*", text if "/" in text else f"{text}/*")
    if not _PATTERN.fullmatch(pattern):
        raise CetoolError(
            f"{shorten(text)!r} is not a pattern of namespaces",
            code="request-malformed",
            about="pattern",
            hint="Write NAMESPACE/ENVIRONMENT, where * stands for any characters: team/*, team/gpu-*, */*.",
        )
    return pattern


def is_name(text: str) -> bool:
    """Return whether a user, a namespace or an environment can have this name."""
    return _NAME.fullmatch(text) is not None and text not in (".", "..")


def name_checked(text: str, what: str = "name") -> str:
    """Return a name for a user, a namespace or an environment. Raises CetoolError for any other text."""
    if not is_name(text):
        raise CetoolError(
            f"the {what} {shorten(text)!r} is invalid",
            code="request-malformed",
            about=what,
            hint="Names have up to 255 letters, digits, and - + _ @ $ & ? ^ ~ . = characters.",
        )
    return text


# --- asking -----------------------------------------------------------------------------------------------------------


def allows(principal: Principal, permission: str, namespace: str, environment: str = "*") -> bool:
    """Return whether a permission is given on an environment.

    Without an environment it must be given on all of the namespace, except for ``namespace::read``, which a grant on
    one environment gives. ``*`` as the namespace stands for the whole server.
    """
    if not _gives(principal.grants, permission, namespace, environment):
        return False
    return principal.scope is None or _gives(principal.scope, permission, namespace, environment)


def require(principal: Principal, permission: str, namespace: str, environment: str = "*") -> None:
    """Raise CetoolError unless the permission is given: ``not-authenticated`` (401) or ``not-allowed`` (403)."""
    if not allows(principal, permission, namespace, environment):
        place = "the server" if namespace == "*" else namespace if environment == "*" else f"{namespace}/{environment}"
        raise refused(principal, f"{permission} on {shorten(place)}")


def is_administrator(principal: Principal) -> bool:
    """Return whether every permission is given on the whole server: for users, tokens of others, and the audit."""
    return all(allows(principal, permission, "*") for permission in PERMISSIONS)


def require_administrator(principal: Principal) -> None:
    """Raise CetoolError unless the principal is an administrator of the whole server."""
    if is_administrator(principal):
        return
    if not principal.authenticated:
        raise refused(principal, "this request")
    raise CetoolError(
        f"{principal.name} is not an administrator of the server",
        code="not-allowed",
        about=principal.name,
        hint="Ask an administrator to do this.",
    )


def refused(principal: Principal, what: str) -> CetoolError:
    """Return the error for a request that lacks a right."""
    if not principal.authenticated:
        return CetoolError(
            principal.problem or f"{what} needs a token",
            code="not-authenticated",
            about=what,
            hint="Log in, or send the header `Authorization: Bearer TOKEN`.",
        )
    return CetoolError(
        f"{principal.name} lacks the right {what}",
        code="not-allowed",
        about=what,
        hint="An administrator can grant it. The server's page Access lists your rights and their reasons.",
    )


def reach(principal: Principal, permission: str = "environment::read") -> Reach:
    """Return where a permission is given, for a query that lists only what may be seen."""
    scope = None if principal.scope is None else _places(principal.scope, permission)
    return Reach(_places(principal.grants, permission), scope)


def within(reach: Reach, namespace: str, environment: str = "*") -> bool:
    """Return whether an environment is within reach."""
    return all(
        any(matches(mine, namespace) and matches(its, environment) for mine, its in places)
        for places in (reach.granted, reach.scope)
        if places is not None
    )


def effective(principal: Principal) -> dict[str, str]:
    """Return the role on each pattern after the scope's limits, the highest role of equal patterns."""
    found: dict[str, str] = {}
    order = list(ROLES)
    for grant in _limited(principal):
        before = found.get(grant.pattern)
        if before is None or order.index(before) < order.index(grant.role):
            found[grant.pattern] = grant.role
    return found


def check_subset(principal: Principal, asked: Iterable[Grant]) -> None:
    """Raise CetoolError unless the principal has all rights that these grants would give."""
    for grant in asked:
        namespace, environment = grant.pattern.split("/")
        for permission in sorted(ROLES[grant.role]):
            if not allows(principal, permission, namespace, environment):
                raise CetoolError(
                    f"{principal.name} cannot grant {grant.role} on {grant.pattern}: {permission} is missing",
                    code="not-allowed",
                    about=grant.pattern,
                    hint="Ask for a lower role or a narrower pattern.",
                )


def explain(principal: Principal, namespace: str, environment: str = "*") -> list[Reason]:
    """Return for each permission which grant gives it, or what is missing."""
    return [_reason(principal, permission, namespace, environment) for permission in PERMISSIONS]


def _reason(principal: Principal, permission: str, namespace: str, environment: str) -> Reason:
    grant = _first(principal.grants, permission, namespace, environment)
    if grant is None:
        lowest = next(role for role, gives in ROLES.items() if permission in gives)
        place = f"{namespace}/{environment}"
        return Reason(permission, False, None, f"no grant: it needs the role {lowest} on {place}")
    if principal.scope is not None and _first(principal.scope, permission, namespace, environment) is None:
        return Reason(permission, False, grant, "the token's scope excludes it")
    return Reason(permission, True, grant, f"{grant.role} on {grant.pattern} ({grant.source})")


def _first(grants: Iterable[Grant], permission: str, namespace: str, environment: str) -> Grant | None:
    return next((grant for grant in grants if grant.gives(permission, namespace, environment)), None)


def _gives(grants: Iterable[Grant], permission: str, namespace: str, environment: str) -> bool:
    return _first(grants, permission, namespace, environment) is not None


def _places(grants: Sequence[Grant], permission: str) -> tuple[tuple[str, str], ...]:
    """Return the patterns on which a permission is given, without those that others contain."""
    given = dict.fromkeys(grant.parts for grant in grants if permission in ROLES[grant.role])
    if permission == "namespace::read":
        given = dict.fromkeys((namespace, "*") for namespace, _ in given)
    return tuple(
        each
        for each in given
        if not any(matches(other[0], each[0]) and matches(other[1], each[1]) for other in given if other != each)
    )


def _limited(principal: Principal) -> Iterator[Grant]:
    """Yield the grants, each cut to what the scope leaves of it."""
    if principal.scope is None:
        yield from principal.grants
        return
    order = list(ROLES)
    for grant in principal.grants:
        for limit in principal.scope:
            role = min(grant.role, limit.role, key=order.index)
            parts = [_narrower(*pair) for pair in zip(grant.parts, limit.parts, strict=True)]
            if None not in parts:
                yield Grant(f"{parts[0]}/{parts[1]}", role, grant.source)


def _narrower(one: str, other: str) -> str | None:
    """Return which of two patterns is contained in the other; None if neither is."""
    if matches(one, other):
        return other
    return one if matches(other, one) else None

"""Pages of access: who may do what and why, grants, and the audit table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.server import access, granting
from cetool.server.access import PERMISSIONS, ROLES, Principal, Reason, allows, is_administrator
from cetool.server.data import accounts, audit
from cetool.server.data.accounts import GivenGrant, NewGrant
from cetool.server.data.audit import AuditQuery, Entry
from cetool.server.web import security
from cetool.server.web.pages.asking import PAGE, Form, Here, Number, Posted, Text, Viewer
from cetool.server.web.pages.environments import may_somewhere, visible_namespaces
from cetool.server.web.pages.rendering import page, seen
from cetool.server.web.urls import path

router = APIRouter(include_in_schema=False)
_SUBJECTS = (
    ("user", "A user"),
    ("namespace", "The users of a namespace"),
    ("authenticated", "All who are signed in"),
    ("anonymous", "Everyone, also without signing in"),
)


@router.get("/access")
def show_access(
    request: Request, who: Viewer, server: Here, user: Text = "", namespace: Text = "", environment: Text = ""
) -> Response:
    """Explain what a user may do, and list the grants."""
    return _access_page(request, who, (user.strip(), namespace.strip(), environment.strip()))


def _access_page(
    request: Request,
    who: Principal,
    asked: tuple[str, str, str],
    error: CetoolError | None = None,
    form: Form | None = None,
) -> Response:
    if not who.authenticated:
        raise access.refused(who, "this page")
    server = request.app.state.server
    user, namespace, environment = asked
    place = namespace or who.namespace
    explained, wrong = None, None
    try:
        about = granting.about_user(server, who, user or None, place)
        explained = _explained(about, place, environment or "*")
    except CetoolError as problem:
        if problem.code == "not-authenticated":
            raise
        wrong = problem
    administrator = is_administrator(who)
    with server.database.read() as tx:
        grants = _grants(tx, who, None if administrator and not namespace else place)
        names = visible_namespaces(tx, who)
    fields = ("subject_kind", "subject", "role", "pattern")
    values = {name: form.word(name) if form is not None else "" for name in fields}
    if form is None and namespace:
        values["pattern"] = f"{namespace}/*"
    return page(
        request,
        "access",
        status=200 if error is None and wrong is None else 422,
        query=SimpleNamespace(user=user or who.name, namespace=place, environment=environment),
        may_ask=administrator or allows(who, "namespace-role-mapping::update", place),
        namespaces=names,
        explained=explained,
        wrong=wrong,
        grants=grants,
        everywhere=administrator and not namespace,
        may_grant=administrator or may_somewhere(who, "namespace-role-mapping::create"),
        subject_kinds=_SUBJECTS,
        form=SimpleNamespace(**values),
        error=error,
        roles=list(ROLES),
        table=[(each, [each in gives for gives in ROLES.values()]) for each in PERMISSIONS],
    )


def _explained(about: Principal, namespace: str, environment: str) -> SimpleNamespace:
    """Return what a principal may do in a namespace: one sentence, and a reason for each permission."""
    reasons = access.explain(about, namespace, environment)
    given = {each.permission for each in reasons if each.allowed}
    role = next((name for name, gives in reversed(list(ROLES.items())) if gives <= given), None)
    place = namespace if environment == "*" else f"{namespace}/{environment}"
    if role is not None:
        text = f"{about.name} is {'an' if role[0] in 'ae' else 'a'} {role} of {place}."
    else:
        text = f"{about.name} has {'some rights' if given else 'no rights'} in {place}."
    return SimpleNamespace(sentence=text, why=_why(reasons), reasons=reasons)


def _why(reasons: Sequence[Reason]) -> list[str]:
    """Return the grants that give something, each once."""
    return list(dict.fromkeys(each.text for each in reasons if each.allowed))


def _grants(tx: sa.Connection, who: Principal, namespace: str | None) -> list[SimpleNamespace]:
    """Return the grants that the viewer may see: those in a namespace, or all."""
    if namespace is not None and not allows(who, "namespace-role-mapping::read", namespace):
        return []
    return [_given(who, each) for each in granting.visible_grants(tx, who, namespace)]


def _given(who: Principal, found: GivenGrant) -> SimpleNamespace:
    names = {
        "user": found.subject,
        "namespace": f"users of {found.subject}",
        "authenticated": "all who are signed in",
        "anonymous": "everyone",
    }
    return SimpleNamespace(
        id=found.id,
        who=names[found.subject_kind],
        plural=found.subject_kind in ("namespace", "authenticated"),
        role=found.role,
        pattern=found.pattern,
        by=found.by,
        created=found.created,
        removable=is_administrator(who)
        or allows(who, "namespace-role-mapping::delete", found.pattern.partition("/")[0]),
    )


# --- grants -----------------------------------------------------------------------------------------------------------


@router.post("/access/grants")
def add_grant(request: Request, who: Viewer, server: Here, form: Posted) -> Response:
    """Grant a role."""
    new = NewGrant(*(form.word(name) for name in ("subject_kind", "subject", "pattern", "role")))
    namespace = None if is_administrator(who) else new.pattern.partition("/")[0]
    try:
        with server.database.write() as tx:
            made = granting.add_grant(tx, who, new, namespace)
    except CetoolError as error:
        if error.code == "not-authenticated":
            raise
        return _access_page(request, who, ("", "" if namespace is None else namespace, ""), error, form)
    _note(request, "grant.create", made)
    return seen(request, "/access", "granted", namespace=namespace)


@router.get("/access/grants/{number}/remove")
def ask_to_remove_grant(request: Request, who: Viewer, server: Here, number: Number) -> Response:
    """Ask before a grant is removed."""
    with server.database.read() as tx:
        found = _grant_for(tx, who, number)
    given = _given(who, found)
    if not given.removable:
        raise access.refused(who, f"namespace-role-mapping::delete on {found.pattern}")
    return page(
        request,
        "confirm",
        question="Remove this grant?",
        sentences=["Rights that no other grant gives end at once."],
        facts=[("Who", given.who), ("Role", found.role), ("On", found.pattern)],
        trail=[("Access", ("/access",))],
        answer="Remove the grant",
        back="/access",
    )


@router.post("/access/grants/{number}/remove")
def remove_grant(request: Request, who: Viewer, server: Here, number: Number) -> Response:
    """Remove a grant."""
    with server.database.write() as tx:
        space = _space(who, _grant_for(tx, who, number))
        found = granting.remove_grant(tx, who, number, space)
    _note(request, "grant.delete", found)
    return seen(request, "/access", "ungranted", namespace=space)


def _grant_for(tx: sa.Connection, who: Principal, number: int) -> GivenGrant:
    """Return a grant. Raises CetoolError with the code ``not-found`` also for one that the viewer may not see."""
    found = accounts.get_grant(tx, number)
    space = found.pattern.partition("/")[0]
    if not is_administrator(who) and not allows(who, "namespace-role-mapping::read", space):
        raise CetoolError(f"there is no grant {number}", code="not-found", about=str(number))
    return found


def _space(who: Principal, found: GivenGrant) -> str | None:
    """Return the namespace in which a viewer manages a grant; None for administrators of the server."""
    return None if is_administrator(who) else found.pattern.partition("/")[0]


def _note(request: Request, action: str, found: GivenGrant) -> None:
    subject = f"{found.subject_kind} {found.subject}".strip()
    security.note(request, action, found.pattern, id=found.id, role=found.role, subject=subject)


# --- audit ------------------------------------------------------------------------------------------------------------


@router.get("/audit")
def list_audit(
    request: Request, viewer: Viewer, server: Here, who: Text = "", action: Text = "", about: Text = "",
    before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
) -> Response:  # fmt: skip
    """List who changed what, the latest first; for administrators."""
    access.require_administrator(viewer)
    asked: dict[str, Any] = {
        "who": who.strip() or None,
        "about": about.strip() or None,
        "action": action.strip() or None,
    }
    query = AuditQuery(asked["who"], asked["about"], asked["action"], before, PAGE + 1)
    with server.database.read() as tx:
        rows = audit.listed(tx, query)
    shown = rows[:PAGE]
    return page(
        request,
        "audit",
        rows=[_row(each) for each in shown],
        query=SimpleNamespace(who=who, action=action, about=about),
        paging={
            "earlier": path(request, "/audit", **asked) if before is not None else None,
            "later": path(request, "/audit", **asked, before=shown[-1].id) if len(rows) > PAGE else None,
            "text": "",
        },
    )


def _row(entry: Entry) -> SimpleNamespace:
    return SimpleNamespace(
        at=entry.at,
        who=entry.who,
        action=entry.action,
        object=entry.object,
        address=entry.address,
        details=_details(entry.data),
    )


def _details(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in data.items() if key != "status" and value is not None)

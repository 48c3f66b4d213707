"""Pages of namespaces: the list, one with its settings, its deletion."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cetool.base.durations import format_size
from cetool.base.errors import CetoolError
from cetool.server.access import Principal, allows, reach, require
from cetool.server.data import namespaces
from cetool.server.data.namespaces import NamespaceQuery
from cetool.server.data.paging import Cut
from cetool.server.web.native import namespaces as api
from cetool.server.web.native.namespaces import NewNamespace, SettingChanges
from cetool.server.web.pages.asking import PAGE, Form, Here, PageNumber, Posted, Viewer
from cetool.server.web.pages.environments import may_somewhere
from cetool.server.web.pages.rendering import page, page_links, seen
from cetool.server.web.urls import segment

router = APIRouter(include_in_schema=False)
_ONE = "/namespaces/{namespace}"
#: The settings in the order of the page, with their titles and hints.
_SETTINGS = {
    "channels-allowed": ("Allowed channels", "Builds may use no others."),
    "channels-default": ("Default channels", "For specifications that name no channels."),
    "channels-required": ("Required channels", "Added to each specification."),
    "packages-allowed": ("Allowed packages", "Specifications may name no others; what these depend on is allowed."),
    "packages-default": ("Default packages", "For specifications that name no packages."),
    "packages-required": ("Required packages", "Added to each specification."),
}


@router.get("/namespaces")
def list_namespaces(
    request: Request, who: Viewer, server: Here, number: Annotated[PageNumber, Query(alias="page")] = 1
) -> Response:
    """List the namespaces that the viewer may see, and offer to create one."""
    return _list_page(request, who, number)


def _list_page(
    request: Request, who: Principal, number: int, error: CetoolError | None = None, name: str = ""
) -> Response:
    query = NamespaceQuery(Cut(PAGE, page=number, count=True), reach(who, "namespace::read"))
    with request.app.state.server.database.read() as tx:
        found = namespaces.listed(tx, query)
        rows = [(each, namespaces.usage(tx, each)) for each in found.rows]
    return page(
        request,
        "namespaces",
        status=200 if error is None else 422,
        namespaces=rows,
        paging=page_links(request, number, PAGE, found.count or 0),
        can_create=may_somewhere(who, "namespace::create"),
        can_set=allows(who, "setting::read", "*"),
        error=error,
        form=SimpleNamespace(name=name),
    )


@router.post("/namespaces")
def create(request: Request, who: Viewer, server: Here, form: Posted) -> Response:
    """Create a namespace."""
    name = form.word("name")
    try:
        if not name:
            raise CetoolError("the name is empty", code="request-malformed", about="name")
        api.create_namespace(request, who, server, NewNamespace.model_construct(name=name, metadata={}))
    except CetoolError as error:
        if error.code == "not-authenticated":
            raise
        return _list_page(request, who, 1, error, name)
    return seen(request, f"/namespaces/{segment(name)}", "namespace")


@router.get(_ONE)
def show_namespace(request: Request, who: Viewer, server: Here, namespace: str) -> Response:
    """Show a namespace and its settings."""
    return _one_page(request, who, namespace)


def _one_page(
    request: Request, who: Principal, name: str, error: CetoolError | None = None, form: Form | None = None
) -> Response:
    server = request.app.state.server
    api.show_namespace(who, server, name)  # raises CetoolError for one that may not be seen
    may = SimpleNamespace(
        grants=who.authenticated and allows(who, "namespace-role-mapping::read", name),
        delete=allows(who, "namespace::delete", name),
        see=allows(who, "setting::read", name),
        change=allows(who, "setting::update", name),
    )
    rows = _rows(api.show_namespace_settings(who, server, name), form) if may.see else []
    with server.database.read() as tx:
        found = namespaces.get(tx, name)
        usage = namespaces.usage(tx, found)
    values = {"namespace": found, "usage": usage, "may": may, "settings": rows, "error": error}
    return page(request, "namespace", status=200 if error is None else 422, **values)


@router.post(_ONE + "/settings")
def change_settings(request: Request, who: Viewer, server: Here, namespace: str, form: Posted) -> Response:
    """Change the settings; an empty one gets the server's value again."""
    try:
        api.change_namespace_settings(request, who, server, namespace, _changes(form))
    except CetoolError as error:
        if error.code in ("not-authenticated", "not-allowed", "not-found"):
            raise
        return _one_page(request, who, namespace, error, form)
    return seen(request, f"/namespaces/{segment(namespace)}", "settings")


@router.get("/settings")
def show_server_settings(request: Request, who: Viewer, server: Here) -> Response:
    """Show the settings of the whole server, for administrators."""
    return _server_page(request, who)


def _server_page(
    request: Request, who: Principal, error: CetoolError | None = None, form: Form | None = None
) -> Response:
    rows = _rows(api.show_settings(who, request.app.state.server), form)
    may = SimpleNamespace(change=allows(who, "setting::update", "*"))
    values = {"settings": rows, "may": may, "error": error}
    return page(request, "settings", status=200 if error is None else 422, **values)


@router.post("/settings")
def change_server_settings(request: Request, who: Viewer, server: Here, form: Posted) -> Response:
    """Change the settings of the whole server; an empty one gets the configuration's value again."""
    try:
        api.change_settings(request, who, server, _changes(form))
    except CetoolError as error:
        if error.code in ("not-authenticated", "not-allowed"):
            raise
        return _server_page(request, who, error, form)
    return seen(request, "/settings", "settings")


def _rows(answer: Response, form: Form | None) -> list[SimpleNamespace]:
    """Return the fields of a form for the settings of a level, as the API shows them."""
    document = json.loads(bytes(answer.body))
    rows = []
    for key, (title, hint) in _SETTINGS.items():
        own, effective = document["own"].get(key) or [], document["effective"].get(key)
        now = "everything" if effective is None else ", ".join(effective) or "none"
        text = "\n".join(own) if form is None else form.text(key)
        rows.append(SimpleNamespace(key=key, title=title, hint=hint, text=text, own=bool(own), now=now))
    return rows


def _changes(form: Form) -> SettingChanges:
    """Return the changes that a form asks for; None removes a setting."""
    given = {key: form.text(key).split("\n") for key in _SETTINGS}
    return SettingChanges(settings={key: lines if any(map(str.strip, lines)) else None for key, lines in given.items()})


@router.get(_ONE + "/delete")
def ask_to_delete(request: Request, who: Viewer, server: Here, namespace: str) -> Response:
    """Ask before a namespace is deleted."""
    api.show_namespace(who, server, namespace)  # raises CetoolError for one that may not be seen
    require(who, "namespace::delete", namespace)
    with server.database.read() as tx:
        usage = namespaces.usage(tx, namespaces.get(tx, namespace))
    return page(
        request,
        "confirm",
        question=f"Delete the namespace {namespace}?",
        sentences=["All of its environments, builds, settings and grants go away. You cannot undo this."],
        facts=[("Environments", usage.environments), ("Builds", usage.builds), ("Uses", format_size(usage.storage))],
        trail=[("Namespaces", ("/namespaces",)), (namespace, ("/namespaces", namespace))],
        answer="Delete the namespace",
        back=f"/namespaces/{segment(namespace)}",
    )


@router.post(_ONE + "/delete")
def delete(request: Request, who: Viewer, server: Here, namespace: str) -> Response:
    """Delete a namespace with all that is in it."""
    answer = api.delete_namespace(request, who, server, namespace)
    return seen(request, "/namespaces", "namespace-deleted", json.loads(bytes(answer.body))["freed"])

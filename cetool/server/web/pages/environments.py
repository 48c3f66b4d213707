"""Pages of environments: the list, one with its packages and history, its settings, its deletion."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cetool.base.durations import format_size
from cetool.base.errors import CetoolError
from cetool.server import changing
from cetool.server.access import Principal, allows, reach
from cetool.server.data import builds, environments, locks, namespaces, summaries
from cetool.server.data.builds import Build, BuildQuery
from cetool.server.data.environments import Entry, Environment, EnvironmentQuery
from cetool.server.data.locks import LockedPackage
from cetool.server.data.namespaces import NamespaceQuery
from cetool.server.data.paging import Cut
from cetool.server.data.schema import UNFINISHED
from cetool.server.finding import environment_for
from cetool.server.server import Server
from cetool.server.web import security
from cetool.server.web.pages.asking import PAGE, Here, PageNumber, Posted, Text, Viewer
from cetool.server.web.pages.rendering import page, page_links, seen
from cetool.server.web.urls import segment

router = APIRouter(include_in_schema=False)
_ONE = "/environments/{namespace}/{name}"
#: Namespaces to choose from, entries of a history, packages on a page.
_CHOICES, _HISTORY, _PACKAGES = 1000, 20, 200


@router.get("/")
def show_home(request: Request, who: Viewer) -> Response:
    """Go to the list of environments."""
    return seen(request, "/environments")


@router.get("/environments")
def list_environments(
    request: Request, who: Viewer, server: Here, q: Text = "", package: Text = "", namespace: Text = "",
    number: Annotated[PageNumber, Query(alias="page")] = 1,
) -> Response:  # fmt: skip
    """List the environments that the viewer may see."""
    query = EnvironmentQuery(
        Cut(PAGE, page=number, count=True),
        reach(who),
        namespace.strip() or None,
        search=q.strip() or None,
        packages=tuple(package.lower().replace(",", " ").split()),
    )
    with server.database.read() as tx:
        found = environments.listed(tx, query)
        newest = summaries.latest(tx, [each.id for each in found.rows])
        numbers = {each.build_id for each in found.rows if each.build_id} | set(newest.values())
        about = summaries.of_builds(tx, sorted(numbers))
        names = visible_namespaces(tx, who)
    rows = [
        SimpleNamespace(
            namespace=each.namespace,
            name=each.name,
            description=each.description,
            changed=each.changed,
            build=about.get(each.build_id or 0),
            latest=about.get(newest.get(each.id, 0)),
        )
        for each in found.rows
    ]
    return page(
        request,
        "environments",
        environments=rows,
        namespaces=names,
        query={"q": q, "package": package, "namespace": namespace},
        paging=page_links(request, number, PAGE, found.count or 0),
        can_create=may_create(who),
        unfinished=any(each.latest is not None and each.latest.status in UNFINISHED for each in rows),
    )


@router.get(_ONE)
def show_environment(
    request: Request, who: Viewer, server: Here, namespace: str, name: str, q: Text = "",
    number: Annotated[PageNumber, Query(alias="page")] = 1,
) -> Response:  # fmt: skip
    """Show an environment: its packages, its history, how to use it."""
    with server.database.read() as tx:
        found = environment_for(tx, who, namespace, name)
        build = None if found.build_id is None else builds.find(tx, found.build_id)
        newest = builds.listed(tx, BuildQuery(Cut(1, descending=True), environment_id=found.id, deleted=False)).rows
        entries = environments.history(tx, found.id, limit=_HISTORY)
        usable = _usable(tx, entries)
        before = environments.previous(tx, found) if build is not None else None
        packages = [] if build is None else packages_of(tx, build, None)
    return page(
        request,
        "environment",
        environment=found,
        build=build,
        latest=newest[0] if newest else None,
        history=[_entry(each, found, usable) for each in entries],
        can_roll_back=before,
        may=_rights(who, namespace, name),
        path=_prefix(server, found),
        total=len(packages),
        q=q,
        **packages_page(request, packages, q, number),
    )


@router.get(_ONE + "/settings")
def show_settings(request: Request, who: Viewer, server: Here, namespace: str, name: str) -> Response:
    """Show what can be changed of an environment."""
    with server.database.read() as tx:
        found = environment_for(tx, who, namespace, name)
    return _settings_page(request, who, found)


def _settings_page(
    request: Request, who: Principal, found: Environment, error: CetoolError | None = None, **form: str
) -> Response:
    may = _rights(who, found.namespace, found.name)
    values = {"environment": found, "may": may, "error": error, "form": {"name": found.name, **form}}
    return page(request, "environment_settings", status=200 if error is None else 422, **values)


@router.post(_ONE + "/describe")
def describe(request: Request, who: Viewer, server: Here, namespace: str, name: str, form: Posted) -> Response:
    """Change the description."""
    text = form.text("description").strip()[:10_000]
    changing.describe(server, who, (namespace, name), text, version=form.number("version"))
    security.note(request, "environment.describe", f"{namespace}/{name}")
    return seen(request, place_of_environment(namespace, name), "described")


@router.post(_ONE + "/rename")
def rename(request: Request, who: Viewer, server: Here, namespace: str, name: str, form: Posted) -> Response:
    """Give the environment another name."""
    new = form.word("name")
    try:
        changing.rename(server, who, (namespace, name), new, version=form.number("version"))
    except CetoolError as error:
        if error.code not in ("conflict", "request-malformed"):
            raise
        with server.database.read() as tx:
            found = environment_for(tx, who, namespace, name)
        return _settings_page(request, who, found, error, name=new)
    security.note(request, "environment.rename", f"{namespace}/{name}", to=new)
    return seen(request, place_of_environment(namespace, new), "renamed")


@router.post(_ONE + "/use")
def use(request: Request, who: Viewer, server: Here, namespace: str, name: str, form: Posted) -> Response:
    """Let the environment point to another of its builds."""
    number = form.number("build") or 0
    changing.use(server, who, (namespace, name), number, version=form.number("version"))
    security.note(request, "environment.use", f"{namespace}/{name}", build=number)
    return seen(request, place_of_environment(namespace, name), "used", number)


@router.post(_ONE + "/rollback")
def roll_back(request: Request, who: Viewer, server: Here, namespace: str, name: str, form: Posted) -> Response:
    """Let the environment point to the build before."""
    found = changing.roll_back(server, who, (namespace, name), version=form.number("version"))
    security.note(request, "environment.rollback", f"{namespace}/{name}", build=found.build_id)
    return seen(request, place_of_environment(namespace, name), "rolled-back", found.build_id)


@router.get(_ONE + "/delete")
def ask_to_delete(request: Request, who: Viewer, server: Here, namespace: str, name: str) -> Response:
    """Ask before an environment is deleted, and say what that frees."""
    freed = changing.would_free(server, who, (namespace, name))
    full = f"{namespace}/{name}"
    return page(
        request,
        "confirm",
        question=f"Delete {full}?",
        sentences=[
            "The name, its history and its builds go away at once. Programs that run in the environment keep running "
            "until they end. Others cannot start in it any more.",
            "You cannot undo this. A new environment with the same specification may get newer packages.",
        ],
        facts=[("Frees", format_size(freed.bytes)), ("Builds", len(freed.builds))],
        trail=trail(namespace, name),
        answer="Delete the environment",
        back=place_of_environment(namespace, name),
    )


@router.post(_ONE + "/delete")
def delete(request: Request, who: Viewer, server: Here, namespace: str, name: str) -> Response:
    """Delete an environment."""
    freed = changing.delete(server, who, (namespace, name))
    security.note(request, "environment.delete", f"{namespace}/{name}", freed=freed.bytes)
    return seen(request, "/environments", "deleted", freed.bytes)


# --- for several pages ------------------------------------------------------------------------------------------------


def place_of_environment(namespace: str, name: str) -> str:
    """Return the path of an environment's page, without the server's prefix."""
    return f"/environments/{segment(namespace)}/{segment(name)}"


def trail(namespace: str, name: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the names and paths above an environment's pages."""
    return [
        ("Environments", ("/environments",)),
        (namespace, ("/namespaces", namespace)),
        (name, ("/environments", namespace, name)),
    ]


def visible_namespaces(tx: sa.Connection, who: Principal) -> list[str]:
    """Return the names of the namespaces that a principal may see."""
    query = NamespaceQuery(Cut(_CHOICES), reach(who, "namespace::read"))
    return [each.name for each in namespaces.listed(tx, query).rows]


def may_create(who: Principal) -> bool:
    """Return whether a principal may create environments anywhere."""
    return may_somewhere(who, "environment:create")


def may_somewhere(who: Principal, permission: str) -> bool:
    """Return whether a principal has a permission in any place."""
    found = reach(who, permission)
    return any(allows(who, permission, *place) for place in (*found.granted, *(found.scope or ())))


def packages_of(tx: sa.Connection, build: Build, platform: str | None) -> list[LockedPackage]:
    """Return the packages of a build on a platform; None for the one that the server has linked, or the first."""
    chosen = chosen_platform(build, platform)
    digest = next((each.lock for each in build.platforms if each.platform == chosen), None)
    return [] if digest is None else locks.packages(tx, digest)


def chosen_platform(build: Build, platform: str | None) -> str | None:
    """Return a build's platform of this name; else the one that the server has linked, or the first."""
    names = [each.platform for each in build.platforms]
    if platform in names:
        return platform
    return next((each.platform for each in build.platforms if each.realization), names[0] if names else None)


def packages_page(request: Request, packages: Sequence[LockedPackage], q: str, number: int) -> dict[str, Any]:
    """Return what the table of packages shows: those whose name contains a text, on one of several pages."""
    found = [each for each in packages if q.strip().lower() in each.name.lower()]
    start = (number - 1) * _PACKAGES
    return {
        "packages": found[start : start + _PACKAGES],
        "paging": page_links(request, number, _PACKAGES, len(found), "packages"),
    }


def _rights(who: Principal, namespace: str, name: str) -> SimpleNamespace:
    """Return what the page of an environment offers."""
    return SimpleNamespace(
        update=allows(who, "environment::update", namespace, name),
        delete=allows(who, "environment::delete", namespace, name),
    )


def _usable(tx: sa.Connection, entries: Sequence[Entry]) -> set[int]:
    """Return which builds in a history can be used again."""
    numbers = {each.build_id for each in entries if each.build_id is not None}
    found = (builds.find(tx, number) for number in numbers)
    return {each.id for each in found if each is not None and each.status == "COMPLETED" and each.deleted is None}


_SENTENCES = {
    "build": "Build {build} was completed",
    "upload": "Build {build} was uploaded",
    "use": "Chose build {build}",
    "rollback": "Rolled back to build {build}",
    "rename": "Renamed",
    "describe": "Changed the description",
}


def _entry(entry: Entry, found: Environment, usable: set[int]) -> SimpleNamespace:
    moves = entry.action in ("build", "upload", "use", "rollback")
    sentence = _SENTENCES[entry.action] if entry.build_id or not moves else "A build that is deleted now"
    current = moves and entry.build_id == found.build_id
    return SimpleNamespace(
        sentence=sentence.format(build=entry.build_id),
        note=entry.note or "",
        by=entry.by,
        at=entry.at,
        build_id=entry.build_id if moves else None,
        current=current,
        usable=moves and not current and entry.build_id in usable,
    )


def _prefix(server: Server, found: Environment) -> str:
    """Return the path of the environment on the server's disk; empty if it is not there."""
    path = server.files.link(found.namespace, found.name)
    return str(path) if path.is_dir() else ""

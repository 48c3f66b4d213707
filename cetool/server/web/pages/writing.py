"""Pages to create an environment and to edit its specification, with errors at their lines, and a check alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import sqlalchemy as sa
from fastapi import APIRouter, Request
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.base.text import counted
from cetool.declare.environment import EnvironmentSpec, Exact
from cetool.declare.platforms import PLATFORMS, current_platform
from cetool.server import submitting
from cetool.server.access import Principal, allows, matches, reach, refused
from cetool.server.data import answers, builds, summaries
from cetool.server.data.builds import Build, BuildQuery
from cetool.server.data.environments import Environment
from cetool.server.data.paging import Cut
from cetool.server.finding import build_for, environment_for
from cetool.server.server import Server
from cetool.server.submitting import Submission
from cetool.server.web import security
from cetool.server.web.pages.asking import Form, Here, Number, Posted, Text, Viewer
from cetool.server.web.pages.builds import KINDS
from cetool.server.web.pages.environments import may_create, trail, visible_namespaces
from cetool.server.web.pages.rendering import channel_name, page, seen, sentence

router = APIRouter(include_in_schema=False)
_EDIT = "/environments/{namespace}/{name}/edit"
#: The platforms that are offered; others by a request of the API.
_COMMON = ("linux-64", "linux-aarch64", "osx-arm64", "osx-64", "win-64")
#: Lines before and after the one with the problem.
_AROUND = 3
_START = """\
channels:
  - conda-forge
dependencies:
  - python
"""


@dataclass(frozen=True, slots=True)
class Draft:
    """What is in the form."""

    namespace: str
    name: str
    text: str
    kind: str = ""
    platforms: tuple[str, ...] = ()
    profile: str = "plain"
    description: str = ""
    filename: str = "<request>"
    #: Whether the environment exists, and its name cannot be changed.
    editing: bool = field(default=False, kw_only=True)


@router.get("/new")
def show_new(request: Request, who: Viewer, server: Here, namespace: Text = "") -> Response:
    """Show the form for a new environment."""
    if not may_create(who):
        raise refused(who, "environment:create")
    default = server.config.default_platforms or (current_platform(),)
    return _form_page(request, who, Draft(namespace or _own(who), "", _START, platforms=default))


@router.post("/new")
def create(request: Request, who: Viewer, server: Here, form: Posted) -> Response:
    """Create an environment, or check its specification."""
    draft = Draft(form.word("namespace"), form.word("name"), *_typed(form), description=form.word("description"))
    return _take(request, who, server, _with_file(draft, form), form)


@router.get(_EDIT)
def show_edit(
    request: Request, who: Viewer, server: Here, namespace: str, name: str, build: int | None = None
) -> Response:
    """Show the specification of a build of an environment, to be changed; of its current build, or its latest."""
    with server.database.read() as tx:
        found = environment_for(tx, who, namespace, name, "environment::update")
        start = _start_of(tx, found, build)
        text = _START if start is None else summaries.text_of(tx, start.specification_id).text
    platforms = (current_platform(),) if start is None else tuple(each.platform for each in start.platforms)
    profile = "plain" if start is None else start.profile
    draft = Draft(namespace, name, text, platforms=platforms, profile=profile, editing=True)
    return _form_page(request, who, draft)


def _start_of(tx: sa.Connection, found: Environment, number: int | None) -> Build | None:
    """Return the build to start from: this one if it is the environment's, else the current or latest one."""
    asked = None if number is None else builds.find(tx, number)
    if asked is not None and asked.environment_id == found.id:
        return asked
    if found.build_id is not None:
        return builds.find(tx, found.build_id)
    latest = builds.listed(tx, BuildQuery(Cut(1, descending=True), environment_id=found.id)).rows
    return next(iter(latest), None)


@router.post(_EDIT)
def edit(request: Request, who: Viewer, server: Here, namespace: str, name: str, form: Posted) -> Response:
    """Build a changed specification, or check it."""
    with server.database.read() as tx:
        environment_for(tx, who, namespace, name, "environment::update")
    draft = _with_file(Draft(namespace, name, *_typed(form), editing=True), form)
    return _take(request, who, server, draft, form)


@router.post("/builds/{build}/rebuild")
def rebuild(request: Request, who: Viewer, server: Here, build: Number) -> Response:
    """Solve and build the request of a build again."""
    security.note(request, "build.rebuild", f"build {build}")
    with server.database.read() as tx:
        build_for(tx, who, build, "environment::update")
    return seen(request, f"/builds/{submitting.rebuild(server, build, who)}")


# --- the form ---------------------------------------------------------------------------------------------------------


def _typed(form: Form) -> tuple[str, str, tuple[str, ...], str]:
    return form.text("text"), form.word("kind"), form.all("platforms"), form.word("profile") or "plain"


def _with_file(draft: Draft, form: Form) -> Draft:
    """Return the draft with the text of a file, if one was chosen."""
    file = form.file("file")
    return draft if file is None else replace(draft, filename=file[0], text=file[1])


def _take(request: Request, who: Principal, server: Server, draft: Draft, form: Form) -> Response:
    """Check or submit what a form has; show it again with what is wrong."""
    submission = Submission(
        draft.namespace,
        draft.name or None,
        draft.text,
        who,
        draft.kind or None,
        draft.platforms,
        draft.profile,
        # an empty description leaves that of an existing environment
        draft.description or None,
        "page",
        filename=draft.filename,
    )
    try:
        if not draft.name:
            raise CetoolError(
                "the environment has no name", code="request-malformed", about="name", hint="Enter a name."
            )
        if form.word("do") == "check":
            return _form_page(request, who, draft, checked=submitting.check(server, submission))
        done = submitting.submit(server, submission)
    except CetoolError as error:
        if error.code == "not-authenticated":
            raise
        return _form_page(request, who, draft, error=error)
    security.note(request, "environment.create", f"{draft.namespace}/{draft.name}", build=done.build_id)
    return seen(request, f"/builds/{done.build_id}", None if done.created else "exists")


def _form_page(
    request: Request,
    who: Principal,
    draft: Draft,
    *,
    error: CetoolError | None = None,
    checked: Mapping[str, EnvironmentSpec] | None = None,
) -> Response:
    server: Server = request.app.state.server
    with server.database.read() as tx:
        names = [each for each in visible_namespaces(tx, who) if _may_create_in(who, each)]
        shown = None if checked is None else _checked(tx, who, checked)
    if not draft.namespace and names:
        draft = replace(draft, namespace=names[0])
    line = None if error is None or error.where is None else error.where.line
    return page(
        request,
        "write",
        status=200 if error is None else 422,
        form=draft,
        editing=draft.editing,
        trail=trail(draft.namespace, draft.name) if draft.editing else [],
        error=None if error is None else _problem(error, line),
        excerpt=[] if line is None else _excerpt(draft.text, line),
        checked=shown,
        kinds=[("", "Recognize it"), *KINDS.items()],
        namespaces=list(dict.fromkeys([*names, *([_own(who)] if _own(who) else [])])),
        platforms=list(dict.fromkeys([*_COMMON, *(each for each in draft.platforms if each in PLATFORMS)])),
        profiles=list(server.config.profiles),
    )


def _problem(error: CetoolError, line: int | None) -> SimpleNamespace:
    where = f"Line {line}" if line is not None else ""
    message = error.message if where else sentence(error.message).removesuffix(".")
    return SimpleNamespace(where=where, message=message, hint=error.hint, line=line, details=error.details)


def _excerpt(text: str, line: int) -> list[tuple[int, str]]:
    """Return the lines around one, with their numbers."""
    lines = text.split("\n")
    first = max(1, line - _AROUND)
    return list(enumerate(lines[first - 1 : line + _AROUND], first))


def _checked(tx: sa.Connection, who: Principal, specs: Mapping[str, EnvironmentSpec]) -> list[tuple[str, str]]:
    """Return what cetool read for each platform, and whether there is a build of it."""
    return [(platform, _described(tx, who, platform, spec)) for platform, spec in specs.items()]


def _described(tx: sa.Connection, who: Principal, platform: str, spec: EnvironmentSpec) -> str:
    if isinstance(spec.what, Exact):
        conda, pypi = len(spec.what.conda), len(spec.what.pypi)
        text = f"{counted(conda, 'conda package')} and {counted(pypi, 'PyPI package')}, exactly"
    else:
        conda, pypi = len(spec.packages), len(spec.pypi)
        parts = [counted(conda, "conda package"), *([counted(pypi, "PyPI package")] if pypi else [])]
        text = f"requests {' and '.join(parts)} from {', '.join(map(channel_name, spec.channels)) or 'no channel'}"
    for each in answers.builds(tx, platform, spec.digest):
        if allows(who, "environment::read", each.namespace, each.environment or "*"):
            return f"{text}; build {each.build_id} has it already."
    return f"{text}."


def _own(who: Principal) -> str:
    return who.namespace if _may_create_in(who, who.namespace) else ""


def _may_create_in(who: Principal, namespace: str) -> bool:
    """Return whether a principal may create some environments in a namespace."""
    found = reach(who, "environment:create")
    places = [found.granted, *([] if found.scope is None else [found.scope])]
    return all(any(matches(mine, namespace) for mine, _ in each) for each in places)

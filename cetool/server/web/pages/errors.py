"""Errors as pages: what happened, what to do; and the page to sign in for those who have to."""

from __future__ import annotations

import contextlib

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from cetool.base.errors import CetoolError
from cetool.server.access import Principal
from cetool.server.data.schema import user
from cetool.server.server import Server
from cetool.server.web import security
from cetool.server.web.errors import headers_of, problem
from cetool.server.web.pages.rendering import ANONYMOUS, here, page, sentence
from cetool.server.web.urls import path

router = APIRouter(include_in_schema=False)

_TITLES = {
    400: "The request is malformed",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible",
    409: "This is not possible now",
    412: "It has changed in the meantime",
    413: "Too large",
    422: "This is not valid",
    429: "Too many requests",
    503: "The server is busy",
    507: "The disk is full",
}
_ENDED = "You are not signed in any more. Sign in, go back to the form in your browser, and send it again."
#: A browser sends no cookie when it follows a link on another site, but does when the page loads itself again.
_AGAIN = '<!doctype html><html lang="en"><title>cetool</title><meta http-equiv="refresh" content="0"></html>'


def on_error(request: Request, error: CetoolError, status: int) -> Response:
    """Answer with a page; to programs, which do not ask for HTML, with a problem."""
    if "text/html" not in request.headers.get("accept", ""):
        return problem(request, error, status)
    if status == 401:
        return _sign_in_first(request, error)
    _note_viewer(request)
    who: Principal = request.scope.get("cetool_principal") or ANONYMOUS
    title = _TITLES.get(status, "The request failed" if status < 500 else "Something is wrong with the server")
    answer = page(
        request,
        "error",
        status=status,
        title=title,
        sentence=sentence(error.message if error.where is None else f"{error.where}: {error.message}", who.name),
        hint=error.hint,
        code=error.code,
        section="",
        done="",
    )
    answer.headers.update(headers_of(error, status))
    return answer


def _note_viewer(request: Request) -> None:
    """Find out who asks, for the head of the page, where the route has not."""
    if "app" in request.scope:
        with contextlib.suppress(CetoolError):
            security.principal(request)


def _sign_in_first(request: Request, error: CetoolError) -> Response:
    if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
        return HTMLResponse(_AGAIN)
    query = request.scope.get("query_string", b"").decode("latin-1")
    following = here(request) + (f"?{query}" if query else "") if request.method == "GET" else "/"
    problem = "" if request.method == "GET" else _ENDED
    answer = _login_page(request, 401, problem, path(request, following))
    answer.headers.update(headers_of(error, 401))
    return answer


@router.get("/login/")
@router.get("/login")
def show_login(request: Request, next: str = "") -> Response:
    """Show the page to sign in; go on if that has been done."""
    target = security.own_path(request, next)
    if security.principal(request).authenticated:
        return RedirectResponse(target, 303)
    return _login_page(request, 200, "", target)


def login_page(request: Request, status: int, problem: str) -> Response:
    """Answer a login that failed."""
    return _login_page(request, status, problem, security.own_path(request, request.query_params.get("next")))


def _login_page(request: Request, status: int, problem: str, following: str) -> Response:
    server: Server = request.app.state.server
    with server.database.read() as tx:
        passwords = bool(server.config.users) or tx.scalar(sa.select(user.c.id).limit(1)) is not None
    action = path(request, "/login/", next=following)
    values = {"passwords": passwords, "problem": problem, "action": action, "section": ""}
    return page(request, "login", status=status, **values)

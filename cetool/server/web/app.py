"""The application: routers of all parts, errors in the form of each, and the gate in front of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from cetool import __version__
from cetool.base.errors import CetoolError
from cetool.server.config import ServerConfig
from cetool.server.server import Server
from cetool.server.web import conda_store, monitoring, native, pages, security
from cetool.server.web.errors import OnError, RequestError, defect, problem, status_of
from cetool.server.web.gate import Gate
from cetool.server.web.urls import place_of

#: The parts, in the order in which their routes are tried.
_PARTS: tuple[APIRouter, ...] = (native.router, conda_store.router, monitoring.router, security.router, pages.router)
#: How errors are written, by the start of the path.
_FORMS: Mapping[str, OnError] = {
    "/cetool/": native.on_error,
    "/api/": conda_store.on_error,
    "/": pages.on_error,
}
#: Paths whose routes end in a slash, and to which a request without it is redirected, as conda-store does.
_SLASHED = "/api/v"

#: Characters of a value that errors repeat.
_LONGEST_INPUT = 200


def create_app(server: Server) -> ASGIApp:
    """Return the ASGI application of a server."""
    app = FastAPI(title="cetool", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.server = server
    app.state.login_page = pages.login_page
    for router in _PARTS:
        app.include_router(router)
    app.router.redirect_slashes = False
    app.router.default = _slashed(app.router.routes)
    _handle(app)
    return Gate(_shared(security.Audit(app, server), server.config), server, on_error)


def _shared(app: ASGIApp, config: ServerConfig) -> ASGIApp:
    """Let the pages of the sites that the operator lists read the answers, with the user's cookie; no others."""
    if not config.allowed_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=config.allowed_origins,
        allow_credentials=True,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "If-Match", "If-None-Match", "Range", "Last-Event-ID"],
        expose_headers=["ETag", "Location", "Retry-After", "Content-Range", "X-Request-Id"],
    )


def on_error(request: Request, error: CetoolError, status: int) -> Response:
    """Answer with an error in the form of the part that the path belongs to."""
    path = place_of(request.scope)
    form = next((form for start, form in _FORMS.items() if path.startswith(start)), problem)
    return form(request, error, status)


def _handle(app: FastAPI) -> None:
    """Turn all that routes raise into the answers of their part."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, CetoolError)
        status = status_of(error)
        if status >= 500:
            server: Server = request.app.state.server
            server.journal.write("error", code=error.code, error=str(error), path=request.url.path)
        return on_error(request, error, status)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await known(request, _invalid(error))

    async def lost(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return await known(request, _lost(request, error))

    async def unknown(request: Request, error: Exception) -> Response:
        return on_error(request, defect(), 500)  # the gate logs the exception

    app.add_exception_handler(CetoolError, known)
    app.add_exception_handler(Exception, unknown)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, lost)


def _invalid(error: RequestValidationError) -> CetoolError:
    problems = [_plain(each) for each in error.errors()]
    first = problems[0] if problems else {"loc": (), "msg": "it is malformed"}
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    what = f"{place!r}" if place else "the body"
    return RequestError(f"{what} is invalid: {str(first['msg'])[:1].lower()}{str(first['msg'])[1:]}", problems)


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what pydantic says about a field in JSON's types, without what was sent if that is long."""
    plain = {name: value for name, value in found.items() if name in ("loc", "msg", "type", "input", "ctx")}
    if "ctx" in plain:
        plain["ctx"] = {name: str(value) for name, value in plain["ctx"].items()}
    given = plain.get("input")
    if not isinstance(given, (str, int, float, bool, list, dict, type(None))) or len(str(given)) > _LONGEST_INPUT:
        del plain["input"]
    return plain


def _lost(request: Request, error: HTTPException) -> CetoolError:
    path = place_of(request.scope)[:200]
    if error.status_code == 404:
        return CetoolError(f"there is nothing at {path!r}", code="not-found", about=path)
    if error.status_code == 405:
        lost = CetoolError(f"{path!r} does not support {request.method[:20]}", code="method-not-allowed", about=path)
        lost.allowed = ", ".join(_methods(request))  # type: ignore[attr-defined]
        return lost
    return RequestError(str(error.detail))


def _methods(request: Request) -> Iterator[str]:
    """Yield the methods that a path supports, whichever routes they have (RFC 9110, section 10.2.1)."""
    routes: list[BaseRoute] = request.app.router.routes
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        other = {**request.scope, "method": method}
        if any(route.matches(other)[0] is Match.FULL for route in routes):
            yield from ("GET", "HEAD") if method == "GET" else (method,)


def _slashed(routes: list[BaseRoute]) -> ASGIApp:
    """Return what handles paths without a route."""

    async def default(scope: Scope, receive: Receive, send: Send) -> None:
        path = place_of(scope)
        if path.startswith(_SLASHED) and not path.endswith("/"):
            other = {**scope, "path": f"{scope['path']}/"}
            if any(route.matches(other)[0] is not Match.NONE for route in routes):
                query = scope["query_string"].decode("latin-1")
                place = Request(other).url.path + (f"?{query}" if query else "")
                await Response(status_code=307, headers={"Location": place})(scope, receive, send)
                return
        raise HTTPException(404)

    return default

"""Authenticate requests, protect changes against other sites, log in and out, and write the audit table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cetool.base.errors import CetoolError
from cetool.server import access
from cetool.server.access import ANONYMOUS, Principal
from cetool.server.config import ServerConfig
from cetool.server.data import audit
from cetool.server.data.audit import Act
from cetool.server.login import Limiter, Login, Session
from cetool.server.server import Server

#: The cookie of a session; conda-store's clients need this name.
COOKIE = "conda-store-auth"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSED = frozenset({401, 403})
#: Bytes of a login.
_MOST = 20_000
#: Refused changes without a token that are recorded per address and minute.
_RECORDED = 30

router = APIRouter(include_in_schema=False)


# --- who sends a request ----------------------------------------------------------------------------------------------


def server_of(connection: HTTPConnection) -> Server:
    """Return the server that answers a request."""
    found: Server = connection.app.state.server
    return found


def address_of(connection: HTTPConnection) -> str:
    """Return the address that a request comes from; empty if it is unknown."""
    return connection.client.host if connection.client else ""


def login_of(connection: HTTPConnection) -> Login:
    """Return what authenticates requests."""
    return server_of(connection).login


def principal(request: Request) -> Principal:
    """Return who sends a request. Blocks for the database: call it in a thread, or as a dependency.

    Raises CetoolError ``not-allowed`` for a change that a page of another site asks for with the user's cookie.
    """
    known: Principal | None = request.scope.get("cetool_principal")
    if known is not None:
        return known
    header = request.headers.get("authorization")
    found, by_cookie = login_of(request).identify(header, request.cookies.get(COOKIE))
    basic = header is not None and header.strip().lower().startswith("basic")
    if request.method not in _SAFE and (by_cookie or basic or not found.authenticated):
        # what a browser sends by itself: the cookie, a password of the address bar, or nothing from a machine that may
        # ask without a token
        check_origin(request)
    request.scope["cetool_principal"] = found
    request.state.user = found.name
    return found


def known(request: Request) -> Principal:
    """Return who sends a request. Raises CetoolError (401) for a request without a token that has no rights."""
    found = principal(request)
    if not found.authenticated and not found.grants:
        raise access.refused(found, "this request")
    return found


async def _server(request: Request) -> Server:
    return server_of(request)  # in the event loop: a thread would cost more than this


#: The parameters of routes: the server, who asks, and the same for routes that need a right.
Here = Annotated[Server, Depends(_server)]
Known = Annotated[Principal, Depends(known)]
Who = Annotated[Principal, Depends(principal)]


def still_allowed(request: Request, found: Principal, permission: str, namespace: str, environment: str = "*") -> bool:
    """Return whether a permission is given now, for answers that take long: a token may have been revoked since.

    Blocks for the database, about 0.3 ms: at each heartbeat of a stream, and each megabyte of a file.
    """
    return access.allows(login_of(request).current(found), permission, namespace, environment)


# --- other sites ------------------------------------------------------------------------------------------------------


def check_origin(request: Request) -> None:
    """Raise CetoolError if a browser says that the page of another site sends a request.

    Browsers set Sec-Fetch-Site and Origin, pages cannot. Programs send neither; neither do old browsers, which the
    cookie's SameSite=strict protects.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in ("same-origin", "none") or (site is None and origin is None):
        return
    if origin is None or not (_is_own(request, origin) or _is_allowed(request, origin)):
        raise CetoolError(
            f"a page of another site ({(origin or site or '')[:200]}) asks for a change",
            code="not-allowed",
            about=origin,
            hint="Open the server's own pages. An operator can list other sites in `allowed-origins`.",
        )


def _is_own(request: Request, origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    if request.url.scheme == "https" and parts.scheme != "https":
        return False
    return _host(parts.scheme, parts.netloc) == _host(parts.scheme, request.headers.get("host", ""))


def _host(scheme: str, netloc: str) -> str:
    default = {"http": ":80", "https": ":443"}.get(scheme, "")
    return netloc.lower().removesuffix(default)


def _is_allowed(request: Request, origin: str) -> bool:
    config: ServerConfig = request.app.state.server.config
    return origin in config.allowed_origins


def own_path(request: Request, place: str | None) -> str:
    """Return where to go after a login or logout: a path of this server, or the address of an allowed site."""
    prefix = request.scope.get("root_path", "")
    home = f"{prefix}/"
    if not place or not place.isprintable() or not place.isascii() or "\\" in place:
        return home
    try:
        parts = urlsplit(place)
    except ValueError:
        return home
    if parts.scheme or parts.netloc:
        origin = f"{parts.scheme}://{parts.netloc}"
        if parts.scheme not in ("http", "https"):
            return home
        if _is_allowed(request, origin):
            return place
        if not _is_own(request, origin):
            return home
        place = parts._replace(scheme="", netloc="").geturl() or home
    return place if place.startswith(home) and not place.startswith("//") else home


# --- logging in and out -----------------------------------------------------------------------------------------------


@router.post("/login/")
@router.post("/login")
async def log_in(request: Request) -> Response:
    """Log in with JSON (conda-store's clients) or a form (pages): ``username`` and ``password``."""
    as_json = "json" in request.headers.get("content-type", "")
    given, following = await _fields(request, as_json)
    target = own_path(request, request.query_params.get("next") or following)
    address = address_of(request)
    try:
        check_origin(request)
        login = login_of(request)
        session = await run_in_threadpool(login.log_in, given["username"], given["password"], address)
    except CetoolError as error:
        return _failed(request, error, as_json)
    if as_json:
        answer: Response = JSONResponse({"status": "ok", "data": {"redirect_url": target}, "message": None})
    else:
        answer = RedirectResponse(target, 303)
    _set_cookie(request, answer, session)
    return answer


@router.post("/logout/")
@router.post("/logout")
async def log_out(request: Request) -> Response:
    """End the session of the cookie, and go to ``next``."""
    check_origin(request)
    answer = RedirectResponse(own_path(request, request.query_params.get("next")), 303)
    secret = request.cookies.get(COOKIE)
    if secret:
        await run_in_threadpool(login_of(request).log_out, secret, address_of(request))
    answer.delete_cookie(COOKIE, **_cookie(request))
    return answer


async def _fields(request: Request, as_json: bool) -> tuple[dict[str, str], str | None]:
    """Return user name and password, and where to go then. Raises CetoolError for a body that is neither."""
    body = await request.body()
    if len(body) > _MOST:
        raise CetoolError("the body of the login is too large", code="request-malformed")
    try:
        if as_json:
            document = json.loads(body)
        else:
            parsed = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=20)
            document = {name: values[-1] for name, values in parsed.items()}
        given = {name: document.get(name) or "" for name in ("username", "password")}
    except (ValueError, AttributeError, RecursionError):
        given = {"username": None, "password": None}
        document = {}
    if not all(isinstance(value, str) for value in given.values()):
        raise CetoolError(
            "the login is malformed",
            code="request-malformed",
            hint='Send JSON as in {"username": "ana", "password": "..."}, or a form with these fields.',
        )
    following = document.get("next")
    return {name: str(value) for name, value in given.items()}, following if isinstance(following, str) else None


def _failed(request: Request, error: CetoolError, as_json: bool) -> Response:
    limited = error.code == "rate-limited"
    status = 429 if limited else 403
    if not as_json and not limited and error.code != "not-allowed":
        raise error
    headers = {"Retry-After": str(max(1, round(getattr(error, "retry_after", 1))))} if limited else {}
    page = getattr(request.app.state, "login_page", None)
    if as_json or page is None:
        return JSONResponse({"status": "error", "message": str(error)}, status, headers)
    answer: Response = page(request, status, f"{str(error)[:1].upper()}{str(error)[1:]}. {error.hint or ''}".strip())
    answer.headers.update(headers)
    return answer


def _set_cookie(request: Request, answer: Response, session: Session) -> None:
    answer.set_cookie(COOKIE, session.secret, max_age=int(session.lifetime), **_cookie(request))


def _cookie(request: Request) -> dict[str, Any]:
    config: ServerConfig = request.app.state.server.config
    secure = config.behind_proxy or config.tls_cert is not None or request.url.scheme == "https"
    path = request.scope.get("root_path", "") or "/"
    return {"path": path, "httponly": True, "samesite": "strict", "secure": secure}


# --- the audit table --------------------------------------------------------------------------------------------------


def note(request: Request, action: str, about: str, **data: Any) -> None:
    """Say for the audit table what a request changes, better than its route does."""
    request.scope["cetool_act"] = (action, about, data)


class Audit:
    """Writes a row for each change, and each refused one, before its answer is sent."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._anonymous = Limiter(_RECORDED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _SAFE:
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                act = self._act(scope, message["status"])
                if act is not None:
                    await run_in_threadpool(self._write, act)
            await send(message)

        await self._app(scope, receive, sending)

    def _act(self, scope: Scope, status: int) -> Act | None:
        """Return what to write; None for a request that has changed nothing and was not refused."""
        route = scope.get("route")
        if route is None or getattr(route, "endpoint", None) in (log_in, log_out):  # these write their own
            return None
        if status >= 400 and status not in _REFUSED:
            return None
        found: Principal | None = scope.get("cetool_principal")
        client = scope.get("client")
        address = client[0] if client else None
        if status in _REFUSED and (found is None or not found.authenticated) and self._anonymous.take(address or ""):
            return None
        default: tuple[str, str, dict[str, Any]] = (
            f"{scope['method'].lower()} {getattr(route, 'path', '')}",
            scope["path"],
            {},
        )
        action, about, data = scope.get("cetool_act", default)
        refused = "refused " if status in _REFUSED else ""
        known: Mapping[str, Any] = {"status": status, **data}
        return Act(ANONYMOUS if found is None else found.name, f"{refused}{action}", about, known, address)

    def _write(self, act: Act) -> None:
        try:
            with self._server.database.write() as tx:
                audit.write(tx, act)
        except CetoolError as error:  # the change has been made: say so at least in the log
            self._server.journal.write("audit", who=act.who, action=act.action, object=act.object, problem=str(error))

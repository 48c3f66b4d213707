"""``/metrics`` for Prometheus, ``/health`` for what watches the server, and conda-store's ``/celery``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from cetool import __version__
from cetool.base.errors import CetoolError
from cetool.fetch.addresses import is_loopback
from cetool.server.metrics import exposition, problems, workers
from cetool.server.server import Server
from cetool.server.web.security import address_of, principal

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """Return the metrics."""
    _check_access(request)
    text, kind = exposition(request.app.state.server, request.headers.get("accept", ""))
    return Response(text, media_type=kind)


@router.get("/health", include_in_schema=False)
def health(request: Request) -> JSONResponse:
    """Return whether the server works; 503 with the reasons if it does not. For anyone, so it names no object."""
    server: Server = request.app.state.server
    found = list(problems(server))
    body = {"status": "failing" if found else "ok", "version": __version__, "problems": found}
    return JSONResponse(body, 503 if found else 200)


@router.get("/celery", include_in_schema=False)
def celery(request: Request) -> dict[str, Any]:
    """Return what the builders do, in conda-store's form."""
    _check_access(request)
    return workers(request.app.state.server)


def _check_access(request: Request) -> None:
    """Raise CetoolError unless the request comes from this machine or has a token."""
    config = request.app.state.server.config
    if config.public_metrics:
        return
    # behind a proxy, requests of other machines come from this one too
    if not config.behind_proxy and is_loopback(address_of(request)):
        return
    if not principal(request).authenticated:
        raise CetoolError(
            "metrics need a token",
            code="not-authenticated",
            hint="Send a token in the header `Authorization: Bearer TOKEN`, or set `public-metrics` on the server.",
        )

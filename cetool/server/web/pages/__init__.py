"""The web pages, at ``/``: HTML that works without JavaScript."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.server.web.pages import accounts, builds, environments, errors, namespaces, rights, writing
from cetool.server.web.pages.errors import login_page, on_error
from cetool.server.web.pages.rendering import STATIC, static_file

__all__ = ["login_page", "on_error", "router"]

router = APIRouter(include_in_schema=False)
for _part in (errors, writing, environments, builds, namespaces, rights, accounts):
    router.include_router(_part.router)


@router.get("/static/{name}")
def send_static(request: Request, name: str, v: str = "") -> Response:
    """Send a style sheet or script; browsers keep what was asked for by its digest."""
    kind = STATIC.get(name)
    if kind is None:
        raise CetoolError(f"there is no file {name[:100]!r}", code="not-found", about=name[:100])
    content, digest = static_file(name)
    kept = "public, max-age=31536000, immutable" if v == digest else "no-cache"
    etag = f'"{digest}"'
    headers = {"Cache-Control": kept, "ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)

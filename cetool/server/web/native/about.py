"""What the server is, and whether it works."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request

from cetool import __version__
from cetool.server.server import Server
from cetool.server.web.security import Who
from cetool.server.web.urls import path

router = APIRouter()


@router.get("/cetool/1")
def about(request: Request, who: Who) -> dict[str, Any]:
    """Return who this server is, the key that signs its answers, and the user or token of the request."""
    server: Server = request.app.state.server
    links = {name: path(request, f"/cetool/1/{name}") for name in ("environments", "builds", "openapi.json")}
    return {
        "server": server.id,
        "version": __version__,
        "key": {"id": server.signer.id, "public": base64.b64encode(server.signer.public).decode("ascii")},
        "user": who.name if who.authenticated else None,
        "links": links,
    }

"""Who the server is: what `cetool login` shows and pins."""

from __future__ import annotations

import base64

from fastapi import Request
from starlette.responses import Response

from cetool import __version__
from cetool.server.web import security
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import Api, Here, reply
from cetool.server.web.urls import path

router = Api(tags=["server"])
_LINKS = ("environments", "builds", "namespaces", "requests", "events", "openapi.json")


@router.on("GET /cetool/1", schemas.About, public=True)
def about(request: Request, server: Here) -> Response:
    """Return who the server is and the key that signs its answers; with a token also version, user and links."""
    principal = security.principal(request)
    document: schemas.About = {
        "server": server.id,
        "key": {"id": server.signer.id, "public": base64.b64encode(server.signer.public).decode("ascii")},
        "user": None,
    }
    if principal.authenticated:
        document["user"] = principal.name
        document["version"] = __version__
        document["namespace"] = principal.namespace
        document["links"] = {name: path(request, f"/cetool/1/{name}") for name in _LINKS}
    return reply(document)

"""The OpenAPI document of the native API, made when it is first asked for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from starlette.responses import Response
from starlette.routing import BaseRoute

from cetool import __version__
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import Known, reply

_ABOUT = """Environments that are built once and used everywhere.

Errors are problems (RFC 9457) with a stable `code`. Lists are pages with a cursor: repeat the request with
`cursor` = `next` until it is null. Times are RFC 3339 in UTC. Environments have an ETag: send it as `If-Match`
to change only what you have seen. Streams are server-sent events."""


def add_document(router: APIRouter) -> None:
    """Add the route of the document that describes all routes of the router."""
    described = list(router.routes)
    made: dict[str, dict[str, Any]] = {}

    @router.get("/cetool/1/openapi.json", include_in_schema=False)
    def openapi(request: Request, principal: Known) -> Response:
        """Return the OpenAPI document."""
        prefix = request.scope.get("root_path", "")
        if prefix not in made:
            made[prefix] = _document(described, prefix)
        return reply(made[prefix])


def _document(routes: list[BaseRoute], prefix: str) -> dict[str, Any]:
    found = get_openapi(title="cetool", version=__version__, description=_ABOUT, routes=routes)
    adapters = [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in schemas.ALL]
    _, defined = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    components = found.setdefault("components", {})
    own = {name: schema for name, schema in components.get("schemas", {}).items() if "ValidationError" not in name}
    components["schemas"] = {**own, **defined.get("$defs", {})}
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    if prefix:
        found["servers"] = [{"url": prefix}]
    return found

"""How the native API declares its routes: what each answers, with which statuses, for its OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from cetool.base.errors import CetoolError
from cetool.server.data.paging import Cut
from cetool.server.web.errors import PROBLEM
from cetool.server.web.security import Here, Known, known, server_of

__all__ = ["Api", "Body", "Here", "Known", "known", "server_of"]

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
#: Numbers that the database can store.
MOST = 2**63 - 1
#: Items of a page, unless the client asks for fewer or more.
PAGE, _LARGEST_PAGE = 100, 1000


Number = Annotated[int, Path(ge=1, le=MOST)]
Name = Annotated[str, Path(min_length=1, max_length=255)]
Limit = Annotated[int, Query(ge=1, le=_LARGEST_PAGE, description="The most items of the answer.")]
Cursor = Annotated[str | None, Query(max_length=2000, description="The `next` of the previous page.")]


def _part(limit: Limit = PAGE, cursor: Cursor = None) -> Cut:
    return Cut(limit, cursor)


Part = Annotated[Cut, Depends(_part)]


class Body(BaseModel):
    """The body of a request; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Api(APIRouter):
    """Declares routes."""

    def on(
        self,
        place: str,
        answer: type | str,
        *,
        status: int = 200,
        more: Mapping[int, type | str] | None = None,
        errors: Iterable[int] = (),
        public: bool = False,
    ) -> Callable[[_Endpoint], _Endpoint]:
        """Declare a route: ``GET /path``, a class of :mod:`schemas` or a media type, and other statuses.

        Every route but public ones can answer 401 and 403; every route can answer 400 and 422.
        """
        method, _, path = place.partition(" ")
        statuses = {400, 413, 421, 422, 503, *errors} | (set() if public else {401, 403})
        responses: dict[int | str, dict[str, Any]] = {each: _problem(each) for each in sorted(statuses)}
        for code, kind in {status: answer, **(more or {})}.items():
            responses[code] = _described(code, kind)

        def declare(endpoint: _Endpoint) -> _Endpoint:
            self.add_api_route(
                path,
                endpoint,
                methods=[method],
                status_code=status,
                response_model=None,
                responses=responses,
                openapi_extra=None if public else {"security": [{"token": []}]},
            )
            return endpoint

        return declare


def _described(code: int, kind: type | str) -> dict[str, Any]:
    phrase = HTTPStatus(code).phrase
    if isinstance(kind, type):
        return {"description": phrase, "content": {"application/json": {"schema": ref(kind)}}}
    if not kind:
        return {"description": phrase}
    schema: dict[str, Any] = {"type": "string"}
    if kind == "text/event-stream":  # the schema of an event
        texts = {name: {"type": "string"} for name in ("event", "data", "id")}
        schema = {"type": "object", "properties": texts}
    elif not kind.startswith("text/"):
        schema["format"] = "binary"
    return {"description": phrase, "content": {kind: {"schema": schema}}}


def _problem(code: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": HTTPStatus(code).phrase, "content": {PROBLEM: {"schema": schema}}}


def ref(kind: type) -> dict[str, str]:
    """Return the reference to the schema of a class."""
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def reply(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a JSON document."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(text, status, headers, "application/json")


def when(moment: float | None) -> str | None:
    """Return seconds since 1970 as RFC 3339 with milliseconds, UTC."""
    if moment is None:
        return None
    text = datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


# --- conditions (RFC 9110, section 13) --------------------------------------------------------------------------------


def unchanged(request: Request, etag: str) -> bool:
    """Return whether the client has this version already (If-None-Match)."""
    given = request.headers.get("if-none-match")
    return given is not None and _any(given, etag, weak=True)


def check_match(request: Request, etag: str, what: str) -> None:
    """Raise CetoolError (412) if the client wants to change another version (If-Match)."""
    given = request.headers.get("if-match")
    if given is not None and not _any(given, etag, weak=False):
        raise CetoolError(
            f"{what} has changed: it is now {etag}",
            code="precondition-failed",
            about=what,
            hint="Get it again, and repeat the change if it is still needed.",
        )


def _any(given: str, etag: str, *, weak: bool) -> bool:
    for each in given.split(","):
        each = each.strip()
        if weak:
            each = each.removeprefix("W/")
        if each in ("*", etag):
            return True
    return False

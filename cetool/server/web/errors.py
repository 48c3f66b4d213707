"""Errors as HTTP answers: problems (RFC 9457) for the native API, and each other part's own form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cetool.base.errors import CetoolError

PROBLEM = "application/problem+json"
#: The status of each code; those not listed are mistakes in what the client sent (422).
STATUSES = {
    "usage": 400,
    "request-malformed": 400,
    "not-authenticated": 401,
    "not-allowed": 403,
    "not-found": 404,
    "environment-not-found": 404,
    "method-not-allowed": 405,
    "request-late": 408,
    "conflict": 409,
    "environment-in-use": 409,
    "precondition-failed": 412,
    "too-large": 413,
    "range-invalid": 416,
    "host-refused": 421,
    "rate-limited": 429,
    "database-busy": 503,
    "disk-full": 507,
    # faults of the server, not of the request
    **dict.fromkeys(("failed", "defect", "cache-unusable", "cache-not-writable", "owner-unsafe"), 500),
    **dict.fromkeys(("file-lock-failed", "usage-log-unusable", "write-failed", "build-crashed"), 500),
    **dict.fromkeys(("database-damaged", "database-outdated", "database-newer", "server-key-unusable"), 500),
}
_RETRY_AFTER = {"database-busy": 1, "rate-limited": 10}
#: How a part of the server writes an error: the request, the error, and the status of its code.
OnError = Callable[[Request, CetoolError, int], Response]


class RequestError(CetoolError):
    """A request that does not match the API; ``problems`` has an entry for each field."""

    code = "request-malformed"

    def __init__(self, message: str, problems: Sequence[Mapping[str, Any]] = (), **fields: Any) -> None:
        super().__init__(message, **fields)
        self.problems = tuple(problems)


def status_of(error: CetoolError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, RequestError) and error.problems:
        return 422
    return STATUSES.get(error.code, 422)


def defect() -> CetoolError:
    """Return the error for an exception that nothing expected; the server's log has its traceback."""
    hint = "Ask the server's operator to report it with the server's log."
    return CetoolError("the server has a defect", code="defect", hint=hint)


def headers_of(error: CetoolError, status: int) -> dict[str, str]:
    """Return the headers that an answer with this error needs, whatever its form."""
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="cetool"'
    wait = getattr(error, "retry_after", None) or _RETRY_AFTER.get(error.code)
    if wait is not None:
        headers["Retry-After"] = str(max(1, round(wait)))
    allowed = getattr(error, "allowed", None)
    if allowed is not None:
        headers["Allow"] = allowed
    return headers


def problem_of(error: CetoolError, status: int, request_id: str | None = None) -> dict[str, Any]:
    """Return an error as a problem: RFC 9457's members, and ours (code, hint, about, where, details, errors)."""
    about = error.as_json()
    found: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "code": error.code,
        "hint": error.hint,
        "about": error.about,
        "where": about["where"],
        "details": list(error.details),
        "request_id": request_id,
    }
    if isinstance(error, RequestError) and error.problems:
        found["errors"] = [dict(each) for each in error.problems]
    return {name: value for name, value in found.items() if value not in (None, [])}


def problem(request: Request, error: CetoolError, status: int) -> Response:
    """Answer with an error as a problem."""
    document = problem_of(error, status, getattr(request.state, "request_id", None))
    text = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    return Response(text, status, headers_of(error, status), PROBLEM)

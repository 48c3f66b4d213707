"""Links: paths on this server, with the prefix that it is configured to have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import HTTPConnection


def path(request: HTTPConnection, place: str, **query: object) -> str:
    """Return the path of a place such as ``/cetool/1/builds/7``, whose names went through :func:`segment`.

    Values of ``query`` that are None are left out.
    """
    given = {name: str(value) for name, value in query.items() if value is not None}
    return f"{request.scope.get('root_path', '')}{place}" + (f"?{urlencode(given)}" if given else "")


def segment(name: str) -> str:
    """Return a name as one segment of a path."""
    return quote(name, safe="")


def place_of(scope: Mapping[str, Any]) -> str:
    """Return the path of a request without the server's prefix."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))

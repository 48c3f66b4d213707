"""The forms that conda-store's API has throughout: answers, errors, times, pages, and its clients' odd queries."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from cetool.base.errors import CetoolError
from cetool.server.access import Principal, allows
from cetool.server.web.errors import RequestError, headers_of
from cetool.server.web.security import Here, Who
from cetool.server.web.urls import place_of

__all__ = ["Here", "Who"]

#: The version of conda-store whose API this is.
VERSION = "2025.2.2"
#: The largest page, and the largest answer to a client that asks for no page: conda-store's own stops at the first.
PAGE_SIZE, ALL = 100, 10_000
#: The largest number of a row in SQLite.
LAST_ID = 2**63 - 1


def ok(data: Any, message: str | None = None, **more: Any) -> Response:
    """Return a successful answer."""
    return JSONResponse({"status": "ok", "data": data, "message": message, **more})


def ack(message: str | None = None) -> Response:
    """Return a successful answer without data."""
    return JSONResponse({"status": "ok", "message": message})


def moment(seconds: float | None) -> str | None:
    """Return a time as conda-store writes it: ISO 8601 in UTC, without a zone."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None).isoformat()


# --- errors -----------------------------------------------------------------------------------------------------------


def refusal(message: str, code: str = "request-malformed") -> CetoolError:
    """Return an error with a text of conda-store's."""
    return CetoolError(message, code=code)


def missing(message: str) -> CetoolError:
    """Return the error for an object that does not exist."""
    return CetoolError(message, code="not-found")


def on_error(request: Request, error: CetoolError, status: int) -> Response:
    """Answer with an error in conda-store's form; FastAPI's, for what does not match the API."""
    content: dict[str, Any]
    if isinstance(error, RequestError) and error.problems:
        content = {"detail": jsonable_encoder(error.problems)}
    elif error.code == "not-found" and error.about == place_of(request.scope)[:200]:
        content = {"detail": "Not Found"}
    else:
        # what its clients send is right or wrong: they know no 422 in this form
        status = 400 if status == 422 else 403 if status == 401 else status
        hint = f"\n{error.hint}" if error.hint else ""
        content = {"status": "error", "message": f"{error.message}{hint}"}
    return JSONResponse(content, status, headers_of(error, status))


def permit(who: Principal, permission: str, namespace: str, environment: str = "*") -> None:
    """Raise CetoolError unless the permission is given."""
    if not allows(who, permission, namespace, environment):
        why = f": {who.problem}" if who.problem else ""
        raise CetoolError(f"request not authorized{why}", code="not-allowed", about=permission)


# --- requests ---------------------------------------------------------------------------------------------------------

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A route that ignores the slash which conda-store's clients append to a query: ``?status=COMPLETED/``."""

    def get_route_handler(self) -> _Handler:
        """Return the handler."""
        handler = super().get_route_handler()

        async def without_slash(request: Request) -> Response:
            query: bytes = request.scope["query_string"]
            for slash in (b"/", b"%2F", b"%2f"):
                if query.endswith(slash):
                    request.scope["query_string"] = query[: -len(slash)]
                    break
            return await handler(request)

        return without_slash


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page of a list is wanted."""

    number: int
    size: int
    descending: bool
    sort_by: tuple[str, ...]

    def answer(self, rows: Sequence[Any], count: int) -> Response:
        """Return the page as an answer."""
        return ok(rows, page=self.number, size=self.size, count=count)

    def fetch(
        self, tx: sa.Connection, query: sa.Select[Any], columns: Mapping[str, sa.ColumnElement[Any]], unique: Any
    ) -> tuple[Sequence[Any], int]:
        """Return the rows of this page, and how many there are on all pages.

        ``columns`` can be sorted by; without a wish, all of them are, in this order. ``unique`` decides between equals.
        """
        wanted = [columns[name] for name in self.sort_by if name in columns] or list(columns.values())
        order = [each.desc() if self.descending else each.asc() for each in (*wanted, unique)]
        count = tx.scalar(counted(query)) or 0
        rows = tx.execute(query.order_by(*order).limit(self.size).offset(self.size * (self.number - 1))).all()
        return rows, count


def counted(query: sa.Select[Any]) -> sa.Select[Any]:
    """Return the query for the number of rows of a query."""
    if query._distinct or query._group_by_clauses:
        return sa.select(sa.func.count()).select_from(query.subquery())
    # without columns, the database leaves out the tables that only they need
    return query.with_only_columns(sa.func.count(), maintain_column_froms=True)


async def _paging(
    page: Annotated[int | None, Query(ge=1, le=2**31)] = None,
    order: str | None = None,
    size: Annotated[int | None, Query(ge=1)] = None,
    sort_by: Annotated[list[str], Query()] = [],  # noqa: B006
) -> Paging:
    most = ALL if page is None else PAGE_SIZE
    return Paging(page or 1, most if size is None else min(size, most), order == "desc", tuple(sort_by))


#: A parameter of handlers.
Pages = Annotated[Paging, Depends(_paging)]


def deprecated(response: Response) -> Response:
    """Add the headers of routes that conda-store deprecates."""
    response.headers["Deprecation"] = "True"
    response.headers["Sunset"] = "Mon, 17 Mar 2025 00:00:00 UTC"
    return response

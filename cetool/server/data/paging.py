"""Cut lists into pages: by a cursor, which stays right while rows are added, or by the number of the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from cetool.base.codec import canonical_json
from cetool.base.errors import CetoolError
from cetool.base.limits import parse_json
from cetool.base.text import shorten

T = TypeVar("T")
#: The largest number that SQLite compares as an integer.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list."""

    rows: tuple[T, ...]
    #: The cursor of the next page; None at the end.
    next: str | None = None
    #: The rows on all pages; None if the query does not count.
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Which rows of a list to return."""

    limit: int = 100
    #: The cursor of the page before.
    after: str | None = None
    #: Counts from 1; only without a cursor.
    page: int = 1
    descending: bool = False
    count: bool = False


def cursor(*values: object) -> str:
    """Return the cursor for the values of the last row."""
    return base64.urlsafe_b64encode(canonical_json(list(values)).encode()).decode("ascii").rstrip("=")


def opened(text: str, *kinds: type) -> list[Any]:
    """Return the values in a cursor. Raises CetoolError with the code ``request-malformed``."""
    try:
        values = parse_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if [type(each) for each in values] != list(kinds):
            raise ValueError
        if any(type(each) is int and abs(each) > _LARGEST for each in values):
            raise ValueError
    except (ValueError, TypeError):
        raise CetoolError(
            f"{shorten(text, 60)!r} is not a cursor",
            code="request-malformed",
            about="cursor",
            hint="Use the `next` of the page before.",
        ) from None
    return list(values)


def cut(query: sa.Select[Any], keys: tuple[sa.ColumnElement[Any], ...], how: Cut, kinds: tuple[type, ...]) -> Any:
    """Return the query for one page and one more row, which shows whether there is a next page.

    ``keys`` are the columns of the order, together unique, and ``kinds`` their types.
    """
    if how.after is not None:
        last = sa.tuple_(*(sa.literal(each) for each in opened(how.after, *kinds)))
        row = sa.tuple_(*keys)
        query = query.where(row < last if how.descending else row > last)
    elif how.page > 1:
        query = query.offset(min((how.page - 1) * how.limit, _LARGEST))
    return query.order_by(*(key.desc() if how.descending else key.asc() for key in keys)).limit(max(0, how.limit) + 1)

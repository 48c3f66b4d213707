"""Turn what a principal may see into a condition of a query, so that lists are filtered in the database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from cetool.server.access import Reach
from cetool.server.data.database import matches


def visible(
    reach: Reach, namespace: sa.ColumnElement[Any], environment: sa.ColumnElement[Any] | None = None
) -> sa.ColumnElement[bool]:
    """Return the condition that an environment is within reach.

    ``environment`` is None for queries of namespaces. Rows whose name is NULL, such as builds without an environment,
    are within reach of grants on all of the namespace.
    """
    if reach.everything:
        return sa.true()
    granted = _any(reach.granted, namespace, environment)
    return granted if reach.scope is None else sa.and_(granted, _any(reach.scope, namespace, environment))


def _any(
    places: Iterable[tuple[str, str]], namespace: sa.ColumnElement[Any], environment: sa.ColumnElement[Any] | None
) -> sa.ColumnElement[bool]:
    each: list[sa.ColumnElement[bool]] = []
    # exact names in one IN, which an index answers
    whole = [mine for mine, its in places if "*" not in mine and (its == "*" or environment is None)]
    if whole:
        each.append(namespace.in_(sorted(set(whole))))
    for mine, its in places:
        if mine in whole and (its == "*" or environment is None):
            continue
        parts = [matches(namespace, mine)] if mine != "*" else []
        if environment is not None and its != "*":
            parts.append(matches(environment, its))
        each.append(sa.and_(sa.true(), *parts))
    return sa.or_(sa.false(), *each)

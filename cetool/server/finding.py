"""Find what a request names, as far as the principal may see it: what is hidden does not exist."""

from __future__ import annotations

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.base.text import shorten
from cetool.server.access import Principal, allows, require
from cetool.server.data import builds, environments, namespaces
from cetool.server.data.builds import Build
from cetool.server.data.environments import Environment
from cetool.server.data.namespaces import Namespace

_READ = "environment::read"


def build_for(tx: sa.Connection, who: Principal, number: int, permission: str = _READ) -> Build:
    """Return a build. Raises CetoolError: ``not-found`` also if it is hidden, ``not-allowed`` for other rights."""
    found = builds.find(tx, number)
    if found is None or not allows(who, _READ, found.namespace, found.name or "*"):
        raise CetoolError(f"there is no build {number}", code="not-found", about=str(number))
    require(who, permission, found.namespace, found.name or "*")
    return found


def environment_for(tx: sa.Connection, who: Principal, space: str, name: str, permission: str = _READ) -> Environment:
    """Return an environment. Raises CetoolError as :func:`build_for`."""
    found = environments.find(tx, space, name)
    if found is None or not allows(who, _READ, space, name):
        about = shorten(f"{space}/{name}", 200)
        raise CetoolError(f"there is no environment {about}", code="not-found", about=about)
    require(who, permission, space, name)
    return found


def namespace_for(tx: sa.Connection, who: Principal, name: str, permission: str = "namespace::read") -> Namespace:
    """Return a namespace. Raises CetoolError as :func:`build_for`."""
    found = namespaces.find(tx, name)
    if found is None or not allows(who, "namespace::read", name):
        about = shorten(name, 200)
        raise CetoolError(f"there is no namespace {about}", code="not-found", about=about)
    require(who, permission, name)
    return found

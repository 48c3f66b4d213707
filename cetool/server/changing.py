"""Change environments and builds, for every API: right, transaction, link in the file system, those who wait.

Every function raises CetoolError: ``not-found`` (also for what the principal may not see), ``not-allowed``,
``conflict``, and ``precondition-failed`` if ``version`` is given and is not the environment's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.server.access import Principal, allows, require
from cetool.server.collecting import gave_up, measured
from cetool.server.data import accounts, builds, environments, namespaces
from cetool.server.data.builds import Build
from cetool.server.data.ending import Freed
from cetool.server.data.environments import Environment, Move
from cetool.server.finding import build_for, environment_for, namespace_for
from cetool.server.server import Server

_UPDATE, _DELETE = "environment::update", "environment::delete"
#: The namespace and name of an environment.
Place = tuple[str, str]


def use(
    server: Server, who: Principal, place: Place, number: int, *, note: str | None = None, version: int | None = None
) -> Environment:
    """Let an environment point to one of its completed builds."""
    with _changing(server, who, place, _UPDATE, version) as tx:
        return environments.use(tx, *place, Move(number, "use", who.name, note))


def roll_back(server: Server, who: Principal, place: Place, *, version: int | None = None) -> Environment:
    """Let an environment point to the build before its current one."""
    with _changing(server, who, place, _UPDATE, version) as tx:
        return environments.rollback(tx, *place, by=who.name)


def describe(
    server: Server, who: Principal, place: Place, description: str, *, version: int | None = None
) -> Environment:
    """Change the description of an environment."""
    with _changing(server, who, place, _UPDATE, version) as tx:
        return environments.describe(tx, *place, description, by=who.name)


def rename(server: Server, who: Principal, place: Place, new: str, *, version: int | None = None) -> Environment:
    """Give an environment another name in its namespace; the right to delete is needed, since a name goes away."""
    with _changing(server, who, place, _DELETE, version) as tx:
        require(who, "environment:create", place[0], new)
        found = environments.rename(tx, *place, new, by=who.name)
    _follow(server, (place[0], new))
    return found


def delete(server: Server, who: Principal, place: Place, *, version: int | None = None) -> Freed:
    """Delete an environment with its builds, of which those that run are canceled."""
    with _changing(server, who, place, _DELETE, version) as tx:
        freed = environments.delete(tx, *place, by=who.name)
    _ended(server, freed.builds)
    return gave_up(server, freed)


def would_free(server: Server, who: Principal, place: Place) -> Freed:
    """Return what the deletion of an environment would give up, by a deletion that is undone."""
    with server.database.write() as tx:
        environment_for(tx, who, *place, _DELETE)
        trial = tx.begin_nested()
        try:
            found = environments.delete(tx, *place, by=who.name)
        finally:
            trial.rollback()
    return measured(server, found)


def would_free_build(server: Server, who: Principal, number: int) -> Freed:
    """Return what the deletion of a build would give up, as :func:`would_free`."""
    with server.database.write() as tx:
        build_for(tx, who, number, "build::delete")
        trial = tx.begin_nested()
        try:
            found = builds.delete(tx, number, who.name, force=True)
        finally:
            trial.rollback()
    return measured(server, found)


def cancel_build(server: Server, who: Principal, number: int) -> Build:
    """Cancel a build; one that has ended stays unchanged. Who asked for a build may cancel it, like editors."""
    with server.database.write() as tx:
        found = build_for(tx, who, number)
        if not is_own(who, found):
            build_for(tx, who, number, "build::cancel")
        builds.cancel(tx, number, who.name)
        found = builds.get(tx, number)
    _ended(server, (number,))
    return found


def is_own(who: Principal, found: Build) -> bool:
    """Return whether a principal asked for a build, and still may."""
    place = (found.namespace, found.name or "*")
    return who.authenticated and found.by == who.name and allows(who, "environment:create", *place)


def delete_build(server: Server, who: Principal, number: int, *, force: bool = False) -> Freed:
    """Delete a build in any state; an environment's current build only with ``force``."""
    with server.database.write() as tx:
        found = build_for(tx, who, number, "build::delete")
        freed = builds.delete(tx, number, who.name, force=force)
    if found.name is not None:
        _follow(server, (found.namespace, found.name))
    _ended(server, freed.builds)
    return gave_up(server, freed)


def delete_namespace(server: Server, who: Principal, name: str) -> Freed:
    """Delete a namespace with its environments, builds, settings and grants."""
    with server.database.write() as tx:
        found = namespace_for(tx, who, name, "namespace::delete")
        freed = namespaces.delete(tx, found.name, by=who.name)
        accounts.forget_namespace(tx, found.name)
    with suppress(CetoolError):  # builders try again
        server.files.repair(server.database)
    _ended(server, freed.builds)
    return gave_up(server, freed)


@contextmanager
def _changing(
    server: Server, who: Principal, place: Place, permission: str, version: int | None
) -> Iterator[sa.Connection]:
    """Give a transaction that changes an environment; after it, update the link and wake those who wait."""
    with server.database.write() as tx:
        environments.check_version(environment_for(tx, who, *place, permission), version)
        yield tx
    _follow(server, place)


def _follow(server: Server, place: Place) -> None:
    """Let the link in the file system point to what the database says, and wake those who follow events."""
    server.files.follow(server.database, *place)
    server.news.publish("events")


def _ended(server: Server, numbers: tuple[int, ...]) -> None:
    """End the processes of builds that were canceled, and wake those who follow them."""
    for number in numbers:
        if server.dispatcher is not None:
            server.dispatcher.cancel(number)
        server.news.publish(f"build:{number}")
    server.news.publish("events")

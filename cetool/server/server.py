"""The server as its parts see it: configuration, database, key, files, world, dispatcher and news."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Protocol

import sqlalchemy as sa

from cetool.app.world import World, prepare, world_in
from cetool.declare.environment import EnvironmentSpec
from cetool.lock.model import PlatformLock
from cetool.remote.records import BuildRecord, opened, sealed
from cetool.server.config import ServerConfig
from cetool.server.counts import Counts
from cetool.server.data import namespaces
from cetool.server.data.audit import OPERATOR
from cetool.server.data.database import Database
from cetool.server.data.directory import hints_for_operators
from cetool.server.data.schema import meta
from cetool.server.data.upgrading import open_current
from cetool.server.files import Files
from cetool.server.journal import Journal
from cetool.server.login import Login
from cetool.server.news import News
from cetool.server.signing import Signer, open_signer


class Dispatcher(Protocol):
    """What gets queued builds done."""

    def start(self) -> None:
        """Begin to take builds from the queue."""

    def wake(self) -> None:
        """Look at the queue now: a build was added."""

    def stop(self, timeout: float) -> None:
        """Take no more builds, end those that run within ``timeout`` seconds, and return them to the queue."""

    def cancel(self, build_id: int) -> None:
        """End the process of a build that was canceled, if it runs here."""

    def ended(self) -> int:
        """Return how many builders have ended although the server runs."""


class Collector(Protocol):
    """What removes what no build needs."""

    def wake(self) -> None:
        """Collect soon: something was deleted."""


@dataclass(slots=True)
class Server:
    """One server. Parts read it; only :mod:`cetool.server.serving` sets ``dispatcher`` and ``collector``."""

    config: ServerConfig
    database: Database
    signer: Signer
    files: Files
    #: Its store is the data directory.
    world: World
    login: Login
    #: The server's id, which does not change.
    id: str
    journal: Journal
    news: News = field(default_factory=News)
    counts: Counts = field(default_factory=Counts)
    dispatcher: Dispatcher | None = None
    collector: Collector | None = None

    def close(self) -> None:
        """Write what is left to write, and close the database."""
        self.login.close()
        self.database.close()

    def answer_record(
        self, spec: EnvironmentSpec, lock: PlatformLock, *, build: int, environment: str | None, engine: str
    ) -> str:
        """Return the signed record of a build's answer for one platform, as an envelope (JSON)."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = BuildRecord(
            request=spec.digest,
            platform=lock.platform,
            build=build,
            spec=spec.redacted(),
            conda=lock.conda,
            pypi=lock.pypi,
            environment=environment,
            requires=required(lock),
            engine=engine,
            created=now,
            server=self.id,
        )
        return sealed(record, self.signer.public, self.signer.sign)

    def answer_of(self, record: str, lock: PlatformLock, *, build: int, environment: str | None) -> str:
        """Return an answer in the name of another build of its request, with the packages of that build.

        A user who may read that build may not know of the one that answers, nor get packages through it.
        """
        found = opened(record, self.signer.public)
        other = found._replace(
            build=build, environment=environment, conda=lock.conda, pypi=lock.pypi, requires=required(lock)
        )
        return record if other == found else sealed(other, self.signer.public, self.signer.sign)


def required(lock: PlatformLock) -> tuple[str, ...]:
    """Return the virtual packages, as match specs, that packages of a lock depend on."""
    return tuple(sorted({spec for package in lock.conda for spec in package.depends if spec.startswith("__")}))


def open_server(config: ServerConfig, journal: Journal) -> Server:
    """Open a server's database, key and files. Raises CetoolError; :meth:`Server.close` closes them."""
    world = world_of(config)
    with hints_for_operators():
        prepare(world.paths)
    signer = open_signer(config.data)
    database, upgraded = open_current(config.database, wait=config.database_wait)
    if upgraded is not None:
        journal.write("upgraded", before=upgraded.before, after=upgraded.after, backup=str(upgraded.backup))
    try:
        identity = _identity(database, config)
        login = Login(database, config)
    except BaseException:
        database.close()
        raise
    return Server(config, database, signer, Files(config.data, world.store), world, login, identity, journal)


def world_of(config: ServerConfig) -> World:
    """Return the world whose store is the data directory."""
    return world_in(config.data)


def _identity(database: Database, config: ServerConfig) -> str:
    """Return the server's id, which its first start made up, together with the default namespace."""
    with database.read() as tx:
        found = tx.scalar(_IDENTITY)
    if found is None:
        with database.write() as tx:
            tx.execute(meta.insert().prefix_with("OR IGNORE"), {"key": "id", "value": secrets.token_hex(8)})
            namespaces.ensure(tx, config.default_namespace, by=OPERATOR)
            found = tx.scalar(_IDENTITY)
    return str(found)


_IDENTITY = sa.select(meta.c.value).where(meta.c.key == "id")

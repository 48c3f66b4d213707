"""``cetool server check``: compare the database with itself, with the signing key, and with the files.

Nothing is changed, and the server may run meanwhile: each check reads one state of the database, and what a file
lacks is looked up in the database again before it is reported.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cetool.base.codec import decode
from cetool.base.errors import CetoolError
from cetool.base.text import counted
from cetool.lock.model import PlatformLock
from cetool.packages.hashing import digest_of
from cetool.remote.records import BuildRecord, opened
from cetool.server.collecting import archives_below
from cetool.server.config import ServerConfig
from cetool.server.data.database import Database
from cetool.server.data.schema import (
    answer,
    build,
    build_platform,
    environment,
    lock,
    namespace,
    realization,
    watch_file,
)
from cetool.server.signing import KEY_FILE, open_signer
from cetool.store.store import Store, valid_marker, what_is_lost

#: Rows that are read at once.
_ROWS = 500
#: Files of the data directory that only the server's user may read.
_PRIVATE = (KEY_FILE, "server.sqlite3", "server.sqlite3-wal", "server.sqlite3-shm")

#: Called with what is checked now, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong."""

    #: What it is about: database, file, build, environment, realization, lock, answer, link, archive.
    kind: str
    #: The object: a path, a build's number, ``namespace/name``.
    about: str
    #: What is wrong, as an error's message.
    message: str
    #: What to do, in full sentences.
    hint: str


@dataclass(frozen=True, slots=True)
class Checks:
    """What is checked, and how."""

    config: ServerConfig
    database: Database
    store: Store
    progress: Progress

    def problems(self) -> Iterator[Problem]:
        """Yield all problems."""
        yield from self._files()
        yield from self._database()
        yield from self._builds()
        yield from self._environments()
        yield from self._locks()
        yield from self._realizations()
        yield from self._answers()
        yield from self._archives()

    def _pages(self, query: sa.Select[Any], what: str) -> Iterator[Any]:
        """Yield the rows of a query, read in pages, each in a transaction of its own."""
        with self.database.read() as tx:
            total = tx.scalar(sa.select(sa.func.count()).select_from(query.order_by(None).subquery())) or 0
        done = 0
        while True:
            with self.database.read() as tx:
                rows = tx.execute(query.limit(_ROWS).offset(done)).all()
            for row in rows:
                self.progress(what, done, total)
                done += 1
                yield row
            if len(rows) < _ROWS:
                return

    # --- files and the database ---------------------------------------------------------------------------------------

    def _files(self) -> Iterator[Problem]:
        data = self.config.data
        yield from _open_to_others(data)
        for name in _PRIVATE:
            yield from _open_to_others(data / name)
        try:
            open_signer(data)
        except CetoolError as error:
            yield Problem("file", str(data / KEY_FILE), error.message, error.hint or "")

    def _database(self) -> Iterator[Problem]:
        path = str(self.database.path)
        hint = "Restore a backup into a new data directory with `cetool server restore`."
        self.progress("the database", 0, 1)
        with self.database.read() as tx:
            for (text,) in tx.exec_driver_sql("PRAGMA integrity_check(20)"):
                if text != "ok":
                    yield Problem("database", path, f"the database is damaged: {text}", hint)
            for table, row, target, _ in tx.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(20):
                message = f"row {row} of the table {table} refers to a row of {target} that does not exist"
                yield Problem("database", path, message, hint)

    # --- invariants ---------------------------------------------------------------------------------------------------

    def _builds(self) -> Iterator[Problem]:
        """A COMPLETED build has platforms, each with a lock, and one for this machine is on disk."""
        platform = build_platform.alias()
        query = (
            sa.select(build.c.id, platform.c.platform, platform.c.lock)
            .outerjoin(platform, platform.c.build_id == build.c.id)
            .where(build.c.status == "COMPLETED", build.c.deleted.is_(None))
            .where(sa.or_(platform.c.lock.is_(None), platform.c.build_id.is_(None)))
            .order_by(build.c.id)
        )
        for number, name, _ in self._pages(query, "builds"):
            what = f"no lock for {name}" if name else "no platform"
            hint = f"Request it again with `cetool env create --refresh`, or delete build {number}."
            yield Problem("build", str(number), f"build {number} is COMPLETED, but has {what}", hint)

    def _environments(self) -> Iterator[Problem]:
        """An environment points to a build that is COMPLETED and not deleted, and its link to the realization."""
        query = (
            sa.select(
                namespace.c.name,
                environment.c.name,
                environment.c.build_id,
                build.c.status,
                build.c.deleted,
                realization.c.name,
            )
            .join(namespace, namespace.c.id == environment.c.namespace_id)
            .outerjoin(build, build.c.id == environment.c.build_id)
            .outerjoin(
                build_platform,
                sa.and_(build_platform.c.build_id == build.c.id, build_platform.c.realization.is_not(None)),
            )
            .outerjoin(realization, realization.c.name == build_platform.c.realization)
            .order_by(environment.c.id)
        )
        links = self.config.data / "names"
        wanted = set()
        for in_namespace, name, number, status, deleted, prefix in self._pages(query, "environments"):
            full = f"{in_namespace}/{name}"
            hint = f"Choose another build with `cetool env use {full}@BUILD`."
            if number is not None and status != "COMPLETED":
                yield Problem("environment", full, f"{full} points to build {number}, which is {status}", hint)
            elif number is not None and deleted is not None:
                yield Problem("environment", full, f"{full} points to build {number}, which was deleted", hint)
            elif prefix is not None:
                wanted.add(links / in_namespace / name)
                yield from self._link(links / in_namespace / name, self.store.paths.envs / prefix, full)
        yield from self._stray_links(links, wanted)

    def _link(self, link: Path, prefix: Path, full: str) -> Iterator[Problem]:
        hint = "Restart the server, which repairs its links."
        if not os.path.lexists(link):
            yield Problem("link", str(link), f"the link of {full} is missing", hint)
        elif os.path.realpath(link) != os.path.realpath(prefix):
            yield Problem(
                "link", str(link), f"the link of {full} leads to {os.path.realpath(link)}, not {prefix}", hint
            )

    def _stray_links(self, links: Path, wanted: set[Path]) -> Iterator[Problem]:
        for directory, _, _ in os.walk(links):
            for entry in os.scandir(directory):
                if entry.is_symlink() and Path(entry.path) not in wanted and not self._is_named(Path(entry.path)):
                    message = f"{entry.path} is the link of an environment that does not exist"
                    yield Problem("link", entry.path, message, "Restart the server, which repairs its links.")

    def _is_named(self, link: Path) -> bool:
        """Return whether an environment of a link exists now: it may have been created meanwhile."""
        found = sa.select(environment.c.id).join(namespace, namespace.c.id == environment.c.namespace_id)
        with self.database.read() as tx:
            where = (namespace.c.name == link.parent.name, environment.c.name == link.name)
            return tx.scalar(found.where(*where, environment.c.build_id.is_not(None))) is not None

    def _locks(self) -> Iterator[Problem]:
        """The key of a lock is the digest of its packages."""
        query = sa.select(lock.c.digest, lock.c.content, lock.c.packages).order_by(lock.c.digest)
        for digest, content, count in self._pages(query, "locks"):
            try:
                found = decode(PlatformLock, content)
            except (ValueError, KeyError, TypeError) as error:
                problem = f"lock {digest[:12]} cannot be read: {error}"
            else:
                if found.digest == digest and len(found.conda) + len(found.pypi) == count:
                    continue
                problem = f"lock {digest[:12]} does not have the packages of its digest"
            yield Problem("lock", digest, problem, "Restore a backup with `cetool server restore`.")

    def _realizations(self) -> Iterator[Problem]:
        """Each realization is a complete environment on disk."""
        query = sa.select(realization.c.name).order_by(realization.c.name)
        for (name,) in self._pages(query, "environments on disk"):
            prefix = self.store.prefix(name)
            marker = valid_marker(prefix)
            lost = "it has no marker" if marker is None else what_is_lost(prefix, marker)
            if lost is None or not self._is_realized(name):
                continue
            hint = (
                "Delete it with `cetool server gc`, and rebuild what needs it."
                if marker is None
                else ("Rebuild the environments that need it with `cetool env create --refresh`.")
            )
            yield Problem("realization", name, f"the environment {prefix} is incomplete: {lost}", hint)

    def _is_realized(self, name: str) -> bool:
        """Return whether the database still has a realization: a collection may have removed it meanwhile."""
        with self.database.read() as tx:
            return tx.scalar(sa.select(realization.c.name).where(realization.c.name == name)) is not None

    def _answers(self) -> Iterator[Problem]:
        """Each answer is signed by the server's key, and is about its request and the lock of its build."""
        try:
            public = open_signer(self.config.data).public
        except CetoolError:
            return  # reported above
        query = (
            sa.select(
                answer.c.platform,
                answer.c.request,
                answer.c.record,
                answer.c.build_id,
                build_platform.c.lock,
                build.c.status,
            )
            .join(build, build.c.id == answer.c.build_id)
            .outerjoin(
                build_platform,
                sa.and_(build_platform.c.build_id == answer.c.build_id, build_platform.c.platform == answer.c.platform),
            )
            .order_by(answer.c.platform, answer.c.request)
        )
        for platform, request, envelope, number, digest, status in self._pages(query, "answers"):
            problem = _wrong_record(envelope, public, (platform, request, digest))
            if problem is None and status != "COMPLETED":
                problem = f"its build {number} is {status}"
            if problem is not None:
                message = f"the answer to {request[:12]} ({platform}) is wrong: {problem}"
                hint = f"Rebuild it: `cetool env create --refresh`, or delete build {number}."
                yield Problem("answer", request, message, hint)

    def _archives(self) -> Iterator[Problem]:
        """Each kept archive has the digest that is its name."""
        # others are being written, or were when a builder was killed
        paths = sorted(path for path in archives_below(self.config.data) if len(path.name) == 64)
        for done, path in enumerate(paths):
            self.progress("archives", done, len(paths))
            try:
                if digest_of(path, "sha256") == path.name:
                    continue
                problem = "has another content than its name says"
            except FileNotFoundError:
                continue  # collected meanwhile
            except OSError as error:
                problem = f"cannot be read: {error.strerror}"
            yield Problem("archive", str(path), f"the archive {path} {problem}", "Remove it: it is downloaded again.")


def watch_problems(database: Database) -> list[str]:
    """Return the problems of watched files: notes for the operator, which are not the server's fault."""
    query = sa.select(watch_file.c.path, watch_file.c.problem).where(watch_file.c.problem.is_not(None))
    with database.read() as tx:
        return [f"{path}: {problem}" for path, problem in tx.execute(query.order_by(watch_file.c.path))]


def _wrong_record(envelope: str, public: bytes, expected: tuple[str, str, str | None]) -> str | None:
    """Return what is wrong with a signed record; None if nothing is."""
    platform, request, digest = expected
    try:
        record: BuildRecord = opened(envelope, public)
    except CetoolError as error:
        return error.message
    if record.request != request or record.platform != platform:
        return "it is about another request"
    if digest is not None and record.lock.digest != digest:
        return "it has other packages than its build"
    return None


def _open_to_others(path: Path) -> Iterator[Problem]:
    """Report a file or directory that other users can read or change."""
    try:
        status = path.lstat()
    except OSError:
        return
    if os.name == "nt" or not status.st_mode & 0o077:
        return
    # others may enter the data directory, whose environments they may use
    if stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022:
        return
    mode = "700" if stat.S_ISDIR(status.st_mode) else "600"
    does = "change" if status.st_mode & 0o022 else "read"
    yield Problem("file", str(path), f"other users can {does} {path}", f"Run `chmod {mode} {path}`.")


def concluded(problems: int) -> str:
    """Return the last line of a check."""
    return f"Found {counted(problems, 'problem')}" if problems else "Found no problems"

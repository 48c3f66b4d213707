"""Remember the files that become environments, as the server last saw them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from cetool.server.data.database import now
from cetool.server.data.schema import watch_file

#: The problem of a file that is gone; its row stays for a while, so that the same file can return.
REMOVED = "the file was removed"


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file, and what became of it."""

    #: Absolute.
    path: str
    #: The watched path that it was found below.
    watch: str
    #: The digest of its content when it was last read; None if it could not be read.
    sha256: str | None
    namespace: str
    #: The environment that it defines; None if it defines none.
    name: str | None
    build_id: int | None = None
    #: Why its last content is not built, in one sentence; None if it is.
    problem: str | None = None

    @property
    def is_removed(self) -> bool:
        """Whether the file is gone."""
        return self.problem == REMOVED


def watched_files(tx: sa.Connection) -> list[WatchedFile]:
    """Return all files, in the order of their paths."""
    table = watch_file.c
    columns = (table.path, table.watch, table.sha256, table.namespace, table.name, table.build_id, table.problem)
    return [WatchedFile(*row) for row in tx.execute(sa.select(*columns).order_by(table.path))]


def save_watched_file(tx: sa.Connection, file: WatchedFile) -> None:
    """Remember a file in place of what was known about its path."""
    tx.execute(sa.delete(watch_file).where(watch_file.c.path == file.path))
    tx.execute(
        sa.insert(watch_file).values(
            path=file.path,
            watch=file.watch,
            sha256=file.sha256,
            namespace=file.namespace,
            name=file.name,
            build_id=file.build_id,
            problem=file.problem,
            seen=now(tx),
        )
    )


def forget_watched_files(tx: sa.Connection, paths: Iterable[str]) -> None:
    """Forget these files."""
    for path in paths:
        tx.execute(sa.delete(watch_file).where(watch_file.c.path == path))


def forget_removed_files(tx: sa.Connection, older_than: float) -> int:
    """Forget the files that were removed more than ``older_than`` seconds ago; return how many."""
    gone = sa.and_(watch_file.c.problem == REMOVED, watch_file.c.seen < now(tx) - older_than)
    return tx.execute(sa.delete(watch_file).where(gone)).rowcount

"""The server's data directory: links that name environments, archives of packages, room on the disk.

``names/NAMESPACE/NAME`` is a link to the prefix of the environment's current build. It is replaced in one step, after
the database has changed: a name always leads to a complete environment, or does not exist. The database is the truth;
:meth:`Files.repair` makes the links agree with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from cetool.base.errors import CetoolError, is_disk_full
from cetool.base.ownership import make_private_dirs
from cetool.packages.cache import archive_in
from cetool.server.data.database import Database
from cetool.server.data.schema import build_platform, environment, namespace
from cetool.store.disk import delete_tree
from cetool.store.store import MARKER, Store

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CURRENT = (
    sa.select(namespace.c.name.label("space"), environment.c.name, build_platform.c.realization)
    .select_from(environment)
    .join(namespace, namespace.c.id == environment.c.namespace_id)
    .join(build_platform, build_platform.c.build_id == environment.c.build_id)
    .where(build_platform.c.realization.is_not(None))
)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a server, apart from its database."""

    #: The data directory.
    data: Path
    #: The environments.
    store: Store
    #: Set while a link could not be written, as on a full disk: builders repair the links as soon as that works.
    behind: threading.Event = field(default_factory=threading.Event, repr=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    @property
    def names(self) -> Path:
        """The directory of links by namespace and name."""
        return self.data / "names"

    @property
    def archives(self) -> Path:
        """The directory of packages' archives, by digest."""
        return self.data / "blobs"

    @property
    def logs(self) -> Path:
        """The directory of builds' logs."""
        return self.data / "logs"

    def blob(self, sha256: str) -> Path | None:
        """Return the archive of a package by its digest (64 hex digits); None if it is not kept."""
        if not _SHA256.fullmatch(sha256):
            return None
        path = archive_in(self.archives, sha256)
        return path if path.is_file() else None

    def link(self, space: str, name: str) -> Path:
        """Return the path of the link for an environment, which may not exist."""
        return self.names / space / name

    def free(self) -> int:
        """Return the bytes that are free on the disk. Raises OSError."""
        return shutil.disk_usage(self.data).free

    def clear_scratch(self) -> None:
        """Remove temporary files; call it before builds start."""
        for name in _listed(self.data / "scratch"):
            delete_tree(self.data / "scratch" / name)

    # --- links ----------------------------------------------------------------------------------------------------

    def follow(self, database: Database, space: str, name: str) -> None:
        """Make the link of an environment agree with the database; call it after the change is committed.

        Raises CetoolError if the link cannot be written: builders try again, and the next start repairs it.
        """
        with self._turn, self._writing():
            with database.read() as tx:
                chosen = _CURRENT.where(namespace.c.name == space, environment.c.name == name)
                row = tx.execute(chosen).first()
            self._point(space, name, None if row is None else row.realization)

    def repair(self, database: Database) -> int:
        """Make all links agree with the database; return how many were changed. Raises CetoolError."""
        with self._turn, self._writing():
            with database.read() as tx:
                wanted = {(row.space, row.name): row.realization for row in tx.execute(_CURRENT)}
            present = set(self._present())
            places = sorted(present | wanted.keys())
            changed = sum(self._point(space, name, wanted.get((space, name))) for space, name in places)
            self.behind.clear()
            return changed

    def _present(self) -> Iterable[tuple[str, str]]:
        for space in _listed(self.names):
            for name in _listed(self.names / space):
                yield space, name

    def _point(self, space: str, name: str, realization: str | None) -> bool:
        """Let a link lead to a prefix that is complete, or remove it; return whether that changed anything."""
        link = self.link(space, name)
        if realization is not None and self._is_right(link, realization):
            return False
        prefix = None if realization is None else self.store.prefix(realization)
        if prefix is None or not (prefix / "conda-meta").is_dir():
            return self._remove(link)
        target = os.path.relpath(prefix, link.parent)
        with contextlib.suppress(OSError):
            if os.readlink(link) == target:
                return False
        make_private_dirs(link.parent, shared=True)
        staging = self.data / "scratch" / f"link-{os.getpid()}-{next(self._numbers)}"
        staging.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staging.unlink(missing_ok=True)
        os.symlink(target, staging)
        try:
            os.replace(staging, link)
        except OSError:
            staging.unlink(missing_ok=True)
            raise
        return True

    def _is_right(self, link: Path, realization: str) -> bool:
        """Return whether a link leads to the usual prefix of an environment, without reading its marker: fast."""
        prefix = self.store.paths.envs / realization
        try:
            return os.readlink(link) == os.path.relpath(prefix, link.parent) and (prefix / MARKER).exists()
        except OSError:
            return False

    def _remove(self, link: Path) -> bool:
        if not link.is_symlink():  # a directory or file is not the server's
            return False
        link.unlink()
        with contextlib.suppress(OSError):
            link.parent.rmdir()
        return True

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.behind.set()
            raise CetoolError(
                f"cannot write below {self.names}: {error.strerror or error}",
                code="disk-full" if is_disk_full(error) else "cache-not-writable",
                hint="The server tries again until that works.",
            ) from None


def _listed(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []

"""What can be downloaded from a build: lock file, pinned environment file, archive. All of it follows from the lock.

Texts are written at each request. An archive is written once, at its first request, and kept in ``{data}/artifacts``
under the name of its environment, a digest of the variables, and the version of the writer. It can be removed at any
time, since the next request writes the same bytes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock as Mutex

from cetool.base.codec import canonical_json, sha256_of
from cetool.base.errors import CetoolError, is_disk_full
from cetool.base.ownership import make_private_dirs
from cetool.lock.conda_lock import conda_lock_document
from cetool.lock.model import Lock, PlatformLock
from cetool.lock.plain import write_environment_yml
from cetool.server.archive.packing import WRITER, write_archive
from cetool.server.jobs import Jobs
from cetool.store.store import Store

_DIRECTORY = "artifacts"
_SUFFIX = f".{WRITER}.tar.gz"
#: Archives that are written at the same time, by all requests together, and those that wait.
_AT_ONCE, _WAITING = 2, 100


def lock_file(locks: Sequence[PlatformLock]) -> str:
    """Return the packages of all platforms as a conda-lock file, version 1, in JSON (which is YAML too).

    It depends on the packages alone, so a build from this file has the same one. Raises CetoolError if a package has no
    digest.
    """
    return json.dumps(lock_document(locks), indent=2)


def lock_document(locks: Sequence[PlatformLock]) -> dict[str, object]:
    """Return what :func:`lock_file` writes."""
    plain = tuple(each._replace(request=None) for each in locks)
    return conda_lock_document(Lock(plain, channels_of(locks)))


def pinned_yaml(lock: PlatformLock, name: str, variables: Sequence[tuple[str, str]]) -> str:
    """Return one platform's packages as an ``environment.yml`` with versions and builds."""
    return write_environment_yml(lock, name, channels_of([lock]), dict(variables))


def channels_of(locks: Sequence[PlatformLock]) -> tuple[str, ...]:
    """Return the URLs of the channels that the packages are from, sorted."""
    return tuple(sorted({package.channel for each in locks for package in each.conda}))


@dataclass(frozen=True, slots=True)
class Kept:
    """An archive on the disk."""

    path: Path
    #: The name of the environment that it is of.
    realization: str
    #: Bytes.
    size: int
    #: When it was last downloaded, in seconds since 1970.
    used: float


def kept(data: Path) -> Iterator[Kept]:
    """Yield the archives in a server's data directory, for collection; removing a file is all that it takes."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted((data / _DIRECTORY).iterdir()):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                name = re.split(r"[.-]", path.name)[0]
                yield Kept(path, name, status.st_size, status.st_mtime)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an archive is of."""

    #: The name of an environment in the store.
    realization: str
    #: Pairs of name and value, which activation sets.
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def file_name(self) -> str:
        """The name of the archive's file."""
        digest = f"-{sha256_of(canonical_json(self.variables).encode())[:12]}" if self.variables else ""
        return f"{self.realization}{digest}{_SUFFIX}"


@dataclass(slots=True)
class Archives:
    """The archives of a server: each is written by one thread, for which all requests for it wait."""

    data: Path
    store: Store
    _jobs: Jobs = field(default_factory=lambda: Jobs("archive", _AT_ONCE, _WAITING))
    _running: dict[Wanted, Future[Path]] = field(default_factory=dict)
    _mutex: Mutex = field(default_factory=Mutex)

    async def get(self, wanted: Wanted) -> Path:
        """Return an archive. Raises CetoolError if its environment is not on this server's disk."""
        found = self._kept(wanted)
        if found is not None:
            return found
        # the client may leave: others may wait for the same archive
        return await asyncio.shield(asyncio.wrap_future(self._start(wanted)))

    def _start(self, wanted: Wanted) -> Future[Path]:
        """Begin to write an archive, if no thread does so already."""
        with self._mutex:
            running = self._running.get(wanted)
            if running is None:
                running = self._running[wanted] = self._jobs.start(lambda: self._write(wanted))
            return running

    def _kept(self, wanted: Wanted) -> Path | None:
        path = self.data / _DIRECTORY / wanted.file_name
        try:
            os.utime(path)  # collection removes what was not used for long
        except FileNotFoundError:
            return None
        return path

    def _write(self, wanted: Wanted) -> Path:
        try:
            return self._kept(wanted) or self._written(wanted)
        finally:
            with self._mutex:
                del self._running[wanted]

    def _written(self, wanted: Wanted) -> Path:
        lease = self.store.lease(wanted.realization)
        if lease is None:
            raise CetoolError(
                f"the environment {wanted.realization} is not on the server's disk",
                code="not-found",
                about=wanted.realization,
                hint="Rebuild it.",
            )
        directory = self.data / _DIRECTORY
        make_private_dirs(directory)
        path = directory / wanted.file_name
        with lease, tempfile.NamedTemporaryFile(dir=directory, prefix=".", suffix=".part", delete=False) as file:
            try:
                write_archive(lease.prefix, file, dict(wanted.variables))
                file.flush()
                os.replace(file.name, path)
            except BaseException as error:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)
                if isinstance(error, OSError):
                    raise _failure(error) from error
                raise
        return path


def _failure(error: OSError) -> CetoolError:
    code = "disk-full" if is_disk_full(error) else "write-failed"
    return CetoolError(f"cannot write the archive: {error.strerror or error}", code=code, hint="Try again later.")

"""Get packages from a server by their digests, into a directory from which engines take them.

Each file is hashed while it arrives. What the server does not have, or sends changed, is left out: the engine fetches
it from its channel.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from cetool.base.errors import CetoolError
from cetool.base.values import Value
from cetool.remote.connection import Access, Connection, unusable

#: Simultaneous downloads, and attempts for each file if the connection is lost.
_AT_ONCE, _TRIES = 6, 3
#: Bytes of a package whose size is unknown.
_MOST_BYTES = 8 << 30
#: Seconds after which a download has to have this many bytes a second.
_SLOW_AFTER, _SLOWEST = 20.0, 4096
_NAME = re.compile(r"[A-Za-z0-9_.+!~@-][A-Za-z0-9_.+!~@ -]{0,300}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Blob(Value):
    """A package file: its name, its lower-case SHA-256, and its size in bytes if that is known."""

    file: str
    sha256: str
    size: int | None = None

    def below(self, directory: Path) -> Path:
        """Return where the file is in a directory of such files."""
        return directory / self.sha256 / self.file


class Fetched(Value):
    """What came: the number of files and bytes, and problems with the others."""

    files: int = 0
    size: int = 0
    problems: tuple[CetoolError, ...] = ()


def fetch_blobs(
    access: Access, build: int, blobs: Sequence[Blob], directory: Path, arrived: Callable[[int, int | None], None]
) -> Fetched:
    """Fetch files of a build into ``directory``; ``arrived`` gets the bytes so far and their total if it is known.

    Files that could not be fetched are not an error. An interruption stops all downloads.
    """
    usable = [blob for blob in blobs if _NAME.match(blob.file) and _SHA256.match(blob.sha256)]
    sizes = [blob.size for blob in usable]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    work = _Work(access, build, directory, total, arrived)
    problems: list[CetoolError] = []
    with ThreadPoolExecutor(min(_AT_ONCE, len(usable)) or 1, thread_name_prefix="cetool-blob") as pool:
        jobs = [pool.submit(work.fetch, blob) for blob in usable]
        try:
            for job in jobs:
                found = job.result()
                if found is not None:
                    problems.append(found)
        except BaseException:
            work.end()
            for job in jobs:
                job.cancel()
            raise
    return Fetched(len(usable) - len(problems), work.done, tuple(problems))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Work:
    """Downloads from one server, by several threads."""

    def __init__(
        self, access: Access, build: int, directory: Path, total: int | None, arrived: Callable[[int, int | None], None]
    ) -> None:
        self.stop = threading.Event()
        self.done = 0
        self._access, self._build, self._directory = access, build, directory
        self._total, self._arrived = total, arrived
        self._lock = threading.Lock()
        self._own = threading.local()
        self._gone: CetoolError | None = None
        self._open: list[Connection] = []

    def end(self) -> None:
        """Have all threads stop."""
        self.stop.set()
        for connection in self._open:
            connection.abort()

    def fetch(self, blob: Blob) -> CetoolError | None:
        """Fetch a file; return what went wrong."""
        if self._gone is not None:
            return self._gone
        path = blob.below(self._directory)
        part = path.with_name(f"{path.name}.part")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        for left in range(_TRIES - 1, -1, -1):
            before = _size(part)
            try:
                self._continued(blob, part)
                os.replace(part, path)
                return None
            except CetoolError as error:
                self._connection.close()
                lost = error.code == "server-unreachable"
                if lost and left and _size(part) > before and not self.stop.is_set():
                    continue  # from there
                if lost:
                    self._gone = error  # no other file is tried
                with contextlib.suppress(OSError):
                    part.unlink()
                return error
        return None

    @property
    def _connection(self) -> Connection:
        if not hasattr(self._own, "connection"):
            self._own.connection = Connection(self._access)
            self._open.append(self._own.connection)
        return self._own.connection  # type: ignore[no-any-return]

    def _continued(self, blob: Blob, path: Path) -> None:
        """Fetch what is missing of a file, and check its digest. Raises CetoolError; some of it may then be there."""
        digest = hashlib.sha256()
        have = 0
        with contextlib.suppress(OSError), path.open("rb") as part:
            while data := part.read(1 << 20):
                digest.update(data)
                have += len(data)
        headers = {"Accept": "*/*", **({"Range": f"bytes={have}-"} if have else {})}
        place = f"/blobs/{self._build}/{blob.sha256}/{quote(blob.file)}"
        response = self._connection.request("GET", place, headers=headers, expects=(200, 206), streams=True)
        if have and response.status == 200:
            digest, have = hashlib.sha256(), 0
        most = _MOST_BYTES if blob.size is None else blob.size
        started, before = time.monotonic(), have
        with path.open("ab" if have else "wb") as file:
            for data in response.chunks():
                if self.stop.is_set():
                    raise CetoolError("stopped", code="server-unreachable")
                have += len(data)
                if have > most:
                    self._drop(path)
                    raise unusable(f"{blob.file} is larger than {most} bytes", self._access)
                if (took := time.monotonic() - started) > _SLOW_AFTER and have - before < took * _SLOWEST:
                    self._drop(path)
                    raise unusable(f"{blob.file} arrives too slowly", self._access)
                digest.update(data)
                file.write(data)
                with self._lock:
                    self.done += len(data)
                    self._arrived(self.done, self._total)
        if digest.hexdigest() != blob.sha256:
            self._drop(path)
            raise unusable(f"{blob.file} has another SHA-256 than the signed one", self._access)

    @staticmethod
    def _drop(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()

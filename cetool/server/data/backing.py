"""Back up a server into one file, and restore it into a new data directory.

The file is a tar archive with the database, the private key, the configuration and a table of contents with digests.
Environments and packages are not in it: the database has their locks, from which the server makes them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import sqlalchemy as sa

import cetool
from cetool.base.codec import canonical_json, decode, encode
from cetool.base.errors import CetoolError
from cetool.base.files import sync_directory
from cetool.base.limits import parse_json
from cetool.base.ownership import make_private_dirs
from cetool.base.values import Value
from cetool.server.config import ServerConfig
from cetool.server.data.asking import ask
from cetool.server.data.builds import NewBuild, platforms_of
from cetool.server.data.database import Database, failures
from cetool.server.data.directory import LOCK_FILE, held
from cetool.server.data.schema import REVISION, build, build_platform, environment, realization
from cetool.server.data.upgrading import check_database, copy_database, pending, upgrade

_SCHEMA = "cetool.server-backup/1"
_CONTENTS, _DATABASE, _KEY, _CONFIG = "backup.json", "server.sqlite3", "signing-key.pem", "server.yaml"
#: Bytes of the table of contents.
_MOST = 1_000_000


class _Contents(Value):
    """The table of contents."""

    #: The version of cetool, and of the database's tables.
    cetool: str
    revision: str
    #: RFC 3339, UTC.
    created: str
    #: Pairs of a file's name and its SHA-256.
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup has."""

    path: Path
    size: int
    created: str
    #: The names of the files in it.
    files: tuple[str, ...]
    #: After a restoration: the builds in the queue that make the current environments again.
    queued: int = 0


def back_up(config: ServerConfig, file: Path, *, configuration: Path | None = None) -> Backup:
    """Write a backup of a server, which may run meanwhile. ``configuration`` is its file, if it has one.

    The backup has the server's private key and hashes of passwords: only its owner can read it. Raises CetoolError:
    ``write-failed`` if the file exists or cannot be written, ``disk-full``, ``database-damaged``.
    """
    file = Path(os.path.abspath(file))
    if file.exists():
        raise CetoolError(f"{file} already exists", code="write-failed", about=str(file), hint="Name a new file.")
    revision, _ = pending(config.database)
    with _written(file), tempfile.TemporaryDirectory(prefix=".backup-", dir=config.data) as scratch:
        copy = Path(scratch, _DATABASE)
        copy_database(config.database, copy)
        found = {_DATABASE: copy, _KEY: config.data / _KEY}
        if configuration is not None:
            found[_CONFIG] = configuration
        found = {name: path for name, path in found.items() if path.exists()}
        digests = tuple((name, _digest(path.open("rb"))) for name, path in sorted(found.items()))
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        contents = _Contents(cetool.__version__, revision, created, digests)
        partial = file.with_name(f".{file.name}.partial")
        try:
            _pack(partial, contents, found)
            os.link(partial, file)
        finally:
            partial.unlink(missing_ok=True)
        sync_directory(file.parent)
    return Backup(file, file.stat().st_size, created, tuple(sorted(found)))


def restore(file: Path, data: Path) -> Backup:
    """Restore a backup into a data directory that does not exist or is empty, and upgrade it if it is older.

    The configuration becomes ``server.yaml`` in the directory. Builds are queued that make the current environments
    again, with the same packages. The database appears last, whole. Raises
    CetoolError: ``conflict`` if it is not empty, ``not-found``, ``backup-malformed`` if the file is not a backup or is
    damaged, ``database-newer``.
    """
    data = Path(os.path.abspath(data))
    if data.exists() and (not data.is_dir() or any(each.name != LOCK_FILE for each in data.iterdir())):
        raise CetoolError(
            f"the data directory {data} is not empty",
            code="conflict",
            about=str(data),
            hint="Name a new directory with `--data`, or move this one away.",
        )
    if not file.is_file():
        raise CetoolError(f"there is no file {file}", code="not-found", about=str(file))
    with _written(data), held(data, "a restoration"):
        scratch = Path(tempfile.mkdtemp(prefix=f".{data.name}-", dir=data.parent))
        try:
            contents = _unpack(file, scratch)
            _checked(scratch / _DATABASE)
            if contents.revision != REVISION:
                upgrade(scratch / _DATABASE)
            queued = _queue_environments(scratch / _DATABASE)
            # the database last: with it, the directory is a server's
            for each in sorted(scratch.iterdir(), key=lambda path: path.name == _DATABASE):
                os.rename(each, data / each.name)
            sync_directory(data)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    names = tuple(name for name, _ in contents.files)
    return Backup(file, file.stat().st_size, contents.created, names, queued)


def _queue_environments(path: Path) -> int:
    """Forget all prefixes, and queue a build for each environment that had one; return how many."""
    database = Database.open(path)
    try:
        with database.write() as tx:
            had = sa.select(build_platform.c.platform).where(
                build_platform.c.build_id == build.c.id, build_platform.c.realization.is_not(None)
            )
            current = sa.select(build, had.limit(1).scalar_subquery().label("here"))
            rows = tx.execute(current.join(environment, environment.c.build_id == build.c.id)).mappings().all()
            tx.execute(realization.delete())
            queued = [_again(tx, row) for row in rows if row["here"] is not None]
            return len(set(queued))
    finally:
        database.close()


def _again(tx: sa.Connection, row: sa.RowMapping) -> int:
    """Ask for a build once more, so that its prefix is made; return the number of the new one."""
    new = NewBuild(
        namespace_id=row["namespace_id"],
        environment_id=row["environment_id"],
        name=row["name"],
        specification_id=row["specification_id"],
        platforms=platforms_of(tx, row["id"]),
        by=row["by"],
        origin="rebuild",
        profile=row["profile"],
        realize=row["here"],
    )
    return ask(tx, new).build_id


def _pack(target: Path, contents: _Contents, files: dict[str, Path]) -> None:
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
            text = canonical_json(encode(contents, schema=_SCHEMA)).encode()
            entry = tarfile.TarInfo(_CONTENTS)
            entry.size, entry.mode = len(text), 0o600
            archive.addfile(entry, io.BytesIO(text))
            for name, path in files.items():
                entry = archive.gettarinfo(path, name)
                entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0o600, 0, 0, "", ""
                with path.open("rb") as file:
                    archive.addfile(entry, file)
        raw.flush()
        os.fsync(raw.fileno())


def _unpack(file: Path, target: Path) -> _Contents:
    """Unpack the files that the table of contents names, and check their digests."""
    try:
        with tarfile.open(file, mode="r:") as archive:
            first = archive.next()
            if first is None or first.name != _CONTENTS or first.size > _MOST:
                raise _malformed(file, "it has no table of contents")
            contents = decode(_Contents, parse_json(_stream(archive, first).read()), schema=_SCHEMA)
            missing = dict(contents.files)
            if _DATABASE not in missing or not missing.keys() <= {_DATABASE, _KEY, _CONFIG}:
                raise _malformed(file, "its table of contents is wrong")
            for entry in archive:
                if entry.name == _CONTENTS:
                    continue
                wanted = missing.pop(entry.name, None)
                if wanted is None:
                    raise _malformed(file, f"it has {entry.name!r}, which its table of contents lacks")
                path = target / entry.name
                with _stream(archive, entry) as source, path.open("xb") as copy:
                    path.chmod(0o600)
                    shutil.copyfileobj(source, copy, 1 << 20)
                    copy.flush()
                    os.fsync(copy.fileno())
                if _digest(path.open("rb")) != wanted:
                    raise _malformed(file, f"{entry.name} is damaged")
            if missing:
                raise _malformed(file, f"it lacks {min(missing)}")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _malformed(file, str(error)) from None
    return contents


def _stream(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(entry) if entry.isreg() else None
    if stream is None:
        raise ValueError(f"{entry.name!r} is not a regular file")
    return stream


def _checked(path: Path) -> None:
    with failures(path), contextlib.closing(sqlite3.connect(path)) as connection:
        check_database(connection, path)


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    with file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Turn failures to write a file or directory into errors that name it."""
    try:
        make_private_dirs(path.parent)
        with failures(path):
            yield
    except FileExistsError:
        raise CetoolError(
            f"{path} already exists", code="write-failed", about=str(path), hint="Name a new file."
        ) from None


def _malformed(file: Path, problem: str) -> CetoolError:
    return CetoolError(
        f"{file} is not a backup of a server, or is damaged: {problem}",
        code="backup-malformed",
        about=str(file),
        hint="Use a file that `cetool server backup` wrote.",
    )

"""Packages in the embedded engine's cache, and what was computed from their archives when they were added.

Next to each unpacked package, ``STEM.cetool`` has the digests that were computed from its archive. They are valid while
two things are unchanged that change when the package is replaced: a random token in the directory, which no archive
can contain, and the revision in ``STEM.lock``, which rattler increments before it fetches.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from cetool.base.errors import EngineError
from cetool.base.limits import NOTE, read_json, read_regular
from cetool.base.urls import scrub
from cetool.base.values import Value
from cetool.declare.package import Package
from cetool.engines.archives import listing_of

if TYPE_CHECKING:
    from rattler import RepoDataRecord

#: ``STEM.lock`` starts with rattler's revision, a big-endian number of this many bytes; a SHA-256 follows.
REVISION = 8
TOKEN = Path("info", "cetool-token")
SCHEMA = 2


class Archive(Value):
    """What was computed from a package's archive when it was fetched: lowercase hex digests, and its size in bytes.

    ``links`` are its symbolic links that do not lead to one of its files.
    """

    sha256: str
    md5: str
    size: int
    url: str
    links: Mapping[str, str] = MappingProxyType({})


def attested(directory: Path) -> tuple[bytes, Archive] | None:
    """Return what was computed from the archive of an unpacked package in the cache, with a mark of this entry.

    Returns None if nothing was computed, or if the directory was replaced since.
    """
    found = mark_of(directory)
    if found is None:
        return None
    try:
        told = read_json(directory.with_name(directory.name + ".cetool"), NOTE, exact=True)
        if told["schema"] != SCHEMA or found != mark(told["token"], bytes.fromhex(told["revision"])):
            return None
        if told["listing"] != listing_of(directory):
            return None
        archive = Archive(told["sha256"], told["md5"], told["size"], told["url"], dict(told["links"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found, archive


def mark_of(directory: Path) -> bytes | None:
    """Return a value that changes when a directory is replaced; None if it is not a complete package."""
    base = os.fspath(directory)
    try:
        token = read_regular(f"{base}/{TOKEN.as_posix()}", 64).decode("ascii")
        revision = read_regular(f"{base}.lock", NOTE)[:REVISION]
        os.stat(f"{base}/info/index.json")
        with os.scandir(f"{base}/info") as entries:  # rattler would block on a pipe
            if not all(each.is_file() or each.is_dir() or each.is_symlink() for each in entries):
                return None
    except (OSError, ValueError):
        return None
    return mark(token, revision)


def mark(token: str, revision: bytes) -> bytes:
    """Return the value of a token and a revision."""
    return token.encode() + b" " + revision


def fits(archive: Archive, package: Package) -> bool:
    """Return whether an archive has the digests of a package, which has at least one."""
    wanted = [(name, value) for name in ("sha256", "md5") if (value := getattr(package, name))]
    return bool(wanted) and all(getattr(archive, name) == value for name, value in wanted)


def record_in(cache: Path, package: Package) -> RepoDataRecord:
    """Read the record of a package in the cache from the package itself. Raises EngineError."""
    from rattler import PackageRecord, RepoDataRecord

    directory = cache / package.stem
    found = attested(directory)
    try:
        if found is None:
            raise ValueError("the package was removed from the package cache")
        archive = found[1]
        record = PackageRecord.from_index_json(
            directory / "info" / "index.json", archive.size, archive.sha256, archive.md5
        )
    except Exception as error:
        raise EngineError(
            f"cannot read the metadata of {package.file_name}: {scrub(str(error))}", code="package-damaged"
        ) from None
    return RepoDataRecord(record, package.file_name, package.url, package.channel)


def kept_record(cache: Path, package: Package) -> RepoDataRecord | None:
    """Read the record of a package if the cache has it, by its digest; None otherwise."""
    found = attested(cache / package.stem)
    if found is None or not fits(found[1], package):
        return None
    try:
        return record_in(cache, package)
    except EngineError:  # the package is unusable
        return None

"""Has the packages of a lock in rattler's package cache, and reads their records out of them.

rattler installs by records of a channel's metadata, which a lock does not hold and nobody is to be asked for. They
are in the packages themselves (``info/index.json``): so each is fetched first, checked against its digest, and put
into rattler's cache as rattler would have done, under the lock that it takes for that itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cetool.engines.base import Progress
from cetool.engines.explicit import ExplicitPackage, mismatch
from cetool.engines.intact import damaged_files
from cetool.errors import EngineError
from cetool.spec.urls import redact
from cetool.values import Value

if TYPE_CHECKING:
    from rattler import Client, PackageRecord, RepoDataRecord

#: Downloads at a time.
_AT_ONCE = 8
_BLOCK = 1 << 20
#: How often a download that broke off is begun anew.
_TRIES = 3
_BROKEN_OFF = re.compile(
    r"decoding response body|reading a body|connection (?:reset|closed)|end of file|IncompleteBody"
)
#: In the file beside an unpacked package rattler keeps the number of its revision and the archive's SHA-256.
_REVISION = 8
_RECORD = Path("info", "repodata_record.json")


class _Archive(Value):
    """An archive that was fetched: its digests are those of what came."""

    path: Path
    sha256: str
    md5: str
    size: int


class LockedPackages:
    """The packages of one lock on their way into the cache at ``cache``, a directory of rattler's.

    ``alive`` is called whenever something moves.
    """

    def __init__(self, cache: Path, client: Client, progress: Progress, alive: Callable[[], None]) -> None:
        self._cache = cache
        self._client = client
        self._progress = progress
        self._alive = alive
        self._done = 0
        self._known: dict[str, dict[str, Any]] = {}

    async def records(self, packages: Sequence[ExplicitPackage]) -> list[RepoDataRecord]:
        """The packages' records, in the order given; each package is then in the cache, as it was locked.

        What was unpacked before is compared with its hashes here only where something runs while packages are linked;
        else the files that were linked are compared, which are the same. Raises EngineError where a package cannot be
        had, or is another than the one that was locked.
        """
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        absent = [package for package in packages if not self._has(package)]
        await self._get_all(absent)
        if any(_has_link_script(self._cache / package.stem) for package in packages):  # it may use any of the others
            kept = [package for package in packages if package not in absent]
            await self._get_all([each for each in kept if not await asyncio.to_thread(self._has_whole, each)])
        return [self._record(package) for package in packages]

    async def _get_all(self, absent: Sequence[ExplicitPackage]) -> None:
        if absent:
            self._progress.stage("Downloading")
            with _directory_in(self._cache) as directory:
                turns = asyncio.Semaphore(_AT_ONCE)
                tasks = [asyncio.ensure_future(self._get(package, directory, turns)) for package in absent]
                try:
                    await asyncio.gather(*tasks)
                except BaseException:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    raise

    def _has_whole(self, package: ExplicitPackage) -> bool:
        """Whether the cache has this very package, each file as it was packed."""
        self._alive()
        return self._has(package) and not damaged_files(self._cache / package.stem)

    def _has(self, package: ExplicitPackage) -> bool:
        """Whether the cache has this very package."""
        directory = self._cache / package.stem
        if not (directory / "info" / "index.json").is_file():
            return False
        kept = self._known[package.stem] = _kept(directory)
        for name in ("sha256", "md5", "url"):
            wanted = getattr(package, name)
            if wanted and (name != "url" or package.digest is None):
                if kept.get(name) != wanted:
                    return False
                break
        return True

    async def _get(self, package: ExplicitPackage, directory: Path, turns: asyncio.Semaphore) -> None:
        async with turns:
            archive = await self._fetch(package, directory / package.file_name)
            await asyncio.to_thread(self._keep, package, archive, directory / package.stem)
            archive.path.unlink(missing_ok=True)

    async def _fetch(self, package: ExplicitPackage, path: Path) -> _Archive:
        """Download the archive, or copy it; raise EngineError where it is not the one that was locked."""
        tries = _TRIES
        while True:
            tries -= 1
            with path.open("wb") as file:
                writer = _Writer(file, self._arrived)
                try:
                    await self._write(package, writer)
                    break
                except OSError as error:
                    raise _unobtainable(package, error) from None
                except Exception as error:
                    if not tries or not _BROKEN_OFF.search(str(error)):
                        # in the words that rattler has for a package that it could not fetch itself
                        raise RuntimeError(f"failed to fetch {package.file_name}\n{error}") from error
        if package.digest is not None:
            algorithm, wanted = package.digest
            found = writer.sha256 if algorithm == "sha256" else writer.md5
            if found != wanted:
                raise mismatch(package, algorithm, found)
        return _Archive(path, writer.sha256, writer.md5, writer.size)

    async def _write(self, package: ExplicitPackage, writer: _Writer) -> None:
        from rattler.package_streaming import download_to_writer

        if package.local is not None:
            await asyncio.to_thread(_copy, package.local, writer)
        else:
            await download_to_writer(self._client, package.url, writer)

    def _arrived(self, count: int) -> None:
        self._alive()
        self._done += count
        self._progress.download(self._done, None)

    def _keep(self, package: ExplicitPackage, archive: _Archive, staging: Path) -> None:
        """Unpack the archive and put it where rattler will look for it."""
        from rattler.package_streaming import extract

        try:
            extract(archive.path, staging)
            index = json.loads((staging / "info" / "index.json").read_bytes())
            about = {
                **index,
                "fn": package.file_name,
                "url": package.url,
                "channel": package.channel,
                "sha256": archive.sha256,
                "md5": archive.md5,
                "size": archive.size,
            }
            (staging / _RECORD).write_text(json.dumps(about), encoding="utf-8")
        except Exception as error:
            raise EngineError(
                f"the package {package.file_name} of {redact(package.channel)} cannot be unpacked: {error}",
                hint="The file is damaged, or no conda package: tell the channel's owner.",
            ) from None
        self._alive()
        with _locked(self._cache):
            if self._has_whole(package):
                return  # another process was faster, and may be linking from it
            self._put(staging, self._cache / package.stem, bytes.fromhex(archive.sha256))

    def _put(self, staging: Path, place: Path, sha256: bytes) -> None:
        """Have the directory take its place, and rattler know what it is."""
        beside = place.with_name(place.name + ".lock")
        known = beside.read_bytes()[:_REVISION] if beside.exists() else b""
        revision = int.from_bytes(known, "big") + 1
        self._known[place.name] = _kept(staging)
        if place.exists():
            place.rename(staging.with_name(staging.name + ".replaced"))
        staging.rename(place)
        beside.write_bytes(revision.to_bytes(_REVISION, "big") + sha256)

    def _record(self, package: ExplicitPackage) -> RepoDataRecord:
        from rattler import PackageRecord, RepoDataRecord

        directory = self._cache / package.stem
        kept = self._known[package.stem]
        size = kept.get("size")
        try:
            record = PackageRecord.from_index_json(
                directory / "info" / "index.json",
                size if isinstance(size, int) else None,
                kept.get("sha256") or package.sha256,
                kept.get("md5") or package.md5,
            )
        except Exception as error:
            raise EngineError(f"the metadata in {package.file_name} cannot be read: {redact(str(error))}") from None
        return RepoDataRecord(record, package.file_name, package.url, package.channel)


def kept_record(cache: Path, package: ExplicitPackage) -> PackageRecord | None:
    """The record of a package that is unpacked in the cache; None where it is not, or may be another of its name."""
    from rattler import PackageRecord

    directory = cache / package.stem
    kept = _kept(directory)
    wanted = {name: getattr(package, name) for name in ("sha256", "md5") if getattr(package, name)}
    wanted = wanted or {"url": package.url}
    if any(kept.get(name) != value for name, value in wanted.items()):
        return None
    try:
        return PackageRecord.from_index_json(directory / "info" / "index.json")
    except Exception:  # as good as not there
        return None


def _kept(directory: Path) -> dict[str, Any]:
    """What is known of the archive that was unpacked into a directory of the cache."""
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        record = json.loads((directory / _RECORD).read_bytes())
        if isinstance(record, dict):
            found = {name: record.get(name) for name in ("sha256", "md5", "size", "url")}
    with suppress(OSError):
        known = directory.with_name(directory.name + ".lock").read_bytes()[_REVISION : _REVISION + 32]
        if len(known) == 32 and known.hex() != found.get("sha256"):
            found = {"sha256": known.hex()}  # rattler has put another there since
    return found


def _has_link_script(directory: Path) -> bool:
    """Whether an unpacked package brings a program that runs when it is linked."""
    for folder in ("bin", "python-scripts", "Scripts"):
        with suppress(OSError):
            if any(name.startswith(".") and "-link." in name for name in os.listdir(directory / folder)):
                return True
    return False


class _Writer:
    """A file that is written to, and its digests."""

    def __init__(self, file: IO[bytes], arrived: Callable[[int], None]) -> None:
        self._file = file
        self._arrived = arrived
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def write(self, chunk: bytes) -> int:
        """Write a chunk."""
        self._file.write(chunk)
        self._sha256.update(chunk)
        self._md5.update(chunk)
        self.size += len(chunk)
        self._arrived(len(chunk))
        return len(chunk)

    @property
    def sha256(self) -> str:
        """SHA-256 of all that was written."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """MD5 of it."""
        return self._md5.hexdigest()


def _copy(source: Path, writer: _Writer) -> None:
    with source.open("rb") as file:
        while block := file.read(_BLOCK):
            writer.write(block)


def _unobtainable(package: ExplicitPackage, error: OSError) -> EngineError:
    return EngineError(
        f"the locked package {package.file_name} cannot be had: {error.filename or package.local}: {error.strerror}",
        hint="The channel may have taken it away: cetool lock solves anew.",
    )


@contextmanager
def _directory_in(cache: Path) -> Iterator[Path]:
    """A directory on the cache's own disk, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix=".cetool-", dir=cache))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """The lock under which rattler changes its cache."""
    import portalocker

    descriptor = os.open(cache / ".cache.lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE)
        yield

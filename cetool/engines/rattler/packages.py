"""The embedded engine's package cache, whose packages are hashed when they are added and verified when they are used.

rattler's own cache finds an entry by its name, trusts the digests in channels and cache records, and computes none for
archives from ``file://`` URLs. Therefore every package is fetched here, hashed while it arrives, compared with the
requested digest, checked, and unpacked to where rattler finds it, under the file lock that rattler itself uses.

:mod:`cetool.engines.rattler.kept` finds packages that were added.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from cetool.base.errors import EngineError, is_disk_full
from cetool.base.limits import NOTE, read_regular
from cetool.base.text import pattern
from cetool.base.urls import redact
from cetool.declare.package import Package
from cetool.engines.archives import check_names, check_together, check_unpacked, has_link_script, links_in, listing_of
from cetool.engines.errors import space_error
from cetool.engines.explicit import mismatch
from cetool.engines.protocol import Progress
from cetool.engines.rattler.kept import REVISION, SCHEMA, TOKEN, Archive, attested, fits, mark, mark_of
from cetool.lock.records import package_of
from cetool.packages.cache import archive_in, keep_archive
from cetool.packages.hashing import digest_of
from cetool.packages.integrity import damaged_files

if TYPE_CHECKING:
    import asyncio

    from rattler import Client, RepoDataRecord

#: The number of simultaneous downloads.
_AT_ONCE = 16
#: The number of attempts if the connection is lost.
_TRIES = 3
_BROKEN_OFF = pattern(r"decoding response body|reading a body|connection (?:reset|closed)|end of file|IncompleteBody")
#: rattler's messages for a full disk or quota.
_FULL = pattern(r"No space left on device|[Qq]uota exceeded")
_NO_SIZES: Mapping[str, int] = MappingProxyType({})


class CheckedPackages:
    """Adds the packages of one environment to the package cache at ``cache``, a directory of rattler.

    ``alive`` is called at any progress. If ``offline``, a package requested without a digest may be taken from the
    cache if it was fetched from the same URL; otherwise only a package with the requested digest may. ``archives`` is
    where archives are kept and looked for (:func:`cetool.packages.cache.archive_in`); None to keep none.
    """

    def __init__(
        self,
        cache: Path,
        client: Client,
        progress: Progress,
        alive: Callable[[], None],
        *,
        offline: bool = False,
        archives: Path | None = None,
    ) -> None:
        self.cache = cache
        self._client = client
        self._progress = progress
        self._alive = alive
        self._offline = offline
        self._archives = archives
        #: Returns the archive of a package that need not be downloaded.
        self.given: Callable[[Package], Path | None] = lambda package: None
        self._done = 0
        self._total: int | None = None
        self._known: dict[str, tuple[bytes, Archive]] = {}

    async def have(
        self, packages: Sequence[Package], sizes: Mapping[str, int] = _NO_SIZES, *, whole: bool = False
    ) -> dict[str, Archive]:
        """Fetch the packages that are not in the cache; return what was computed from each archive, by stem.

        ``sizes`` are the known sizes of archives in bytes, by stem, for progress only.

        If ``whole``, packages that were unpacked before are compared with their hashes if a link script will run;
        otherwise the caller compares the linked files, which are the same. Raises EngineError if a package cannot be
        fetched or has a wrong digest.
        """
        import asyncio

        self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        for package in packages:
            check_names(package)
        absent = [package for package in packages if not (self._has(package) and self._is_archived(package))]
        expected = [sizes.get(package.stem, 0) for package in absent]
        self._total = self._done + sum(expected) if all(expected) else None
        await self._get_all(absent)
        if whole and any(
            has_link_script(self.cache / package.stem) for package in packages
        ):  # a link script may use files of any package
            kept = [package for package in packages if package not in absent]
            await self._get_all([each for each in kept if not await asyncio.to_thread(self._has_whole, each)])
        check_together(self.cache, packages, {each.stem: self._known[each.stem][1].links for each in packages})
        return {package.stem: self._known[package.stem][1] for package in packages}

    async def have_those_of(self, records: Sequence[RepoDataRecord]) -> None:
        """Do the same for the records of a solution, and replace their digests and sizes by the computed ones."""
        packages = [package_of(record) for record in records]
        sizes = {package.stem: record.size or 0 for package, record in zip(packages, records, strict=True)}
        archives = await self.have(packages, sizes)
        for package, record in zip(packages, records, strict=True):
            archive = archives[package.stem]
            record.sha256 = bytes.fromhex(archive.sha256)
            record.md5 = bytes.fromhex(archive.md5)
            record.size = archive.size

    def replaced(self) -> list[Path]:
        """Return the directories of packages that were replaced in the cache since :meth:`have`."""
        return [self.cache / stem for stem, (seen, _) in self._known.items() if mark_of(self.cache / stem) != seen]

    async def _get_all(self, absent: Sequence[Package]) -> None:
        import asyncio

        if absent:
            self._progress.stage("Downloading")
            with _directory_in(self.cache) as directory:
                turns = asyncio.Semaphore(_AT_ONCE)
                tasks = [asyncio.ensure_future(self._get(package, directory, turns)) for package in absent]
                try:
                    await asyncio.gather(*tasks)
                except BaseException:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    raise

    def _has_whole(self, package: Package) -> bool:
        """Return whether the cache has this package with all files intact."""
        self._alive()
        return self._has(package) and not damaged_files(self.cache / package.stem)

    def _has(self, package: Package) -> bool:
        """Return whether the cache has this package, by its computed digest."""
        found = attested(self.cache / package.stem)
        if found is None:
            return False
        archive = found[1]
        if package.digest is None:
            if not (self._offline and package.local is None and archive.url == package.url):
                return False
        elif not fits(archive, package):
            return False
        self._known[package.stem] = found
        return True

    async def _get(self, package: Package, directory: Path, turns: asyncio.Semaphore) -> None:
        import asyncio

        async with turns:
            staging = directory / package.stem
            kept = self._archive_of(package)
            if kept is not None:
                try:
                    archive = await self._unpack(package, kept, staging)
                    await asyncio.to_thread(self._keep, package, archive, staging)
                    return
                except EngineError as error:
                    if error.code not in ("digest-mismatch", "package-damaged"):
                        raise
                    kept.unlink(missing_ok=True)  # damaged on this disk: fetch it again
                    shutil.rmtree(staging, ignore_errors=True)
            path = package.local or directory / package.file_name
            if package.local is None:
                await self._fetch(package, path)
            archive = await self._unpack(package, path, staging)
            await asyncio.to_thread(self._keep, package, archive, staging)
            await asyncio.to_thread(self._archive, package, archive, path)

    def _archive_of(self, package: Package) -> Path | None:
        """Return the given or kept archive of a package; None if there is none."""
        if (given := self.given(package)) is not None:
            return given
        if self._archives is None or package.sha256 is None:
            return None
        path = archive_in(self._archives, package.sha256)
        return path if path.is_file() else None

    def _is_archived(self, package: Package) -> bool:
        """Return whether the archive of a package in the cache is kept, if archives are."""
        return self._archives is None or archive_in(self._archives, self._known[package.stem][1].sha256).is_file()

    def _archive(self, package: Package, archive: Archive, path: Path) -> None:
        """Keep the archive of a package if archives are kept; remove a downloaded one otherwise."""
        try:
            if self._archives is not None:
                keep_archive(self._archives, archive.sha256, path, move=package.local is None)
        except OSError as error:
            raise _unobtainable(package, error) from None
        finally:
            if package.local is None:
                path.unlink(missing_ok=True)

    async def _fetch(self, package: Package, path: Path) -> None:
        """Download the archive."""
        from rattler.package_streaming import download_to_writer

        tries = _TRIES
        while True:
            tries -= 1
            with path.open("wb") as file:
                try:
                    await download_to_writer(self._client, package.url, _Writer(file, self._arrived))
                    return
                except Exception as error:
                    if isinstance(error, OSError) and error.errno is not None:  # of this machine, not of a server
                        raise _unobtainable(package, error) from None
                    if not tries or not _BROKEN_OFF.search(str(error)):
                        # rattler's message for a package that it cannot fetch
                        raise RuntimeError(f"failed to fetch {package.file_name}\n{error}") from error

    async def _unpack(self, package: Package, path: Path, staging: Path) -> Archive:
        """Unpack and hash the archive; raise EngineError if its digest is wrong."""
        import asyncio

        # unlike rattler's extract(), this releases the GIL
        from rattler.package_streaming import download_and_extract

        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            size = status.st_size
            sha256, md5 = await download_and_extract(self._client, path.absolute().as_uri(), staging)
            archive, fault = Archive(sha256.hex(), md5.hex(), size, package.url), None
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise _unobtainable(package, error) from None
            archive, fault = await asyncio.to_thread(_hashed, path, package), error
        for algorithm in ("sha256", "md5"):
            wanted, found = getattr(package, algorithm), getattr(archive, algorithm)
            if wanted and found != wanted:
                raise mismatch(package, algorithm, found)
        if fault is not None:
            if _FULL.search(str(fault)):
                raise space_error("the embedded engine")
            raise EngineError(
                f"cannot unpack the package {package.file_name} from {redact(package.channel)}: {fault}",
                code="package-damaged",
                hint="The file is damaged, or not a conda package: report it to the owner of the channel.",
            )
        if package.local is not None:
            self._arrived(size)
        return archive

    def _arrived(self, count: int) -> None:
        self._alive()
        self._done += count
        self._progress.download(self._done, self._total)

    def _keep(self, package: Package, archive: Archive, staging: Path) -> None:
        """Check the unpacked package, and move it to where rattler looks for it."""
        check_unpacked(staging, package)
        archive = archive._replace(links=links_in(staging))
        self._alive()
        with _locked(self.cache):
            if package.digest is not None and self._has_whole(package):
                return  # another process was faster and may be linking from it
            self._put(staging, self.cache / package.stem, archive)

    def _put(self, staging: Path, place: Path, archive: Archive) -> None:
        """Move the directory to its place, and record what it was unpacked from."""
        token = secrets.token_hex(16)
        token_file = staging / TOKEN
        token_file.unlink(missing_ok=True)  # the package may contain a file with this name
        token_file.write_text(token, encoding="ascii")
        listing = listing_of(staging)
        beside = place.with_name(place.name + ".lock")
        known = read_regular(beside, NOTE)[:REVISION] if beside.exists() else b""
        revision = (int.from_bytes(known, "big") + 1).to_bytes(REVISION, "big")
        attestation = place.with_name(place.name + ".cetool")
        attestation.unlink(missing_ok=True)
        if os.path.lexists(place):
            place.rename(staging.with_name(staging.name + ".replaced"))
        staging.rename(place)
        beside.write_bytes(revision + bytes.fromhex(archive.sha256))
        told = {"schema": SCHEMA, "token": token, "revision": revision.hex(), "listing": listing}
        told |= archive._asdict()
        attestation.write_text(json.dumps(told), encoding="utf-8")
        self._known[place.name] = (mark(token, revision), archive)


class _Writer:
    """Writes to a file, and calls ``arrived`` with the number of bytes."""

    def __init__(self, file: IO[bytes], arrived: Callable[[int], None]) -> None:
        self._file = file
        self._arrived = arrived

    def write(self, chunk: bytes) -> int:
        """Write a chunk."""
        self._file.write(chunk)
        self._arrived(len(chunk))
        return len(chunk)


def _hashed(path: Path, package: Package) -> Archive:
    """Return the digests of a file that could not be unpacked. Raises EngineError if it cannot be read."""
    try:
        return Archive(digest_of(path, "sha256"), digest_of(path, "md5"), path.stat().st_size, package.url)
    except OSError as error:
        raise _unobtainable(package, error) from None


def _unobtainable(package: Package, error: OSError) -> EngineError:
    if is_disk_full(error):
        return space_error("the embedded engine")
    return EngineError(
        f"cannot fetch the package {package.file_name}: {error.filename or package.local}: {error.strerror}",
        code="cache-not-writable",
        hint="The channel may have removed it. If it is in a lock, run `cetool lock SCRIPT` to solve again.",
    )


@contextmanager
def _directory_in(cache: Path) -> Iterator[Path]:
    """Create a temporary directory on the disk of the cache."""
    directory = Path(tempfile.mkdtemp(prefix=".cetool-", dir=cache))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Hold the file lock with which rattler changes its cache."""
    import portalocker

    descriptor = os.open(cache / ".cache.lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE)
        yield

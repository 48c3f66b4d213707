"""Package caches of engines: where they are, who holds their file locks, and which of their packages are damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from cetool.base.codec import sha256_of
from cetool.base.errors import EngineError, StoreError
from cetool.base.filelock import try_lock, wait_for_lock
from cetool.base.ownership import OwnershipError, check_source_dir, ensure_private_dir, is_trusting
from cetool.packages.hashing import digest_of
from cetool.settings.condarc import Condarc, load_condarc

#: Subdirectories in which the embedded engine keeps packages and channel metadata.
PACKAGES = "pkgs"
METADATA = "repodata"
_LOCK = ".in-use.lock"


class DamagedPackages(EngineError):
    """Unpacked packages in a package cache are damaged.

    ``directories`` are the unpacked packages, ``how`` says what is wrong with their files.
    """

    code = "package-damaged"

    advice = "Remove these directories (or the whole package cache) and run the command again."

    def __init__(self, directories: Iterable[Path], how: str = "missing or cut off", log: str | None = None) -> None:
        self.directories = tuple(directories)
        names = ", ".join(directory.name for directory in self.directories)
        where = self.directories[0].parent
        super().__init__(
            f"the package cache {where} is damaged: files of {names} are {how}",
            hint=self.advice,
            log=log,
        )


class ReplacedPackages(DamagedPackages):
    """Another process replaced packages in the package cache while they were being linked."""

    advice = "Run the command again."

    def __init__(self, directories: Iterable[Path]) -> None:
        super().__init__(directories, how="changed: another process replaced them meanwhile")


def checked_caches(directories: Iterable[str], root: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the configured package caches of an engine, having checked that no other user can write to them.

    They may belong to the owner of the engine's installation, ``root``. Raises OwnershipError.
    """
    found = tuple(map(Path, directories))
    owners = {os.stat(root).st_uid} if os.path.isdir(root) else set()
    for directory in found:
        try:
            check_source_dir(directory, trust=is_trusting(environ), owners=owners)
        except OwnershipError as error:
            raise error.but(message=f"the package cache cannot be used: {error.message}") from None
    return found


def embedded_cache(condarc: Condarc, environ: Mapping[str, str], cache_dir: Path) -> Path:
    """Return the embedded engine's directory for packages and metadata.

    It is below the first writable directory of ``pkgs_dirs``, or else ``cache_dir``.
    Raises OwnershipError if another user could write there, and EngineError if no directory is writable.
    """
    trust = is_trusting(environ)
    for candidate in _candidates(condarc, cache_dir):
        if candidate.is_dir() and not os.access(candidate, os.W_OK | os.X_OK):
            continue
        try:
            for directory in (candidate, candidate / PACKAGES, candidate / METADATA):
                ensure_private_dir(directory, trust=trust)
            return candidate
        except OwnershipError as error:
            raise error.but(message=f"the package cache cannot be used: {error.message}") from None
        except StoreError as error:
            problem = error.message
    raise EngineError(f"cannot store packages in {cache_dir}: {problem}", code="cache-not-writable")


def embedded_caches(environ: Mapping[str, str], cache_dir: Path) -> list[Path]:
    """Return the directories where the embedded engine may keep packages and metadata, whether or not they exist.

    Raises ConfigError if conda's configuration cannot be read.
    """
    return _candidates(load_condarc(environ, mamba=True), cache_dir)


def _candidates(condarc: Condarc, cache_dir: Path) -> list[Path]:
    """Return where the embedded engine may keep packages and metadata, in order of preference."""
    return [*(Path(directory, "rattler") for directory in condarc.pkgs_dirs), cache_dir]


def distrust(directories: Iterable[Path]) -> None:
    """Make the embedded engine fetch these packages again: without this file it considers a package not unpacked."""
    for directory in directories:
        with contextlib.suppress(FileNotFoundError):
            (directory / "info" / "index.json").unlink()


@contextlib.contextmanager
def in_use(cache: Path) -> Iterator[None]:
    """Prevent garbage collection in a cache while an engine takes packages from it.

    A collection holds the file lock only while it renames directories. Without file locks, or without write access to
    the cache, there is no collection.
    """
    lock = None
    with contextlib.suppress(StoreError):
        lock = wait_for_lock(cache / _LOCK, shared=True)
    with lock or contextlib.nullcontext():
        yield


@contextlib.contextmanager
def held_for_collection(cache: Path) -> Iterator[bool]:
    """Keep engines out of a cache; yields False if an engine is using it, or if there are no file locks."""
    lock = None
    with contextlib.suppress(StoreError):
        lock = try_lock(cache / _LOCK, shared=False)
    with lock or contextlib.nullcontext():
        yield lock is not None


# --- archives of packages, by digest ----------------------------------------------------------------------------------


def archive_in(archives: Path, sha256: str) -> Path:
    """Return where the archive with this SHA-256 digest (64 hex digits) is kept below a directory."""
    return archives / "sha256" / sha256[:2] / sha256


def keep_archive(archives: Path, sha256: str, path: Path, *, move: bool) -> None:
    """Move or copy a file with this digest to where archives are kept, in one step. Raises OSError."""
    place = archive_in(archives, sha256)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if move:
        os.replace(path, place)
        return
    staging = place.with_name(f".{sha256}.{os.getpid()}")
    try:
        shutil.copyfile(path, staging)
        if digest_of(staging, "sha256") == sha256:  # the file may have changed since its digest was computed
            os.replace(staging, place)
    finally:
        staging.unlink(missing_ok=True)


def note_use(packages: Path, names: Iterable[str]) -> None:
    """Set the times of unpacked packages to now, to record that they were used."""
    for name in names:
        with contextlib.suppress(OSError):
            os.utime(packages / name)


@contextlib.contextmanager
def turn(lock_dir: Path, cache: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold an exclusive file lock for conda's package cache, which conda does not lock itself.

    Yields the descriptor that subprocesses inherit: an engine that outlives a killed cetool then keeps the file lock
    for as long as it runs. ``waiting`` is called once if another process holds the file lock. Waiting polls, so that
    Ctrl-C works.
    """
    resolved = os.path.normcase(os.path.realpath(cache))
    path = lock_dir / f"packages-{sha256_of(resolved.encode(errors='surrogateescape'))[:16]}.lock"
    try:
        lock = wait_for_lock(path, on_wait=lambda _: waiting())
    except StoreError as error:
        raise error.turned_into(EngineError) from error
    with lock:  # a child that is still running keeps the lock: it belongs to the open file, which the child shares
        yield lock.fd

"""The package caches of engines: where they are, who may use them at a time, and what is wrong with what is in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from cetool.base.codec import sha256_of
from cetool.base.errors import EngineError, StoreError
from cetool.base.filelock import try_lock, wait_for_lock
from cetool.base.ownership import OwnershipError, check_source_dir, ensure_private_dir, is_trusting
from cetool.settings.condarc import Condarc, load_condarc

#: Where the embedded engine keeps what it downloads, below its directory.
PACKAGES = "pkgs"
METADATA = "repodata"
_LOCK = ".in-use.lock"
#: Seconds between two tries: for locks that are held for moments, and for as long as an engine works.


class DamagedPackages(EngineError):
    """What was to be linked is not what the packages had; ``directories`` are where they are kept unpacked, ``how``
    what is wrong with their files.
    """

    code = "package-damaged"

    advice = "Remove these directories there (or all of it), and run the same command again."

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
    """Another process put other packages of the same names into the package cache while these were linked."""

    advice = "Run the same command again."

    def __init__(self, directories: Iterable[Path]) -> None:
        super().__init__(directories, how="not the same as a moment ago: another process replaced them")


def checked_caches(directories: Iterable[str], root: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The configured package caches of an engine: no stranger may be able to put packages there.

    They may belong to whom the engine's own installation, ``root``, belongs to. Raises OwnershipError.
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
    """The embedded engine's directory for packages and metadata: below the first writable ``pkgs_dirs``, else its own.

    Raises OwnershipError where strangers could write there, and EngineError where there is none.
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
    raise EngineError(f"packages cannot be kept in {cache_dir}: {problem}", code="cache-not-writable")


def embedded_caches(environ: Mapping[str, str], cache_dir: Path) -> list[Path]:
    """The directories in which the embedded engine keeps packages and metadata, whether they exist or not.

    Raises ConfigError for a configuration that cannot be read.
    """
    return _candidates(load_condarc(environ, mamba=True), cache_dir)


def _candidates(condarc: Condarc, cache_dir: Path) -> list[Path]:
    """Where the embedded engine may keep packages and metadata, in order of preference."""
    return [*(Path(directory, "rattler") for directory in condarc.pkgs_dirs), cache_dir]


def distrust(directories: Iterable[Path]) -> None:
    """Have the embedded engine fetch these packages again: it takes one without this file for not yet unpacked."""
    for directory in directories:
        with contextlib.suppress(FileNotFoundError):
            (directory / "info" / "index.json").unlink()


@contextlib.contextmanager
def in_use(cache: Path) -> Iterator[None]:
    """Keep collections out of a cache while an engine takes packages from it.

    A collection holds the file lock for as long as it takes to rename some directories. Where there are no file locks,
    or the cache cannot be written to, there is no collection either.
    """
    lock = None
    with contextlib.suppress(StoreError):
        lock = wait_for_lock(cache / _LOCK, shared=True)
    with lock or contextlib.nullcontext():
        yield


@contextlib.contextmanager
def held_for_collection(cache: Path) -> Iterator[bool]:
    """Hold a cache against engines; yields False where one is at work there, or where there are no file locks."""
    lock = None
    with contextlib.suppress(StoreError):
        lock = try_lock(cache / _LOCK, shared=False)
    with lock or contextlib.nullcontext():
        yield lock is not None


def note_use(packages: Path, names: Iterable[str]) -> None:
    """Note in the times of unpacked packages that they were used just now."""
    for name in names:
        with contextlib.suppress(OSError):
            os.utime(packages / name)


@contextlib.contextmanager
def turn(lock_dir: Path, cache: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold the exclusive lock for a package cache of conda's, which takes none; yields the descriptor that
    subprocesses are to inherit. ``waiting`` is called once, where another process holds it.

    An engine that outlives a killed cetool holds the lock for as long as it runs, since it inherited the descriptor.
    Waiting is done by asking again and again, so that Ctrl-C works.
    """
    resolved = os.path.normcase(os.path.realpath(cache))
    path = lock_dir / f"packages-{sha256_of(resolved.encode(errors='surrogateescape'))[:16]}.lock"
    try:
        lock = wait_for_lock(path, on_wait=lambda _: waiting())
    except StoreError as error:
        raise error.turned_into(EngineError) from error
    with lock:  # a child that still lives keeps the lock: it belongs to the open file, which the child shares
        yield lock.fd

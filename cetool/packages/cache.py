"""Packages that were damaged where they are kept unpacked: by a power cut, a failing disk, a cleaner of old files.

Engines link what they find there without a look at it, so that every environment made from then on would lack the same.

Packages that a conda which was killed left half unpacked in its package cache.

conda takes a directory there for a whole package as soon as its metadata are in it, and refuses to link what it then
misses: every later creation fails, until somebody removes the directory. It unpacks it anew from the archive beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cetool.base import filelock
from cetool.base.errors import EngineError, StoreError
from cetool.base.limits import PACKAGE, parse_json, read_regular
from cetool.base.ownership import OwnershipError, check_source_dir, ensure_private_dir, is_trusting
from cetool.settings.condarc import Condarc, load_condarc

#: Where the embedded engine keeps what it downloads, below its directory.
PACKAGES = "pkgs"
METADATA = "repodata"
_LOCK = ".in-use.lock"
_TICK = 0.02


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


class ReplacedPackages(DamagedPackages):
    """Another process put other packages of the same names into the package cache while these were linked."""

    advice = "Run the same command again."

    def __init__(self, directories: Iterable[Path]) -> None:
        super().__init__(directories, how="not the same as a moment ago: another process replaced them")


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


def is_cut_off(status: os.stat_result, size: object) -> bool:
    """Whether a file is what a power cut leaves of one of this size: it ends early, with a block of the disk.

    One that ends early somewhere else was changed by a program, through another of its names.
    """
    return isinstance(size, int) and status.st_size < size and not status.st_size % 512 and stat.S_ISREG(status.st_mode)


def is_damaged(directory: Path) -> bool:
    """Whether files of an unpacked package are missing or cut off. A package that is not there is not damaged."""
    if not directory.is_dir():
        return False
    try:
        listing = read_regular(directory / "info" / "paths.json", PACKAGE)
    except FileNotFoundError:  # packages of old have none
        return _lacks_files(directory)
    except OSError:
        return True
    try:
        for entry in parse_json(listing)["paths"]:
            if is_cut_off(os.lstat(f"{directory}/{entry['_path']}"), entry.get("size_in_bytes")):
                return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True
    return False


def _lacks_files(directory: Path) -> bool:
    try:
        names = read_regular(directory / "info" / "files", PACKAGE).decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return True
    return not all(os.path.lexists(directory / name) for name in names if name)


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
    descriptor = _opened(cache)
    try:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                while not filelock.take(descriptor, shared=True):
                    time.sleep(_TICK)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def held_for_collection(cache: Path) -> Iterator[bool]:
    """Hold a cache against engines; yields False where one is at work there, or where there are no file locks."""
    descriptor = _opened(cache)
    held = False
    with contextlib.suppress(OSError):
        held = descriptor is not None and filelock.take(descriptor, shared=False)
    try:
        yield held
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened(cache: Path) -> int | None:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(cache / _LOCK, flags, 0o600)
    except OSError:
        return None


def note_use(packages: Path, names: Iterable[str]) -> None:
    """Note in the times of unpacked packages that they were used just now."""
    for name in names:
        with contextlib.suppress(OSError):
            os.utime(packages / name)


_REFUSED = re.compile(r"The package for \S+ located at (?P<path>/.+?|[A-Za-z]:\\.+?)\s*\n\s*appears to be corrupted")
#: Seconds for which a directory must not change: another conda may be unpacking it this moment.
_STILL = 1.0


def refused_packages(words: str) -> list[Path]:
    """The directories that are not whole packages, by what conda said when it verified them."""
    return [Path(path) for path in dict.fromkeys(found["path"] for found in _REFUSED.finditer(words))]


def remove_refused(words: str) -> list[str]:
    """Take those directories out of the package cache that they lie in; the names of what is gone from there.

    What is no unpacked package in a package cache, is whole by now, may not be changed, or still changes stays.
    """
    found = [path for path in refused_packages(words) if _is_kept_unpacked(path) and is_damaged(path)]
    before = [_state(path) for path in found]
    if found:
        time.sleep(_STILL)
    return [path.name for path, state in zip(found, before, strict=True) if _state(path) == state and _remove(path)]


def _is_kept_unpacked(path: Path) -> bool:
    return (path / "info" / "index.json").is_file() and (path.parent / "urls.txt").is_file() and not path.is_symlink()


def _state(path: Path) -> dict[Path, int]:
    """The files below a directory, with their times: those that come or grow change it."""
    return {each: each.lstat().st_mtime_ns for each in path.rglob("*") if each.is_symlink() or each.exists()}


def _remove(path: Path) -> bool:
    """Rename it first: nobody is to meet it half removed."""
    try:
        aside = tempfile.mkdtemp(prefix=".damaged-", dir=path.parent)
        path.rename(Path(aside, path.name))
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True

"""The store: from an environment's name to its prefix, made once, complete or absent.

A prefix cannot be moved once made, so it is built where it will stay, and its marker, written last, is what makes it
exist. Two locks guard each name: ``NAME.build.lock`` is held by the one who makes it, ``DIRECTORY.lock`` is shared by
all that run in it and taken exclusively by whoever makes or removes that directory. A directory is usually called as
the environment; where one must be made anew while a script still runs in it, the new one is ``NAME-2``, and so on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cetool.cache.locks import FileLock, try_lock, wait_for_lock
from cetool.cache.marker import MARKER, Marker, read_marker, withdraw_marker, write_marker
from cetool.errors import StoreError
from cetool.paths import Paths
from cetool.spec.environment import NAME_LENGTH, EnvironmentSpec

_DIRECTORY = re.compile(rf"([0-9a-f]{{{NAME_LENGTH}}})(?:-(\d{{1,4}}))?\Z")


@dataclass
class Lease:
    """An environment that is held in use: it is not removed while ``lock`` or an inherited copy of it is open."""

    prefix: Path
    marker: Marker
    lock: FileLock | None
    created: bool = False

    def release(self) -> None:
        """Stop using it."""
        if self.lock is not None:
            self.lock.release()


@dataclass(frozen=True)
class Site:
    """Where an environment is to be built: an absent directory, held exclusively through ``inherit``'s descriptors."""

    prefix: Path
    log: Path
    inherit: tuple[int, ...]


class Builder(Protocol):
    """What makes an environment at a site and tells what it became; raises if it could not."""

    def __call__(self, site: Site) -> Marker: ...


@dataclass(frozen=True)
class Directory:
    """A directory of the store, complete or not."""

    prefix: Path
    name: str

    @property
    def marker(self) -> Marker | None:
        """Its marker, None where the environment is incomplete."""
        return valid_marker(self.prefix)


def valid_marker(prefix: Path) -> Marker | None:
    """The marker of a complete environment that was made for this very directory, else None."""
    marker = read_marker(prefix)
    if marker is None or os.path.realpath(marker.prefix) != os.path.realpath(prefix):
        return None  # copied or moved from elsewhere: the paths inside it are another's
    return marker


class Store:
    """All environments below one directory."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def prefix(self, name: str) -> Path:
        """Where the environment of this name is, or would be made."""
        found = self._complete(name)
        return self.paths.envs / name if found is None else found

    def lease(self, name: str) -> Lease | None:
        """The environment held in use, or None where there is no complete one."""
        for _ in range(3):  # a removal between the look and the lock: look again
            prefix = self._complete(name)
            if prefix is None:
                return None
            try:
                lock = try_lock(self._use_lock(prefix), shared=True)
            except StoreError:
                if os.access(self.paths.locks, os.W_OK):
                    raise
                lock = None  # a cache that nobody can write to: nothing can be removed from it either
            else:
                if lock is None:
                    continue
            marker = valid_marker(prefix)
            if marker is not None:
                return Lease(prefix, marker, lock)
            if lock is not None:
                lock.release()
        return None

    def ensure(
        self,
        spec: EnvironmentSpec,
        build: Builder,
        *,
        refresh: bool = False,
        on_wait: Callable[[str], None] | None = None,
        purpose: str = "",
    ) -> Lease:
        """The environment of this spec, held in use; made by ``build`` if it is absent, or anew with ``refresh``.

        Of all processes that want it at once one makes it and the others wait (``on_wait`` is told the maker's
        ``purpose``). If ``build`` raises, what it left is removed before the exception goes on.
        """
        asked = time.time()
        while True:
            lease = None if refresh else self.lease(spec.name)
            if lease is not None:
                return lease
            with wait_for_lock(self._build_lock(spec.name), on_wait=on_wait) as guard:
                guard.write_holder(f"process {os.getpid()}{f' ({purpose})' if purpose else ''}")
                lease = self.lease(spec.name)
                if lease is not None and (not refresh or lease.marker.created >= asked):
                    return lease
                if lease is not None:
                    lease.release()
                lease = self._build(spec, build, guard, refresh=refresh)
                if lease is not None:
                    return lease

    def _build(self, spec: EnvironmentSpec, build: Builder, guard: FileLock, *, refresh: bool) -> Lease | None:
        """Make the environment; None where a removal slipped in before it could be held in use."""
        prefix, lock = self._claim(spec.name)
        old = self._discard(prefix)
        self.paths.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = self.paths.logs / f"{prefix.name}.log"
        with contextlib.suppress(OSError):
            log.unlink()
        try:
            marker = build(Site(prefix, log, (guard.fd, lock.fd)))
            write_marker(prefix, marker)
        except BaseException as error:
            self._undo(prefix, old if refresh else None)
            if old is not None:
                delete_tree(old)
            lock.delete()
            if isinstance(error, OSError):
                raise _write_failure(error, prefix) from error
            raise
        if old is not None:
            delete_tree(old)
        for directory in self.directories(spec.name):
            if directory.prefix != prefix:
                self._supersede(directory)
        lock.downgrade()
        if valid_marker(prefix) is None:
            lock.release()
            return None
        return Lease(prefix, marker, lock, created=True)

    def _claim(self, name: str) -> tuple[Path, FileLock]:
        """A directory of that name that nobody uses, and its lock, held exclusively."""
        self.paths.envs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(1, 10_000):
            prefix = self.paths.envs / (name if number == 1 else f"{name}-{number}")
            for _ in range(20):  # whoever only looks holds the lock for a moment; a script holds it for longer
                lock = try_lock(self._use_lock(prefix), shared=False)
                if lock is not None:
                    return prefix, lock
                time.sleep(0.005)
        raise StoreError(f"every directory for the environment {name} is in use", hint="Wait for its scripts to end.")

    def _discard(self, prefix: Path) -> Path | None:
        """Move what is at a prefix into the trash (its lock being held exclusively), and tell where to."""
        if not os.path.lexists(prefix):
            return None
        self.paths.trash.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = self.paths.trash / f"{prefix.name}.{os.getpid()}.{time.time_ns()}"
        os.rename(prefix, target)
        return target

    def _undo(self, prefix: Path, old: Path | None) -> None:
        """After a failed creation: nothing of it stays, and the environment that it should replace comes back."""
        leftover = self._discard(prefix)
        if old is not None and (old / MARKER).exists():
            os.rename(old, prefix)
        if leftover is not None:
            delete_tree(leftover)

    def _supersede(self, directory: Directory) -> None:
        """Remove an older directory of the same name, or at least let no new run start in it."""
        lock = try_lock(self._use_lock(directory.prefix), shared=False)
        if lock is None:
            withdraw_marker(directory.prefix)
            return
        trash = self._discard(directory.prefix)
        lock.delete()
        if trash is not None:
            delete_tree(trash)

    def hold_for_removal(self, directory: Directory) -> FileLock | None:
        """The directory's exclusive lock, or None where something runs or is being made in it."""
        return try_lock(self._use_lock(directory.prefix), shared=False)

    def remove(self, directory: Directory, lock: FileLock) -> None:
        """Remove a directory whose exclusive lock is held: out of sight under the lock, deleted outside it."""
        trash = self._discard(directory.prefix)
        lock.delete()
        if trash is not None:
            delete_tree(trash)

    def in_use(self, directory: Directory) -> bool:
        """Whether any process holds the directory now."""
        lock = self.hold_for_removal(directory)
        if lock is None:
            return True
        lock.release()
        return False

    def directories(self, name: str | None = None) -> Iterator[Directory]:
        """The directories of the store (of that name), complete or not, by name."""
        try:
            entries = sorted(os.listdir(self.paths.envs))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.paths.envs} cannot be read: {error.strerror}") from error
        for entry in entries:
            match = _DIRECTORY.match(entry)
            if match and (name is None or match[1] == name):
                yield Directory(self.paths.envs / entry, match[1])

    def clear_trash(self) -> None:
        """Finish the deletions that were interrupted."""
        with contextlib.suppress(OSError):
            for entry in os.listdir(self.paths.trash):
                delete_tree(self.paths.trash / entry)

    def clear_locks(self) -> None:
        """Delete the lock files that nobody holds and that guard no directory."""
        try:
            entries = os.listdir(self.paths.locks)
        except OSError:
            return
        for entry in entries:
            stem = entry.removesuffix(".lock").removesuffix(".build")
            if not entry.endswith(".lock") or not _DIRECTORY.match(stem):
                continue
            if entry.endswith(".build.lock") or not os.path.lexists(self.paths.envs / stem):
                with contextlib.suppress(StoreError):
                    lock = try_lock(self.paths.locks / entry, shared=False)
                    if lock is not None:
                        lock.delete()

    def _complete(self, name: str) -> Path | None:
        usual = self.paths.envs / name
        if valid_marker(usual) is not None:
            return usual
        for directory in self.directories(name):
            if directory.prefix != usual and directory.marker is not None:
                return directory.prefix
        return None

    def _use_lock(self, prefix: Path) -> Path:
        return self.paths.locks / f"{prefix.name}.lock"

    def _build_lock(self, name: str) -> Path:
        return self.paths.locks / f"{name}.build.lock"


def delete_tree(path: Path) -> None:
    """Delete a tree of the trash, read-only directories included; what cannot be deleted now is left for later."""

    def make_writable(function: Callable[[str], object], name: str, _: object) -> None:
        with contextlib.suppress(OSError):
            parent = os.path.dirname(name)
            os.chmod(parent, stat.S_IRWXU)
            if not os.path.islink(name):
                os.chmod(name, stat.S_IRWXU)
            function(name)

    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, onerror=make_writable)


def _write_failure(error: OSError, prefix: Path) -> StoreError:
    hints = {
        errno.ENOSPC: "Free some room there (`cetool gc --all` removes all that is unused), or set CETOOL_CACHE_DIR.",
        errno.EDQUOT: "Your quota is used up: `cetool gc --all` removes all that is not in use.",
        errno.EROFS: "Set CETOOL_CACHE_DIR to a directory that can be written to.",
        errno.EACCES: "Look at the permissions of that directory, or set CETOOL_CACHE_DIR.",
    }
    return StoreError(
        f"the environment {prefix} could not be written: {error.strerror or error}", hint=hints.get(error.errno or 0)
    )

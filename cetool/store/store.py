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
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from cetool.base.errors import StoreError
from cetool.base.filelock import FileLock, is_locked, try_lock, wait_for_lock
from cetool.base.ownership import check_own_tree, ensure_private_dir, is_open_to_others, make_private_dirs
from cetool.base.patterns import pattern
from cetool.base.process import prefixes_in_use
from cetool.base.values import Value
from cetool.declare.environment import NAME_LENGTH, EnvironmentSpec
from cetool.settings.paths import Paths
from cetool.store.disk import clear, clear_locks, discard
from cetool.store.disk import delete_tree as delete_tree
from cetool.store.failures import keep_failure, raise_failure_since
from cetool.store.marker import Marker, Settling, is_marked, read_marker, valid_marker, withdraw_marker, write_marker

_DIRECTORY = pattern(rf"([0-9a-f]{{{NAME_LENGTH}}})(?:-(\d{{1,4}}))?\Z")
#: Seconds that one who wants to use a complete environment lets another hold it alone.
_PATIENCE = 2.0
#: To read and enter a directory, for its group and for others.
_LOOK = 0o055
_HINTS = {
    errno.ENOSPC: "Free some room there (cetool gc --older-than 0s removes all that is not in use), "
    "or set CETOOL_CACHE_DIR.",
    errno.EDQUOT: "Your quota is used up: cetool gc --older-than 0s removes all that is not in use.",
    errno.EROFS: "Set CETOOL_CACHE_DIR to a directory that can be written to.",
    errno.EACCES: "Look at the permissions of that directory, or set CETOOL_CACHE_DIR.",
}
_OTHER_HINT = "Look at the file system of that directory, or set CETOOL_CACHE_DIR."


class Lease(Value):
    """An environment that is held in use: it is not removed while ``lock`` or an inherited copy of it is open.

    One that lies over another of cetool's holds that ``below`` as well.
    """

    prefix: Path
    marker: Marker
    lock: FileLock | None
    created: bool = False
    below: FileLock | None = None

    @property
    def locks(self) -> tuple[FileLock, ...]:
        """All that is held."""
        return tuple(lock for lock in (self.lock, self.below) if lock is not None)

    @property
    def base(self) -> Path | None:
        """The prefix that it lies over, None where it stands by itself."""
        overlay = self.marker.spec.overlay
        return None if overlay is None else Path(overlay.base)

    @property
    def prefixes(self) -> tuple[Path, ...]:
        """Its own prefix, then its base's where it has one: where its programs are."""
        return (self.prefix,) if self.base is None else (self.prefix, self.base)

    def release(self) -> None:
        """Stop using it."""
        for lock in self.locks:
            lock.release()


class Site(Value):
    """Where an environment is to be built: an absent directory, held exclusively through ``inherit``'s descriptors.

    A builder that calls ``written`` when all is written lets it reach the disk while it still looks it over.
    """

    prefix: Path
    log: Path
    inherit: tuple[int, ...]
    written: Callable[[], None]


class Builder(Protocol):
    """What makes an environment at a site and tells what it became; raises if it could not."""

    def __call__(self, site: Site) -> Marker: ...


class Directory(Value):
    """A directory of the store, complete or not."""

    prefix: Path
    name: str

    @property
    def marker(self) -> Marker | None:
        """Its marker, None where the environment is incomplete."""
        return valid_marker(self.prefix)

    @property
    def is_marked(self) -> bool:
        """Whether it has a marker of its own, whatever is in that."""
        return is_marked(self.prefix)


class Store:
    """All environments below one directory."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._checked = False

    def check(self) -> None:
        """Check, once, that no other user has a hand in the environments. Raises OwnershipError.

        Whatever takes an environment from here, or tells of one, calls this first.
        """
        if not self._checked:
            for directory in dict.fromkeys((self.paths.root, self.paths.envs)):
                ensure_private_dir(directory, trust=self.paths.trusted, writable=False)
            self._checked = True

    def prefix(self, name: str) -> Path:
        """Where the environment of this name is, or would be made."""
        found = self._complete(name)
        return self.paths.envs / name if found is None else found

    def lease(self, name: str) -> Lease | None:
        """The environment held in use, or None where there is no complete one."""
        self.check()
        deadline = time.monotonic() + _PATIENCE
        while True:
            prefix = self._complete(name)
            if prefix is None:
                return None
            try:
                lock = try_lock(self.use_lock(prefix), shared=True)
                taken = lock is not None
            except StoreError:
                if os.access(self.paths.locks, os.W_OK):
                    raise
                lock, taken = None, True  # a cache that we cannot write to, and where nobody left a lock to hold
            if taken:
                marker = valid_marker(prefix)
                if marker is not None:
                    self._check_environment(prefix, lock)
                    return Lease(prefix, marker, lock)
                if lock is not None:
                    lock.release()  # removed between the look and the lock
            elif time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.005)  # somebody looks whether it is in use, removes it, or has just made it: look again

    def _check_environment(self, prefix: Path, lock: FileLock | None) -> None:
        try:
            check_own_tree(prefix, trust=self.paths.trusted)
        except OSError as error:
            if lock is not None:
                lock.release()
            raise _write_failure(error, prefix) from error
        except StoreError:
            if lock is not None:
                lock.release()
            raise

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
        ``purpose``). If ``build`` raises, what it left is removed before the exception goes on; those who waited for it
        raise the same.
        """
        self.check()
        asked = time.time()
        trash: list[Path] = []
        while True:
            lease = None if refresh else self.lease(spec.name)
            if lease is not None:
                return lease
            guard = wait_for_lock(self._build_lock(spec.name), on_wait=on_wait)
            try:
                guard.write_holder(f"process {os.getpid()}{f' ({purpose})' if purpose else ''}")
                lease = self.lease(spec.name)
                # of the future: the clock was set back since, and that one is no newer than this wish
                if lease is not None and refresh and not asked <= lease.marker.created <= time.time():
                    lease.release()
                    lease = None
                if lease is None:
                    raise_failure_since(self.paths.logs, spec.name, asked)
                    lease = self._build(spec, build, guard, trash, refresh=refresh)
            except BaseException as error:
                keep_failure(self.paths.logs, spec.name, error)
                raise
            finally:
                guard.retire()
                while trash:
                    delete_tree(trash.pop())
            if lease is not None:
                return lease

    def _build(
        self, spec: EnvironmentSpec, build: Builder, guard: FileLock, trash: list[Path], *, refresh: bool
    ) -> Lease | None:
        """Make the environment; None where it is to be looked for again. What is to be deleted goes to ``trash``."""
        prefix, lock = self._claim(spec.name)
        if not refresh and valid_marker(prefix) is not None:
            lock.release()  # complete after all: it was held for removal, and then was not removed
            return None
        old: Path | None = None
        try:
            old = discard(prefix, self.paths.trash)
            settling = Settling(prefix)
            with self._own_mode():
                marker = build(Site(prefix, self._new_log(prefix), (guard.fd, lock.fd), settling.start))
                settling.finish()
                write_marker(prefix, marker)
            if valid_marker(prefix) is None:
                raise StoreError(
                    f"the environment {prefix} was made as another one, {marker.prefix}", code="environment-damaged"
                )
        except BaseException as error:
            self._undo(prefix, old, lock, trash)
            if isinstance(error, OSError):
                raise _write_failure(error, prefix) from error
            raise
        if old is not None:
            trash.append(old)
        for directory in self.directories(spec.name):
            if directory.prefix != prefix:
                self._supersede(directory, trash)
        if not lock.downgrade() or valid_marker(prefix) is None:
            lock.release()  # a removal slipped in between
            return None
        return Lease(prefix, marker, lock, created=True)

    def _claim(self, name: str) -> tuple[Path, FileLock]:
        """A directory of that name that nobody uses, and its lock, held exclusively."""
        make_private_dirs(self.paths.envs, shared=True)
        self._share_locks()
        for number in range(1, 10_000):
            prefix = self.paths.envs / (name if number == 1 else f"{name}-{number}")
            for _ in range(20):  # whoever only looks holds the lock for a moment; a script holds it for longer
                lock = try_lock(self.use_lock(prefix), shared=False)
                if lock is None:
                    time.sleep(0.005)
                elif os.path.lexists(prefix) and prefixes_in_use([prefix]):
                    lock.release()  # by a process that closed the lock it had inherited
                    break
                else:
                    return prefix, lock
        raise StoreError(
            f"every directory for the environment {name} is in use",
            code="environment-in-use",
            hint="Wait for its scripts to end.",
        )

    @contextlib.contextmanager
    def _own_mode(self) -> Iterator[None]:
        """Let others not write to what is made here, whatever the umask, unless the directory is shared with them."""
        if os.name == "nt" or (self.paths.trusted and is_open_to_others(self.paths.envs.stat())):
            yield
            return
        mask = os.umask(0o077)
        os.umask(mask | 0o022)
        try:
            yield
        finally:
            os.umask(mask)

    def _share_locks(self) -> None:
        """Who may look into a directory of environments may hold those in use: its locks are as open as it is."""
        if os.name == "nt" or self.paths.locks.parent != self.paths.envs:
            return
        make_private_dirs(self.paths.locks, shared=True)
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(self.paths.locks.stat().st_mode)
            wanted = mode | stat.S_IMODE(self.paths.envs.stat().st_mode) & _LOOK
            if wanted != mode:
                self.paths.locks.chmod(wanted)

    def _new_log(self, prefix: Path) -> Path:
        """The path of the log of a creation; what an earlier one left there is gone."""
        make_private_dirs(self.paths.logs)
        log = self.paths.logs / f"{prefix.name}.log"
        with contextlib.suppress(OSError):
            log.unlink()
        return log

    def _undo(self, prefix: Path, old: Path | None, lock: FileLock, trash: list[Path]) -> None:
        """After a failed creation: nothing of it stays, and the environment that it should replace comes back."""
        try:
            leftover = discard(prefix, self.paths.trash)
            if leftover is not None:
                trash.append(leftover)
            if old is not None and read_marker(old) is not None:
                os.rename(old, prefix)
                lock.release()
                return
        except (OSError, StoreError):
            pass  # what could not be moved has no marker: the next one that wants the environment tries again
        if old is not None:
            trash.append(old)
        lock.retire()

    def _supersede(self, directory: Directory, trash: list[Path]) -> None:
        """Remove an older directory of the same name, or at least let no new run start in it."""
        try:
            lock = try_lock(self.use_lock(directory.prefix), shared=False)
            if lock is not None:
                with lock:
                    if not prefixes_in_use([directory.prefix]):
                        gone = discard(directory.prefix, self.paths.trash)
                        lock.delete()
                        trash += [] if gone is None else [gone]
                        return
        except (OSError, StoreError):
            pass  # the new one is made; the old one must not be in its way
        withdraw_marker(directory.prefix)

    def hold(self, prefix: Path) -> FileLock | None:
        """The shared lock of a directory of the store, whatever is in it; None where another holds it alone."""
        self.check()
        return try_lock(self.use_lock(prefix), shared=True)

    def hold_for_removal(self, directory: Directory) -> FileLock | None:
        """The directory's exclusive lock, or None where something runs or is being made in it."""
        return try_lock(self.use_lock(directory.prefix), shared=False)

    def remove(self, directory: Directory, lock: FileLock) -> None:
        """Remove a directory whose exclusive lock is held: out of sight under the lock, deleted outside it."""
        gone = self.put_away(directory)
        lock.delete()
        if gone is not None:
            delete_tree(gone)

    def put_away(self, directory: Directory) -> Path | None:
        """Move a directory whose exclusive lock is held into the trash; the caller deletes what it gets.

        Raises StoreError where that cannot be done.
        """
        try:
            return discard(directory.prefix, self.paths.trash)
        except OSError as error:
            raise StoreError(
                f"the environment {directory.prefix} could not be removed: {error.strerror or error}",
                code="cache-not-writable",
                hint=_HINTS.get(error.errno or 0, _OTHER_HINT),
            ) from error

    def last_shared_use(self, directory: Directory) -> float:
        """When anybody used a directory that several users share, as its lock's time tells; 0 for one's own."""
        if self.paths.locks.parent != self.paths.envs:
            return 0.0
        try:
            return self.use_lock(directory.prefix).stat().st_mtime
        except OSError:
            return 0.0

    def in_use(self, directory: Directory) -> bool:
        """Whether any process holds the directory now."""
        return is_locked(self.use_lock(directory.prefix))

    def directories(self, name: str | None = None) -> Iterator[Directory]:
        """The directories of the store (of that name), complete or not, by name."""
        self.check()
        try:
            entries = sorted(os.listdir(self.paths.envs))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(
                f"{self.paths.envs} cannot be read: {error.strerror}", code="cache-not-writable"
            ) from error
        for entry in entries:
            match = _DIRECTORY.match(entry)
            if match and (name is None or match[1] == name):
                yield Directory(self.paths.envs / entry, match[1])

    def clear_trash(self) -> None:
        """Finish the deletions that were interrupted."""
        clear(self.paths.trash, self.paths.envs)

    def clear_locks(self) -> None:
        """Delete the lock files that nobody holds and that guard no directory."""
        try:
            there = {directory.prefix.name for directory in self.directories()}
        except StoreError:
            return

        def is_wanted(name: str) -> bool:
            stem = name.removesuffix(".lock")
            # of a build's lock it does not matter whether there is a directory: nobody holds it
            return not _DIRECTORY.match(stem.removesuffix(".build")) or stem in there

        clear_locks(self.paths.locks, is_wanted)

    def _complete(self, name: str) -> Path | None:
        usual = self.paths.envs / name
        if valid_marker(usual) is not None:
            return usual
        found = [
            (marker.created, directory.prefix)
            for directory in self.directories(name)
            if directory.prefix != usual and (marker := directory.marker) is not None
        ]
        return max(found)[1] if found else None

    def use_lock(self, prefix: Path) -> Path:
        """The file lock that all who use a directory share."""
        return self.paths.locks / f"{prefix.name}.lock"

    def _build_lock(self, name: str) -> Path:
        return self.paths.locks / f"{name}.build.lock"


def _write_failure(error: OSError, prefix: Path) -> StoreError:
    return StoreError(
        f"the environment {prefix} could not be written: {error.strerror or error}",
        code="cache-not-writable",
        hint=_HINTS.get(error.errno or 0, _OTHER_HINT),
    )

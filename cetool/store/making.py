"""Make environments once, complete or absent; refresh and remove them.

A removed or replaced environment moves to the trash in one step, and is deleted after its file locks are released.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cetool.base.below import remove_below, walk, write_below
from cetool.base.errors import CODES, CetoolError, EngineError, Interrupted, StoreError
from cetool.base.filelock import FileLock, try_lock, wait_for_lock
from cetool.base.files import put_file, sync_file_system
from cetool.base.limits import NOTE, read_json
from cetool.base.ownership import is_open_to_others, make_private_dirs
from cetool.base.process import processes_in
from cetool.declare.environment import EnvironmentSpec
from cetool.store.disk import clear, clear_locks, delete_tree, discard, write_hint
from cetool.store.store import (
    FROZEN,
    MARKER,
    Directory,
    Lease,
    Marker,
    Store,
    is_directory_name,
    read_marker,
    valid_marker,
)

_FAILED = ".failed"
#: Permissions to read and enter a directory, and to write, for the group and others.
_LOOK, _CHANGE = 0o055, 0o022
_FROZEN_MESSAGE = (
    "cetool made this environment for the scripts that declare it. Its name is the digest of its specification, "
    "so it must not change. To use other packages, declare them in the script: the next run makes another environment."
)


class Builder(Protocol):
    """Makes an environment in an absent directory and returns its marker; raises if it fails.

    Its subprocesses keep the descriptors of the file locks open. It may start ``settling`` once everything is written.
    """

    def __call__(self, prefix: Path, log: Path, descriptors: tuple[int, ...], settling: Settling, /) -> Marker: ...


def ensure(
    store: Store,
    spec: EnvironmentSpec,
    build: Builder,
    *,
    refresh: bool = False,
    on_wait: Callable[[str], None] | None = None,
    purpose: str = "",
) -> Lease:
    """Return a lease of the spec's environment; call ``build`` if the environment is absent, or with ``refresh``.

    If several processes or threads want it at once, one makes it and the others wait (``on_wait`` gets its
    ``purpose``). If ``build`` raises, its remains are removed before the exception propagates, and those who waited
    raise the same.
    """
    store.check()
    asked = time.time()
    trash: list[Path] = []
    while True:
        lease = None if refresh else store.lease(spec.name)
        if lease is not None:
            return lease
        guard = wait_for_lock(store.build_lock(spec.name), on_wait=on_wait)
        try:
            guard.write_holder(f"process {os.getpid()}{f' ({purpose})' if purpose else ''}")
            lease = store.lease(spec.name)
            # created in the future: the clock was set back since, so it is not newer than this request
            if lease is not None and refresh and not asked <= lease.marker.created <= time.time():
                lease.release()
                lease = None
            if lease is None:
                raise_failure_since(store.paths.logs, spec.name, asked)
                lease = _make(store, spec, build, guard, trash, refresh=refresh)
        except BaseException as error:
            _keep_failure(store.paths.logs, spec.name, error)
            raise
        finally:
            guard.retire()
            while trash:
                delete_tree(trash.pop())
        if lease is not None:
            return lease


def _make(
    store: Store, spec: EnvironmentSpec, build: Builder, guard: FileLock, trash: list[Path], *, refresh: bool
) -> Lease | None:
    """Make the environment; return None if the caller should look again. Add what is to be deleted to ``trash``."""
    prefix, lock = _claim(store, spec.name)
    if not refresh and valid_marker(prefix) is not None:
        lock.release()  # it is complete: a collection held it, but did not remove it
        return None
    old: Path | None = None
    try:
        old = discard(prefix, store.paths.trash)
        settling = Settling(prefix)
        marker = build(prefix, _new_log(store, prefix), (guard.fd, lock.fd), settling)
        if not _is_shared(store) and _lets_others_write() and _close(prefix):
            settling.start()
        settling.finish()
        write_marker(prefix, marker)
        if valid_marker(prefix) is None:
            raise StoreError(
                f"environment {prefix} was made for another prefix, {marker.prefix}", code="environment-damaged"
            )
    except BaseException as error:
        _undo(store, prefix, old, lock, trash)
        if isinstance(error, OSError):
            raise StoreError(
                f"cannot write environment {prefix}: {error.strerror or error}",
                code="cache-not-writable",
                hint=write_hint(error),
            ) from error
        raise
    if old is not None:
        trash.append(old)
    for directory in store.directories(spec.name):
        if directory.prefix != prefix:
            _supersede(store, directory, trash)
    if not lock.downgrade() or valid_marker(prefix) is None:
        lock.release()  # another process removed it in between
        return None
    return Lease(prefix, marker, lock, created=True)


def _claim(store: Store, name: str) -> tuple[Path, FileLock]:
    """Return a directory of that name that no process uses, and its file lock, held exclusively."""
    make_private_dirs(store.paths.envs, shared=True)
    _share_locks(store)
    for number in range(1, 10_000):
        prefix = store.paths.envs / (name if number == 1 else f"{name}-{number}")
        for _ in range(20):  # a process that only checks holds the lock briefly, a script for longer
            lock = try_lock(store.use_lock(prefix), shared=False)
            if lock is None:
                time.sleep(0.005)
            elif os.path.lexists(prefix) and processes_in([prefix]):
                lock.release()  # used by a process that closed its inherited lock
                break
            else:
                return prefix, lock
    raise StoreError(
        f"every directory of environment {name} is in use",
        code="environment-in-use",
        hint="Wait until its scripts have ended.",
    )


def _share_locks(store: Store) -> None:
    """Give file locks the permissions of the environments' directory: a user who can read that may hold them."""
    locks, envs = store.paths.locks, store.paths.envs
    if os.name == "nt" or locks.parent != envs:
        return
    make_private_dirs(locks, shared=True)
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(locks.stat().st_mode)
        wanted = mode | stat.S_IMODE(envs.stat().st_mode) & _LOOK
        if wanted != mode:
            locks.chmod(wanted)


def _new_log(store: Store, prefix: Path) -> Path:
    """Return the path for the log of a new environment, after removing an earlier log."""
    make_private_dirs(store.paths.logs)
    log = store.paths.logs / f"{prefix.name}.log"
    with contextlib.suppress(OSError):
        log.unlink()
    return log


def _undo(store: Store, prefix: Path, old: Path | None, lock: FileLock, trash: list[Path]) -> None:
    """After a failure, remove what was made and restore the environment that it should have replaced."""
    try:
        leftover = discard(prefix, store.paths.trash)
        if leftover is not None:
            trash.append(leftover)
        if old is not None and read_marker(old) is not None:
            os.rename(old, prefix)
            lock.release()
            return
    except (OSError, StoreError):
        pass  # the remains have no marker: the next process that wants the environment tries again
    if old is not None:
        trash.append(old)
    lock.retire()


def _supersede(store: Store, directory: Directory, trash: list[Path]) -> None:
    """Remove an older directory of the same name, or at least prevent new runs in it."""
    try:
        lock = store.hold_for_removal(directory)
        if lock is not None:
            with lock:
                if not processes_in([directory.prefix]):
                    gone = discard(directory.prefix, store.paths.trash)
                    lock.delete()
                    trash += [] if gone is None else [gone]
                    return
    except (OSError, StoreError):
        pass  # failing to remove the old one must not fail the new one
    withdraw_marker(directory.prefix)


# --- modes ------------------------------------------------------------------------------------------------------------


def _is_shared(store: Store) -> bool:
    """Return whether other, trusted users can write to the directory of environments."""
    return os.name == "nt" or (store.paths.trusted and is_open_to_others(store.paths.envs.stat()))


def _lets_others_write() -> bool:
    """Return whether others could write to files that this process makes.

    True if the umask cannot be read without changing it for all threads.
    """
    try:
        found = re.search(r"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return True
    return found is None or int(found[1], 8) & _CHANGE != _CHANGE


def _close(prefix: Path) -> bool:
    """Remove write permission for others from an environment's files; return whether any changed."""
    changed = False
    for name, status in (("", prefix.lstat()), *walk(prefix)):
        if status.st_mode & _CHANGE and not stat.S_ISLNK(status.st_mode):
            with contextlib.suppress(PermissionError):  # hard link to another user's file in a package cache
                os.chmod(prefix / name, stat.S_IMODE(status.st_mode) & ~_CHANGE)
                changed = True
    return changed


# --- syncing to disk --------------------------------------------------------------------------------------------------


class Settling:
    """Freezes an environment (CEP 22) and writes all of it to disk before its marker is written.

    The disk works in a thread: a caller can start it once everything is written, and continue meanwhile.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def start(self) -> None:
        """Start, or start again if something was written since. Raises OSError."""
        if self._thread is not None:
            self._thread.join()
        frozen = json.dumps({"message": _FROZEN_MESSAGE}) + "\n"
        write_below(self._prefix, FROZEN, frozen.encode(), mode=0o666 & self._prefix.stat().st_mode)
        self._thread = threading.Thread(target=self._sync, name="cetool-sync", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until everything is on disk. Raises OSError if writing failed."""
        if self._thread is None:
            self.start()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _sync(self) -> None:
        self._error = None
        try:
            sync_file_system(self._prefix)
        except OSError as error:
            self._error = error


def write_marker(prefix: Path, marker: Marker) -> None:
    """Mark the environment complete; everything else must be on disk already (:class:`Settling`).

    Raises OSError if it cannot be written; the environment then stays incomplete.
    """
    # readable for every user who can read the environment: with a shared cache they must see that it is complete
    mode = 0o666 & prefix.stat().st_mode
    write_below(prefix, MARKER, json.dumps(marker.as_dict(), indent=1).encode(), mode=mode, sync=True)


def withdraw_marker(prefix: Path) -> None:
    """Mark the environment incomplete without affecting scripts that run in it."""
    with contextlib.suppress(OSError):
        remove_below(prefix, MARKER)


# --- failures ---------------------------------------------------------------------------------------------------------


def _keep_failure(logs: Path, name: str, error: BaseException) -> None:
    """Keep an error for the processes that wait, so that they do not fail one after another, each after a time limit.

    An interruption of this process is not kept.
    """
    if not isinstance(error, CetoolError) or isinstance(error, Interrupted):
        return
    failure = {
        "time": time.time(),
        "message": str(error),
        "hint": error.hint,
        "log": error.log,
        "code": error.code,
    }
    with contextlib.suppress(OSError):
        put_file(logs / f"{name}{_FAILED}", json.dumps(failure).encode(), mode=0o600, sync=False)


def raise_failure_since(logs: Path, name: str, since: float) -> None:
    """Raise, as EngineError, the last failure to make this environment if it happened after ``since`` (time.time())."""
    try:
        kept = read_json(logs / f"{name}{_FAILED}", NOTE, exact=True)
        when, message = float(kept["time"]), str(kept["message"])
        hint, log, code = (None if kept.get(key) is None else str(kept[key]) for key in ("hint", "log", "code"))
        if not since <= when <= time.time():
            return
    except (OSError, ValueError, KeyError, TypeError):
        return
    raise EngineError(
        f"{message} (reported by the process that was making this environment)",
        code=code if code in CODES else None,
        hint=hint,
        log=log,
    )


# --- removal ----------------------------------------------------------------------------------------------------------


def remove(store: Store, directory: Directory, lock: FileLock) -> None:
    """Remove a directory whose exclusive file lock is held: move it, release the lock, then delete it."""
    gone = put_away(store, directory)
    lock.delete()
    if gone is not None:
        delete_tree(gone)


def put_away(store: Store, directory: Directory) -> Path | None:
    """Move a directory whose exclusive file lock is held into the trash; the caller deletes the returned path.

    Raises StoreError if that fails.
    """
    try:
        return discard(directory.prefix, store.paths.trash)
    except OSError as error:
        raise StoreError(
            f"cannot remove environment {directory.prefix}: {error.strerror or error}",
            code="cache-not-writable",
            hint=write_hint(error),
        ) from error


def tidy(store: Store) -> None:
    """Finish interrupted deletions, and delete file locks that guard nothing."""
    clear(store.paths.trash, store.paths.envs)
    try:
        there = {directory.prefix.name for directory in store.directories()}
    except StoreError:
        return

    def is_wanted(name: str) -> bool:
        stem = name.removesuffix(".lock")
        # a build lock that no process holds can go whether or not the directory exists
        return not is_directory_name(stem.removesuffix(".build")) or stem in there

    clear_locks(store.paths.locks, is_wanted)

"""Environments made once, complete or absent; made again, and removed.

What is removed or replaced goes into the trash in one step, and is deleted once no file lock is held for it.
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
#: To read and enter a directory, for its group and for others; to write to what is in it.
_LOOK, _CHANGE = 0o055, 0o022
_FROZEN_MESSAGE = (
    "This environment was made by cetool for the scripts that declare it; its name is the digest of what they ask for, "
    "so it must never change. Declare other packages in the script, and the next run makes another environment."
)


class Builder(Protocol):
    """What makes an environment in an absent directory and returns what it became; raises if it could not.

    Its subprocesses keep the descriptors of the file locks open. ``settling`` can be started when all is written.
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
    """The environment of this spec, held in use; made by ``build`` if it is absent, or again with ``refresh``.

    Of all processes and threads that want it at once one makes it and the others wait (``on_wait`` gets the maker's
    ``purpose``). If ``build`` raises, what it left is removed before the exception goes on; those who waited for it
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
            # of the future: the clock was set back since, and that one is no newer than this wish
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
    """Make the environment; None where it is to be looked for again. What is to be deleted goes to ``trash``."""
    prefix, lock = _claim(store, spec.name)
    if not refresh and valid_marker(prefix) is not None:
        lock.release()  # complete after all: it was held for removal, and then was not removed
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
                f"the environment {prefix} was made as another one, {marker.prefix}", code="environment-damaged"
            )
    except BaseException as error:
        _undo(store, prefix, old, lock, trash)
        if isinstance(error, OSError):
            raise StoreError(
                f"the environment {prefix} could not be written: {error.strerror or error}",
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
        lock.release()  # a removal slipped in between
        return None
    return Lease(prefix, marker, lock, created=True)


def _claim(store: Store, name: str) -> tuple[Path, FileLock]:
    """A directory of that name that no process uses, and its file lock, held exclusively."""
    make_private_dirs(store.paths.envs, shared=True)
    _share_locks(store)
    for number in range(1, 10_000):
        prefix = store.paths.envs / (name if number == 1 else f"{name}-{number}")
        for _ in range(20):  # a process that only looks holds the lock for a moment, a script for longer
            lock = try_lock(store.use_lock(prefix), shared=False)
            if lock is None:
                time.sleep(0.005)
            elif os.path.lexists(prefix) and processes_in([prefix]):
                lock.release()  # by a process that closed the lock it had inherited
                break
            else:
                return prefix, lock
    raise StoreError(
        f"every directory for the environment {name} is in use",
        code="environment-in-use",
        hint="Wait for its scripts to end.",
    )


def _share_locks(store: Store) -> None:
    """Make file locks as open as their directory of environments: a user who may look into it may hold them."""
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
    """The path of the log of a creation; what an earlier one left there is gone."""
    make_private_dirs(store.paths.logs)
    log = store.paths.logs / f"{prefix.name}.log"
    with contextlib.suppress(OSError):
        log.unlink()
    return log


def _undo(store: Store, prefix: Path, old: Path | None, lock: FileLock, trash: list[Path]) -> None:
    """After a failed creation: nothing of it stays, and the environment that it should replace comes back."""
    try:
        leftover = discard(prefix, store.paths.trash)
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


def _supersede(store: Store, directory: Directory, trash: list[Path]) -> None:
    """Remove an older directory of the same name, or at least let no new run start in it."""
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
        pass  # the new one is made; the old one must not be in its way
    withdraw_marker(directory.prefix)


# --- modes ------------------------------------------------------------------------------------------------------------


def _is_shared(store: Store) -> bool:
    """Whether the directory of environments is open to others who are trusted."""
    return os.name == "nt" or (store.paths.trusted and is_open_to_others(store.paths.envs.stat()))


def _lets_others_write() -> bool:
    """Whether others could write to what this process makes; true where its umask cannot be read without changing it
    for all its threads."""
    try:
        found = re.search(r"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return True
    return found is None or int(found[1], 8) & _CHANGE != _CHANGE


def _close(prefix: Path) -> bool:
    """Let others not write to what is in an environment; whether they could."""
    changed = False
    for name, status in (("", prefix.lstat()), *walk(prefix)):
        if status.st_mode & _CHANGE and not stat.S_ISLNK(status.st_mode):
            with contextlib.suppress(PermissionError):  # another user's file in a package cache that is linked here
                os.chmod(prefix / name, stat.S_IMODE(status.st_mode) & ~_CHANGE)
                changed = True
    return changed


# --- to the disk ------------------------------------------------------------------------------------------------------


class Settling:
    """Freezes an environment (CEP 22) and brings all of it to the disk: before the marker, so that none is forged.

    The disk works by itself: who begins when all is written can go on meanwhile.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def start(self) -> None:
        """Begin, or begin again where something was written since. Raises OSError."""
        if self._thread is not None:
            self._thread.join()
        frozen = json.dumps({"message": _FROZEN_MESSAGE}) + "\n"
        write_below(self._prefix, FROZEN, frozen.encode(), mode=0o666 & self._prefix.stat().st_mode)
        self._thread = threading.Thread(target=self._sync, name="cetool-sync", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Return when it is on the disk. Raises OSError where it could not be brought there."""
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
    """Mark the environment complete, everything else of it being on the disk (:class:`Settling`).

    Raises OSError where it cannot be written; the environment is then incomplete.
    """
    # readable to all who can read the environment: who shares a cache has to see that it is complete
    mode = 0o666 & prefix.stat().st_mode
    write_below(prefix, MARKER, json.dumps(marker.as_dict(), indent=1).encode(), mode=mode, sync=True)


def withdraw_marker(prefix: Path) -> None:
    """Make the environment count as incomplete without touching what runs in it."""
    with contextlib.suppress(OSError):
        remove_below(prefix, MARKER)


# --- failures ---------------------------------------------------------------------------------------------------------


def _keep_failure(logs: Path, name: str, error: BaseException) -> None:
    """Keep what went wrong for those who wait, so that they do not fail one after the other, each after a time limit;
    nothing of what says only that the maker was stopped."""
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
    """Raise, as EngineError, what went wrong with the last creation if that was after ``since`` (a time of time())."""
    try:
        kept = read_json(logs / f"{name}{_FAILED}", NOTE, exact=True)
        when, message = float(kept["time"]), str(kept["message"])
        hint, log, code = (None if kept.get(key) is None else str(kept[key]) for key in ("hint", "log", "code"))
        if not since <= when <= time.time():
            return
    except (OSError, ValueError, KeyError, TypeError):
        return
    raise EngineError(
        f"{message} (so it went for the process that this one waited for)",
        code=code if code in CODES else None,
        hint=hint,
        log=log,
    )


# --- removal ----------------------------------------------------------------------------------------------------------


def remove(store: Store, directory: Directory, lock: FileLock) -> None:
    """Remove a directory whose exclusive file lock is held: out of sight under the lock, deleted outside it."""
    gone = put_away(store, directory)
    lock.delete()
    if gone is not None:
        delete_tree(gone)


def put_away(store: Store, directory: Directory) -> Path | None:
    """Move a directory whose exclusive file lock is held into the trash; the caller deletes what it gets.

    Raises StoreError where that cannot be done.
    """
    try:
        return discard(directory.prefix, store.paths.trash)
    except OSError as error:
        raise StoreError(
            f"the environment {directory.prefix} could not be removed: {error.strerror or error}",
            code="cache-not-writable",
            hint=write_hint(error),
        ) from error


def tidy(store: Store) -> None:
    """Finish the deletions that were interrupted, and delete the file locks that guard nothing."""
    clear(store.paths.trash, store.paths.envs)
    try:
        there = {directory.prefix.name for directory in store.directories()}
    except StoreError:
        return

    def is_wanted(name: str) -> bool:
        stem = name.removesuffix(".lock")
        # of a build's lock it does not matter whether there is a directory: no process holds it
        return not is_directory_name(stem.removesuffix(".build")) or stem in there

    clear_locks(store.paths.locks, is_wanted)

"""Write files in one step, so that a reader sees the old file or the new one, complete; and sync them to disk.

Code that reads a file, changes it and writes it back uses :func:`update_file` or :func:`replace_file`: a file lock
makes processes of cetool take turns, and cetool never overwrites what an editor saved in the meantime.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cetool.base import filelock
from cetool.base.limits import NOTEBOOK, read_regular

#: Seconds to wait for another process that is changing the same file.
_PATIENCE = 30.0
_PAUSE = 0.005
#: How often to repeat a change because another process has just written the file.
_TRIES = 50
#: Linux's flag to exchange two names in one step.
_RENAME_EXCHANGE = 2


class ChangedError(OSError):
    """A file is not the one that was read: nothing was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ESTALE, "another process changed it in the meantime", str(path))


def put_file(path: Path, data: bytes, *, mode: int | None = None, sync: bool = True) -> None:
    """Replace the file by one with these bytes, which are on disk when this returns if ``sync``. Raises OSError.

    The new file has the mode bits ``mode``. If that is None it has the mode of the existing file and, as far as this
    user may set them, its owner, group and extended attributes. A symbolic link is replaced: resolve it first.
    """
    temporary = _write_beside(path, data, mode, sync=sync)
    try:
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if sync:
        sync_directory(path.parent)


def replace_file(path: Path, old: bytes | None, new: bytes | None, *, mode: int | None = None) -> None:
    """Replace the old bytes by the new ones as :func:`put_file` does; None stands for no file.

    Raises ChangedError if the file no longer has the old bytes, another OSError if it cannot be written.
    """
    with _turn(path):
        if read_if_there(path) != old:
            raise ChangedError(path)
        if new is None:
            path.unlink(missing_ok=True)
        else:
            temporary = _write_beside(path, new, mode, sync=True)
            try:
                _exchange(temporary, path, old)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
        sync_directory(path.parent)


def update_file(path: Path, change: Callable[[bytes | None], bytes | None], *, mode: int | None = None) -> bool:
    """Replace a file's content with what ``change`` makes of it; return whether it differs. None stands for no file.

    If another process writes the file meanwhile, ``change`` is called again with the new content. A symbolic link is
    followed. Raises OSError, and whatever ``change`` raises.
    """
    for _ in range(_TRIES):
        target = Path(os.path.realpath(path))
        old = read_if_there(target)
        new = change(old)
        if new == old:
            return False
        with contextlib.suppress(ChangedError):
            replace_file(target, old, new, mode=mode)
            return True
    raise ChangedError(path)


def read_if_there(path: Path) -> bytes | None:
    """Read a regular file, or return None if there is none. Raises OSError."""
    try:
        return read_regular(path, NOTEBOOK)
    except FileNotFoundError:
        return None


def write_new(
    path: str | Path, data: bytes, *, mode: int | None = None, sync: bool = False, dir_fd: int | None = None
) -> None:
    """Write a file that does not exist yet (else FileExistsError), with ``mode`` or the default mode of new files."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666 if mode is None else mode & 0o600, dir_fd=dir_fd)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(descriptor, mode)
            if sync:
                file.flush()
                os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path, dir_fd=dir_fd)
        raise


def _write_beside(path: Path, data: bytes, mode: int | None, *, sync: bool) -> str:
    """Write a new file with these bytes in the same directory, ready to replace the other one; return its path."""
    temporary = f"{path.parent}{os.sep}.{path.name[:100]}.{os.urandom(6).hex()}.cetool"
    takes_after = mode is None and os.path.lexists(path)
    write_new(temporary, data, mode=0o600 if takes_after else mode, sync=sync)
    if takes_after:
        try:
            _take_after(path, temporary)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    return temporary


def _take_after(target: Path, temporary: str) -> None:
    """Copy the mode, owner, group and extended attributes of the old file to the new one.

    The owner comes first, since setting it clears bits of the mode.
    """
    status = os.stat(target)
    if hasattr(os, "chown"):
        mine = os.stat(temporary)
        if (mine.st_uid, mine.st_gid) != (status.st_uid, status.st_gid):
            with contextlib.suppress(OSError):  # this user may be allowed to set the group but not the owner
                os.chown(temporary, -1, status.st_gid)
            with contextlib.suppress(OSError):
                os.chown(temporary, status.st_uid, -1)
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):
            for key in os.listxattr(target):
                with contextlib.suppress(OSError):
                    os.setxattr(temporary, key, os.getxattr(target, key))
    made = os.stat(temporary)
    # a set-user-ID program must not become one that runs as another user
    kept = 0o7777 if (made.st_uid, made.st_gid) == (status.st_uid, status.st_gid) else 0o777
    os.chmod(temporary, status.st_mode & kept)


def _exchange(temporary: str, path: Path, old: bytes | None) -> None:
    """Replace the old file by the new one unless an editor was faster. Raises ChangedError, OSError."""
    if old is None:
        try:
            os.link(temporary, path)
            return
        except FileExistsError:
            raise ChangedError(path) from None
        except OSError:  # a file system without hard links
            pass
    if old is None or not _exchange_names(temporary, path):
        os.replace(temporary, path)
        return
    # the temporary file now has what was replaced: only now is that certain
    if read_if_there(Path(temporary)) == old:
        return
    ours = os.stat(path)
    _exchange_names(temporary, path)
    if not os.path.samestat(os.stat(temporary), ours):
        _exchange_names(temporary, path)  # a second writer has already replaced ours: keep theirs
    raise ChangedError(path)


def _exchange_names(one: str, other: Path) -> bool:
    """Exchange two files in one step; return whether the system and file system support that."""
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # an older C library
        return False
    here = -100  # AT_FDCWD
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), _RENAME_EXCHANGE) == 0)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold the file lock for changes to this file: on its directory, where no lock file is needed.

    If the directory cannot be locked (NFS, Windows), the lock is a file next to this one, which is removed afterwards.
    Raises OSError if another process holds the lock for longer than writing a file can take.
    """
    deadline = time.monotonic() + _PATIENCE
    while (held := _try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise OSError(errno.EAGAIN, "another process is changing files in its directory", str(path))
        time.sleep(_PAUSE)
    descriptor, beside = held
    try:
        yield
    finally:
        if beside is not None:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        if descriptor is not None:
            os.close(descriptor)


def _try_lock(path: Path) -> tuple[int | None, Path | None] | None:
    """Try to lock a file's directory or a file next to it.

    Returns the descriptor and the lock file, if any; two Nones if neither can be locked; None if another process holds
    the lock.
    """
    beside = path.with_name(f".{path.name[:100]}.lock")
    places = [(beside, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0))]
    if os.name != "nt":
        places.insert(0, (path.parent, os.O_RDONLY | os.O_DIRECTORY))
    for place, flags in places:
        try:
            descriptor = os.open(place, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError:
            continue
        try:
            taken = filelock.take(descriptor, shared=False)
            if taken and place is beside:  # its last holder may have removed it
                taken = os.path.samestat(os.fstat(descriptor), os.stat(beside))
        except FileNotFoundError:
            taken = False
        except OSError:
            os.close(descriptor)
            continue
        if taken:
            return descriptor, beside if place is beside else None
        os.close(descriptor)
        return None
    return None, None


def sync_directory(directory: Path) -> None:
    """Sync a directory's entries to disk, if the system can open directories."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_file_system(prefix: Path) -> None:
    """Sync to disk what was written below a directory. Raises OSError.

    There are thousands of files, so the whole file system is synced at once if possible.
    """
    import ctypes

    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a C library without the function
            libc = ctypes.CDLL(None, use_errno=True)
            fd = os.open(prefix, os.O_RDONLY)
            try:
                if libc.syncfs(fd) == 0:
                    return
                number = ctypes.get_errno()
            finally:
                os.close(fd)
            if number in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # the data did not reach the disk
                raise OSError(number, os.strerror(number), str(prefix))
    if hasattr(os, "sync"):
        os.sync()

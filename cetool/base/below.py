"""What is below a directory: looked at, read, written and removed, and never a link followed.

A package can have put a link, a pipe or a directory in any place of a prefix. Directories are opened one after the
other, each in the one before it, and a file is made beside the one that it replaces. So what a package ships cannot
make cetool write to, or remove, a file elsewhere.
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
    """Everything below a directory: its path from there, with slashes, and its status, links not followed.

    Directories come before what is in them. What cannot be read, or has just gone, is left out.
    """
    pending = [(os.fspath(root), "")]
    while pending:
        directory, before = pending.pop()
        opened = -1
        try:
            if _SCANS:  # files are found a fifth faster from there
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
    """Bytes that a file takes on disk."""
    blocks = getattr(status, "st_blocks", 0)
    # some file systems give a file its blocks only when it is written out, seconds later
    return blocks * 512 if blocks else status.st_size


def total_room(statuses: Iterable[os.stat_result]) -> int:
    """Bytes that files take on disk together, each counted once however many names it has among them."""
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
    """The bytes of a regular file below the prefix. Raises OSError, for a link, a pipe or a larger file too."""
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
    """Put the bytes in the place of whatever is there, in one step.

    The mode is that of any new file unless given; with ``parents`` missing directories are made, with ``sync`` the file
    and its name are on the disk when this returns. Raises OSError, where a directory is in the way too.
    """
    with _folder(prefix, name, make=parents) as (folder, last):
        # who writes holds the prefix: what is there was left by a killed process, or by a package
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
    """Remove a file, or a link itself. Raises OSError; that nothing is there is no error."""
    with contextlib.suppress(FileNotFoundError), _folder(prefix, name) as (folder, last):
        os.unlink(last, dir_fd=folder)
        if folder is not None:
            with contextlib.suppress(OSError):
                os.fsync(folder)


@contextlib.contextmanager
def _folder(prefix: Path, name: str, *, make: bool = False) -> Iterator[tuple[int | None, str]]:
    """The open directory of a file, and what the file is called from there; without descriptors its whole path."""
    *parents, last = name.split("/")
    if not all(part not in ("", ".", "..") for part in (*parents, last)):
        raise ValueError(f"{name!r} is not a path below a prefix")
    if not _BY_DESCRIPTOR:  # Windows: links need a privilege there
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
    return OSError(errno.ENOTDIR, f"a package has put a link or a file in the place of the directory {path}", path)

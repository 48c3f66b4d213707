"""Check who else could have written what cetool is about to run or obey.

What cetool takes from a directory runs as the user, and a settings file can turn checks off. So cetool uses both only
if no other user could have written them. The rules are those of ssh for its keys, extended to every directory and
symbolic link on the way, to the members of groups, and to POSIX access control lists.

A check by path is safe here because it walks from the root down: once a directory is known to be closed to others, only
this user and root can replace what is in it, now and until it is used. On Windows, where profiles are private and modes
mean nothing, nothing is checked.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from cetool.base.errors import StoreError, is_disk_full

_OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IWOTH
#: The number of symbolic links that Linux follows on one path.
_MOST_LINKS = 40
#: Entries of a POSIX access control list, and its write permission.
_ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP, _ACL_MASK, _ACL_WRITE = 0x02, 0x04, 0x08, 0x10, 2
#: System accounts in root's group on Red Hat and related distributions; none of them can log in.
_IN_ROOTS_GROUP = frozenset({"sync", "shutdown", "halt", "operator"})
_CHOOSE = "Set CETOOL_CACHE_DIR to a directory that you can write to."
_TRUST = (
    "If you trust everyone who shares it, pass --trust-cache-dir or set trust-cache-dir; "
    "otherwise set CETOOL_CACHE_DIR to a directory of your own."
)
_TRUST_VARIABLE = "CETOOL_TRUST_CACHE_DIR"


class OwnershipError(StoreError):
    """Another user could have written what cetool would use."""

    code = "owner-unsafe"


def is_trusting(environ: Mapping[str, str]) -> bool:
    """Return whether the variables say that everyone who can write to these directories is trusted."""
    return environ.get(_TRUST_VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")


def trusting(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables, changed to say that everyone who can write to these directories is trusted."""
    return {**environ, _TRUST_VARIABLE: "true"}


# --- directories ------------------------------------------------------------------------------------------------------


def ensure_private_dir(path: Path, *, trust: bool, writable: bool = True) -> None:
    """Create the directory (0700, and missing parents), or check that an existing one is private to this user.

    With ``writable`` false, the directory is only read: it is not created, and need not be writable.

    Raises OwnershipError if the directory belongs to another user, if its group or others can write to it, if it is a
    symbolic link, or if another user could replace it or a part of its path; StoreError if it cannot be created or
    written to. ``trust`` skips all checks, and gives a new directory the access of the shared one around it.
    """
    checked = not trust and sys.platform != "win32"
    if checked:
        _check(path)
    if not writable:
        return
    make_private_dirs(path, shared=trust)
    if checked:
        _check(path)  # again: another user could have created it first
        if not os.access(path, os.W_OK | os.X_OK):
            raise StoreError(f"the directory {path} is not writable", code="cache-not-writable", hint=_CHOOSE)


def check_source_dir(path: Path, *, trust: bool, owners: Collection[int] = ()) -> None:
    """Check a directory from which programs take code and to which cetool does not write; a missing one is fine.

    It may belong to this user, to root, or to one of ``owners``. Raises OwnershipError.
    """
    if trust or sys.platform == "win32":
        return
    for place, info in _walk(path):
        _check_passed(path, place, info, owners)


def check_own_tree(path: Path, *, trust: bool) -> None:
    """Check that no other user owns an environment or can write to it; its parent was checked before.

    Raises OwnershipError.
    """
    if trust or sys.platform == "win32":
        return
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode):
        raise OwnershipError(f"{path} is not a directory", hint="Remove it.")
    if _is_foreign(info):
        raise _belonging(f"the environment {path}", info, ": its programs would run as you", _TRUST)
    if who := _writers(info, str(path)):
        hint = f"Run `chmod go-w '{path}'`, then re-create it with `cetool run --refresh`. {_TRUST}"
        raise _writable(f"the environment {path}", info, who, ": their files would run as you", hint)


def make_private_dirs(path: Path, *, shared: bool = False) -> None:
    """Create a directory and its missing parents, each 0700. Raises StoreError with the system's reason.

    With ``shared``, a directory created in one that its group or others can write to (except ``/tmp`` and other sticky
    ones) gets that directory's mode.
    """
    missing = []
    directory = path
    while not os.path.lexists(directory) and directory != directory.parent:
        missing.append(directory)
        directory = directory.parent
    try:
        for directory in reversed(missing):
            _make(directory, shared=shared)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        full = is_disk_full(error)
        hint = "Free some space, or set CETOOL_CACHE_DIR to a directory on another disk."
        hint = hint if full else owner_note(directory.parent) + _CHOOSE
        raise StoreError(
            f"cannot create the directory {path}: {directory}: {reason}", code="cache-not-writable", hint=hint
        ) from None
    if not path.is_dir():
        raise StoreError(f"{path} is not a directory", code="cache-not-writable", hint=f"Move it away. {_CHOOSE}")


def is_open_to_others(info: os.stat_result) -> bool:
    """Return whether the mode lets the group or others write, so that a new file in it is not private."""
    return bool(info.st_mode & _OPEN_TO_OTHERS)


def _make(directory: Path, *, shared: bool) -> None:
    try:
        directory.mkdir(0o700)
    except FileExistsError:
        return  # another process was faster
    mode = directory.parent.stat().st_mode
    if shared and mode & _OPEN_TO_OTHERS and not mode & stat.S_ISVTX:
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) | mode & 0o077)


def _check(path: Path) -> None:
    """Raise if another user can change the directory or the way to it; a missing one is fine."""
    way = list(_walk(path))
    if path.is_symlink():
        raise OwnershipError(
            f"{path} is a symbolic link instead of a directory",
            hint=f"Set CETOOL_CACHE_DIR (or env-dir) to the directory itself, {os.path.realpath(path)}.",
        )
    end = os.path.realpath(path)
    for place, info in way:
        if place == end:
            _check_own(path, info)
        else:
            _check_passed(path, place, info)


def _walk(path: Path) -> list[tuple[str, os.stat_result]]:
    try:
        return list(_way(path))
    except OSError as error:
        raise StoreError(
            f"the directory {path} cannot be used: {error.strerror}", code="cache-not-writable", hint=_CHOOSE
        ) from None


def _check_own(path: Path, info: os.stat_result) -> None:
    if info.st_uid != _me():
        raise _belonging(f"the directory {path}", info, ": files in it would run as you", _owner_hint(path, info))
    if info.st_mode & _OPEN_TO_OTHERS:
        who = "everyone" if info.st_mode & stat.S_IWOTH else "its group"
        hint = f"Check that no one has put files there, then run `chmod go-w '{path}'`. {_TRUST}"
        raise _writable(f"the directory {path}", info, who, ": their files would run as you", hint)


def _check_passed(
    path: Path, place: str, info: os.stat_result, owners: Collection[int] = (), what: str = "", hint: str = ""
) -> None:
    """Check a directory or link on the way: who can write to the one or owns the other can replace what follows."""
    here = "it" if place == str(path) else f"{place}, on the way to it,"
    subject = f"{what or f'the directory {path}'} is not safe: {here}"
    if _is_foreign(info, owners):
        raise _belonging(subject, info, ", who could replace it", hint or _owner_hint(path, info))
    if not stat.S_ISDIR(info.st_mode) or (info.st_mode & stat.S_ISVTX and place != str(path)):
        return
    if who := _writers(info, place):
        hint = hint or f"Run `chmod go-w '{place}'`. {_TRUST}"
        raise _writable(subject, info, who, ", who could replace it", hint)


def owner_note(path: str | os.PathLike[str]) -> str:
    """Return a sentence on who owns a file and who runs cetool; empty if that is the same user, or root runs it."""
    with contextlib.suppress(OSError):
        owner = os.stat(path).st_uid
        if sys.platform != "win32" and _me() not in (0, owner):
            return f"{os.fspath(path)} belongs to {_user_name(owner)}, and you are {_user_name(_me())}. "
    return ""


def _owner_hint(path: Path, info: os.stat_result) -> str:
    """Return what to do about a cache directory that belongs to another user, or is below such a directory."""
    if _me() == 0:
        return f"You are root. With sudo, use `sudo -H`, which sets root's home directory. {_TRUST}"
    if info.st_uid == 0:
        return f"You are {_user_name(_me())}. To make it yours, run `sudo chown -R {_me()} '{path}'`. {_TRUST}"
    return f"You are {_user_name(_me())}. In a container, run as user {info.st_uid}. {_TRUST}"


def _is_foreign(info: os.stat_result, owners: Collection[int] = ()) -> bool:
    """Return whether it belongs neither to this user, nor to root, nor to one of ``owners``."""
    return info.st_uid not in (0, _me(), *owners) and not _is_unmapped(info.st_uid)


def _belonging(subject: str, info: os.stat_result, threat: str, hint: str) -> OwnershipError:
    return OwnershipError(f"{subject} belongs to {_user_name(info.st_uid)}{threat}", hint=hint)


def _writable(subject: str, info: os.stat_result, who: str, threat: str, hint: str) -> OwnershipError:
    mode = f"{stat.S_IMODE(info.st_mode):04o}"
    return OwnershipError(f"{subject} is writable by {who} (mode {mode}){threat}", hint=hint)


def _way(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every directory and link on the way to a path, the path's own target last; stop at a missing one.

    ``os.path.realpath`` would not name the links, each of which could be another user's.
    """
    current = "/"
    pending = os.path.abspath(path).split("/")[::-1]
    links = 0
    yield current, os.lstat(current)
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            current = os.path.dirname(current)
            continue
        step = os.path.join(current, part)
        try:
            info = os.lstat(step)
        except FileNotFoundError:
            return
        yield step, info
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), step)
            target = str(Path(step).readlink())
            current = "/" if target.startswith("/") else current
            pending += target.split("/")[::-1]
        else:
            current = step


# --- files ------------------------------------------------------------------------------------------------------------


def read_own_file(path: Path, *, limit: int, trust: bool = False, owners: Collection[int] = ()) -> bytes:
    """Read a regular file that only this user, root or one of ``owners`` could have written.

    The file that is checked is the one that is read, by one descriptor. Raises OSError as ``open`` does, with EINVAL if
    it is not a regular file and EFBIG if it has more than ``limit`` bytes; OwnershipError if another user could have
    written or replaced it.
    """
    checked = not trust and sys.platform != "win32"
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if checked:
            _check_file(path, info, file.fileno(), owners)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit >> 20} MiB", str(path))
    return data


def _check_file(path: Path, info: os.stat_result, descriptor: int, owners: Collection[int]) -> None:
    named = "Use a home directory of your own (with sudo: `sudo -H`), or another file."
    for place, passed in _walk(path):
        if not stat.S_ISREG(passed.st_mode):
            _check_passed(path, place, passed, owners, "the file", f"Close directories with `chmod go-w`. {named}")
    threat = ", who could turn off checks that protect you"
    if _is_foreign(info, owners):
        raise _belonging("the file", info, threat, named)
    if who := _writers(info, descriptor):
        raise _writable("the file", info, who, threat, f"Check its content, then run `chmod go-w '{path}'`.")


# --- users and groups -------------------------------------------------------------------------------------------------


def _writers(info: os.stat_result, place: str | int) -> str | None:
    """Return which users, other than the owner and root, can write to a file or directory; None if none can.

    With an access control list, the group bits of the mode are its mask: without the bit, it grants nothing.
    """
    if info.st_mode & stat.S_IWOTH:
        return "everyone"
    if not info.st_mode & stat.S_IWGRP:
        return None
    entries = _acl(place)
    if entries is None:
        return None if _is_private_group(info.st_gid, info.st_uid) else "its group"
    mask = next((allowed for tag, allowed, _ in entries if tag == _ACL_MASK), 7)
    for tag, allowed, number in entries:
        if not allowed & mask & _ACL_WRITE:
            continue
        if tag == _ACL_USER and number not in (0, info.st_uid):
            return f"{_user_name(number)}, by its access control list (getfacl)"
        if tag == _ACL_GROUP and not _is_private_group(number, info.st_uid):
            return f"group {_group_name(number)}, by its access control list (getfacl)"
        if tag == _ACL_GROUP_OBJ and not _is_private_group(info.st_gid, info.st_uid):
            return "its group"
    return None


def _acl(place: str | int) -> list[tuple[int, int, int]] | None:
    """Return the POSIX access control list (tag, permissions and number of each entry), or None."""
    if not hasattr(os, "getxattr"):
        return None
    try:
        data = os.getxattr(place, "system.posix_acl_access")
    except OSError:
        return None  # no list, or a file system without them
    return [struct.unpack_from("<HHI", data, at) for at in range(4, len(data) - 7, 8)]


@functools.lru_cache(maxsize=64)
def _is_private_group(gid: int, owner: int) -> bool:
    """Return whether only this owner and root are in a group, also as anyone's primary group.

    Debian, Fedora and others give every user such a group, and create directories with mode 0775 (umask 002).
    """
    if sys.platform == "win32":
        return True
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(owner)
    except KeyError:
        return False
    if user.pw_gid != gid or group.gr_name != user.pw_name:
        return False
    others = {each.pw_name for each in pwd.getpwall() if each.pw_gid == gid and each.pw_uid not in (0, owner)}
    if gid == 0:
        others -= _IN_ROOTS_GROUP
    return not others and all(_uid_of(name) in (0, owner) for name in group.gr_mem)


def _uid_of(name: str) -> int | None:
    if sys.platform != "win32":
        import pwd

        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return None


def _group_name(gid: int) -> str:
    if sys.platform != "win32":
        import grp

        with contextlib.suppress(KeyError):
            return grp.getgrgid(gid).gr_name
    return str(gid)


def _me() -> int:
    return -1 if sys.platform == "win32" else os.geteuid()


def _user_name(uid: int) -> str:
    if sys.platform != "win32":
        import pwd

        with contextlib.suppress(KeyError):
            return f"{pwd.getpwuid(uid).pw_name} (user {uid})"
    return f"user {uid}"


def _is_unmapped(uid: int) -> bool:
    """Return whether a rootless container uses this number for all users of the host, including root."""
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
        mapped = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    except (OSError, ValueError, IndexError):
        return False
    return uid == overflow and mapped < 2**32 - 1

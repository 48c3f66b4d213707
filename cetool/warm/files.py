"""Files in a warm run: the states by which changes are detected, and the line in the spool for a use.

This module imports only ``os`` and ``time``. :mod:`cetool.store.usage_files` reads the spool.
"""

# Annotations are evaluated or quoted, because `from __future__ import annotations` would be another import.
import os
import time

#: A file younger than this may change again without new times (they come from the kernel's last tick).
SETTLED_NS = 50_000_000
#: The same for file systems that store whole or even seconds.
SETTLED_COARSE_NS = 2_100_000_000
#: The file in the spool to which notes are appended.
ACTIVE = "uses"
#: Maximum bytes of a script's name: the whole line must be shorter than 4096, for an atomic append.
_MOST_NAME = 3000
#: Characters that would end a field or a line become spaces.
_BLANKS = bytes(32 if byte in b"\t\n\r\0" else byte for byte in range(256))


def script_state(info: os.stat_result) -> bytes:
    """Return a value that changes when a script's file does."""
    state = f"{info.st_dev}.{info.st_ino}.{info.st_size}.{info.st_mtime_ns}.{info.st_ctime_ns}.{info.st_mode}"
    return state.encode()


def file_state(path: bytes) -> bytes:
    """Return a value that changes when a file or directory does, or appears or disappears."""
    try:
        info = os.stat(path)
    except OSError:
        return b"-"
    return f"{info.st_ino}.{info.st_size}.{info.st_mtime_ns}.{info.st_ctime_ns}".encode()


def open_own_directory(path: bytes) -> int | None:
    """Open a directory; return None if another user could have put a record there, and so decide what is run.

    Raises OSError if it cannot be opened, or is a link.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    info = os.fstat(descriptor)
    if info.st_uid == os.geteuid() and not info.st_mode & 0o022:
        return descriptor
    os.close(descriptor)
    return None


def place_state(path: bytes) -> bytes:
    """Return a value that changes when another directory replaces this one, or other users may write to it."""
    info = os.stat(path)
    state = f"{info.st_ino}.{info.st_uid}.{info.st_gid}.{info.st_mode & 0o171022}"
    if info.st_mode & 0o1020 == 0o020:  # open to its owner's own group: an access control list could add users
        try:  # noqa: SIM105 - contextlib would be another import
            state += os.getxattr(path, "system.posix_acl_access").hex()
        except OSError:  # no list
            pass
    return state.encode()


def settled_before(info: os.stat_result, moment_ns: int) -> bool:
    """Return whether a file was unchanged long enough before a moment that its next change will change its times."""
    whole = info.st_ctime_ns % 1_000_000_000 == 0
    return moment_ns - info.st_ctime_ns > (SETTLED_COARSE_NS if whole else SETTLED_NS)


def own_start_time() -> str:
    """Return this process's start like :func:`cetool.base.process.start_time`; empty if only psutil knows it."""
    try:
        descriptor = os.open("/proc/self/stat", os.O_RDONLY)
    except OSError:
        return ""
    try:
        data = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    return data[data.rindex(b")") + 2 :].split(b" ", 20)[19].decode()


def host_name() -> str:
    """Return this machine's name as used in notes."""
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")


def use_line(directory: str, script: str, start: str | None = None) -> bytes:
    """Return the line which notes that this process, and what it becomes by exec, uses an environment.

    Its tab-separated fields: nanoseconds since 1970, PID, the process's start, host, directory, script. It also begins
    with a line end, which separates it from a line that a full disk cut off.
    """
    try:
        name = script.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # not from a file name
        name = script.encode("utf-8", "replace")
    name = name.translate(_BLANKS)[:_MOST_NAME]
    since = own_start_time() if start is None else start
    head = f"\n{time.time_ns()}\t{os.getpid()}\t{since}\t{host_name()}\t{directory}\t"
    return head.encode("utf-8", "replace") + name + b"\n"


def touch_shared(lock: int, path: bytes) -> None:
    """Set the time of an environment's lock (descriptor and path), so that other users see that it was used.

    Only if several users, each with their own usage log, share a directory of environments (setting ``env-dir``, locks
    in ``.locks``). Without permission for that, the use is only in the user's own log.
    """
    if b"/.locks/" in path:
        try:
            os.utime(lock)
        except OSError:
            return


def append_note(spool: str, line: bytes) -> None:
    """Append a line to the spool, and again if its file was set aside meanwhile. Raises OSError."""
    path = f"{spool}/{ACTIVE}"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # opening a pipe would block
    for _ in range(100):
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(spool, 0o700, exist_ok=True)
            continue
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(28, "no space left on the device", path)  # ENOSPC, without an import for its name
            try:
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return
            except OSError:  # renamed, and there is no new one yet
                pass
        finally:
            os.close(descriptor)

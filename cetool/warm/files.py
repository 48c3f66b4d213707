"""What a warm run sees and leaves of files: the states by which a change shows, and one line in the spool for its use.

Nothing here imports more than ``os`` and ``time``. :mod:`cetool.store.usage_files` reads the spool.
"""

# Annotations are evaluated, or quoted, where `from __future__ import annotations` would be an import more.
import os
import time

#: A file younger than this may change once more without its times telling (they are those of the kernel's last tick).
SETTLED_NS = 50_000_000
#: The same where times are kept in whole seconds, or in every other one.
SETTLED_COARSE_NS = 2_100_000_000
#: The file of the spool that notes are appended to.
ACTIVE = "uses"
#: Bytes of a script's name that are kept; with the rest a line stays below the 4096 that an append is atomic for.
_MOST_NAME = 3000
#: What would end a field or a line becomes a space.
_BLANKS = bytes(32 if byte in b"\t\n\r\0" else byte for byte in range(256))


def script_state(info: os.stat_result) -> bytes:
    """What changes when a script's file does."""
    state = f"{info.st_dev}.{info.st_ino}.{info.st_size}.{info.st_mtime_ns}.{info.st_ctime_ns}.{info.st_mode}"
    return state.encode()


def file_state(path: bytes) -> bytes:
    """What changes when a configuration file, or a directory of them, does: its own state, or that it is not there."""
    try:
        info = os.stat(path)
    except OSError:
        return b"-"
    return f"{info.st_ino}.{info.st_size}.{info.st_mtime_ns}.{info.st_ctime_ns}".encode()


def open_own_directory(path: bytes) -> int | None:
    """A directory as an open descriptor, None where another user could have put a record there, to say what is run.

    Raises OSError where it cannot be opened, or is a link.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    info = os.fstat(descriptor)
    if info.st_uid == os.geteuid() and not info.st_mode & 0o022:
        return descriptor
    os.close(descriptor)
    return None


def place_state(path: bytes) -> bytes:
    """What changes when another directory takes this one's place, or other users may write to it."""
    info = os.stat(path)
    state = f"{info.st_ino}.{info.st_uid}.{info.st_gid}.{info.st_mode & 0o171022}"
    if info.st_mode & 0o1020 == 0o020:  # open to its owner's own group: an access control list could add users
        try:  # noqa: SIM105 - contextlib is one import too many here
            state += os.getxattr(path, "system.posix_acl_access").hex()
        except OSError:  # no list
            pass
    return state.encode()


def settled_before(info: os.stat_result, moment_ns: int) -> bool:
    """Whether a file was left alone for so long before a moment that its next change will show in its times."""
    whole = info.st_ctime_ns % 1_000_000_000 == 0
    return moment_ns - info.st_ctime_ns > (SETTLED_COARSE_NS if whole else SETTLED_NS)


def own_start_time() -> str:
    """When this process started, as :func:`cetool.base.process.start_time` tells it; empty where only psutil can."""
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
    """This machine's name, as notes carry it."""
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")


def use_line(directory: str, script: str, start: str | None = None) -> bytes:
    """The line that tells that this process, and what it becomes by exec, uses an environment from now on.

    Its fields, between tabs: nanoseconds since 1970, PID, the process's start, host, directory, script. It begins with
    a line's end too: what a full disk left of the line before it then stands by itself.
    """
    try:
        name = script.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # from elsewhere than a file name
        name = script.encode("utf-8", "replace")
    name = name.translate(_BLANKS)[:_MOST_NAME]
    since = own_start_time() if start is None else start
    head = f"\n{time.time_ns()}\t{os.getpid()}\t{since}\t{host_name()}\t{directory}\t"
    return head.encode("utf-8", "replace") + name + b"\n"


def touch_shared(lock: int, path: bytes) -> None:
    """Let the time of an environment's lock (its descriptor and path) tell others that it was used.

    Only where several users share a directory of environments, each with a log of their own: the setting ``env-dir``,
    whose locks are in ``.locks``. One who may not do that leaves no trace but in their own log.
    """
    if b"/.locks/" in path:
        try:
            os.utime(lock)
        except OSError:
            return


def append_note(spool: str, line: bytes) -> None:
    """Append a line to the spool, and once more where its file was set aside meanwhile. Raises OSError."""
    path = f"{spool}/{ACTIVE}"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # a pipe in its place would hold whoever opens it
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
            except OSError:  # renamed, and nobody has made a new one yet
                pass
        finally:
            os.close(descriptor)

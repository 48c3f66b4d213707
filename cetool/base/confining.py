"""Confine a process on Linux: namespaces of its own, a read-only file system, no network, no privileges.

:func:`confine` is called by a forked process with one thread, and returns in its child, which is the first process of a
new process namespace: when that ends, all processes that it started end. :func:`guard_writes` further limits a thread,
and what it starts, to some directories (Landlock). Both are system calls, since the process keeps what it has imported:
a program such as bubblewrap would have to start another interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from cetool.base.values import Value

_NEW_NET, _NEW_PID, _NEW_USER, _NEW_MOUNT = 0x40000000, 0x20000000, 0x10000000, 0x00020000
_NEW_IPC, _NEW_UTS = 0x08000000, 0x04000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000
_PR_DEATH, _PR_DUMPABLE, _PR_SUBREAPER, _PR_NO_NEW_PRIVILEGES = 1, 4, 36, 38
#: System calls without a function in libc; their numbers are the same on all architectures.
_MOUNT_SETATTR, _CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 442, 444, 445, 446
#: Only capset's number differs.
_CAPSET = {"x86_64": 126, "aarch64": 91, "ppc64le": 184, "s390x": 185, "riscv64": 91}
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
#: Landlock's rights that change something; the last two exist since its versions 2 and 3.
_CHANGES, _REFER, _TRUNCATE = 1 << 1 | 0b111111111 << 4, 1 << 13, 1 << 14
#: The devices that are harmless, and links in ``/dev``.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_DEVICE_LINKS = {
    **{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1"},
    "stderr": "/proc/self/fd/2",
}


class Walls(Value):
    """What a confined process sees and may change; all paths are absolute, without symbolic links."""

    #: Directories that it may change; everything else is read-only.
    writable: tuple[Path, ...]
    #: Files and directories that appear empty; what is written there exists only in the memory of the machine.
    hidden: tuple[Path, ...] = ()
    #: Files and directories that stay visible below hidden ones.
    kept: tuple[Path, ...] = ()
    network: bool = False


def die_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent, which has this PID, ends; exit if it has ended already."""
    if sys.platform == "linux":
        _libc().prctl(_PR_DEATH, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose own parents have ended."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SUBREAPER, 1, 0, 0, 0)


def limit(resources: Mapping[int, int]) -> None:
    """Set soft and hard limits of this process by the numbers of :mod:`resource`, as far as it may."""
    for number, value in resources.items():
        with contextlib.suppress(OSError, ValueError):
            hard = resource.getrlimit(number)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (value, value))


@contextlib.contextmanager
def group_of_processes(most: int) -> Iterator[Callable[[], None]]:
    """Provide a function with which a process puts itself, and all that it starts, into a group of limited size.

    Root is exempt from RLIMIT_NPROC, so this uses a control group. Where that is not possible, nothing happens.
    """
    group = None
    for parent in _control_groups():
        _remove_left(parent)
        group = parent / f"cetool-{os.getpid()}-{time.monotonic_ns()}"
        try:
            group.mkdir()
            (group / "pids.max").write_text(str(most))
            break
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            group = None

    def join() -> None:
        if group is not None:
            with contextlib.suppress(OSError):
                (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield join
    finally:
        with contextlib.suppress(OSError):
            if group is not None:
                group.rmdir()


def _remove_left(parent: Path) -> None:
    """Remove the groups of processes that were killed."""
    for left in parent.glob("cetool-*-*"):
        if not os.path.exists(f"/proc/{left.name.split('-')[1]}"):
            with contextlib.suppress(OSError):
                left.rmdir()


def _control_groups() -> list[Path]:
    """Return the directories of the groups that this process is in and that can limit the number of processes."""
    found = []
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if "pids" in controllers.split(","):
                found.append(Path(f"/sys/fs/cgroup/pids{path}"))
            elif not controllers:
                found.append(Path(f"/sys/fs/cgroup{path}"))
    return [path for path in found if os.access(path, os.W_OK)]


@functools.cache
def unavailable() -> str | None:
    """Return why this machine cannot confine processes; None if it can. Tries it in a child process."""
    if sys.platform != "linux":
        return "only Linux can"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        problem = "the process failed"
        try:
            os.close(reading)
            confine(Walls((), network=False))
            problem = ""
        except OSError as error:
            problem = f"{error.filename or 'a system call'}: {error.strerror}"
        finally:
            os.write(writing, problem.encode() or b"-")
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(pid, 0)
    return None if told == "-" else told or "the process failed"


def confine(walls: Walls) -> None:
    """Confine the calling process, which must have one thread; return in a child of it. Raises OSError.

    The calling process itself waits for the child, and ends as it ends.
    """
    _enter_namespaces(_NEW_MOUNT | _NEW_PID | _NEW_IPC | _NEW_UTS | (0 if walls.network else _NEW_NET))
    ends, held = os.pipe()
    pid = os.fork()
    if pid:
        os.close(ends)
        _end_as(pid, held)
    os.close(held)
    _libc().prctl(_PR_DEATH, signal.SIGKILL, 0, 0, 0)
    if select.select([ends], [], [], 0)[0]:  # the parent, which is not visible here, has ended already
        os._exit(1)
    os.close(ends)
    _see_only(walls)
    if not walls.network:
        _start_loopback()
    _drop_privileges()


def _enter_namespaces(flags: int) -> None:
    """Enter new namespaces: a user's too, which gives the right to the others; root also has it without one."""
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _libc().unshare(flags | _NEW_USER))
    except OSError:
        if user:
            raise
        _call("unshare", _libc().unshare(flags))
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _end_as(pid: int, held: int) -> NoReturn:
    """Wait for the child, and end with its exit status or signal; ``held`` is the descriptor to keep open."""
    os.closerange(3, held)
    os.closerange(held + 1, 1024)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        limit({resource.RLIMIT_CORE: 0})
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


# --- mounts -----------------------------------------------------------------------------------------------------------


def _see_only(walls: Walls) -> None:
    """Hide, keep and protect paths in this process's mount namespace."""
    _mount(None, "/", None, _REC | _PRIVATE)
    with contextlib.suppress(OSError):  # not allowed where a part of /proc is hidden, as in some containers
        _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    hidden = [*walls.hidden, Path("/dev")]
    devices = [path for path in map(Path, _DEVICES) if path.exists()]
    kept = [*devices, *(path for path in walls.kept if any(path.is_relative_to(each) for each in hidden))]
    opened = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (*kept, *walls.writable)}
    plan: list[tuple[int, Path, bool]] = [(len(path.parts), path, True) for path in hidden]
    plan += [(len(path.parts), path, False) for path in opened]
    loose: list[Path] = list(walls.writable)
    for _, path, hides in sorted(plan):
        if hides:
            loose += [each for each in _hide(path) if each != Path("/dev")]
        else:
            _show(path, opened[path])
    for descriptor in opened.values():
        os.close(descriptor)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"/dev/{name}")
    # root could write to the disks' own files, which a read-only mount does not prevent
    _set_attributes(Path("/"), set_=_RDONLY | _NOSUID | _NODEV, recursive=True)
    for path in devices:
        _set_attributes(path, clear=_NODEV)
    for path in loose:
        _set_attributes(path, clear=_RDONLY)


def _hide(path: Path) -> list[Path]:
    """Cover a file or directory with an empty one; return it if it can be written to."""
    try:
        status = path.lstat()
    except OSError:
        return []
    if stat.S_ISDIR(status.st_mode):
        _mount("tmpfs", str(path), "tmpfs", _NOSUID | _NODEV, f"size=64m,mode={stat.S_IMODE(status.st_mode):o}")
        return [path]
    if not stat.S_ISLNK(status.st_mode):
        _mount("/dev/null", str(path), None, _BIND)
    return []


def _show(path: Path, descriptor: int) -> None:
    """Mount what was opened at its own path, which may be hidden now."""
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            path.mkdir()
        else:
            path.touch()
    _mount(f"/proc/self/fd/{descriptor}", str(path), None, _BIND | _REC)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    given = None if data is None else data.encode()
    _call(f"mount {target}", _libc().mount(*texts, ctypes.c_ulong(flags), given))


def _set_attributes(path: Path, *, set_: int = 0, clear: int = 0, recursive: bool = False) -> None:
    attributes = struct.pack("QQQQ", set_, clear, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    done = _libc().syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, attributes, len(attributes))
    _call(f"mount_setattr {path}", done)


# --- privileges and the network ---------------------------------------------------------------------------------------


def _start_loopback() -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as interface:
        fcntl.ioctl(interface, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def _drop_privileges() -> None:
    """Give up all capabilities for good, and hide this process's memory and descriptors from those that it starts."""
    libc = _libc()
    _call("prctl", libc.prctl(_PR_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    number = _CAPSET.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, "not supported on this architecture", "capset")
    header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    _call("capset", libc.syscall(number, header, nothing))
    _call("prctl", libc.prctl(_PR_DUMPABLE, 0, 0, 0, 0))


def guard_writes(directories: Iterable[Path]) -> bool:
    """Let this thread, and what it starts, change only what is below these directories and files, for good.

    Returns whether the kernel supports that (Landlock, version 2). Paths that do not exist are ignored. Raises OSError.
    """
    if sys.platform != "linux":
        return False
    libc = _libc()
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 2:
        return False
    rights = _CHANGES | _REFER | (_TRUNCATE if version >= 3 else 0)
    handled = struct.pack("Q", rights)
    ruleset = libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    _call("landlock_create_ruleset", ruleset)
    try:
        for path in filter(os.path.exists, directories):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
                rule = struct.pack("=Qi", rights if is_directory else rights & (1 << 1 | _TRUNCATE), descriptor)
                _call("landlock_add_rule", libc.syscall(_ADD_RULE, ruleset, 1, rule, 0))
            finally:
                os.close(descriptor)
        libc.prctl(_PR_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        _call("landlock_restrict_self", libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> None:
    """Raise OSError if a call failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


# --- processes that were started --------------------------------------------------------------------------------------


class Consumption(Value):
    """What a process and its descendants use."""

    #: Bytes of memory that belong to them alone.
    memory: int
    #: The most bytes that one of them, with a pipe as standard output, has written to something else than a disk.
    printed: int


def descendants(pid: int, most: int = 1 << 22) -> list[int]:
    """Return the PIDs of a process's descendants, or some more than ``most`` of them. Linux; empty elsewhere."""
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) <= most:
        parent = waiting.pop()
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for task in tasks:
            with contextlib.suppress(OSError), open(f"/proc/{parent}/task/{task}/children", "rb") as file:
                children = list(map(int, file.read().split()))
                found += children
                waiting += children
    return found


def consumption(pids: Sequence[int], quiet: int) -> Consumption:
    """Return what these processes use; the first ``quiet`` of them count as not printing."""
    memory = printed = 0
    for number, pid in enumerate(pids):
        with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
            with open(f"/proc/{pid}/status", "rb") as file:
                status = file.read()
            memory += sum(int(status.split(name)[1].split(maxsplit=1)[0]) << 10 for name in (b"RssAnon:", b"RssShmem:"))
            if number >= quiet and os.readlink(f"/proc/{pid}/fd/1").startswith("pipe:"):
                with open(f"/proc/{pid}/io", "rb") as file:
                    counts = dict(line.split(b": ") for line in file.read().splitlines())
                printed = max(printed, int(counts[b"wchar"]) - int(counts[b"write_bytes"]))
    return Consumption(memory, printed)

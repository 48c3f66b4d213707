"""Starts collections and checks in the background, at most once an hour."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from cetool.app.world import World
from cetool.base.durations import is_due
from cetool.base.process import own_program
from cetool.store.keyed import BaselineStore
from cetool.warm import COLLECTION_INTERVAL
from cetool.warm.environ import ON_WINDOWS

#: The highest descriptor to close; SC_OPEN_MAX may be unlimited (-1), which would close none.
_MOST_DESCRIPTORS = 1 << 20

#: Seconds after which a background process is stopped; the next one continues its work.
MOST_SECONDS = 3600


def collect_in_background(world: World) -> None:
    """Start a collection in the background, unless one was started within the last hour."""
    if not world.settings.auto_gc or not _due(world.paths.gc_stamp):
        return
    baselines = world.paths.baselines
    if baselines.is_dir() and not world.offline and BaselineStore(baselines).any_due():
        check_baselines_in_background(world)
    run_in_background(world, "gc", "--background", "--quiet")


def check_baselines_in_background(world: World) -> None:
    """Start a check in the background of which baselines have changed."""
    run_in_background(world, "baseline", "check")


def run_in_background(world: World, *words: str) -> None:
    """Start a command that no script waits for."""
    environ = dict(world.environ)
    if world.settings.trust_cache_dir:
        environ["CETOOL_TRUST_CACHE_DIR"] = "true"
    with contextlib.suppress(OSError):
        start_detached(own_program(*words), environ)


def _due(stamp: Path) -> bool:
    """Return whether an hour has passed, and start the next one. Nothing is due in a new cache or a read-only one."""
    try:
        last = stamp.stat().st_mtime
    except FileNotFoundError:
        if stamp.parent.is_dir():
            touch(stamp)
        return False
    except OSError:
        return False
    return is_due(last, COLLECTION_INTERVAL) and touch(stamp)


def touch(stamp: Path) -> bool:
    """Set a file's time to now, and return whether that was possible."""
    try:
        stamp.touch(0o600)
        os.utime(stamp)
    except OSError:
        return False
    return True


def be_nice() -> None:
    """Lower the priority of this process, for work that no user waits for."""
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(10)


def start_detached(argv: list[str], environ: dict[str, str], *, most_seconds: int = MOST_SECONDS) -> None:
    """Start a process that is not a child of this one and keeps none of its files open, so no script waits for it."""
    if ON_WINDOWS:
        import subprocess

        flags = getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        null = subprocess.DEVNULL
        subprocess.Popen(argv, env=environ, cwd="\\", stdin=null, stdout=null, stderr=null, creationflags=flags)
        return
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        null_fd = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null_fd, descriptor)
        os.closerange(3, _MOST_DESCRIPTORS)
        # a process that hangs (on a network file system, say) must not keep its file locks for ever
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(most_seconds)
        os.execve(argv[0], argv, environ)
    finally:
        os._exit(127)

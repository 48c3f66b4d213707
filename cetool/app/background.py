"""Starts the collection that any call of cetool starts when an hour has passed since the last."""

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

#: Above this no descriptor is looked for; unlimited ones (SC_OPEN_MAX of -1) would otherwise close nothing.
_MOST_DESCRIPTORS = 1 << 20

#: Seconds after which a process in the background is ended; its work goes on with the next one.
MOST_SECONDS = 3600


def collect_in_background(world: World) -> None:
    """Start a collection that this call does not wait for, if none was started for an hour."""
    if not world.settings.auto_gc or not _due(world.paths.gc_stamp):
        return
    baselines = world.paths.baselines
    if baselines.is_dir() and not world.offline and BaselineStore(baselines).any_due():
        check_baselines_in_background(world)
    _start(world, "gc", "--background", "--quiet")


def check_baselines_in_background(world: World) -> None:
    """Start to find out which baselines have changed, which this call does not wait for."""
    _start(world, "baseline", "check")


def _start(world: World, *words: str) -> None:
    environ = dict(world.environ)
    if world.settings.trust_cache_dir:
        environ["CETOOL_TRUST_CACHE_DIR"] = "true"
    with contextlib.suppress(OSError):
        start_detached(own_program(*words), environ)


def _due(stamp: Path) -> bool:
    """Whether an hour has passed; from then on it has not. In a new cache, or a read-only one, nothing is due."""
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
    """Let a file's time say that this moment it was looked; whether that could be written down."""
    try:
        stamp.touch(0o600)
        os.utime(stamp)
    except OSError:
        return False
    return True


def be_nice() -> None:
    """Leave the machine to others, where no user waits. It changes the process."""
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(10)


def start_detached(argv: list[str], environ: dict[str, str], *, most_seconds: int = MOST_SECONDS) -> None:
    """Start a process that is no child of this one and holds none of its files open, so no script waits for it."""
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
        # what hangs (a network file system, a program that it asks) does not keep its locks for ever
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(most_seconds)
        os.execve(argv[0], argv, environ)
    finally:
        os._exit(127)

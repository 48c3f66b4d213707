"""Turns at one package cache: conda takes no lock of its own, and two that fill the same cache break each other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cetool.base import filelock
from cetool.base.errors import EngineError
from cetool.base.files import sha256_of
from cetool.engines.protocol import Progress

_TICK = 0.1


@contextmanager
def turn(lock_dir: Path, package_cache: Path, progress: Progress, who: str) -> Iterator[int]:
    """Hold the exclusive lock for a package cache; yields the descriptor that subprocesses are to inherit.

    An engine that outlives a killed cetool holds the lock for as long as it runs, since it inherited the descriptor.
    Waiting is done by asking again and again, so that Ctrl-C works.
    """
    resolved = os.path.normcase(os.path.realpath(package_cache))
    path = lock_dir / f"packages-{sha256_of(resolved.encode(errors='surrogateescape'))[:16]}.lock"
    try:
        lock_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = _open(path)
    except OSError as error:
        raise EngineError(
            f"the lock file {path} cannot be opened: {error.strerror}", code="cache-not-writable"
        ) from error
    with file:
        waiting = False
        while not _taken(file, path):
            if not waiting:
                progress.stage(f"Waiting for another {who} that uses the package cache {package_cache}")
                waiting = True
            time.sleep(_TICK)
        yield file.fileno()
        # Closing does not end it while a child still lives: the lock belongs to the open file, which the child shares.


def _open(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)


def _taken(file: IO[bytes], path: Path) -> bool:
    try:
        return filelock.take(file.fileno(), shared=False)
    except OSError as error:
        raise EngineError(
            f"the file system does not lock {path}: {error.strerror or error}",
            code="file-lock-failed",
            hint="Set CETOOL_CACHE_DIR to a directory on a local disk.",
        ) from error

"""Hold a data directory: one server, upgrade or restoration at a time works on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cetool.base.errors import CetoolError
from cetool.base.filelock import FileLock, try_lock
from cetool.base.ownership import make_private_dirs

LOCK_FILE = "server.lock"


@contextlib.contextmanager
def held(data: Path, what: str = "another server") -> Iterator[FileLock]:
    """Hold a data directory, which is created if it does not exist; ``what`` is who holds it, for others' messages.

    Raises CetoolError with the code ``conflict``, which names the holder, if another process holds it.
    """
    path = data / LOCK_FILE
    with hints_for_operators():
        make_private_dirs(data)
        lock = try_lock(path, shared=False)
    if lock is None:
        holder = "another process"
        with contextlib.suppress(OSError):
            holder = path.read_text("utf-8").strip() or holder
        raise CetoolError(
            f"the data directory {data} is in use by {holder}",
            code="conflict",
            about=str(data),
            hint="Stop it, or name another directory with `--data`.",
        )
    with lock:
        lock.write_holder(f"{what} (process {os.getpid()})")
        yield lock


@contextlib.contextmanager
def hints_for_operators() -> Iterator[None]:
    """Let errors about a directory name the option of servers instead of the variable of runs."""
    try:
        yield
    except CetoolError as error:
        if "CETOOL_CACHE_DIR" not in (error.hint or ""):
            raise
        raise error.but(hint="Name another directory with `--data`.") from None

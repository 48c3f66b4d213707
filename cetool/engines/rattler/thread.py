"""Runs rattler's work in a thread of its own, and waits for it: for its end, for signals, for a stillness too long."""

from __future__ import annotations

import atexit
import errno
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

from cetool.base import limits
from cetool.base.errors import EngineError
from cetool.base.process import panic_text

_T = TypeVar("_T")
_TICK = 0.1
#: Files that rattler has open at once, at least.
_DESCRIPTORS = 40
#: Seconds that what was begun has to come to its end after an interruption.
_LAST_WORDS = 2.0


class Stalled(Exception):
    """Nothing has moved for too long."""


class TooMuchMemory(Exception):
    """rattler's work takes more memory than any sound package list needs."""


def attend(
    work: Coroutine[Any, Any, _T],
    stalled: Callable[[], bool],
) -> _T:
    """The result of the work, which is done in a thread of its own, so that a signal is taken while it goes on.

    Whatever is raised here in the meantime cancels the work first. Raises Stalled when ``stalled`` says so, and
    TooMuchMemory.
    """
    _load_asyncio()
    import asyncio

    _settle_at_exit()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    ended = threading.Event()

    def run() -> None:
        with suppress(BaseException):  # the task keeps its outcome
            loop.run_until_complete(task)
        ended.set()

    before = _private_memory()
    thread = threading.Thread(target=run, name="cetool-rattler", daemon=True)
    thread.start()
    try:
        while not ended.wait(_TICK):
            if stalled():
                raise Stalled
            if _private_memory() > before + limits.MEMORY:
                raise TooMuchMemory
    except BaseException as error:
        loop.call_soon_threadsafe(task.cancel)
        with suppress(KeyboardInterrupt):
            ended.wait(_TICK if isinstance(error, TooMuchMemory) else _LAST_WORDS)
        raise
    thread.join()
    loop.close()
    return task.result()


def _private_memory() -> int:
    """Bytes of memory of this process that no file has; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/status", "rb") as file:
        return int(file.read().split(b"RssAnon:")[1].split(maxsplit=1)[0]) << 10
    return 0


def _load_asyncio() -> None:
    """Import asyncio without TLS, of which it has a part of its own that takes a tenth of all its import.

    An interpreter built without ``ssl`` has asyncio like that; nothing here talks TLS by it, rattler has its own.
    """
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = cast(Any, None)  # what the import system takes for a module that is not there
    try:
        import_module("asyncio")
    finally:
        del sys.modules["ssl"]


@functools.cache
def _settle_at_exit() -> None:
    """Have an interpreter that ends wait a moment first.

    A thread of rattler's that still holds Python objects when the interpreter is taken down crashes the process: seen
    in 2 of 100 runs under load, with the work done. Replacing the process (exec) and os._exit() are not affected.
    """
    atexit.register(time.sleep, 0.05)


def wait_until_quiet(prefix: Path) -> None:
    """Wait until nothing is added to the prefix any more: links that were begun are finished by rattler's threads."""
    deadline = time.monotonic() + _LAST_WORDS
    before = -1
    while time.monotonic() < deadline:
        now = sum(len(directories) + len(files) for _, directories, files in os.walk(prefix))
        if now == before:
            return
        before = now
        time.sleep(_TICK)


def panicked(error: BaseException) -> EngineError:
    """The error for a panic of rattler's."""
    return EngineError(
        f"the embedded engine stopped because of a defect in py-rattler: {panic_text(error)}",
        hint="Another engine may succeed: --engine conda. Please report it to cetool, with the log.",
    )


def need_descriptors() -> None:
    """Raise EngineError where the process may not open the files that rattler needs at once: it aborts without them."""
    opened = []
    try:
        for _ in range(_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return
        raise EngineError(
            f"too few files may be open at the same time for the embedded engine: {error.strerror}",
            hint="Raise the limit, `ulimit -n 1024`, and run the same command again.",
        ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)

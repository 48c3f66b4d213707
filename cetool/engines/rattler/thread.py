"""Runs rattler's work in a thread of its own, and waits for it: for its end, for signals, for a stillness too long.

What rattler reports while it works is passed on to the progress that is shown, and counts as a sign of life.
"""

from __future__ import annotations

import atexit
import errno
import functools
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from cetool.base import limits
from cetool.base.errors import EngineError
from cetool.base.limits import NOTE, read_regular
from cetool.base.process import panic_text
from cetool.base.urls import redact
from cetool.engines.protocol import EngineRequest, Progress


class Pulse:
    """When rattler last got anywhere, while it depends on a network; at other times it counts as alive."""

    def __init__(self) -> None:
        self._depth = 0
        self._at = time.monotonic()
        self._seen: tuple[tuple[str, int, int], ...] = ()
        self._looked = 0.0

    def beat(self) -> None:
        """Something has moved."""
        self._at = time.monotonic()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The time in which standing still means that a server does not answer."""
        self.beat()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def still_for(self, directory: Path) -> float:
        """Seconds without a sign; files that grow in ``directory``, where metadata arrives, are one too."""
        now = time.monotonic()
        if not self._depth:
            return 0.0
        if now - self._at > 1.0 and now - self._looked > 1.0:
            self._looked = now
            seen = _sizes(directory)
            if seen != self._seen:
                self._seen = seen
                self._at = now
        return now - self._at


def _sizes(directory: Path) -> tuple[tuple[str, int, int], ...]:
    found = []
    with suppress(OSError):
        for path in directory.iterdir():
            with suppress(OSError):
                status = path.stat()
                found.append((path.name, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


class Reporter:
    """rattler's ``InstallerReporter``: callbacks come from its threads, so what they change is changed under a lock."""

    def __init__(self, progress: Progress, pulse: Pulse, sizes: dict[str, int]) -> None:
        self.failed_scripts: list[str] = []
        self._progress = progress
        self._pulse = pulse
        self._sizes = sizes
        self._lock = threading.Lock()
        self._names: list[str] = []
        self._scripts: list[str] = []
        self._downloaded: dict[int, int] = {}
        self._expected: dict[int, int] = {}
        self._populated = 0
        self._linked = 0
        self._downloading = False

    def on_transaction_start(self, total_operations: int) -> None:
        """The first packages may be linked while others are still downloaded."""
        with self._lock:
            self._pulse.beat()
            self._progress.stage("Linking")
            self._progress.link(0, len(self._sizes))

    def on_populate_cache_start(self, operation: int, package_name: str) -> int:
        """A package is looked for in the cache; the answer names it from now on."""
        with self._lock:
            self._pulse.beat()
            self._names.append(package_name)
            return len(self._names) - 1

    def on_download_start(self, cache_entry: int) -> int:
        """It is not in the cache."""
        with self._lock:
            self._pulse.beat()
            if not self._downloading:
                self._downloading = True
                self._progress.stage("Downloading")
            self._downloaded[cache_entry] = 0
            self._expected[cache_entry] = self._sizes.get(self._names[cache_entry], 0)
            return cache_entry

    def on_download_progress(self, download_idx: int, progress: int, total: int | None) -> None:
        """Bytes have come in."""
        with self._lock:
            self._pulse.beat()
            self._downloaded[download_idx] = progress
            if total:
                self._expected[download_idx] = total
            self._progress.download(sum(self._downloaded.values()), sum(self._expected.values()) or None)

    def on_populate_cache_complete(self, cache_entry: int) -> None:
        """A package is in the cache; after the last one only linking is left."""
        with self._lock:
            self._pulse.beat()
            self._populated += 1
            if self._downloading and self._populated == len(self._sizes):
                self._downloading = False
                self._progress.stage("Linking")
                self._progress.link(self._linked, len(self._sizes))

    def on_link_complete(self, index: int) -> None:
        """A package is in the prefix."""
        with self._lock:
            self._pulse.beat()
            self._linked += 1
            self._progress.link(self._linked, len(self._sizes))

    def on_post_link_start(self, package_name: str, script_path: str) -> int:
        """A package's own script is run; the answer names it."""
        with self._lock:
            self._pulse.beat()
            self._scripts.append(package_name)
            return len(self._scripts) - 1

    def on_post_link_complete(self, index: int, success: bool) -> None:
        """It has ended. rattler goes on after a failure; conda does not, and neither do we."""
        with self._lock:
            self._pulse.beat()
            if not success:
                self.failed_scripts.append(self._scripts[index])

    def failed_script(self, prefix: Path) -> EngineError | None:
        """The error for a post-link script that failed, in the words that it left for the user; None if none did."""
        if not self.failed_scripts:
            return None
        said = _messages(prefix)
        return EngineError(
            f"the post-link script of {self.failed_scripts[0]} failed" + (f": {said}" if said else ""),
            code="link-script-failed",
            hint="The package cannot be set up on this machine; ask its maintainers, or leave it out.",
        )


def _messages(prefix: Path) -> str:
    """What post-link scripts left for the user, by conda's convention."""
    try:
        return " ".join(read_regular(prefix / ".messages.txt", NOTE).decode("utf-8", "replace").split())[:500]
    except OSError:
        return ""


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


def memory_exceeded(request: EngineRequest) -> EngineError:
    """The error for work that takes too much memory."""
    return EngineError(
        f"the embedded engine was stopped: it took more than {limits.MEMORY >> 30} GiB of memory for the"
        f" package lists of {', '.join(map(redact, request.channels))}",
        code="memory-exceeded",
        hint="One of these channels is damaged or hostile: leave it out, or tell its owner.",
        log=str(request.log),
    )


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

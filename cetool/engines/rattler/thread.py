"""Run rattler in a separate thread, and wait for its end, for signals, and for too long a time without progress.

What rattler reports is passed on to the displayed progress, and counts as progress.
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
    """The time of rattler's last progress, while it depends on the network; otherwise it counts as alive.

    Progress is what rattler reports, growth of the files with metadata, and work: a solve fetches metadata while it
    searches, and reports neither.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._at = time.monotonic()
        self._seen: tuple[tuple[str, int, int], ...] = ()
        self._looked = 0.0
        self._worked = 0.0

    def beat(self) -> None:
        """Note that there was progress."""
        self._at = time.monotonic()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Mark a time in which no progress means that a server does not answer."""
        self.beat()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def still_for(self, directory: Path) -> float:
        """Return the seconds without progress; ``directory`` has the files with metadata."""
        now = time.monotonic()
        if not self._depth:
            return 0.0
        if now - self._at > 1.0 and now - self._looked > 1.0:
            self._looked = now
            seen, worked = _sizes(directory), _rattler_seconds()
            if seen != self._seen or not self._worked <= worked < self._worked + _IDLE:
                self._seen, self._worked = seen, worked
                self._at = now
        return now - self._at


def _rattler_seconds() -> float:
    """Return the CPU seconds of the threads that Python did not start: rattler's, without those that show progress."""
    ours = {str(thread.native_id) for thread in threading.enumerate()}
    total = 0
    try:
        for name in os.listdir("/proc/self/task"):
            if name not in ours:
                with suppress(OSError, ValueError, IndexError), open(f"/proc/self/task/{name}/schedstat", "rb") as file:
                    total += int(file.read().split()[0])
    except OSError:  # not Linux: all threads, of which those that show progress need little
        return time.process_time() / 10
    return total / 1e9


def _sizes(directory: Path) -> tuple[tuple[str, int, int], ...]:
    found = []
    with suppress(OSError):
        for path in directory.iterdir():
            with suppress(OSError):
                status = path.stat()
                found.append((path.name, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


class Reporter:
    """rattler's ``InstallerReporter``; its threads call the methods, so they hold a lock."""

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
        """Note the start of linking, perhaps while other packages are still being downloaded."""
        with self._lock:
            self._pulse.beat()
            self._progress.stage("Linking")
            self._progress.link(0, len(self._sizes))

    def on_populate_cache_start(self, operation: int, package_name: str) -> int:
        """Note that a package is looked up in the cache; return a number for it."""
        with self._lock:
            self._pulse.beat()
            self._names.append(package_name)
            return len(self._names) - 1

    def on_download_start(self, cache_entry: int) -> int:
        """Note that a package is not in the cache and is being downloaded."""
        with self._lock:
            self._pulse.beat()
            if not self._downloading:
                self._downloading = True
                self._progress.stage("Downloading")
            self._downloaded[cache_entry] = 0
            self._expected[cache_entry] = self._sizes.get(self._names[cache_entry], 0)
            return cache_entry

    def on_download_progress(self, download_idx: int, progress: int, total: int | None) -> None:
        """Note the bytes downloaded so far."""
        with self._lock:
            self._pulse.beat()
            self._downloaded[download_idx] = progress
            if total:
                self._expected[download_idx] = total
            self._progress.download(sum(self._downloaded.values()), sum(self._expected.values()) or None)

    def on_populate_cache_complete(self, cache_entry: int) -> None:
        """Note that a package is in the cache; after the last one only linking remains."""
        with self._lock:
            self._pulse.beat()
            self._populated += 1
            if self._downloading and self._populated == len(self._sizes):
                self._downloading = False
                self._progress.stage("Linking")
                self._progress.link(self._linked, len(self._sizes))

    def on_link_complete(self, index: int) -> None:
        """Note that a package is linked."""
        with self._lock:
            self._pulse.beat()
            self._linked += 1
            self._progress.link(self._linked, len(self._sizes))

    def on_post_link_start(self, package_name: str, script_path: str) -> int:
        """Note that a package's link script is running; return a number for it."""
        with self._lock:
            self._pulse.beat()
            self._scripts.append(package_name)
            return len(self._scripts) - 1

    def on_post_link_complete(self, index: int, success: bool) -> None:
        """Note that a link script has ended. rattler ignores a failure; cetool, like conda, does not."""
        with self._lock:
            self._pulse.beat()
            if not success:
                self.failed_scripts.append(self._scripts[index])

    def failed_script(self, prefix: Path) -> EngineError | None:
        """Return the error for a failed post-link script, with its message for the user; None if none failed."""
        if not self.failed_scripts:
            return None
        said = _messages(prefix)
        return EngineError(
            f"the post-link script of {self.failed_scripts[0]} failed" + (f": {said}" if said else ""),
            code="link-script-failed",
            hint="The package cannot be installed on this machine: report it to its maintainers, or remove it.",
        )


def _messages(prefix: Path) -> str:
    """Return the messages of link scripts for the user, which by conda's convention are in a file."""
    try:
        return " ".join(read_regular(prefix / ".messages.txt", NOTE).decode("utf-8", "replace").split())[:500]
    except OSError:
        return ""


_T = TypeVar("_T")
_TICK = 0.1
#: The CPU seconds that threads may use while they only wait.
_IDLE = 0.1
#: The least number of files that rattler opens at once.
_DESCRIPTORS = 40
#: Seconds that running work has to finish after an interruption.
_LAST_WORDS = 2.0


class Stalled(Exception):
    """There was no progress for too long."""


class TooMuchMemory(Exception):
    """rattler uses more memory than any valid package list needs."""


def attend(
    work: Coroutine[Any, Any, _T],
    stalled: Callable[[], bool],
) -> _T:
    """Do the work in a separate thread, so that signals are handled meanwhile, and return its result.

    An exception raised here meanwhile cancels the work. Raises Stalled if ``stalled`` returns true, and TooMuchMemory.
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
    """Return the anonymous memory of this process in bytes; 0 if unknown."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/status", "rb") as file:
        return int(file.read().split(b"RssAnon:")[1].split(maxsplit=1)[0]) << 10
    return 0


@functools.cache
def _settle_at_exit() -> None:
    """Make the interpreter wait a moment before it exits.

    The process crashes if a rattler thread still holds Python objects when the interpreter exits: this happened in 2 of
    100 runs under load, after the work was done. Replacing the process (exec) and os._exit() are not affected.
    """
    atexit.register(time.sleep, 0.05)


def wait_until_quiet(prefix: Path) -> None:
    """Wait until nothing is added to the prefix any more: rattler's threads finish linking what they have begun."""
    deadline = time.monotonic() + _LAST_WORDS
    before = -1
    while time.monotonic() < deadline:
        now = sum(len(directories) + len(files) for _, directories, files in os.walk(prefix))
        if now == before:
            return
        before = now
        time.sleep(_TICK)


def memory_exceeded(request: EngineRequest) -> EngineError:
    """Return the error for too much memory."""
    return EngineError(
        f"the embedded engine was stopped: it used more than {limits.MEMORY >> 30} GiB of memory for the"
        f" package lists of {', '.join(map(redact, request.channels))}",
        code="memory-exceeded",
        hint="One of these channels is damaged or malicious: remove it, or report it to its owner.",
        log=str(request.log),
    )


def panicked(error: BaseException) -> EngineError:
    """Return the error for a panic in rattler."""
    return EngineError(
        f"the embedded engine failed because of a bug in py-rattler: {panic_text(error)}",
        hint="Try another engine, such as --engine conda. Please report the bug to cetool.",
    )


def need_descriptors() -> None:
    """Raise EngineError if the process cannot open as many files as rattler needs, which would make it abort."""
    opened = []
    try:
        for _ in range(_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return
        raise EngineError(
            f"the limit on open files is too low for the embedded engine: {error.strerror}",
            hint="Raise the limit with `ulimit -n 1024` and run the command again.",
        ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)

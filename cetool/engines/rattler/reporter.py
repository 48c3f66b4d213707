"""What rattler tells while it works: passed on to the progress that is shown, and taken for a sign of life."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.base.limits import NOTE, read_regular
from cetool.engines.protocol import Progress


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

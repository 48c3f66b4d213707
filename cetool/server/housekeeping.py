"""Collect now and then while the server runs, and measure the data directory."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from cetool.base.errors import CetoolError
from cetool.server.collecting import KINDS, collect, place_of
from cetool.store.disk import disk_size

if TYPE_CHECKING:
    from cetool.server.server import Server

#: Seconds between two collections, and from the start of the server to the first.
_EVERY, _FIRST = 3600.0, 300.0
#: Seconds that a collection may take before the server counts as failing.
_SILENT = 6 * 3600.0
#: Seconds between two measurements of the data directory; measuring takes at most a fiftieth of the time.
_MEASURED, _SHARE = 60.0, 0.02


class Housekeeping:
    """Collects now and then while the server runs, and measures the data directory."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._place = place_of(server)
        self._stop = threading.Event()
        self._asked = threading.Event()
        self._due = time.monotonic() + _FIRST
        self._measure = 0.0
        self._thread = threading.Thread(target=self._run, name="cetool-collect", daemon=True)

    def start(self) -> None:
        """Start; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop after the item that is being removed."""
        self._stop.set()
        self._asked.set()
        self._thread.join(timeout)

    def wake(self) -> None:
        """Collect soon: something was deleted."""
        self._due = 0.0
        self._asked.set()

    def _run(self) -> None:
        counts = self._server.counts
        while not self._stop.is_set():
            counts.beat("collection", _SILENT)
            try:
                if time.monotonic() >= self._due:
                    self._due = time.monotonic() + _EVERY
                    self._collect()
                    self._measure = 0.0
                if time.monotonic() >= self._measure:
                    self._measure_data()
            except Exception as error:  # the next attempt may succeed
                if self._stop.is_set():
                    break
                counts.add("collections", "failed")
                if isinstance(error, CetoolError):
                    self._server.journal.write("collection-failed", reason=str(error), code=error.code)
                else:
                    self._server.journal.defect(error, part="collection")
                self._measure = time.monotonic() + _MEASURED
            until = min(self._due, self._measure)
            self._asked.wait(max(0.1, until - time.monotonic()))
            self._asked.clear()
        counts.rest("collection")

    def _collect(self) -> None:
        result = collect(self._place, watch=self._watch)
        counts = self._server.counts
        counts.add("collections", "done")
        counts.add("collected_bytes", amount=result.freed)
        counts.set("collected_timestamp_seconds", time.time())
        removed = {kind.replace(" ", "_"): len(result.collection.of(kind)) for kind in KINDS}
        self._server.journal.write(
            "collected",
            freed=result.freed,
            builds=len(result.builds),
            in_use=len(result.collection.in_use) or None,
            **{kind: count or None for kind, count in removed.items()},
        )
        for item, error in result.collection.failed:
            self._server.journal.write("not-collected", path=item.path, reason=str(error))

    def _watch(self, kind: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise CetoolError("the server stops", code="interrupted")

    def _measure_data(self) -> None:
        started = time.monotonic()
        size = disk_size(self._server.config.data)
        took = time.monotonic() - started
        self._server.counts.set("data_bytes", size)
        self._server.counts.set("data_measured_timestamp_seconds", time.time())
        self._measure = time.monotonic() + max(_MEASURED, took / _SHARE)

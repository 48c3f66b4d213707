"""Get queued builds done by threads of this process, each with a process that builds."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.server.builds.child import Spares, why_not_confined
from cetool.server.builds.worker import Worker
from cetool.server.data import leases
from cetool.server.data.schema import UNFINISHED, build
from cetool.server.server import Server

#: Seconds between two looks at the queue without news: a pause or another process's lease may have ended.
_LOOK = 1.0
#: Seconds of a pause after the database could not be read.
_TROUBLE = 2.0
#: What the names of builders' threads start with.
_BUILDER = "cetool-builder-"


class LocalDispatcher:
    """``workers`` builders in threads of this process."""

    def __init__(self, server: Server, workers: int) -> None:
        self._server = server
        self._owner = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
        self._spares = Spares(most=1)
        self._workers = [Worker(server, f"{self._owner}/{number}", self._spares) for number in range(1, workers + 1)]
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._news = 0
        self._stopping = False

    def start(self) -> None:
        """Put back what an earlier server left, repair links, and start to take builds.

        Raises CetoolError if link scripts cannot be confined although the configuration requires that.
        """
        server = self._server
        with server.database.write() as tx:
            released = leases.release_owned_by_others(tx, self._owner, most=server.config.retries)
        server.files.clear_scratch()
        repaired = server.files.repair(server.database)
        if released or repaired:
            server.journal.write("recovered", builds=released or None, links=repaired or None)
        if server.config.sandbox == "required":
            self._prepare()
        else:
            self._start(self._prepare_quietly, "cetool-builders")
        for worker in self._workers:
            self._start(partial(self._run, worker), f"{_BUILDER}{worker.owner.rpartition('/')[2]}")

    def wake(self) -> None:
        """Look at the queue now."""
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    def cancel(self, build_id: int) -> None:
        """End the process of a build that was canceled, if it runs here; returns at once."""
        for worker in self._workers:
            worker.interrupt(build_id)
        self.wake()  # others may have waited for it

    def stop(self, timeout: float) -> None:
        """Take no more builds; those that do not end within ``timeout`` seconds return to the queue."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and any(worker.current is not None for worker in self._workers):
            time.sleep(0.02)
        for worker in self._workers:
            worker.stopping.set()
            worker.interrupt()
        for thread in self._threads:
            thread.join(10.0)
        self._spares.close()

    def ended(self) -> int:
        """Return how many builders have ended although the server runs."""
        builders = [each for each in self._threads if each.name.startswith(_BUILDER)]
        return 0 if self._stopping else sum(not each.is_alive() for each in builders)

    # --- threads --------------------------------------------------------------------------------------------------

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _prepare(self) -> None:
        """Start a process ahead of the first build, and report whether it can confine link scripts."""
        child = self._spares.take()
        try:
            problem = why_not_confined(child, self._server.config)
        finally:
            self._spares.give_back(child)
        if problem is not None:
            self._server.journal.write("not-confined", problem=f"link scripts are not confined: {problem}")

    def _prepare_quietly(self) -> None:
        try:
            self._prepare()
        except CetoolError as error:
            self._server.journal.write("builder-not-started", error=str(error))

    def _run(self, worker: Worker) -> None:
        server = self._server
        part = f"builder-{worker.owner.rpartition('/')[2]}"
        while not self._stopping:
            with self._changed:
                seen = self._news
            try:
                server.counts.beat(part, 2 * server.config.build_timeout)
                if server.files.behind.is_set():
                    server.files.repair(server.database)
                while self._waiting() and not self._stopping and worker.build_next():
                    self.wake()  # another build may have waited for this one
                pause = _LOOK
            except CetoolError as error:
                server.journal.write("queue-not-read", error=str(error))
                pause = _TROUBLE
            except Exception as error:
                server.journal.defect(error)
                pause = _TROUBLE
            with self._changed:
                self._changed.wait_for(self._is_changed_since(seen), pause)
        server.counts.rest(part)

    def _is_changed_since(self, seen: int) -> Callable[[], bool]:
        return lambda: self._stopping or self._news != seen

    def _waiting(self) -> bool:
        """Return whether a build is to be done, without taking a turn to write."""
        with self._server.database.read() as tx:
            chosen = sa.select(sa.literal(1)).where(build.c.status.in_(UNFINISHED))
            return tx.execute(chosen.limit(1)).first() is not None

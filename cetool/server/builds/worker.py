"""One builder of the server: takes a build, has a process do it, and writes down what became of it."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cetool.base.durations import format_size
from cetool.base.errors import CetoolError
from cetool.base.text import counted
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.platforms import current_platform
from cetool.server.builds import logs
from cetool.server.builds.child import Child, Spares, failure_of, is_end, lock_of, why_not_confined
from cetool.server.builds.summary import summary_of
from cetool.server.builds.wishes import scratch_of, wishes_of
from cetool.server.data import builds, leases
from cetool.server.data.database import now
from cetool.server.data.leases import Claim, Progress, Result
from cetool.server.data.locks import Realization
from cetool.server.server import Server

#: The least seconds between two reports of progress to the database.
_PAUSE = 0.5
#: Seconds that a process has to end a canceled build before it is killed.
_FAREWELL = 3.0
#: The longest pause between two attempts, and how long a builder tries to write a result down.
_LONGEST_PAUSE, _INSISTS = 600.0, 900.0
#: Errors of the database that pass.
_PASSING = frozenset(("database-busy", "disk-full", "cache-not-writable"))


@dataclass(slots=True)
class Outcome:
    """What a process reported about a build."""

    locks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    realized: Mapping[str, Any] | None = None
    #: None after success.
    error: CetoolError | None = None
    #: Whether another attempt may succeed.
    transient: bool = False
    #: Why there is nothing to write down: ``lost``, ``canceled``, ``stopped``.
    dropped: str | None = None


class Worker:
    """A builder: a thread that runs :meth:`build_next` again and again."""

    def __init__(self, server: Server, owner: str, spares: Spares) -> None:
        self.server = server
        self.owner = owner
        self.spares = spares
        #: The build that it works on.
        self.current: int | None = None
        self.stopping = threading.Event()
        self._child: Child | None = None
        self._lock = threading.Lock()

    def build_next(self) -> bool:
        """Take the next build and do it; return whether there was one. Raises CetoolError of the database."""
        server = self.server
        with server.database.write() as tx:
            claim = leases.claim(tx, self.owner, server.config.lease)
        if claim is None:
            return False
        with self._lock:
            self.current = claim.build_id
        try:
            self._build(claim)
        finally:
            with self._lock:
                self.current = None
        return True

    def interrupt(self, build_id: int | None = None) -> None:
        """Look at once whether the current build (or this one) is still to be done, from any thread."""
        with self._lock:
            if self._child is not None and build_id in (None, self.current):
                self._child.wake()

    # --- one build ------------------------------------------------------------------------------------------------

    def _build(self, claim: Claim) -> None:
        server = self.server
        server.news.publish(f"build:{claim.build_id}")
        server.news.publish("events")
        try:
            outcome = self._attempt(claim)
        except CetoolError as error:
            outcome = Outcome(error=error, transient=error.code in ("build-crashed", *_PASSING))
        except Exception as error:  # a bug must not take the builder with it
            server.journal.defect(error, build=claim.build_id)
            problem = f"the server has a bug: {type(error).__name__}: {error}"
            outcome = Outcome(error=CetoolError(problem, code="defect"))
        if outcome.dropped == "stopped":
            self._insist(claim, lambda: self._release(claim, 0.0, "the server was stopped", counts=False))
        elif outcome.dropped is None:
            self._end(claim, outcome)
        else:
            if outcome.dropped == "lost":
                server.counts.add("leases_lost")
            self._log(claim, "Canceled" if outcome.dropped == "canceled" else "Another builder took this build over")
        server.news.publish(f"build:{claim.build_id}")
        server.news.publish("events")

    def _attempt(self, claim: Claim) -> Outcome:
        """Have a process do the build; return what it reported. Raises CetoolError if it cannot be started."""
        child = self.spares.take()
        ended = False
        try:
            with self._lock:
                self._child = child
            sandbox = why_not_confined(child, self.server.config)
            self._log(claim, summary_of(claim, self.server.config, sandbox))
            child.send(wishes_of(claim, self.server))
            outcome, ended = self._follow(claim, child)
            return outcome
        finally:
            with self._lock:
                self._child = None
            if ended:
                self.spares.give_back(child)
            else:
                child.close()
                shutil.rmtree(scratch_of(claim, self.server), ignore_errors=True)

    def _follow(self, claim: Claim, child: Child) -> tuple[Outcome, bool]:
        """Follow a build to its end; return the outcome, and whether the process can do another one."""
        outcome, told = Outcome(), _Told(self, claim)
        lease = self.server.config.lease
        while True:
            if self.stopping.is_set():
                outcome.dropped = "stopped"
                return outcome, False
            held = told.renew(lease)
            if held != "held":
                outcome.dropped = held
                return outcome, held == "canceled" and self._say_farewell(claim, child)
            event = child.event(min(lease / 3, _PAUSE if told.pending else lease / 3))
            if event is None:
                continue
            if is_end(event):
                problem = f"the builder ended ({child.how()}) while {told.doing}"
                outcome.error, outcome.transient = CetoolError(problem, code="build-crashed"), True
                return outcome, False
            kind = event["event"]
            if kind == "lock":
                outcome.locks[event["platform"]] = event["lock"]
            elif kind == "realized":
                outcome.realized = event
            elif kind == "failed":
                outcome.error = failure_of(event)
                outcome.transient = event["transient"]
                return outcome, True
            elif kind == "done":
                return outcome, True
            told.hear(event)

    def _say_farewell(self, claim: Claim, child: Child) -> bool:
        """Let a process end a canceled build; return whether it did."""
        child.send({"cancel": claim.build_id})
        deadline = time.monotonic() + _FAREWELL
        while (rest := deadline - time.monotonic()) > 0:
            event = child.event(rest)
            if event is not None and (is_end(event) or event["event"] in ("done", "failed")):
                return not is_end(event)
        return False

    # --- the end --------------------------------------------------------------------------------------------------

    def _insist(self, claim: Claim, write: Callable[[], None]) -> None:
        """Write a result to the database; try again while that is busy, full or read-only."""
        deadline = time.monotonic() + _INSISTS
        pause = 0.2
        while True:
            try:
                write()
                return
            except CetoolError as error:
                self.server.journal.write("build-not-written", build=claim.build_id, error=str(error))
                if error.code not in _PASSING or time.monotonic() > deadline or self.stopping.wait(pause):
                    return
            except Exception as error:
                self.server.journal.defect(error, build=claim.build_id)
                return
            pause = min(2 * pause, 10.0)

    def _end(self, claim: Claim, outcome: Outcome) -> None:
        """Complete or fail a build.

        Until the database says that the build needs its environment, that is held in use, so that no collection
        removes it.
        """
        realized, lease = outcome.realized, None
        if outcome.error is None and realized is not None:
            try:
                lease = self.server.world.store.lease(str(realized["name"]))
            except CetoolError as error:
                outcome.error = error
            if lease is None and outcome.error is None:
                problem = "the environment was removed before the build was complete"
                outcome.error, outcome.transient = CetoolError(problem, code="environment-gone"), True
        with lease or contextlib.nullcontext():
            if outcome.error is None:
                self._insist(claim, lambda: self._complete(claim, outcome))
            else:
                self._insist(claim, lambda: self._fail(claim, outcome))

    def _complete(self, claim: Claim, outcome: Outcome) -> None:
        server = self.server
        place = None if claim.name is None else f"{claim.namespace}/{claim.name}"
        results = {}
        for each in claim.platforms:
            found = outcome.locks[each.platform]
            lock = lock_of(each.platform, found)
            spec = EnvironmentSpec.from_dict(dict(each.spec or {}))
            record = server.answer_record(
                spec, lock, build=claim.build_id, environment=place, engine=str(found["engine"])
            )
            realized = outcome.realized if each.platform == current_platform() else None
            made = None
            if realized is not None:
                made = Realization(str(realized["name"]), int(realized["size"]), int(realized["packages"]))
            results[each.platform] = Result(lock, record, made)
        with server.database.write() as tx:
            numbers = leases.complete(tx, claim, results)
            ended = [builds.get(tx, number) for number in numbers]
        if not numbers:
            return self._log(claim, "Another builder took this build over")
        packages = max(len(result.lock.conda) + len(result.lock.pypi) for result in results.values())
        size = "" if outcome.realized is None else f", {format_size(int(outcome.realized['size']))}"
        self._log(claim, f"Completed: {counted(packages, 'package')}{size}", last=True)
        for build in ended:
            if build.environment_id is not None and build.name is not None:
                with self._reported(build.id):
                    server.files.follow(server.database, build.namespace, build.name)
            server.news.publish(f"build:{build.id}")

    def _fail(self, claim: Claim, outcome: Outcome) -> None:
        error, config = outcome.error, self.server.config
        assert error is not None
        reason = str(error)
        if outcome.transient and claim.attempt <= config.retries:
            # full jitter: builds that failed together are not repeated together
            longest = min(_LONGEST_PAUSE, config.retry_backoff * 2 ** (claim.attempt - 1))
            pause = random.uniform(0, longest)
            self.server.counts.add("build_retries")
            return self._release(claim, pause, f"attempt {claim.attempt} failed: {reason}")
        with self.server.database.write() as tx:
            numbers = leases.fail(tx, claim, error.code, reason, error.hint)
        if numbers:
            lines = [f"Failed: {reason}", *error.details, *([error.hint] if error.hint else [])]
            self._log(claim, "\n".join(lines), last=True)
        for number in numbers:
            self.server.news.publish(f"build:{number}")

    def _release(self, claim: Claim, pause: float, reason: str, *, counts: bool = True) -> None:
        with self.server.database.write() as tx:
            at = now(tx) + pause
            held = leases.release(tx, claim, not_before=at, reason=reason, counts=counts)
        if held:
            self._log(claim, f"Back in the queue: {reason}", last=True)

    @contextlib.contextmanager
    def _reported(self, build_id: int) -> Any:
        """Write errors that do not concern the build to the journal."""
        try:
            yield
        except CetoolError as error:
            self.server.journal.write("link-not-written", build=build_id, error=str(error))

    def _log(self, claim: Claim, text: str, *, last: bool = False) -> None:
        limit = self.server.config.build_output
        logs.append(self.server.config.data, claim.build_id, text, limit=limit, last=last)
        self.server.news.publish(f"build:{claim.build_id}")


class _Told:
    """What a build has reported so far, on its way to the log and the database."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker = worker
        self._claim = claim
        self._progress = Progress("starting")
        self._written = 0.0
        #: Whether there is something that the database does not have.
        self.pending = True

    @property
    def doing(self) -> str:
        """The present stage, within a sentence."""
        return self._progress.stage[:1].lower() + self._progress.stage[1:]

    def hear(self, event: Mapping[str, Any]) -> None:
        """Take an event."""
        kind = event["event"]
        if kind == "stage":
            self._progress = Progress(str(event["text"]))
            self._written = 0.0
            self._worker._log(self._claim, str(event["text"]))
        elif kind == "progress":
            total = event["total"]
            self._progress = Progress(self._progress.stage, event["done"], total, str(event["unit"]))
        elif kind == "note" and event["text"]:
            self._worker._log(self._claim, str(event["text"]))
        elif kind == "lock":
            conda, pypi = len(event["lock"]["conda"]), len(event["lock"]["pypi"])
            more = f" and {counted(pypi, 'PyPI package')}" if pypi else ""
            self._worker._log(self._claim, f"Solved for {event['platform']}: {counted(conda, 'package')}{more}")
        elif kind == "realized":
            how = "Created" if event["created"] else "Exists already:"
            self._worker._log(self._claim, f"{how} environment {event['name']}")
        self.pending = True

    def renew(self, lease: float) -> str:
        """Prolong the lease, and write progress, if it is time; return ``held``, ``lost`` or ``canceled``.

        While the database cannot be written the lease counts as held; the fence decides in the end.
        """
        since = time.monotonic() - self._written
        if since < (_PAUSE if self.pending else lease / 3):
            return self._look()
        server = self._worker.server
        self._written, self.pending = time.monotonic(), False
        try:
            with server.database.write() as tx:
                held = leases.renew(tx, self._claim, lease, self._progress)
        except CetoolError as error:
            server.journal.write("lease-not-renewed", build=self._claim.build_id, error=str(error))
            return "held"
        server.news.publish(f"build:{self._claim.build_id}")
        return held

    def _look(self) -> str:
        """Return whether the build was canceled since, without writing."""
        server = self._worker.server
        try:
            with server.database.read() as tx:
                found = builds.find(tx, self._claim.build_id)
        except CetoolError:
            return "held"
        return "canceled" if found is not None and found.status == "CANCELED" else "held"

"""Make environments of what servers answer: ask, check, fetch packages, link; else solve here and tell the server.

A server is asked only for environments that do not exist here. While it answers, cetool imports what it needs in any
case; then a server that does not answer costs 0.3 seconds, once a minute.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from cetool.app.background import run_in_background
from cetool.app.decision import Decision
from cetool.app.making import make
from cetool.app.reporting import CreationProgress, Reporter
from cetool.app.world import World
from cetool.base.errors import CetoolError, EngineError
from cetool.base.process import Consent
from cetool.engines.protocol import EngineRequest, Progress
from cetool.remote.answers import KnownAnswers, Running, answer_key, ask
from cetool.remote.connection import Access, Connection, Patience
from cetool.remote.pinned import Pinned, given_token, pinned_servers, unknown_server
from cetool.remote.records import BuildRecord
from cetool.remote.verifying import lacking, require_in_channels
from cetool.store.store import Lease, Origin

#: Seconds that a server may take to begin its answer, on a machine that is not busy.
_PATIENCE = 0.3
#: The most of them on a busy one, and for a server that is far away.
_MOST_PATIENCE = 3.0
#: Seconds for the rest of an answer, and without any byte of a package.
_REST, _SILENCE = 5.0, 10.0
#: What is noted of a server that takes no packages from this user.
UPLOAD = "upload"
#: Problems of this machine: to solve here would not help.
_OURS = ("disk-full", "memory-exceeded", "owner-unsafe")


def known_answers(world: World) -> KnownAnswers:
    """Return what servers said before."""
    return KnownAnswers(world.paths.answers, trust=world.paths.trusted)


def access_to(pinned: Pinned, world: World, patience: Patience | None = None) -> Access:
    """Return how to reach a server: with the stored token, or the first of several with the one in the variable."""
    first = not world.settings.servers or world.settings.servers[0] == pinned.url
    token = (given_token(world.environ) if first else None) or pinned.token
    return Access(pinned.url, token, world.loaded.condarc, patience or Patience())


# --- what a server gives ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """The packages that a server has given for a specification (:class:`cetool.app.making.Given`)."""

    record: BuildRecord
    access: Access
    world: World
    reporter: Reporter
    #: Whether the user asked for an environment of this server, so that no other will do.
    insists: bool = False
    #: The build that was asked for, if the record is that of an earlier one with the same packages.
    number: int | None = None

    @property
    def reason(self) -> str:
        """Why the engine links these packages."""
        return f"links build {self.build} of {self.access.shown}"

    @property
    def build(self) -> int:
        """The number of the build."""
        return self.number or self.record.build

    @property
    def origin(self) -> Origin:
        """Where they come from."""
        return Origin(self.access.url, self.build, self.record.environment)

    @contextlib.contextmanager
    def fetched(self, request: EngineRequest, cache: Path, progress: Progress) -> Iterator[EngineRequest]:
        """Get what the package cache lacks from the server, and return the request for exactly these packages."""
        from cetool.engines.rattler.lookup import is_noted  # brings asyncio

        record = self.record
        exact = request
        if not request.spec.is_locked:
            exact = request._replace(spec=request.spec.exactly(record.conda, record.pypi))
        if self.world.settings.verify_channels:
            require_in_channels(request, record, self.world.own_process)
        absent = [package for package in exact.exact if not is_noted(cache, package)]
        if self.world.offline or not (absent or exact.exact_pypi):
            yield exact
            return
        from cetool.remote.blobs import Blob, fetch_blobs  # brings a pool of threads

        blobs = [Blob(each.file_name, each.sha256 or "", each.size) for each in absent]
        blobs += [Blob(each.file_name, each.sha256) for each in exact.exact_pypi if each.sha256 and not each.is_vcs]
        progress.stage("Downloading")
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cetool-", dir=cache, ignore_cleanup_errors=True) as directory:
            found = fetch_blobs(self.access, self.build, blobs, Path(directory), progress.download)
            for code in dict.fromkeys(each.code for each in found.problems):
                self._tell(next(each for each in found.problems if each.code == code), progress)
            yield exact._replace(given=Path(directory))

    def _tell(self, problem: CetoolError, progress: Progress) -> None:
        """Report why a package comes from its channel instead."""
        text = f"{problem.message}; fetching from the channels"
        if problem.code == "server-untrusted":
            self.reporter.warn(text)
        else:
            progress.note(text)

    def failed(self, error: EngineError) -> None:
        """Report that the packages cannot be linked. Raises the error if nothing else may be tried."""
        if self.insists or error.code in _OURS:
            raise error
        self.reporter.warn(f"the packages of {self.access.shown} cannot be used ({error.message}); solving here")


def make_from_servers(
    decision: Decision, world: World, reporter: Reporter, consent: Consent, *, refresh: bool
) -> Lease:
    """Return a lease of the environment, made of what a server answers, or solved here."""
    if decision.named is not None:
        return make(decision, world, reporter, consent, refresh=refresh, given=decision.named)
    answer, missed = ask_servers(decision, world, reporter, again=refresh)
    lease = make(decision, world, reporter, consent, refresh=refresh, given=answer)
    solved = lease.created and lease.marker.origin is None
    if missed is not None and solved and world.own_process and world.settings.server_upload:
        _upload_later(lease, missed, world)
    return lease


# --- asking -----------------------------------------------------------------------------------------------------------


def ask_servers(
    decision: Decision, world: World, reporter: Reporter, *, again: bool = False
) -> tuple[Answer | None, Pinned | None]:
    """Ask the configured servers, one after another; return the first answer, and the first server without one.

    With ``again``, also those that did not know the request a moment ago. Lies and refusals are reported as warnings.
    """
    missed: Pinned | None = None
    if world.offline:
        return None, None
    known, platform, request = known_answers(world), world.platform, decision.spec.digest
    for url in world.settings.servers or ():
        if known.failed(url):
            reporter.detail(f"{url} did not answer a moment ago, and is not asked")
            continue
        if not again and known.missed(answer_key(url, platform, request)):
            reporter.detail(f"{url} did not know this environment a moment ago, and is not asked")
            continue
        try:
            pinned = pinned_servers(world.environ).find(url)
            if pinned is None:
                raise unknown_server(url)
            access = access_to(pinned, world, _patience())
            found = _asked(pinned, access, platform, request, known)
            if isinstance(found, Running):
                found = _waited(found, pinned, access, decision, world, reporter)
            if found is None:
                missed = missed or pinned
                reporter.detail(f"{pinned.shown} does not have this environment yet")
            elif problem := lacking(found, decision.spec.virtual_packages, world.engine_environ):
                reporter.detail(f"build {found.build} of {pinned.shown} needs {problem}, which this machine lacks")
            else:
                reporter.detail(f"{pinned.shown} has this environment: build {found.build}")
                return Answer(found, access, world, reporter), missed
        except CetoolError as error:
            known.note_failure(url)
            if error.code == "server-unreachable":
                reporter.detail(f"{error.message}; not tried again for a minute")
            else:
                advice = f". {error.hint}" if error.code in ("server-key-changed", "server-unknown") else ""
                reporter.warn(f"{error.message}, so its answer is not used{advice}")
    return None, missed


def _patience() -> Patience:
    return Patience(connect=_PATIENCE * _business(), answer=_REST * _business(), silence=_SILENCE)


def _business() -> float:
    """Return how many times longer than usual everything may take here: a busy machine answers late, too."""
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            running = int(file.read().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 1.0
    return min(max(1.0, running / (os.cpu_count() or 1)), _MOST_PATIENCE / _PATIENCE)


def _asked(
    pinned: Pinned, access: Access, platform: str, request: str, known: KnownAnswers
) -> BuildRecord | Running | None:
    """Ask one server in a thread, and meanwhile import what any creation needs. Raises CetoolError."""
    outcome: list[BuildRecord | Running | BaseException | None] = []
    done, connection = threading.Event(), Connection(access)

    def work() -> None:
        try:
            with connection:
                outcome.append(ask(connection, pinned, platform, request, known))
        except BaseException as error:  # raised again in the caller's thread
            outcome.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name="cetool-ask", daemon=True).start()
    for module in ("cetool.engines.rattler.engine", "rattler"):
        with contextlib.suppress(ImportError):
            import_module(module)
    if not done.wait(_PATIENCE * _business()) and not connection.answered:
        # several round trips, of which the connection was one
        done.wait(min(6 * connection.round_trip, _MOST_PATIENCE))
    if not done.is_set() and connection.answered:
        done.wait(_REST * _business() + 1.0)
    if not outcome:
        connection.abort()
        raise CetoolError(f"{pinned.shown} does not answer", code="server-unreachable", about=pinned.url)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _waited(
    running: Running, pinned: Pinned, access: Access, decision: Decision, world: World, reporter: Reporter
) -> BuildRecord | None:
    """Wait for a build of a server and show its progress; return None if it fails or takes too long."""
    deadline = time.monotonic() + world.settings.server_wait
    with reporter.progress() as progress:
        end = _followed(running.build, access, deadline, progress)
    if end is None:
        reporter.detail(f"{pinned.shown} is still building after {world.settings.server_wait:g} seconds; solving here")
        return None
    if end != "COMPLETED":
        reporter.detail(f"build {running.build} of {pinned.shown} has ended with {end}; solving here")
        return None
    found = _asked(pinned, access, world.platform, decision.spec.digest, known_answers(world))
    return None if isinstance(found, Running) else found


def _followed(build: int, access: Access, deadline: float, progress: CreationProgress) -> str | None:
    """Show a build's progress until it ends or the deadline; return how it ended."""
    from cetool.remote.builds import watched  # few runs wait for a build

    progress.stage(f"Building on {access.shown}")
    for state in watched(access, build, deadline):
        if state.ended:
            return state.status
        progress.stage(f"Building on {access.shown}: {state.stage}" if state.stage else f"Building on {access.shown}")
        if state.total:
            progress.link(state.done, state.total)
    return None


# --- telling ----------------------------------------------------------------------------------------------------------


def _upload_later(lease: Lease, pinned: Pinned, world: World) -> None:
    """Have another process send the server the packages that were solved here, if the token may do that."""
    if access_to(pinned, world).token and not known_answers(world).failed(pinned.url, UPLOAD):
        run_in_background(world, "env", "upload", lease.prefix.name, "--server", pinned.url)

"""Solves without making anything: for a check, for a lock, for engines that cannot do it themselves.

Always by the embedded engine, whichever makes environments here: it alone solves for other platforms, for a day of the
past, with packages that stay as they are, and towards the packages that a lock has already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.base.urls import redact
from cetool.declare.environment import Exact, Over, Solve
from cetool.declare.match_fields import is_read_alike
from cetool.declare.match_specs import spec_name
from cetool.declare.package import Package
from cetool.declare.requirements import NO_SOLVING
from cetool.engines.additions import additions
from cetool.engines.protocol import EngineRequest, Hold, Progress
from cetool.engines.rattler.engine import RattlerEngine
from cetool.lock.model import PlatformLock
from cetool.lock.records import in_order, locked_of

#: Virtual packages that only one system has; an override of them means nothing to the others.
_OF_SYSTEM = {"__linux": "linux", "__glibc": "linux", "__osx": "osx", "__win": "win"}


def solver_for(request: EngineRequest) -> RattlerEngine:
    """The embedded engine with the request's variables and cache."""
    assert request.cache is not None
    return RattlerEngine(request.environ, request.cache)


def solved_over(request: EngineRequest, progress: Progress, hold: Hold) -> EngineRequest:
    """The request for exactly the packages of a baseline and what is added to them.

    Nothing is solved where they meet the request's specs already. Raises EngineError where they conflict.
    """
    asked = Solve(request.packages, request.spec.pypi)
    added = additions(request.packages, request.pinned)
    if not added:
        progress.note("Nothing is added to the baseline, so nothing is solved.")
        return request.of(Exact(request.pinned, asked=asked))
    count, shown = len(request.pinned), ", ".join(map(redact, added))
    progress.note(f"Solved with {count} packages of the baseline as they are: {shown}")
    return request.of(Exact(_exactly(request.solving(added), progress, hold), asked=asked))


def solved_for_program(request: EngineRequest, progress: Progress, hold: Hold) -> EngineRequest:
    """The request for an engine of the user's, solved where that would not do what is asked.

    Only the embedded engine solves for a moment of the past and by a script's own rules, and programs ignore some
    fields of match specs.
    """
    partly = [package for package in request.packages if not is_read_alike(package)]
    if request.spec.exclude_newer is None and not partly and request.spec.solving == NO_SOLVING:
        return request
    if partly:
        progress.note(f"Solved by the embedded engine, for its fields: {', '.join(map(redact, partly))}")
    return request.of(Exact(_exactly(request, progress, hold), asked=Solve(request.packages, request.spec.pypi)))


def _exactly(request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
    return solver_for(request).solve_exactly(request, progress, hold)


def count_packages(request: EngineRequest, progress: Progress, hold: Hold) -> int:
    """The number of conda packages that the environment would have; PyPI requirements are not looked at.

    Raises UnsatisfiableError where there is no such environment, EngineError where that cannot be found out.
    """
    if request.pinned:
        request = request.solving(additions(request.packages, request.pinned))
    with _scratch(request) as scratch:
        return len(solver_for(scratch).solve(scratch, progress, hold))


def solve_lock(request: EngineRequest, before: PlatformLock | None, progress: Progress, hold: Hold) -> PlatformLock:
    """What is to be locked for the request's platform, the packages of ``before`` kept where they fit.

    The conda packages of a baseline are in it as they are, and only what else is asked for is solved. Raises
    EngineError where there is no such environment, or that cannot be found out.
    """
    platform = request.platform
    assert platform is not None
    spec, given = request.spec, {package.name for package in request.pinned}
    kept = () if before is None else tuple(each for each in before.conda if each.name not in given)
    fitting = _fitting(spec.virtual_packages, platform)
    request = request._replace(spec=spec._replace(virtual_packages=fitting), preferred=kept)
    with _scratch(request) as scratch:
        conda = _added(scratch, progress, hold) if isinstance(spec.what, Over) else _conda(scratch, progress, hold)
        if not spec.pypi:
            return PlatformLock(platform, conda)
        # 60 ms that only locks with PyPI packages take
        from cetool.engines.pypi.lock import PypiSolver

        create = solver_for(scratch).create
        return PypiSolver(scratch._replace(preferred=conda), conda, before, hold, create).solve(progress)


@contextmanager
def _scratch(request: EngineRequest) -> Iterator[EngineRequest]:
    """The request with a prefix and a log that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="cetool-solve-") as directory:
        try:
            yield request._replace(prefix=Path(directory, "prefix"), log=Path(directory, "log"))
        except EngineError as error:
            raise error.but(log=None) from None


def _conda(request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
    """The conda packages; pip among them where there are PyPI packages, for those who install by it."""
    if request.spec.pypi and not any(spec_name(package) == "pip" for package in request.packages):
        try:
            return _solved(request.solving((*request.packages, "pip")), progress, hold)
        except EngineError:
            pass  # for want of pip, or of something else, which the next words tell
    return _solved(request, progress, hold)


def _solved(request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
    records = solver_for(request).solve(request, progress, hold)
    return _with_digests(in_order(map(locked_of, records)))


def _added(request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
    """The conda packages of the baseline, and what is added to them."""
    added = additions(request.packages, request.pinned)
    if not added:
        return _with_digests(request.pinned)
    given = {package.name: package for package in request.pinned}
    found = []
    for package in map(locked_of, solver_for(request).solve(request.solving(added), progress, hold)):
        mine = given.get(package.name)
        found.append(package if mine is None else mine._replace(depends=mine.depends or package.depends))
    return _with_digests(in_order(found))


def _with_digests(packages: tuple[Package, ...]) -> tuple[Package, ...]:
    """The packages, all of which can be verified. Raises EngineError otherwise."""
    for package in packages:
        if not package.sha256 and not package.md5:
            raise EngineError(
                f"the channel tells no digest of {package.name} {package.version}, so it cannot be locked",
                code="lock-impossible",
                hint="Have the channel indexed anew (conda-index, or rattler-index).",
            )
    return packages


def _fitting(overrides: tuple[tuple[str, str], ...], platform: str) -> tuple[tuple[str, str], ...]:
    """The overridden virtual packages that mean something to a platform."""
    system = platform.partition("-")[0]
    return tuple((name, value) for name, value in overrides if _OF_SYSTEM.get(name, system) == system)

"""Solves without making anything: for a check, and for engines that cannot do it themselves.

Always by the embedded engine, whichever makes environments here: it alone solves for other platforms, for a day of the
past, with packages that stay as they are, and towards the packages that a lock has already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.base.text import counted
from cetool.base.urls import redact
from cetool.declare.environment import Exact, Solve
from cetool.declare.match_fields import is_read_alike
from cetool.declare.package import Package
from cetool.declare.requirements import NO_SOLVING
from cetool.engines.explicit import additions
from cetool.engines.protocol import EngineRequest, Hold, Progress
from cetool.engines.rattler.engine import RattlerEngine


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
    progress.note(f"Solved with {counted(count, 'package')} of the baseline unchanged: {shown}")
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
    with scratch(request) as aside:
        return len(solver_for(aside).solve(aside, progress, hold))


@contextmanager
def scratch(request: EngineRequest) -> Iterator[EngineRequest]:
    """The request with a prefix and a log that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="cetool-solve-") as directory:
        try:
            yield request._replace(prefix=Path(directory, "prefix"), log=Path(directory, "log"))
        except EngineError as error:
            raise error.but(log=None) from None

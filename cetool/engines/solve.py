"""Solve without making an environment: for checks, and for engines that cannot solve a request themselves.

The embedded engine always does this, whichever engine makes environments: only it can solve for other platforms, for a
date in the past, with packages that must not change, and with preference for the packages of an existing lock.
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
    """Return an embedded engine with the request's variables and package cache."""
    assert request.cache is not None
    return RattlerEngine(request.environ, request.cache)


def solved_over(request: EngineRequest, progress: Progress, hold: Hold) -> EngineRequest:
    """Return a request for the exact packages of a baseline and those added to it.

    Nothing is solved if the baseline already satisfies the request's specs. Raises EngineError if they conflict.
    """
    asked = Solve(request.packages, request.spec.pypi)
    added = additions(request.packages, request.pinned)
    if not added:
        progress.note("The baseline has all requested packages; nothing to solve")
        return request.of(Exact(request.pinned, asked=asked))
    count, shown = counted(len(request.pinned), "package"), ", ".join(map(redact, added))
    progress.note(f"Keeping {count} of the baseline, and adding {shown}")
    return request.of(Exact(_exactly(request.solving(added), progress, hold), asked=asked))


def solved_for_program(request: EngineRequest, progress: Progress, hold: Hold) -> EngineRequest:
    """Return the request for a program, solved by the embedded engine if the program could not solve it correctly.

    Only the embedded engine solves for a date in the past and with a script's own solver options, and programs ignore
    some fields of match specs.
    """
    partly = [package for package in request.packages if not is_read_alike(package)]
    if request.spec.exclude_newer is None and not partly and request.spec.solving == NO_SOLVING:
        return request
    if partly:
        progress.note(
            f"The embedded engine solves, since other engines ignore fields of {', '.join(map(redact, partly))}"
        )
    return request.of(Exact(_exactly(request, progress, hold), asked=Solve(request.packages, request.spec.pypi)))


def _exactly(request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
    return solver_for(request).solve_exactly(request, progress, hold)


def count_packages(request: EngineRequest, progress: Progress, hold: Hold) -> int:
    """Return the number of conda packages that the environment would have; PyPI requirements are ignored.

    Raises UnsatisfiableError if there is no solution, EngineError if solving fails otherwise.
    """
    if request.pinned:
        request = request.solving(additions(request.packages, request.pinned))
    with scratch(request) as aside:
        return len(solver_for(aside).solve(aside, progress, hold))


@contextmanager
def scratch(request: EngineRequest) -> Iterator[EngineRequest]:
    """Provide the request with a temporary prefix and log; errors do not refer to the log, which is removed."""
    with tempfile.TemporaryDirectory(prefix="cetool-solve-") as directory:
        try:
            yield request._replace(prefix=Path(directory, "prefix"), log=Path(directory, "log"))
        except EngineError as error:
            hint = None if (error.hint or "").startswith("See the log") else error.hint
            raise error.but(log=None, hint=hint) from None

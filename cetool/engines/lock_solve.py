"""Solve for a lock: find the exact packages of an environment on this or another platform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from cetool.base.errors import CetoolError, EngineError
from cetool.declare.environment import Over
from cetool.declare.match_specs import spec_name
from cetool.declare.package import Package
from cetool.declare.platforms import current_platform
from cetool.engines.explicit import additions
from cetool.engines.protocol import EngineRequest, Hold, Progress
from cetool.engines.pypi.lock import PypiSolver
from cetool.engines.solve import scratch, solver_for
from cetool.lock.model import PlatformLock
from cetool.lock.records import in_order

#: Virtual packages that exist on one system only; overrides of them do not apply to others.
_OF_SYSTEM = {"__linux": "linux", "__glibc": "linux", "__osx": "osx", "__win": "win"}


def solve_lock(
    request: EngineRequest, before: PlatformLock | None, progress: Progress, hold: Hold, *, with_pip: bool = True
) -> PlatformLock:
    """Return the packages to lock for the request's platform; see :func:`solve_locks`."""
    return solve_locks([(request, before)], progress, hold, with_pip=with_pip)[0]


def solve_locks(
    wanted: Sequence[tuple[EngineRequest, PlatformLock | None]],
    progress: Progress,
    hold: Hold,
    *,
    with_pip: bool = True,
    resolve: Callable[[PypiSolver, Progress], PlatformLock] = PypiSolver.solve,
) -> list[PlatformLock]:
    """Return the packages to lock for the platform of each request; those of the lock next to it are kept if possible.

    The conda packages of all platforms are solved at the same time, with the variables and the cache of the first
    request. Those of a baseline stay unchanged; only additional packages are solved. ``with_pip`` adds pip if there are
    PyPI packages, for programs that install with pip; ``resolve`` resolves these. Raises EngineError, which names the
    platform if it is not this machine's, if there is no solution, or if solving fails otherwise.
    """
    with ExitStack() as made:
        asides = [made.enter_context(scratch(_keeping(request, before))) for request, before in wanted]
        found = []
        for aside, conda, (_, before) in zip(asides, _conda(asides, progress, hold, with_pip), wanted, strict=True):
            platform = aside.platform
            assert platform is not None
            try:
                if isinstance(conda, CetoolError):
                    raise conda
                packages = _with_digests(conda)
                if not aside.spec.pypi:
                    found.append(PlatformLock(platform, packages))
                    continue
                preferring, create = aside._replace(preferred=packages), solver_for(aside).create
                found.append(resolve(PypiSolver(preferring, packages, before, hold, create), progress))
            except EngineError as error:
                if platform != current_platform():
                    raise error.but(message=f"for {platform}: {error.message}") from None
                raise
        return found


def _keeping(request: EngineRequest, before: PlatformLock | None) -> EngineRequest:
    """Return the request with the packages that it keeps if possible, and the virtual packages of its platform."""
    assert request.platform is not None
    given = {package.name for package in request.pinned}
    kept = () if before is None else tuple(each for each in before.conda if each.name not in given)
    fitting = _fitting(request.spec.virtual_packages, request.platform)
    return request._replace(spec=request.spec._replace(virtual_packages=fitting), preferred=kept)


def _conda(
    requests: Sequence[EngineRequest], progress: Progress, hold: Hold, with_pip: bool
) -> list[tuple[Package, ...] | CetoolError]:
    """Return the conda packages of each request, in topological order, or why there are none."""
    asked = [_to_solve(request, with_pip) for request in requests]
    solved = iter(_together([each for each in asked if each is not None], progress, hold))
    found: list[tuple[Package, ...] | CetoolError] = []
    for request, sent in zip(requests, asked, strict=True):
        outcome = request.pinned if sent is None else next(solved)
        with_pip_added = sent is not None and sent.packages != request.packages and not request.pinned
        if isinstance(outcome, CetoolError) and with_pip_added:  # pip is missing, or something else, which this reports
            (outcome,) = _together([request], progress, hold)
        found.append(outcome if isinstance(outcome, CetoolError) else _sorted(request, outcome))
    return found


def _to_solve(request: EngineRequest, with_pip: bool) -> EngineRequest | None:
    """Return the request to solve: with pip, or with what is not in the baseline; None if the baseline has it all."""
    if isinstance(request.spec.what, Over):
        added = additions(request.packages, request.pinned)
        return request.solving(added) if added else None
    if with_pip and request.spec.pypi and not any(spec_name(package) == "pip" for package in request.packages):
        return request.solving((*request.packages, "pip"))
    return request


def _together(
    requests: Sequence[EngineRequest], progress: Progress, hold: Hold
) -> Sequence[list[Package] | CetoolError]:
    return solver_for(requests[0]).solve_together(requests, progress, hold) if requests else ()


def _sorted(request: EngineRequest, packages: Sequence[Package]) -> tuple[Package, ...]:
    """Return the packages in topological order; those of a baseline keep their dependencies."""
    if packages is request.pinned:
        return request.pinned
    given = {package.name: package for package in request.pinned}
    found = []
    for package in packages:
        mine = given.get(package.name)
        found.append(package if mine is None else mine._replace(depends=mine.depends or package.depends))
    return in_order(found)


def _with_digests(packages: tuple[Package, ...]) -> tuple[Package, ...]:
    """Return the packages. Raises EngineError if one has no digest."""
    for package in packages:
        if not package.sha256 and not package.md5:
            raise EngineError(
                f"cannot lock {package.name} {package.version}: the channel has no digest of it",
                code="lock-impossible",
                hint="Ask the owner of the channel to index it again (conda-index, or rattler-index).",
            )
    return packages


def _fitting(overrides: tuple[tuple[str, str], ...], platform: str) -> tuple[tuple[str, str], ...]:
    """Return the overrides of virtual packages that apply to a platform."""
    system = platform.partition("-")[0]
    return tuple((name, value) for name, value in overrides if _OF_SYSTEM.get(name, system) == system)

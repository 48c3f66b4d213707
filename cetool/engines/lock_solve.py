"""Solve for a lock: find the exact packages of an environment on this or another platform."""

from __future__ import annotations

from cetool.base.errors import EngineError
from cetool.declare.environment import Over
from cetool.declare.match_specs import spec_name
from cetool.declare.package import Package
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
    """Return the packages to lock for the request's platform; those of ``before`` are kept if possible.

    The conda packages of a baseline stay unchanged; only additional packages are solved. ``with_pip`` adds pip if there
    are PyPI packages, for programs that install with pip. Raises EngineError if there is no solution, or if solving
    fails otherwise.
    """
    platform = request.platform
    assert platform is not None
    spec, given = request.spec, {package.name for package in request.pinned}
    kept = () if before is None else tuple(each for each in before.conda if each.name not in given)
    fitting = _fitting(spec.virtual_packages, platform)
    request = request._replace(spec=spec._replace(virtual_packages=fitting), preferred=kept)
    with scratch(request) as aside:
        conda = (
            _added(aside, progress, hold)
            if isinstance(spec.what, Over)
            else _conda(aside, progress, hold, with_pip=with_pip)
        )
        if not spec.pypi:
            return PlatformLock(platform, conda)
        create = solver_for(aside).create
        return PypiSolver(aside._replace(preferred=conda), conda, before, hold, create).solve(progress)


def _conda(request: EngineRequest, progress: Progress, hold: Hold, *, with_pip: bool) -> tuple[Package, ...]:
    """Return the conda packages, including pip if there are PyPI packages, for users who install with pip."""
    if with_pip and request.spec.pypi and not any(spec_name(package) == "pip" for package in request.packages):
        try:
            return _solved(request.solving((*request.packages, "pip")), progress, hold)
        except EngineError:
            pass  # pip is missing, or something else, which the next attempt reports
    return _solved(request, progress, hold)


def _solved(request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
    return _with_digests(in_order(solver_for(request).solve(request, progress, hold)))


def _added(request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
    """Return the conda packages of the baseline, and those added to it."""
    added = additions(request.packages, request.pinned)
    if not added:
        return _with_digests(request.pinned)
    given = {package.name: package for package in request.pinned}
    found = []
    for package in solver_for(request).solve(request.solving(added), progress, hold):
        mine = given.get(package.name)
        found.append(package if mine is None else mine._replace(depends=mine.depends or package.depends))
    return _with_digests(in_order(found))


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

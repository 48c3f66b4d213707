"""Solves for a lock: exactly which packages an environment has on a platform, this machine's or another."""

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

#: Virtual packages that only one system has; an override of them means nothing to the others.
_OF_SYSTEM = {"__linux": "linux", "__glibc": "linux", "__osx": "osx", "__win": "win"}


def solve_lock(
    request: EngineRequest, before: PlatformLock | None, progress: Progress, hold: Hold, *, with_pip: bool = True
) -> PlatformLock:
    """What is to be locked for the request's platform, the packages of ``before`` kept where they fit.

    The conda packages of a baseline are in it as they are, and only what else is asked for is solved. Raises
    EngineError where there is no such environment, or that cannot be found out. ``with_pip`` adds pip next to PyPI
    packages, for programs that install by it.
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
    """The conda packages; pip among them where there are PyPI packages, for those who install by it."""
    if with_pip and request.spec.pypi and not any(spec_name(package) == "pip" for package in request.packages):
        try:
            return _solved(request.solving((*request.packages, "pip")), progress, hold)
        except EngineError:
            pass  # for want of pip, or of something else, which the next words tell
    return _solved(request, progress, hold)


def _solved(request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
    return _with_digests(in_order(solver_for(request).solve(request, progress, hold)))


def _added(request: EngineRequest, progress: Progress, hold: Hold) -> tuple[Package, ...]:
    """The conda packages of the baseline, and what is added to them."""
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

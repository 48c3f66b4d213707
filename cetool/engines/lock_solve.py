"""Solves for a lock: exactly which packages an environment has on a platform, this machine's or another.

Always by the embedded engine, whichever makes environments here: it alone solves for other platforms, for a day of the
past, and towards the packages that a lock has already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cetool.base.durations import exclude_newer as moment_of
from cetool.base.durations import rfc3339
from cetool.base.errors import EngineError
from cetool.base.process import Consent
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.match_specs import spec_name
from cetool.declare.package import Package
from cetool.engines.additions import additions
from cetool.engines.protocol import CreateRequest, Progress
from cetool.engines.pypi.lock import PypiSolver
from cetool.engines.rattler.engine import RattlerEngine
from cetool.lock.model import PlatformLock
from cetool.lock.records import in_order, locked_of

#: Virtual packages that only one system has; an override of them means nothing to the others.
_OF_SYSTEM = {"__linux": "linux", "__glibc": "linux", "__osx": "osx", "__win": "win"}


@dataclass(frozen=True)
class LockSolver:
    """What holds for every platform: the user's variables, where metadata are kept, and how much may be done.

    ``installer`` is ``auto``, ``uv`` or ``pip``; ``stall_timeout`` are the seconds without progress after which it is
    given up; ``exclude_newer`` the moment after which nothing counts that was published later.
    """

    environ: Mapping[str, str]
    cache_dir: Path
    consent: Consent
    offline: bool = False
    stall_timeout: float = 300.0
    installer: str = "auto"
    exclude_newer: datetime | None = None

    def solve(
        self,
        spec: EnvironmentSpec,
        platform: str,
        preferred: PlatformLock | None,
        progress: Progress,
        given: PlatformLock | None = None,
    ) -> PlatformLock:
        """What is to be locked for a platform, its packages of before kept where they fit.

        The conda packages that are ``given`` are in it as they are, and only what is asked for besides is solved.
        Raises EngineError where there is no such environment, or that cannot be found out.
        """
        fixed = set() if given is None else {package.name for package in given.conda}
        with tempfile.TemporaryDirectory(prefix="cetool-lock-") as directory:
            request = CreateRequest(
                prefix=Path(directory) / "prefix",
                packages=spec.packages,
                channels=spec.channels,
                solving=spec.solving,
                log=Path(directory) / "log",
                consent=self.consent,
                virtual_packages=_fitting(spec.virtual_packages, platform),
                offline=self.offline,
                stall_timeout=self.stall_timeout,
                exclude_newer=self._moment(spec),
                platform=platform,
                preferred=() if preferred is None else tuple(one for one in preferred.conda if one.name not in fixed),
                pinned=() if given is None else given.conda,
            )
            try:
                conda = self._conda(request, spec, progress) if given is None else self._added(request, given, progress)
                if not spec.pypi:
                    return PlatformLock(platform, conda)
                newest = self.exclude_newer
                solver = PypiSolver(
                    spec=spec,
                    request=request._replace(preferred=conda),
                    conda=conda,
                    before=preferred,
                    environ=self.environ,
                    installer=self.installer,
                    exclude_newer=spec.pypi_settings.exclude_newer if newest is None else rfc3339(newest),
                    create=RattlerEngine(self.environ, self.cache_dir).create,
                )
                return solver.solve(progress)
            except EngineError as error:
                raise error.but(log=None) from None  # it goes with the directory

    def _moment(self, spec: EnvironmentSpec) -> datetime | None:
        """The moment as of which it is solved: the command line's, else the script's own."""
        if self.exclude_newer is not None or spec.exclude_newer is None:
            return self.exclude_newer
        return moment_of(spec.exclude_newer)

    def _conda(self, request: CreateRequest, spec: EnvironmentSpec, progress: Progress) -> tuple[Package, ...]:
        """The conda packages; pip among them where there are PyPI packages, for those who install by it."""
        if spec.pypi and not any(spec_name(package) == "pip" for package in spec.packages):
            try:
                return self._solved(request._replace(packages=(*request.packages, "pip")), progress)
            except EngineError:
                pass  # for want of pip, or of something else, which the next words tell
        return self._solved(request, progress)

    def _added(self, request: CreateRequest, given: PlatformLock, progress: Progress) -> tuple[Package, ...]:
        """The conda packages that are given, and what is added to them."""
        added = additions(request.packages, request.pinned)
        if not added:
            return _with_digests(given.conda)
        records = RattlerEngine(self.environ, self.cache_dir).solve(request._replace(packages=added), progress)
        named = {package.name: package for package in given.conda}
        found = []
        for package in map(locked_of, records):
            mine = named.get(package.name)
            found.append(package if mine is None else mine._replace(depends=mine.depends or package.depends))
        return _with_digests(in_order(found))

    def _solved(self, request: CreateRequest, progress: Progress) -> tuple[Package, ...]:
        records = RattlerEngine(self.environ, self.cache_dir).solve(request, progress)
        return _with_digests(in_order(map(locked_of, records)))


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

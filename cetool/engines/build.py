"""Makes a whole environment of a spec: the conda packages by an engine, then the PyPI packages, then a look at both."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cetool.base.below import read_below, walk, write_below
from cetool.base.errors import EngineError
from cetool.base.limits import parse_json
from cetool.base.process import Consent
from cetool.base.urls import redact
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec, Exact, Over
from cetool.declare.match_fields import is_read_alike
from cetool.declare.match_specs import spec_name
from cetool.declare.package import PypiPackage
from cetool.declare.requirements import NO_SOLVING
from cetool.engines.early import EarlyLook
from cetool.engines.protocol import CreateRequest, Engine, Explain, Progress
from cetool.engines.registration import forget_registration
from cetool.packages.cache import DamagedPackages, ReplacedPackages, distrust
from cetool.packages.integrity import check_complete

#: How often an environment is made before packages that other processes replace meanwhile are an error.
_TRIES = 6
_STATE = "conda-meta/state"


class Circumstances(Value):
    """What holds for every creation: the user's variables, and the settings that concern engines.

    ``stall_timeout`` are the seconds without progress after which a subprocess is ended; ``pip_installer`` is ``auto``,
    ``uv`` or ``pip``; ``meanwhile`` is called once while the engine is at work; ``solver_cache`` is where the embedded
    engine keeps metadata: it solves what the engine that makes the environment cannot.
    """

    environ: Mapping[str, str]
    consent: Consent
    offline: bool = False
    stall_timeout: float = 300.0
    pip_installer: str = "auto"
    meanwhile: Callable[[], None] | None = None
    solver_cache: Path | None = None


class Place(Value):
    """Where an environment is made: its absent prefix, the log, and the descriptors that subprocesses keep open.

    ``written`` is called each time when all is written, before it is looked over.
    """

    prefix: Path
    log: Path
    inherit: tuple[int, ...] = ()
    written: Callable[[], None] | None = None


def build_environment(
    engine: Engine, spec: EnvironmentSpec, place: Place, circumstances: Circumstances, progress: Progress
) -> tuple[int, int]:
    """Make the environment; return the number of its conda packages, and the bytes that it takes on disk.

    Raises EngineError where it cannot be made. What is left at the prefix after an error is the caller's to clear.
    """
    what = spec.what
    exact, pinned = (what if isinstance(what, Exact) else Exact()), (what if isinstance(what, Over) else Over())
    if spec.pypi or exact.pypi or pinned.pypi:
        from cetool.engines.pypi.driver import refuse_early

        refuse_early(spec.pypi_settings, circumstances.environ, circumstances.pip_installer)
    packages = spec.packages
    if spec.pypi and not spec.is_locked:
        packages += _installer((*packages, *(each.name for each in pinned.conda)), circumstances)
    moment = None
    if spec.exclude_newer is not None and not spec.is_locked:
        from cetool.base.durations import exclude_newer

        moment = exclude_newer(spec.exclude_newer)
    request = CreateRequest(
        prefix=place.prefix,
        packages=packages,
        explicit=exact.conda,
        exclude_newer=moment,
        channels=spec.channels,
        log=place.log,
        consent=circumstances.consent,
        virtual_packages=spec.virtual_packages,
        offline=circumstances.offline,
        stall_timeout=circumstances.stall_timeout,
        inherit=place.inherit,
        meanwhile=circumstances.meanwhile,
        solving=NO_SOLVING if spec.is_locked else spec.solving,
    )
    if pinned.conda:
        from cetool.engines.additions import with_additions

        assert circumstances.solver_cache is not None
        request = with_additions(request, pinned.conda, circumstances.environ, circumstances.solver_cache, progress)
    elif engine.name != "rattler" and not spec.is_locked:
        request = _solved_for(request, circumstances, progress)
    for left in range(_TRIES - 1, -1, -1):
        try:
            return _make(engine, request, spec, place, circumstances, progress)
        except DamagedPackages as error:
            # the package cache of another engine is the user's, not cetool's
            if engine.name != "rattler" or not left or not (isinstance(error, ReplacedPackages) or left == _TRIES - 1):
                raise error.but(log=str(place.log)) from None
            import random
            import shutil

            progress.note(f"{error.message}: they are fetched again")
            if isinstance(error, ReplacedPackages):
                time.sleep(random.uniform(0.0, 0.5))  # two that replace each other's packages should not stay in step
            else:
                distrust(error.directories)
            shutil.rmtree(place.prefix, ignore_errors=True)
    raise AssertionError("unreachable")


def _make(
    engine: Engine,
    request: CreateRequest,
    spec: EnvironmentSpec,
    place: Place,
    circumstances: Circumstances,
    progress: Progress,
) -> tuple[int, int]:
    exact = spec.what.pypi if isinstance(spec.what, (Exact, Over)) else ()
    asked = () if spec.is_locked else spec.pypi
    early = EarlyLook(place.prefix, place.written)
    if not exact and not asked and request.packages and not request.explicit:
        request = request._replace(nearly=early.take)
    try:
        explain = engine.create(request, progress)
    finally:  # a run that was killed may have left its line, too
        forget_registration(place.prefix, circumstances.environ)
    if not (place.prefix / "conda-meta").is_dir():
        raise EngineError(
            f"{engine.name} ended without an error, and made no environment",
            code="environment-damaged",
            hint="Choose another engine (--engine).",
            log=str(place.log),
        )
    if not exact and not asked:
        _settle(spec, place)
    elif engine.name != "rattler":  # who installs into what is not there tells something else
        _look_over(request, explain)
    whole = _intact(engine, request, spec, place, progress) if request.explicit else None
    if exact or asked:
        whole = None
        _install_pypi(spec, exact, asked, place, circumstances, progress)
        _settle(spec, place)
    return early.found or _look_over(request, explain, whole)


def _look_over(
    request: CreateRequest, explain: Explain, whole: Mapping[str, os.stat_result] | None = None
) -> tuple[int, int]:
    """See that the environment is complete; the number of its packages, and the bytes that it takes."""
    try:
        return check_complete(request.prefix, expect_packages=request.expects_packages, log=request.log, whole=whole)
    except EngineError as error:
        told = explain(error)
        if told is error:
            raise
        raise told from error


def _intact(
    engine: Engine, request: CreateRequest, spec: EnvironmentSpec, place: Place, progress: Progress
) -> Mapping[str, os.stat_result] | None:
    """See that the exactly named packages are there, and no other, and that those of a lock or a baseline were linked
    as they were packed; all that is there, if it has just that.

    Files that the embedded engine keeps unpacked are hashed when they are first linked, and again only if they look
    changed since.
    """
    from cetool.engines.explicit_checks import check_exactly, check_intact
    from cetool.packages.hashing import KnownHashes
    from cetool.packages.prefix import PackageRecordError, read_records

    packages = request.explicit
    try:
        records = read_records(place.prefix)
    except PackageRecordError as error:
        raise EngineError(
            f"the environment at {place.prefix} is not complete: "
            f"the package record {error.path.name} cannot be read: {error.problem}",
            code="environment-damaged",
            hint="Run the same command again; it is made anew.",
            log=str(place.log),
        ) from None
    check_exactly(records, packages, place.log)
    if not isinstance(spec.what, (Exact, Over)):
        return None
    there = dict(walk(place.prefix))
    known = KnownHashes(records, there, learns=engine.name == "rattler")
    return there if check_intact(place.prefix, records, packages, known, progress) else None


def _settle(spec: EnvironmentSpec, place: Place) -> None:
    """All is installed: add what the spec says of variables, and let it get to the disk."""
    _keep_variables(place.prefix, dict(spec.variables))
    if place.written is not None:
        place.written()


def _solved_for(request: CreateRequest, circumstances: Circumstances, progress: Progress) -> CreateRequest:
    """The request for a program, solved by the embedded engine where the program would not do what is asked.

    Only the embedded engine solves for a moment of the past and by a script's own rules, and programs ignore some
    fields of match specs.
    """
    partly = [package for package in request.packages if not is_read_alike(package)]
    if request.exclude_newer is None and not partly and request.solving == NO_SOLVING:
        return request
    from cetool.engines.rattler.engine import RattlerEngine

    assert circumstances.solver_cache is not None
    if partly:
        progress.note(f"Solved by the embedded engine, for its fields: {', '.join(map(redact, partly))}")
    solver = RattlerEngine(circumstances.environ, circumstances.solver_cache)
    return request._replace(explicit=solver.solve_exactly(request, progress), exclude_newer=None, solving=NO_SOLVING)


def _installer(packages: tuple[str, ...], circumstances: Circumstances) -> tuple[str, ...]:
    """What has to be added to the conda packages so that PyPI packages can be installed beside them."""
    from cetool.engines.pypi.driver import needs_pip

    there = any(spec_name(package) == "pip" for package in packages)
    return () if there or not needs_pip(circumstances.environ, circumstances.pip_installer) else ("pip",)


def _install_pypi(
    spec: EnvironmentSpec,
    exact: Sequence[PypiPackage],
    asked: Sequence[str],
    place: Place,
    circumstances: Circumstances,
    progress: Progress,
) -> None:
    from cetool.engines.pypi.driver import PypiRequest
    from cetool.engines.pypi.install import install_exactly, install_pypi

    request = PypiRequest(
        prefix=place.prefix,
        log=place.log,
        environ=circumstances.environ,
        consent=circumstances.consent,
        settings=spec.pypi_settings,
        offline=circumstances.offline,
        installer=circumstances.pip_installer,
        inherit=place.inherit,
        stall_timeout=circumstances.stall_timeout,
    )
    if exact:
        install_exactly(request, exact, progress)
    if asked:
        install_pypi(request, asked, progress)


def _keep_variables(prefix: Path, variables: dict[str, str]) -> None:
    """Write the spec's variables where ``conda activate`` and ``conda run`` look for them."""
    if not variables:
        return
    kept: dict[str, Any] = {"version": 1}
    try:
        with contextlib.suppress(FileNotFoundError):
            kept = parse_json(read_below(prefix, _STATE))
        kept["env_vars"] = {**kept.get("env_vars", {}), **variables}
        write_below(prefix, _STATE, json.dumps(kept).encode())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise EngineError(
            f"the environment's variables cannot be written to {prefix}/{_STATE}: {reason}",
            code="cache-not-writable",
            hint="One of its packages has put something else there: tell the channel's owner.",
        ) from None

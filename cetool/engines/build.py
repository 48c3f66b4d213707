"""Make a complete environment: solve if necessary, run an engine, check the result, install PyPI packages."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from cetool.base.below import read_below, walk, write_below
from cetool.base.errors import EngineError
from cetool.base.limits import parse_json
from cetool.declare.environment import Exact, Over
from cetool.declare.match_specs import spec_name
from cetool.engines.explicit import check_exactly, check_intact
from cetool.engines.protocol import Engine, EngineRequest, Explain, Hold, Progress, ProgressOver
from cetool.engines.registration import forget_registration
from cetool.engines.solve import solved_for_program, solved_over
from cetool.packages.cache import DamagedPackages, ReplacedPackages, distrust
from cetool.packages.hashing import KnownHashes
from cetool.packages.integrity import check_complete
from cetool.packages.prefix import PackageRecordError, read_records


class EarlyLook(ProgressOver):
    """Checks the prefix when all files are written; the result is valid while no directory changes."""

    def __init__(self, progress: Progress, prefix: Path, *, looks: bool) -> None:
        super().__init__(progress)
        self._prefix = prefix
        self._looks = looks
        self._found: tuple[int, int] | None = None
        self._changed: dict[str, int] = {}

    def written(self) -> None:
        """Check the prefix; problems are left for a later check to report."""
        if not self._looks:
            return
        with suppress(OSError, EngineError):
            super().written()
            changed = os.lstat(self._prefix).st_mtime_ns
            there = dict(walk(self._prefix))
            self._found = check_complete(self._prefix, there=there)
            self._changed = {name: each.st_mtime_ns for name, each in there.items() if stat.S_ISDIR(each.st_mode)}
            self._changed[""] = changed

    @property
    def found(self) -> tuple[int, int] | None:
        """The number of packages and their size in bytes; None if not checked, or if a directory has changed."""
        try:
            for name, changed in self._changed.items():
                if os.lstat(f"{self._prefix}/{name}").st_mtime_ns != changed:
                    return None
        except OSError:
            return None
        return self._found


#: The number of attempts if other processes replace packages meanwhile.
_TRIES = 6
_STATE = "conda-meta/state"


class PypiStep(Protocol):
    """Installs PyPI packages (:class:`cetool.engines.pypi.install.Installing`); few environments have any."""

    def check(self, request: EngineRequest) -> None:
        """Raise EngineError, before anything is installed, for settings that the installer does not support."""

    def needs_pip(self, request: EngineRequest) -> bool:
        """Return whether pip must be one of the conda packages."""

    def install(self, request: EngineRequest, progress: Progress, hold: Hold) -> None:
        """Install the request's PyPI packages, exact ones first. Raises EngineError."""


def build_environment(
    engine: Engine, request: EngineRequest, progress: Progress, hold: Hold, pypi: PypiStep | None = None
) -> tuple[int, int]:
    """Make the environment; return its number of conda packages and its size on disk in bytes.

    ``pypi`` installs PyPI packages, if there are any. Raises EngineError if it fails; the caller then removes what is
    left at the prefix.
    """
    conda = request
    if pypi is not None:
        pypi.check(request)
        names = [*map(spec_name, request.packages), *(package.name for package in request.pinned)]
        if request.asked_pypi and "pip" not in names and pypi.needs_pip(request):
            conda = request.solving((*request.packages, "pip"))
    if conda.pinned:
        conda = solved_over(conda, progress, hold)
    elif engine.name != "rattler" and not conda.exact:
        conda = solved_for_program(conda, progress, hold)
    for left in range(_TRIES - 1, -1, -1):
        try:
            return _make(engine, request, conda, progress, hold, pypi)
        except DamagedPackages as error:
            # the package caches of other engines belong to the user, not to cetool
            if engine.name != "rattler" or not left or not (isinstance(error, ReplacedPackages) or left == _TRIES - 1):
                raise error.but(log=str(request.log)) from None
            progress.note(f"{error.message}; fetching them again")
            if isinstance(error, ReplacedPackages):
                time.sleep(random.uniform(0.0, 0.5))  # two processes that replace each other's packages get out of step
            else:
                distrust(error.directories)
            shutil.rmtree(request.prefix, ignore_errors=True)
    raise AssertionError("unreachable")


def _make(
    engine: Engine,
    request: EngineRequest,
    conda: EngineRequest,
    progress: Progress,
    hold: Hold,
    pypi: PypiStep | None,
) -> tuple[int, int]:
    """Make the environment, with the conda packages of the request ``conda``; see :func:`build_environment`."""
    early = EarlyLook(progress, request.prefix, looks=pypi is None and bool(conda.packages) and not conda.exact)
    try:
        explain = engine.create(conda, early, hold)
    finally:  # a killed run may have left its line too
        forget_registration(request.prefix, request.environ)
    if not (request.prefix / "conda-meta").is_dir():
        raise EngineError(
            f"{engine.name} reported success but made no environment",
            code="environment-damaged",
            hint="Choose another engine (--engine).",
            log=str(request.log),
        )
    if pypi is None:
        _settle(request, progress)
    elif engine.name != "rattler":  # installing into an incomplete environment would give another error
        _look_over(conda, explain)
    whole = _intact(engine, request, conda, progress) if conda.exact else None
    if pypi is not None:
        whole = None
        pypi.install(request, progress, hold)
        _settle(request, progress)
    return early.found or _look_over(conda, explain, whole)


def _look_over(
    request: EngineRequest, explain: Explain, whole: Mapping[str, os.stat_result] | None = None
) -> tuple[int, int]:
    """Check that the environment is complete; return its number of packages and its size in bytes."""
    try:
        return check_complete(request.prefix, expect_packages=request.expects_packages, log=request.log, whole=whole)
    except EngineError as error:
        told = explain(error)
        if told is error:
            raise
        raise told from error


def _intact(
    engine: Engine, request: EngineRequest, conda: EngineRequest, progress: Progress
) -> Mapping[str, os.stat_result] | None:
    """Check that exactly the requested packages are installed, and that files of a lock or baseline are intact.

    Returns the status of all files if they are intact. Files that the embedded engine keeps unpacked are hashed when
    they are first linked, and again only if they seem to have changed.
    """
    prefix, log = request.prefix, request.log
    try:
        records = read_records(prefix)
    except PackageRecordError as error:
        raise EngineError(
            f"the environment at {prefix} is incomplete: "
            f"cannot read the package record {error.path.name}: {error.problem}",
            code="environment-damaged",
            hint="Run the command again to re-create it.",
            log=str(log),
        ) from None
    check_exactly(records, conda.exact, log)
    if not isinstance(request.spec.what, (Exact, Over)):
        return None
    there = dict(walk(prefix))
    known = KnownHashes(records, there, learns=engine.name == "rattler")
    return there if check_intact(prefix, records, conda.exact, known, progress) else None


def _settle(request: EngineRequest, progress: Progress) -> None:
    """Finish an environment in which all packages are installed: add its variables, and report it as written."""
    _keep_variables(request.prefix, dict(request.spec.variables))
    progress.written()


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
            f"cannot write the environment's variables to {prefix}/{_STATE}: {reason}",
            code="cache-not-writable",
            hint="A package may contain a file with this name: report it to the owner of the channel.",
        ) from None

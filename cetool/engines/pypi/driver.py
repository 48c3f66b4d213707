"""Run uv and pip for environments, locks and overlays: the only module that builds their command lines.

Both are restricted to one python: no user site, no other environment, and no options that would install elsewhere.
Indexes, mirrors and certificates are as the user configured them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path

from cetool.base.durations import moment_text
from cetool.base.errors import EngineError
from cetool.base.limits import PACKAGE, read_regular
from cetool.base.process import ask_version, clean_environ, own_module, python_command
from cetool.base.urls import scrub, strip_credentials
from cetool.declare.package import PypiPackage
from cetool.engines.protocol import EngineRequest, Hold
from cetool.engines.pypi.answers import (
    NOT_UNDERSTOOD,
    Planned,
    explain,
    read_dry_run,
    read_pylock,
    read_report,
    sources_of,
)
from cetool.engines.pypi.files import (
    EVERYTHING,
    GET_UV,
    Call,
    Told,
    has_files_of_uv,
    pip_environ,
    tell_pip,
    tell_uv,
)
from cetool.engines.subprocesses import Ended, Invocation, run_engine
from cetool.packages.distributions import Distribution

#: Variables that would make uv install elsewhere, or install something else.
_UV_ASTRAY = (
    *("UV_PROJECT_ENVIRONMENT", "UV_PROJECT", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY", "UV_PYTHON"),
    *("UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_EXCLUDE_NEWER"),
    *("UV_UPGRADE", "UV_REINSTALL", "UV_NO_DEPS", "UV_DRY_RUN", "UV_OFFLINE", "UV_LOG_CONTEXT", "RUST_LOG"),
)
_ELSEWHERE = ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONUSERBASE")
#: The first version of pip with --uploaded-prior-to.
_PIP_WITH_DATES = 26
#: The first version of pip with --dry-run and --report.
_PIP_WITH_REPORTS = (22, 2)
#: Seconds that an installer may take to find where packages come from.
_PATIENCE = 120.0


class Installer(ABC):
    """uv or pip, for the environment of one python."""

    #: ``uv`` or ``pip``; recorded in the marker together with the version.
    name: str
    #: Its command, for messages.
    command: str
    #: Its version; uv is asked on first use. Raises EngineError if it does not answer.
    version: str

    def __init__(self, request: EngineRequest, hold: Hold, python: Path) -> None:
        self.request = request
        self.hold = hold
        self.python = python

    @abstractmethod
    def install(self, call: Call) -> list[Planned]:
        """Install packages; return what was installed if the installer reports it (uv does not). Raises EngineError."""

    @abstractmethod
    def resolve(self, call: Call, failed: str = "installed") -> list[Planned]:
        """Return the packages that would be installed. Raises EngineError if there is no solution."""

    @abstractmethod
    def locate(self, wanted: Sequence[Distribution], *, offline: bool) -> dict[str, PypiPackage]:
        """Return where these were installed from, by name, as far as known. Raises one of NOT_UNDERSTOOD."""

    def environ(self, *drop: str) -> dict[str, str]:
        """Return the user's variables without those that select another environment."""
        return {**clean_environ(self.request.environ, drop=(*_ELSEWHERE, *drop)), "NO_COLOR": "1"}

    def scratch(self) -> tempfile.TemporaryDirectory[str]:
        """Return a temporary directory for the files of one call."""
        return tempfile.TemporaryDirectory(prefix="pypi-", dir=self.request.log.parent)

    def run(self, argv: Sequence[str], environ: Mapping[str, str]) -> Ended:
        """Run a command line to its end; its output goes to the log."""
        watched, descriptors = (self.request.prefix,), self.hold.descriptors
        return run_engine(Invocation(tuple(argv), environ, watched, descriptors), self.request, _unheard)

    def check(self, ended: Ended, pins: Mapping[str, str], what: str = "installed") -> Ended:
        """Raise EngineError for a run that failed; ``pins`` are the packages that had to stay unchanged."""
        if ended.status != 0:
            raise explain(ended, self.name, pins, log=self.request.log, offline=self.request.offline, what=what)
        return ended


class Uv(Installer):
    """uv, which can install into the environment of any python."""

    name = "uv"

    def __init__(self, request: EngineRequest, hold: Hold, python: Path, program: Path) -> None:
        super().__init__(request, hold, python)
        self.command = str(program)

    @cached_property
    def version(self) -> str:  # type: ignore[override]
        words = ask_version([self.command], self.request.environ).split()
        return words[1] if len(words) > 1 else words[0]

    def install(self, call: Call) -> list[Planned]:
        named = {} if call.exactly else call.settings.named
        with self.scratch() as scratch:
            argv, environ = self._install(Path(scratch), call)
            argv += ["--require-hashes"] if named.get("require-hashes") else []
            argv += self._rebuilt(call)
            ended = None
            if named.get("prefer-binary"):  # uv has no such option: try with wheels only first
                ended = self.run([*argv, "--only-binary=:all:"], environ)
            if ended is None or ended.status not in (0, None):
                ended = self.run(argv, environ)
        self.check(ended, call.pins)
        return []

    def resolve(self, call: Call, failed: str = "installed") -> list[Planned]:
        with self.scratch() as scratch:
            argv, environ = self._install(Path(scratch), call)
            ended = self.check(self.run([*argv, "--dry-run"], environ), call.pins, failed)
        return read_dry_run(f"{ended.stdout}\n{ended.stderr}")

    def locate(self, wanted: Sequence[Distribution], *, offline: bool) -> dict[str, PypiPackage]:
        with tempfile.TemporaryDirectory(prefix="cetool-origins-") as scratch:
            call = Call(_pinned(wanted), self.request.spec.pypi_settings, exactly=True)
            told = tell_uv(Path(scratch), call, self._environ)
            options = ["--no-annotate", "--format", "pylock.toml", "--python", str(self.python)]
            argv = self.compile(Path(scratch), told, *options, *(["--offline"] if offline else []))
            text = _ask(argv, told.environ)
            return {} if text is None else sources_of(wanted, read_pylock(text.decode(), Path(scratch)))

    def tell(self, directory: Path, call: Call, **more: str) -> Told:
        """Write the files for a call, with more variables. Raises EngineError if uv is too old for them."""
        told = tell_uv(directory, call, {**self._environ, **more})
        if has_files_of_uv(call.settings):
            self._refuse_old(directory, told.environ)
        return told

    def compile(self, directory: Path, told: Told, *options: str) -> list[str]:
        """Return the command line of ``uv pip compile``, run in a directory without a project."""
        argv = [self.command, "pip", "compile", "--no-progress", "--quiet", "--no-header"]
        return [*argv, "--directory", str(directory), *options, *told.arguments_of_compile]

    @property
    def _environ(self) -> dict[str, str]:
        return self.environ(*_UV_ASTRAY)

    def _install(self, directory: Path, call: Call) -> tuple[list[str], Mapping[str, str]]:
        told = self.tell(directory, call)
        argv = [self.command, "pip", "install", "--no-progress", "--break-system-packages"]
        # in another directory, so that uv reads no pyproject.toml or uv.toml of the current project
        argv += ["--python", str(self.python), "--directory", str(directory), *told.arguments]
        argv += ["--offline"] if self.request.offline else []
        if call.settings.exclude_newer and not call.exactly:
            argv.append(f"--exclude-newer={moment_text(call.settings.exclude_newer)}")
        return argv, told.environ

    def _rebuilt(self, call: Call) -> list[str]:
        names = [name for name in call.rebuilt if name != EVERYTHING]
        if self.request.offline:  # uv does not accept both options
            if names:
                self.run([self.command, "cache", "clean", *names], self._environ)
            return []
        return ["--refresh"] if EVERYTHING in call.rebuilt else [f"--refresh-package={name}" for name in names]

    def _refuse_old(self, directory: Path, environ: Mapping[str, str]) -> None:
        """Raise EngineError if uv does not know a setting: it would only warn, and install without it."""
        argv = [self.command, "cache", "dir", "--directory", str(directory)]
        try:
            done = subprocess.run(argv, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"cannot run {self.command}: {scrub(str(error))}", code="installer-failed") from None
        told = done.stderr.decode(errors="replace")
        if "Failed to parse" in told:
            unknown = re.search(r"unknown field `([^`]+)`", told)
            what = f"the setting {unknown[1]!r}" if unknown else "the script's settings"
            raise EngineError(
                f"{self.command} does not support {what}",
                code="installer-too-old",
                hint=f"uv may be too old. {GET_UV}",
            )


class Pip(Installer):
    """A pip that installs into the environment of a python, which need not contain it."""

    name = "pip"

    def __init__(self, request: EngineRequest, hold: Hold, python: Path, argv: Sequence[str], version: str) -> None:
        super().__init__(request, hold, python)
        self.argv = argv
        self.command = " ".join(argv)
        self.version = version

    @property
    def reports(self) -> bool:
        """Whether it can report what it would install."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:2]) >= _PIP_WITH_REPORTS

    def install(self, call: Call) -> list[Planned]:
        apart = ("--ignore-installed", "--no-compile") if call.target is not None else ()
        return self._run(call, *apart, reported=self.reports and not call.exactly)

    def resolve(self, call: Call, failed: str = "installed") -> list[Planned]:
        return self._run(call, "--dry-run", reported=True, failed=failed)

    def locate(self, wanted: Sequence[Distribution], *, offline: bool) -> dict[str, PypiPackage]:
        if offline:
            return {}
        with tempfile.TemporaryDirectory(prefix="cetool-origins-") as scratch:
            call = Call(_pinned(wanted), self.request.spec.pypi_settings, exactly=True)
            argv, environ = self._install(Path(scratch), call)
            text = _ask([*argv, "--quiet", "--dry-run", "--ignore-installed", "--report=-"], environ)
            found = [] if text is None else [each.package for each in read_report(text)]
            return {each.name: each._replace(url=strip_credentials(each.url)) for each in found}

    def _run(self, call: Call, *options: str, reported: bool, failed: str = "installed") -> list[Planned]:
        with self.scratch() as scratch:
            report = Path(scratch, "report.json")
            argv, environ = self._install(Path(scratch), call)
            argv += [*options, *(("--report", str(report)) if reported else ())]
            self.check(self.run(argv, environ), call.pins, failed)
            try:
                return read_report(read_regular(report, PACKAGE)) if reported else []
            except NOT_UNDERSTOOD as error:
                if "--dry-run" not in options:  # the packages are installed, with or without a report
                    return []
                raise EngineError(
                    f"cannot read pip's report: {error}", code="installer-failed", log=str(self.request.log)
                ) from None

    def _install(self, directory: Path, call: Call) -> tuple[list[str], Mapping[str, str]]:
        told = tell_pip(directory, call, self.environ())
        argv = [*self.argv, "install", "--no-input", "--disable-pip-version-check", "--no-user"]
        argv += ["--progress-bar=off", "--no-warn-script-location", *told.arguments]
        if self.request.offline and "--no-index" not in argv:
            argv.append("--no-index")
        if call.settings.exclude_newer and not call.exactly:
            if int(re.split(r"\D", self.version)[0]) < _PIP_WITH_DATES:
                raise EngineError(
                    f"exclude-newer requires uv or pip {_PIP_WITH_DATES}; the environment has pip {self.version}",
                    code="installer-missing",
                    hint=f"{GET_UV} Or require a newer pip in the conda packages.",
                )
            argv.append(f"--uploaded-prior-to={moment_text(call.settings.exclude_newer)}")
        return argv, pip_environ(directory, told.environ)


def _unheard(*_: object) -> None:
    """Ignore a line of output, which is in the log."""


def _ask(argv: Sequence[str], environ: Mapping[str, str]) -> bytes | None:
    """Return the output of a short command, None if it fails."""
    try:
        done = subprocess.run(argv, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _pinned(wanted: Sequence[Distribution]) -> list[str]:
    """Return requirements for exactly these distributions."""
    return [
        f"{each.name} @ {each.origin.url}" if each.origin.url else f"{each.name}=={each.version}" for each in wanted
    ]


def find_uv(environ: Mapping[str, str]) -> Path | None:
    """Return the uv to use: the one named by ``UV``, or the first on the PATH, or the one installed next to cetool."""
    named = environ.get("UV")
    if named and Path(named).is_absolute() and os.access(named, os.X_OK):
        return Path(named)
    program = "uv.exe" if os.name == "nt" else "uv"
    found = shutil.which("uv", path=environ.get("PATH", os.defpath))
    if found:
        return Path(os.path.abspath(found))
    beside = Path(sys.prefix, "Scripts" if os.name == "nt" else "bin", program)
    return beside if os.access(beside, os.X_OK) else None


def wanted_uv(environ: Mapping[str, str], installer: str, purpose: str = "install") -> Path | None:
    """Return the uv to use, None if pip is to be used. Raises EngineError if uv is required but not found."""
    uv = None if installer == "pip" else find_uv(environ)
    if installer == "uv" and uv is None:
        raise EngineError(
            f"cannot {purpose} PyPI packages: uv was not found, and pip-installer is set to uv",
            code="installer-missing",
            hint=f"{GET_UV} Or set pip-installer to auto or pip.",
        )
    return uv


def needs_pip(environ: Mapping[str, str], installer: str) -> bool:
    """Return whether an environment with PyPI packages needs ``pip`` as a conda package."""
    return installer == "pip" or (installer == "auto" and find_uv(environ) is None)


def find_installer(
    request: EngineRequest, hold: Hold, python: Path, pip: str | None, *, elsewhere: bool = True
) -> Installer | None:
    """Return uv if it is found, or else the python's pip, whose version is ``pip``; None if there is neither.

    If ``elsewhere``, and the python has no pip, another pip is acceptable: that of cetool, or the wheel that Python
    keeps for new environments (ensurepip). Raises EngineError if uv is required but not found.
    """
    uv = wanted_uv(request.environ, request.installer)
    if uv is not None:
        return Uv(request, hold, python, uv)
    if pip is not None:
        return Pip(request, hold, python, python_command(python, "-m", "pip"), pip)
    if not elsewhere:
        return None
    if importlib.util.find_spec("pip") is not None:
        return Pip(request, hold, python, own_module("pip", "--python", str(python)), installed_version("pip"))
    prefix = python.parent if os.name == "nt" else python.parent.parent
    places = [*prefix.glob("lib/python3*/ensurepip/_bundled"), prefix / "Lib" / "ensurepip" / "_bundled"]
    if own := importlib.util.find_spec("ensurepip"):
        places += [Path(place, "_bundled") for place in own.submodule_search_locations or ()]
    places.append(Path("/usr/share/python-wheels"))
    wheel = next((wheel for place in places for wheel in sorted(place.glob("pip-*.whl"), reverse=True)), None)
    if wheel is None:
        return None
    return Pip(request, hold, python, python_command(python, f"{wheel}{os.sep}pip"), wheel.name.split("-")[1])

"""Installs PyPI requirements into a finished conda prefix, by uv where it is found, else by the prefix's own pip.

The step is pinned to the prefix: no user site, no other environment, none of the options that would lead elsewhere.
Where packages come from (indexes, mirrors, certificates) stays as the user configured it. What conda put there is
pinned by a constraints file, so that the step fails rather than replacing it.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cetool.consent import Consent
from cetool.engines.base import CreateRequest, Progress
from cetool.engines.pypi_exact import Step, pip_from_elsewhere, steps, without_digest
from cetool.engines.pypi_origins import NOT_UNDERSTOOD, Asking, find_origins, keep_named, keep_origins
from cetool.engines.pypi_words import explain_failure
from cetool.engines.subprocesses import Ended, Invocation, run_engine
from cetool.errors import EngineError
from cetool.interpreter import clean_environ, python_command
from cetool.lock.installed import Installed, normalized
from cetool.spec.environment import PypiSettings
from cetool.spec.urls import redact, scrub

#: Options of pip that would install elsewhere, install something else, or write where nothing was asked for.
_PIP_ASTRAY = frozenset(
    (
        *("target", "prefix", "root", "user", "python", "require-virtualenv", "src", "log", "report", "dry-run"),
        *("requirement", "constraint", "build-constraint", "editable", "no-deps", "ignore-installed"),
        *("force-reinstall", "upgrade", "upgrade-strategy", "root-user-action"),
    )
)
#: The same of uv, and what chooses another environment.
UV_ASTRAY = (
    *("UV_PROJECT_ENVIRONMENT", "UV_PROJECT", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY", "UV_PYTHON"),
    *("UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_EXCLUDE_NEWER"),
    *("UV_UPGRADE", "UV_REINSTALL", "UV_NO_DEPS", "UV_DRY_RUN", "UV_OFFLINE", "UV_LOG_CONTEXT", "RUST_LOG"),
)
ELSEWHERE = ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONUSERBASE")
#: The first pip that knows --uploaded-prior-to.
_PIP_WITH_DATES = 26
#: The first pip whose --report is no experiment.
_PIP_WITH_REPORTS = (23, 0)


@dataclass(frozen=True)
class PypiRequest:
    """What is to be installed into ``prefix``, which has a python.

    ``requirements`` are canonical PEP 508 requirements; ``exactly`` tells that they are all the files that a lock
    names: these are installed, by their digests, and nothing that they depend on. ``installer`` is ``auto``, ``uv`` or
    ``pip``; ``environ`` the user's environment; ``log``, ``inherit`` and ``stall_timeout`` are as in
    :class:`~cetool.engines.base.CreateRequest`.
    """

    prefix: Path
    requirements: tuple[str, ...]
    log: Path
    environ: Mapping[str, str]
    consent: Consent
    settings: PypiSettings = field(default_factory=PypiSettings)
    offline: bool = False
    installer: str = "auto"
    inherit: tuple[int, ...] = ()
    stall_timeout: float = 300.0
    exactly: bool = False


def find_uv(environ: Mapping[str, str]) -> Path | None:
    """The uv that serves: what ``UV`` names, the first on the PATH, the one installed beside cetool."""
    named = environ.get("UV")
    if named and Path(named).is_absolute() and os.access(named, os.X_OK):
        return Path(named)
    program = "uv.exe" if os.name == "nt" else "uv"
    found = shutil.which("uv", path=environ.get("PATH", os.defpath))
    if found:
        return Path(os.path.abspath(found))
    beside = Path(sys.prefix, "Scripts" if os.name == "nt" else "bin", program)
    return beside if os.access(beside, os.X_OK) else None


def needs_pip(environ: Mapping[str, str], installer: str) -> bool:
    """Whether ``pip`` has to be among the conda packages of an environment that gets PyPI packages."""
    return installer == "pip" or (installer == "auto" and find_uv(environ) is None)


def install_pypi(request: PypiRequest, progress: Progress) -> None:
    """Install the requirements. Raises EngineError when they cannot be had, or not beside what conda installed."""
    if not request.requirements:
        return
    for requirement in request.requirements:
        if requirement.lstrip().startswith("-") or any(ord(char) < 32 for char in requirement):
            raise EngineError(f"{redact(requirement)!r} is not a requirement")
    python = python_of(request.prefix)
    uv = wanted_uv(request)
    installed = installed_distributions(request.prefix)
    refuse_conflicts(request.requirements, installed, exactly=request.exactly)
    count = len(request.requirements)
    progress.stage(f"Installing {count} PyPI package{'' if count == 1 else 's'}")
    for step in _steps(request, progress):
        with tempfile.TemporaryDirectory(prefix="pypi-", dir=request.log.parent) as directory:
            files = _write_files(Path(directory), request, step, installed)
            if uv is not None:
                progress.note(f"PyPI packages are installed by {uv}.")
                invocation = _uv(uv, python, files, request)
            else:
                pip = _find_pip(python, request, installed)
                progress.note(f"PyPI packages are installed by {' '.join(pip)}.")
                invocation = _pip(pip, files, request, installed)
            ended = run_installer(invocation, request)
            if ended.status == 0 and not request.exactly:
                # uv has just asked the indexes: its cache knows
                asking = Asking(uv, python, invocation.environ, source_lines(request.settings), offline=True)
                keep_origins(request.prefix, asking, files.report if files.report.exists() else None)
        if ended.status != 0:
            raise explain_failure(ended, request, installed, "uv" if uv is not None else "pip")
    if request.exactly:
        keep_named(request.prefix, request.requirements)


def wanted_uv(request: PypiRequest) -> Path | None:
    """The uv that is to install, None where that is pip's task. Raises EngineError where it must be uv and is not."""
    uv = None if request.installer == "pip" else find_uv(request.environ)
    if request.installer == "uv" and uv is None:
        raise EngineError(
            "uv was asked for to install PyPI packages, but it is not found",
            hint="Install uv (https://docs.astral.sh/uv/), or set pip-installer to auto or pip.",
        )
    return uv


def run_installer(invocation: Invocation, request: PypiRequest) -> Ended:
    """Run uv or pip to its end; what it prints is in the log."""
    return run_engine(invocation, _as_engine_request(request), _unheard)


def _steps(request: PypiRequest, progress: Progress) -> list[Step]:
    """The installer's calls: one, unless a lock names files of several kinds."""
    if not request.exactly:
        return [Step(request.requirements, hashed=False, wheels=False)]
    if unknown := without_digest(request.requirements):
        progress.note(f"The lock has no digests of {', '.join(unknown)}: nothing was there to check them by.")
    settings = request.settings
    return steps(request.requirements, [url for url in (settings.index_url, *settings.extra_index_urls) if url])


def _unheard(*_: object) -> None:
    """What the installer prints is in the log, and told of when it fails."""


def _as_engine_request(request: PypiRequest) -> CreateRequest:
    return CreateRequest(
        prefix=request.prefix,
        packages=request.requirements,
        channels=(),
        log=request.log,
        consent=request.consent,
        offline=request.offline,
        stall_timeout=request.stall_timeout,
        inherit=request.inherit,
    )


def python_of(prefix: Path) -> Path:
    python = prefix / "python.exe" if os.name == "nt" else prefix / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise EngineError(
            "PyPI packages were asked for, but the environment has no python", hint="Add python to the conda packages."
        )
    return python


def installed_distributions(prefix: Path) -> dict[str, str]:
    """The Python distributions that conda installed: normalised name to version."""
    from importlib.metadata import distributions

    places = [*prefix.glob("lib/python3*/site-packages"), prefix / "Lib" / "site-packages"]
    found: dict[str, str] = {}
    for distribution in distributions(path=[str(place) for place in places if place.is_dir()]):
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:
            found[normalized(name)] = version
    return found


def refuse_conflicts(requirements: tuple[str, ...], installed: Mapping[str, str], *, exactly: bool = False) -> None:
    """Say at once what the installer would take long to say: that conda's package is another version.

    With ``exactly`` none may be of a package that conda installed: it would be overwritten.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise EngineError(f"{redact(text)!r} is not a requirement: {scrub(str(error)).splitlines()[0]}") from None
        version = installed.get(normalized(requirement.name))
        if version is not None and exactly:
            raise EngineError(
                f"the lock has {requirement.name} among its PyPI packages, and conda installed {version} of it",
                hint="Lock anew; where that does not help, ask for it on one side only.",
            )
        if version is None or requirement.marker is not None or requirement.url is not None:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            raise EngineError(
                f"the PyPI requirement {text!r} does not fit {requirement.name} {version}, which conda installed",
                hint=f"Ask for {requirement.name} among the conda packages only, or let the two agree.",
            )


@dataclass(frozen=True)
class Files:
    """The files that tell the installer what to do; they are readable by their owner only and gone afterwards.

    ``step`` is the call that they are for.
    """

    directory: Path
    requirements: Path
    constraints: Path
    step: Step

    @property
    def report(self) -> Path:
        """Where pip tells what it has installed, and from where."""
        return self.directory / "report.json"


def _write_files(directory: Path, request: PypiRequest, step: Step, installed: Mapping[str, str]) -> Files:
    """Requirements and where they come from, in the format that pip and uv share: never on a command line."""
    # where wheels are named nothing is looked for
    lines = [] if request.exactly and step.wheels else source_lines(request.settings)
    files = Files(directory, directory / "requirements.txt", directory / "constraints.txt", step)
    write_private(files.requirements, "\n".join([*lines, *step.lines, ""]))
    pins = {} if request.exactly else installed  # a lock's files are what they are, and want hashes of all there is
    write_private(files.constraints, "".join(f"{name}=={version}\n" for name, version in sorted(pins.items())))
    return files


def source_lines(settings: PypiSettings) -> list[str]:
    """The lines of a requirements file that say where packages come from. Raises EngineError for what is no place."""
    lines = []
    for option, values in (
        ("--index-url", [settings.index_url] if settings.index_url else []),
        ("--extra-index-url", settings.extra_index_urls),
        ("--find-links", settings.find_links),
    ):
        for value in values:
            if re.search(r"\s", value) or value.startswith("-"):
                raise EngineError(f"{redact(value)!r} is no place for packages", hint="A URL or a path without blanks.")
            lines.append(f"{option} {value}")
    return lines


def find_missing_origins(request: PypiRequest, installed: Installed) -> Installed:
    """What is installed in the request's prefix, the files of PyPI packages looked for that nobody noted."""
    if not installed.unknown:
        return installed
    uv = None if request.installer == "pip" else find_uv(request.environ)
    environ = _environ(request, *(UV_ASTRAY if uv is not None else ()))
    asking = Asking(uv, python_of(request.prefix), environ, source_lines(request.settings), request.offline)
    try:
        return installed.completed(find_origins(installed.unknown, asking))
    except NOT_UNDERSTOOD:
        return installed


def write_private(path: Path, text: str) -> None:
    """Write a new file that nobody else may read. Raises OSError where there is one."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text, encoding="utf-8")


def _environ(request: PypiRequest, *more: str) -> dict[str, str]:
    environ = clean_environ(request.environ, drop=(*ELSEWHERE, *more))
    environ.update(PYTHONNOUSERSITE="1", NO_COLOR="1")
    return environ


def _uv(uv: Path, python: Path, files: Files, request: PypiRequest) -> Invocation:
    return uv_install(uv, python, files.directory, request, (*_wanted(files), *_exact(request, files.step)))


def _wanted(files: Files) -> tuple[str, ...]:
    return ("--constraint", str(files.constraints), "--requirement", str(files.requirements))


def uv_install(uv: Path, python: Path, directory: Path, request: PypiRequest, more: tuple[str, ...] = ()) -> Invocation:
    """``uv pip install`` for this python, with options besides those that the request stands for."""
    argv = [str(uv), "pip", "install", "--no-progress", "--break-system-packages", "--python", str(python)]
    # from another directory, so that no pyproject.toml or uv.toml of the project at hand has a say
    argv += ["--directory", str(directory), *more]
    if request.offline:
        argv.append("--offline")
    if request.settings.exclude_newer and not request.exactly:
        argv.append(f"--exclude-newer={request.settings.exclude_newer}")
    return Invocation(tuple(argv), _environ(request, *UV_ASTRAY), watched=(request.prefix,))


def _exact(request: PypiRequest, step: Step) -> list[str]:
    """The options by which both installers take the files that are named, and nothing else."""
    if not request.exactly:
        return []
    return [
        "--no-deps",
        *(["--require-hashes"] if step.hashed else []),
        *(["--no-index"] if step.wheels else []),
    ]


def _find_pip(python: Path, request: PypiRequest, installed: Mapping[str, str]) -> list[str]:
    """The beginning of a command line that is pip for the environment."""
    if "pip" in installed:
        return python_command(python, "-m", "pip")
    # what a lock names is all that is to be in the environment, so that pip is not added to it
    elsewhere = pip_from_elsewhere(request.prefix, python) if request.exactly else None
    if elsewhere is None:
        raise EngineError(
            "PyPI packages were asked for, but the environment has no pip and uv is not found",
            hint="Add pip to the conda packages, or install uv (https://docs.astral.sh/uv/).",
        )
    return elsewhere


def _pip(pip: list[str], files: Files, request: PypiRequest, installed: Mapping[str, str]) -> Invocation:
    more = (*_wanted(files), *_exact(request, files.step))
    if not request.exactly and tuple(map(int, re.findall(r"\d+", installed["pip"])[:2])) >= _PIP_WITH_REPORTS:
        more += ("--report", str(files.report))
    return pip_install(tuple(pip), installed.get("pip", ""), files.directory, request, more)


def pip_install(
    command: tuple[str, ...], version: str, directory: Path, request: PypiRequest, more: tuple[str, ...] = ()
) -> Invocation:
    """``pip install`` by a pip of this version, with options besides those that the request stands for.

    Raises EngineError where that pip cannot do what is asked.
    """
    argv = [*command, "install", "--no-input", "--disable-pip-version-check", "--no-user"]
    argv += ["--progress-bar=off", "--no-warn-script-location", *more]
    if request.offline and "--no-index" not in argv:
        argv.append("--no-index")
    if request.settings.exclude_newer and not request.exactly:
        if int(re.split(r"\D", version)[0]) < _PIP_WITH_DATES:
            raise EngineError(
                f"exclude-newer needs uv, or pip {_PIP_WITH_DATES}; the environment has pip {version}",
                hint="Install uv (https://docs.astral.sh/uv/), or ask for a newer pip among the conda packages.",
            )
        argv.append(f"--uploaded-prior-to={request.settings.exclude_newer}")
    dropped = [name for name in request.environ if name.startswith("PIP_") and _option(name[4:]) in _PIP_ASTRAY]
    environ = _environ(request, *dropped)
    environ["PIP_CONFIG_FILE"] = str(pip_config(directory, request.environ))
    # the prefix is ours, whatever an EXTERNALLY-MANAGED file in it says; older pips know no such option
    environ.update(PIP_BREAK_SYSTEM_PACKAGES="1", PIP_ROOT_USER_ACTION="ignore", PIP_REQUIRE_VIRTUALENV="0")
    return Invocation(tuple(argv), environ, watched=(request.prefix,))


def _option(key: str) -> str:
    return key.lower().replace("_", "-")


def pip_config(directory: Path, environ: Mapping[str, str]) -> Path:
    """The user's pip configuration without the options that lead elsewhere; pip reads it in place of the user's."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    files = [f"{home}/.pip/pip.conf", f"{config}/pip/pip.conf"]
    if sys.platform == "darwin":
        files.append(f"{home}/Library/Application Support/pip/pip.conf")
    if os.name == "nt":
        files = [f"{home}/pip/pip.ini", f"{environ.get('APPDATA', '')}/pip/pip.ini"]
    named = environ.get("PIP_CONFIG_FILE")
    parser = configparser.RawConfigParser()
    for name in [named] if named else files:
        try:
            parser.read(name, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            reason = scrub(str(error)).splitlines()[0]
            raise EngineError(f"pip's configuration {name} cannot be read: {reason}") from None
    for section in parser.sections():
        for key in list(parser[section]):
            if _option(key) in _PIP_ASTRAY:
                parser.remove_option(section, key)
    path = directory / "pip.conf"
    text = io.StringIO()
    parser.write(text)
    write_private(path, text.getvalue())
    return path

"""Installs PyPI requirements into a finished conda prefix, by uv where it is found, else by the prefix's own pip.

The step is pinned to the prefix: no user site, no other environment, none of the options that would lead elsewhere.
Where packages come from (indexes, mirrors, certificates) stays as the user configured it. What conda put there is
pinned by a constraints file, so that the step fails rather than replacing it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from cetool.base.consent import Consent
from cetool.base.errors import EngineError
from cetool.base.process import clean_environ
from cetool.base.urls import redact, scrub
from cetool.declare.pypi import PypiSettings
from cetool.engines.archives import links_in
from cetool.engines.protocol import CreateRequest, Progress
from cetool.engines.pypi.exact import Step, steps, without_digest
from cetool.engines.pypi.files import GET_UV, has_files_of_uv, literal, refuse_for_pip, tell_pip, tell_uv, write_private
from cetool.engines.pypi.origins import NOT_UNDERSTOOD, Asking, find_origins, keep_named, keep_origins
from cetool.engines.pypi.pip import find_pip, pip_invocation
from cetool.engines.pypi.words import explain_failure
from cetool.engines.subprocesses import Ended, Invocation, run_engine
from cetool.lock.installed import Installed
from cetool.packages.distributions import distributions_by_name, normalized, site_packages

#: Variables by which uv would install elsewhere, something else, or into another environment.
UV_ASTRAY = (
    *("UV_PROJECT_ENVIRONMENT", "UV_PROJECT", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY", "UV_PYTHON"),
    *("UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_EXCLUDE_NEWER"),
    *("UV_UPGRADE", "UV_REINSTALL", "UV_NO_DEPS", "UV_DRY_RUN", "UV_OFFLINE", "UV_LOG_CONTEXT", "RUST_LOG"),
)
ELSEWHERE = ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONUSERBASE")


@dataclass(frozen=True)
class PypiRequest:
    """What is to be installed into ``prefix``, which has a python.

    ``requirements`` are canonical PEP 508 requirements; ``exactly`` tells that they are all the files that a lock
    names: these are installed, by their digests, and nothing that they depend on. ``installer`` is ``auto``, ``uv`` or
    ``pip``; ``environ`` the user's environment; ``log``, ``inherit`` and ``stall_timeout`` are as in
    :class:`~cetool.engines.protocol.CreateRequest`.
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


def refuse_early(settings: PypiSettings, environ: Mapping[str, str], installer: str) -> None:
    """Raise EngineError, before anything is installed, for settings that the installer cannot follow."""
    if needs_pip(environ, installer):
        refuse_for_pip(settings)


def install_pypi(request: PypiRequest, progress: Progress) -> None:
    """Install the requirements. Raises EngineError when they cannot be had, or not beside what conda installed."""
    if not request.requirements:
        return
    for requirement in request.requirements:
        literal(requirement)  # raises for what is not a requirement
    python_of(request.prefix)
    refuse_links(request.prefix)
    uv = wanted_uv(request)
    if uv is None:
        refuse_for_pip(request.settings)
    installed = installed_distributions(request.prefix)
    refuse_conflicts(request.requirements, installed, exactly=request.exactly)
    count = len(request.requirements)
    progress.stage(f"Installing {count} PyPI package{'' if count == 1 else 's'}")
    for step in _steps(request, progress):
        with tempfile.TemporaryDirectory(prefix="pypi-", dir=request.log.parent) as directory:
            ended = _install(Path(directory), step, request, installed, progress)
        if ended.status != 0:
            raise explain_failure(ended, request, installed, "uv" if uv is not None else "pip")
    if request.exactly:
        keep_named(request.prefix, request.requirements)


def refuse_links(prefix: Path) -> None:
    """Raise EngineError where a conda package has put a link to another place where the installers write: they follow
    it.
    """
    top = os.path.realpath(prefix)
    above = [prefix / name for name in ("bin", "etc", "include", "lib", "share", "Lib", "Scripts")]
    found = [*above, *prefix.glob("lib/python3*"), *prefix.glob("lib/python3*/site-packages")]
    for directory in (*prefix.glob("lib/python3*/site-packages"), prefix / "Lib" / "site-packages"):
        if directory.is_dir() and not directory.is_symlink():
            found += [directory / name for name in links_in(directory)]
    for path in found:
        real = os.path.realpath(path)
        if path.is_symlink() and os.path.isdir(real) and not real.startswith(top + os.sep):
            raise EngineError(
                f"PyPI packages cannot be installed: {path} is a link to {real}, which a conda package brought",
                code="pypi-failed",
                hint="Report it to the channel's owner, or leave that package out.",
            )


def _install(
    directory: Path, step: Step, request: PypiRequest, installed: Mapping[str, str], progress: Progress
) -> Ended:
    """One call of the installer, or with uv and ``prefer-binary`` two: first with wheels alone."""
    uv, python = wanted_uv(request), python_of(request.prefix)
    # where wheels are named nothing is looked for
    alone = request.exactly and step.wheels
    settings = PypiSettings() if alone else request.settings
    constraints = directory / "constraints.txt"
    pins = {} if request.exactly else installed  # a lock's files are what they are, and want hashes of all there is
    write_private(constraints, "".join(f"{name}=={version}\n" for name, version in sorted(pins.items())))
    more = ("--constraint", str(constraints), *_exact(request, step))
    report = directory / "report.json"
    if uv is None:
        told = tell_pip(directory, settings, step.lines, installer_environ(request), exactly=request.exactly)
        pip = find_pip(python, request, installed)
        progress.note(f"PyPI packages are installed by {' '.join(pip)}.")
        invocation = pip_invocation(pip, (*told.arguments, *more), told.environ, report, request, installed)
        ended = run_installer(invocation, request)
    else:
        told = tell_uv(directory, settings, step.lines, installer_environ(request, *UV_ASTRAY), exactly=request.exactly)
        progress.note(f"PyPI packages are installed by {uv}.")
        if has_files_of_uv(settings):
            refuse_old_uv(uv, directory, told.environ)
        named = {} if request.exactly else settings.named
        more += ("--require-hashes",) if named.get("require-hashes") else ()
        more += fresh(uv, request, told.environ)
        invocation = uv_install(uv, python, directory, request, (*told.arguments, *more), told.environ)
        preferred = ("--only-binary=:all:",) if named.get("prefer-binary") else ()
        ended = run_installer(invocation._replace(argv=(*invocation.argv, *preferred)), request)
        if ended.status not in (0, None) and preferred:
            ended = run_installer(invocation, request)
    if ended.status == 0 and not request.exactly:
        # uv has just asked the indexes: its cache knows
        asking = Asking(uv, python, invocation.environ, settings, offline=True)
        keep_origins(request.prefix, asking, report if report.exists() else None)
    return ended


def fresh(uv: Path, request: PypiRequest, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The options by which uv builds directories on this machine as they are now, not as it has built them before."""
    named = request.settings.named
    texts = [*request.requirements, *named.get("override-dependencies", ()), *named.get("constraint-dependencies", ())]
    found = [text for text in texts if is_directory(text)]
    names = sorted({normalized(text.partition(" @ ")[0].partition("[")[0]) for text in found if " @ " in text})
    if request.offline:  # uv does not take both
        if names:
            run_installer(Invocation((str(uv), "cache", "clean", *names), environ), request)
        return ()
    return (
        ("--refresh",) if any(" @ " not in text for text in found) else tuple(f"--refresh-package={n}" for n in names)
    )


def is_directory(requirement: str) -> bool:
    """Whether a requirement is for a directory on this machine."""
    found = re.search(r"(?:^| @ )file://(?P<path>[^\s#]*)", requirement)
    return found is not None and os.path.isdir(unquote(found["path"]))


def refuse_old_uv(uv: Path, directory: Path, environ: Mapping[str, str]) -> None:
    """Raise EngineError for a uv that does not know a setting: it would install without it, and only warn."""
    argv = [str(uv), "cache", "dir", "--directory", str(directory)]
    try:
        done = subprocess.run(argv, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{uv} cannot be used: {scrub(str(error))}", code="installer-failed") from None
    told = done.stderr.decode(errors="replace")
    if "Failed to parse" in told:
        unknown = re.search(r"unknown field `([^`]+)`", told)
        what = f"the setting {unknown[1]!r}" if unknown else "the script's settings"
        raise EngineError(
            f"{uv} does not understand {what}", code="installer-too-old", hint=f"It may be too old. {GET_UV}"
        )


def wanted_uv(request: PypiRequest) -> Path | None:
    """The uv that is to install, None where that is pip's task. Raises EngineError where it must be uv and is not."""
    uv = None if request.installer == "pip" else find_uv(request.environ)
    if request.installer == "uv" and uv is None:
        raise EngineError(
            "uv was asked for to install PyPI packages, but it is not found",
            code="installer-missing",
            hint=f"{GET_UV} Or set pip-installer to auto or pip.",
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
    return steps(request.requirements, settings.index_urls)


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
            "PyPI packages were asked for, but the environment has no python",
            code="pypi-failed",
            hint="Add python to the conda packages.",
        )
    return python


def installed_distributions(prefix: Path) -> dict[str, str]:
    """The Python distributions that conda installed: normalised name to version."""
    found = distributions_by_name(site_packages(prefix))
    return {name: each.version for name, each in found.items()}


def is_nameless(requirement: str) -> bool:
    """Whether a requirement is a URL alone, whose package's name nothing tells before it is there."""
    return "://" in requirement.partition(" ")[0]


def refuse_conflicts(requirements: tuple[str, ...], installed: Mapping[str, str], *, exactly: bool = False) -> None:
    """Say at once what the installer would take long to say: that conda's package is another version.

    With ``exactly`` none may be of a package that conda installed: it would be overwritten.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requirements:
        if is_nameless(text):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise EngineError(
                f"{redact(text)!r} is not a requirement: {scrub(str(error)).splitlines()[0]}",
                code="requirement-invalid",
            ) from None
        version = installed.get(normalized(requirement.name))
        if version is not None and exactly:
            raise EngineError(
                f"the lock has {requirement.name} among its PyPI packages, and conda installed {version} of it",
                about=requirement.name,
                code="pypi-conflict",
                hint="Lock anew; where that does not help, ask for it on one side only.",
            )
        if version is None or requirement.marker is not None or requirement.url is not None:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            raise EngineError(
                f"the PyPI requirement {text!r} does not fit {requirement.name} {version}, which conda installed",
                about=requirement.name,
                code="pypi-conflict",
                hint=f"Ask for {requirement.name} among the conda packages only, or let the two agree.",
            )


def find_missing_origins(request: PypiRequest, installed: Installed) -> Installed:
    """What is installed in the request's prefix, the files of PyPI packages looked for that nobody noted."""
    if not installed.unknown:
        return installed
    uv = None if request.installer == "pip" else find_uv(request.environ)
    environ = installer_environ(request, *(UV_ASTRAY if uv is not None else ()))
    asking = Asking(uv, python_of(request.prefix), environ, request.settings, request.offline)
    try:
        return installed.completed(find_origins(installed.unknown, asking))
    except NOT_UNDERSTOOD:
        return installed


def installer_environ(request: PypiRequest, *more: str) -> dict[str, str]:
    """The variables of an installer, those taken out that lead elsewhere, and ``more``."""
    environ = clean_environ(request.environ, drop=(*ELSEWHERE, *more))
    environ["NO_COLOR"] = "1"
    return environ


def uv_install(
    uv: Path,
    python: Path,
    directory: Path,
    request: PypiRequest,
    more: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
) -> Invocation:
    """``uv pip install`` for this python, with options besides those that the request stands for."""
    argv = [str(uv), "pip", "install", "--no-progress", "--break-system-packages", "--python", str(python)]
    # from another directory, so that no pyproject.toml or uv.toml of the project at hand has a say
    argv += ["--directory", str(directory), *more]
    if request.offline:
        argv.append("--offline")
    if request.settings.exclude_newer and not request.exactly:
        argv.append(f"--exclude-newer={request.settings.exclude_newer}")
    known = installer_environ(request, *UV_ASTRAY) if environ is None else environ
    return Invocation(tuple(argv), known, watched=(request.prefix,))


def _exact(request: PypiRequest, step: Step) -> list[str]:
    """The options by which both installers take the files that are named, and nothing else."""
    if not request.exactly:
        return []
    return [
        "--no-deps",
        *(["--require-hashes"] if step.hashed else []),
        *(["--no-index"] if step.wheels else []),
    ]

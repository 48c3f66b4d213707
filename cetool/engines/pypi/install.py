"""Install PyPI packages into a complete conda prefix, and record there which files they were installed from.

Packages from conda are pinned, so that the installer fails instead of replacing them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from cetool.base.errors import EngineError, StoreError
from cetool.base.text import counted, normalized
from cetool.base.urls import redact, scrub, split_url
from cetool.declare.package import PypiPackage
from cetool.declare.pypi import PypiSettings
from cetool.engines.archives import links_in
from cetool.engines.protocol import EngineRequest, Hold, Progress
from cetool.engines.pypi.answers import NOT_UNDERSTOOD, Planned
from cetool.engines.pypi.driver import Installer, find_installer, needs_pip
from cetool.engines.pypi.files import EVERYTHING, GET_UV, Call, literal, refuse_for_pip
from cetool.lock.records import Installed
from cetool.packages.distributions import (
    distributions_by_name,
    pypi_distributions,
    read_origins,
    site_packages,
    write_origins,
)
from cetool.packages.prefix import read_records


class Installing:
    """Installs the PyPI packages of an environment that is being made (:class:`cetool.engines.build.PypiStep`)."""

    def check(self, request: EngineRequest) -> None:
        """Raise EngineError, before anything is installed, for settings that the installer does not support."""
        if self.needs_pip(request):
            refuse_for_pip(request.spec.pypi_settings)

    def needs_pip(self, request: EngineRequest) -> bool:
        """Return whether pip must be one of the conda packages."""
        return needs_pip(request.environ, request.installer)

    def install(self, request: EngineRequest, progress: Progress, hold: Hold) -> None:
        """Install the request's PyPI packages, exact ones first. Raises EngineError."""
        if request.exact_pypi:
            install_exactly(request, request.exact_pypi, progress, hold)
        if request.asked_pypi:
            install_pypi(request, request.asked_pypi, progress, hold)


def install_pypi(request: EngineRequest, requirements: Sequence[str], progress: Progress, hold: Hold) -> None:
    """Install the requirements (PEP 508).

    Raises EngineError if they are not available, or conflict with conda packages.
    """
    for requirement in requirements:
        literal(requirement)  # raises if it is not a requirement
    installed = _look_at(request.prefix)
    installer = _installer(request, hold, installed, elsewhere=False)
    refuse_conflicts(requirements, installed)
    _tell(installer, len(requirements), progress)
    settings = request.spec.pypi_settings
    call = Call(requirements, settings, installed, rebuilt=_rebuilt(requirements, settings))
    keep_origins(request.prefix, installer, installer.install(call))


def install_exactly(request: EngineRequest, packages: Sequence[PypiPackage], progress: Progress, hold: Hold) -> None:
    """Install exactly these files, those with a digest first, without dependencies. Raises EngineError.

    Commits of repositories have no digest. They are installed separately, since installers require digests for all
    packages or for none.
    """
    installed = _look_at(request.prefix)
    installer = _installer(request, hold, installed, elsewhere=True)  # pip is not added to locked packages
    for name in (package.name for package in packages if package.name in installed):
        raise EngineError(
            f"the lock has {name} as a PyPI package, but conda installed {name} {installed[name]}",
            about=name,
            code="pypi-conflict",
            hint=f"Run `cetool lock SCRIPT`. If this fails again, require {name} either from conda or from PyPI.",
        )
    _tell(installer, len(packages), progress)
    unknown = [package.name for package in packages if package.sha256 is None and not package.url.startswith("git+")]
    if unknown:
        progress.note(f"Not verified, since the lock has no digests: {', '.join(unknown)}")
    for hashed in (True, False):
        files = [package for package in packages if (package.sha256 is not None) is hashed]
        if files:
            wheels = not any(package.is_built for package in files)  # then no index is needed
            settings = PypiSettings() if wheels else request.spec.pypi_settings
            lines = [_line(package, request) for package in files]
            installer.install(Call(lines, settings, installed, exactly=True, hashed=hashed, no_index=wheels))
    named = {package.name: package for package in packages}

    def found() -> Iterable[PypiPackage]:
        for each in pypi_distributions(request.prefix, read_records(request.prefix)):
            if each.name in named:  # use the requested file: uv does not record digests
                yield named[each.name]._replace(version=each.version)

    _note(request.prefix, found)


def _look_at(prefix: Path) -> dict[str, str]:
    """Return the distributions that conda installed. Raises EngineError if nothing can be installed into the prefix."""
    python_of(prefix)
    refuse_links(prefix)
    return installed_versions(prefix)


def _installer(request: EngineRequest, hold: Hold, installed: Mapping[str, str], *, elsewhere: bool) -> Installer:
    installer = find_installer(request, hold, python_of(request.prefix), installed.get("pip"), elsewhere=elsewhere)
    if installer is None or installer.name == "pip":
        refuse_for_pip(request.spec.pypi_settings)
    if installer is None:
        problem = "cannot install PyPI packages: uv was not found, and the environment has no pip"
        raise EngineError(problem, code="installer-missing", hint=f"Add pip to the conda packages. {GET_UV}")
    return installer


def _tell(installer: Installer, count: int, progress: Progress) -> None:
    progress.stage(f"Installing {counted(count, 'PyPI package')}")
    progress.note(f"Installing PyPI packages with {installer.command}")


def _rebuilt(requirements: Sequence[str], settings: PypiSettings) -> list[str]:
    """Return the packages that are local directories: uv must build them again instead of using its cache."""
    named = settings.named
    texts = [*requirements, *named.get("override-dependencies", ()), *named.get("constraint-dependencies", ())]
    found = [text.partition(" @ ") for text in texts if is_directory(text)]
    return sorted({normalized(name.partition("[")[0]) if at else EVERYTHING for name, at, _ in found})


def _line(package: PypiPackage, request: EngineRequest) -> str:
    """Return the package as a line of a requirements file: its file on this machine, or its URL.

    The URLs of indexes may have credentials, which are used for packages on the same host.
    """
    given = request.given_file(package.file_name, package.sha256)
    place = _with_login(package.url, request.spec.pypi_settings.index_urls) if given is None else given.as_uri()
    line = f"{package.name} @ {place}"
    return line if package.sha256 is None else f"{line} --hash=sha256:{package.sha256}"


def _with_login(text: str, logins: Sequence[str]) -> str:
    """Return the URL with the credentials for its scheme, host and port, unless it has its own."""
    vcs, plus, place = text.rpartition("+") if text.startswith("git+") else ("", "", text)
    for login in logins:
        try:
            known, url = split_url(login), split_url(place)
        except ValueError:
            continue
        if known.userinfo is not None and url.userinfo is None and known.origin == url.origin:
            return f"{vcs}{plus}{url._replace(userinfo=known.userinfo).joined()}"
    return text


# --- checks before installing ---------------------------------------------------------------------------------------


def python_of(prefix: Path) -> Path:
    """Return the environment's python. Raises EngineError if it has none."""
    python = prefix / "python.exe" if os.name == "nt" else prefix / "bin" / "python"
    if not os.access(python, os.X_OK):
        problem = "cannot install PyPI packages: the environment has no python"
        raise EngineError(problem, code="pypi-failed", hint="Add python to the conda packages.")
    return python


def installed_versions(prefix: Path) -> dict[str, str]:
    """Return the Python distributions in a prefix: normalized name to version."""
    return {name: each.version for name, each in distributions_by_name(site_packages(prefix)).items()}


def refuse_links(prefix: Path) -> None:
    """Raise EngineError if a conda package has made a directory where installers write a link out of the prefix."""
    top = os.path.realpath(prefix)
    above = [prefix / name for name in ("bin", "etc", "include", "lib", "share", "Lib", "Scripts")]
    found = [*above, *prefix.glob("lib/python3*"), *prefix.glob("lib/python3*/site-packages")]
    for directory in (*prefix.glob("lib/python3*/site-packages"), prefix / "Lib" / "site-packages"):
        if directory.is_dir() and not directory.is_symlink():
            found += [directory / name for name in links_in(directory)]
    for path in found:
        real = os.path.realpath(path)
        if path.is_symlink() and os.path.isdir(real) and not real.startswith(top + os.sep):
            problem = f"cannot install PyPI packages: a conda package has created {path}, which is a link to {real}"
            hint = "Report it to the owner of the channel, or remove the package."
            raise EngineError(problem, code="pypi-failed", hint=hint)


def refuse_conflicts(requirements: Sequence[str], installed: Mapping[str, str]) -> None:
    """Raise EngineError, earlier than the installer would, if conda installed another version."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requirements:
        if is_nameless(text):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            reason = scrub(str(error)).splitlines()[0]
            raise EngineError(f"{redact(text)!r} is not a requirement: {reason}", code="requirement-invalid") from None
        version = installed.get(normalized(requirement.name))
        if version is None or requirement.marker is not None or requirement.url is not None:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            raise EngineError(
                f"the PyPI requirement {text!r} conflicts with {requirement.name} {version}, which conda installed",
                about=requirement.name,
                code="pypi-conflict",
                hint=f"Require {requirement.name} only as a conda package, or make the two versions agree.",
            )


def is_nameless(requirement: str) -> bool:
    """Return whether a requirement is only a URL: the package's name is unknown until it is downloaded."""
    return "://" in requirement.partition(" ")[0]


def is_directory(requirement: str) -> bool:
    """Return whether a requirement is a local directory."""
    found = re.search(r"(?:^| @ )file://(?P<path>[^\s#]*)", requirement)
    return found is not None and os.path.isdir(unquote(found["path"]))


# --- origins of packages --------------------------------------------------------------------------------------------


def keep_origins(prefix: Path, installer: Installer, installed: Sequence[Planned]) -> None:
    """Record in a prefix where the packages were installed from, as far as the installer knows."""

    def found() -> Iterable[PypiPackage]:
        told = {each.package.name: each.package for each in installed}
        # uv has just requested the indexes, so its cache has the answer
        told = told or installer.locate(list(pypi_distributions(prefix, read_records(prefix))), offline=True)
        return {**read_origins(prefix), **told}.values() if told else ()  # in addition to those of an earlier step

    _note(prefix, found)


def _note(prefix: Path, found: Callable[[], Iterable[PypiPackage]]) -> None:
    """Record origins; if this fails, the environment is complete without them, and they can be found later."""
    try:
        if packages := list(found()):
            write_origins(prefix, packages)
    except (*NOT_UNDERSTOOD, StoreError):
        return


def find_missing_origins(request: EngineRequest, hold: Hold, installed: Installed) -> Installed:
    """Return the packages of a prefix, with the origins of PyPI packages that were not recorded, if they are found."""
    if not installed.unknown:
        return installed
    python = python_of(request.prefix)
    try:
        pip = installed_versions(request.prefix).get("pip")
        installer = find_installer(request, hold, python, pip, elsewhere=False)
        found = {} if installer is None else installer.locate(installed.unknown, offline=request.offline)
        return installed.completed(found)
    except NOT_UNDERSTOOD:
        return installed

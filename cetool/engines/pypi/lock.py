"""Finds the PyPI packages of a lock: by uv for every platform, or by pip for this one.

uv is not asked about an environment, for there is none: what conda brings of Python distributions is shown to it as an
index of its own, the first one, on which each has the one version that conda has and needs nothing more. pip is that of
the environment, which is made for the purpose and thrown away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cetool.base.durations import rfc3339
from cetool.base.errors import EngineError, Location, MetadataError
from cetool.base.process import clean_environ, own_python, python_command
from cetool.base.text import shorten
from cetool.base.urls import redact, strip_credentials
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.package import Package, PypiPackage
from cetool.declare.platforms import current_platform
from cetool.engines.protocol import CreateRequest, Progress
from cetool.engines.pypi import install as pypi
from cetool.engines.pypi.files import GET_UV, has_files_of_uv, refuse_for_pip, tell_pip, tell_uv, write_private
from cetool.engines.pypi.pip import pip_config
from cetool.engines.pypi.stubs import distributions_of, write_stubs
from cetool.engines.pypi.words import explain_failure
from cetool.engines.rattler.engine import RattlerEngine
from cetool.engines.rattler.request import virtual_packages
from cetool.engines.subprocesses import Invocation, run_engine
from cetool.lock.checks import pypi_url, pypi_version
from cetool.lock.model import PlatformLock
from cetool.packages.distributions import normalized

if TYPE_CHECKING:
    from cetool.engines.lock_solve import LockSolver

#: uv's names of platforms.
_PLATFORMS = {
    "linux-64": "x86_64-manylinux",
    "linux-aarch64": "aarch64-manylinux",
    "osx-64": "x86_64-apple-darwin",
    "osx-arm64": "aarch64-apple-darwin",
    "win-32": "i686-pc-windows-msvc",
    "win-64": "x86_64-pc-windows-msvc",
    "win-arm64": "aarch64-pc-windows-msvc",
}
#: The versions of glibc (2.N) that uv has platforms for; a wheel for an old one serves on all newer ones.
_GLIBCS = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
#: The one that is not surpassed unless someone says so: a lock is for other machines, too.
_USUAL_GLIBC = 28


@dataclass(frozen=True)
class PypiSolver:
    """One platform's question. ``request`` is what its conda packages were solved by, ``conda`` what came of it."""

    solver: LockSolver
    spec: EnvironmentSpec
    request: CreateRequest
    conda: tuple[Package, ...]
    before: PlatformLock | None

    @property
    def platform(self) -> str:
        """The platform that is solved for."""
        assert self.request.platform is not None
        return self.request.platform

    @property
    def _exclude_newer(self) -> str | None:
        """What the command line says, else what the script does."""
        moment = self.solver.exclude_newer
        return rfc3339(moment) if moment is not None else self.spec.pypi_settings.exclude_newer

    def solve(self, progress: Progress) -> PlatformLock:
        """The platform's packages from conda and from PyPI. Raises EngineError where the latter cannot be had."""
        uv = None if self.solver.installer == "pip" else pypi.find_uv(self.solver.environ)
        if uv is None and self.solver.installer == "uv":
            raise EngineError(
                "uv was asked for to find PyPI packages, but it is not found", code="installer-missing", hint=GET_UV
            )
        if uv is None and self.platform != current_platform():
            raise EngineError(
                f"only uv finds the PyPI packages of another platform ({self.platform})",
                code="installer-missing",
                hint=GET_UV,
            )
        if uv is None:
            refuse_for_pip(self.spec.pypi_settings)
        _refuse_unlockable(self.spec)
        progress.stage("Finding PyPI packages")
        directory = self.request.log.parent / "pypi"
        directory.mkdir(mode=0o700)
        found = self._by_uv(uv, directory, progress) if uv is not None else self._by_pip(directory, progress)
        return PlatformLock(self.platform, self.conda, tuple(sorted(found, key=lambda package: package.name)))

    # --- uv ---------------------------------------------------------------------------------------------------------

    def _by_uv(self, uv: Path, directory: Path, progress: Progress) -> list[PypiPackage]:
        import tomli

        python = next((package for package in self.conda if package.name == "python"), None)
        if python is None:
            raise EngineError(
                "PyPI packages were asked for, but no python is among the conda packages",
                code="pypi-failed",
                hint="Add python to the conda packages.",
            )
        installed = distributions_of(self.conda)
        pypi.refuse_conflicts(self.spec.pypi, installed)
        output = directory / "pylock.toml"
        stubs = write_stubs(directory / "conda", installed, self.spec.pypi_settings)
        environ = clean_environ(self.solver.environ, drop=(*pypi.ELSEWHERE, *pypi.UV_ASTRAY))
        environ.update(NO_COLOR="1", **self._deployment_target())
        told = tell_uv(directory, self.spec.pypi_settings, self.spec.pypi, environ)
        if has_files_of_uv(self.spec.pypi_settings):
            pypi.refuse_old_uv(uv, directory, told.environ)
        ask = _Asking(uv, python.version, directory, installed, (*stubs, *told.arguments_of_compile), told.environ)
        write_private(
            directory / "constraints.txt", "".join(f"{name}=={version}\n" for name, version in installed.items())
        )
        if self.before is not None and self.before.pypi:
            write_private(output, _preferences(self.before.pypi))
        progress.note(f"PyPI packages are found by {uv}.")
        self._compile(ask, ("--format=pylock.toml", f"--output-file={output}"))
        document = tomli.loads(output.read_text(encoding="utf-8"))
        packages = [package for package in document.get("packages", []) if package["name"] not in installed]
        hashes = self._hashes()
        found = [_from_pylock(package, directory, hashes.get(package["name"], frozenset())) for package in packages]
        if len(found) < 2 and not installed:
            return found
        # a pylock.toml does not tell what needs what: the same solution, pinned, is asked for in words
        with (directory / "constraints.txt").open("a", encoding="utf-8") as stream:
            stream.writelines(
                f"{package['name']}=={package['version']}\n" for package in packages if _is_pinned(package)
            )
        words = directory / "requirements.out"
        options = ("--format=requirements.txt", "--annotation-style=line", f"--output-file={words}")
        self._compile(ask, options)
        needs = _needs(words.read_text(encoding="utf-8"))
        return [package._replace(requires=tuple(sorted(needs.get(package.name, ())))) for package in found]

    def _hashes(self) -> dict[str, frozenset[str]]:
        """The SHA-256 digests that packages have to have, by name."""
        from packaging.requirements import Requirement

        found: dict[str, frozenset[str]] = {}
        for text, digests in self.spec.pypi_settings.named.get("hashes", {}).items():
            if not pypi.is_nameless(text):
                name = normalized(Requirement(text).name)
                found[name] = found.get(name, frozenset()) | {each.removeprefix("sha256:") for each in digests}
        return found

    def _compile(self, ask: _Asking, output: tuple[str, ...]) -> None:
        """Have uv solve, from another directory than this, so that no project at hand has a say."""
        argv = [str(ask.uv), "pip", "compile", "--no-progress", "--quiet", "--no-header"]
        argv += ["--directory", str(ask.directory), *output, "--python", own_python()]
        argv += ["--python-version", ask.python, *self._target(), "--constraint", "constraints.txt", *ask.arguments]
        if self.request.offline:
            argv.append("--offline")
        if self._exclude_newer:
            argv.append(f"--exclude-newer={self._exclude_newer}")
            # what stands for conda's packages has no date
            argv += [f"--exclude-newer-package={name}=false" for name in ask.installed]
        ended = run_engine(Invocation(tuple(argv), ask.environ, watched=(ask.directory,)), self.request, _unheard)
        if ended.status != 0:
            raise explain_failure(ended, self._as_request(), ask.installed, "uv", locking=True)

    def _virtual(self, name: str) -> str | None:
        found = virtual_packages(self.request.virtual_packages, self.solver.environ, self.platform)
        return next((str(each.version) for each in found if each.name.normalized == name), None)

    def _target(self) -> list[str]:
        """The options that name the platform; none for one that uv has no name for, which can only be this."""
        name = _PLATFORMS.get(self.platform)
        if name is None:
            if self.platform != current_platform():
                raise EngineError(f"uv does not find PyPI packages for {self.platform}", code="pypi-not-found")
            return []
        if name.endswith("manylinux"):
            version = self._virtual("__glibc") or "2.28"
            minor = int(parts[1]) if len(parts := re.findall(r"\d+", version)) > 1 else _USUAL_GLIBC
            if "__glibc" not in dict(self.request.virtual_packages):
                minor = min(minor, _USUAL_GLIBC)
            name = f"{name}_2_{max((each for each in _GLIBCS if each <= minor), default=_GLIBCS[0])}"
        return ["--python-platform", name]

    def _deployment_target(self) -> dict[str, str]:
        version = self._virtual("__osx") if self.platform.startswith("osx") else None
        return {"MACOSX_DEPLOYMENT_TARGET": version} if version else {}

    def _as_request(self) -> pypi.PypiRequest:
        return pypi.PypiRequest(
            self.request.prefix,
            self.spec.pypi,
            self.request.log,
            self.solver.environ,
            self.request.consent,
            self.spec.pypi_settings._replace(exclude_newer=self._exclude_newer),
            self.request.offline,
        )

    # --- pip --------------------------------------------------------------------------------------------------------

    def _by_pip(self, directory: Path, progress: Progress) -> list[PypiPackage]:
        import json

        request = self.request._replace(packages=tuple(dict.fromkeys((*self.request.packages, "pip"))))
        RattlerEngine(self.solver.environ, self.solver.cache_dir).create(request, progress)
        progress.stage("Finding PyPI packages")
        prefix = request.prefix
        installed = pypi.installed_distributions(prefix)
        pypi.refuse_conflicts(self.spec.pypi, installed)
        # pip knows no preferences: all that was locked is asked for first, which may not go with what is asked for now
        kept = {package.name: package.version for package in self.before.pypi} if self.before is not None else {}
        environ = clean_environ(self.solver.environ, drop=pypi.ELSEWHERE)
        environ.update(NO_COLOR="1", PIP_BREAK_SYSTEM_PACKAGES="1", PIP_REQUIRE_VIRTUALENV="0")
        environ["PIP_CONFIG_FILE"] = str(pip_config(directory, self.solver.environ))
        told = tell_pip(directory, self.spec.pypi_settings, self.spec.pypi, environ)
        progress.note("PyPI packages are found by the environment's pip.")
        report = directory / "report.json"
        for pins in ({**kept, **installed}, installed) if kept else (installed,):
            lines = "".join(f"{name}=={version}\n" for name, version in pins.items())
            (directory / "constraints.txt").write_text(lines, encoding="utf-8")
            invocation = Invocation(
                self._pip_words(directory, report, told.arguments), told.environ, watched=(directory,)
            )
            ended = run_engine(invocation, request, _unheard)
            if ended.status == 0:
                return [_from_report(item) for item in json.loads(report.read_bytes()).get("install", [])]
        raise explain_failure(ended, self._as_request(), installed, "pip", locking=True)

    def _pip_words(self, directory: Path, report: Path, more: tuple[str, ...]) -> tuple[str, ...]:
        python = pypi.python_of(self.request.prefix)
        argv = python_command(python, "-m", "pip", "install", "--dry-run", "--quiet", "--no-input")
        argv += ["--disable-pip-version-check", "--report", str(report)]
        argv += ["--constraint", str(directory / "constraints.txt"), *more]
        if self.request.offline and "--no-index" not in more:
            argv.append("--no-index")
        if self._exclude_newer:
            argv.append(f"--uploaded-prior-to={self._exclude_newer}")
        return tuple(argv)


class _Asking(Value):
    """A question for uv: about a python of this version, with the files in a directory that ``arguments`` name."""

    uv: Path
    python: str
    directory: Path
    installed: Mapping[str, str]
    arguments: tuple[str, ...]
    environ: Mapping[str, str]


def _unheard(*_: object) -> None:
    """What is printed is told of when it fails."""


def _refuse_unlockable(spec: EnvironmentSpec) -> None:
    """Say what cannot be locked: a directory has no digest, and is another one on another machine.

    Nor can packages that are built with those of an environment which is not there yet.
    """
    named = spec.pypi_settings.named
    more = [*named.get("override-dependencies", ()), *named.get("constraint-dependencies", ())]
    for text in (*spec.pypi, *more):
        # one with a marker may not be for this platform: if it is, it is refused once it is found
        if pypi.is_directory(text) and " ; " not in text:
            raise EngineError(
                f"{redact(text)!r} is a directory, which cannot be locked: nothing tells whether it stays unchanged",
                code="lock-impossible",
                hint="Build a wheel of it and name that, or name a commit of its repository.",
            )
    for key in ("no-build-isolation", "no-build-isolation-package"):
        if named.get(key):
            raise EngineError(
                f"{key!r} cannot be locked: packages are then built with those of an environment that is not there yet",
                code="lock-impossible",
                hint="Run the script without a lock, or name wheels.",
            )


def _preferences(packages: tuple[PypiPackage, ...]) -> str:
    """The packages of before as a pylock.toml (PEP 751), whose versions uv keeps where they fit."""
    tables = (f'[[packages]]\nname = "{package.name}"\nversion = "{package.version}"\n' for package in packages)
    return "\n".join(['lock-version = "1.0"\ncreated-by = "cetool"\n', *tables])


def _is_pinned(package: Mapping[str, Any]) -> bool:
    """Whether a version says which file it is: a direct reference is its own pin."""
    return "version" in package and not {"archive", "vcs", "directory"} & package.keys()


def _needs(words: str) -> dict[str, set[str]]:
    """What each package needs, by name, from uv's lines: ``six==1.17.0  # via python-dateutil``."""
    found: dict[str, set[str]] = {}
    for line in words.splitlines():
        annotated = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:==| @ ).*?\s+# via (.+)", line)
        for parent in annotated[2].split(", ") if annotated else ():
            if re.fullmatch(r"[A-Za-z0-9._-]+", parent):
                found.setdefault(parent, set()).add(annotated[1] if annotated else "")
    return found


def _from_pylock(package: Mapping[str, Any], directory: Path, digests: frozenset[str]) -> PypiPackage:
    """A package of a pylock.toml; of its files the wheel, which uv chose for the platform, else the source.

    Where ``digests`` are named, it is a file with one of them. Raises EngineError where there is none.
    """
    name = str(package["name"])
    if "directory" in package:
        raise EngineError(
            f"{name} is a directory, which cannot be locked",
            code="lock-impossible",
            hint="Build a wheel of it and name that.",
        )
    vcs = package.get("vcs")
    if vcs is not None:
        below = f"#subdirectory={vcs['subdirectory']}" if vcs.get("subdirectory") else ""
        url = f"git+{strip_credentials(vcs['url']).removeprefix('git+')}@{vcs['commit-id']}{below}"
        return _checked(name, str(package.get("version", "0")), url, None)
    wheels = list(package.get("wheels", []))
    files = [package["archive"]] if "archive" in package else wheels or [package["sdist"]]
    if digests:
        files = [
            each
            for each in (*files, *([package["sdist"]] if "sdist" in package else []))
            if each.get("hashes", {}).get("sha256") in digests
        ]
        if not files:
            raise EngineError(
                f"no file of {name} {package.get('version', '')} has the digest that is asked for",
                code="digest-mismatch",
                hint="Ask for the version that the digest is of, or take --hash out.",
            )
    file = files[0]
    url = file.get("url") or (directory / file["path"]).as_uri()
    return _checked(name, str(package.get("version", "0")), url, file.get("hashes", {}).get("sha256"))


def _from_report(item: Mapping[str, Any]) -> PypiPackage:
    """A package of pip's installation report."""
    metadata, info = item["metadata"], item["download_info"]
    name, version = normalized(metadata["name"]), str(metadata["version"])
    if "dir_info" in info:
        raise EngineError(
            f"{name} is a directory, which cannot be locked",
            code="lock-impossible",
            hint="Build a wheel of it and name that.",
        )
    if "vcs_info" in info:
        below = f"#subdirectory={info['subdirectory']}" if info.get("subdirectory") else ""
        found = _checked(name, version, f"git+{info['url']}@{info['vcs_info']['commit_id']}{below}", None)
    else:
        sha256 = info.get("archive_info", {}).get("hashes", {}).get("sha256")
        found = _checked(name, version, info["url"], sha256)
    return found._replace(
        requires=tuple(map(str, metadata.get("requires_dist", []))),
        requires_python=metadata.get("requires_python"),
    )


def _checked(name: str, version: str, url: str, sha256: str | None) -> PypiPackage:
    """The package as a lock can have it. Raises EngineError for one that no reader of locks would take."""
    place = Location("the index")
    try:
        plain, repository = pypi_url(strip_credentials(url.partition("#sha256=")[0]), name, place)
        pypi_version(version, place)
    except MetadataError as error:
        raise EngineError(
            f"{name} {shorten(version)} cannot be locked: {error.message}", code="lock-impossible"
        ) from None
    if not repository and sha256 is None:
        raise EngineError(
            f"the index tells no SHA-256 digest of {name} {version}, so it cannot be locked",
            code="lock-impossible",
            hint="Take it from another index, or name its file: `NAME @ https://...`.",
        )
    return PypiPackage(name, version, plain, None if repository else sha256)

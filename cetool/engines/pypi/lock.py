"""Resolve the PyPI packages of a lock: with uv for every platform, or with pip for the current one.

There is no environment that uv could examine. Instead, the Python distributions of conda packages are presented to it
as the first index, where each has only the version that conda installs, and no dependencies. pip runs in a temporary
environment that is made for this purpose.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cetool.base.durations import moment_text
from cetool.base.errors import EngineError, Location, MetadataError
from cetool.base.process import own_python
from cetool.base.text import normalized, shorten
from cetool.base.urls import redact, strip_credentials
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.package import Package, PypiPackage
from cetool.declare.platforms import current_platform
from cetool.declare.pypi import PypiSettings
from cetool.engines.protocol import EngineRequest, Hold, Progress
from cetool.engines.pypi.answers import Pinned, Planned, read_pylock
from cetool.engines.pypi.driver import Uv, find_installer, wanted_uv
from cetool.engines.pypi.files import USE_UV, Call, refuse_for_pip, write_private
from cetool.engines.pypi.install import installed_versions, is_directory, is_nameless, python_of, refuse_conflicts
from cetool.engines.rattler.request import virtual_packages
from cetool.lock.checks import pypi_url, pypi_version
from cetool.lock.model import PlatformLock

#: uv's names for platforms.
_PLATFORMS = {
    "linux-64": "x86_64-manylinux",
    "linux-aarch64": "aarch64-manylinux",
    "osx-64": "x86_64-apple-darwin",
    "osx-arm64": "aarch64-apple-darwin",
    "win-32": "i686-pc-windows-msvc",
    "win-64": "x86_64-pc-windows-msvc",
    "win-arm64": "aarch64-pc-windows-msvc",
}
#: The versions of glibc (2.N) for which uv has platforms; a wheel for one version works on all newer ones.
_GLIBCS = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
#: The newest version to use unless the user overrides __glibc: a lock is for other machines too.
_USUAL_GLIBC = 28
_NO_PLACE = Location("the index")


@dataclass(frozen=True)
class PypiSolver:
    """Resolves the PyPI packages of one platform."""

    #: The request for which the conda packages were solved; temporary files are put next to its log.
    request: EngineRequest
    conda: tuple[Package, ...]
    #: The previous lock, whose packages are kept if possible.
    before: PlatformLock | None
    hold: Hold
    #: Makes the environment of a request.
    create: Callable[[EngineRequest, Progress, Hold], object]

    @property
    def spec(self) -> EnvironmentSpec:
        """The specification."""
        return self.request.spec

    @property
    def platform(self) -> str:
        """The platform to solve for."""
        assert self.request.platform is not None
        return self.request.platform

    def solve(self, progress: Progress) -> PlatformLock:
        """Return the platform's conda and PyPI packages. Raises EngineError if the PyPI packages cannot be resolved."""
        uv = wanted_uv(self.request.environ, self.request.installer, "resolve")
        if uv is None and self.platform != current_platform():
            problem = f"resolving PyPI packages for {self.platform} requires uv, but pip is used"
            raise EngineError(problem, code="installer-missing", hint=USE_UV)
        if uv is None:
            refuse_for_pip(self.spec.pypi_settings)
        _refuse_unlockable(self.spec)
        progress.stage("Resolving PyPI packages")
        directory = self.request.log.parent / "pypi"
        directory.mkdir(mode=0o700)
        found = self._by_uv(uv, directory, progress) if uv is not None else self._by_pip(progress)
        return PlatformLock(self.platform, self.conda, tuple(sorted(found, key=lambda package: package.name)))

    # --- uv ---------------------------------------------------------------------------------------------------------

    def _by_uv(self, program: Path, directory: Path, progress: Progress) -> list[PypiPackage]:
        python = next((package for package in self.conda if package.name == "python"), None)
        if python is None:
            problem = "cannot install PyPI packages: python is not one of the conda packages"
            raise EngineError(problem, code="pypi-failed", hint="Add python to the conda packages.")
        installed = distributions_of(self.conda)
        refuse_conflicts(self.spec.pypi, installed)
        uv = Uv(self.request, self.hold, Path(own_python()), program)
        settings = self.spec.pypi_settings
        told = uv.tell(directory, Call(self.spec.pypi, settings, installed), **self._deployment_target())
        options = [*write_stubs(directory / "conda", installed, settings), "--python", own_python()]
        options += ["--python-version", python.version, *self._target()]
        options += ["--offline"] if self.request.offline else []
        if newest := self.spec.pypi_settings.exclude_newer:
            options.append(f"--exclude-newer={moment_text(newest)}")
            # the stubs for conda's packages have no date
            options += [f"--exclude-newer-package={name}=false" for name in installed]
        progress.note(f"Resolving PyPI packages with {uv.command}")

        def compile_to(name: str, *more: str) -> str:
            argv = uv.compile(directory, told, *more, f"--output-file={directory / name}", *options)
            uv.check(uv.run(argv, told.environ), installed, "resolved")
            return (directory / name).read_text(encoding="utf-8")

        if self.before is not None and self.before.pypi:
            write_private(directory / "pylock.toml", _preferences(self.before.pypi))
        pinned = read_pylock(compile_to("pylock.toml", "--format=pylock.toml"), directory)
        pinned = [package for package in pinned if package.name not in installed]
        hashes = self._hashes()
        found = [_locked_of(package, hashes.get(package.name, frozenset())) for package in pinned]
        if len(found) < 2 and not installed:
            return found
        # a pylock.toml has no dependencies: request the same solution, pinned, as a requirements.txt
        same = "".join(f"{each.name}=={each.version}\n" for each in pinned if not each.is_direct)
        write_private(directory / "same.txt", same)
        words = compile_to(
            "requirements.out", "--format=requirements.txt", "--annotation-style=line", "--constraint=same.txt"
        )
        needs = _needs(words)
        return [package._replace(requires=tuple(sorted(needs.get(package.name, ())))) for package in found]

    def _hashes(self) -> dict[str, frozenset[str]]:
        """Return the SHA-256 digests that packages must have, by name."""
        from packaging.requirements import Requirement

        found: dict[str, frozenset[str]] = {}
        for text, digests in self.spec.pypi_settings.named.get("hashes", {}).items():
            if not is_nameless(text):
                name = normalized(Requirement(text).name)
                found[name] = found.get(name, frozenset()) | {each.removeprefix("sha256:") for each in digests}
        return found

    def _virtual(self, name: str) -> str | None:
        found = virtual_packages(self.spec.virtual_packages, self.request.environ, self.platform)
        return next((str(each.version) for each in found if each.name.normalized == name), None)

    def _target(self) -> list[str]:
        """Return the options that select the platform; none if uv has no name for it and it is the current one."""
        name = _PLATFORMS.get(self.platform)
        if name is None:
            if self.platform != current_platform():
                raise EngineError(f"uv does not support the platform {self.platform}", code="pypi-not-found")
            return []
        if name.endswith("manylinux"):
            version = self._virtual("__glibc") or "2.28"
            minor = int(parts[1]) if len(parts := re.findall(r"\d+", version)) > 1 else _USUAL_GLIBC
            if "__glibc" not in dict(self.spec.virtual_packages):
                minor = min(minor, _USUAL_GLIBC)
            name = f"{name}_2_{max((each for each in _GLIBCS if each <= minor), default=_GLIBCS[0])}"
        return ["--python-platform", name]

    def _deployment_target(self) -> dict[str, str]:
        version = self._virtual("__osx") if self.platform.startswith("osx") else None
        return {"MACOSX_DEPLOYMENT_TARGET": version} if version else {}

    # --- pip --------------------------------------------------------------------------------------------------------

    def _by_pip(self, progress: Progress) -> list[PypiPackage]:
        request = self.request.solving(tuple(dict.fromkeys((*self.request.packages, "pip"))))
        self.create(request, progress, self.hold)
        progress.stage("Resolving PyPI packages")
        installed = installed_versions(request.prefix)
        refuse_conflicts(self.spec.pypi, installed)
        pip = find_installer(self.request, self.hold, python_of(request.prefix), installed.get("pip"))
        assert pip is not None
        progress.note("Resolving PyPI packages with the environment's pip")
        settings = self.spec.pypi_settings
        # pip has no preferences: first request everything that was locked, which may conflict with the requirements
        kept = {package.name: package.version for package in self.before.pypi} if self.before is not None else {}
        for pins in ({**kept, **installed}, installed) if kept else (installed,):
            try:
                plan = pip.resolve(Call(self.spec.pypi, settings, pins), "resolved")
            except EngineError:
                if pins is installed:
                    raise
            else:
                return list(map(_locked, plan))
        raise AssertionError("unreachable")


def _refuse_unlockable(spec: EnvironmentSpec) -> None:
    """Raise EngineError for requirements that cannot be locked.

    A directory has no digest, and differs between machines. Without build isolation, packages would be built with
    those of an environment that does not exist yet.
    """
    named = spec.pypi_settings.named
    more = [*named.get("override-dependencies", ()), *named.get("constraint-dependencies", ())]
    for text in (*spec.pypi, *more):
        # a requirement with a marker may not apply to this platform: if it does, it is refused after resolving
        if is_directory(text) and " ; " not in text:
            raise _impossible(
                f"cannot lock {redact(text)!r}: it is a directory, whose content may change",
                "Build a wheel and require that, or require a commit of its repository.",
            )
    for key in ("no-build-isolation", "no-build-isolation-package"):
        if named.get(key):
            raise _impossible(
                f"cannot lock with {key!r}: packages would be built in an environment that does not exist yet",
                "Run the script without a lock, or require wheels.",
            )


def _impossible(problem: str, hint: str | None = None) -> EngineError:
    return EngineError(problem, code="lock-impossible", hint=hint)


def _preferences(packages: tuple[PypiPackage, ...]) -> str:
    """Return the previous packages as a pylock.toml (PEP 751), whose versions uv prefers."""
    tables = (f'[[packages]]\nname = "{package.name}"\nversion = "{package.version}"\n' for package in packages)
    return "\n".join(['lock-version = "1.0"\ncreated-by = "cetool"\n', *tables])


def _needs(words: str) -> dict[str, set[str]]:
    """Return the dependencies of each package, by name, from uv's lines: ``six==1.17.0  # via python-dateutil``."""
    found: dict[str, set[str]] = {}
    for line in words.splitlines():
        annotated = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:==| @ ).*?\s+# via (.+)", line)
        for parent in annotated[2].split(", ") if annotated else ():
            if re.fullmatch(r"[A-Za-z0-9._-]+", parent):
                found.setdefault(parent, set()).add(annotated[1] if annotated else "")
    return found


def _locked_of(package: Pinned, digests: frozenset[str]) -> PypiPackage:
    """Return a package resolved by uv, with the wheel that uv chose for the platform, or else the source distribution.

    If there are ``digests``, it is a file with one of them. Raises EngineError if there is none.
    """
    _refuse_directory(package.name, package.is_directory)
    files = [pair for pair in package.files if not digests or pair[1] in digests or package.is_repository]
    if not files:
        raise EngineError(
            f"no file of {package.name} {package.version or ''} has one of the digests in --hash",
            code="digest-mismatch",
            hint="Require the version that the digests belong to, or remove --hash.",
        )
    url, sha256 = files[0]
    return _checked(PypiPackage(package.name, package.version or "0", url, sha256))


def _locked(planned: Planned) -> PypiPackage:
    """Return a package resolved by pip. Raises EngineError if it cannot be locked."""
    _refuse_directory(planned.package.name, planned.is_directory)
    return _checked(planned.package)


def _refuse_directory(name: str, is_directory: bool) -> None:
    if is_directory:
        raise _impossible(f"cannot lock '{name}': it is a directory", "Build a wheel and require that.")


def _checked(package: PypiPackage) -> PypiPackage:
    """Return the package in the form for a lock. Raises EngineError if readers of locks would reject it."""
    name, version = package.name, package.version
    try:
        url = strip_credentials(package.url.partition("#sha256=")[0])
        plain, repository = pypi_url(url, name, _NO_PLACE)
        pypi_version(version, _NO_PLACE)
    except MetadataError as error:
        raise _impossible(f"cannot lock {name} {shorten(version)}: {error.message}") from None
    if not repository and package.sha256 is None:
        raise _impossible(
            f"cannot lock {name} {version}: the index has no SHA-256 digest of it",
            "Use another index, or require its file: `NAME @ https://...`.",
        )
    return package._replace(url=plain, sha256=None if repository else package.sha256)


# --- the distributions of conda packages, as an index -----------------------------------------------------------------

#: Conda packages whose Python distributions have different names.
DISTRIBUTIONS = {
    "matplotlib-base": "matplotlib",
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "msgpack-python": "msgpack",
    "python-graphviz": "graphviz",
    "py-opencv": "opencv-python",
    "tensorflow-base": "tensorflow",
    "python-kaleido": "kaleido",
    "brotli-python": "brotli",
    "py-xgboost": "xgboost",
    "dask-core": "dask",
    "python-tzdata": "tzdata",
}


def distributions_of(conda: tuple[Package, ...]) -> dict[str, str]:
    """Return the Python distributions in conda packages, judging by their records: normalized name to version."""
    from packaging.version import InvalidVersion, Version

    found: dict[str, str] = {}
    for package in conda:
        if not any(re.match(r"python(?:\s|$)", spec) for spec in package.depends):
            continue
        try:
            Version(package.version)
        except InvalidVersion:
            continue  # not a valid version of a distribution
        found[DISTRIBUTIONS.get(package.name, normalized(package.name))] = package.version
    return dict(sorted(found.items()))


def write_stubs(directory: Path, installed: Mapping[str, str], settings: PypiSettings) -> tuple[str, ...]:
    """Write an index (PEP 503) with the distributions of conda packages, each without dependencies.

    Returns the options that select it. With ``no-index`` it is a directory of files instead. With ``no-binary`` the
    files are source distributions, which do not have to be built.
    """
    directory.mkdir()
    named = settings.named
    for name, version in installed.items():
        stem = f"{name.replace('-', '_')}-{version}"
        place = directory if named.get("no-index") else directory / name
        place.mkdir(exist_ok=True)
        sources = named.get("no-binary") or name in named.get("no-binary-package", ())
        file = _stub_sources(place, stem, name, version) if sources else _stub_wheel(place, stem, name, version)
        if place != directory:
            link = f'<a href="{file}">{file}</a>'
            write_private(place / "index.html", f"<!DOCTYPE html><html><body>{link}</body></html>")
    return ("--find-links", str(directory)) if named.get("no-index") else ("--index", directory.as_uri())


def _stub_wheel(place: Path, stem: str, name: str, version: str) -> str:
    import zipfile

    file = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(place / file, "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return file


def _stub_sources(place: Path, stem: str, name: str, version: str) -> str:
    import tarfile

    file = f"{stem}.tar.gz"
    texts = {
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": f'[project]\nname = "{name}"\nversion = "{version}"\n',
    }
    with tarfile.open(place / file, "w:gz") as archive:
        for inner, text in texts.items():
            info = tarfile.TarInfo(f"{stem}/{inner}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return file

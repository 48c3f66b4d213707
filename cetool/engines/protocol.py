"""The protocol of engines, which make an environment on disk from a complete request.

An engine prints nothing: it reports progress to the given :class:`Progress`, and failures by raising
:class:`~cetool.base.errors.EngineError`. It knows nothing about cetool's cache, file locks and scripts; the
descriptors of file locks that its subprocesses must hold are passed as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from cetool.base.durations import exclude_newer
from cetool.base.errors import EngineError
from cetool.base.process import Consent
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec, Exact, Over, Overlay, Solve
from cetool.declare.package import Package, PypiPackage
from cetool.declare.pypi import PypiSettings
from cetool.declare.requirements import Solving


class Progress(Protocol):
    """Receives an engine's progress. Every method returns at once and never raises."""

    def stage(self, text: str) -> None:
        """Report the start of a stage: ``Solving``, ``Downloading``, ``Linking``, ``Waiting for ...``."""

    def packages(self, count: int) -> None:
        """Report the number of packages in the solution, which will be linked."""

    def download(self, done: int, total: int | None) -> None:
        """Report the bytes downloaded so far, over all packages, and their total (None if unknown)."""

    def link(self, done: int, total: int) -> None:
        """Report the number of linked packages, out of ``total``."""

    def written(self) -> None:
        """Report that all files are written and will only be read from here on, unless this is reported again."""

    def note(self, text: str) -> None:
        """Pass a sentence for users who asked for details (``-v``)."""


class SilentProgress:
    """Progress that is ignored."""

    def stage(self, text: str) -> None:
        """Say nothing."""

    def packages(self, count: int) -> None:
        """Say nothing."""

    def download(self, done: int, total: int | None) -> None:
        """Say nothing."""

    def link(self, done: int, total: int) -> None:
        """Say nothing."""

    def written(self) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


class ProgressOver:
    """Forwards everything to another progress; a base class for those that also act on it."""

    def __init__(self, progress: Progress) -> None:
        self.stage = progress.stage
        self.packages = progress.packages
        self.download = progress.download
        self.note = progress.note
        self._progress = progress

    def link(self, done: int, total: int) -> None:
        """Pass it on."""
        self._progress.link(done, total)

    def written(self) -> None:
        """Pass it on."""
        self._progress.written()


class Hold(Value):
    """What accompanies a request but is not data: valid only in this process, while it lasts."""

    #: The user's consent to what engines execute: link scripts, and builds of PyPI packages.
    consent: Consent
    #: Descriptors that every subprocess must keep open until it ends.
    descriptors: tuple[int, ...] = ()
    #: Whether the process belongs to cetool: standard error of libraries may then be redirected to the log.
    own_process: bool = False


class EngineRequest(Value):
    """A request to make, or only solve, one environment: everything engines and installers need, as data."""

    #: The specification. For :class:`~cetool.declare.environment.Over` the added packages are solved while the others
    #: stay unchanged; for an overlay the packages are laid over the base, which only the embedded engine can do.
    spec: EnvironmentSpec
    #: An absolute path that does not exist yet, or an empty directory. Ignored when only solving.
    prefix: Path = Path()
    #: The file to which output of engines is appended, without credentials.
    log: Path = Path()
    #: The user's environment variables.
    environ: Mapping[str, str] = MappingProxyType({})
    #: Where the embedded engine keeps packages and metadata; it solves what other engines cannot.
    cache: Path | None = None
    offline: bool = False
    #: Seconds without progress after which an engine is stopped.
    stall_timeout: float = 300.0
    #: The installer of PyPI packages: ``auto``, ``uv`` or ``pip``.
    installer: str = "auto"
    #: The subdir to solve for; None for the current platform.
    platform: str | None = None
    #: Packages that the solution keeps if possible.
    preferred: tuple[Package, ...] = ()
    #: The directory that keeps the archives of fetched packages, by digest; None to keep none.
    archives: Path | None = None
    #: A directory with files of exact packages, verified, as ``SHA256/FILE``: they need not be downloaded.
    given: Path | None = None
    #: Whether files are copied, not linked to the package cache, if link scripts run, which could change them there.
    apart: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        """The match specs to solve, or that were solved."""
        return self.spec.what.conda if isinstance(self.spec.what, Overlay) else self.spec.packages

    @property
    def exact(self) -> tuple[Package, ...]:
        """If not empty, the exact packages to install: nothing is solved then."""
        return self.spec.what.conda if isinstance(self.spec.what, Exact) else ()

    @property
    def pinned(self) -> tuple[Package, ...]:
        """The packages that the solution must contain unchanged."""
        return self.spec.what.conda if isinstance(self.spec.what, Over) else ()

    @property
    def exact_pypi(self) -> tuple[PypiPackage, ...]:
        """The exact files of PyPI packages to install, before the requirements."""
        return self.spec.what.pypi if isinstance(self.spec.what, (Exact, Over)) else ()

    @property
    def asked_pypi(self) -> tuple[str, ...]:
        """The PyPI requirements to resolve and install."""
        return () if isinstance(self.spec.what, Exact) else self.spec.pypi

    @property
    def below(self) -> Path | None:
        """The base that the packages are laid over."""
        return Path(self.spec.what.base) if isinstance(self.spec.what, Overlay) else None

    @property
    def channels(self) -> tuple[str, ...]:
        """Canonical channels with credentials, highest priority first."""
        return self.spec.channels

    @property
    def moment(self) -> datetime | None:
        """The time after which published packages are ignored."""
        return None if self.spec.exclude_newer is None else exclude_newer(self.spec.exclude_newer)

    @property
    def expects_packages(self) -> bool:
        """Whether the environment will have packages: not certain with only conditions (``when``), virtual packages."""
        certain = any(not spec.startswith("__") and "when=" not in spec for spec in self.packages)
        return bool(certain or self.exact)

    def given_file(self, file: str, sha256: str | None) -> Path | None:
        """Return the file of a package in :attr:`given`, if it is there."""
        path = None if self.given is None or sha256 is None else self.given / sha256 / file
        return path if path is not None and path.is_file() else None

    def solving(self, packages: tuple[str, ...]) -> EngineRequest:
        """Return the request with other match specs to solve."""
        what, asked = self.spec.what, Solve(packages, self.spec.pypi)
        return self.of(what._replace(added=asked) if isinstance(what, Over) else asked)

    def of(self, what: Solve | Exact | Over | Overlay) -> EngineRequest:
        """Return the request for other packages."""
        return self._replace(spec=self.spec._replace(what=what))

    def as_dict(self) -> dict[str, Any]:
        """Return the request as JSON values, including credentials."""
        return {name: _packed(value) for name, value in self._asdict().items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineRequest:
        """Return the request of :meth:`as_dict`. Raises KeyError, TypeError or ValueError if the data are malformed."""
        values = {name: _unpacked(data[name]) for name in cls._fields}
        paths = {
            name: Path(values[name])
            for name in ("prefix", "log", "cache", "archives", "given")
            if values[name] is not None
        }
        return cls(**{**values, **paths})


#: The types of values in a request, by the ``type`` of their JSON object.
_TYPES: dict[str, Any] = {
    each.__name__: each
    for each in (EnvironmentSpec, Exact, Over, Overlay, Package, PypiPackage, PypiSettings, Solve, Solving)
}


def _packed(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {"type": "Mapping", "items": [list(pair) for pair in value.items()]}
    if hasattr(value, "_fields"):
        return {"type": type(value).__name__, **{key: _packed(each) for key, each in value._asdict().items()}}
    return [_packed(each) for each in value] if isinstance(value, tuple) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict) and value["type"] == "Mapping":
        return dict(value["items"])
    if isinstance(value, dict):
        return _TYPES[value["type"]](**{key: _unpacked(each) for key, each in value.items() if key != "type"})
    return tuple(map(_unpacked, value)) if isinstance(value, list) else value


#: Turns a problem found in an environment into the error for the user, with the output of the engine.
Explain = Callable[[EngineError], EngineError]


def as_found(finding: EngineError) -> EngineError:
    """Return the problem unchanged: the engine printed nothing."""
    return finding


class Engine(Protocol):
    """A program that makes conda environments."""

    #: ``mamba``, ``micromamba``, ``conda`` or ``rattler``: what ``--engine`` takes.
    name: str

    @property
    def version(self) -> str:
        """The engine's version; the engine is asked once. Raises EngineError if it does not answer."""

    def create(self, request: EngineRequest, progress: Progress, hold: Hold) -> Explain:
        """Make the environment; raises EngineError if the engine reports a failure.

        The caller checks whether the environment is complete, and passes any problem to the returned function.

        After an exception (including KeyboardInterrupt and :class:`~cetool.base.errors.Interrupted`) no process of the
        engine is alive, and the caller removes what is left at the prefix.
        """


class Found(Value):
    """The result of searching for an engine: where it is, or why it cannot be used."""

    name: str
    path: str | None
    how: str
    version: str | None = None
    problem: str | None = None
    details: Mapping[str, str] = MappingProxyType({})


def root_of(executable: str) -> Path:
    """Return the installation of an executable: the parent of its ``bin``, after following symbolic links."""
    path = Path(executable).resolve()
    return path.parent.parent if path.parent.name in ("bin", "condabin", "Scripts") else path.parent

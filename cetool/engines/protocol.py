"""What an engine is: something that turns a complete request into an environment on disk.

An engine prints nothing: it reports what it does to the :class:`Progress` that it is handed, and what went wrong by
raising :class:`~cetool.base.errors.EngineError`. It knows nothing of caches, locks and scripts; what must outlive it
or die with it (the descriptors of locks) is handed to it as numbers.
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
    """Where an engine reports how far it is. Every method returns at once and never raises."""

    def stage(self, text: str) -> None:
        """A new stage begins: ``Solving``, ``Downloading``, ``Linking``, ``Waiting for ...``."""

    def packages(self, count: int) -> None:
        """The solution is known: so many packages will be linked."""

    def download(self, done: int, total: int | None) -> None:
        """Bytes downloaded so far over all packages, and how many there will be (None where that is not known)."""

    def link(self, done: int, total: int) -> None:
        """So many of ``total`` packages are linked."""

    def written(self) -> None:
        """All files are written; what follows only reads them, unless this is reported once more."""

    def note(self, text: str) -> None:
        """A sentence for a user who asked for detail (``-v``)."""


class SilentProgress:
    """Progress that nobody looks at."""

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
    """Passes everything on to another progress: the base of those that listen as well."""

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
    """What goes with a request and is no data: it is good in this process, and for as long as it holds it."""

    #: That the user agrees to what engines execute: link scripts, and builds of PyPI packages.
    consent: Consent
    #: Descriptors that every subprocess must keep open until it has ended.
    descriptors: tuple[int, ...] = ()
    #: Whether this process is cetool's own: what libraries print to standard error may then go to the log instead.
    own_process: bool = False


class EngineRequest(Value):
    """One environment to be made, or only to be solved: all that engines and installers need to know, as data."""

    #: What it is made from. Of :class:`~cetool.declare.environment.Over` the added packages are solved with the others
    #: as they are; of an overlay the conda packages are laid over the base, which the embedded engine alone can do.
    spec: EnvironmentSpec
    #: An absolute path that does not exist yet, or an empty directory. (For a solution alone it does not count.)
    prefix: Path = Path()
    #: The file that everything an engine prints is appended to, credentials taken out.
    log: Path = Path()
    #: The user's variables.
    environ: Mapping[str, str] = MappingProxyType({})
    #: Where the embedded engine keeps packages and metadata; it solves what other engines cannot.
    cache: Path | None = None
    offline: bool = False
    #: Seconds without any sign of progress after which an engine is ended.
    stall_timeout: float = 300.0
    #: What installs PyPI packages: ``auto``, ``uv`` or ``pip``.
    installer: str = "auto"
    #: The subdir it is solved for; None for this machine's.
    platform: str | None = None
    #: Packages that a solution keeps where they fit.
    preferred: tuple[Package, ...] = ()

    @property
    def packages(self) -> tuple[str, ...]:
        """The match specs that are solved, or were."""
        return self.spec.what.conda if isinstance(self.spec.what, Overlay) else self.spec.packages

    @property
    def exact(self) -> tuple[Package, ...]:
        """Just these packages are to be installed, if there are any: nothing is solved then."""
        return self.spec.what.conda if isinstance(self.spec.what, Exact) else ()

    @property
    def pinned(self) -> tuple[Package, ...]:
        """The packages that a solution takes as given."""
        return self.spec.what.conda if isinstance(self.spec.what, Over) else ()

    @property
    def exact_pypi(self) -> tuple[PypiPackage, ...]:
        """Just these files are installed of PyPI packages, before those that are asked for."""
        return self.spec.what.pypi if isinstance(self.spec.what, (Exact, Over)) else ()

    @property
    def asked_pypi(self) -> tuple[str, ...]:
        """The PyPI requirements that are resolved and installed."""
        return () if isinstance(self.spec.what, Exact) else self.spec.pypi

    @property
    def below(self) -> Path | None:
        """The environment that the packages are laid over."""
        return Path(self.spec.what.base) if isinstance(self.spec.what, Overlay) else None

    @property
    def channels(self) -> tuple[str, ...]:
        """Canonical channels, credentials included, the one of the highest priority first."""
        return self.spec.channels

    @property
    def moment(self) -> datetime | None:
        """The moment after which nothing counts that was published later."""
        return None if self.spec.exclude_newer is None else exclude_newer(self.spec.exclude_newer)

    @property
    def expects_packages(self) -> bool:
        """Whether the environment will surely have any: not for a condition (``when``) or a virtual package alone."""
        certain = any(not spec.startswith("__") and "when=" not in spec for spec in self.packages)
        return bool(certain or self.exact)

    def solving(self, packages: tuple[str, ...]) -> EngineRequest:
        """The same with these match specs instead of those to be solved."""
        what, asked = self.spec.what, Solve(packages, self.spec.pypi)
        return self.of(what._replace(added=asked) if isinstance(what, Over) else asked)

    def of(self, what: Solve | Exact | Over | Overlay) -> EngineRequest:
        """The same for other packages."""
        return self._replace(spec=self.spec._replace(what=what))

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, credentials included."""
        return {name: _packed(value) for name, value in self._asdict().items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineRequest:
        """The request that :meth:`as_dict` wrote. Raises KeyError, TypeError or ValueError where it is none."""
        values = {name: _unpacked(data[name]) for name in cls._fields}
        paths = {name: Path(values[name]) for name in ("prefix", "log", "cache") if values[name] is not None}
        return cls(**{**values, **paths})


#: The values in a request, by the name that their JSON object has as ``type``.
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


#: Makes of what was found to be wrong with an environment the error for the user, who is told what its engine said.
Explain = Callable[[EngineError], EngineError]


def as_found(finding: EngineError) -> EngineError:
    """The finding as it is: the engine said nothing."""
    return finding


class Engine(Protocol):
    """One program that makes conda environments."""

    #: ``mamba``, ``micromamba``, ``conda`` or ``rattler``: what ``--engine`` takes.
    name: str

    @property
    def version(self) -> str:
        """The engine's own version, asked of it once. Raises EngineError where it does not answer."""

    def create(self, request: EngineRequest, progress: Progress, hold: Hold) -> Explain:
        """Make the environment. Returns when the engine says that it is made; raises EngineError otherwise.

        Whether it is complete is for the caller to see, who has what it finds told by what this returns.

        After an error or an exception (KeyboardInterrupt and :class:`~cetool.base.errors.Interrupted` included) no
        process of the engine is alive any more; what lies at the prefix then is the caller's to clear.
        """


class Found(Value):
    """An engine that was looked for: where it is, or why it does not serve."""

    name: str
    path: str | None
    how: str
    version: str | None = None
    problem: str | None = None
    details: Mapping[str, str] = MappingProxyType({})


def root_of(executable: str) -> Path:
    """The installation that an executable belongs to: the parent of its ``bin``, symbolic links followed."""
    path = Path(executable).resolve()
    return path.parent.parent if path.parent.name in ("bin", "condabin", "Scripts") else path.parent

"""What an engine is: something that turns a complete request into an environment on disk.

An engine prints nothing: it tells what it is doing to the :class:`Progress` that it is handed, and what went wrong by
raising :class:`~cetool.base.errors.EngineError`. It knows nothing of caches, locks and scripts; what must outlive it
or die with it (the descriptors of locks) is handed to it as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from cetool.base.errors import EngineError
from cetool.base.process import Consent
from cetool.base.values import Value
from cetool.declare.requirements import NO_SOLVING, Solving

if TYPE_CHECKING:  # only those who solve for a day, or for a lock, need them
    from datetime import datetime

    from cetool.declare.package import Package


class Progress(Protocol):
    """Where an engine tells how far it is. Every method returns at once and never raises."""

    def stage(self, text: str) -> None:
        """A new stage begins: ``Solving``, ``Downloading``, ``Linking``, ``Waiting for ...``."""

    def packages(self, count: int) -> None:
        """The solution is known: so many packages will be linked."""

    def download(self, done: int, total: int | None) -> None:
        """Bytes downloaded so far over all packages, and how many there will be (None where that is not known)."""

    def link(self, done: int, total: int) -> None:
        """So many of ``total`` packages are linked."""

    def note(self, text: str) -> None:
        """A sentence for whoever asked for detail (``-v``)."""


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

    def note(self, text: str) -> None:
        """Say nothing."""


class CreateRequest(Value):
    """All that an engine needs to know to make one environment.

    ``prefix`` is an absolute path that does not exist yet (or an empty directory); ``packages`` are canonical match
    specs; ``channels`` canonical channels, highest priority first, credentials included; ``explicit`` lines of an
    explicit spec (CEP 23) in topological order: where there are some, exactly these packages are installed, nothing is
    solved, and ``packages`` do not count; ``virtual_packages`` pairs as
    in :class:`~cetool.declare.environment.EnvironmentSpec`; ``log`` the file that everything the engine prints is
    appended
    to (credentials taken out); ``stall_timeout`` seconds without any sign of progress after which the engine is ended;
    ``inherit`` descriptors that every subprocess must keep open until it has ended; ``meanwhile`` is called once in the
    caller's thread while others do the work: what takes time there takes none; ``nearly`` is called there by an engine
    that has written all, and has yet to end; ``exclude_newer`` the moment after which nothing counts that was published
    later; ``below`` the environment that the packages are to lie over, which the embedded engine alone can do.

    ``solving`` says what else the solver goes by. Where it is only solved, ``platform`` is the subdir it is solved for
    (None: this machine's), ``preferred`` are packages that are kept where they fit, and ``pinned`` lines of an explicit
    spec whose packages are taken as given.
    """

    prefix: Path
    packages: tuple[str, ...]
    channels: tuple[str, ...]
    log: Path
    #: That the user agrees to what engines execute: link scripts, and builds of PyPI packages.
    consent: Consent
    virtual_packages: tuple[tuple[str, str], ...] = ()
    offline: bool = False
    stall_timeout: float = 300.0
    inherit: tuple[int, ...] = ()
    meanwhile: Callable[[], None] | None = None
    nearly: Callable[[], None] | None = None
    explicit: tuple[Package, ...] = ()
    exclude_newer: datetime | None = None
    platform: str | None = None
    preferred: tuple[Package, ...] = ()
    pinned: tuple[Package, ...] = ()
    below: Path | None = None
    solving: Solving = NO_SOLVING

    @property
    def expects_packages(self) -> bool:
        """Whether the environment will surely have any: not for a condition (``when``) or a virtual package alone."""
        certain = any(not spec.startswith("__") and "when=" not in spec for spec in self.packages)
        return bool(certain or self.explicit)


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

    def create(self, request: CreateRequest, progress: Progress) -> Explain:
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

"""Engines that are installed programs: conda, mamba and micromamba.

They run as subprocesses with the user's configuration, mirrors, credentials and package caches. A :class:`Kind` says
how such a program is called and how its output is read; there are two, since mamba 1 is conda with another solver, and
mamba 2 is micromamba. conda adds pip to every python unless its configuration disables this; mamba adds it if python is
requested.
"""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from cetool.base.errors import CetoolError, EngineError
from cetool.base.process import clean_environ
from cetool.base.urls import split_url, strip_credentials
from cetool.declare.package import Package
from cetool.engines.discovery import version_of
from cetool.engines.explain import explain
from cetool.engines.explicit import check_local_archives, distinct, explicit_file, refuse_damaged, require_sha256
from cetool.engines.linked import remove_refused, verified
from cetool.engines.output import CondaStages, MambaStages, logged
from cetool.engines.private import (
    PrivateFiles,
    condarc_file,
    environment_file,
    has_credentials,
    literal,
    netrc_file,
    scrub,
    spec_file,
)
from cetool.engines.protocol import EngineRequest, Explain, Hold, Progress, root_of
from cetool.engines.registration import forget_registration
from cetool.engines.subprocesses import Ended, Invocation, run_engine
from cetool.packages.cache import checked_caches, turn
from cetool.packages.integrity import check_complete
from cetool.packages.prefix import read_history
from cetool.settings.condarc import load_condarc

_HISTORY = re.compile(r"^# conda version: (\d\S*)$", re.MULTILINE)
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, getattr(signal, "SIGBUS", signal.SIGSEGV)}


@dataclass(frozen=True, slots=True)
class Kind:
    """How programs of one kind are called, and how their output is read."""

    #: The first version that supports SHA-256 in an explicit file.
    sha256_since: tuple[int, int]
    #: The user's variables that would change its output or behavior.
    dropped: tuple[str, ...]
    #: Variables that it runs with.
    variables: Mapping[str, str]
    #: The variable that names the installation, and whether mamba's configuration files are read.
    root: str
    is_mamba: bool
    #: Recognizes progress in its output.
    stages: type[CondaStages] | type[MambaStages]
    #: A pattern for its output at the end.
    done: str
    #: Returns the arguments to create an environment, and the variables that they need.
    arguments: Callable[[EngineRequest, PrivateFiles, Mapping[str, str]], tuple[list[str], dict[str, str]]]
    #: Whether it locks its package cache itself; otherwise only one runs at a time.
    locks_cache: bool


class ProgramEngine:
    """An installed program. ``executable`` is the start of its command line: ``("/opt/conda/bin/conda",)``.

    ``lock_dir`` contains the file locks for package caches; ``version`` is None if it is not known yet.
    """

    def __init__(
        self,
        name: str,
        executable: tuple[str, ...],
        environ: Mapping[str, str],
        *,
        lock_dir: Path,
        version: str | None = None,
    ) -> None:
        self.name = name
        self.executable = executable
        self.kind = CONDA if name == "conda" or (name == "mamba" and str(version).startswith("1.")) else MAMBA
        self._environ = environ
        self._lock_dir = lock_dir
        self._version = version
        #: Whether it is used without having been asked for its version.
        self.on_trust = version is None

    @property
    def version(self) -> str:
        """Its version, such as ``26.7.1``; it is asked once. Raises EngineError if it is another program."""
        if self._version is None:
            self._version = version_of(self.name, self.executable, self._environ)
        return self._version

    def create(self, request: EngineRequest, progress: Progress, hold: Hold) -> Explain:
        """Make the environment; see :class:`~cetool.engines.protocol.Engine`."""
        request = literal(request)
        packages = distinct(request.exact)
        if packages:
            require_sha256(packages, self.name, self.version, self.kind.sha256_since)
            check_local_archives(packages)
        # conda writes its version to the environment's history, so it need not be asked
        asking = nullcontext() if self.name == "conda" else self._asked_for_its_version()
        try:
            with asking:
                return verified(lambda each: self._make(each, packages, progress, hold), request, progress)
        finally:
            if self.kind is MAMBA:  # it registers every environment, which cannot be disabled
                forget_registration(request.prefix, self._environ)

    @contextmanager
    def _asked_for_its_version(self) -> Iterator[None]:
        """Ask the program for its version while it works; an error in this takes precedence over one of the work."""
        if self._version is not None:
            yield
            return
        problems: list[EngineError] = []

        def ask() -> None:
            try:
                _ = self.version
            except EngineError as error:
                problems.append(error)

        thread = threading.Thread(target=ask, name="cetool-version", daemon=True)
        thread.start()
        try:
            yield
        except EngineError:
            thread.join()
            if not problems:
                raise
        thread.join()
        if problems:
            raise problems[0]

    def _make(self, request: EngineRequest, packages: Sequence[Package], progress: Progress, hold: Hold) -> Explain:
        caches = self._package_caches()
        waiting = f"Waiting for another {self.name} to release the package cache {caches[0]}"
        turns: AbstractContextManager[int | None] = nullcontext()
        if not self.kind.locks_cache:
            turns = turn(self._lock_dir, caches[0], lambda: progress.stage(waiting))
        with turns as lock, PrivateFiles(request) as files:
            refuse_damaged(packages, lambda package: self._places(package, caches))
            arguments, variables = self.kind.arguments(request, files, self._environ)
            argv = (*self.executable, "create", *arguments)
            environ = {**clean_environ(self._environ, drop=self.kind.dropped), **self.kind.variables, **variables}
            environ.update(override_variables(request))
            descriptors = hold.descriptors if lock is None else (*hold.descriptors, lock)
            invocation = Invocation(argv, environ, (request.prefix, *caches), descriptors)
            ended = run_engine(invocation, request, self.kind.stages(progress))
            if ended.status and self._is_repaired(request, caches[0], progress):
                ended = run_engine(invocation, request, self.kind.stages(progress))
        explained = self._conclude(ended, request, progress)
        if self._version is None and self.name == "conda":
            told = _HISTORY.findall(read_history(request.prefix))
            self._version = str(told[-1]) if told else None
        return explained

    def _is_repaired(self, request: EngineRequest, cache: Path, progress: Progress) -> bool:
        """Remove packages that a killed conda left partly unpacked; return whether there were any.

        An interrupted conda must not make every later creation fail.
        """
        removed = remove_refused(logged(request.log)) if self.kind is CONDA else []
        if removed:
            progress.note(f"Unpacking packages again that were incomplete in {cache}: {', '.join(removed)}")
            shutil.rmtree(request.prefix, ignore_errors=True)
        return bool(removed)

    def _conclude(self, ended: Ended, request: EngineRequest, progress: Progress) -> Explain:
        """Remove credentials from the environment's records if it was made; raise EngineError otherwise.

        Returns a function that explains problems of the environment by the program's output. A program that crashes
        after the end has done its work: conda with the rattler solver sometimes does so when its interpreter exits.
        """
        crashed = ended.signum in _CRASHES and re.search(self.kind.done, ended.stdout) is not None
        if ended.status != 0 and not crashed:
            raise explain(ended, engine=self.name, request=request)

        def explained(finding: EngineError) -> EngineError:
            return explain(ended, engine=self.name, request=request, finding=finding)

        if crashed:
            try:
                check_complete(request.prefix, expect_packages=request.expects_packages, log=request.log)
            except EngineError as error:
                raise explained(error) from error
            name = signal.Signals(ended.signum or 0).name
            progress.note(f"{self.name} crashed ({name}) after it had finished; the environment is complete")
        scrub(request.prefix, (*request.channels, *request.packages, *(package.url for package in request.exact)))
        return explained

    def _package_caches(self) -> list[Path]:
        """Return its package caches: the configured ones, or else that of its installation, and conda's in the home.

        The first is the one that it will most likely write to.
        """
        root = self._environ.get(self.kind.root) or str(root_of(self.executable[0]))
        try:
            configured = load_condarc(self._environ, root_prefix=root, mamba=self.kind.is_mamba).pkgs_dirs
        except CetoolError:  # the program itself gives a better message about its configuration
            configured = ()
        own = [Path(root, "pkgs")]
        if self.kind is CONDA and (home := self._environ.get("HOME")):
            own.append(Path(home, ".conda", "pkgs"))
        return [*checked_caches(configured, root, self._environ)] or own

    def _places(self, package: Package, caches: Sequence[Path]) -> Sequence[Path]:
        """Return where a package may be kept: in a package cache, for mamba also below a directory for its channel."""
        if self.kind is CONDA:
            return caches
        parts = split_url(package.channel)
        below = f"{parts.scheme}/{parts.place.replace(':', '_')}{parts.path}/{package.subdir}"
        return [place for cache in caches for place in (cache / below, cache)]


def override_variables(request: EngineRequest) -> dict[str, str]:
    """Return ``CONDA_OVERRIDE_CUDA=12.4`` for the virtual package ``__cuda``, as conda and mamba read it."""
    return {
        "CONDA_OVERRIDE_" + name.removeprefix("__").replace("-", "_").upper(): version
        for name, version in request.spec.virtual_packages
    }


# --- the two kinds ----------------------------------------------------------------------------------------------------


def _conda_arguments(
    request: EngineRequest, files: PrivateFiles, environ: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    variables = {}
    if any(map(has_credentials, request.channels)):
        variables["CONDARC"] = str(condarc_file(files, request.channels, environ))
        others = (*(package.url for package in request.exact), *request.packages)
        if netrc := netrc_file(files, request.channels, environ, others):
            variables["NETRC"] = str(netrc)
    timeout = "CONDA_REMOTE_READ_TIMEOUT_SECS"
    if request.stall_timeout < 60 and timeout not in environ:  # conda's own limit for a server that does not answer
        variables[timeout] = f"{max(request.stall_timeout / 2, 1):g}"
    # without --json, conda prints stages as they begin, and a malformed spec does not crash it
    argv = ["--yes", "--prefix", str(request.prefix), "--no-default-packages"]
    argv += ["--offline"] if request.offline else []
    if request.exact:
        return [*argv, "--file", str(explicit_file(files, request, request.channels))], variables
    argv += ["--override-channels"]
    for channel in request.channels:
        argv += ["--channel", strip_credentials(channel)]
    if any("://" in spec for spec in request.packages):
        # As an argument, a spec with a URL would mean an explicit installation, which allows no other specs.
        return [*argv, "--file", str(spec_file(files, request))], variables
    return [*argv, *request.packages], variables


def _mamba_arguments(
    request: EngineRequest, files: PrivateFiles, environ: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    argv = ["-y", "-p", str(request.prefix)]
    argv += ["--offline"] if request.offline else []
    if request.exact:
        return [*argv, "--file", str(explicit_file(files, request, request.channels))], {}
    argv += ["--override-channels"]
    if any(map(has_credentials, (*request.channels, *request.packages))):
        return [*argv, "--file", str(environment_file(files, request))], {}
    for channel in request.channels:
        argv += ["-c", channel]
    return [*argv, *request.packages], {}


#: conda 4.9 and later, and mamba 1.
CONDA = Kind(
    sha256_since=(24, 9),
    dropped=("CONDA_JSON", "CONDA_QUIET", "CONDA_DRY_RUN", "CONDA_DOWNLOAD_ONLY"),
    variables={"CONDA_REGISTER_ENVS": "false", "CONDA_NUMBER_CHANNEL_NOTICES": "0"},
    root="CONDA_ROOT",
    is_mamba=False,
    stages=CondaStages,
    done=r"Executing transaction:.*done",
    arguments=_conda_arguments,
    locks_cache=False,
)
#: micromamba 1.5 and later, and mamba 2. They check every hash, but before 2.1 they ignore SHA-256 in explicit files.
MAMBA = Kind(
    sha256_since=(2, 1),
    dropped=tuple(
        f"{family}_{name}"
        for family in ("MAMBA", "CONDA")
        for name in ("JSON", "QUIET", "DRY_RUN", "DOWNLOAD_ONLY", "TARGET_PREFIX", "OVERRIDE_CHANNELS")
    ),
    variables={},
    root="MAMBA_ROOT_PREFIX",
    is_mamba=True,
    stages=MambaStages,
    done="Transaction finished",
    arguments=_mamba_arguments,
    locks_cache=True,
)

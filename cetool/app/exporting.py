"""Exports the packages of a script or an environment in formats that other tools read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from cetool.app.consent import OWN, consent_to
from cetool.app.deciding import decide
from cetool.app.decision import LockChoice, Wish, refuse_overlay
from cetool.app.ensuring import ensure, note_used
from cetool.app.names import named_directories
from cetool.app.overlaying import base_of
from cetool.app.reporting import Reporter
from cetool.app.sources import Source, open_source
from cetool.app.targets import find_directories
from cetool.app.world import World
from cetool.base.errors import EngineError, LockError, StoreError, UsageError
from cetool.base.files import put_file
from cetool.base.process import Consent
from cetool.base.text import printable
from cetool.base.urls import redact
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.declare.metadata import read_metadata
from cetool.declare.overlay import canonical_base
from cetool.declare.platforms import PLATFORMS, current_platform
from cetool.declare.requirements import Requirements
from cetool.engines.protocol import Hold
from cetool.engines.pypi.install import find_missing_origins
from cetool.lock.conda_lock import write_conda_lock
from cetool.lock.explicit import write_explicit
from cetool.lock.find import find_lock, open_lock
from cetool.lock.model import Lock, PlatformLock
from cetool.lock.pixi import OLDEST, write_pixi_lock
from cetool.lock.plain import write_environment_yml, write_requirements
from cetool.lock.records import Installed, read_installed
from cetool.store.store import Lease

EXPLICIT, ENVIRONMENT, CONDA_LOCK = "explicit", "environment-yml", "conda-lock"
PIXI_LOCK, PIXI_LOCK_6, REQUIREMENTS = "pixi-lock", "pixi-lock-6", "requirements"
#: The formats that take several platforms.
_FOR_SEVERAL = (CONDA_LOCK, PIXI_LOCK, PIXI_LOCK_6)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export."""

    #: A script, or an environment's name or prefix.
    target: str
    format: str
    #: The platforms that the command line names.
    platforms: tuple[str, ...] = ()
    #: The lock file, instead of the script's own.
    lock_file: Path | None = None
    #: Match specs in addition to what the script declares.
    extra: tuple[str, ...] = ()
    env_file: Path | None = None
    #: The digest that the script must have.
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Exact:
    """The exact packages to write."""

    lock: Lock
    #: The name of the environment.
    name: str
    variables: tuple[tuple[str, str], ...]
    #: The path of the script.
    source: str | None = None


def export(wanted: Wanted, world: World, reporter: Reporter) -> str:
    """Return the text that lists the packages: those in the lock, else those installed.

    The environment of a script without a lock is created if it is missing. Raises CetoolError.
    """
    for platform in wanted.platforms:
        if platform not in PLATFORMS:
            raise UsageError(
                f"{printable(platform)!r} is not a platform", hint=f"Platforms are {', '.join(PLATFORMS)}."
            )
    if len(wanted.platforms) > 1 and wanted.format not in _FOR_SEVERAL:
        raise UsageError(f"a file of the format {wanted.format} has one platform, and several were named")
    if named_directories(wanted.target, world) is not None:
        exact = _of_environment(wanted.target, world, reporter)
    else:
        exact = _of_script(wanted, world, reporter)
    return written(wanted.format, _only(exact, wanted, world), reporter)


def _only(exact: Exact, wanted: Wanted, world: World) -> Exact:
    """Keep the wanted platforms: this machine's if none is named and the format has only one."""
    names = wanted.platforms
    there = tuple(each.platform for each in exact.lock.platforms)
    if not names and wanted.format not in _FOR_SEVERAL:
        names = there if len(there) == 1 else (world.platform,)
    missing = [name for name in names if name not in there]
    if missing:
        raise LockError(
            f"there are no packages for {' and '.join(missing)}, only for {' and '.join(there)}",
            code="lock-platform-missing",
            hint=f"`cetool lock SCRIPT --platform {missing[0]}` adds that platform to the script's lock.",
        )
    platforms = tuple(each for each in exact.lock.platforms if not names or each.platform in names)
    return replace(exact, lock=exact.lock._replace(platforms=platforms))


def written(format: str, exact: Exact, reporter: Reporter) -> str:
    """Write the lock in one of the formats; a format that has one platform gets the first."""
    lock, first = exact.lock, exact.lock.platforms[0]
    if format == EXPLICIT:
        if first.pypi:
            names = ", ".join(each.name for each in first.pypi)
            reporter.warn(f"an @EXPLICIT file lists conda packages only, so these from PyPI are left out: {names}")
        return write_explicit(first, comments=(f"Exported by cetool from {exact.name}",))
    if format == CONDA_LOCK:
        return write_conda_lock(lock, sources=() if exact.source is None else (exact.source,))
    if format in (PIXI_LOCK, PIXI_LOCK_6):
        version = OLDEST if format == PIXI_LOCK_6 else None
        return write_pixi_lock(lock, channel_urls=_channel_urls(lock), version=version)
    if format == ENVIRONMENT:
        return write_environment_yml(first, exact.name, lock.channels, dict(exact.variables))
    if not first.pypi:
        reporter.warn(f"{exact.name} has no packages from PyPI, so the requirements file is empty")
    return write_requirements(first)


def _channel_urls(lock: Lock) -> tuple[str, ...]:
    """Return the channels' URLs as in those of the packages, where this machine's configuration put them."""
    bases = {package.url.rsplit("/", 2)[0] for each in lock.platforms for package in each.conda if package.url}
    urls = []
    for channel in lock.channels:
        ends = [base for base in sorted(bases) if base == channel or base.endswith(f"/{channel}")]
        urls.append(ends[0] if ends else channel if "://" in channel else f"https://conda.anaconda.org/{channel}")
    return tuple(urls)


# --- what is exported -------------------------------------------------------------------------------------------------


def _of_environment(target: str, world: World, reporter: Reporter) -> Exact:
    """Return what is installed in the environment of a name or prefix."""
    _, directory = find_directories(target, world, reporter)[0]
    lease = world.store.lease(directory.name)
    if lease is None:
        raise StoreError(f"the environment {directory.name} is incomplete or was just removed", code="environment-gone")
    with _reading(lease.marker.name, reporter):
        return _installed(lease, lease.marker.spec, None, lease.marker.name, world, lambda: OWN)


@contextmanager
def _reading(name: str, reporter: Reporter) -> Iterator[None]:
    """Show that packages are looked for, which takes long where an index has to be asked."""
    with reporter.progress() as progress:
        progress.stage(f"Reading the packages of {name}")
        yield


def _of_script(wanted: Wanted, world: World, reporter: Reporter) -> Exact:
    """Return what a script's lock has, else what is installed in its environment, created if it is missing."""
    source, world = open_source(wanted.target, world, reporter, sha256=wanted.sha256)
    elsewhere = bool(wanted.platforms) and world.platform not in wanted.platforms
    # the packages of another platform are not those of this machine's environment
    choice = LockChoice(ignored=True) if elsewhere else LockChoice(wanted.lock_file)
    wish = Wish(extra=wanted.extra, env_file=wanted.env_file, lock=choice)
    decision = decide(source, wish, world, reporter)._replace(purpose=f"to export {source.script.name}")
    refuse_overlay(decision.requirements, source.script.name, "overlays cannot be exported")
    name = Path(source.name or source.script.path.name).stem
    path = source.script.path.name if source.data is None else None
    if decision.locked_by is not None or elsewhere:
        lock = _lock(source, wanted)
        if lock is not None:
            return Exact(lock, name, decision.spec.variables, path)
        raise LockError(
            f"{source.script.name} has no lock, and this machine is {world.platform}",
            code="lock-platform-missing",
            hint=f"`cetool lock {source.given} --platform {wanted.platforms[0]}` solves for another platform.",
        )
    lease = ensure(decision, world, reporter)
    note_used(lease, source.noted, world, reporter)
    consent = partial(consent_to, decision, world, reporter)
    # a question that may come has the terminal to itself
    with _reading(name, reporter) if source.remote is None else nullcontext():
        return replace(_installed(lease, decision.spec, decision.requirements, name, world, consent), source=path)


def _lock(source: Source, wanted: Wanted) -> Lock | None:
    """Return the named lock, else the script's. Raises LockError if it does not match what the script declares."""
    if wanted.lock_file is None:
        found = find_lock(source.script, beside=source.data is None)
    else:
        found = open_lock(wanted.lock_file)
    if found is None:
        return None
    for platform in wanted.platforms:
        if wanted.extra:
            raise LockError(
                f"{found.where} cannot be combined with --with", code="lock-stale", hint="Leave --with out."
            )
        if found.lock.platform(platform) is None or wanted.env_file is not None:
            continue
        if found.matches(read_metadata(source.script, platform).requirements, platform) is False:
            raise LockError(
                f"{found.where} does not match what the script declares for {platform}",
                code="lock-stale",
                hint=f"`cetool lock {source.given}` updates it.",
            )
    return found.lock


def _installed(
    lease: Lease,
    spec: EnvironmentSpec,
    requirements: Requirements | None,
    name: str,
    world: World,
    consent: Callable[[], Consent],
) -> Exact:
    try:
        installed = installed_packages(lease.prefix, lease.marker.subdir, spec, world, consent)
    finally:
        lease.release()
    if installed.unknown:
        raise StoreError(
            f"where {installed.unknown_names} was installed from is unknown",
            code="lock-impossible",
            hint="`cetool run --refresh SCRIPT` re-creates the environment and records where its packages come from.",
        )
    locked: PlatformLock = installed.lock._replace(request=requirements.digest if requirements else None)
    created = datetime.fromtimestamp(lease.marker.created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Exact(Lock((locked,), spec.redacted().channels, created), name, spec.variables)


def installed_packages(
    prefix: Path, subdir: str, spec: EnvironmentSpec, world: World, consent: Callable[[], Consent]
) -> Installed:
    """Return the packages of an environment. Looks up the files of PyPI packages that were not recorded."""
    return find_origins(read_installed(prefix, subdir), prefix, spec, world, consent)


def find_origins(
    installed: Installed, prefix: Path, spec: EnvironmentSpec, world: World, consent: Callable[[], Consent]
) -> Installed:
    """Add the files of PyPI packages that were not recorded, which the environment's python is asked for."""
    if not installed.unknown:
        return installed
    request = world.request(spec, prefix, world.paths.logs / f"{prefix.name}.log")
    try:
        return find_missing_origins(request, Hold(consent(), own_process=world.own_process), installed)
    except EngineError:  # no python to ask
        return installed


# --- baselines --------------------------------------------------------------------------------------------------------


def packages_of(target: str, world: World, reporter: Reporter) -> PlatformLock:
    """Return the packages of an environment, for a baseline. Raises StoreError for a directory without packages."""
    prefix, _ = base_of(canonical_base(target, os.getcwd()), world)
    if not (prefix / "conda-meta").is_dir():
        raise StoreError(
            f"{prefix} is not a conda environment, so no baseline can be written from it", code="base-unusable"
        )
    installed = installed_packages(prefix, current_platform(), EnvironmentSpec(Solve()), world, lambda: OWN)
    lock = installed.lock
    subdirs = {package.subdir for package in lock.conda} - {"", "noarch"}
    if installed.unknown:
        reporter.warn(
            f"the baseline does not include {installed.unknown_names}: where it was installed from is unknown"
        )
    without = [package.name for package in lock.conda if not package.url]
    if without:
        reporter.warn(f"the baseline does not include {', '.join(without)}: where it was installed from is unknown")
    kept = tuple(package for package in lock.conda if package.url)
    if not kept and not lock.pypi:
        raise StoreError(f"the environment {prefix} has no packages that a baseline could list", code="base-unusable")
    return lock._replace(conda=kept, platform=sorted(subdirs)[0] if subdirs else lock.platform)


def fitting_format(output: Path | None, locked: PlatformLock) -> str:
    """Return the format of a baseline, by the file's name and the packages."""
    name = "" if output is None else output.name.lower()
    if name.endswith((".yml", ".yaml")):
        return CONDA_LOCK
    if name.endswith(".lock"):
        return PIXI_LOCK
    return CONDA_LOCK if locked.pypi and not name.endswith(".txt") else EXPLICIT


def written_baseline(format: str, locked: PlatformLock, target: str, reporter: Reporter) -> str:
    """Return the text of a baseline with the packages of an environment."""
    bases = tuple(dict.fromkeys(package.url.rsplit("/", 2)[0] for package in locked.conda))
    if format == EXPLICIT:
        if locked.pypi:
            names = ", ".join(package.name for package in locked.pypi)
            reporter.warn(f"an @EXPLICIT file lists conda packages only, so these from PyPI are left out: {names}")
        return write_explicit(locked, comments=(f"Baseline written by cetool from {redact(target)}",))
    lock = Lock((locked,), bases)
    return write_conda_lock(lock) if format == CONDA_LOCK else write_pixi_lock(lock, channel_urls=bases)


# --- where it goes ----------------------------------------------------------------------------------------------------


def write_output(path: Path, text: str) -> None:
    """Write the text to a file in one step, following a symbolic link. Raises UsageError if that fails."""
    target = Path(os.path.realpath(path))
    shown = printable(str(path))
    if target.exists() and not target.is_file():
        raise UsageError(f"{shown} is not a regular file, so nothing was written")
    try:
        put_file(target, text.encode())
    except OSError as error:
        raise UsageError(f"cannot write {shown}: {error.strerror or error}") from None

"""What ``cetool export`` does: the packages of a script or an environment, in a format that other tools read."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from cetool.app.background import collect_in_background
from cetool.app.execution import RunOptions, note, read_locked_declaration
from cetool.app.locked import LockChoice, refuse_overlay
from cetool.app.recording import installed_packages
from cetool.app.session import Session
from cetool.app.sources import Source, open_source
from cetool.base.errors import LockError, StoreError, UsageError
from cetool.base.files import put_file
from cetool.base.text import printable
from cetool.cli.environments import is_environment, targeted
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.metadata import read_metadata
from cetool.declare.platforms import PLATFORMS
from cetool.declare.requirements import Requirements
from cetool.lock.model import Lock, PlatformLock
from cetool.store.store import Lease

EXPLICIT, ENVIRONMENT, CONDA_LOCK = "explicit", "environment-yml", "conda-lock"
PIXI_LOCK, PIXI_LOCK_6, REQUIREMENTS = "pixi-lock", "pixi-lock-6", "requirements"
#: The formats that take several platforms.
_FOR_SEVERAL = (CONDA_LOCK, PIXI_LOCK, PIXI_LOCK_6)


@dataclass(frozen=True)
class Wanted:
    """What is to be exported: ``platforms`` are those named, ``lock_file`` the lock instead of the script's own,
    ``sha256`` the digest that the script must have.
    """

    target: str
    format: str
    platforms: tuple[str, ...] = ()
    lock_file: Path | None = None
    extra: tuple[str, ...] = ()
    env_file: Path | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Found:
    """A lock, how its environment is called, and its variables; ``source`` is the path of the script."""

    lock: Lock
    name: str
    variables: tuple[tuple[str, str], ...]
    source: str | None = None


def export(wanted: Wanted, session: Session) -> str:
    """The text that tells of the packages: those that are locked, else those that are installed.

    Makes the environment of a script where it is missing and nothing is locked. Raises CetoolError.
    """
    for platform in wanted.platforms:
        if platform not in PLATFORMS:
            raise UsageError(f"{printable(platform)!r} is no platform", hint=f"Platforms: {', '.join(PLATFORMS)}.")
    if len(wanted.platforms) > 1 and wanted.format not in _FOR_SEVERAL:
        raise UsageError(f"the format {wanted.format} takes one platform at a time")
    found = _from_environment(wanted, session) if is_environment(wanted.target, session) else _of(wanted, session)
    return written(wanted.format, _only(found, wanted, session), session)


def _only(found: Found, wanted: Wanted, session: Session) -> Found:
    """The same with the platforms alone that are wanted: of formats that take one only, this machine's if none is."""
    names = wanted.platforms
    there = tuple(each.platform for each in found.lock.platforms)
    if not names and wanted.format not in _FOR_SEVERAL:
        names = there if len(there) == 1 else (session.platform,)
    missing = [name for name in names if name not in there]
    if missing:
        raise LockError(
            f"nothing is known of the packages for {' and '.join(missing)}, only for {' and '.join(there)}",
            code="lock-platform-missing",
            hint=f"`cetool lock SCRIPT --platform {missing[0]}` solves for another platform than this machine's.",
        )
    platforms = tuple(each for each in found.lock.platforms if not names or each.platform in names)
    return replace(found, lock=found.lock._replace(platforms=platforms))


def written(format: str, found: Found, session: Session) -> str:
    """The lock in one of the formats; those that take one platform tell of the first."""
    lock, first = found.lock, found.lock.platforms[0]
    if format == EXPLICIT:
        from cetool.lock.explicit import write_explicit

        if first.pypi:
            names = ", ".join(each.name for each in first.pypi)
            session.voice.warn(f"an explicit list has conda packages only: {names} from PyPI are left out")
        return write_explicit(first, comments=(f"Exported by cetool from {found.name}",))
    if format == CONDA_LOCK:
        from cetool.lock.conda_lock import write_conda_lock

        return write_conda_lock(lock, sources=() if found.source is None else (found.source,))
    if format in (PIXI_LOCK, PIXI_LOCK_6):
        from cetool.lock.pixi import OLDEST, write_pixi_lock

        version = OLDEST if format == PIXI_LOCK_6 else None
        return write_pixi_lock(lock, channel_urls=_channel_urls(lock), version=version)
    from cetool.lock.plain import write_environment_yml, write_requirements

    if format == ENVIRONMENT:
        return write_environment_yml(first, found.name, lock.channels, dict(found.variables))
    if not first.pypi:
        session.voice.warn(f"nothing in {found.name} comes from PyPI, so the requirements are empty")
    return write_requirements(first)


def _channel_urls(lock: Lock) -> tuple[str, ...]:
    """The channels as the packages' own URLs have them, which is where this machine's configuration put them."""
    bases = {package.url.rsplit("/", 2)[0] for each in lock.platforms for package in each.conda if package.url}
    urls = []
    for channel in lock.channels:
        ends = [base for base in sorted(bases) if base == channel or base.endswith(f"/{channel}")]
        urls.append(ends[0] if ends else channel if "://" in channel else f"https://conda.anaconda.org/{channel}")
    return tuple(urls)


# --- where it is found ------------------------------------------------------------------------------------------------


def _from_environment(wanted: Wanted, session: Session) -> Found:
    """What is installed in an environment that is named by its name or its prefix."""
    _, directory = targeted(wanted.target, session)[0]
    lease = session.store.lease(directory.name)
    if lease is None:
        raise StoreError(
            f"the environment {directory.name} is not complete, or was just removed", code="environment-gone"
        )
    return _installed(lease, lease.marker.spec, None, lease.marker.name, session)


def _of(wanted: Wanted, session: Session) -> Found:
    """What is locked for a script, else what is installed in its environment, which is made if it is missing."""
    source = open_source(wanted.target, session, sha256=wanted.sha256)
    elsewhere = bool(wanted.platforms) and session.platform not in wanted.platforms
    # another platform's lock decides nothing here
    choice = LockChoice(ignored=True) if elsewhere else LockChoice(wanted.lock_file)
    how = RunOptions(wanted.extra, wanted.env_file, lock=choice)
    metadata, spec, where = read_locked_declaration(source, session, how)
    refuse_overlay(metadata.requirements, source.script.name, "that cannot be exported")
    name = Path(source.name or source.script.path.name).stem
    if where is not None or elsewhere:
        lock = _lock(source, wanted)
        if lock is not None:
            path = source.script.path.name if source.data is None else None
            return Found(lock, name, spec.variables, path)
        raise LockError(
            f"{source.script.name} has no lock, and this machine is {session.platform}",
            code="lock-platform-missing",
            hint=f"`cetool lock {source.given} --platform {wanted.platforms[0]}` solves for another platform.",
        )
    lease = session.environment(metadata.requirements, spec, purpose=f"to export {source.script.name}")
    note(session, lease, source.script.name if source.data is not None else str(source.script.path))
    collect_in_background(session)
    found = _installed(lease, spec, metadata.requirements, name, session)
    return replace(found, source=source.script.path.name if source.data is None else None)


def _lock(source: Source, wanted: Wanted) -> Lock | None:
    """The script's lock, or the one that was named; it fits what the script declares for the platforms wanted."""
    from cetool.lock.find import find_lock, open_lock

    if wanted.lock_file is None:
        found = find_lock(source.script, beside=source.data is None)
    else:
        found = open_lock(wanted.lock_file)
    if found is None:
        return None
    for platform in wanted.platforms:
        if wanted.extra:
            raise LockError(
                f"{found.where} does not have what --with asks for", code="lock-stale", hint="Leave --with out."
            )
        if found.lock.platform(platform) is None or wanted.env_file is not None:
            continue
        if found.matches(read_metadata(source.script, platform).requirements, platform) is False:
            raise LockError(
                f"{found.where} does not fit what the script declares for {platform}",
                code="lock-stale",
                hint=f"`cetool lock {source.given}` renews it.",
            )
    return found.lock


def _installed(
    lease: Lease, spec: EnvironmentSpec, requirements: Requirements | None, name: str, session: Session
) -> Found:
    try:
        installed = installed_packages(session, lease.prefix, lease.marker.subdir, spec)
    finally:
        lease.release()
    if installed.unknown:
        names = ", ".join(f"{each.name} {each.version}" for each in installed.unknown)
        raise StoreError(
            f"where {names} was installed from is not known",
            code="lock-impossible",
            hint="`cetool run --refresh SCRIPT` makes the environment anew, and notes it.",
        )
    locked: PlatformLock = installed.lock._replace(request=requirements.digest if requirements else None)
    created = datetime.fromtimestamp(lease.marker.created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    channels = spec.redacted().channels
    return Found(Lock((locked,), channels, created), name, spec.variables)


# --- where it goes ----------------------------------------------------------------------------------------------------


def write_output(path: Path, text: str) -> None:
    """Put the text into a file in one step, a symbolic link followed. Raises UsageError where that cannot be done."""
    target = Path(os.path.realpath(path))
    shown = printable(str(path))
    if target.exists() and not target.is_file():
        raise UsageError(f"{shown} is no regular file, so nothing was written to it")
    try:
        put_file(target, text.encode())
    except OSError as error:
        raise UsageError(f"{shown} cannot be written: {error.strerror or error}") from None

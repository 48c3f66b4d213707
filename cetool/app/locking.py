"""Writes locks: the exact packages of a script, solved for each platform."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from cetool.app.consent import consent_to
from cetool.app.deciding import specify
from cetool.app.decision import Subject, placed, refuse_named, refuse_overlay
from cetool.app.reporting import CreationProgress, Reporter
from cetool.app.sources import Source, open_source
from cetool.app.world import World
from cetool.base.durations import is_span, moment_text, rfc3339
from cetool.base.errors import EngineError, Location, MetadataError, UsageError
from cetool.base.files import read_if_there
from cetool.base.text import printable
from cetool.base.urls import redact, strip_credentials
from cetool.declare.blocks import find_block
from cetool.declare.channels import resolve_channel
from cetool.declare.dialects.environment_yml import read_environment_file
from cetool.declare.metadata import read_metadata
from cetool.declare.requirements import Requirements
from cetool.edit.document import ScriptChangedError, read_document, write_document
from cetool.engines.protocol import Hold
from cetool.lock.conda_lock import write_conda_lock
from cetool.lock.embedded import embed
from cetool.lock.find import (
    CONDA_LOCK,
    EMBEDDED,
    EXPLICIT,
    PIXI,
    SUFFIXES,
    FoundLock,
    find_lock,
    open_lock,
    write_lock_file,
)
from cetool.lock.model import Lock, PackageChange, PlatformLock, changes_between
from cetool.lock.pixi import write_pixi_lock
from cetool.settings.condarc import load_condarc

#: The note in a lock of the moment as of which it was solved.
AS_OF = "cetool_exclude_newer"
#: The default index of PyPI packages.
PYPI = "https://pypi.org/simple"


# --- where a lock goes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LockWish:
    """What the command line asks for, for each script."""

    platforms: tuple[str, ...]
    update_all: bool
    update: frozenset[str]
    #: A moment or a span, in canonical form.
    exclude_newer: str | None
    embed: bool
    format: str | None
    lock_file: Path | None
    virtual_packages: tuple[tuple[str, str], ...]
    env_file: Path | None
    check: bool
    #: Whether the lock is solved and not written.
    dry_run: bool = False

    @property
    def solves_again(self) -> bool:
        """Whether a lock that matches can still change."""
        return self.update_all or bool(self.update or self.exclude_newer or self.virtual_packages)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a script's lock is written."""

    path: Path
    #: Its name in messages.
    name: str
    format: str
    #: The lock in the file.
    old: Lock | None
    #: The lock that was used until now, in this file or elsewhere.
    before: Lock | None
    notes: tuple[str, ...] = ()
    #: The content of the lock file, None if it does not exist.
    content: bytes | None = None


def target_of(source: Source, wish: LockWish, reporter: Reporter) -> Target:
    """Return where to write the lock: to the named file, else where the script has one, else next to the script."""
    target = _target_of(source, wish, reporter)
    return target if target.format == EMBEDDED else replace(target, content=read_if_there(target.path))


def _target_of(source: Source, wish: LockWish, reporter: Reporter) -> Target:
    script = source.script
    if wish.lock_file is not None:
        return _named_target(wish.lock_file, wish)
    if source.data is not None:
        raise UsageError(f"{script.name} is not a file, so its lock needs a place", hint="Pass `--lock-file FILE`.")
    found = _readable(lambda: find_lock(script), wish, reporter)
    form = EMBEDDED if wish.embed else wish.format or (found.format if found is not None else CONDA_LOCK)
    path = script.path if form == EMBEDDED else script.path.with_name(script.path.name + SUFFIXES[form])
    name = script.name if form == EMBEDDED else script.name + SUFFIXES[form]
    before = None if found is None else found.lock
    if found is not None and found.format == form:  # the lock of a link can be next to the file that it leads to
        path, name = found.path, name if found.path == path else printable(str(found.path))
    if found is None or found.format == form:
        return Target(path, name, form, before, before, () if found is None else found.notes)
    other = "the lock in the script" if found.format == EMBEDDED else printable(found.path.name)
    order = (EMBEDDED, CONDA_LOCK, PIXI)
    counts = "no longer used" if order.index(form) < order.index(found.format) else "still used instead of the new one"
    note = f"{other} is unchanged and {counts}: remove it if you do not need it"
    there = _readable(lambda: open_lock(path), wish, reporter) if form != EMBEDDED and path.exists() else None
    return Target(path, name, form, None if there is None else there.lock, before, (note,))


def _named_target(path: Path, wish: LockWish) -> Target:
    """Return the file that --lock-file names. Raises for an existing file that is not a lock."""
    name = printable(str(path))
    there = open_lock(path) if path.exists() and path.stat().st_size else None
    form = wish.format or (there.format if there is not None else PIXI if path.suffix == ".lock" else CONDA_LOCK)
    if form == EXPLICIT:
        raise UsageError(f"{name} is an @EXPLICIT file, which cannot hold a whole lock", hint="Name another file.")
    lock = None if there is None else there.lock
    old = lock if there is not None and there.format == form else None
    return Target(Path(os.path.abspath(path)), name, form, old, lock)


def _readable(read: Callable[[], FoundLock | None], wish: LockWish, reporter: Reporter) -> FoundLock | None:
    """Read a lock; a broken one is None with a warning, and will be re-created."""
    try:
        return read()
    except MetadataError as error:
        if wish.check:
            raise
        reporter.warn(f"{error}: the lock is re-created")
        return None


# --- solved and written -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Locked:
    """The lock of one script, and what changed."""

    script: str
    target: Target
    lock: Lock
    #: The differences from the lock that was used until now.
    changes: tuple[PackageChange, ...]
    #: Whether the lock changed, or would change.
    changed: bool


def lock(
    target: str, wish: LockWish, world: World, reporter: Reporter, *, insecure: bool, sha256: str | None
) -> Locked:
    """Lock one script: solve if needed, and write what changed. Raises CetoolError."""
    source, world = open_source(target, world, reporter, insecure=insecure, sha256=sha256)
    return lock_source(source, wish, world, reporter)


def lock_source(source: Source, wish: LockWish, world: World, reporter: Reporter) -> Locked:
    """Lock a script that was opened already."""
    place = target_of(source, wish, reporter)
    platforms = wish.platforms or _kept_platforms(place.before, world)
    asked = {platform: _requirements(source, wish, platform) for platform in platforms}
    for warning in dict.fromkeys(each for needs in asked.values() for each in needs.warnings):
        reporter.warn(str(warning))
    old = place.old
    if old is not None and not wish.solves_again and _is_current(old, asked):
        new, changed = old, False
    elif wish.check and (old is None or _is_stale(old, asked)):
        new, changed = old or Lock(()), True
    else:
        try:
            with reporter.progress() as progress:
                new = _solved(source, asked, place.before, wish, world, reporter, progress)
        except EngineError as error:
            if wish.env_file is None:
                error = placed(error, source, read_metadata(source.script, platforms[0]))
            raise error from None
        # a pixi.lock has packages only, and a lock that another tool wrote needs no more to be up to date
        loosely = place.format == PIXI or (wish.check and old is not None and not _keeps_requests(old))
        if old is not None and _moves_on(asked, wish):
            new = new._replace(
                custom=old.custom if _contents(new, loosely=True) == _contents(old, loosely=True) else new.custom
            )
        changed = old is None or _contents(new, loosely=loosely) != _contents(old, loosely=loosely)
    if changed and not wish.check and not wish.dry_run:
        new = new._replace(created=rfc3339(datetime.now(timezone.utc)))
        _write(new, asked, place, source, world, reporter)
    for note in (*place.notes, *_not_there(wish.update, new)):
        reporter.warn(note)
    return Locked(redact(source.script.name), place, new, tuple(changes_between(place.before, new)), changed)


def _kept_platforms(before: Lock | None, world: World) -> tuple[str, ...]:
    """Return the platforms of the lock; without a lock, this machine's."""
    if before is not None and before.platforms:
        return tuple(sorted(each.platform for each in before.platforms))
    return (world.platform,)


def _requirements(source: Source, wish: LockWish, platform: str) -> Requirements:
    """Return what the script asks for on a platform."""
    if wish.env_file is None:
        requirements = read_metadata(source.script, platform).requirements
        refuse_overlay(requirements, source.script.name, "overlays cannot be locked")
        refuse_named(requirements, source.script.name, "it cannot be locked")
        return requirements
    if find_block(source.script) is not None:
        raise UsageError(f"--env-file is for scripts without a block, and {source.script.name} has one")
    return read_environment_file(wish.env_file, platform)


def _is_current(lock: Lock, asked: dict[str, Requirements]) -> bool:
    """Return whether the lock was made for exactly these requests and platforms."""
    requests = {platform: needs.digest for platform, needs in asked.items()}
    return {each.platform: each.request for each in lock.platforms} == requests


def _is_stale(lock: Lock, asked: dict[str, Requirements]) -> bool:
    """Return whether the lock says that it was made for other requests."""
    return _keeps_requests(lock) and not _is_current(lock, asked)


def _keeps_requests(lock: Lock) -> bool:
    return all(each.request is not None for each in lock.platforms)


def _solved(
    source: Source,
    asked: dict[str, Requirements],
    before: Lock | None,
    wish: LockWish,
    world: World,
    reporter: Reporter,
    progress: CreationProgress,
) -> Lock:
    """Solve each platform, and keep the packages of the old lock that still fit."""
    from cetool.engines.lock_solve import solve_locks  # a lock that is up to date needs no engine

    consent = consent_to(Subject(source, platforms=tuple(asked)), world, reporter)
    hold = Hold(consent, own_process=world.own_process)
    newest = None if wish.exclude_newer is None else moment_text(wish.exclude_newer)
    spans = [needs.exclude_newer for needs in asked.values() if needs.exclude_newer and is_span(needs.exclude_newer)]
    resolved = {span: moment_text(span) for span in spans}  # one moment for all platforms
    wanted = []
    channels: dict[str, None] = {}
    for platform, needs in asked.items():
        spec, _ = specify(
            needs._replace(exclude_newer=resolved.get(needs.exclude_newer or "", needs.exclude_newer)),
            world,
            exclude_newer=newest,
        )
        spec = spec._replace(
            virtual_packages=tuple(sorted({**dict(spec.virtual_packages), **dict(wish.virtual_packages)}.items()))
        )
        channels |= dict.fromkeys(map(strip_credentials, spec.channels))
        progress.note(f"Locking {source.script.name} for {platform}")
        kept = None if before is None or wish.update_all else _without(before.platform(platform), wish.update)
        if needs.baselines:
            from cetool.app.on_baselines import Terms, to_be_locked  # few scripts start from a baseline

            terms = Terms(source.identity, refresh=wish.update_all, platform=platform)
            spec = to_be_locked(spec, needs, terms, world, reporter, consent)
        wanted.append((world.request(spec)._replace(platform=platform), kept))
    if len(wanted) > 1:  # all at the same time
        progress.count(0, len(wanted), "platform")
    solved = solve_locks(wanted, progress, hold)
    found = [locked._replace(request=needs.digest) for locked, needs in zip(solved, asked.values(), strict=True)]
    moment = newest or next(iter(resolved.values()), None)
    custom = () if moment is None else ((AS_OF, moment),)
    return Lock(tuple(sorted(found, key=lambda each: each.platform)), tuple(channels), None, custom)


def _moves_on(asked: dict[str, Requirements], wish: LockWish) -> bool:
    """Return whether the lock is solved as of another moment at each call."""
    named = [wish.exclude_newer] if wish.exclude_newer else [needs.exclude_newer for needs in asked.values()]
    return any(text is not None and is_span(text) for text in named)


def _without(locked: PlatformLock | None, names: frozenset[str]) -> PlatformLock | None:
    """Return the packages to keep on a platform when some are upgraded."""
    if locked is None or not names:
        return locked
    return locked._replace(
        conda=tuple(package for package in locked.conda if package.name not in names),
        pypi=tuple(package for package in locked.pypi if package.name not in names),
    )


def _not_there(names: frozenset[str], lock: Lock) -> list[str]:
    """Return a sentence for each package to update that is not in the lock."""
    there = {package.name for each in lock.platforms for package in each.conda}
    there |= {package.name for each in lock.platforms for package in each.pypi}
    return [f"the lock has no package {printable(name)}" for name in sorted(names - there)]


def _contents(lock: Lock, *, loosely: bool) -> object:
    """Return what distinguishes two locks: not the time; ``loosely`` the packages alone, which every format has."""
    packages = [(each.platform, each.digest) for each in lock.platforms]
    requests = [each.request for each in lock.platforms]
    return packages if loosely else (packages, requests, lock.channels, sorted(lock.custom))


def _write(
    lock: Lock, asked: dict[str, Requirements], target: Target, source: Source, world: World, reporter: Reporter
) -> None:
    """Write the lock in one step."""
    if target.format == EMBEDDED:
        document = read_document(source.given)
        if document.script is None or document.script.text != source.script.text:
            raise ScriptChangedError(
                "the script was changed while it was being locked, so nothing was written",
                where=Location(source.script.name),
                hint="Run the same command again.",
            )
        for note in write_document(document, embed(document, lock)):
            reporter.warn(note)
        return
    if target.format == PIXI:
        condarc = load_condarc(world.environ, mamba=True)
        urls = [strip_credentials(url) for channel in lock.channels for url in resolve_channel(channel, condarc)]
        settings = next(iter(asked.values())).pypi_settings
        named = any(index.get("default") for index in settings.named.get("index", []))
        indexes = [*([] if settings.index_url or named else [PYPI]), *settings.index_urls]
        text = write_pixi_lock(lock, indexes=tuple(map(strip_credentials, indexes)), channel_urls=tuple(urls))
    else:
        text = write_conda_lock(lock, sources=_sources(source, target.path))
    write_lock_file(target.path, text, target.content)


def _sources(source: Source, path: Path) -> tuple[str, ...]:
    """Return the script's path relative to the lock's directory; the name of a script that is not a file."""
    if source.data is None:
        with contextlib.suppress(ValueError):  # the script may be on another drive
            return (Path(os.path.relpath(source.script.path, path.parent)).as_posix(),)
    return (source.script.path.name,)

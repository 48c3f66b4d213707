"""Newer packages for a script: in its lock, or in its environment if it has no lock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cetool.app.consent import consent_to
from cetool.app.deciding import decide, specify
from cetool.app.decision import Decision, Wish, refuse_named
from cetool.app.ensuring import ensure, note_used
from cetool.app.exporting import installed_packages
from cetool.app.locking import LockWish, lock_source
from cetool.app.making import make
from cetool.app.on_baselines import Terms, to_be_locked
from cetool.app.reporting import Reporter
from cetool.app.sources import Source, open_source
from cetool.app.world import World
from cetool.base.durations import cutoff
from cetool.base.errors import EngineError, UsageError
from cetool.base.text import nearest, normalized, printable
from cetool.declare.match_fields import PACKAGE_NAME
from cetool.engines.lock_solve import solve_lock
from cetool.engines.protocol import Hold
from cetool.lock.find import FoundLock, find_lock, open_lock
from cetool.lock.model import Lock, PackageChange, PlatformLock, changes_between
from cetool.store.store import Lease


@dataclass(frozen=True, slots=True)
class UpgradeWish:
    """What a command line asks for."""

    #: The packages to upgrade; all if there are none.
    packages: tuple[str, ...]
    wish: Wish
    #: Whether nothing is changed.
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What an upgrade changed, or would change."""

    #: The script's name in messages.
    script: str
    #: The lock file, None for an environment.
    lock: Path | None
    #: The environment, None for a lock.
    prefix: Path | None
    changes: tuple[PackageChange, ...]
    #: Whether the lock was written or the environment created, or would be.
    changed: bool
    #: The platforms that were looked at.
    platforms: tuple[str, ...]


def upgrade(
    target: str, asked: UpgradeWish, world: World, reporter: Reporter, *, insecure: bool, sha256: str | None
) -> Upgraded:
    """Upgrade the packages of a script: those in its lock, else those in its environment.

    Raises UsageError for a name that is not a package there, and CetoolError.
    """
    for name in asked.packages:
        if not PACKAGE_NAME.fullmatch(name.lower()):
            raise UsageError(
                f"{printable(name)!r} is not a package name",
                hint=f"Give the name alone. `cetool add {target} SPEC` asks for a version.",
            )
    source, world = open_source(target, world, reporter, insecure=insecure, sha256=sha256)
    choice, platform = asked.wish.lock, world.platform
    if choice.file is not None:
        found: FoundLock | None = open_lock(choice.file, platform=platform)
    else:
        found = None if choice.ignored else find_lock(source.script, beside=source.data is None, platform=platform)
    if found is not None:
        return _lock(source, found.lock, found.where, asked, world, reporter)
    return _environment(source, asked, world, reporter)


def _lock(source: Source, old: Lock, where: str, asked: UpgradeWish, world: World, reporter: Reporter) -> Upgraded:
    """Upgrade a lock, on all its platforms."""
    wanted, on = asked.wish, asked.wish.baselines
    for option, given in (("--with", wanted.extra), ("--baseline", on.named), ("--without", on.without)):
        if given:
            raise UsageError(
                f"{where} cannot be combined with {option}",
                hint=f"Leave {option} out, or upgrade the environment instead of the lock with `--no-lock`.",
            )
    there = [name for each in old.platforms for name in _named(each)]
    names = _names(asked.packages, there, where)
    day = asked.wish.exclude_newer
    wish = LockWish(
        platforms=(),
        update_all=not names,
        update=names,
        exclude_newer=None if day is None else cutoff(day),
        embed=False,
        format=None,
        lock_file=asked.wish.lock.file,
        virtual_packages=(),
        env_file=asked.wish.env_file,
        check=False,
        dry_run=asked.dry_run,
    )
    done = lock_source(source, wish, world, reporter)
    platforms = tuple(each.platform for each in done.lock.platforms)
    return Upgraded(done.script, done.target.path, None, done.changes, done.changed, platforms)


def _named(locked: PlatformLock) -> list[str]:
    return [*(each.name for each in locked.conda), *(each.name for each in locked.pypi)]


def _names(given: Iterable[str], there: Iterable[str], where: str) -> frozenset[str]:
    """Return the packages as they are called there. Raises UsageError for one that is not."""
    known, found = set(there), set()
    for name in given:
        called = next((each for each in (name.lower(), normalized(name)) if each in known), None)
        if called is None:
            raise UsageError(
                f"{where} has no package {name!r}", code="package-not-found", about=name, hint=_meant(name, known)
            )
        found.add(called)
    return frozenset(found)


def _meant(name: str, known: Iterable[str]) -> str | None:
    hint = nearest(name, sorted(known))
    return hint if hint.startswith("Did you mean") else "`cetool add` adds a package to what the script asks for."


# --- the environment --------------------------------------------------------------------------------------------------


def _environment(source: Source, asked: UpgradeWish, world: World, reporter: Reporter) -> Upgraded:
    """Upgrade an environment: one with the chosen packages takes its place, while runs of the old one go on."""
    name = source.script.name
    decision = decide(source, asked.wish, world, reporter)._replace(purpose=f"to upgrade {name}")
    _refuse(decision, asked)
    current = world.store.lease(decision.spec.name)
    if current is None:
        return _first(source, decision, asked, world, reporter)
    before = _packages(current, decision, world, reporter)
    names = _names(asked.packages, _named(before), f"the environment of {name}")
    if decision.on_baselines is not None:
        decision = decide(source, asked.wish._replace(refresh=True), world, reporter)
    chosen = _chosen(decision, before, names, asked, world, reporter)
    if chosen is not None:
        changes = _changes(before, chosen)
        if asked.dry_run or not changes:
            return Upgraded(name, None, current.prefix, changes, bool(changes), (before.platform,))
    lease = _remade(decision, chosen, world, reporter)
    note_used(lease, source.noted, world, reporter)
    changes = _changes(before, _packages(lease, decision, world, reporter))
    return Upgraded(name, None, lease.prefix, changes, True, (before.platform,))


def _refuse(decision: Decision, asked: UpgradeWish) -> None:
    """Raise UsageError for environments whose packages cannot be upgraded."""
    assert decision.source is not None
    needs, name = decision.requirements, decision.source.script.name
    refuse_named(needs, name, "`cetool upgrade` cannot change it")
    if needs.overlay is not None:
        raise UsageError(
            f"{name} runs in an overlay on {needs.overlay.base}, which `cetool upgrade` cannot change",
            hint=f"`cetool run --refresh {decision.source.given}` installs the overlay again with the newest packages.",
        )
    if decision.on_baselines is not None and asked.packages:
        raise UsageError(
            f"{name} starts from a baseline, so single packages cannot be upgraded",
            hint="Ask for a newer version in the script's block, or upgrade all packages.",
        )


def _first(source: Source, decision: Decision, asked: UpgradeWish, world: World, reporter: Reporter) -> Upgraded:
    """Create an environment that does not exist yet: its packages are the newest."""
    name = source.script.name
    if asked.packages:
        raise UsageError(
            f"{name} has no environment yet",
            code="environment-not-found",
            hint=f"`cetool upgrade {source.given}` creates it with the newest packages.",
        )
    prefix = world.store.prefix(decision.spec.name)
    if not asked.dry_run:
        lease = ensure(decision, world, reporter)
        note_used(lease, source.noted, world, reporter)
        lease.release()
        prefix = lease.prefix
    return Upgraded(name, None, prefix, (), True, ())


def _packages(lease: Lease, decision: Decision, world: World, reporter: Reporter) -> PlatformLock:
    """Return the packages of an environment, which is released."""
    try:
        consent = partial(consent_to, decision, world, reporter)
        installed = installed_packages(lease.prefix, lease.marker.subdir, lease.marker.spec, world, consent)
    finally:
        lease.release()
    return installed.lock


def _chosen(
    decision: Decision,
    before: PlatformLock,
    names: frozenset[str],
    asked: UpgradeWish,
    world: World,
    reporter: Reporter,
) -> PlatformLock | None:
    """Solve for the packages: the newest, or of ``names`` alone.

    None where only an installation tells, as for directories that are built. Raises EngineError.
    """
    assert decision.source is not None
    consent, needs, spec = consent_to(decision, world, reporter), decision.requirements, decision.spec
    if needs.baselines:
        open_spec, _ = specify(needs, world, exclude_newer=asked.wish.exclude_newer)
        terms = Terms(decision.source.identity, refresh=True)
        spec = to_be_locked(open_spec, needs, terms, world, reporter, consent)
    kept = None
    if names:
        conda = tuple(each for each in before.conda if each.name not in names)
        kept = before._replace(conda=conda, pypi=tuple(each for each in before.pypi if each.name not in names))
    hold = Hold(consent, own_process=world.own_process)
    with_pip = any(each.name == "pip" for each in before.conda)
    request = world.request(spec)._replace(platform=world.platform)
    with reporter.progress() as progress:
        progress.note(f"Looking for newer packages for {decision.source.script.name}")
        try:
            return solve_lock(request, kept, progress, hold, with_pip=with_pip)
        except EngineError as error:
            if error.code != "lock-impossible":
                raise
            if names or asked.dry_run:
                raise error.but(
                    hint="`cetool upgrade SCRIPT` without packages creates the environment again."
                ) from None
            return None


def _remade(decision: Decision, chosen: PlatformLock | None, world: World, reporter: Reporter) -> Lease:
    if chosen is None or decision.on_baselines is not None:
        return ensure(decision, world, reporter, refresh=True)
    consent = consent_to(decision, world, reporter)
    exactly = decision.spec.exactly(chosen.conda, chosen.pypi)
    return make(decision, world, reporter, consent, refresh=True, exactly=exactly)


def _changes(before: PlatformLock, after: PlatformLock) -> tuple[PackageChange, ...]:
    return tuple(changes_between(Lock((before,)), Lock((after._replace(platform=before.platform),))))

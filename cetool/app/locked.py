"""Decides whether a script's lock can be used for its environment."""

from __future__ import annotations

from cetool.app.decision import Decision, Wish
from cetool.app.reporting import Reporter
from cetool.app.sources import Source
from cetool.app.world import NOTHING, PASSING, Evidence, World
from cetool.base.errors import LockError
from cetool.base.values import Value
from cetool.declare.metadata import UNDECLARED
from cetool.declare.requirements import Requirements
from cetool.lock import SUFFIXES
from cetool.lock.find import FoundLock, find_lock, open_lock

_MOST_NAMES = 5


def locked(
    decision: Decision, declared: Requirements, added: tuple[str, ...], wish: Wish, world: World, reporter: Reporter
) -> Decision:
    """Apply the script's lock to the decision, which stays unchanged if there is no lock that can be used.

    ``declared`` is what the script declares by itself, ``added`` are the options that add to it. Raises LockError if a
    required lock (``--locked``, ``--frozen``, ``--lock-file``) cannot be used.
    """
    source, file, platform = decision.source, wish.lock.file, world.platform
    assert source is not None
    insists = world.settings.locked or world.settings.frozen
    if file is not None:
        found: FoundLock | None = open_lock(file, platform=platform)
    else:
        found = find_lock(source.script, beside=source.data is None, platform=platform)
    if found is None:
        if insists:
            raise LockError(
                f"{source.script.name} has no lock",
                about=source.script.name,
                code="lock-missing",
                hint=f"`cetool lock {source.given}` writes one.",
            )
        return decision
    for note in found.notes:
        reporter.warn(note)
    asked = None if decision.metadata.dialect == UNDECLARED else declared
    reason = _reason_against(found, asked, added, world, _relocking(found, source, wish))
    if reason is None:
        here = found.lock.platform(platform)
        assert here is not None
        spec = decision.spec.exactly(here.conda, here.pypi)
        return decision._replace(spec=spec, locked_by=found.where).on(warn_of_missing_digests(found, world, reporter))
    if file is not None or insists:
        raise LockError(reason.sentence, hint=reason.hint)
    reporter.warn(f"{reason.sentence}, so the packages are solved again. {reason.hint}")
    return decision.on(PASSING)  # until the lock matches again


class _Reason(Value):
    """Why a lock cannot be used, and what to do about it."""

    sentence: str
    hint: str


def _reason_against(
    found: FoundLock, declared: Requirements | None, added: tuple[str, ...], world: World, command: str
) -> _Reason | None:
    """Return why the lock cannot be used here, None where it can; ``command`` is the one that updates it.

    ``declared`` is None for a script that declares nothing, which any lock fits.
    """
    if added:
        options = " and ".join(added)
        return _Reason(f"{found.where} cannot be combined with {options}", f"Leave {options} out to use the lock.")
    platform = world.platform
    if found.lock.platform(platform) is None:
        there = ", ".join(each.platform for each in found.lock.platforms) or "none"
        return _Reason(
            f"{found.where} has no packages for {platform}, only for {there}",
            f"`{command} --platform {platform}` adds them.",
        )
    stale = declared is not None and found.matches(declared, platform) is False
    if stale and not world.settings.frozen:
        return _Reason(
            f"{found.where} does not match what the script declares",
            f"Run `{command}` to update it, or use it unchanged with --frozen.",
        )
    return None


def warn_of_missing_digests(found: FoundLock, world: World, reporter: Reporter) -> Evidence:
    """Warn of packages whose files have no digest in the lock.

    Every run warns, since nothing else says that these packages are not verified.
    """
    here = found.lock.platform(world.platform)
    unknown = [] if here is None else here.without_digest
    if not unknown:
        return NOTHING
    names = ", ".join(unknown[:_MOST_NAMES]) + (", ..." if len(unknown) > _MOST_NAMES else "")
    reporter.warn(f"{found.where} has no digest for {names}, so these packages are not verified")
    return PASSING


def _relocking(found: FoundLock, source: Source, wish: Wish) -> str:
    """Return the command that updates this lock."""
    command, file = f"cetool lock {source.given}", wish.lock.file
    if found.format == "embedded":
        return f"{command} --embed"
    return f"{command} --lock-file {file}" if file is not None and found.format in SUFFIXES else command

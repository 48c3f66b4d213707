"""Find or make the environment of a decision, hold it in use, and note the use."""

from __future__ import annotations

import os

from cetool.app.consent import consent_to
from cetool.app.decision import Decision
from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.durations import is_due
from cetool.base.errors import StoreError
from cetool.base.process import Consent
from cetool.declare.environment import EnvironmentSpec, Exact, Over, Solve
from cetool.launch.activation import Activation, read_activation, read_overlay_activation, variables_of
from cetool.store.store import Lease, Store, note_use, what_is_lost
from cetool.warm import COLLECTION_INTERVAL
from cetool.warm.files import touch_shared


def store_of(spec: EnvironmentSpec, world: World) -> Store:
    """Return the store for the environment of a specification."""
    if spec.overlay is None:
        return world.store
    from cetool.app.overlaying import overlay_store  # few environments are overlays

    return overlay_store(spec, world)


def ensure(
    decision: Decision,
    world: World,
    reporter: Reporter,
    *,
    consent: Consent | None = None,
    refresh: bool = False,
    keep: bool = False,
) -> Lease:
    """Return a lease of the environment, which is made if it is absent, or with ``refresh``.

    Without ``consent`` the user is asked before anything is made. An overlay whose base has changed is made again,
    unless ``keep`` is true.
    """
    if decision.spec.overlay is not None:
        from cetool.app.laying import ensure_overlay  # few environments are overlays

        return ensure_overlay(decision, world, reporter, consent=consent, refresh=refresh, keep=keep)
    lease, damaged = (None, False) if refresh else _found(decision, world, reporter)
    if lease is None:
        agreed = consent or consent_to(decision, world, reporter)
        if decision.named is not None or (world.settings.servers and isinstance(decision.spec.what, Solve)):
            from cetool.app.answering import make_from_servers  # few users have a server

            lease = make_from_servers(decision, world, reporter, agreed, refresh=refresh or damaged)
        else:
            from cetool.app.making import make  # engines: only to make environments

            lease = make(decision, world, reporter, agreed, refresh=refresh or damaged)
    if decision.on_baselines is not None:
        from cetool.app.on_baselines import after_removal, remember  # few environments start from a baseline

        if lease.created and decision.requirements.without and isinstance(decision.spec.what, (Exact, Over)):
            for text in after_removal(lease.prefix, decision.requirements):
                reporter.warn(text)
        remember(decision.on_baselines, world, reporter)
    return lease


def _found(decision: Decision, world: World, reporter: Reporter) -> tuple[Lease | None, bool]:
    """Return a lease of a complete environment, if it exists, and whether there is a damaged one.

    Raises StoreError for an environment of another platform: several may share a home directory.
    """
    lease = world.store.lease(decision.spec.name)
    if lease is None:
        return None, False
    lost = what_is_lost(lease.prefix, lease.marker)
    if lost is not None:
        lease.release()
        reporter.warn(f"environment {lease.prefix.name} is damaged ({lost}); re-creating it")
        return None, True
    if lease.marker.subdir != world.platform:
        lease.release()
        raise StoreError(
            f"environment {lease.prefix} was made for {lease.marker.subdir}, but this machine is {world.platform}",
            code="platform-mismatch",
            hint="Set CETOOL_CACHE_DIR to a directory for this platform, or re-create the environment with --refresh.",
        )
    return lease, False


# --- in use -----------------------------------------------------------------------------------------------------------


def note_used(lease: Lease, called: str, world: World, reporter: Reporter) -> None:
    """Note that ``called`` uses the environment, and start a collection if one is due."""
    note_use_of(lease, called, world, reporter)
    try:
        last = world.paths.gc_stamp.stat().st_mtime
    except OSError:
        last = 0.0
    if world.settings.auto_gc and is_due(last, COLLECTION_INTERVAL):
        from cetool.app.background import collect_in_background  # once an hour

        collect_in_background(world)


def note_use_of(lease: Lease, called: str, world: World, reporter: Reporter) -> None:
    """Note that the environment is used. If that fails, the script still runs."""
    for lock in lease.locks:
        touch_shared(lock.fd, os.fsencode(lock.path))
    if lease.base is None or lease.below is not None:  # otherwise the log knows neither of them
        try:
            note_use(world.paths.spool, (lease.base or lease.prefix).name, called)
        except OSError as error:
            reporter.detail(f"Cannot note the use of {lease.prefix}: {error.strerror or error}")


def activation_of(lease: Lease, world: World, dialect: str | None = None) -> Activation:
    """Return what activating the environment, with its overlay, does for a script of this dialect."""
    variables = variables_of(lease.marker.spec.variables, dialect, lease.base or lease.prefix)
    if lease.base is None:
        return read_activation(lease.prefix, variables, user_site=world.settings.user_site)
    return read_overlay_activation(lease.base, lease.prefix, variables, user_site=world.settings.user_site)

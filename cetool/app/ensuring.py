"""From a decision to its environment, held in use: found, or made while the user sees how far it is."""

from __future__ import annotations

import os

from cetool.app.consent import consent_to
from cetool.app.decision import Decision
from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.durations import is_due
from cetool.base.errors import StoreError
from cetool.base.process import Consent
from cetool.declare.environment import EnvironmentSpec, Exact, Over
from cetool.launch.activation import Activation, read_activation, read_overlay_activation, variables_of
from cetool.store.store import Lease, Store, note_use, what_is_lost
from cetool.warm import COLLECTION_INTERVAL
from cetool.warm.files import touch_shared


def store_of(spec: EnvironmentSpec, world: World) -> Store:
    """The store that the environment of the spec is in, or would be."""
    if spec.overlay is None:
        return world.store
    from cetool.app.overlaying import overlay_store  # few environments lie over another

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
    """The environment that was decided on, held in use; made where it is absent, or with ``refresh``.

    Where no ``consent`` is given the user is asked before anything is made. What lies over a base that has changed is
    laid again, unless ``keep`` asks for it unchanged.
    """
    if decision.spec.overlay is not None:
        from cetool.app.laying import ensure_overlay  # few environments lie over another

        return ensure_overlay(decision, world, reporter, consent=consent, refresh=refresh, keep=keep)
    lease, damaged = (None, False) if refresh else _found(decision, world, reporter)
    if lease is None:
        from cetool.app.making import make  # engines: only for what is made

        agreed = consent or consent_to(decision, world, reporter)
        lease = make(decision, world, reporter, agreed, refresh=refresh or damaged)
    if decision.on_baselines is not None:
        from cetool.app.on_baselines import after_removal, remember  # few environments start from a baseline

        if lease.created and decision.requirements.without and isinstance(decision.spec.what, (Exact, Over)):
            for text in after_removal(lease.prefix, decision.requirements):
                reporter.warn(text)
        remember(decision.on_baselines, world, reporter)
    return lease


def _found(decision: Decision, world: World, reporter: Reporter) -> tuple[Lease | None, bool]:
    """The environment that is there, if there is a whole one, and whether there is a damaged one.

    Raises StoreError for an environment of another platform: a home directory may be shared by several.
    """
    lease = world.store.lease(decision.spec.name)
    if lease is None:
        return None, False
    lost = what_is_lost(lease.prefix, lease.marker)
    if lost is not None:
        lease.release()
        reporter.warn(f"the environment {lease.prefix.name} is damaged, {lost}: it is made anew")
        return None, True
    if lease.marker.subdir != world.platform:
        lease.release()
        raise StoreError(
            f"the environment {lease.prefix} was made for {lease.marker.subdir}, and this is {world.platform}",
            code="platform-mismatch",
            hint="Machines of several platforms need a cache each (CETOOL_CACHE_DIR); --refresh makes it for this.",
        )
    return lease, False


# --- in use -----------------------------------------------------------------------------------------------------------


def note_used(lease: Lease, called: str, world: World, reporter: Reporter) -> None:
    """Note that the environment is used, by what ``called`` says; and start a collection if it is time for one."""
    note_use_of(lease, called, world, reporter)
    try:
        last = world.paths.gc_stamp.stat().st_mtime
    except OSError:
        last = 0.0
    if world.settings.auto_gc and is_due(last, COLLECTION_INTERVAL):
        from cetool.app.background import collect_in_background  # once an hour

        collect_in_background(world)


def note_use_of(lease: Lease, called: str, world: World, reporter: Reporter) -> None:
    """Note that the environment is used. Where that cannot be written down the script runs all the same."""
    for lock in lease.locks:
        touch_shared(lock.fd, os.fsencode(lock.path))
    if lease.base is None or lease.below is not None:  # else neither of them is in the log
        try:
            note_use(world.paths.spool, (lease.base or lease.prefix).name, called)
        except OSError as error:
            reporter.detail(f"The use of {lease.prefix} could not be noted: {error.strerror or error}")


def activation_of(lease: Lease, world: World, dialect: str | None = None) -> Activation:
    """What activating the environment does, for a script of this dialect; with an overlay, what that takes as well."""
    variables = variables_of(lease.marker.spec.variables, dialect, lease.base or lease.prefix)
    if lease.base is None:
        return read_activation(lease.prefix, variables, user_site=world.settings.user_site)
    return read_overlay_activation(lease.base, lease.prefix, variables, user_site=world.settings.user_site)

"""Make overlays that are absent, or whose base has changed."""

from __future__ import annotations

import time
from pathlib import Path

from cetool.app.consent import consent_to
from cetool.app.decision import Decision
from cetool.app.making import marker_of
from cetool.app.overlaying import overlay_store
from cetool.app.reporting import Reporter, shorten
from cetool.app.world import World, prepare
from cetool.base.durations import format_size
from cetool.base.errors import StoreError
from cetool.base.filelock import FileLock
from cetool.base.process import Consent
from cetool.base.text import counted
from cetool.engines.protocol import EngineRequest, Hold, Progress
from cetool.overlays.about import read_about, what_is_lacking, why_unusable
from cetool.overlays.build import build_overlay
from cetool.store.disk import disk_size
from cetool.store.making import Settling, ensure
from cetool.store.store import Lease, Marker, Store, what_is_lost

#: Seconds to wait for a base that another process holds exclusively.
_PATIENCE = 2.0
#: Maximum number of packages in a line.
_MOST_NAMES = 6


def ensure_overlay(
    decision: Decision,
    world: World,
    reporter: Reporter,
    *,
    consent: Consent | None = None,
    refresh: bool = False,
    keep: bool = False,
) -> Lease:
    """Return a lease of the overlay, which is made if it is absent, and again if its base has changed.

    With ``keep``, an overlay made for an earlier state of its base is used unchanged, if that is possible.
    """
    overlay = decision.spec.overlay
    assert overlay is not None
    base, store = Path(overlay.base), overlay_store(decision.spec, world)
    below = _hold_base(base, world)
    try:
        lease = None if refresh else store.lease(decision.spec.name)
        if lease is not None and not _is_usable(lease, reporter, keep=keep):
            lease.release()
            lease, refresh = None, True
        if lease is None:
            agreed = consent or consent_to(decision, world, reporter)
            lease = _laid(decision, store, world, reporter, agreed, refresh=refresh)
    except BaseException:
        if below is not None:
            below.release()
        raise
    return lease._replace(below=below)


def _hold_base(base: Path, world: World) -> FileLock | None:
    """Return the lock of a base that cetool made, which must stay while the overlay is used."""
    if base.parent != world.paths.envs:
        return None
    deadline = time.monotonic() + _PATIENCE
    while (lock := world.store.hold(base)) is None and time.monotonic() < deadline:
        time.sleep(0.01)  # a process that checks whether it is in use holds it briefly
    if lock is None:
        raise StoreError(
            f"base {base} is being removed or re-created", code="environment-gone", hint="Try again in a moment."
        )
    return lock


def _is_usable(lease: Lease, reporter: Reporter, *, keep: bool) -> bool:
    """Return whether an overlay can be used unchanged; warn if not. Raises StoreError if it cannot be kept."""
    about = read_about(lease.prefix)
    why = what_is_lost(lease.prefix, lease.marker) or what_is_lacking(lease.prefix, about)
    if why is not None or about is None:
        reporter.warn(f"overlay {lease.prefix.name} is damaged ({why}); re-creating it")
        return False
    changes = about.changes
    if not changes:
        return True
    told = shorten(changes, _MOST_NAMES)
    if not keep:
        reporter.warn(f"base {lease.base} has changed ({told}); re-creating the overlay")
        return False
    problem = why_unusable(about)
    if problem is not None:
        lease.release()
        raise StoreError(
            f"cannot keep the overlay: {problem}",
            code="base-unusable",
            hint="Run without --keep to re-create the overlay.",
        )
    reporter.warn(f"keeping the overlay, although its base has changed ({told})")
    return True


def _laid(
    decision: Decision, store: Store, world: World, reporter: Reporter, consent: Consent, *, refresh: bool
) -> Lease:
    prepare(world.paths, store.paths)
    with reporter.progress() as progress:

        def build(prefix: Path, log: Path, descriptors: tuple[int, ...], settling: Settling) -> Marker:
            return _build(
                world.request(decision.spec, prefix, log),
                world,
                progress,
                Hold(consent, descriptors, world.own_process),
            )

        lease = ensure(store, decision.spec, build, refresh=refresh, on_wait=progress.wait, purpose=decision.purpose)
    if lease.created:
        reporter.say(_created(lease))
    return lease


def _build(request: EngineRequest, world: World, progress: Progress, hold: Hold) -> Marker:
    started = time.monotonic()
    built = build_overlay(request, progress, hold)
    maker, size = (built.installer, built.version), disk_size(request.prefix)
    return marker_of(request, maker, world, started, packages=built.records, size=size)


def _created(lease: Lease) -> str:
    about, marker = read_about(lease.prefix), lease.marker
    layers = () if about is None else about.layers
    shadowing = sum(layer.shadows is not None for layer in layers)
    told = shorten([f"{layer.name} {layer.version}" for layer in layers], _MOST_NAMES) or "no packages"
    hides = f"; {counted(shadowing, 'replaces', 'replace')} the base's" if shadowing else ""
    return (
        f"Laid {told} over {lease.base} ({marker.name}{hides}, {format_size(marker.size)}) "
        f"in {marker.seconds:.1f}s with {marker.engine}"
    )

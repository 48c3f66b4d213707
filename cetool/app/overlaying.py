"""Overlays in a session: from what was declared to what lies over its base, laid anew where that has changed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.base.durations import format_size
from cetool.base.errors import StoreError
from cetool.base.filelock import FileLock
from cetool.declare.environment import EnvironmentSpec, Overlay
from cetool.declare.overlay import OverlayKeys
from cetool.declare.pypi import PypiSettings
from cetool.declare.requirements import Requirements
from cetool.engines.protocol import Progress
from cetool.overlays.about import About, read_about, what_is_lacking, why_unusable
from cetool.overlays.base import find_base, watched_in
from cetool.overlays.recipe import state_of, watched_by
from cetool.overlays.store import Overlays
from cetool.settings.paths import conda_root
from cetool.store.disk import disk_size
from cetool.store.making import Settling, ensure
from cetool.store.marker import Marker, what_is_lost
from cetool.store.store import Lease, Store

if TYPE_CHECKING:
    from cetool.app.session import Session
    from cetool.engines.protocol import EngineRequest, Hold

#: Seconds that a base of cetool's own may be held by another alone.
_PATIENCE = 2.0
#: Packages named in a line.
_MOST_NAMES = 6


def overlay_spec(session: Session, requirements: Requirements) -> EnvironmentSpec:
    """The complete request for what lies over the base that the requirements name. Raises StoreError."""
    keys = requirements.overlay
    assert keys is not None
    base = base_of(session, keys.base)
    entries = tuple(sorted({*keys.entries, *requirements.pypi}))
    states = [(entry, state) for entry in entries if (state := state_of(entry)) is not None]
    channels: tuple[str, ...] = ()
    if keys.conda:
        channels = requirements.channels_after(session.default_channels if requirements.needs_configured else ())
    return EnvironmentSpec(
        Overlay(
            base=str(base),
            requirements=entries,
            conda=tuple(sorted(set(keys.conda))),
            python=tuple(sorted({spec for spec in requirements.packages if spec != "python"})),
            states=tuple(states),
        ),
        channels=channels,
        pypi_settings=requirements.pypi_settings if entries else PypiSettings(),
        variables=tuple(sorted(dict(requirements.variables).items())),
    )


def base_of(session: Session, named: str) -> Path:
    """The prefix that a base's path or name means. Raises StoreError where there is none."""
    own = session.paths.envs / named
    if os.sep not in named and (own / "conda-meta" / "cetool").exists():
        return own
    if os.path.isabs(named):
        return find_base(named, session.environ, session.loaded.condarc, ())
    environ = session.environ
    known = (environ.get("MAMBA_ROOT_PREFIX"), conda_root(environ), session.root_prefix)
    roots = [Path(root) for root in known if root]
    return find_base(named, environ, session.condarc, roots)


def overlays_of(session: Session) -> Overlays:
    """The place of this session's overlays."""
    return Overlays(session.paths, session.settings.overlays_dir)


def overlay_store(session: Session, spec: EnvironmentSpec) -> Store:
    """The store that an overlay is in, or would be."""
    assert spec.overlay is not None
    return overlays_of(session).store(spec.overlay.base)


def overlay_environment(session: Session, spec: EnvironmentSpec, *, refresh: bool, keep: bool, purpose: str) -> Lease:
    """The overlay of the spec, held in use; laid where it is absent, and anew where its base has changed.

    With ``keep`` one that was laid over an earlier state of its base is used as it is, if it still can be.
    """
    overlay = spec.overlay
    assert overlay is not None
    base = Path(overlay.base)
    session.watch(watched_in(base))
    store = overlay_store(session, spec)
    below = _hold_base(session, base)
    try:
        if not refresh:
            lease = store.lease(spec.name)
            about = None if lease is None else read_about(lease.prefix)
            if lease is not None:
                why = what_is_lost(lease.prefix, lease.marker) or what_is_lacking(lease.prefix, about)
                changes = [] if about is None else about.changes
                if why is None and (not changes or _keeps(session, lease, about, changes, keep=keep)):
                    return lease._replace(below=below)
                lease.release()
                refresh = True
                _tell(session, lease, why, changes)
        lease = _lay(session, spec, store, refresh=refresh, purpose=purpose)
    except BaseException:
        if below is not None:
            below.release()
        raise
    return lease._replace(below=below)


def _hold_base(session: Session, base: Path) -> FileLock | None:
    """The lock of a base that is an environment of cetool's own: it stays while what lies over it is used."""
    if base.parent != session.paths.envs:
        return None
    deadline = time.monotonic() + _PATIENCE
    while (lock := session.store.hold(base)) is None and time.monotonic() < deadline:
        time.sleep(0.01)  # whoever only looks whether it is in use holds it for a moment
    if lock is None:
        raise StoreError(
            f"the base {base} is being removed, or made anew", code="environment-gone", hint="Try again in a moment."
        )
    return lock


def _keeps(session: Session, lease: Lease, about: About | None, changes: list[str], *, keep: bool) -> bool:
    """Whether an overlay is used as it is although its base has changed. Raises StoreError where it no longer can."""
    assert about is not None
    if not keep:
        return False
    problem = why_unusable(about)
    if problem is not None:
        lease.release()
        raise StoreError(
            f"the overlay cannot be kept as it was: {problem}",
            code="base-unusable",
            hint="Leave --keep out: it is laid anew.",
        )
    session.voice.warn(f"keeping the overlay as it was, though its base has changed: {_some(changes)}")
    return True


def _tell(session: Session, lease: Lease, why: str | None, changes: list[str]) -> None:
    if why is not None:
        session.voice.warn(f"the overlay {lease.prefix.name} is damaged, {why}: it is laid anew")
        return
    session.voice.warn(f"the base {lease.base} has changed, so the overlay is laid anew: {_some(changes)}")


def _some(changes: list[str]) -> str:
    told = ", ".join(changes[:_MOST_NAMES])
    return told + (f", and {len(changes) - _MOST_NAMES} more" if len(changes) > _MOST_NAMES else "")


def _lay(session: Session, spec: EnvironmentSpec, store: Store, *, refresh: bool, purpose: str) -> Lease:
    consent = session.consent()
    session.prepare_cache()
    session.prepare(store.paths)
    with session.voice.progress() as progress:
        from cetool.engines.protocol import Hold

        def build(prefix: Path, log: Path, descriptors: tuple[int, ...], settling: Settling) -> Marker:
            return _build(session, session.request(spec, prefix, log), progress, Hold(consent, descriptors))

        lease = ensure(store, spec, build, refresh=refresh, on_wait=progress.wait, purpose=purpose)
    if lease.created:
        session.voice.say(_created(lease))
    return lease


def _build(session: Session, request: EngineRequest, progress: Progress, hold: Hold) -> Marker:
    from cetool.overlays.build import build_overlay

    started = time.monotonic()
    built = build_overlay(request, progress, hold)
    maker, size = (built.installer, built.version), disk_size(request.prefix)
    return session.marker(request.spec, request.prefix, maker, started, packages=built.records, size=size)


def _created(lease: Lease) -> str:
    about, marker = read_about(lease.prefix), lease.marker
    layers = () if about is None else about.layers
    names = [f"{layer.name} {layer.version}" for layer in layers]
    shadowing = sum(layer.shadows is not None for layer in layers)
    told = _some(names) or "nothing that is not there"
    hides = f"; {shadowing} in place of the base's" if shadowing else ""
    return (
        f"Laid {told} over {lease.base} ({marker.name}{hides}, {format_size(marker.size)}) "
        f"in {marker.seconds:.1f}s with {marker.engine}"
    )


def watch_entries(session: Session, spec: EnvironmentSpec) -> bool:
    """Have what the entries depend on watched; whether that is all a warm run would have to look at."""
    assert spec.overlay is not None
    for entry in spec.overlay.requirements:
        files = watched_by(entry)
        if files is None:
            return False
        session.watch(files)
    return True


def with_overlay(requirements: Requirements, base: str | None, entries: tuple[str, ...]) -> Requirements:
    """The requirements with a base and entries from the command line, canonical; a base of theirs is replaced.

    Raises UsageError where there is no base, or the requirements are for an environment of their own.
    """
    from cetool.base.errors import UsageError
    from cetool.declare.overlay import canonical_base, canonical_entry, refuse_packages

    keys = requirements.overlay
    if base is None and keys is None:
        raise UsageError(
            "--overlay lays packages over a base, and none is named", hint="Name one with --base, by path or by name."
        )
    if base is not None and keys is None:
        refuse_packages(requirements.packages, None)
    named = canonical_base(base, os.getcwd()) if base is not None else keys.base  # type: ignore[union-attr]
    more = tuple(canonical_entry(entry, base_dir=os.getcwd()) for entry in entries)
    old = keys or OverlayKeys(named)
    return requirements._replace(overlay=OverlayKeys(named, (*old.entries, *more), old.conda))


def add_conda(requirements: Requirements, specs: tuple[str, ...]) -> Requirements:
    """The requirements with more conda packages to lay over their base."""
    keys = requirements.overlay
    assert keys is not None
    return requirements._replace(overlay=keys._replace(conda=(*keys.conda, *specs)))

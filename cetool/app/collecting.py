"""Collect what is no longer needed: environments, overlays, scripts from elsewhere, downloads, launch records."""

from __future__ import annotations

from pathlib import Path

from cetool.app.background import touch
from cetool.app.session import Session
from cetool.base.ownership import OwnershipError
from cetool.engines.registration import forget_registration
from cetool.overlays.store import Overlays, all_overlays
from cetool.packages.cache import embedded_caches
from cetool.store.gc import Collection, Kind, Policy
from cetool.store.kinds import collect_environments, downloads, kept_sources, launch_records


def collect_downloads(session: Session, older_than: float, *, dry_run: bool) -> Collection:
    """Remove what was downloaded, is in no environment and was unused for so many seconds; nothing else."""
    collection = Collection(Policy(older_than=older_than), dry_run=dry_run)
    collection.collect(*_downloads(session))
    return collection


def collect(session: Session, policy: Policy, *, dry_run: bool) -> Collection:
    """Remove what the policy names."""
    collection = Collection(policy, dry_run=dry_run)
    paths = session.paths
    if not paths.root.exists() and not paths.envs.exists():
        return collection
    if dry_run:
        session.store.check()
    else:
        session.prepare_cache()

    def forget(prefix: Path) -> None:
        forget_registration(prefix, session.environ)

    replaceable = _downloads(session)
    if policy.older_than is not None:
        collection.collect(*replaceable)
    with session.usage() as usage:
        collect_environments(collection, session.store, usage, downloads=replaceable, on_removed=forget)
    overlays = Overlays(paths, session.settings.overlays_dir)
    if overlays.root.is_dir():
        try:
            collection.collect(*all_overlays(overlays))
        except OwnershipError as error:  # the environments are collected all the same
            session.voice.warn(f"Overlays are not collected: {error}")
    collection.collect(*kept_sources(paths), launch_records(paths))
    if not dry_run:
        touch(paths.gc_stamp)
    if policy.everything:  # last: by now no environment shares files with these packages
        collection.collect(*replaceable)
    return collection


def _downloads(session: Session) -> list[Kind]:
    return downloads(embedded_caches(session.engine_environ, session.packages), session.paths.logs)

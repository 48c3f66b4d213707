"""Remove everything that is no longer needed: environments, overlays, kept scripts, downloads, launch records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cetool.app.background import touch
from cetool.app.overlaying import overlays_of
from cetool.app.reporting import CreationProgress, Reporter
from cetool.app.world import World, prepare
from cetool.base.ownership import OwnershipError
from cetool.engines.registration import forget_registration
from cetool.overlays.store import all_overlays
from cetool.packages.cache import embedded_caches
from cetool.store.gc import Collection, Kind, Policy
from cetool.store.kinds import collect_environments, downloads, kept_sources, launch_records
from cetool.store.usage import open_usage_log


def collect_downloads(older_than: float, world: World, reporter: Reporter, *, dry_run: bool) -> Collection:
    """Remove downloads that are in no environment and were unused for this many seconds, and nothing else."""
    with reporter.progress() as progress:
        collection = Collection(Policy(older_than=older_than), dry_run=dry_run, watch=_watched(progress))
        collection.collect(*_downloads(world))
    return collection


def collect(policy: Policy, world: World, reporter: Reporter, *, dry_run: bool) -> Collection:
    """Remove what the policy selects."""
    with reporter.progress() as progress:
        collection = Collection(policy, dry_run=dry_run, watch=_watched(progress))
        _collect(collection, world, reporter)
    return collection


def _watched(progress: CreationProgress) -> Callable[[str, int, int], None]:
    """Show how many items of each kind have been looked at."""

    def watch(kind: str, done: int, total: int) -> None:
        progress.stage(f"Collecting {kind}")
        progress.count(done, total, "item")

    return watch


def _collect(collection: Collection, world: World, reporter: Reporter) -> None:
    paths, policy, dry_run = world.paths, collection.policy, collection.dry_run
    if not paths.root.exists() and not paths.envs.exists():
        return
    if dry_run:
        world.store.check()
    else:
        prepare(paths)

    def forget(prefix: Path) -> None:
        forget_registration(prefix, world.environ)

    replaceable = _downloads(world)
    if policy.older_than is not None:
        collection.collect(*replaceable)
    with open_usage_log(paths, world.store, warn=reporter.warn) as usage:
        collect_environments(collection, world.store, usage, downloads=replaceable, on_removed=forget)
    overlays = overlays_of(world)
    if overlays.root.is_dir():
        try:
            collection.collect(*all_overlays(overlays))
        except OwnershipError as error:  # the environments are collected nevertheless
            reporter.warn(f"overlays were not collected: {error}")
    collection.collect(*kept_sources(paths), launch_records(paths))
    if not dry_run:
        touch(paths.gc_stamp)
    if policy.everything:  # last, when no environment shares files with these packages any more
        collection.collect(*replaceable)


def _downloads(world: World) -> list[Kind]:
    return downloads(embedded_caches(world.engine_environ, world.packages), world.paths.logs)

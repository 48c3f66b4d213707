"""``cetool gc``, and the collection that any call starts in the background when an hour has passed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.background import touch
from cetool.app.session import Session
from cetool.base.durations import format_duration, format_size, parse_duration, parse_size
from cetool.base.errors import EXIT_FAILURE, CetoolError, UsageError
from cetool.base.ownership import OwnershipError
from cetool.base.values import Value
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.engines.registration import forget_registration
from cetool.launch.records import clear_records
from cetool.overlays.store import Overlays, collect_overlays
from cetool.packages.cache import embedded_caches
from cetool.store.baselines import BaselineStore
from cetool.store.copies import KEPT as COPIES_KEPT
from cetool.store.copies import CopyStore
from cetool.store.disk import Freed
from cetool.store.downloads import Downloads, Removed
from cetool.store.gc import Collected, Policy, Report, collect
from cetool.store.scripts import ScriptStore

SCHEMA = "cetool.gc/1"
#: Seconds that the logs of creations are kept.
_LOGS_KEPT = 14 * 86400.0


@dataclass(frozen=True)
class GcOptions(options.Output):
    """The options of ``cetool gc``."""

    older_than: Annotated[
        str | None,
        option("--older-than", metavar="TIME", help="Those unused for so long: 90m, 25h, 7d, 2w, 1d12h."),
    ] = None
    max_size: Annotated[
        str | None,
        option("--max-size", metavar="SIZE", help="The least recently used, until this is kept: 20GB."),
    ] = None
    everything: Annotated[bool, option("--all", help="All that are not in use.")] = False
    packages: Annotated[
        bool, option("--packages", help="Remove downloaded packages that no environment uses, nothing else.")
    ] = False
    dry_run: Annotated[bool, option("--dry-run", help="Only tell what would go.")] = False
    as_json: options.AsJson = False
    trust_cache_dir: options.TrustCacheDir = False
    background: Annotated[bool, option("--background", hidden=True)] = False


@options.command
def gc(*, given: GcOptions) -> None:
    """Remove environments that were not used for a while; by default as the settings say. Never one that is in use."""
    if given.everything and (given.older_than or given.max_size):
        raise UsageError("--all takes everything that is not in use: --older-than and --max-size mean nothing with it")
    if given.packages and (given.everything or given.max_size):
        raise UsageError(
            f"--packages and {'--all' if given.everything else '--max-size'} exclude each other",
            hint="--all includes downloaded packages; with --packages, --older-than keeps those used lately.",
        )
    session = options.open_session(given)
    settings = session.settings
    policy = Policy(everything=True)
    if not given.everything and given.older_than is None and given.max_size is None:
        policy = Policy(settings.remove_if_unused_for * 3600, settings.max_size)
    elif not given.everything:
        policy = Policy(
            None if given.older_than is None else float(parse_duration(given.older_than)),
            None if given.max_size is None else parse_size(given.max_size),
        )
    if given.background:
        _collect_unnoticed(session, policy)
        return
    if given.packages:
        age = 0.0 if given.older_than is None else policy.older_than or 0.0
        found = _collect_packages(session, age, dry_run=given.dry_run)
    else:
        found = _collect(session, policy, dry_run=given.dry_run)
    if given.as_json:
        print_json(_document(found))
    else:
        _tell(found, session)
    if found.report.failed:
        raise typer.Exit(EXIT_FAILURE)


class Found(Value):
    """What was collected: environments, bytes of kept scripts, and downloads."""

    report: Report
    scripts: int = 0
    downloads: Removed = Removed()

    @property
    def freed(self) -> int:
        """Bytes freed in all."""
        return self.report.freed + self.scripts + self.downloads.freed


def _downloads(session: Session, freed: Freed, *, dry_run: bool) -> Downloads:
    caches = embedded_caches(session.engine_environ, session.packages)
    return Downloads(caches, session.paths.logs, freed, dry_run=dry_run)


def _collect_packages(session: Session, age: float, *, dry_run: bool) -> Found:
    """Remove what was downloaded and is in no environment, and nothing else."""
    downloads = _downloads(session, Freed(), dry_run=dry_run)
    downloads.collect(age, _LOGS_KEPT)
    return Found(Report((), (), dry_run), 0, downloads.removed)


def _collect(session: Session, policy: Policy, *, dry_run: bool) -> Found:
    """Remove what the policy lets go."""
    if not session.paths.root.exists() and not session.paths.envs.exists():
        return Found(Report((), (), dry_run))
    if dry_run:
        session.store.check()
    else:
        session.prepare_cache()

    def forget(prefix: Path) -> None:
        forget_registration(prefix, session.environ)

    freed = Freed()
    downloads = _downloads(session, freed, dry_run=dry_run)
    if policy.older_than is not None:
        downloads.collect(policy.older_than, _LOGS_KEPT)
    with session.usage() as usage:
        report = collect(
            session.store, usage, policy, dry_run=dry_run, on_removed=forget, downloads=downloads, freed=freed
        )
    overlays = Overlays(session.paths, session.settings.overlays_dir)
    if overlays.root.is_dir():
        try:
            report = report.plus(collect_overlays(overlays, policy, dry_run=dry_run))
        except OwnershipError as error:  # the environments are collected all the same
            session.voice.warn(f"Overlays are not collected: {error}")
    age = 0.0 if policy.everything else policy.older_than
    paths, copies_age = session.paths, 0.0 if policy.everything else COPIES_KEPT
    scripts = 0 if age is None else ScriptStore(paths.scripts, trust=paths.trusted).collect(age, dry_run=dry_run)
    scripts += BaselineStore(paths.baselines, trust=paths.trusted).collect(dry_run=dry_run)
    scripts += CopyStore(paths.copies, trust=paths.trusted).collect(copies_age, dry_run=dry_run)
    if not dry_run:
        clear_records(session.paths)
        touch(session.paths.gc_stamp)
    if policy.everything:  # last: by now no environment shares files with these packages
        downloads.collect(0.0, 0.0)
    return Found(report, scripts, downloads.removed)


def _collect_unnoticed(session: Session, policy: Policy) -> None:
    """Collect for a caller who does not wait, with what it leaves over of the machine; nobody reads a message here."""
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(10)
    with contextlib.suppress(CetoolError, OSError):
        _collect(session, policy, dry_run=False)


def _tell(found: Found, session: Session) -> None:
    report, scripts, downloads = found.report, found.scripts, found.downloads
    voice = session.voice
    done, freed = ("Would remove", "would free") if report.dry_run else ("Removed", "freed")
    for item in report.collected:
        voice.result(f"{done} {item.directory.prefix.name}: {_reason(item)}, {freed} {format_size(item.freed)}")
    for directory in report.in_use:
        voice.result(f"Kept {directory.prefix.name}: it is in use")
    for directory, error in report.failed:
        voice.warn(f"{directory.prefix.name} could not be removed: {error}")
    if scripts:
        voice.result(f"{done} scripts that came from elsewhere: {freed} {format_size(scripts)}")
    if downloads.freed:
        count = downloads.packages
        what = f"{count} downloaded package{'' if count == 1 else 's'}, channel metadata and logs"
        voice.result(f"{done} {what}: {freed} {format_size(downloads.freed)}")
    count = len(report.collected)
    total = f"{format_size(found.freed)} in all"
    if count:
        voice.result(f"{done} {count} environment{'' if count == 1 else 's'}, {total}")
    else:
        voice.result(f"{freed.capitalize()} {total}" if found.freed else "There is nothing to remove.")


def _reason(item: Collected) -> str:
    if item.unused is None or item.reason in ("incomplete", "its base is gone"):
        return item.reason
    unused = f"unused for {format_duration(item.unused)}"
    return unused if item.reason == "unused" else f"{item.reason}, {unused}"


def _document(found: Found) -> dict[str, object]:
    report = found.report
    return {
        "schema": SCHEMA,
        "dry_run": report.dry_run,
        "removed": [
            {
                "name": item.directory.name,
                "prefix": str(item.directory.prefix),
                "reason": item.reason,
                "unused_seconds": None if item.unused is None else round(item.unused, 3),
                "freed_bytes": item.freed,
            }
            for item in report.collected
        ],
        "in_use": [{"name": item.name, "prefix": str(item.prefix)} for item in report.in_use],
        "failed": [
            {"name": item.name, "prefix": str(item.prefix), "error": str(error)} for item, error in report.failed
        ],
        "scripts_freed_bytes": found.scripts,
        "packages_removed": found.downloads.packages,
        "downloads_freed_bytes": found.downloads.freed,
        "freed_bytes": found.freed,
    }

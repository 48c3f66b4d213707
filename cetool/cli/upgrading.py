"""``cetool upgrade``: newer packages for a script, in its lock or in its environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from cetool.app.decision import BaselineOptions, LockChoice, Wish
from cetool.app.upgrading import Upgraded, UpgradeWish
from cetool.app.upgrading import upgrade as upgrade_script
from cetool.base.text import printable
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.cli.voice import Voice
from cetool.lock.model import PackageChange

UPGRADE_SCHEMA = "cetool.upgrade/1"


@dataclass(frozen=True)
class UpgradeOptions(options.Output, options.Remote, options.Baseline):
    """The options of ``cetool upgrade``."""

    dry_run: Annotated[bool, option("--dry-run", help="Report what would change; change nothing.")] = False
    as_json: options.AsJson = False
    engine: options.EngineName = None
    channel: options.Channels = None
    extra: options.With = None
    env_file: options.EnvFile = None
    lock_file: options.LockFile = options.with_help("Upgrade this lock instead of the script's.")
    no_lock: options.NoLock = options.with_help("Upgrade the environment even if there is a lock.", False)
    exclude_newer: options.ExcludeNewer = None
    offline: options.Offline = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def upgrade(
    target: Annotated[str, typer.Argument(metavar="SCRIPT", help="The path or URL of a script.")],
    packages: Annotated[
        list[str] | None, typer.Argument(metavar="PKG", help="Upgrade these packages only.", show_default=False)
    ] = None,
    *,
    given: UpgradeOptions,
) -> None:
    """Upgrade the packages of a lock or an environment.

    The lock is updated if the script has one, else the environment is re-created with newer packages. If packages are
    named, only these and what they need are upgraded.
    """
    world, voice = options.open_world(given)
    wish = Wish(
        extra=tuple(given.extra or ()),
        env_file=given.env_file,
        lock=LockChoice(given.lock_file, given.no_lock),
        exclude_newer=given.exclude_newer,
        baselines=BaselineOptions.of(given.baseline, given.without, insecure=given.insecure),
    )
    asked = UpgradeWish(tuple(packages or ()), wish, given.dry_run)
    done = upgrade_script(target, asked, world, voice, insecure=given.insecure, sha256=given.sha256)
    if given.as_json:
        print_json(_document(done, dry_run=given.dry_run))
    else:
        _report(done, voice, dry_run=given.dry_run)


def _report(done: Upgraded, voice: Voice, *, dry_run: bool) -> None:
    """Print a line for each package that changed, and one for the lock."""
    lines: dict[str, list[str]] = {}
    for change in done.changes:
        lines.setdefault(_line(change, dry_run=dry_run), []).append(change.platform)
    for line, platforms in lines.items():
        everywhere = len(platforms) == len(done.platforms)
        voice.say(line if everywhere else f"{line} ({', '.join(platforms)})")
    if not done.changed:
        voice.say("Already up to date")
    elif done.lock is not None:
        if not dry_run:
            voice.say(f"Updated {printable(done.lock.name)}")
        elif not done.changes:  # what the script asks for changed
            voice.say(f"Would update {printable(done.lock.name)}")
    elif dry_run and not done.changes:
        voice.say(f"{done.script} has no environment yet")


def _line(change: PackageChange, *, dry_run: bool) -> str:
    """Return what became of a package, with its builds only if its version is the same."""
    name = change.name.removeprefix("pypi:")
    before, after = change.before or "", change.after or ""
    if before.partition(" ")[0] != after.partition(" ")[0]:
        before, after = before.partition(" ")[0], after.partition(" ")[0]
    if not before:
        return f"{'Would add' if dry_run else 'Added'} {name} {after}"
    if not after:
        return f"{'Would remove' if dry_run else 'Removed'} {name} {before}"
    return f"{'Would update' if dry_run else 'Updated'} {name} {before} -> {after}"


def _document(done: Upgraded, *, dry_run: bool) -> dict[str, object]:
    """Return the facts, as docs/reference/json.md describes them."""
    return {
        "schema": UPGRADE_SCHEMA,
        "script": done.script,
        "lock": None if done.lock is None else str(done.lock),
        "prefix": None if done.prefix is None else str(done.prefix),
        "dry_run": dry_run,
        "changed": done.changed,
        "changes": [
            {"platform": each.platform, "name": each.name, "before": each.before, "after": each.after}
            for each in done.changes
        ],
    }

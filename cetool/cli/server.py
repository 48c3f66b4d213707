"""``cetool server``: look after the data of a server. The data directory is the one that `cetool serve` uses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cetool.base.durations import format_size
from cetool.base.errors import EXIT_FAILURE
from cetool.base.text import counted
from cetool.cli import options
from cetool.cli.environments import tell_collected
from cetool.cli.options import option
from cetool.cli.output import print_json, print_line
from cetool.cli.server_grants import grant
from cetool.cli.server_tokens import Place, config_of, token
from cetool.cli.server_users import explain_access, user
from cetool.cli.voice import Voice

if TYPE_CHECKING:  # each command imports what it needs: the extra may be missing
    from cetool.server.collecting import Result

#: Schemas of ``--json``; incompatible changes increment them.
CHECK_SCHEMA, GC_SCHEMA = "cetool.server-check/1", "cetool.server-gc/1"

app = options.Commands("server", help="Look after a server's data, tokens and users.")
app.add_typer(token)
app.add_typer(user)
app.add_typer(grant)
app.command("explain-access")(explain_access)


@dataclass(frozen=True)
class PlaceOptions(options.Output, Place):
    """The options that say which server's data a command works on, and how much it reports."""

    @property
    def voice(self) -> Voice:
        """What reports to the user."""
        verbosity = "quiet" if self.quiet else "verbose" if self.verbose else "normal"
        return Voice(verbosity, os.environ)


@dataclass(frozen=True)
class CheckOptions(PlaceOptions):
    """The options of ``cetool server check``."""

    as_json: options.AsJson = False


@app.command("check")
@options.command
def check(*, given: CheckOptions) -> int:
    """Check the database, environments, answers and files of a server.

    The server may run meanwhile. The exit status is 1 if there are problems.
    """
    config, voice = config_of(given), given.voice
    from cetool.server.checking import Checks, concluded, watch_problems
    from cetool.server.data.database import Database
    from cetool.server.server import world_of

    database = Database.open(config.database, wait=config.database_wait)
    try:
        with voice.progress() as progress:

            def show(what: str, done: int, total: int) -> None:
                progress.stage(f"Checking {what}")
                progress.count(done, total, "item")

            found = list(Checks(config, database, world_of(config).store, show).problems())
        notes = watch_problems(database)
    finally:
        database.close()
    if given.as_json:
        problems = [
            {"kind": each.kind, "about": each.about, "message": each.message, "hint": each.hint} for each in found
        ]
        print_json({"schema": CHECK_SCHEMA, "data": str(config.data), "problems": problems, "watched_files": notes})
    else:
        for each in found:
            print_line(f"{each.message}. {each.hint}")
        for note in notes:
            voice.warn(f"a watched file is not built: {note}")
        voice.say(concluded(len(found)))
    return 1 if found else 0


@dataclass(frozen=True)
class CollectOptions(PlaceOptions):
    """The options of ``cetool server gc``."""

    everything: Annotated[bool, option("--all", help="Also remove unneeded files that were used lately.")] = False
    dry_run: Annotated[bool, option("--dry-run", help="Print what would be removed; remove nothing.")] = False
    as_json: options.AsJson = False


@app.command("gc")
@options.command
def gc(*, given: CollectOptions) -> None:
    """Remove what no build of a server needs.

    The server does this every hour by itself, and may run meanwhile. Nothing in use is removed.
    """
    config, voice = config_of(given), given.voice
    from cetool.server.collecting import Place, collect
    from cetool.server.data.database import Database
    from cetool.server.server import world_of

    world = world_of(config)
    database = Database.open(config.database, wait=config.database_wait)
    try:
        with voice.progress() as progress:

            def show(kind: str, done: int, total: int) -> None:
                progress.stage(f"Collecting {kind}")
                progress.count(done, total, "item")

            place = Place(config, database, world.store, (world.packages,))
            result = collect(place, dry_run=given.dry_run, everything=given.everything, watch=show)
    finally:
        database.close()
    if given.as_json:
        print_json(_document(result))
    else:
        found = result.collection
        items = [(each, each.reason) for each in found.of("environments")]
        tell_collected(found, items, _counts(result), result.freed, voice)
    if result.collection.failed:
        raise typer.Exit(EXIT_FAILURE)


_File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.", show_default=False)]


@dataclass(frozen=True)
class BackupOptions(PlaceOptions):
    """The options of ``cetool server backup`` and ``restore``."""


@app.command("backup")
@options.command
def backup(file: _File, *, given: BackupOptions) -> None:
    """Write a server's database, key and configuration to a new file.

    The server may run meanwhile. Environments and packages are not in the file: they are created again from locks.
    """
    config, voice = config_of(given), given.voice
    from cetool.server.config import config_file
    from cetool.server.data.backing import back_up

    done = back_up(config, file, configuration=config_file(given.config, os.environ))
    voice.say(f"Wrote {file} ({format_size(done.size)}). It has the server's private key: keep it secret")


@app.command("restore")
@options.command
def restore(file: _File, *, given: BackupOptions) -> None:
    """Restore a backup into an empty data directory."""
    config, voice = config_of(given, existing=False), given.voice
    from cetool.server.data.backing import restore as restored

    done = restored(file, config.data)
    again = f"; the server will create {counted(done.queued, 'environment')} again" if done.queued else ""
    voice.say(f"Restored the backup of {done.created} into {config.data}{again}")


@dataclass(frozen=True)
class UpgradeOptions(PlaceOptions):
    """The options of ``cetool server upgrade``."""

    check: Annotated[bool, option("--check", help="Change nothing; the status is 1 if an upgrade is needed.")] = False


@app.command("upgrade")
@options.command
def upgrade(*, given: UpgradeOptions) -> int:
    """Upgrade a server's database to this version, after a backup.

    `cetool serve` does the same when it starts.
    """
    config, voice = config_of(given), given.voice
    from cetool.server.data.directory import held
    from cetool.server.data.upgrading import pending
    from cetool.server.data.upgrading import upgrade as upgraded

    if given.check:
        before, steps = pending(config.database)
        shown = f"Schema {before} needs {', '.join(steps)}" if steps else f"Schema {before} is up to date"
        print_line(shown)
        return 1 if steps else 0
    with held(config.data, "an upgrade"):
        done = upgraded(config.database)
    if done.backup is None:
        voice.say(f"Already up to date (schema {done.after})")
    else:
        voice.say(f"Upgraded {config.database} from schema {done.before} to {done.after}; the old one is {done.backup}")
    return 0


def _counts(result: Result) -> list[tuple[int, str]]:
    """Return how many builds and things of each kind were removed, with their names."""
    from cetool.server.collecting import KINDS

    counts: dict[str, int] = {}
    for kind, noun in KINDS.items():
        counts[noun] = counts.get(noun, 0) + len(result.collection.of(kind))
    return [(len(result.builds), "build"), *((count, noun) for noun, count in counts.items())]


def _document(result: Result) -> dict[str, object]:
    from cetool.server.collecting import KINDS
    from cetool.store.kinds import DOWNLOADS

    found = result.collection
    own = [kind for kind in KINDS if kind != "environments" and kind not in DOWNLOADS]
    return {
        "schema": GC_SCHEMA,
        "dry_run": found.dry_run,
        "builds": list(result.builds),
        "environments": [
            {"name": each.item.name, "prefix": str(each.item.path), "reason": each.reason, "freed_bytes": each.freed}
            for each in found.of("environments")
        ],
        "in_use": [{"name": each.name, "prefix": str(each.path)} for each in found.in_use],
        "failed": [{"path": str(each.path), "error": str(error)} for each, error in found.failed],
        "files_removed": len(found.of(*own)),
        "files_freed_bytes": result.freed_by(*own),
        "downloads_removed": len(found.of(*DOWNLOADS)),
        "downloads_freed_bytes": result.freed_by(*DOWNLOADS),
        "freed_bytes": result.freed,
    }

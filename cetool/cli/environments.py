"""``cetool create``, ``name``, ``remove`` and ``gc``: create, name and remove environments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool.app import environments as app
from cetool.app.background import be_nice
from cetool.app.collecting import collect, collect_downloads
from cetool.app.decision import BaselineOptions, Wish
from cetool.app.environments import decide_specs
from cetool.base.durations import format_duration, format_size, parse_duration, parse_size
from cetool.base.errors import EXIT_FAILURE, CetoolError, UsageError
from cetool.base.text import counted
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json, print_line
from cetool.cli.voice import Voice
from cetool.store.gc import Collected, Collection, Policy, Removable
from cetool.store.kinds import DOWNLOADS, PACKAGES_KIND

NAME_SCHEMA = "cetool.name/1"
GC_SCHEMA = "cetool.gc/1"
#: The kinds of which a collection's items are reported one by one.
_LISTED = ("environments", "overlays")


@dataclass(frozen=True)
class CreateOptions(options.Output, options.Making, options.Baseline):
    """The options of ``cetool create``."""

    file: options.Files = None
    channel: options.Channels = options.with_help("Take packages from this channel.")
    insecure: options.Insecure = options.with_help("Allow baselines over plain http.", False)
    exclude_newer: options.ExcludeNewer = None


@options.command
def create(
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="SPEC", help="Match specs, such as 'numpy >=2'.", show_default=False)
    ] = None,
    *,
    given: CreateOptions,
) -> None:
    """Create an environment and print its prefix."""
    world, voice = options.open_world(given)
    # a file without a suffix may have the name of a package
    files = [spec for spec in specs or [] if Path(spec).suffix and Path(spec).is_file() and app.is_script(spec)]
    if files:
        how = "`cetool path SCRIPT` creates the environment of a script; `--file FILE` takes packages from a file."
        raise UsageError(f"{files[0]} is a file, not a match spec", hint=how)
    on = BaselineOptions.of(given.baseline, given.without, insecure=given.insecure)
    # a baseline's server is asked whatever is known of it
    wish = Wish(exclude_newer=given.exclude_newer, baselines=on, refresh=True)
    decision = decide_specs(specs or [], given.file or [], wish, world, voice)
    print_data(f"{app.create(decision, world, voice, refresh=given.refresh)}\n")


@dataclass(frozen=True)
class NameOptions(options.Lock, options.Baseline):
    """The options of ``cetool name``."""

    file: options.Files = None
    channel: options.Channels = options.with_help("Take packages from this channel.")
    insecure: options.Insecure = False
    exclude_newer: options.ExcludeNewer = None
    as_json: options.AsJson = False
    yes: options.Yes = False


@options.command
def name(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPEC|SCRIPT", help="Match specs, or a script.", show_default=False),
    ] = None,
    *,
    given: NameOptions,
) -> None:
    """Print the prefix of an environment without creating it."""
    world, voice = options.open_world(given)
    on = BaselineOptions.of(given.baseline, given.without, insecure=given.insecure)
    wish = Wish(lock=given.choice, exclude_newer=given.exclude_newer, baselines=on)
    place = app.find_place(targets or [], given.file or [], wish, world, voice)
    if given.as_json:
        print_json({"schema": NAME_SCHEMA, "name": place.name, "prefix": str(place.prefix), "exists": place.exists})
    else:
        print_data(f"{place.prefix}\n")


@dataclass(frozen=True)
class RemoveOptions(options.Output):
    """The options of ``cetool remove``."""

    insecure: options.Insecure = options.with_help("Allow scripts over plain http.", False)
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def remove(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|PREFIX|SCRIPT", autocompletion=completing.environments, help="The environments to remove."
        ),
    ],
    *,
    given: RemoveOptions,
) -> None:
    """Remove environments that are not in use."""
    world, voice = options.open_world(given)
    app.remove(targets, world, voice, insecure=given.insecure)


@dataclass(frozen=True)
class GcOptions(options.Output):
    """The options of ``cetool gc``."""

    older_than: Annotated[
        str | None,
        option("--older-than", metavar="DURATION", help="Remove what was unused for this long: 90m, 25h, 7d."),
    ] = None
    max_size: Annotated[
        str | None,
        option("--max-size", metavar="SIZE", help="Remove the least recently used down to this size: 20GB."),
    ] = None
    everything: Annotated[bool, option("--all", help="Remove everything that is not in use.")] = False
    packages: Annotated[
        bool, option("--packages", help="Remove only downloaded packages that no environment uses.")
    ] = False
    dry_run: Annotated[bool, option("--dry-run", help="Print what would be removed; remove nothing.")] = False
    as_json: options.AsJson = False
    trust_cache_dir: options.TrustCacheDir = False
    background: Annotated[bool, option("--background", hidden=True)] = False


@options.command
def gc(*, given: GcOptions) -> None:
    """Remove environments that have not been used lately.

    Without options, the settings `remove-if-unused-for` and `max-size` decide. An environment in use is never removed.
    """
    if given.everything and (given.older_than or given.max_size):
        raise UsageError("--all cannot be used with --older-than or --max-size")
    if given.packages and (given.everything or given.max_size):
        raise UsageError(
            f"--packages and {'--all' if given.everything else '--max-size'} cannot be used together",
            hint="--all includes downloaded packages; with --packages, --older-than keeps those used lately.",
        )
    world, voice = options.open_world(given)
    settings = world.settings
    policy = Policy(everything=True)
    if not given.everything and given.older_than is None and given.max_size is None:
        policy = Policy(settings.remove_if_unused_for * 3600, settings.max_size)
    elif not given.everything:
        policy = Policy(
            None if given.older_than is None else float(parse_duration(given.older_than)),
            None if given.max_size is None else parse_size(given.max_size),
        )
    if given.background:
        be_nice()
        with contextlib.suppress(CetoolError, OSError):  # no user reads messages here
            collect(policy, world, voice, dry_run=False)
        return
    if given.packages:
        age = 0.0 if given.older_than is None else policy.older_than or 0.0
        found = collect_downloads(age, world, voice, dry_run=given.dry_run)
    else:
        found = collect(policy, world, voice, dry_run=given.dry_run)
    if given.as_json:
        print_json(_collected(found))
    else:
        _tell(found, voice)
    if found.failed:
        raise typer.Exit(EXIT_FAILURE)


def _tell(found: Collection, voice: Voice) -> None:
    """Say what was removed: environments, overlays, scripts and downloads."""
    packages = len(found.of(PACKAGES_KIND))
    counts = (
        (len(found.of(*_LISTED)), "environment"),
        (len(found.of("scripts")), "cached script"),
        (packages, "downloaded package"),
        (len(found.of(*DOWNLOADS)) - packages, "other cached file"),
    )
    tell_collected(found, [(each, _reason(each)) for each in found.of(*_LISTED)], counts, _total(found), voice)


def tell_collected(
    found: Collection,
    items: Iterable[tuple[Collected, str]],
    counts: Iterable[tuple[int, str]],
    freed: int,
    voice: Voice,
) -> None:
    """Say in one line what was removed, with ``-v`` each of the ``items``; of a dry run the list is the answer.

    ``items`` are listed with a reason, ``counts`` are numbers of things and their name, ``freed`` is in bytes:
    ``Removed 2 environments and 3 downloaded packages (420 MB); 1 environment is in use``.
    """
    for item, reason in items:
        line = f"{item.item.path.name}: {reason}, {format_size(item.freed)}"
        if found.dry_run:
            print_line(line)
        else:
            voice.detail(f"Removed {line}")
    for kept in found.in_use:
        voice.detail(f"Kept {kept.path.name}: it is in use")
    for left, error in found.failed:
        voice.warn(f"{left.path.name} could not be removed: {error}")
    told = [counted(count, noun) for count, noun in counts if count]
    done = "Would remove" if found.dry_run else "Removed"
    what = " and ".join(filter(None, (", ".join(told[:-1]), *told[-1:])))
    text = f"{done} {what} ({format_size(freed)})" if told else "Nothing to remove"
    in_use = len(found.in_use)
    is_ = "is" if in_use == 1 else "are"
    voice.say(f"{text}; {counted(in_use, 'environment')} {is_} in use" if in_use else text)


def _freed(found: Collection, *kinds: str) -> int:
    return sum(item.freed for item in found.of(*kinds))


def _total(found: Collection) -> int:
    """Bytes freed in all; launch records do not count."""
    return _freed(found, *_LISTED, "scripts", *DOWNLOADS)


def _reason(item: Collected) -> str:
    if item.unused is None or item.reason in ("incomplete", "its base is gone"):
        return item.reason
    unused = f"unused for {format_duration(item.unused)}"
    return unused if item.reason == "unused" else f"{item.reason}, {unused}"


def _collected(found: Collection) -> dict[str, object]:
    return {
        "schema": GC_SCHEMA,
        "dry_run": found.dry_run,
        "removed": [
            {
                **_named(item.item),
                "reason": item.reason,
                "unused_seconds": None if item.unused is None else round(item.unused, 3),
                "freed_bytes": item.freed,
            }
            for item in found.of(*_LISTED)
        ],
        "in_use": [_named(item) for item in found.in_use],
        "failed": [{**_named(item), "error": str(error)} for item, error in found.failed],
        "scripts_freed_bytes": _freed(found, "scripts"),
        "packages_removed": len(found.of(PACKAGES_KIND)),
        "downloads_freed_bytes": _freed(found, *DOWNLOADS),
        "freed_bytes": _total(found),
    }


def _named(item: Removable) -> dict[str, object]:
    return {"name": item.name, "prefix": str(item.path)}

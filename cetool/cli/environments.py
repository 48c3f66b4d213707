"""``cetool create``, ``name``, ``list`` and ``remove``: environments by themselves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import typer

from cetool.app import environments as app
from cetool.app.decision import BaselineOptions, Wish
from cetool.app.environments import Listed, decide_specs
from cetool.base.durations import format_duration, format_size
from cetool.cli import options
from cetool.cli.output import print_data, print_json, print_table
from cetool.declare.environment import EnvironmentSpec

LIST_SCHEMA = "cetool.list/1"
NAME_SCHEMA = "cetool.name/1"


@dataclass(frozen=True)
class CreateOptions(options.Output, options.Making, options.Baseline):
    """The options of ``cetool create``."""

    file: options.Files = None
    insecure: options.Insecure = False
    exclude_newer: options.ExcludeNewer = None


@options.command
def create(
    specs: Annotated[list[str] | None, typer.Argument(metavar="SPEC", help="Match specs.")] = None,
    *,
    given: CreateOptions,
) -> None:
    """Make an environment from match specs or files, and print its prefix."""
    world, voice = options.open_world(given)
    on = BaselineOptions.of(given.baseline, given.without, insecure=given.insecure)
    # a baseline's server is asked whatever is known of it
    wish = Wish(exclude_newer=given.exclude_newer, baselines=on, refresh=True)
    decision = decide_specs(specs or [], given.file or [], wish, world, voice)
    print_data(f"{app.create(decision, world, voice, refresh=given.refresh)}\n")


@dataclass(frozen=True)
class NameOptions(options.Lock, options.Baseline):
    """The options of ``cetool name``."""

    file: options.Files = None
    channel: options.Channels = None
    insecure: options.Insecure = False
    exclude_newer: options.ExcludeNewer = None
    as_json: options.AsJson = False
    yes: options.Yes = False


@options.command
def name(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPEC|SCRIPT", help="Match specs, or one script.", show_default=False),
    ] = None,
    *,
    given: NameOptions,
) -> None:
    """Print the prefix that an environment has or would have, without making it."""
    world, voice = options.open_world(given)
    on = BaselineOptions.of(given.baseline, given.without, insecure=given.insecure)
    wish = Wish(lock=given.choice, exclude_newer=given.exclude_newer, baselines=on)
    place = app.find_place(targets or [], given.file or [], wish, world, voice)
    if given.as_json:
        print_json({"schema": NAME_SCHEMA, "name": place.name, "prefix": str(place.prefix), "exists": place.exists})
    else:
        print_data(f"{place.prefix}\n")


@dataclass(frozen=True)
class ListOptions(options.Group):
    """The options of ``cetool list``."""

    as_json: options.AsJson = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def list_environments(*, given: ListOptions) -> None:
    """Show the environments that there are."""
    world, voice = options.open_world(given)
    found = app.list_environments(world, voice)
    if given.as_json:
        print_json({"schema": LIST_SCHEMA, "environments": list(map(_document, found))})
    elif not found:
        voice.result(f"There are no environments in {world.paths.envs}.")
    else:
        now = time.time()
        headers = ("NAME", "SPECS", "SIZE", "PACKAGES", "ENGINE", "LAST USED", "RUNNING")
        print_table(headers, [_cells(each, now) for each in found])


def _document(each: Listed) -> dict[str, object]:
    marker = each.marker
    return {
        "name": marker.name,
        "prefix": str(each.prefix),
        **spec_document(marker.spec),
        "size_bytes": marker.size,
        "packages": marker.packages,
        "engine": marker.engine,
        "engine_version": marker.engine_version,
        "created": marker.created,
        "last_used": each.last_used,
        "runs": each.runs,
        "running": list(each.running),
    }


def spec_document(spec: EnvironmentSpec) -> dict[str, object]:
    """A spec as the JSON outputs have it, credentials taken out."""
    shown = spec.redacted()
    return {
        "channels": list(shown.channels),
        "specs": list(shown.packages),
        "pypi": list(shown.pypi),
        "pypi_settings": shown.pypi_settings.as_dict(),
        "solver_settings": shown.solving.as_dict(),
        "variables": dict(shown.variables),
        "virtual_packages": dict(shown.virtual_packages),
        "locked": shown.is_locked,
        "exclude_newer": shown.exclude_newer,
    }


def _cells(each: Listed, now: float) -> tuple[str, ...]:
    marker, spec = each.marker, each.marker.spec.redacted()
    asked = ", ".join([*spec.packages, *(f"{requirement} (PyPI)" for requirement in spec.pypi)])
    return (
        each.prefix.name,
        (asked or ("(a baseline)" if spec.is_locked else "(nothing)"))
        + (" (locked)" if spec.is_locked else "")
        + (f" (as of {spec.exclude_newer})" if spec.exclude_newer else ""),
        format_size(marker.size),
        str(marker.packages),
        marker.engine,
        f"{format_duration(now - each.last_used)} ago",
        " ".join(map(str, each.running)) or "-",
    )


@dataclass(frozen=True)
class RemoveOptions(options.Output):
    """The options of ``cetool remove``."""

    insecure: options.Insecure = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def remove(
    targets: Annotated[list[str], typer.Argument(metavar="NAME|PREFIX|SCRIPT", help="The environments to remove.")],
    *,
    given: RemoveOptions,
) -> None:
    """Remove environments, unless something runs in them."""
    world, voice = options.open_world(given)
    app.remove(targets, world, voice, insecure=given.insecure)

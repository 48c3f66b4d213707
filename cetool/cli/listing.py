"""``cetool list`` and ``cetool tree``: environments, the packages in one, and what requires what."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cetool.app.environments import Listed
from cetool.app.environments import list_environments as list_all
from cetool.app.world import World
from cetool.base.durations import as_of, format_age, format_size
from cetool.base.process import program_name
from cetool.base.text import counted
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.cli.tables import Cell, Column, Items, show_table, table_width
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.declare.match_specs import spec_name
from cetool.declare.pypi import PYPI_NAME

LIST_SCHEMA = "cetool.list/1"
#: Columns below which names, ages and headers are short: of a usual table, and of one with ``-v``.
NARROW, NARROW_VERBOSE = 80, 120


@dataclass(frozen=True)
class ListOptions(options.Group):
    """The options of ``cetool list``."""

    verbose: Annotated[
        bool, option("--verbose", "-v", help="Show engines and package counts too.", panel=options.OUTPUT)
    ] = False
    as_json: options.AsJson = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def list_environments(*, given: ListOptions) -> None:
    """List all environments, the most recently used first."""
    world, voice = options.open_world(given)
    found = list_all(world, voice)
    if given.as_json:
        print_json({"schema": LIST_SCHEMA, "environments": list(map(_document, found))})
    elif not found:
        voice.result(f"There are no environments in {world.paths.envs} yet. `cetool run SCRIPT` creates one.")
    else:
        _show_environments(found, world, verbose=given.verbose)


def _show_environments(found: Sequence[Listed], world: World, *, verbose: bool) -> None:
    narrow = table_width() < (NARROW_VERBOSE if verbose else NARROW)
    now, home = time.time(), world.environ.get("HOME", "")
    columns = [
        Column("NAME", style="cyan"),
        Column("SCRIPTS", rank=3),
        Column("SPECS", rank=1, least=16),
        Column("SIZE", right=True, rank=2),
        Column("USED" if narrow else "LAST USED", right=narrow),
        Column("RUN" if narrow else "RUNNING", right=narrow, style="green"),
    ]
    rows: list[list[Cell]] = [
        [
            each.prefix.name if verbose and not narrow else each.short,
            _scripts(each, home),
            _specs(each),
            format_size(each.marker.size),
            format_age(now - each.last_used, short=narrow),
            _running(each, narrow=narrow),
        ]
        for each in found
    ]
    if not any(each.in_use for each in found):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    if verbose:
        columns += [Column("PACKAGES", right=True), Column("ENGINE", least=10)]
        for row, each in zip(rows, found, strict=True):
            engine = Items((f"{each.marker.engine} {each.marker.engine_version}",), (each.marker.engine,))
            row += [str(each.marker.packages), engine]
    total = f"{counted(len(found), 'environment')}, {format_size(sum(each.marker.size for each in found))}"
    place = short_path(str(world.paths.envs), (home, "~/"))
    footer = f"{total}, in {place}"
    show_table(columns, rows, footer=footer if len(footer) <= table_width() else total)


def _scripts(each: Listed, home: str) -> Cell:
    """Return the scripts that used an environment, their paths from the working or the home directory."""
    if not each.scripts:
        return "-"
    tops = ((os.getcwd(), ""), (home, "~/"))
    return Items(
        tuple(short_path(script, *tops) for script in each.scripts), tuple(map(os.path.basename, each.scripts))
    )


def short_path(path: str, *tops: tuple[str, str]) -> str:
    """Return a path as it is from the first of these directories that it is below, behind what stands for that."""
    for top, shown in tops:
        if top and path.startswith(f"{top.rstrip(os.sep)}{os.sep}"):
            return shown + path[len(top.rstrip(os.sep)) + 1 :]
    return path


def _specs(each: Listed) -> Items:
    spec = each.marker.spec.redacted()
    texts = [*spec.packages, *(f"{requirement} (PyPI)" for requirement in spec.pypi)]
    names = [*map(spec_name, spec.packages), *(found[0] for text in spec.pypi if (found := PYPI_NAME.match(text)))]
    if not texts:
        texts = names = ["(nothing)" if isinstance(spec.what, Solve) else "(a baseline)"]
    notes = ["(locked)"] if spec.is_locked else []
    notes += [f"(as of {as_of(spec.exclude_newer)})"] if spec.exclude_newer else []
    return Items(tuple(texts), tuple(names), " ".join(notes))


def _running(each: Listed, *, narrow: bool) -> Cell:
    """Return the processes in an environment, with their programs where there is room."""
    pids = (*each.running, *each.daemons)
    if not pids:
        return "yes" if each.in_use else ""
    if narrow:
        return str(len(pids))
    return Items(tuple(f"{program_name(pid)} {pid}".strip() for pid in pids), tuple(map(str, pids)))


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
        "short": each.short,
        "scripts": list(each.scripts),
        "daemons": list(each.daemons),
        "in_use": each.in_use,
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

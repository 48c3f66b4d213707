"""``cetool list`` and ``cetool tree``: environments, the packages in one, and what requires what."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cetool.app.environments import Listed
from cetool.app.environments import list_environments as list_all
from cetool.app.inventory import OVERLAY, Inventory, Item, Need, reached_from, take_inventory
from cetool.app.names import Target
from cetool.app.reporting import flow
from cetool.app.targets import find_target
from cetool.app.world import World
from cetool.base.durations import as_of, format_age, format_size
from cetool.base.process import program_name
from cetool.base.text import counted, neutral_line
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.output import print_json, print_line
from cetool.cli.tables import Cell, Column, Items, print_styled, short_path, show_table, table_width
from cetool.cli.voice import Voice
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.declare.match_specs import spec_name
from cetool.declare.pypi import PYPI_NAME
from cetool.store.store import Origin

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text
    from rich.tree import Tree

LIST_SCHEMA = "cetool.list/1"
PACKAGES_SCHEMA = "cetool.packages/1"
TREE_SCHEMA = "cetool.tree/1"
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


_Target = Annotated[
    str,
    typer.Argument(
        metavar="SCRIPT|NAME",
        autocompletion=completing.scripts,
        help="A script, or an environment by its name, prefix or overlay.",
    ),
]


@options.command
def list_environments(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="SCRIPT|NAME",
            autocompletion=completing.scripts,
            help="List the packages in this environment.",
            show_default=False,
        ),
    ] = None,
    *,
    given: ListOptions,
) -> None:
    """List environments, or the packages in one."""
    world, voice = options.open_world(given)
    if target is not None:
        _list_packages(take_inventory(find_target(target, world, voice), world, voice), as_json=given.as_json)
        return
    found = list_all(world, voice)
    if given.as_json:
        print_json({"schema": LIST_SCHEMA, "environments": list(map(_document, found))})
    elif not found:
        voice.say(f"There are no environments in {world.paths.envs} yet. `cetool run SCRIPT` creates one.")
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
        tuple(short_path(script, *tops) for script in each.scripts),
        tuple(map(os.path.basename, each.scripts)),
        paths=True,
    )


def _specs(each: Listed) -> Items:
    spec = each.marker.spec  # markers have no credentials
    texts = [*spec.packages, *(f"{requirement} (PyPI)" for requirement in spec.pypi)]
    names = [*map(spec_name, spec.packages), *(found[0] for text in spec.pypi if (found := PYPI_NAME.match(text)))]
    if not texts:
        texts = names = ["(nothing)" if isinstance(spec.what, Solve) else "(a baseline)"]
    notes = ["(locked)"] if spec.is_locked else []
    notes += [f"(from {each.marker.origin.server.partition('://')[2]})"] if each.marker.origin else []
    notes += [f"(as of {as_of(spec.exclude_newer)})"] if spec.exclude_newer else []
    return Items(tuple(texts), tuple(names), " ".join(notes))


def _server(origin: Origin | None) -> str:
    """Return where the packages come from; empty for an environment that was solved here."""
    if origin is None:
        return ""
    named = f" of {origin.environment}" if origin.environment else ""
    return f"{origin.server} (build {origin.build}{named})"


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
        "server": None if marker.origin is None else marker.origin.server,
        "server_build": None if marker.origin is None else marker.origin.build,
        "server_environment": None if marker.origin is None else marker.origin.environment,
    }


def show_environment(prefix: Path, world: World, voice: Voice, *, as_json: bool) -> None:
    """Print all that is known of an environment."""
    [each] = [each for each in list_all(world, voice) if each.prefix == prefix]
    if as_json:
        print_json({"schema": LIST_SCHEMA, "environments": [_document(each)]})
        return
    marker, spec, now = each.marker, each.marker.spec.redacted(), time.time()
    rows = [
        ("name", marker.name),
        ("prefix", str(prefix)),
        ("channels", flow(spec.channels) if spec.channels else ""),
        ("env", flow(spec.packages) if spec.packages else ""),
        ("pip", flow(spec.pypi) if spec.pypi else ""),
        ("locked", "yes" if spec.is_locked else ""),
        ("as of", spec.exclude_newer or ""),
        ("variables", flow([f"{key}={value}" for key, value in spec.variables]) if spec.variables else ""),
        ("packages", f"{marker.packages} from conda"),
        ("size", format_size(marker.size)),
        ("engine", f"{marker.engine} {marker.engine_version}"),
        ("server", _server(marker.origin)),
        ("created", format_age(now - marker.created)),
        ("last used", format_age(now - each.last_used)),
        ("runs", str(each.runs)),
        *(("script", script) for script in each.scripts),
        *(("process", f"{program_name(pid)} {pid}".strip()) for pid in (*each.running, *each.daemons)),
    ]
    for key, value in rows:
        if value:
            print_line(f"{key + ':':12}{value}")


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


# --- the packages in one ----------------------------------------------------------------------------------------------


def _list_packages(found: Inventory, *, as_json: bool) -> None:
    if as_json:
        packages = [
            {
                "name": item.name,
                "version": item.version,
                "build": item.build,
                "channel": item.channel,
                "kind": "pypi" if item.is_pypi else "conda",
                "layer": item.layer,
                "hidden": item.hidden,
            }
            for item in found.items
        ]
        print_json({"schema": PACKAGES_SCHEMA, **_target_document(found.target), "packages": packages})
        return
    columns = [Column("NAME", style="cyan"), Column("VERSION"), Column("BUILD", rank=2), Column("CHANNEL", rank=1)]
    rows: list[list[Cell]] = [[item.name, item.version, item.build or "-", _origin(item)] for item in found.items]
    if found.target.base is not None:
        columns.append(Column("LAYER"))
        for row, item in zip(rows, found.items, strict=True):
            row.append(f"{item.layer}{' (hidden)' if item.hidden else ''}")
    count, pypi = len(found.items), sum(item.is_pypi for item in found.items)
    footer = f"{counted(count, 'package')}{f', {pypi} of them from PyPI' if pypi else ''}"
    show_table(columns, rows, footer=f"{footer}, in {found.target.prefix.name}")


def _origin(item: Item) -> Cell:
    if item.is_pypi:
        return "PyPI"
    return "-" if item.channel is None else Items((item.channel,), (item.channel.rpartition("/")[2],))


def _target_document(target: Target) -> dict[str, object]:
    return {
        "name": target.name,
        "prefix": str(target.prefix),
        "base": None if target.base is None else str(target.base),
    }


# --- what requires what -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TreeOptions(options.Group):
    """The options of ``cetool tree``."""

    invert: Annotated[
        str | None, option("--invert", metavar="PACKAGE", help="Show the packages that require this one.")
    ] = None
    depth: Annotated[int | None, option("--depth", metavar="N", min=0, help="Show this many levels below the top.")] = (
        None
    )
    as_json: options.AsJson = False
    trust_cache_dir: options.TrustCacheDir = False


@options.command
def tree(target: _Target, *, given: TreeOptions) -> None:
    """Show which packages in an environment require which."""
    world, voice = options.open_world(given)
    found = take_inventory(find_target(target, world, voice), world, voice)
    roots, needs = found.roots, found.needs
    if given.invert is not None:
        roots, needs = tuple(found.find(given.invert)), found.requirers()
    if given.as_json:
        print_json(_tree_document(found, roots, inverted=given.invert is not None))
    elif not roots:
        voice.say(f"The environment {found.target.name} has no packages.")
    else:
        asked = len(roots) if given.invert is not None else found.asked
        print_styled(*Branches(found, needs, given.depth).grown(roots, asked))


def _tree_document(found: Inventory, roots: Sequence[str], *, inverted: bool) -> dict[str, object]:
    shown = reached_from(roots, found.requirers() if inverted else found.needs)
    return {
        "schema": TREE_SCHEMA,
        **_target_document(found.target),
        "roots": list(roots),
        "packages": [
            {
                "id": item.key,
                "name": item.name,
                "version": item.version,
                "kind": "pypi" if item.is_pypi else "conda",
                "layer": item.layer,
                "requested": item.key in found.roots[: found.asked],
            }
            for item in found.items
            if item.key in shown and not item.hidden
        ],
        "requirements": [
            {"package": key, "requires": need.key, "name": need.name, "spec": need.spec}
            for key, needs in sorted(found.needs.items())
            if key in shown
            for need in needs
            if not inverted or need.key in shown
        ],
    }


class Branches:
    """The trees of an inventory, as rich shows them: a subtree that was shown before is marked ``(*)``."""

    def __init__(self, found: Inventory, needs: Mapping[str, Sequence[Need]], depth: int | None) -> None:
        self._items = {item.key: item for item in found.items if not item.hidden}
        self._needs = needs
        self._depth = depth
        self._shown: set[str] = set()
        self._repeated = False

    def grown(self, roots: Sequence[str], asked: int) -> list[RenderableType]:
        """Return a tree for each root, the first ones emphasized; then what the marks mean."""
        from rich.text import Text
        from rich.tree import Tree

        trees: list[RenderableType] = []
        for number, root in enumerate(roots):
            branch = Tree("", guide_style="dim")
            branch.label = self._grow(branch, Need(root, "", ""), 0, style="bold" if number < asked else "")
            trees.append(branch)
        return [*trees, Text("(*) shown above", "dim")] if self._repeated else trees

    def _grow(self, branch: Tree, need: Need, level: int, style: str = "") -> Text:
        """Add what a package requires below its branch, and return the label for the branch."""
        from rich.text import Text

        if need.key is None:
            return Text.assemble((neutral_line(need.name), "red"), (_notes("not installed", need.spec), "dim"))
        item, below = self._items[need.key], self._needs.get(need.key, ())
        notes = _notes("PyPI" if item.is_pypi else "", "overlay" if item.layer == OVERLAY else "", need.spec)
        text = Text.assemble((neutral_line(f"{item.name} {item.version}"), style), (neutral_line(notes), "dim"))
        if below and need.key in self._shown:
            self._repeated = True
            return text.append(" (*)", "dim")
        if below and (self._depth is None or level < self._depth):
            self._shown.add(need.key)
            for each in below:
                child = branch.add("")
                child.label = self._grow(child, each, level + 1)
        return text


def _notes(*notes: str) -> str:
    listed = ", ".join(filter(None, notes))
    return f" ({listed})" if listed else ""

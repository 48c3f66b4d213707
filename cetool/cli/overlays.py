"""``cetool overlay``: create and manage overlays that have a name."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool.app import overlays
from cetool.app.exporting import write_output
from cetool.app.overlaying import overlays_of
from cetool.app.overlays import Additions, FoundOverlay
from cetool.base.durations import format_age, format_size
from cetool.base.errors import UsageError
from cetool.base.urls import redact
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json, print_line
from cetool.cli.reproducing import Format
from cetool.cli.tables import Cell, Column, Items, show_table
from cetool.launch.shells import SHELLS, UNDO
from cetool.overlays.about import Layer
from cetool.overlays.store import last_used

LIST_SCHEMA = "cetool.overlay-list/1"
SHOW_SCHEMA = "cetool.overlay-show/1"
DIFF_SCHEMA = "cetool.overlay-diff/1"

app = options.Commands("overlay", help="Manage packages laid over read-only environments.")

_Name = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=completing.overlays, help="The name of the overlay.")
]
Which = Annotated[
    str,
    typer.Argument(
        metavar="NAME|SCRIPT",
        autocompletion=completing.overlays,
        help="The name of an overlay, or a script that declares one.",
    ),
]
_Requirements = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="REQ", help="PyPI requirements to lay over the base (after --, also -e DIR).", show_default=False
    ),
]
_Editable = Annotated[
    list[str] | None, option("-e", "--editable", metavar="DIR", help="Lay this project over the base, editable.")
]
_Conda = Annotated[list[str] | None, option("--conda", metavar="SPEC", help="Lay this conda package over the base.")]


@dataclass(frozen=True)
class CreateOptions(options.Output, options.Overlays):
    """The options of ``cetool overlay create``."""

    base: options.Base = options.with_help("Lay the packages over this environment.")
    overlay: options.Overlay = None
    editable: _Editable = None
    conda: _Conda = None
    file: Annotated[
        Path | None, option("--file", metavar="FILE", help="Read a recipe that `cetool overlay export` printed.")
    ] = None
    channel: options.Channels = options.with_help("Take conda packages from this channel.")
    offline: options.Offline = False


@app.command()
@options.command
def create(name: _Name, requirements: _Requirements = None, *, given: CreateOptions) -> None:
    """Create a named overlay and print its prefix."""
    world, voice = options.open_world(given)
    additions = _additions([*(requirements or []), *(given.overlay or [])], given)
    prefix = overlays.create(name, given.base, given.file, given.channel or [], additions, world, voice)
    print_data(f"{prefix}\n")


@dataclass(frozen=True)
class InstallOptions(options.Output, options.Overlays):
    """The options of ``cetool overlay install``."""

    overlay: options.Overlay = None
    editable: _Editable = None
    conda: _Conda = None
    refresh: options.Refresh = options.with_help("Install all packages of the overlay again.", False)
    offline: options.Offline = False


@app.command()
@options.command
def install(name: _Name, requirements: _Requirements = None, *, given: InstallOptions) -> None:
    """Add packages to an overlay, or change their versions.

    Processes that run in the overlay keep the packages that they started with.
    """
    world, voice = options.open_world(given)
    additions = _additions([*(requirements or []), *(given.overlay or [])], given)
    print_data(f"{overlays.install(name, additions, world, voice, refresh=given.refresh)}\n")


def _additions(requirements: list[str], given: CreateOptions | InstallOptions) -> Additions:
    return Additions(tuple(requirements), tuple(given.editable or ()), tuple(given.conda or ()))


@dataclass(frozen=True)
class UninstallOptions(options.Output, options.Overlays):
    """The options of ``cetool overlay uninstall``."""

    offline: options.Offline = False


@app.command()
@options.command
def uninstall(
    name: _Name,
    packages: Annotated[list[str], typer.Argument(metavar="PACKAGE", help="Packages, or entries that `show` lists.")],
    *,
    given: UninstallOptions,
) -> None:
    """Remove packages from an overlay.

    The packages of the base are visible again.
    """
    world, voice = options.open_world(given)
    print_data(f"{overlays.uninstall(name, packages, world, voice)}\n")


# --- listing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListOverlaysOptions(options.Overlays):
    """The options of ``cetool overlay list``."""

    as_json: options.AsJson = False


@app.command("list")
@options.command
def list_overlays(*, given: ListOverlaysOptions) -> None:
    """List the named overlays and those of scripts."""
    world, voice = options.open_world(given)
    found = overlays.all_overlays(world)
    if given.as_json:
        print_json({"schema": LIST_SCHEMA, "overlays": [_row(item) for item in found]})
        return
    if not found:
        voice.say(f"No overlays in {overlays_of(world).root}")
        return
    now = time.time()
    rows = [_cells(item, now) for item in found]
    columns = [
        Column("NAME", style="cyan"),
        Column("DIRECTORY", rank=3),
        Column("BASE", rank=1),
        Column("OVERLAY"),
        Column("SIZE", right=True, rank=2),
        Column("LAST USED"),
        Column("STATE"),
    ]
    show_table(columns, rows)


def _row(item: FoundOverlay) -> dict[str, object]:
    marker = None if item.directory is None else item.directory.marker
    used = None
    if item.directory is not None and item.store is not None:
        used = last_used(item.store, item.directory)
    return {
        "name": item.name or None,
        "prefix": None if item.directory is None else str(item.directory.prefix),
        "base": item.base,
        "overlay": list(map(redact, item.entries)),
        "conda": list(map(redact, item.conda)),
        "state": item.state,
        "size_bytes": 0 if marker is None else marker.size,
        "last_used": used,
    }


def _cells(item: FoundOverlay, now: float) -> list[Cell]:
    row = _row(item)
    used, size = row["last_used"], row["size_bytes"]
    assert isinstance(size, int)
    return [
        item.name or "-",
        "-" if item.directory is None else item.directory.prefix.name,
        Items((item.base,), (os.path.basename(item.base),)),
        Items((*item.entries, *(f"{spec} (conda)" for spec in item.conda)) or ("(nothing)",)),
        format_size(size),
        format_age(now - used) if isinstance(used, float) else "-",
        item.state,
    ]


@dataclass(frozen=True)
class ShowOptions(options.Overlays):
    """The options of ``cetool overlay show``."""

    as_json: options.AsJson = False


@app.command()
@options.command
def show(which: Which, *, given: ShowOptions) -> None:
    """Show what an overlay declares and contains."""
    world, voice = options.open_world(given)
    item = overlays.find_overlay(which, world, voice)
    if given.as_json:
        layers = [_layer(layer) for layer in item.layers]
        print_json({"schema": SHOW_SCHEMA, **_row(item), "changes": item.changes, "packages": layers})
        return
    rows = [("name", item.name), ("base", item.base), ("state", item.state)]
    rows += [("overlay", entry) for entry in item.entries]
    rows += [("conda", spec) for spec in item.conda]
    rows += [("prefix", str(item.directory.prefix))] if item.directory is not None else []
    rows += [("package", f"{layer.name} {layer.version}") for layer in item.layers]
    rows += [("changed", change) for change in item.changes]
    for key, value in rows:
        if value:
            print_line(f"{key + ':':12}{value}")


@dataclass(frozen=True)
class DiffOptions(options.Overlays):
    """The options of ``cetool overlay diff``."""

    as_json: options.AsJson = False


@app.command()
@options.command
def diff(which: Which, *, given: DiffOptions) -> None:
    """Compare an overlay's packages with those of its base."""
    world, voice = options.open_world(given)
    item = overlays.find_overlay(which, world, voice)
    layers = item.layers
    if given.as_json:
        document = {"schema": DIFF_SCHEMA, "name": item.name or None, "base": item.base}
        print_json({**document, "packages": [_layer(layer) for layer in layers], "changes": item.changes})
        return
    if not layers:
        voice.say(f"The overlay is empty: {item.base} has all requested packages")
        return
    rows = [
        (layer.name, layer.shadows or "-", layer.version, layer.kind, Items((layer.why or "",))) for layer in layers
    ]
    columns = [Column("PACKAGE", style="cyan"), *map(Column, ("BASE", "OVERLAY", "FROM"))]
    if any(layer.why for layer in layers):
        columns.append(Column("WHY"))
    show_table(columns, rows)


def _layer(layer: Layer) -> dict[str, object]:
    return {
        "name": layer.name,
        "base_version": layer.shadows,
        "version": layer.version,
        "kind": layer.kind,
        "why": layer.why,
        "source": layer.source,
    }


# --- using ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemoveOptions(options.Output, options.Overlays):
    """The options of ``cetool overlay remove``."""


@app.command()
@options.command
def remove(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", autocompletion=completing.overlays, help="The overlays to remove.")
    ],
    *,
    given: RemoveOptions,
) -> None:
    """Remove overlays that are not in use.

    The base stays unchanged.
    """
    world, voice = options.open_world(given)
    overlays.remove(names, world, voice)


@dataclass(frozen=True)
class ExportOptions(options.Overlays):
    """The options of ``cetool overlay export``."""


@app.command()
@options.command
def export(which: Which, *, given: ExportOptions) -> None:
    """Print the recipe of an overlay.

    `cetool overlay create --file` and the block of a script take it.
    """
    world, voice = options.open_world(given)
    print_data(overlays.find_overlay(which, world, voice).recipe.rstrip("\n") + "\n")


@dataclass(frozen=True)
class FreezeOptions(options.Output, options.Overlays):
    """The options of ``cetool overlay freeze``."""

    format: Annotated[Format, option("--format", help="Write the packages in this format.")] = Format.CONDA_LOCK
    output: options.ToFile = None


@app.command()
@options.command
def freeze(which: Which, *, given: FreezeOptions) -> None:
    """Export base and overlay as one environment.

    Every package is exact: for the next release of the base, for example.
    """
    world, voice = options.open_world(given)
    text = overlays.freeze(which, given.format.value, world, voice)
    if given.output is None:
        print_data(text)
    else:
        write_output(given.output, text)
        voice.say(f"Wrote {given.output}")


@dataclass(frozen=True)
class ActivateOptions(options.Overlays):
    """The options of ``cetool overlay activate``."""

    shell: Annotated[
        str | None,
        option(
            "--shell",
            metavar="SHELL",
            help="Print code for this shell.",
            show_default="the calling shell",
            known=SHELLS,
        ),
    ] = None
    keep: options.Keep = False
    quiet: options.Quiet = False
    offline: options.Offline = False


@app.command()
@options.command
def activate(which: Which, *, given: ActivateOptions) -> None:
    """Print shell code that activates an overlay.

    eval "$(cetool overlay activate NAME)"
    """
    kind = _shell(given.shell)
    world, voice = options.open_world(given)
    print_data(overlays.activation_code(which, kind, world, voice, keep=given.keep))


@app.command()
def deactivate() -> None:
    """Print shell code that deactivates an overlay.

    eval "$(cetool overlay deactivate)"
    """
    print_data(f"{UNDO}\n")


def _shell(named: str | None) -> str:
    """Return the shell to write for: the named one, the calling one, the user's, or bash."""
    if named is not None:
        if named not in SHELLS:
            raise UsageError(f"--shell must be one of {', '.join(SHELLS)}, not {named!r}")
        return named
    import psutil

    try:
        calling = psutil.Process(os.getppid()).name()
    except psutil.Error:
        calling = ""
    for candidate in (calling, os.path.basename(os.environ.get("SHELL", ""))):
        if candidate in SHELLS:
            return candidate
    return "bash"

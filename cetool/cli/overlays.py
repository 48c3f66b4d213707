"""``cetool overlay``: overlays that have a name, for interactive use and for several users."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.background import collect_in_background
from cetool.app.execution import RunOptions, note, read_declaration
from cetool.app.overlaying import base_of, overlay_environment, overlays_of
from cetool.app.session import Session
from cetool.app.sources import open_source
from cetool.base.durations import format_duration, format_size
from cetool.base.errors import StoreError, UsageError
from cetool.base.urls import redact
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json, print_line, print_table
from cetool.declare.match_specs import canonical_spec
from cetool.declare.overlay import OverlayKeys, canonical_base, canonical_entry
from cetool.declare.requirements import Requirements
from cetool.overlays.about import About, Layer, read_about
from cetool.overlays.recipe import Recipe, merged_entries, read_recipe_file, without_entries
from cetool.overlays.store import Overlays, RecipeChangedError, check_name, last_used
from cetool.store.store import Directory, Store

LIST_SCHEMA = "cetool.overlay-list/1"
SHOW_SCHEMA = "cetool.overlay-show/1"
DIFF_SCHEMA = "cetool.overlay-diff/1"

app = typer.Typer(
    name="overlay",
    help="Packages laid over an environment that stays as it is, under a name.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The overlay's name.")]
Which = Annotated[str, typer.Argument(metavar="NAME|SCRIPT", help="An overlay's name, or a script that declares one.")]
_Requirements = Annotated[
    list[str] | None,
    typer.Argument(metavar="REQ", help="What to lay over it, as pip takes it; -e DIR after --.", show_default=False),
]
_Editable = Annotated[list[str] | None, option("-e", "--editable", metavar="DIR", help="A checkout; repeat for more.")]
_Conda = Annotated[list[str] | None, option("--conda", metavar="SPEC", help="A conda package; repeat for more.")]


@dataclass(frozen=True)
class CreateOptions(options.Output, options.Overlays):
    """The options of ``cetool overlay create``."""

    base: options.Base = None
    overlay: options.Overlay = None
    editable: _Editable = None
    conda: _Conda = None
    file: Annotated[
        Path | None, option("--file", metavar="FILE", help="A recipe, as `cetool overlay export` prints it.")
    ] = None
    channel: options.Channels = None
    offline: options.Offline = False


@app.command()
@options.command
def create(name: _Name, requirements: _Requirements = None, *, given: CreateOptions) -> None:
    """Lay packages over a base, and give what lies there a name."""
    session = options.open_session(given)
    overlays = overlays_of(session)
    check_name(name)
    if overlays.has(name):
        raise UsageError(
            f"there is an overlay called {name!r} already",
            hint=f"`cetool overlay install {name} REQ` adds to it, `cetool overlay remove {name}` removes it.",
        )
    recipe = Recipe(name, "") if given.file is None else read_recipe_file(given.file, name)
    if given.base is not None:
        recipe = replace(recipe, base=canonical_base(given.base, os.getcwd()))
    if not recipe.base:
        raise UsageError("no base was named", hint="Name one with --base, by its path or its name.")
    recipe = replace(recipe, base=str(base_of(session, recipe.base)), created=time.time())
    if given.channel:
        recipe = replace(recipe, channels=session_channels(given.channel))
    recipe = _with(recipe, [*(requirements or []), *(given.overlay or [])], given.editable, given.conda)
    _make(session, overlays, recipe, None)


@dataclass(frozen=True)
class InstallOptions(options.Output, options.Overlays):
    """The options of ``cetool overlay install``."""

    overlay: options.Overlay = None
    editable: _Editable = None
    conda: _Conda = None
    refresh: options.Refresh = False
    offline: options.Offline = False


@app.command()
@options.command
def install(name: _Name, requirements: _Requirements = None, *, given: InstallOptions) -> None:
    """Lay more over the base, or other versions; what runs in the overlay as it was goes on with that."""
    session = options.open_session(given)
    overlays = overlays_of(session)
    requirements = [*(requirements or []), *(given.overlay or [])]
    overlays.recipe(name)
    if not (requirements or given.editable or given.conda or given.refresh):
        raise UsageError("nothing was named that is to be laid over the base", hint="Give requirements, or --refresh.")
    _remake(
        session,
        overlays,
        name,
        lambda recipe: _with(recipe, requirements, given.editable, given.conda),
        refresh=given.refresh,
    )


@dataclass(frozen=True)
class UninstallOptions(options.Output, options.Overlays):
    """The options of ``cetool overlay uninstall``."""

    offline: options.Offline = False


@app.command()
@options.command
def uninstall(
    name: _Name,
    packages: Annotated[list[str], typer.Argument(metavar="PACKAGE", help="Names, or entries as `show` lists them.")],
    *,
    given: UninstallOptions,
) -> None:
    """Take packages out of an overlay: the base's are seen again."""
    session = options.open_session(given)
    overlays = overlays_of(session)
    _remake(session, overlays, name, lambda recipe: without_entries(recipe, packages))


def _with(
    recipe: Recipe, requirements: list[str] | None, editable: list[str] | None, conda: list[str] | None
) -> Recipe:
    directory = os.getcwd()
    texts = [*(requirements or []), *(f"-e {path}" for path in editable or [])]
    entries = [canonical_entry(text, base_dir=directory) for text in texts]
    specs = [canonical_spec(text, base_dir=directory) for text in conda or []]
    return merged_entries(recipe, entries, specs)


def session_channels(channels: list[str]) -> tuple[str, ...]:
    """Channels from the command line in canonical form."""
    from cetool.declare.channels import canonical_channel

    return tuple(canonical_channel(channel, base_dir=Path.cwd()) for channel in channels)


def requirements_of_recipe(recipe: Recipe) -> Requirements:
    return Requirements(channels=recipe.channels, overlay=OverlayKeys(recipe.base, recipe.overlay, recipe.conda))


def _remake(
    session: Session, overlays: Overlays, name: str, change: Callable[[Recipe], Recipe], *, refresh: bool = False
) -> None:
    """Make what a changed recipe says; again, where another process has changed the recipe meanwhile."""
    for last in (False, False, False, False, True):
        before = overlays.recipe(name)
        try:
            _make(session, overlays, change(before), before, refresh=refresh)
        except RecipeChangedError:
            if last:
                raise
            continue
        return


def _make(
    session: Session, overlays: Overlays, recipe: Recipe, before: Recipe | None, *, refresh: bool = False
) -> None:
    """Make what a recipe says, and only then write it down in the place of what it was before."""
    spec = session.spec_of(requirements_of_recipe(recipe))
    lease = overlay_environment(session, spec, refresh=refresh, keep=False, purpose=f"for the overlay {recipe.name}")
    try:
        overlays.write(replace(recipe, directory=str(lease.prefix)), before)
    except BaseException:
        lease.release()
        raise
    note(session, lease, f"overlay {recipe.name}")
    lease.release()
    collect_in_background(session)
    print_data(f"{lease.prefix}\n")


# --- what there is ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundOverlay:
    """An overlay on disk, or a recipe of which nothing is there."""

    name: str
    base: str
    entries: tuple[str, ...]
    conda: tuple[str, ...]
    directory: Directory | None
    store: Store | None

    @property
    def about(self) -> About | None:
        return None if self.directory is None else read_about(self.directory.prefix)

    @property
    def changes(self) -> list[str]:
        about = self.about
        return [] if about is None or not os.path.isdir(self.base) else about.changes

    @property
    def state(self) -> str:
        """``ready``, ``not made``, ``base changed`` or ``base gone``."""
        if not os.path.isdir(self.base):
            return "base gone"
        if self.directory is None:
            return "not made"
        return "base changed" if self.changes else "ready"


def _all(session: Session) -> list[FoundOverlay]:
    overlays = overlays_of(session)
    named = overlays.named()
    found, seen = [], set()
    for store in overlays.stores():
        for directory in store.directories():
            marker = directory.marker
            if marker is None or marker.spec.overlay is None:
                continue
            spec = marker.spec.overlay
            names = [recipe.name for recipe in named if recipe.directory == str(directory.prefix)]
            seen.add(str(directory.prefix))
            found += [
                FoundOverlay(name, spec.base, spec.requirements, spec.conda, directory, store) for name in names or [""]
            ]
    for recipe in named:
        if recipe.directory not in seen:
            found.append(FoundOverlay(recipe.name, recipe.base, recipe.overlay, recipe.conda, None, None))
    return sorted(found, key=lambda item: (not item.name, item.name, item.base))


@dataclass(frozen=True)
class ListOverlaysOptions(options.Overlays):
    """The options of ``cetool overlay list``."""

    as_json: options.AsJson = False


@app.command("list")
@options.command
def list_overlays(*, given: ListOverlaysOptions) -> None:
    """Show the overlays that there are: those with a name, and those of scripts."""
    session = options.open_session(given)
    found = _all(session)
    if given.as_json:
        print_json({"schema": LIST_SCHEMA, "overlays": [_row(item) for item in found]})
        return
    if not found:
        session.voice.result(f"There are no overlays in {overlays_of(session).root}.")
        return
    now = time.time()
    rows = [_cells(item, now) for item in found]
    print_table(("NAME", "DIRECTORY", "BASE", "OVER IT", "SIZE", "LAST USED", "STATE"), rows)


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


def _cells(item: FoundOverlay, now: float) -> tuple[str, ...]:
    row = _row(item)
    used, size = row["last_used"], row["size_bytes"]
    assert isinstance(size, int)
    return (
        item.name or "-",
        "-" if item.directory is None else item.directory.prefix.name,
        item.base,
        ", ".join([*item.entries, *(f"{spec} (conda)" for spec in item.conda)]) or "(nothing)",
        format_size(size),
        f"{format_duration(now - used)} ago" if isinstance(used, float) else "-",
        item.state,
    )


@dataclass(frozen=True)
class ShowOptions(options.Overlays):
    """The options of ``cetool overlay show``."""

    as_json: options.AsJson = False


@app.command()
@options.command
def show(which: Which, *, given: ShowOptions) -> None:
    """Show what an overlay is made of, and what came of it."""
    session = options.open_session(given)
    item = found_overlay(which, session)
    if given.as_json:
        layers = [_layer(layer) for layer in layers_of(item)]
        print_json({"schema": SHOW_SCHEMA, **_row(item), "changes": item.changes, "packages": layers})
        return
    rows = [("name", item.name), ("base", item.base), ("state", item.state)]
    rows += [("overlay", entry) for entry in item.entries]
    rows += [("conda", spec) for spec in item.conda]
    rows += [("prefix", str(item.directory.prefix))] if item.directory is not None else []
    rows += [("package", f"{layer.name} {layer.version}") for layer in layers_of(item)]
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
    """Show what lies over what: the base's version of each package, and the overlay's."""
    session = options.open_session(given)
    item = found_overlay(which, session)
    layers = layers_of(item)
    if given.as_json:
        document = {"schema": DIFF_SCHEMA, "name": item.name or None, "base": item.base}
        print_json({**document, "packages": [_layer(layer) for layer in layers], "changes": item.changes})
        return
    if not layers:
        session.voice.result(f"Nothing lies over {item.base}: it has all that was asked for.")
        return
    rows = [(layer.name, layer.shadows or "-", layer.version, layer.kind, layer.why or "") for layer in layers]
    print_table(("PACKAGE", "BASE", "OVERLAY", "FROM", "WHY"), rows)


def _layer(layer: Layer) -> dict[str, object]:
    return {
        "name": layer.name,
        "base_version": layer.shadows,
        "version": layer.version,
        "kind": layer.kind,
        "why": layer.why,
        "source": layer.source,
    }


def layers_of(item: FoundOverlay) -> tuple[Layer, ...]:
    about = item.about
    return () if about is None else about.layers


def found_overlay(which: str, session: Session) -> FoundOverlay:
    """The overlay that a name or a script means. Raises StoreError where nothing of it is there."""
    overlays = overlays_of(session)
    if not overlays.has(which) and (os.sep in which or os.path.isfile(which)):
        _, spec = read_declaration(open_source(which, session), session, RunOptions())
        if spec.overlay is None:
            raise StoreError(f"{which} names no base, so nothing lies over one", code="base-unusable")
        store = session.store_of(spec)
        directory = next((item for item in store.directories(spec.name) if item.marker is not None), None)
        over = spec.overlay
        return FoundOverlay("", over.base, over.requirements, over.conda, directory, store)
    recipe = overlays.recipe(which)
    made = Directory(Path(recipe.directory), Path(recipe.directory).name.partition("-")[0])
    store = overlays.store(recipe.base)
    there = made if recipe.directory and made.marker is not None else None
    return FoundOverlay(recipe.name, recipe.base, recipe.overlay, recipe.conda, there, store)

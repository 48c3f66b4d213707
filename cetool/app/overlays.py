"""Named overlays and those of scripts: make, find, freeze, remove and activate them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cetool.app.consent import OWN, consent_to
from cetool.app.deciding import decide, specify
from cetool.app.decision import Decision, Wish
from cetool.app.ensuring import activation_of, ensure, note_used, store_of
from cetool.app.environments import remove_directory
from cetool.app.exporting import ENVIRONMENT, Exact, find_origins, written
from cetool.app.names import full_name
from cetool.app.overlaying import base_of, directory_of, overlays_of
from cetool.app.reporting import Reporter, for_each, named_or_counted
from cetool.app.sources import open_source
from cetool.app.world import World
from cetool.base.durations import format_size
from cetool.base.errors import StoreError, UsageError
from cetool.base.process import Consent
from cetool.declare.channels import canonical_channel
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.declare.match_specs import canonical_spec
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.overlay import canonical_base, canonical_entry
from cetool.declare.platforms import current_platform
from cetool.declare.requirements import OverlayKeys, Requirements
from cetool.launch.activation import activated_environ
from cetool.launch.children import sourced_environ
from cetool.launch.shells import ShellChange, shell_code
from cetool.lock.model import Lock
from cetool.overlays.about import About, Layer, read_about
from cetool.overlays.recipe import (
    Recipe,
    freeze_lock,
    freeze_text,
    merged_entries,
    read_recipe_file,
    recipe_text,
    without_entries,
)
from cetool.overlays.store import Overlays, RecipeChangedError, check_name, is_overlay_in_use
from cetool.store.disk import Freed
from cetool.store.store import Directory, Lease, Store
from cetool.warm.environ import scripts_in

# --- making -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Additions:
    """Additions to an overlay from the command line."""

    #: As for pip.
    requirements: tuple[str, ...] = ()
    #: Directories of checkouts.
    editable: tuple[str, ...] = ()
    #: Match specs.
    conda: tuple[str, ...] = ()

    def added_to(self, recipe: Recipe) -> Recipe:
        """Return the recipe with these; relative paths start at the working directory."""
        directory = os.getcwd()
        texts = [*self.requirements, *(f"-e {path}" for path in self.editable)]
        entries = [canonical_entry(text, base_dir=directory) for text in texts]
        specs = [canonical_spec(text, base_dir=directory) for text in self.conda]
        return merged_entries(recipe, entries, specs)


def create(
    name: str,
    base: str | None,
    file: Path | None,
    channels: Sequence[str],
    additions: Additions,
    world: World,
    reporter: Reporter,
) -> Path:
    """Make an overlay with a name; return its prefix. Raises CetoolError."""
    overlays = overlays_of(world)
    check_name(name)
    if overlays.has(name):
        raise UsageError(
            f"overlay {name!r} already exists",
            hint=f"`cetool overlay install {name} REQ` adds packages, `cetool overlay remove {name}` removes it.",
        )
    recipe = Recipe(name, "") if file is None else read_recipe_file(file, name)
    if base is not None:
        recipe = replace(recipe, base=canonical_base(base, os.getcwd()))
    if not recipe.base:
        raise UsageError("no base for the overlay", hint="Name one with --base, by path or name.")
    recipe = replace(recipe, base=str(base_of(recipe.base, world)[0]), created=time.time())
    if channels:
        named = tuple(canonical_channel(channel, base_dir=Path.cwd()) for channel in channels)
        recipe = replace(recipe, channels=named)
    return _make(overlays, additions.added_to(recipe), None, world, reporter)


def install(name: str, additions: Additions, world: World, reporter: Reporter, *, refresh: bool) -> Path:
    """Add packages or other versions; programs that run in the overlay continue with the old ones."""
    name = _full_name(name, overlays_of(world))
    overlays_of(world).recipe(name)
    if additions == Additions() and not refresh:
        raise UsageError("nothing to install", hint="Name requirements, or pass --refresh.")
    return _remake(name, additions.added_to, world, reporter, refresh=refresh)


def uninstall(name: str, packages: Sequence[str], world: World, reporter: Reporter) -> Path:
    """Remove packages from an overlay, so that the base's become visible."""
    return _remake(name, lambda recipe: without_entries(recipe, list(packages)), world, reporter, refresh=False)


def _decision_of(recipe: Recipe, world: World) -> Decision:
    keys = OverlayKeys(recipe.base, recipe.overlay, recipe.conda)
    requirements = Requirements(channels=recipe.channels, overlay=keys)
    metadata = ScriptMetadata("overlay", recipe.name, None, requirements, None)
    return Decision(metadata, specify(requirements, world)[0], purpose=f"for overlay {recipe.name}")


def _remake(name: str, change: Callable[[Recipe], Recipe], world: World, reporter: Reporter, *, refresh: bool) -> Path:
    """Make what a changed recipe says; retry if another process has changed the recipe meanwhile."""
    overlays = overlays_of(world)
    name = _full_name(name, overlays)
    for _ in range(4):
        before = overlays.recipe(name)
        with contextlib.suppress(RecipeChangedError):
            return _make(overlays, change(before), before, world, reporter, refresh=refresh)
    before = overlays.recipe(name)
    return _make(overlays, change(before), before, world, reporter, refresh=refresh)


def _make(
    overlays: Overlays,
    recipe: Recipe,
    before: Recipe | None,
    world: World,
    reporter: Reporter,
    *,
    refresh: bool = False,
) -> Path:
    """Make what a recipe says, and then replace the previous recipe."""
    lease = ensure(_decision_of(recipe, world), world, reporter, consent=OWN, refresh=refresh)
    try:
        overlays.write(replace(recipe, directory=str(lease.prefix)), before)
    except BaseException:
        lease.release()
        raise
    note_used(lease, f"overlay {recipe.name}", world, reporter)
    lease.release()
    if not lease.created:  # else the packages have just been reported
        reporter.say(f"{'Created' if before is None else 'Updated'} overlay {recipe.name} over {recipe.base}")
    return lease.prefix


# --- finding ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundOverlay:
    """An overlay on disk, or a recipe without one."""

    name: str
    base: str
    entries: tuple[str, ...]
    conda: tuple[str, ...]
    directory: Directory | None
    store: Store | None

    @property
    def about(self) -> About | None:
        """Its own record."""
        return None if self.directory is None else read_about(self.directory.prefix)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Its packages."""
        about = self.about
        return () if about is None else about.layers

    @property
    def changes(self) -> list[str]:
        """What has changed in the base since."""
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

    @property
    def recipe(self) -> str:
        """The recipe, in the form for ``create`` and a script's block."""
        return recipe_text(self.name, self.base, self.entries, self.conda, self.layers)


def all_overlays(world: World) -> list[FoundOverlay]:
    """Return all overlays, the named ones first."""
    overlays = overlays_of(world)
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


def find_overlay(which: str, world: World, reporter: Reporter) -> FoundOverlay:
    """Return the overlay for a name or a script. Raises StoreError if there is none."""
    overlays = overlays_of(world)
    if _is_script(which, overlays):
        decision, world = _declared(which, world, reporter)
        over = decision.spec.overlay
        assert over is not None
        store = store_of(decision.spec, world)
        found = (item for item in store.directories(decision.spec.name) if item.marker is not None)
        return FoundOverlay("", over.base, over.requirements, over.conda, next(found, None), store)
    recipe = overlays.recipe(_full_name(which, overlays))
    made = directory_of(recipe)
    there = made if recipe.directory and made.marker is not None else None
    return FoundOverlay(recipe.name, recipe.base, recipe.overlay, recipe.conda, there, overlays.store(recipe.base))


def _full_name(which: str, overlays: Overlays) -> str:
    """Return the name of the overlay that a name or an abbreviated name means. Raises StoreError if several fit."""
    return full_name(which, (recipe.name for recipe in overlays.named()), "overlay")


def _is_script(which: str, overlays: Overlays) -> bool:
    return not overlays.has(which) and (os.sep in which or os.path.isfile(which))


def _declared(script: str, world: World, reporter: Reporter) -> tuple[Decision, World]:
    """Return the decision for a script's overlay. Raises StoreError if the script declares none."""
    source, world = open_source(script, world, reporter)
    decision = decide(source, Wish(), world, reporter)
    if decision.spec.overlay is None:
        raise StoreError(f"{script} declares no base and no overlay", code="base-unusable")
    return decision, world


# --- using ------------------------------------------------------------------------------------------------------------


def remove(names: Sequence[str], world: World, reporter: Reporter) -> None:
    """Remove overlays that are not in use, and leave their bases alone. Raises CetoolError."""
    overlays = overlays_of(world)
    removed: dict[str, int] = {}

    def remove_overlay(name: str) -> None:
        recipe = overlays.recipe(name)
        shared = any(other.name != name and other.directory == recipe.directory for other in overlays.named())
        directory = directory_of(recipe)
        size = 0
        if recipe.directory and directory.prefix.is_dir() and not shared:
            if is_overlay_in_use(directory.prefix):
                raise StoreError(
                    f"overlay {name!r} is in use",
                    code="environment-in-use",
                    hint="End the programs that run in it, and leave the shells where it is active.",
                )
            size = remove_directory(overlays.store(recipe.base), directory, world, reporter, Freed())
        overlays.forget(recipe)
        removed[name] = size

    try:
        for_each(names, remove_overlay, reporter)
    finally:
        if removed:
            size = format_size(sum(removed.values()))
            names = [f"overlay {name}" for name in removed]
            reporter.say(f"Removed {named_or_counted(names, 'overlay')} ({size})")


def freeze(which: str, format: str, world: World, reporter: Reporter) -> str:
    """Return base and overlay as one ordinary environment with exact packages, in a format of ``cetool export``."""
    item = find_overlay(which, world, reporter)
    if item.directory is None:
        raise StoreError(
            f"overlay {which!r} does not exist yet, so its versions are unknown",
            code="lock-impossible",
            hint="Run or activate it once.",
        )
    name, base, prefix = item.name or os.path.basename(item.base), Path(item.base), item.directory.prefix
    if format == ENVIRONMENT:
        return freeze_text(name, base, prefix)
    marker = item.directory.marker
    spec = marker.spec if marker is not None else EnvironmentSpec(Solve())
    found = freeze_lock(base, prefix, current_platform())
    installed = find_origins(found, base, spec, world, lambda: OWN)
    if installed.unknown:
        raise StoreError(
            f"cannot lock {installed.unknown_names}: unknown source",
            code="lock-impossible",
            hint="Build a wheel of a directory or checkout, or use --format environment-yml (versions only).",
        )
    channels = tuple(dict.fromkeys(package.url.rsplit("/", 2)[0] for package in installed.lock.conda if package.url))
    return written(format, Exact(Lock((installed.lock,), channels), name, spec.variables), reporter)


def activation_code(which: str, shell: str, world: World, reporter: Reporter, *, keep: bool) -> str:
    """Return code that activates an overlay in the shell that evaluates it."""
    overlays = overlays_of(world)
    lease, world, consent = _lease(which, world, reporter, keep=keep)
    activation = activation_of(lease, world)
    environ, steps = activated_environ(activation, world.environ)
    if shell == "fish":
        environ, steps = sourced_environ(steps, environ, consent), ()
    label = which if overlays.has(which) else Path(which).name
    ending = tuple(scripts_in(str(activation.prefix), "deactivate.d"))
    note_used(lease, f"overlay {label}", world, reporter)
    lease.release()
    return shell_code(shell, ShellChange(world.environ, environ, steps, ending, label))


def _lease(which: str, world: World, reporter: Reporter, *, keep: bool) -> tuple[Lease, World, Consent]:
    overlays = overlays_of(world)
    recipe: Recipe | None = None
    if _is_script(which, overlays):
        decision, world = _declared(which, world, reporter)
        decision = decision._replace(purpose=f"for overlay {which}")
    else:
        recipe = overlays.recipe(_full_name(which, overlays))
        decision = _decision_of(recipe, world)
    consent = consent_to(decision, world, reporter)
    lease = ensure(decision, world, reporter, consent=consent, keep=keep)
    if recipe is not None and recipe.directory != str(lease.prefix):
        with contextlib.suppress(RecipeChangedError):  # the process that changed it makes it again
            overlays.write(replace(recipe, directory=str(lease.prefix)), recipe)
    return lease, world, consent

"""Find the environment that a word on the command line means: by its name, its prefix, or a script."""

from __future__ import annotations

import os

from cetool.app.deciding import decide
from cetool.app.decision import Decision, Wish
from cetool.app.ensuring import store_of
from cetool.app.names import Target, complete_target, full_name, missing, named_directories
from cetool.app.overlaying import directory_of, overlays_of
from cetool.app.reporting import Reporter
from cetool.app.sources import open_source
from cetool.app.world import World
from cetool.base.errors import ScriptNotFoundError, StoreError
from cetool.declare.source import similar_file
from cetool.overlays.recipe import Recipe
from cetool.store.store import Directory, Store


def find_directories(
    target: str, world: World, reporter: Reporter, *, insecure: bool = False
) -> list[tuple[Store, Directory]]:
    """Return the directories that a name, a prefix or a script means, each with its store.

    Raises StoreError where there are none, or where an abbreviation fits several environments.
    """
    store, found = world.store, named_directories(target, world)
    if found is None:
        decision, world = _decided(target, world, reporter, insecure=insecure)
        store = store_of(decision.spec, world)
        found = list(store.directories(decision.spec.name))
    if not found:
        raise missing(f"there is no environment of {target!r}", target)
    return [(store, directory) for directory in found]


def _decided(target: str, world: World, reporter: Reporter, *, insecure: bool) -> tuple[Decision, World]:
    """Decide which environment a script has. Raises StoreError where there is no such script."""
    try:
        source, world = open_source(target, world, reporter, insecure=insecure)
    except ScriptNotFoundError:
        raise missing(f"there is no environment or script called {target!r}", target, similar_file(target)) from None
    return decide(source, Wish(), world, reporter), world


# --- one that is looked into ------------------------------------------------------------------------------------------


def find_target(word: str, world: World, reporter: Reporter, *, insecure: bool = False) -> Target:
    """Return the environment that a name, a prefix, a script or the name of an overlay means.

    Raises StoreError where there is none, or if it does not exist yet.
    """
    found = named_directories(word, world)
    if found:
        return complete_target(found, word)
    if found is None and not os.path.lexists(word):
        overlays = overlays_of(world)
        name = full_name(word, (recipe.name for recipe in overlays.named()), "overlay")
        if overlays.has(name):
            return _of_overlay(overlays.recipe(name))
    if found is not None:
        raise missing(f"there is no environment called {word!r}", word)
    decision, world = _decided(word, world, reporter, insecure=insecure)
    made = list(store_of(decision.spec, world).directories(decision.spec.name))
    if not any(each.marker for each in made):
        raise StoreError(
            f"the environment of {word} does not exist yet",
            about=word,
            code="environment-not-found",
            hint=f"`cetool run {word}` creates it and runs the script; `cetool path {word}` only creates it.",
        )
    target = complete_target(made, word)
    return Target(target.name, target.prefix, target.marker, decision.spec)


def _of_overlay(recipe: Recipe) -> Target:
    directory = directory_of(recipe)
    if not recipe.directory or directory.marker is None:
        raise StoreError(
            f"the overlay {recipe.name} does not exist on disk yet",
            about=recipe.name,
            code="environment-not-found",
            hint=f"`cetool overlay install --refresh {recipe.name}` creates it.",
        )
    return complete_target([directory], recipe.name)

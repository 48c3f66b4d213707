"""From the declaration of an overlay to its specification and the evidence for it."""

from __future__ import annotations

import os
from pathlib import Path

from cetool.app.names import named_target
from cetool.app.world import NOTHING, PASSING, Evidence, World, seen_configuration
from cetool.base.errors import StoreError, UsageError
from cetool.declare.environment import EnvironmentSpec, Overlay
from cetool.declare.overlay import canonical_base, canonical_entry
from cetool.declare.pypi import PypiSettings
from cetool.declare.requirements import OverlayKeys, Requirements
from cetool.overlays.base import find_base, watched_in
from cetool.overlays.recipe import Recipe, state_of, watched_by
from cetool.overlays.store import Overlays
from cetool.settings.paths import conda_root
from cetool.store.store import Directory, Store


def with_overlay(requirements: Requirements, base: str | None, entries: tuple[str, ...]) -> Requirements:
    """Return the requirements with a base and entries from the command line, which replace and extend the declared
    ones.

    Raises UsageError if there is no base, or if the requirements are for an environment without a base.
    """
    keys = requirements.overlay
    if keys is None:
        if base is None:
            raise UsageError(
                "--overlay needs a base, and none is declared",
                hint="Name one with --base, by path or name.",
            )
        requirements.refuse_packages(None)
        keys = OverlayKeys(canonical_base(base, os.getcwd()))
    named = keys.base if base is None else canonical_base(base, os.getcwd())
    more = tuple(canonical_entry(entry, base_dir=os.getcwd()) for entry in entries)
    return requirements._replace(overlay=OverlayKeys(named, (*keys.entries, *more), keys.conda))


def add_conda(requirements: Requirements, specs: tuple[str, ...]) -> Requirements:
    """Return the requirements with more conda packages in the overlay."""
    keys = requirements.overlay
    assert keys is not None
    return requirements._replace(overlay=keys._replace(conda=(*keys.conda, *specs)))


def overlay_spec(requirements: Requirements, world: World) -> tuple[EnvironmentSpec, Evidence]:
    """Return the specification of the overlay that the requirements declare. Raises StoreError."""
    keys = requirements.overlay
    assert keys is not None
    base, evidence = base_of(keys.base, world)
    evidence = evidence.plus(seen_configuration(watched_in(base)))
    entries = tuple(sorted({*keys.entries, *requirements.pypi}))
    watched = list(map(watched_by, entries))
    evidence = evidence.plus(*(PASSING if files is None else seen_configuration(files) for files in watched))
    states = [(entry, state) for entry in entries if (state := state_of(entry)) is not None]
    channels: tuple[str, ...] = ()
    if keys.conda:
        channels = requirements.channels_after(world.default_channels if requirements.needs_configured else ())
        evidence = evidence.plus(world.on_channels if requirements.needs_configured else NOTHING)
    spec = EnvironmentSpec(
        Overlay(
            base=str(base),
            requirements=entries,
            conda=tuple(sorted(set(keys.conda))),
            python=tuple(sorted({spec for spec in requirements.packages if spec != "python"})),
            states=tuple(states),
        ),
        channels=channels,
        pypi_settings=requirements.pypi_settings if entries else PypiSettings(),
        variables=tuple(sorted(dict(requirements.variables).items())),
    )
    return spec, evidence


def base_of(named: str, world: World) -> tuple[Path, Evidence]:
    """Return the prefix for a base's path or name, and the evidence for it. Raises StoreError if it is not found.

    Names of environments that cetool created can be abbreviated; conda's names come first.
    """
    environ, own = world.environ, world.paths.envs / named
    if os.sep not in named and (own / "conda-meta" / "cetool").exists():
        return own, NOTHING
    if os.path.isabs(named):
        return find_base(named, environ, world.loaded.condarc, ()), NOTHING
    known = (environ.get("MAMBA_ROOT_PREFIX"), conda_root(environ), world.root_prefix)
    roots = [Path(root) for root in known if root]
    try:
        return find_base(named, environ, world.condarc, roots), world.on_condarc
    except StoreError as error:
        if error.code != "environment-not-found":
            raise
        found = named_target(named, world)
        if found is None:
            raise
        return found.prefix, PASSING  # another environment may have such a name tomorrow


def overlays_of(world: World) -> Overlays:
    """Return this user's overlays."""
    return Overlays(world.paths, world.settings.overlays_dir)


def directory_of(recipe: Recipe) -> Directory:
    """Return the directory of a named overlay, which may not exist yet."""
    place = Path(recipe.directory)
    return Directory(place, place.name.partition("-")[0])


def overlay_store(spec: EnvironmentSpec, world: World) -> Store:
    """Return the store for an overlay."""
    assert spec.overlay is not None
    return overlays_of(world).store(spec.overlay.base)

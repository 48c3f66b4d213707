"""Where overlays live: a store for each base's name, the overlays that people gave names to, and who goes when.

An overlay's directory is ``ROOT/NAME/DIGEST``: NAME tells its base, DIGEST what lies over it, and it is one of a
:class:`~cetool.store.store.Store` of its own, with ``.locks`` and ``.trash`` beside it, so that users who share the
directory share these. When one was last used is told by the time of its lock. ``ROOT/.named`` has a recipe for each
overlay that was given a name; the directory that it leads to is kept, whatever its age.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from cetool.base.codec import decode, encode
from cetool.base.errors import StoreError, UsageError
from cetool.base.files import ChangedError, read_if_there, replace_file
from cetool.base.limits import NOTE, read_json
from cetool.base.ownership import ensure_private_dir, make_private_dirs
from cetool.base.process import is_in_environment_of_any, processes_in
from cetool.overlays.recipe import SCHEMA, Recipe
from cetool.settings.paths import Paths
from cetool.store.disk import Freed
from cetool.store.gc import Removable
from cetool.store.kinds import Directories
from cetool.store.store import Directory, Store

_PLACE = "{env_name}"
_ROOT = "{overlays}"
_NAMED = ".named"
_SAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


class RecipeChangedError(StoreError):
    """A recipe is not what was read any more."""

    code = "overlay-changed"


class Overlays:
    """All overlays of one place. ``template`` is the setting ``overlays-dir``, None for the default."""

    def __init__(self, paths: Paths, template: str | None = None) -> None:
        self._paths = paths
        text = (template or f"{_ROOT}/{_PLACE}").replace(_ROOT, str(paths.root / "overlays"))
        self._template = text if _PLACE in text else f"{text}/{_PLACE}"
        #: The directory that has all of them.
        self.root = Path(self._template.partition(_PLACE)[0].rpartition("/")[0] or "/")

    def store(self, base: Path | str) -> Store:
        """The store of the overlays on bases of this one's name."""
        name = _SAFE.sub("_", os.path.basename(os.path.normpath(base))).strip(".") or "base"
        return self._store(Path(self._template.replace(_PLACE, name)))

    def stores(self) -> Iterator[Store]:
        """Every store that there is."""
        self.check()
        try:
            pattern = str(Path(self._template.replace(_PLACE, "[!.]*")).relative_to(self.root))
            found = sorted(path for path in self.root.glob(pattern) if path.is_dir())
        except OSError as error:
            raise StoreError(f"{self.root} cannot be read: {error.strerror}", code="cache-not-writable") from error
        yield from map(self._store, found)

    def _store(self, directory: Path) -> Store:
        root = self._paths.root
        config_file, trusted = self._paths.config_file, self._paths.trusted
        return Store(Paths(root, directory, directory / ".locks", directory / ".trash", config_file, trusted))

    def check(self) -> None:
        """Check that no other user has a hand in overlays and their recipes. Raises OwnershipError."""
        for directory in (self.root, self.root / _NAMED):
            ensure_private_dir(directory, trust=self._paths.trusted, writable=False)

    # --- those with a name ----------------------------------------------------------------------------------------

    def named(self) -> list[Recipe]:
        """The named overlays, by name; a file that is no recipe is passed over."""
        self.check()
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(self.root / _NAMED))
            found = [self._read(name.removesuffix(".json")) for name in names if name.endswith(".json")]
            return [recipe for recipe in found if recipe is not None]
        return []

    def recipe(self, name: str) -> Recipe:
        """The named overlay. Raises StoreError where there is none."""
        check_name(name)
        self.check()
        recipe = self._read(name)
        if recipe is None:
            known = ", ".join(item.name for item in self.named())
            raise StoreError(
                f"there is no overlay called {name!r} in {self.root}",
                about=name,
                code="overlay-not-found",
                hint=f"There are: {known}." if known else "`cetool overlay create NAME --base PREFIX` makes one.",
            )
        return recipe

    def has(self, name: str) -> bool:
        """Whether there is an overlay of this name."""
        return _NAME.fullmatch(name) is not None and (self.root / _NAMED / f"{name}.json").exists()

    def write(self, recipe: Recipe, before: Recipe | None) -> None:
        """Write a recipe in the place of ``before``, what it was when it was read; None for none.

        Raises RecipeChangedError where it is not that any more, StoreError where it cannot be written.
        """
        self._exchange(recipe.name, before, recipe)

    def forget(self, recipe: Recipe) -> None:
        """Remove a recipe; the directory that it led to is then one like any other.

        Raises RecipeChangedError where another process has changed it meanwhile, StoreError where it cannot be removed.
        """
        self._exchange(recipe.name, recipe, None)

    def _exchange(self, name: str, before: Recipe | None, after: Recipe | None) -> None:
        directory = self.root / _NAMED
        path = directory / f"{name}.json"
        data = None if after is None else json.dumps(encode(after, schema=SCHEMA), indent=1).encode()
        try:
            if after is not None:
                make_private_dirs(directory, shared=True)
            old = read_if_there(path)
            if (old is not None or after is not None) and self._read(name) != before:
                raise ChangedError(path)
            mode = 0o600 if after is None else 0o600 | directory.stat().st_mode & 0o066
            replace_file(path, old, data, mode=mode)
        except ChangedError:
            stays = ", so its recipe stays" if after is None else ""
            raise RecipeChangedError(
                f"the overlay {name} was changed by another process meanwhile{stays}",
                hint="Run the same command again.",
            ) from None
        except OSError as error:
            done = "removed" if after is None else f"written to {directory}"
            raise StoreError(
                f"the recipe of {name} cannot be {done}: {error.strerror}", code="cache-not-writable"
            ) from error

    def _read(self, name: str) -> Recipe | None:
        try:
            return decode(Recipe, read_json(self.root / _NAMED / f"{name}.json", NOTE, exact=True), schema=SCHEMA)
        except (OSError, ValueError):
            return None


def check_name(name: str) -> None:
    """Raise UsageError for what cannot be an overlay's name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of an overlay", hint="It has letters, digits and any of '_.+-', 100 at most."
        )


def is_overlay_in_use(prefix: Path) -> bool:
    """Whether a process runs a program of an overlay, or was started in a shell that it is active in."""
    return bool(processes_in([prefix])) or is_in_environment_of_any(f"{prefix}{os.sep}")


class OverlaysOf(Directories):
    """The overlays of one store. One with a name goes with its base alone: the recipe stays."""

    name = "overlays"

    def __init__(self, store: Store, named: Collection[str]) -> None:
        super().__init__(store)
        self._named = named

    def items(self, freed: Freed) -> Iterator[Removable]:
        for directory in self.store.directories():
            prefix, marker = directory.prefix, directory.marker
            if marker is None or marker.spec.overlay is None:
                yield Removable(prefix, None, reason="incomplete", name=directory.name)
                continue
            gone = None if os.path.isdir(marker.spec.overlay.base) else "its base is gone"
            kept = str(prefix) in self._named
            yield Removable(prefix, last_used(self.store, directory), reason=gone, kept=kept, name=directory.name)

    def in_use(self, item: Removable) -> bool:
        return super().in_use(item) or is_overlay_in_use(item.path)

    def used(self, item: Removable) -> float | None:
        return last_used(self.store, Directory(item.path, item.name))


def all_overlays(overlays: Overlays) -> list[OverlaysOf]:
    """All overlays, as what a collection removes. Raises StoreError where the place cannot be read."""
    named = {recipe.directory for recipe in overlays.named()}
    return [OverlaysOf(store, named) for store in overlays.stores()]


def last_used(store: Store, directory: Directory) -> float | None:
    """When an overlay was last used, in seconds since 1970; None for an incomplete one."""
    marker = directory.marker
    return None if marker is None else max(marker.created, store.last_shared_use(directory))

"""The stores of overlays, named overlays, and what a collection removes of them.

An overlay's directory is ``ROOT/NAME/DIGEST``: NAME is its base's name, DIGEST what is laid over it. It belongs to a
:class:`~cetool.store.store.Store` for that base's name, with ``.locks`` and ``.trash`` next to it, so that users who
share the directory share these. An overlay's last use is the time of its lock. ``ROOT/.named`` has a recipe for each
named overlay, whose directory is kept whatever its age.
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
    """A recipe has changed since it was read."""

    code = "overlay-changed"


class Overlays:
    """All overlays below one directory. ``template`` is the setting ``overlays-dir``, None for the default."""

    def __init__(self, paths: Paths, template: str | None = None) -> None:
        self._paths = paths
        text = (template or f"{_ROOT}/{_PLACE}").replace(_ROOT, str(paths.root / "overlays"))
        self._template = text if _PLACE in text else f"{text}/{_PLACE}"
        #: The directory that contains all of them.
        self.root = Path(self._template.partition(_PLACE)[0].rpartition("/")[0] or "/")

    def store(self, base: Path | str) -> Store:
        """Return the store of overlays on bases with this base's name."""
        name = _SAFE.sub("_", os.path.basename(os.path.normpath(base))).strip(".") or "base"
        return self._store(Path(self._template.replace(_PLACE, name)))

    def stores(self) -> Iterator[Store]:
        """Yield every existing store."""
        self.check()
        try:
            pattern = str(Path(self._template.replace(_PLACE, "[!.]*")).relative_to(self.root))
            found = sorted(path for path in self.root.glob(pattern) if path.is_dir())
        except OSError as error:
            raise StoreError(f"cannot read {self.root}: {error.strerror}", code="cache-not-writable") from error
        yield from map(self._store, found)

    def _store(self, directory: Path) -> Store:
        root = self._paths.root
        config_file, trusted = self._paths.config_file, self._paths.trusted
        return Store(Paths(root, directory, directory / ".locks", directory / ".trash", config_file, trusted))

    def check(self) -> None:
        """Check that no other user could have changed overlays or recipes. Raises OwnershipError."""
        for directory in (self.root, self.root / _NAMED):
            ensure_private_dir(directory, trust=self._paths.trusted, writable=False)

    # --- named overlays -----------------------------------------------------------------------------------------------

    def named(self) -> list[Recipe]:
        """Return the named overlays, sorted by name; files that are not recipes are skipped."""
        self.check()
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(self.root / _NAMED))
            found = [self._read(name.removesuffix(".json")) for name in names if name.endswith(".json")]
            return [recipe for recipe in found if recipe is not None]
        return []

    def recipe(self, name: str) -> Recipe:
        """Return a named overlay. Raises StoreError if it does not exist."""
        check_name(name)
        self.check()
        recipe = self._read(name)
        if recipe is None:
            known = ", ".join(item.name for item in self.named())
            raise StoreError(
                f"overlay {name!r} was not found in {self.root}",
                about=name,
                code="overlay-not-found",
                hint=f"Existing overlays: {known}."
                if known
                else "Create one with `cetool overlay create NAME --base PREFIX`.",
            )
        return recipe

    def has(self, name: str) -> bool:
        """Return whether there is an overlay of this name."""
        return _NAME.fullmatch(name) is not None and (self.root / _NAMED / f"{name}.json").exists()

    def write(self, recipe: Recipe, before: Recipe | None) -> None:
        """Write a recipe, replacing ``before``, the recipe that was read; None for a new one.

        Raises RecipeChangedError if it has changed since, StoreError if it cannot be written.
        """
        self._exchange(recipe.name, before, recipe)

    def forget(self, recipe: Recipe) -> None:
        """Remove a recipe; its directory then becomes one like any other.

        Raises RecipeChangedError if another process has changed it, StoreError if it cannot be removed.
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
            stays = " and was not removed" if after is None else ""
            raise RecipeChangedError(
                f"overlay {name!r} was changed by another process{stays}",
                hint="Run the same command again.",
            ) from None
        except OSError as error:
            done = "remove" if after is None else "write"
            raise StoreError(
                f"cannot {done} the recipe of {name!r}, {path}: {error.strerror}", code="cache-not-writable"
            ) from error

    def _read(self, name: str) -> Recipe | None:
        try:
            return decode(Recipe, read_json(self.root / _NAMED / f"{name}.json", NOTE, exact=True), schema=SCHEMA)
        except (OSError, ValueError):
            return None


def check_name(name: str) -> None:
    """Raise UsageError for an invalid name of an overlay."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"invalid overlay name {name!r}", hint="Use letters, digits and any of '_.+-', 100 characters at most."
        )


def is_overlay_in_use(prefix: Path) -> bool:
    """Return whether a process runs a program of an overlay, or was started in a shell where it is active."""
    return bool(processes_in([prefix])) or is_in_environment_of_any(f"{prefix}{os.sep}")


class OverlaysOf(Directories):
    """The overlays of one store. A named one is only removed with its base, and its recipe stays."""

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
    """Return the overlays as kinds for a collection. Raises StoreError if the directory cannot be read."""
    named = {recipe.directory for recipe in overlays.named()}
    return [OverlaysOf(store, named) for store in overlays.stores()]


def last_used(store: Store, directory: Directory) -> float | None:
    """Return an overlay's last use in seconds since 1970; None if it is incomplete."""
    marker = directory.marker
    return None if marker is None else max(marker.created, store.last_shared_use(directory))

"""Overlay recipes: entries and what they refer to, the recipe of a named overlay, and freezing an overlay."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cetool.base.errors import StoreError, UsageError
from cetool.base.limits import ENVIRONMENT_FILE, read_text
from cetool.base.text import normalized
from cetool.base.urls import strip_credentials
from cetool.declare.channels import channels_of
from cetool.declare.match_specs import spec_name
from cetool.declare.nodes import parse_yaml
from cetool.declare.overlay import is_direct, is_editable, local_path, read_overlay_keys
from cetool.lock.records import Installed, in_order, read_installed
from cetool.overlays.about import Layer, read_about
from cetool.overlays.base import site_directories
from cetool.packages.distributions import distributions_by_name, distributions_of
from cetool.packages.hashing import digest_of
from cetool.packages.prefix import PrefixRecord, read_records

SCHEMA = 1
#: First characters of YAML texts that need no quotes.
_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/."


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named overlay: what it is made from, as given, and the directory last made from it."""

    name: str
    #: A path or a name.
    base: str
    #: Canonical entries.
    overlay: tuple[str, ...] = ()
    #: Canonical match specs.
    conda: tuple[str, ...] = ()
    channels: tuple[str, ...] | None = None
    #: Seconds since 1970.
    created: float = 0.0
    #: The overlay's absolute path; empty before it is made.
    directory: str = ""


def name_of(entry: str) -> str:
    """Return the name or place of an entry; of two entries with the same one, the later replaces the earlier."""
    if not is_direct(entry) or " @ " in entry:
        from packaging.requirements import Requirement

        return normalized(Requirement(entry).name)
    path = local_path(entry)
    return entry.partition("@")[0] if path is None else str(path)


def merged_entries(recipe: Recipe, entries: Iterable[str], conda: Iterable[str]) -> Recipe:
    """Return the recipe with these added; they replace entries of the same name."""
    own = {name_of(entry): entry for entry in recipe.overlay} | {name_of(entry): entry for entry in entries}
    specs = {spec_name(spec): spec for spec in recipe.conda} | {spec_name(spec): spec for spec in conda}
    return replace(recipe, overlay=tuple(own.values()), conda=tuple(specs.values()))


def without_entries(recipe: Recipe, packages: Sequence[str]) -> Recipe:
    """Return the recipe without these names or entries. Raises UsageError if it lacks one of them."""
    entries, specs = list(recipe.overlay), list(recipe.conda)
    for package in packages:
        gone = [entry for entry in entries if package == entry or normalized(package) == name_of(entry)]
        gone_specs = [spec for spec in specs if package in (spec, spec_name(spec))]
        if not gone and not gone_specs:
            listed = ", ".join([*entries, *specs])
            contains = f"It contains: {listed}." if listed else "It is empty."
            raise UsageError(f"overlay {recipe.name!r} does not contain {package!r}", hint=contains)
        entries = [entry for entry in entries if entry not in gone]
        specs = [spec for spec in specs if spec not in gone_specs]
    return replace(recipe, overlay=tuple(entries), conda=tuple(specs))


def read_recipe_file(path: Path, name: str) -> Recipe:
    """Read a recipe from a YAML file with the keys ``base``, ``overlay``, ``conda`` and ``channels``.

    Relative paths start at its directory. Raises MetadataError or StoreError.
    """
    try:
        text = read_text(path, ENVIRONMENT_FILE)
    except OSError as error:
        raise _malformed(f"cannot read recipe {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _malformed(f"cannot read recipe {path}: {error}", "Save it as UTF-8.") from None
    root = parse_yaml(text, name=str(path), lines=range(1, text.count("\n") + 2))
    if root is None:
        raise _malformed(f"recipe {path} is empty", "Add the keys 'base', 'overlay' and 'conda'.")
    keys = root.as_mapping("the recipe", ("name", "base", "overlay", "conda", "channels"))
    directory = path.absolute().parent
    found = read_overlay_keys(keys, directory)
    if found is None:
        root.fail("the recipe names no base", "Add 'base:' with the path of an environment, or its name.")
    return Recipe(name, found.base, found.entries, found.conda, channels_of(keys.get("channels"), directory))


def _malformed(problem: str, hint: str | None = None) -> StoreError:
    return StoreError(problem, code="overlay-malformed", hint=hint)


def recipe_text(name: str, base: str, entries: Sequence[str], conda: Sequence[str], layers: Sequence[Layer]) -> str:
    """Return the recipe as YAML, with the installed versions as comments."""
    lines = [f"name: {yaml_scalar(name)}"] if name else []
    lines.append(f"base: {yaml_scalar(base)}")
    for key, items in (("overlay", entries), ("conda", conda)):
        if items:
            lines += [f"{key}:", *(f"  - {yaml_scalar(strip_credentials(item))}" for item in items)]
    if layers:
        lines.append("# installed:")
        lines += [f"#   {layer.name} {layer.version} ({layer.kind})" for layer in layers]
    return "\n".join(lines) + "\n"


def yaml_scalar(text: str) -> str:
    plain = text[:1] in _PLAIN and not any(mark in text for mark in (": ", " #", "\n")) and text[-1:] != ":"
    return text if plain and text.strip() == text else json.dumps(text)


# --- what entries refer to --------------------------------------------------------------------------------------------

#: Project files that determine the metadata; nothing else in an editable checkout matters here.
_PROJECT = ("pyproject.toml", "setup.py", "setup.cfg")
#: What no build depends on, or what builds leave behind.
_LEFT_OUT = frozenset(
    ("__pycache__", ".git", ".hg", ".svn", ".tox", ".nox", ".venv", "venv", "build", "dist", "node_modules")
)
_MOST_FILES = 20_000


def state_of(entry: str) -> str | None:
    """Return a text that changes when the target of a canonical entry does; None if it has no local target.

    For a file it is its content, for a checkout the content of its project files, for another directory the names,
    sizes and times of all files in it. Raises StoreError if the target does not exist.
    """
    path = local_path(entry)
    if path is None:
        return None
    try:
        if path.is_file():
            return digest_of(path)
        if not path.is_dir():
            raise FileNotFoundError(2, "no such file or directory")
        if not any((path / name).is_file() for name in _PROJECT):
            problem = f"{path} is not a Python project: it has no {' and no '.join(_PROJECT[:2])}"
            raise _malformed(problem, "Name the project's directory.")
        return _digest(_project(path) if is_editable(entry) else _tree(path))
    except OSError as error:
        raise _malformed(f"cannot read overlay entry {path}: {error.strerror}") from error


def watched_by(entry: str) -> list[str] | None:
    """Return the files whose states cover all that :func:`state_of` reads; None if there are too many."""
    path = local_path(entry)
    if path is None:
        return []
    if is_editable(entry):
        return [str(path / name) for name in _PROJECT]
    return [str(path)] if path.is_file() else None


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _project(directory: Path) -> Iterator[str]:
    for name in _PROJECT:
        if (directory / name).is_file():
            yield name
            yield digest_of(directory / name)


def _tree(directory: Path) -> Iterator[str]:
    count = 0
    for place, names, files in os.walk(directory):
        names[:] = sorted(name for name in names if name not in _LEFT_OUT and not name.endswith(".egg-info"))
        for name in sorted(files):
            path = os.path.join(place, name)
            info = os.lstat(path)
            yield f"{os.path.relpath(path, directory)} {info.st_size} {info.st_mtime_ns}"
            count += 1
            if count >= _MOST_FILES:  # not a source tree: use its project files
                yield from _project(directory)
                return


def freeze_text(name: str, base: Path, overlay: Path) -> str:
    """Return base and overlay as an environment.yml of exact versions: conda's with builds, Python's under ``pip:``.

    A conda package replaced by a Python package is left out. If other conda packages need it, it is requested in the
    version that replaces it, and those in their versions with any build. Raises StoreError if the records cannot be
    read.
    """
    records = {record.name: record for record in (*read_records(base), *read_records(overlay))}
    pypi = _python_layers(overlay)
    owners = {key: record.name for record in records.values() for key in distributions_of(record)}
    replaced = {owners[key]: layer for key, layer in pypi.items() if key in owners}
    kept = [record for record in records.values() if record.name not in replaced]
    needed = {name for record in kept for name in _depends(record)} & replaced.keys()
    found = distributions_by_name(site_directories(base))
    pins = {key: f"{key}=={item.version}" for key, item in found.items() if key not in owners}
    pins.update({key: _pypi_pin(layer) for key, layer in pypi.items() if owners.get(key) not in needed})
    conda = [f"{name}=={replaced[name].version}" for name in needed]
    for record in kept:
        build = "" if needed & _depends(record) else f"={record.build}"
        conda.append(f"{record.name}{'=' if build else '=='}{record.version}{build}")
    channels = dict.fromkeys(strip_credentials(record.text("channel") or "") for record in kept)
    lines = [f"name: {yaml_scalar(name)}", "channels:", *(f"  - {yaml_scalar(item)}" for item in channels if item)]
    lines += ["dependencies:", *(f"  - {yaml_scalar(pin)}" for pin in sorted(conda))]
    if pins:
        lines += ["  - pip:", *(f"      - {yaml_scalar(pin)}" for _, pin in sorted(pins.items()))]
    return "\n".join(lines) + "\n"


def _python_layers(overlay: Path) -> dict[str, Layer]:
    about = read_about(overlay)
    return {layer.name: layer for layer in (about.layers if about is not None else ()) if layer.kind == "pypi"}


def _pypi_pin(layer: Layer) -> str:
    """Return the requirement for a Python package; a checkout becomes its directory, which is not exact."""
    if layer.source is None:
        return f"{layer.name}=={layer.version}"
    return f"{layer.name} @ {layer.source.removeprefix('-e ')}"


def _depends(record: PrefixRecord) -> set[str]:
    return {spec.split(maxsplit=1)[0] for spec in record.depends if spec.strip()}


def freeze_lock(base: Path, overlay: Path, platform: str) -> Installed:
    """Return the packages of the base that are not shadowed, and those of the overlay, as one environment.

    A conda package is left out if a PyPI package replaces its Python distribution; its dependents use that one. Nothing
    is solved. Raises StoreError if a record cannot be read.
    """
    below, above = read_installed(base, platform), read_installed(overlay, platform)
    laid = {*_python_layers(overlay), *(package.name for package in above.lock.pypi)}
    over = read_records(overlay)
    replaced = {record.name for record in (*read_records(base), *over) if laid & distributions_of(record)}
    conda = {package.name: package for package in (*below.lock.conda, *above.lock.conda)}
    owned = {name for record in over for name in distributions_of(record)} | laid
    pypi = [*(package for package in below.lock.pypi if package.name not in owned), *above.lock.pypi]
    unknown = [*(each for each in below.unknown if each.name not in owned), *above.unknown]
    return Installed(
        below.lock._replace(
            conda=in_order(package for name, package in conda.items() if name not in replaced),
            pypi=tuple(sorted(pypi, key=lambda package: package.name)),
        ),
        tuple(unknown),
    )

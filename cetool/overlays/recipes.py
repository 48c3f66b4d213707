"""What an overlay is made of as text: its recipe, and base and overlay together as one environment.yml.

Base and overlay together as one lock: the packages of an ordinary environment that has what the two have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cetool.base.errors import StoreError, UsageError
from cetool.base.limits import ENVIRONMENT_FILE, read_text
from cetool.base.text import normalized
from cetool.base.urls import strip_credentials
from cetool.declare.match_specs import spec_name
from cetool.declare.overlay import is_direct, local_path, read_overlay_keys
from cetool.lock.installed import Installed, read_installed
from cetool.lock.records import in_order
from cetool.overlays.about import Layer, read_about
from cetool.overlays.base import site_directories
from cetool.packages.distributions import distributions_by_name, distributions_of
from cetool.packages.prefix import PrefixRecord, read_records

_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/.-"


_SCHEMA = 1


@dataclass(frozen=True)
class Recipe:
    """A named overlay: what it is made of, as its entries were given, and the directory that was made of it last.

    ``base`` is a path or a name; ``overlay`` and ``conda`` are canonical entries and match specs; ``directory`` is the
    overlay's absolute path, empty before it was made.
    """

    name: str
    base: str
    overlay: tuple[str, ...] = ()
    conda: tuple[str, ...] = ()
    channels: tuple[str, ...] | None = None
    created: float = 0.0
    directory: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"schema": _SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe that was written. Raises KeyError, TypeError or ValueError where it is none."""
        if data["schema"] != _SCHEMA:
            raise ValueError(f"schema {data['schema']!r}")
        channels = data["channels"]
        return cls(
            name=str(data["name"]),
            base=str(data["base"]),
            overlay=tuple(map(str, data["overlay"])),
            conda=tuple(map(str, data["conda"])),
            channels=None if channels is None else tuple(map(str, channels)),
            created=float(data["created"]),
            directory=str(data["directory"]),
        )


def name_of(entry: str) -> str:
    """What two entries have in common of which the later one replaces the other: a name, else a place."""
    if not is_direct(entry) or " @ " in entry:
        from packaging.requirements import Requirement

        return normalized(Requirement(entry).name)
    path = local_path(entry)
    return entry.partition("@")[0] if path is None else str(path)


def merged_entries(recipe: Recipe, entries: Iterable[str], conda: Iterable[str]) -> Recipe:
    """The recipe with these besides its own; one of the same name takes the other's place."""
    own = {name_of(entry): entry for entry in recipe.overlay} | {name_of(entry): entry for entry in entries}
    specs = {spec_name(spec): spec for spec in recipe.conda} | {spec_name(spec): spec for spec in conda}
    return replace(recipe, overlay=tuple(own.values()), conda=tuple(specs.values()))


def without_entries(recipe: Recipe, packages: Sequence[str]) -> Recipe:
    """The recipe without these, which are names or entries. Raises UsageError where it has one of them not."""
    entries, specs = list(recipe.overlay), list(recipe.conda)
    for package in packages:
        gone = [entry for entry in entries if package == entry or normalized(package) == name_of(entry)]
        gone_specs = [spec for spec in specs if package in (spec, spec_name(spec))]
        if not gone and not gone_specs:
            listed = ", ".join([*entries, *specs]) or "nothing"
            raise UsageError(f"{package!r} is not asked for by {recipe.name}", hint=f"It asks for: {listed}.")
        entries = [entry for entry in entries if entry not in gone]
        specs = [spec for spec in specs if spec not in gone_specs]
    return replace(recipe, overlay=tuple(entries), conda=tuple(specs))


def read_recipe_file(path: Path, name: str) -> Recipe:
    """The recipe in a YAML file with the keys ``base``, ``overlay``, ``conda`` and ``channels``.

    Relative paths in it start from its directory. Raises MetadataError or StoreError.
    """
    from cetool.declare.channels import channels_of
    from cetool.declare.yaml import parse_yaml

    try:
        text = read_text(path, ENVIRONMENT_FILE)
    except OSError as error:
        raise StoreError(f"the recipe {path} cannot be read: {error.strerror}", code="overlay-malformed") from None
    except UnicodeDecodeError as error:
        raise StoreError(
            f"the recipe {path} cannot be read: {error}", code="overlay-malformed", hint="Save it as UTF-8."
        ) from None
    root = parse_yaml(text, name=str(path), lines=range(1, text.count("\n") + 2))
    if root is None:
        raise StoreError(
            f"the recipe {path} is empty", code="overlay-malformed", hint="It has the keys base, overlay and conda."
        )
    keys = root.as_mapping("the recipe", ("name", "base", "overlay", "conda", "channels"))
    directory = path.absolute().parent
    found = read_overlay_keys(keys, directory)
    if found is None:
        root.fail("the recipe names no base", "Add 'base:' with the path of an environment, or its name.")
    return Recipe(name, found.base, found.entries, found.conda, channels_of(keys.get("channels"), directory))


def recipe_text(name: str, base: str, entries: Sequence[str], conda: Sequence[str], layers: Sequence[Layer]) -> str:
    """The recipe as YAML, the versions that came of it as comments."""
    lines = [f"name: {_scalar(name)}"] if name else []
    lines.append(f"base: {_scalar(base)}")
    for key, items in (("overlay", entries), ("conda", conda)):
        if items:
            lines += [f"{key}:", *(f"  - {_scalar(strip_credentials(item))}" for item in items)]
    if layers:
        lines.append("# what came of it:")
        lines += [f"#   {layer.name} {layer.version} ({layer.kind})" for layer in layers]
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    plain = text[:1] in _PLAIN[:-1] and not any(mark in text for mark in (": ", " #", "\n")) and text[-1:] != ":"
    return text if plain and text.strip() == text else json.dumps(text)


# --- base and overlay as one ------------------------------------------------------------------------------------------


def freeze_text(name: str, base: Path, overlay: Path) -> str:
    """Base and overlay as an environment.yml of exact versions: conda's by build, Python's others below ``pip:``.

    A conda package whose place a Python package takes is left out. Where other conda packages need it, it is asked for
    in the version that takes its place instead, and those in their versions, whatever build. Raises StoreError where
    the records cannot be read.
    """
    records = {record.name: record for record in read_records(base)}
    records.update({record.name: record for record in read_records(overlay)})
    about = read_about(overlay)
    pypi = {layer.name: layer for layer in (about.layers if about is not None else ()) if layer.kind == "pypi"}
    owned = {key: record for record in records.values() for key in distributions_of(record)}
    replaced = {owned[key].name: layer for key, layer in pypi.items() if key in owned}
    kept = [record for record in records.values() if record.name not in replaced]
    needed = {name for record in kept for name in _depends(record)} & replaced.keys()
    found = distributions_by_name(site_directories(base))
    pins = {key: f"{key}=={item.version}" for key, item in found.items() if key not in owned}
    pins.update({key: _pypi_pin(layer) for key, layer in pypi.items() if _owner(key, owned) not in needed})
    channels = list(dict.fromkeys(strip_credentials(record.text("channel") or "") for record in kept))
    lines = [f"name: {_scalar(name)}", "channels:", *(f"  - {_scalar(item)}" for item in channels if item)]
    lines.append("dependencies:")
    conda = [_pin(record, exact=not needed & _depends(record)) for record in kept]
    conda += [f"{name}=={replaced[name].version}" for name in needed]
    lines += [f"  - {_scalar(pin)}" for pin in sorted(conda)]
    if pins:
        lines += ["  - pip:", *(f"      - {_scalar(pin)}" for _, pin in sorted(pins.items()))]
    return "\n".join(lines) + "\n"


def _pypi_pin(layer: Layer) -> str:
    """A Python package as it was laid; a checkout that was worked on as a directory, of which nothing is exact."""
    if layer.source is None:
        return f"{layer.name}=={layer.version}"
    return f"{layer.name} @ {layer.source.removeprefix('-e ')}"


def _pin(record: PrefixRecord, *, exact: bool) -> str:
    return f"{record.name}={record.version}={record.build}" if exact else f"{record.name}=={record.version}"


def _depends(record: PrefixRecord) -> set[str]:
    return {spec.split(maxsplit=1)[0] for spec in record.depends if spec.strip()}


def _owner(distribution: str, owned: Mapping[str, PrefixRecord]) -> str | None:
    return owned[distribution].name if distribution in owned else None


def freeze_lock(base: Path, overlay: Path, platform: str) -> Installed:
    """What is in the base and not shadowed, and what lies over it, as one environment's packages.

    A conda package goes whose Python distribution a PyPI package takes the place of; what depends on it finds that one.
    Nothing is solved. Raises StoreError where a record cannot be read.
    """
    below, above = read_installed(base, platform), read_installed(overlay, platform)
    about = read_about(overlay)
    laid = {layer.name for layer in (about.layers if about is not None else ()) if layer.kind == "pypi"}
    laid |= {package.name for package in above.lock.pypi}
    over = read_records(overlay)
    records = [*read_records(base), *over]
    replaced = {record.name for record in records if laid & distributions_of(record)}
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

"""What is in an environment: its packages from conda and PyPI, and which of them requires which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.app.names import Target
from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.errors import StoreError
from cetool.base.text import normalized
from cetool.base.urls import redact, strip_credentials
from cetool.declare.channels import resolve_channel
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.match_specs import spec_name
from cetool.overlays.about import read_about
from cetool.overlays.base import site_directories
from cetool.packages.distributions import Distribution, distributions_in, distributions_of, pypi_distributions
from cetool.packages.prefix import PrefixRecord, sound_records

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PYPI = "pypi"
#: Hosts whose channels are known by what follows.
_USUAL_HOSTS = ("https://conda.anaconda.org/", "https://repo.anaconda.com/")
#: A match spec in a package record: a channel, the name, the rest (``>=3.8``, ``[version='>=3.8']``).
_DEPENDS = re.compile(r"\s*(?:[^\s\[]*:)?([\w.-]+)(.*)", re.DOTALL)
#: What the layers of an overlay are called.
BASE, OVERLAY = "base", "overlay"


@dataclass(frozen=True, slots=True)
class Item:
    """A package that is installed."""

    #: What tells it from the others: its name, behind ``pypi:`` where it is from PyPI.
    key: str
    name: str
    version: str
    #: The build string, None for a package from PyPI.
    build: str | None
    #: The channel's name or URL; None for a package from PyPI, and where its record does not say.
    channel: str | None
    #: ``base`` or ``overlay`` where the environment lies over another.
    layer: str | None = None
    #: Whether a package of the overlay replaces it.
    hidden: bool = False

    @property
    def is_pypi(self) -> bool:
        """Whether it is from PyPI."""
        return self.key.startswith(f"{PYPI}:")


@dataclass(frozen=True, slots=True)
class Need:
    """What a package requires."""

    #: The key of the package that fulfils it, None where none is installed.
    key: str | None
    name: str
    #: Which versions and builds are required, empty for any.
    spec: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """The packages in an environment, and what they require."""

    target: Target
    #: By name; of an overlay with those of its base.
    items: tuple[Item, ...]
    #: What was asked for, by key, in the order of the request; then what no other package requires, by name.
    roots: tuple[str, ...]
    #: How many of the roots were asked for.
    asked: int
    #: By key, in the order of the names.
    needs: Mapping[str, tuple[Need, ...]]

    def requirers(self) -> dict[str, tuple[Need, ...]]:
        """Return for each package those that require it; each need names the package that has it."""
        found: dict[str, list[Need]] = {item.key: [] for item in self.items}
        names = {item.key: item.name for item in self.items}
        for key, needs in self.needs.items():
            for need in needs:
                if need.key is not None:
                    found[need.key].append(Need(key, names[key], need.spec))
        return {key: tuple(sorted(needs, key=lambda need: need.name)) for key, needs in found.items()}

    def find(self, name: str) -> list[str]:
        """Return the keys of the packages of this name. Raises StoreError, with a suggestion, where there is none."""
        found = [item.key for item in self.items if not item.hidden and normalized(item.name) == normalized(name)]
        if found:
            return found
        from difflib import get_close_matches

        near = get_close_matches(name.lower(), {item.name for item in self.items}, n=1)
        raise StoreError(
            f"the environment {self.target.name} has no package '{name}'",
            about=name,
            code="package-not-installed",
            hint=f"Did you mean '{near[0]}'?" if near else "`cetool list NAME` lists the packages of an environment.",
        )


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one prefix has: an environment, or the base or the overlay of one."""

    records: tuple[PrefixRecord, ...]
    pypi: tuple[Distribution, ...]
    name: str | None


def take_inventory(target: Target, world: World, reporter: Reporter) -> Inventory:
    """Return what is in an environment, of an overlay with what is in its base."""
    layers = [_read_layer(target.prefix, None if target.base is None else OVERLAY, reporter)]
    if target.base is not None:
        layers.append(_read_layer(target.base, BASE, reporter))
    channels = _channel_names(target.spec, world)
    items: dict[str, Item] = {}
    hidden: list[Item] = []
    replaced = _replaced(layers)
    for layer in layers:
        for item, owned in _items_of(layer, channels):
            if item.key in items or (layer.name == BASE and (item.key in replaced or owned & replaced)):
                hidden.append(replace(item, hidden=True))
            else:
                items[item.key] = item
    listed = sorted((*items.values(), *hidden), key=lambda item: (item.name, item.layer == BASE, item.is_pypi))
    asked = _requirements(target.spec.pypi if target.spec.overlay is None else target.spec.overlay.requirements)
    about = read_about(target.prefix)
    needs = _needs(layers, items, asked, None if about is None else about.python)
    roots, count = _roots(target.spec, asked, items, needs)
    return Inventory(target, tuple(listed), roots, count, needs)


def _read_layer(prefix: Path, name: str | None, reporter: Reporter) -> _Layer:
    records, broken = sound_records(prefix)
    for path in broken:
        reporter.warn(f"the package record {path} cannot be read, so its package is missing here")
    if name is None:
        pypi = list(pypi_distributions(prefix, records))
    else:  # a base may be a virtual environment, or have packages as eggs
        owned = {each for record in records for each in distributions_of(record)}
        pypi = [each for each in distributions_in(site_directories(prefix)) if each.name not in owned]
    first = {each.name: each for each in reversed(pypi)}
    return _Layer(tuple(records), tuple(first.values()), name)


def _replaced(layers: Sequence[_Layer]) -> set[str]:
    """Return the names of the Python distributions that an overlay has, which hide those of its base."""
    if len(layers) == 1:
        return set()
    over = layers[0]
    owned = {name for record in over.records for name in distributions_of(record)}
    return owned | {each.name for each in over.pypi} | {f"{PYPI}:{each}" for each in owned}


def _items_of(layer: _Layer, channels: Mapping[str, str]) -> list[tuple[Item, set[str]]]:
    """Return the packages of a layer, each with the names of the Python distributions in it."""
    conda = [
        (Item(each.name, each.name, each.version, each.build, _channel(each, channels), layer.name), each)
        for each in layer.records
    ]
    pypi = [Item(f"{PYPI}:{each.name}", each.name, each.version, None, None, layer.name) for each in layer.pypi]
    return [(item, distributions_of(record)) for item, record in conda] + [(item, {item.name}) for item in pypi]


# --- channels ---------------------------------------------------------------------------------------------------------


def _channel_names(spec: EnvironmentSpec, world: World) -> dict[str, str]:
    """Return the names of channels by their URLs: of those asked for, then of the configured ones."""
    found: dict[str, str] = {}
    for name in (*spec.channels, *world.default_channels):
        urls = resolve_channel(name, world.condarc)
        if len(urls) == 1:
            found.setdefault(strip_credentials(urls[0]), strip_credentials(name))
    return found


def _channel(record: PrefixRecord, names: Mapping[str, str]) -> str | None:
    url = record.text("url")
    place = url.rsplit("/", 2)[0] if url and url.count("/") > 2 else record.text("channel")
    if place is None:
        return None
    place = strip_credentials(place).rstrip("/")
    if place in names:
        return names[place]
    for host in _USUAL_HOSTS:
        place = place.removeprefix(host)
    return redact(place)


# --- requirements -----------------------------------------------------------------------------------------------------


def _needs(
    layers: Sequence[_Layer], items: Mapping[str, Item], asked: Iterable[Requirement], python: str | None
) -> dict[str, tuple[Need, ...]]:
    """Return what each package requires, with the extras that were asked for.

    ``python`` is the version where no layer has that package. What an overlay hides requires nothing.
    """
    names = _by_distribution(layers, items)
    # what a distribution of the overlay replaces in the base is fulfilled by that
    conda = {}
    for record in (record for layer in layers for record in layer.records):
        instead = (names[each] for each in sorted(distributions_of(record)) if each in names)
        conda[record.name] = record.name if record.name in items else next(instead, None)
    found: dict[str, list[Need]] = {}
    for layer in layers:
        for record in layer.records:
            if _is_shown(record.name, layer, items):
                pairs = [(name, spec) for name, spec in map(_split, record.depends) if not name.startswith("__")]
                found[record.name] = [Need(conda.get(name), name, spec) for name, spec in pairs]
    shown = [
        (f"{PYPI}:{each.name}", each)
        for layer in layers
        for each in layer.pypi
        if _is_shown(f"{PYPI}:{each.name}", layer, items)
    ]
    if shown:
        found |= _pypi_needs(dict(shown), names, asked, _markers(layers, python))
    return {key: tuple(sorted(set(needs), key=lambda need: (need.name, need.spec))) for key, needs in found.items()}


def _is_shown(key: str, layer: _Layer, items: Mapping[str, Item]) -> bool:
    return key in items and items[key].layer == layer.name


def _split(depends: str) -> tuple[str, str]:
    """Return the name and the rest of a match spec in a package record."""
    found = _DEPENDS.match(depends)
    return (found[1].lower(), found[2].strip()) if found else (depends.strip(), "")


def _by_distribution(layers: Sequence[_Layer], items: Mapping[str, Item]) -> dict[str, str]:
    """Return the keys of the packages that bring Python distributions, by the distributions' names."""
    found: dict[str, str] = {}
    for layer in layers:
        pairs = [(each.name, f"{PYPI}:{each.name}") for each in layer.pypi]
        pairs += [(name, record.name) for record in layer.records for name in distributions_of(record)]
        for name, key in pairs:
            if _is_shown(key, layer, items):
                found.setdefault(name, key)
    return found


def _pypi_needs(
    distributions: Mapping[str, Distribution],
    names: Mapping[str, str],
    asked: Iterable[Requirement],
    markers: Mapping[str, str],
) -> dict[str, list[Need]]:
    """Return what packages from PyPI require (PEP 508), with the extras that were asked for and that others ask for."""
    parsed = {key: _requirements(each.requires) for key, each in distributions.items()}
    extras: dict[str, set[str]] = {key: set() for key in distributions}
    for requirement in asked:
        extras.get(f"{PYPI}:{normalized(requirement.name)}", set()).update(map(normalized, requirement.extras))
    found: dict[str, list[Need]] = {}
    waiting = list(distributions)
    while waiting:
        key = waiting.pop()
        found[key] = []
        for requirement in parsed[key]:
            if not _applies(requirement, extras[key], markers):
                continue
            name = normalized(requirement.name)
            needed = names.get(name)
            found[key].append(Need(needed, name, _shown_spec(requirement)))
            more = {normalized(each) for each in requirement.extras}
            if needed in extras and not more <= extras[needed]:
                extras[needed] |= more
                waiting.append(needed)
    return found


def _requirements(texts: Iterable[str]) -> list[Requirement]:
    from packaging.requirements import InvalidRequirement, Requirement  # only for environments with PyPI packages

    found = []
    for text in texts:
        try:
            found.append(Requirement(text))
        except InvalidRequirement:
            continue  # of old packages; installers pass over it as well
    return found


def _applies(requirement: Requirement, extras: Iterable[str], markers: Mapping[str, str]) -> bool:
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName

    if requirement.marker is None:
        return True
    try:
        return any(requirement.marker.evaluate({**markers, "extra": extra}) for extra in ("", *sorted(extras)))
    except (UndefinedComparison, UndefinedEnvironmentName):
        return False


def _shown_spec(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{extras}{requirement.specifier}" + (f"@ {redact(requirement.url)}" if requirement.url else "")


def _markers(layers: Sequence[_Layer], python: str | None) -> dict[str, str]:
    """Return the environment of PEP 508's markers: this machine's, with the environment's own python."""
    from packaging.markers import default_environment

    found = {name: str(value) for name, value in default_environment().items()}
    records = {record.name: record for layer in reversed(layers) for record in layer.records}
    version = records["python"].version if "python" in records else python
    if version is not None:
        found |= {"python_full_version": version, "implementation_version": version}
        found["python_version"] = ".".join(version.split(".")[:2])
    pypy = "pypy" in records
    found["implementation_name"] = "pypy" if pypy else "cpython"
    found["platform_python_implementation"] = "PyPy" if pypy else "CPython"
    return found


# --- roots ------------------------------------------------------------------------------------------------------------


def _roots(
    spec: EnvironmentSpec,
    pypi: Iterable[Requirement],
    items: Mapping[str, Item],
    needs: Mapping[str, Sequence[Need]],
) -> tuple[tuple[str, ...], int]:
    """Return what was asked for, then what no other requires, by key; and how many were asked for."""
    conda = map(spec_name, spec.packages if spec.overlay is None else spec.overlay.conda)
    names = [normalized(each.name) for each in pypi]
    wanted = [*conda, *(f"{PYPI}:{name}" if f"{PYPI}:{name}" in items else name for name in names)]
    asked = [key for key in dict.fromkeys(wanted) if key in items]
    required = {need.key for key, each in needs.items() for need in each if need.key != key}
    others = sorted(key for key in items if key not in required and key not in asked)
    # of packages that require each other alone the first by name
    reached = reached_from([*asked, *others], needs)
    for key in sorted(items):
        if key not in reached:
            others.append(key)
            reached |= reached_from([key], needs)
    return (*asked, *others), len(asked)


def reached_from(roots: Iterable[str], needs: Mapping[str, Sequence[Need]]) -> set[str]:
    """Return the keys of these packages and of all that they lead to."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += [need.key for need in needs.get(key, ()) if need.key is not None]
    return found

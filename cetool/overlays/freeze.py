"""Base and overlay as one ordinary environment, every package exact: as a lock, and as an environment.yml."""

from __future__ import annotations

from pathlib import Path

from cetool.base.urls import strip_credentials
from cetool.lock.records import Installed, in_order, read_installed
from cetool.overlays.about import Layer, read_about
from cetool.overlays.base import site_directories
from cetool.overlays.recipe import yaml_scalar
from cetool.packages.distributions import distributions_by_name, distributions_of
from cetool.packages.prefix import PrefixRecord, read_records


def freeze_text(name: str, base: Path, overlay: Path) -> str:
    """Base and overlay as an environment.yml of exact versions: conda's by build, Python's others below ``pip:``.

    A conda package whose place a Python package takes is left out. Where other conda packages need it, it is asked for
    in the version that takes its place instead, and those in their versions, whatever build. Raises StoreError where
    the records cannot be read.
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
    """A Python package as it was laid; a checkout that was worked on as a directory, of which nothing is exact."""
    if layer.source is None:
        return f"{layer.name}=={layer.version}"
    return f"{layer.name} @ {layer.source.removeprefix('-e ')}"


def _depends(record: PrefixRecord) -> set[str]:
    return {spec.split(maxsplit=1)[0] for spec in record.depends if spec.strip()}


def freeze_lock(base: Path, overlay: Path, platform: str) -> Installed:
    """What is in the base and not shadowed, and what lies over it, as one environment's packages.

    A conda package goes whose Python distribution a PyPI package takes the place of; what depends on it finds that one.
    Nothing is solved. Raises StoreError where a record cannot be read.
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

"""Base and overlay together as one lock: the packages of an ordinary environment that has what the two have."""

from __future__ import annotations

from pathlib import Path

from cetool.lock.installed import Installed, package_records, read_installed
from cetool.lock.records import in_order
from cetool.overlays.about import read_about
from cetool.overlays.recipes import distributions_of


def freeze_lock(base: Path, overlay: Path, platform: str) -> Installed:
    """What is in the base and not shadowed, and what lies over it, as one environment's packages.

    A conda package goes whose Python distribution a PyPI package takes the place of; what depends on it finds that one.
    Nothing is solved. Raises StoreError where a record cannot be read.
    """
    below, above = read_installed(base, platform), read_installed(overlay, platform)
    about = read_about(overlay)
    laid = {layer.name for layer in (about.layers if about is not None else ()) if layer.kind == "pypi"}
    laid |= {package.name for package in above.lock.pypi}
    records = [*package_records(base), *package_records(overlay)]
    replaced = {str(record["name"]) for record in records if laid & distributions_of(record)}
    conda = {package.name: package for package in (*below.lock.conda, *above.lock.conda)}
    owned = {name for record in package_records(overlay) for name in distributions_of(record)} | laid
    pypi = [*(package for package in below.lock.pypi if package.name not in owned), *above.lock.pypi]
    unknown = [*(each for each in below.unknown if each.name not in owned), *above.unknown]
    return Installed(
        below.lock._replace(
            conda=in_order(package for name, package in conda.items() if name not in replaced),
            pypi=tuple(sorted(pypi, key=lambda package: package.name)),
        ),
        tuple(unknown),
    )

"""Lays conda packages over a base: by the embedded engine, whichever engine made the base."""

from __future__ import annotations

from pathlib import Path

from cetool.engines.base import CreateRequest, Progress
from cetool.engines.build import Circumstances, Place
from cetool.engines.rattler import RattlerEngine
from cetool.engines.rattler_overlay import finish_overlay
from cetool.errors import EngineError
from cetool.limits import PACKAGE, read_json
from cetool.overlays.about import Layer
from cetool.spec.environment import EnvironmentSpec


def lay_conda(
    spec: EnvironmentSpec, place: Place, circumstances: Circumstances, packages: Path, progress: Progress
) -> tuple[list[Layer], str]:
    """Link what the base lacks of the spec's conda packages; what was laid, and the engine's version.

    Raises EngineError where the base cannot have them, or is no conda environment.
    """
    overlay = spec.overlay
    assert overlay is not None
    base = Path(overlay.base)
    if not (base / "conda-meta").is_dir():
        raise EngineError(
            f"conda packages cannot be laid over {base}, which is no conda environment",
            hint="List Python packages under 'overlay:'.",
        )
    engine = RattlerEngine(circumstances.environ, packages)
    request = CreateRequest(
        prefix=place.prefix,
        packages=overlay.conda,
        channels=spec.channels,
        log=place.log,
        consent=circumstances.consent,
        virtual_packages=spec.virtual_packages,
        offline=circumstances.offline,
        stall_timeout=circumstances.stall_timeout,
        inherit=place.inherit,
        below=base,
    )
    linked = engine.link_over(request, progress)
    finish_overlay(place.prefix, base, linked)
    versions = _versions(base)
    layers = [
        Layer(
            record.name.normalized, str(record.version), "conda", versions.get(record.name.normalized), None, record.url
        )
        for record in linked
    ]
    return sorted(layers, key=lambda layer: layer.name), engine.version


def _versions(base: Path) -> dict[str, str]:
    found = {}
    for path in (base / "conda-meta").glob("*.json"):
        try:
            record = read_json(path, PACKAGE)
            found[str(record["name"])] = str(record["version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EngineError(
                f"the package record {path} cannot be read: {error}", hint="Name another base, or repair this one."
            ) from None
    return found

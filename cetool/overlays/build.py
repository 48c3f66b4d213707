"""Lays conda packages over a base: by the embedded engine, whichever engine made the base.

Makes a whole overlay of a spec: what its base is, the Python packages, the conda packages, what is told of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.declare.environment import EnvironmentSpec
from cetool.engines.build import Circumstances, Place
from cetool.engines.protocol import CreateRequest, Progress
from cetool.engines.pypi.driver import PypiRequest
from cetool.engines.rattler.engine import RattlerEngine
from cetool.engines.rattler.prefix import finish_overlay
from cetool.overlays.about import About, Layer, write_about
from cetool.overlays.base import (
    Base,
    compile_all,
    fingerprint_of,
    python_of,
    read_base,
)
from cetool.overlays.guard import write_guard
from cetool.overlays.installers import Layering
from cetool.overlays.lay import Laid, lay_over
from cetool.packages.distributions import Distribution
from cetool.packages.prefix import PackageRecordError, read_records


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
            code="base-unusable",
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
    try:
        return {record.name: record.version for record in read_records(base)}
    except PackageRecordError as error:
        raise EngineError(
            error.message, code="environment-damaged", hint="Name another base, or repair this one."
        ) from None


_GROUP = stat.S_ISGID | stat.S_IWGRP


@dataclass(frozen=True)
class Built:
    """What an overlay became: who installed it, in which version, what lies over the base, how many conda records."""

    installer: str
    version: str
    layers: tuple[Layer, ...]
    records: int


def build_overlay(
    spec: EnvironmentSpec, place: Place, circumstances: Circumstances, packages: Path, progress: Progress
) -> Built:
    """Make the overlay at ``place``; ``packages`` is the embedded engine's cache. The base is never written to.

    Raises EngineError where it cannot be made; what is left at the prefix then is the caller's to clear.
    """
    overlay = spec.overlay
    assert overlay is not None
    prefix = Path(overlay.base)
    fingerprint = fingerprint_of(prefix)
    base = (
        read_base(prefix, circumstances.environ, circumstances.consent)
        if overlay.requirements or python_of(prefix).exists()
        else None
    )
    if base is not None:
        _check_python(base, overlay.python)
    elif overlay.python:
        raise EngineError(
            f"the base {prefix} has no python, and {overlay.python[0]} is asked for", code="base-unusable"
        )
    layers: list[Layer] = []
    installer, version = "rattler", ""
    place.prefix.mkdir(parents=True, exist_ok=True)
    if base is not None and overlay.requirements:
        found = Layering(base, _request(spec, place, circumstances))
        installer, version = found.installer.name, found.installer.version
        progress.note(f"What is laid over {prefix} is resolved and installed by {installer} {version}.")
        laid = lay_over(base, overlay.requirements, found, place.prefix, circumstances.environ, progress)
        layers += _python_layers(laid, base)
        progress.stage("Compiling")
        compile_all(base, place.prefix, circumstances.environ)
    records = 0
    if overlay.conda:
        added, engine_version = lay_conda(spec, place, circumstances, packages, progress)
        _refuse_both(layers, added)
        version = version or engine_version
        layers += added
        records = len(added)
    if base is not None:
        write_guard(place.prefix, base)
    python = None if base is None else ".".join(map(str, base.version))
    write_about(place.prefix, About(str(prefix), python, fingerprint, tuple(layers)))
    _share(place.prefix)
    return Built(installer, version, tuple(layers), records)


def _request(spec: EnvironmentSpec, place: Place, circumstances: Circumstances) -> PypiRequest:
    return PypiRequest(
        prefix=place.prefix,
        log=place.log,
        environ=circumstances.environ,
        consent=circumstances.consent,
        settings=spec.pypi_settings,
        offline=circumstances.offline,
        installer=circumstances.pip_installer,
        inherit=place.inherit,
        stall_timeout=circumstances.stall_timeout,
    )


def _check_python(base: Base, specs: Sequence[str]) -> None:
    from rattler import MatchSpec, Version

    version = Version(".".join(map(str, base.version)))
    for text in specs:
        wanted = MatchSpec(text).version
        from rattler import VersionSpec

        if wanted is not None and not VersionSpec(wanted).matches(version):
            raise EngineError(
                f"the script needs {text}, and the base {base.prefix} has python {version}",
                code="overlay-conflict",
                hint="Name a base with such a python.",
            )


def _python_layers(laid: Laid, base: Base) -> list[Layer]:
    below = base.distributions
    return [_python_layer(item, below, laid.reasons) for _, item in sorted(laid.distributions.items())]


def _python_layer(item: Distribution, below: Mapping[str, Distribution], reasons: Mapping[str, str]) -> Layer:
    shadowed = below.get(item.name)
    shadows = None if shadowed is None else shadowed.version
    return Layer(item.name, item.version, "pypi", shadows, reasons.get(item.name), _source(item))


def _refuse_both(layers: Sequence[Layer], added: Sequence[Layer]) -> None:
    """Raise EngineError where a Python package came by both ways: one would lie over the other's files."""
    both = {layer.name for layer in layers} & {layer.name for layer in added}
    if both:
        raise EngineError(
            f"{', '.join(sorted(both))} would be laid over the base both from PyPI and as a conda package",
            code="overlay-conflict",
            hint="Ask for it under 'overlay:' or under 'conda:', not under both.",
        )


def _source(item: Distribution) -> str | None:
    """Where a distribution came from if that was no index (PEP 610), credentials left out."""
    from cetool.base.urls import strip_credentials

    data = item.direct_url
    try:
        commit = data.get("vcs_info", {}).get("commit_id")
        kind = "-e " if data.get("dir_info", {}).get("editable") else ""
        vcs = f"{data['vcs_info']['vcs']}+" if commit else ""
        return strip_credentials(f"{kind}{vcs}{data['url']}{f'@{commit}' if commit else ''}")
    except (KeyError, TypeError, AttributeError):
        return None


def _share(prefix: Path) -> None:
    """Let the group do what the owner may, where the directory above is a group's (setgid, and writable to it)."""
    if os.name == "nt" or prefix.parent.stat().st_mode & _GROUP != _GROUP:
        return
    for directory, _, files in os.walk(prefix):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            info = os.lstat(path)
            # a file with several names is shared with a package cache, which is not the group's
            if stat.S_ISLNK(info.st_mode) or (stat.S_ISREG(info.st_mode) and info.st_nlink > 1):
                continue
            mode = stat.S_IMODE(info.st_mode)
            os.chmod(path, mode | (mode & stat.S_IRWXU) >> 3)

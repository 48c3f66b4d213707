"""Makes a whole overlay of a spec: the Python packages by uv or pip, the conda packages by the embedded engine."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.base.urls import strip_credentials
from cetool.declare.environment import Overlay
from cetool.engines.protocol import EngineRequest, Hold, Progress
from cetool.engines.rattler.engine import RattlerEngine
from cetool.engines.rattler.prefix import finish_overlay
from cetool.engines.solve import solver_for
from cetool.overlays.about import About, Layer, write_about
from cetool.overlays.base import Base, compile_all, fingerprint_of, python_of, read_base, unusable
from cetool.overlays.guard import write_guard
from cetool.overlays.lay import Laid, installer_of, lay_over
from cetool.packages.distributions import Distribution
from cetool.packages.prefix import PackageRecordError, read_records

_GROUP = stat.S_ISGID | stat.S_IWGRP


@dataclass(frozen=True, slots=True)
class Built:
    """What made an overlay: the installer (the engine where only conda packages were asked for), and its version."""

    installer: str
    version: str
    #: How many conda packages it has.
    records: int


def build_overlay(request: EngineRequest, progress: Progress, hold: Hold) -> Built:
    """Make the overlay. The base is never written to.

    Raises EngineError where it cannot be made; what is left at the prefix then is the caller's to clear.
    """
    overlay = request.spec.overlay
    assert overlay is not None
    prefix = Path(overlay.base)
    fingerprint = fingerprint_of(prefix)
    base = _base_of(overlay, request, hold)
    layers: list[Layer] = []
    installer, version = "rattler", ""
    request.prefix.mkdir(parents=True, exist_ok=True)
    if base is not None and overlay.requirements:
        found = installer_of(base, request, hold)
        installer, version = found.name, found.version
        progress.note(f"What is laid over {prefix} is resolved and installed by {installer} {version}.")
        laid = lay_over(base, overlay.requirements, found, progress)
        layers = [_python_layer(item, base, laid) for _, item in sorted(laid.distributions.items())]
        progress.stage("Compiling")
        compile_all(base, request.prefix, request.environ)
    conda: list[Layer] = []
    if overlay.conda:
        engine = solver_for(request)
        version = version or engine.version
        conda = _lay_conda(engine, request, progress, hold)
        _refuse_both(layers, conda)
    if base is not None:
        write_guard(request.prefix, base)
    python = None if base is None else ".".join(map(str, base.version))
    write_about(request.prefix, About(str(prefix), python, fingerprint, (*layers, *conda)))
    _share(request.prefix)
    return Built(installer, version, len(conda))


def _base_of(overlay: Overlay, request: EngineRequest, hold: Hold) -> Base | None:
    """The base, None for one without a python where none is needed. Raises EngineError where it does not fit."""
    prefix = Path(overlay.base)
    if overlay.requirements or python_of(prefix).exists():
        base = read_base(prefix, request.environ, hold.consent)
        _check_python(base, overlay.python)
        return base
    if overlay.python:
        raise unusable(f"the base {prefix} has no python, and {overlay.python[0]} is asked for")
    return None


def _check_python(base: Base, specs: Sequence[str]) -> None:
    from rattler import MatchSpec, Version, VersionSpec

    version = Version(".".join(map(str, base.version)))
    for text in specs:
        wanted = MatchSpec(text).version
        if wanted is not None and not VersionSpec(wanted).matches(version):
            raise EngineError(
                f"the script needs {text}, and the base {base.prefix} has python {version}",
                code="overlay-conflict",
                hint="Name a base with such a python.",
            )


# --- Python packages --------------------------------------------------------------------------------------------------


def _python_layer(item: Distribution, base: Base, laid: Laid) -> Layer:
    below = base.distributions.get(item.name)
    return Layer(
        name=item.name,
        version=item.version,
        kind="pypi",
        shadows=None if below is None else below.version,
        why=laid.reasons.get(item.name),
        source=_source(item),
    )


def _source(item: Distribution) -> str | None:
    """Where a distribution came from if that was no index (PEP 610), credentials left out."""
    told = item.direct_url
    try:
        commit = told.get("vcs_info", {}).get("commit_id")
        kind = "-e " if told.get("dir_info", {}).get("editable") else ""
        vcs = f"{told['vcs_info']['vcs']}+" if commit else ""
        return strip_credentials(f"{kind}{vcs}{told['url']}{f'@{commit}' if commit else ''}")
    except (KeyError, TypeError, AttributeError):
        return None


# --- conda packages ---------------------------------------------------------------------------------------------------


def _lay_conda(engine: RattlerEngine, request: EngineRequest, progress: Progress, hold: Hold) -> list[Layer]:
    """Link what the base lacks of the spec's conda packages, whichever engine made the base.

    Raises EngineError where the base cannot have them, or is no conda environment.
    """
    base = request.below
    assert base is not None
    if not (base / "conda-meta").is_dir():
        problem = f"conda packages cannot be laid over {base}, which is no conda environment"
        raise unusable(problem, "List Python packages under 'overlay:'.")
    linked = engine.link_over(request, progress, hold)
    finish_overlay(request.prefix, base, linked)
    try:
        below = {record.name: record.version for record in read_records(base)}
    except PackageRecordError as error:
        raise EngineError(
            error.message, code="environment-damaged", hint="Name another base, or repair this one."
        ) from None
    named = {package.name: package for package in linked}
    return [
        Layer(name, package.version, "conda", shadows=below.get(name), source=package.url)
        for name, package in sorted(named.items())
    ]


def _refuse_both(layers: Sequence[Layer], added: Sequence[Layer]) -> None:
    """Raise EngineError where a Python package came by both ways: one would lie over the other's files."""
    both = {layer.name for layer in layers} & {layer.name for layer in added}
    if both:
        raise EngineError(
            f"{', '.join(sorted(both))} would be laid over the base both from PyPI and as a conda package",
            code="overlay-conflict",
            hint="Ask for it under 'overlay:' or under 'conda:', not under both.",
        )


# --- for a group ------------------------------------------------------------------------------------------------------


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

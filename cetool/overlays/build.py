"""Make an overlay: its Python packages by uv or pip, its conda packages by the embedded engine."""

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
    """What made an overlay: the installer (the engine if only conda packages were requested), and its version."""

    installer: str
    version: str
    #: Number of conda packages in it.
    records: int


def build_overlay(request: EngineRequest, progress: Progress, hold: Hold) -> Built:
    """Make the overlay, without writing to the base.

    Raises EngineError if it cannot be made; the caller then removes what is left at the prefix.
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
        progress.note(f"{installer} {version} resolves and installs the packages laid over {prefix}.")
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
    """Return the base; None if it has no Python and needs none. Raises EngineError if it does not fit."""
    prefix = Path(overlay.base)
    if overlay.requirements or python_of(prefix).exists():
        base = read_base(prefix, request.environ, hold.consent)
        _check_python(base, overlay.python)
        return base
    if overlay.python:
        raise unusable(f"base {prefix} has no Python; the script needs {overlay.python[0]}")
    return None


def _check_python(base: Base, specs: Sequence[str]) -> None:
    from rattler import MatchSpec, Version, VersionSpec

    version = Version(".".join(map(str, base.version)))
    for text in specs:
        wanted = MatchSpec(text).version
        if wanted is not None and not VersionSpec(wanted).matches(version):
            raise EngineError(
                f"the script needs {text}; base {base.prefix} has python {version}",
                code="overlay-conflict",
                hint=f"Name a base with {text}.",
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
    """Return where a distribution came from, if not from an index (PEP 610), without credentials."""
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
    """Link the requested conda packages that the base lacks, whichever engine made the base.

    Raises EngineError if the base cannot have them, or is not a conda environment.
    """
    base = request.below
    assert base is not None
    if not (base / "conda-meta").is_dir():
        problem = f"conda packages cannot be laid over {base}, which is not a conda environment"
        raise unusable(problem, "List Python packages under 'overlay:'.")
    linked = engine.link_over(request, progress, hold)
    finish_overlay(request.prefix, base, linked)
    try:
        below = {record.name: record.version for record in read_records(base)}
    except PackageRecordError as error:
        raise EngineError(
            error.message, code="environment-damaged", hint="Repair the base, or name another one."
        ) from None
    named = {package.name: package for package in linked}
    return [
        Layer(name, package.version, "conda", shadows=below.get(name), source=package.url)
        for name, package in sorted(named.items())
    ]


def _refuse_both(layers: Sequence[Layer], added: Sequence[Layer]) -> None:
    """Raise EngineError if a Python package comes from both: one would hide the other's files."""
    both = {layer.name for layer in layers} & {layer.name for layer in added}
    if both:
        raise EngineError(
            f"the overlay would have {', '.join(sorted(both))} both from PyPI and from conda",
            code="overlay-conflict",
            hint="Request it under 'overlay:' or under 'conda:', not under both.",
        )


# --- groups -----------------------------------------------------------------------------------------------------------


def _share(prefix: Path) -> None:
    """Give the group the owner's permissions, if the directory above belongs to a group (setgid and group-writable)."""
    if os.name == "nt" or prefix.parent.stat().st_mode & _GROUP != _GROUP:
        return
    for directory, _, files in os.walk(prefix):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            info = os.lstat(path)
            # a hard-linked file is shared with a package cache, which does not belong to the group
            if stat.S_ISLNK(info.st_mode) or (stat.S_ISREG(info.st_mode) and info.st_nlink > 1):
                continue
            mode = stat.S_IMODE(info.st_mode)
            os.chmod(path, mode | (mode & stat.S_IRWXU) >> 3)

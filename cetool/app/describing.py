"""Describe what cetool reads from a script, and what it finds on this machine."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

from cetool.app.deciding import decide
from cetool.app.decision import Decision, Wish
from cetool.app.entrypoints import read_entrypoint
from cetool.app.environments import Place, place_of
from cetool.app.reporting import Reporter
from cetool.app.sources import Source, open_source
from cetool.app.world import World
from cetool.base.errors import CetoolError
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.platforms import current_platform
from cetool.engines.discovery import find_engines
from cetool.engines.protocol import Found
from cetool.launch.activation import read_activation
from cetool.launch.kernels import find_kernel, kernel_command
from cetool.launch.process import resolve_command
from cetool.settings.paths import trust_directory
from cetool.settings.settings import variable_of
from cetool.store.scripts import ScriptStore

#: Distributions whose versions a bug report needs.
_DISTRIBUTIONS = (
    "cetool",
    "py-rattler",
    "typer",
    "rich",
    "ruamel.yaml",
    "portalocker",
    "platformdirs",
    "psutil",
    "nbclient",
)


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """The engine that creates environments."""

    #: Name and version; None if no engine works.
    name: str | None
    #: Why it was chosen, or what is wrong.
    reason: str


def chosen_engine(world: World) -> ChosenEngine:
    """Return the engine that makes environments, or why there is none."""
    try:
        engine, reason = world.engine
    except CetoolError as error:
        return ChosenEngine(None, str(error))
    return ChosenEngine(f"{engine.name} {engine.version}", reason)


@dataclass(frozen=True, slots=True)
class Described:
    """A script, and what a run would do."""

    source: Source
    decision: Decision
    place: Place
    engine: ChosenEngine
    #: The words that run it.
    command: tuple[str, ...]


def describe(
    target: str, wish: Wish, world: World, reporter: Reporter, *, insecure: bool, sha256: str | None
) -> Described:
    """Return a script's environment, and how it would be made and run. Raises CetoolError."""
    source, world = open_source(target, world, reporter, insecure=insecure, sha256=sha256)
    decision = decide(source, wish, world, reporter)
    read_entrypoint(decision.metadata, source.script)  # reports errors in it
    place = place_of(decision.spec, world)
    command = tuple(_command(decision, source, place, world))
    return Described(source, decision, place, chosen_engine(world), command)


def _command(decision: Decision, source: Source, place: Place, world: World) -> list[str]:
    """Return the command line, with its program's path; the declared one if the environment does not exist yet.

    A script that is not a local file gets the path at which a run keeps it. For a notebook it is the command of its
    kernel, which only an existing environment has.
    """
    metadata, overlay = decision.metadata, decision.spec.overlay
    if metadata.language is not None:
        return _kernel_command(metadata, place.prefix, world)
    if metadata.run_with is None:
        return [] if metadata.entrypoint is None else [metadata.entrypoint]
    path = metadata.path
    if source.data is not None:
        path = str(ScriptStore(world.paths.scripts).path_of(source.data, source.name))
    prefixes = (place.prefix,) if overlay is None else (place.prefix, Path(overlay.base))
    if place.prefix.is_dir():
        try:
            return [*resolve_command(metadata.run_with, world.environ, prefixes), path]
        except CetoolError:
            pass
    return [*metadata.run_with, path]


def _kernel_command(metadata: ScriptMetadata, prefix: Path, world: World) -> list[str]:
    try:
        kernel = find_kernel(prefix, metadata.language or "", metadata.kernel)
        activation = read_activation(prefix, {}, user_site=world.settings.user_site)
        return list(kernel_command(kernel, activation, world.environ, "{connection_file}").argv)
    except CetoolError:
        return []


@dataclass(frozen=True, slots=True)
class Inspected:
    """What cetool finds on this machine, for a bug report."""

    versions: dict[str, str]
    paths: dict[str, str]
    engines: tuple[Found, ...]
    engine: ChosenEngine
    #: Names of the variables that affect cetool.
    variables: tuple[str, ...]


def inspect(world: World) -> Inspected:
    """Return versions, paths, engines and variables."""
    paths, settings = world.paths, {variable_of(key) for key in world.loaded.origins}
    return Inspected(
        versions={
            "python": f"{platform.python_version()} ({sys.executable})",
            "platform": f"{current_platform()} ({platform.platform()})",
            **{name: _version(name) for name in _DISTRIBUTIONS},
        },
        paths={
            "environments": str(paths.envs),
            "state": str(paths.root),
            "usage log": str(paths.database),
            "engine logs": str(paths.logs),
            "packages": str(world.packages),
            "configuration": str(paths.config_file),
            "trust": str(trust_directory(world.environ)),
        },
        engines=tuple(find_engines(world.environ, with_versions=True)),
        engine=chosen_engine(world),
        variables=tuple(
            sorted(name for name in world.environ if name.startswith(("CONDA_", "MAMBA_")) or name in settings)
        ),
    )


def _version(distribution: str) -> str:
    try:
        return installed_version(distribution)
    except PackageNotFoundError:
        return "not installed"

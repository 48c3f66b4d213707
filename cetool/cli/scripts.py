"""``cetool show`` and ``cetool info``: what cetool understands, and what it would do."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.baseline_options import BaselineOptions
from cetool.app.execution import RunOptions, read_locked_declaration
from cetool.app.program import entrypoint_place
from cetool.app.session import Session
from cetool.app.sources import Source, open_source
from cetool.base.errors import CetoolError
from cetool.base.urls import redact
from cetool.cli import options
from cetool.cli.environments import spec_document
from cetool.cli.options import option
from cetool.cli.output import flow, print_json, print_line, print_table
from cetool.declare.environment import EnvironmentSpec, Exact
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.platforms import current_platform
from cetool.engines.discovery import find_engines
from cetool.launch.entrypoint import parse_entrypoint
from cetool.launch.programs import resolve_command
from cetool.settings.paths import trust_directory
from cetool.settings.settings import variable_of
from cetool.store.scripts import ScriptStore

SHOW_SCHEMA = "cetool.show/1"
INFO_SCHEMA = "cetool.info/1"

#: The distributions whose versions a bug report needs.
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


@dataclass(frozen=True)
class ShowOptions(options.Remote, options.Lock, options.Baseline):
    """The options of ``cetool show``."""

    engine: options.EngineName = None
    channel: options.Channels = None
    extra: Annotated[list[str] | None, option("--with", metavar="SPEC", help="A package besides those declared.")] = (
        None
    )
    env_file: options.EnvFile = None
    exclude_newer: options.ExcludeNewer = None
    as_json: options.AsJson = False
    offline: options.Offline = False


@options.command
def show(
    target: Annotated[str, typer.Argument(metavar="SCRIPT", help="A path, a URL, or - for standard input.")],
    *,
    given: ShowOptions,
) -> None:
    """Show what was read from a script: its environment, and how it would be made and run."""
    session = options.open_session(given)
    source = open_source(target, session, insecure=given.insecure, sha256=given.sha256)
    on = BaselineOptions.of(given.baseline, given.without, insecure=given.insecure)
    how = RunOptions(
        tuple(given.extra or ()), given.env_file, lock=given.choice, exclude_newer=given.exclude_newer, baselines=on
    )
    metadata, spec, locked_by = read_locked_declaration(source, session, how)
    if metadata.entrypoint is not None:
        # what is wrong with it is told here, too
        parse_entrypoint(metadata.entrypoint, entrypoint_place(metadata, source.script))
    document = {**_shown(metadata, spec, session, source), "lock": locked_by, **_baselines(session)}
    if given.as_json:
        print_json(document)
        return
    lines = metadata.lines
    place = "" if lines is None else f", lines {lines[0]} to {lines[1]}"
    place = place if metadata.cell is None else f", cell {metadata.cell}{place}"
    needs, what = metadata.requirements, spec.what
    count = len(what.conda) + len(what.pypi) if isinstance(what, Exact) else 0
    rows = [
        ("script", source.script.name),
        ("sha256", source.sha256 if source.origin is not None else ""),
        ("dialect", f"{metadata.dialect}{place}"),
        ("channels", flow(spec.channels) if spec.channels else ""),
        ("env", flow(needs.packages) if spec.overlay is None else ""),
        ("pip", flow(needs.pypi) if needs.pypi and spec.overlay is None else ""),
        ("settings", _pypi_settings(spec)),
        ("base", spec.overlay.base if spec.overlay else ""),
        ("overlay", flow(spec.overlay.requirements) if spec.overlay else ""),
        ("conda", flow(spec.overlay.conda) if spec.overlay and spec.overlay.conda else ""),
        ("lock", f"{locked_by} ({count} packages)" if locked_by else ""),
        *_baseline_rows(session),
        ("as of", spec.exclude_newer or ""),
        *((key, value if isinstance(value, str) else flow(value)) for key, value in spec.solving.as_dict().items()),
        ("variables", flow([f"{key}={value}" for key, value in needs.variables]) if needs.variables else ""),
        ("prefix", f"{document['prefix']} ({'made' if document['exists'] else 'not made yet'})"),
        ("engine", f"{document['engine']}: {document['engine_reason']}"),
        ("kernel", metadata.language or ""),
        ("run_with", _run_with(metadata)),
        ("entrypoint", metadata.entrypoint or ""),
        ("command", " ".join(_command(metadata, session, spec, source))),
    ]
    for key, value in rows:
        if value:
            print_line(f"{key + ':':12}{value}")


def _pypi_settings(spec: EnvironmentSpec) -> str:
    """The settings of ``[tool.uv]`` and the like, by the names that uv has for them."""
    settings = dict(spec.pypi_settings.as_dict())
    settings |= settings.pop("options", {})
    return ", ".join(f"{key} = {value if isinstance(value, str) else flow(value)}" for key, value in settings.items())


def _run_with(metadata: ScriptMetadata) -> str:
    if metadata.run_with:
        return flow(metadata.run_with)
    return f"none: {metadata.undecided}" if metadata.undecided else ""


def _shown(metadata: ScriptMetadata, spec: EnvironmentSpec, session: Session, source: Source) -> dict[str, object]:
    engine, reason = _engine(session)
    lines = metadata.lines
    store = session.store_of(spec)
    marker = next((item.marker for item in store.directories(spec.name) if item.marker is not None), None)
    overlay = spec.overlay
    return {
        "schema": SHOW_SCHEMA,
        "script": source.script.name,
        "sha256": source.sha256,
        "dialect": metadata.dialect,
        "cell": metadata.cell,
        "lines": None if lines is None else list(lines),
        "name": spec.name,
        "digest": spec.digest,
        "prefix": str(store.prefix(spec.name)),
        "exists": marker is not None,
        **spec_document(spec),
        "base": None if overlay is None else overlay.base,
        "overlay": [] if overlay is None else list(map(redact, overlay.requirements)),
        "conda": [] if overlay is None else list(map(redact, overlay.conda)),
        "engine": engine,
        "engine_reason": reason,
        "kernel": metadata.language,
        "run_with": None if metadata.run_with is None else list(metadata.run_with),
        "entrypoint": metadata.entrypoint,
        "command": _command(metadata, session, spec, source),
    }


def _baselines(session: Session) -> dict[str, object]:
    """The baselines that the environment starts from, and what becomes of them."""
    on = session.on_baselines
    if on is None:
        return {"baselines": [], "baseline_packages": None, "without": [], "added": []}
    return {
        "baselines": [each.shown for each in on.baselines],
        "baseline_packages": len(on.combined.conda) + len(on.combined.pypi),
        "without": list(on.combined.removed),
        "added": list(map(redact, on.added)),
    }


def _baseline_rows(session: Session) -> list[tuple[str, str]]:
    on = session.on_baselines
    if on is None:
        return []
    count = len(on.combined.conda) + len(on.combined.pypi)
    return [
        ("baseline", f"{flow([each.shown for each in on.baselines])} ({count} packages)"),
        ("without", flow(on.combined.removed) if on.combined.removed else ""),
        ("added", flow(list(map(redact, on.added))) if on.added else ""),
    ]


def _kernel_command(metadata: ScriptMetadata, session: Session, prefix: Path) -> list[str]:
    from cetool.launch.activation import read_activation
    from cetool.launch.kernels import find_kernel, kernel_command

    try:
        kernel = find_kernel(prefix, metadata.language or "", metadata.kernel)
        activation = read_activation(prefix, {}, user_site=session.settings.user_site)
        return list(kernel_command(kernel, activation, session.environ, "{connection_file}").argv)
    except CetoolError:
        return []


def _engine(session: Session) -> tuple[str | None, str]:
    try:
        engine, reason = session.engine
    except CetoolError as error:
        return None, str(error)
    return f"{engine.name} {engine.version}", reason


def _command(metadata: ScriptMetadata, session: Session, spec: EnvironmentSpec, source: Source) -> list[str]:
    """The command line, its program as it will be found; as declared where the environment is not made yet.

    A script that is not a file here gets the path that a run keeps it at. Of a notebook it is the command of its
    kernel, which only the environment can tell.
    """
    if metadata.language is not None:
        return _kernel_command(metadata, session, session.store.prefix(spec.name))
    if metadata.run_with is None:
        return [] if metadata.entrypoint is None else [metadata.entrypoint]
    path = metadata.path
    if source.data is not None:
        path = str(ScriptStore(session.paths.scripts).path_of(source.data, source.name))
    prefix = session.store_of(spec).prefix(spec.name)
    prefixes = (prefix,) if spec.overlay is None else (prefix, Path(spec.overlay.base))
    if prefix.is_dir():
        try:
            return [*resolve_command(metadata.run_with, session.environ, prefixes), path]
        except CetoolError:
            pass
    return [*metadata.run_with, path]


@dataclass(frozen=True)
class InfoOptions(options.Group):
    """The options of ``cetool info``."""

    as_json: options.AsJson = False
    engine: options.EngineName = None


@options.command
def info(*, given: InfoOptions) -> None:
    """Show versions, paths, engines and channels: what to attach to a bug report."""
    session = options.open_session(given)
    document = _info(session)
    if given.as_json:
        print_json(document)
        return
    versions, paths = document["versions"], document["paths"]
    assert isinstance(versions, dict) and isinstance(paths, dict)
    for key, value in versions.items():
        print_line(f"{key + ':':18}{value}")
    print_line()
    for key, value in paths.items():
        print_line(f"{key + ':':18}{value}")
    print_line()
    found = find_engines(session.environ, with_versions=True)
    print_table(
        ("ENGINE", "VERSION", "FOUND", "REMARK"),
        [(item.name, item.version or "-", item.path or item.how, item.problem or item.how) for item in found],
    )
    print_line()
    print_line(f"{'engine:':18}{document['engine'] or 'none'}: {document['engine_reason']}")
    print_line(f"{'channels:':18}{flow(session.default_channels)}")
    for file in session.condarc.sources:
        print_line(f"{'condarc:':18}{file}")
    for key, origin in session.loaded.origins.items():
        if origin.source != "built-in" and key != "channels":
            print_line(f"{'setting:':18}{key} is {origin.value} ({origin.source})")


def _info(session: Session) -> dict[str, object]:
    engine, reason = _engine(session)
    paths = session.paths
    condarc = session.condarc
    return {
        "schema": INFO_SCHEMA,
        "versions": {
            "python": f"{platform.python_version()} ({sys.executable})",
            "platform": f"{current_platform()} ({platform.platform()})",
            **{name: _version(name) for name in _DISTRIBUTIONS},
        },
        "paths": {
            "environments": str(paths.envs),
            "state": str(paths.root),
            "usage log": str(paths.database),
            "engine logs": str(paths.logs),
            "packages": str(session.packages),
            "configuration": str(paths.config_file),
            "trust": str(trust_directory(session.environ)),
        },
        "engines": [
            {
                "name": item.name,
                "version": item.version,
                "path": item.path,
                "how": item.how,
                "problem": item.problem,
            }
            for item in find_engines(session.environ, with_versions=True)
        ],
        "engine": engine,
        "engine_reason": reason,
        "channels": [redact(channel) for channel in session.default_channels],
        "channel_alias": redact(condarc.channel_alias),
        "condarc": list(condarc.sources),
        "variables": sorted(
            name
            for name in session.environ
            if name.startswith(("CONDA_", "MAMBA_")) or name in {variable_of(key) for key in session.loaded.origins}
        ),
    }


def _version(distribution: str) -> str:
    try:
        return installed_version(distribution)
    except PackageNotFoundError:
        return "not installed"

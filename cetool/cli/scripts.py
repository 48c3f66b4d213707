"""``cetool show`` and ``cetool info``: show what cetool reads and what it would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from cetool.app.decision import BaselineOptions, OnBaselines, Wish
from cetool.app.describing import Described, Inspected, describe, inspect
from cetool.app.names import named_target
from cetool.app.reporting import flow
from cetool.app.world import World
from cetool.base.durations import as_of
from cetool.base.text import counted
from cetool.base.urls import redact
from cetool.cli import completing, options
from cetool.cli.listing import show_environment, spec_document
from cetool.cli.output import print_json, print_line
from cetool.declare.environment import EnvironmentSpec, Exact
from cetool.declare.metadata import ScriptMetadata

SHOW_SCHEMA = "cetool.show/1"
INFO_SCHEMA = "cetool.info/1"


@dataclass(frozen=True)
class ShowOptions(options.Remote, options.Lock, options.Baseline):
    """The options of ``cetool show``."""

    engine: options.EngineName = options.with_help("Show how this engine would create the environment.")
    channel: options.Channels = None
    extra: options.With = options.with_help("Show the environment with this package added.")
    env_file: options.EnvFile = None
    exclude_newer: options.ExcludeNewer = None
    as_json: options.AsJson = False
    offline: options.Offline = False


@options.command
def show(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SCRIPT|NAME",
            autocompletion=completing.scripts,
            help="A script's path or URL, - for standard input, or an environment.",
        ),
    ],
    *,
    given: ShowOptions,
) -> None:
    """Show what a script declares and how it would run."""
    world, voice = options.open_world(given)
    named = named_target(target, world)
    if named is not None:
        show_environment(named.prefix, world, voice, as_json=given.as_json)
        return
    on = BaselineOptions.of(given.baseline, given.without, insecure=given.insecure)
    wish = Wish(tuple(given.extra or ()), given.env_file, given.choice, given.exclude_newer, on)
    shown = describe(target, wish, world, voice, insecure=given.insecure, sha256=given.sha256)
    if given.as_json:
        print_json(_document(shown))
        return
    for key, value in _rows(shown):
        if value:
            print_line(f"{key + ':':12}{value}")


def _rows(shown: Described) -> list[tuple[str, str]]:
    metadata, spec, source = shown.decision.metadata, shown.decision.spec, shown.source
    exact = spec.what if isinstance(spec.what, Exact) else Exact(())
    count = len(exact.conda) + len(exact.pypi)
    locked_by, lines, needs = shown.decision.locked_by, metadata.lines, metadata.requirements
    place = "" if lines is None else f", lines {lines[0]} to {lines[1]}"
    place = place if metadata.cell is None else f", cell {metadata.cell}{place}"
    return [
        ("script", source.script.name),
        ("sha256", source.sha256 if source.remote is not None else ""),
        ("dialect", f"{metadata.dialect}{place}"),
        ("channels", flow(spec.channels) if spec.channels else ""),
        ("env", flow(needs.packages) if spec.overlay is None else ""),
        ("pip", flow(needs.pypi) if needs.pypi and spec.overlay is None else ""),
        ("settings", _pypi_settings(spec)),
        ("base", spec.overlay.base if spec.overlay else ""),
        ("overlay", flow(spec.overlay.requirements) if spec.overlay else ""),
        ("conda", flow(spec.overlay.conda) if spec.overlay and spec.overlay.conda else ""),
        ("lock", f"{locked_by} ({counted(count, 'package')})" if locked_by else ""),
        *_baseline_rows(shown.decision.on_baselines),
        ("as of", as_of(spec.exclude_newer) if spec.exclude_newer else ""),
        *((key, value if isinstance(value, str) else flow(value)) for key, value in spec.solving.as_dict().items()),
        ("variables", flow([f"{key}={value}" for key, value in needs.variables]) if needs.variables else ""),
        ("prefix", f"{shown.place.prefix} ({'exists' if shown.place.exists else 'does not exist yet'})"),
        ("engine", f"{shown.engine.name}: {shown.engine.reason}"),
        ("kernel", metadata.language or ""),
        ("run_with", _run_with(metadata)),
        ("entrypoint", metadata.entrypoint or ""),
        ("command", " ".join(shown.command)),
    ]


def _pypi_settings(spec: EnvironmentSpec) -> str:
    """Return the settings of ``[tool.uv]`` and similar tables, under uv's names."""
    settings = dict(spec.pypi_settings.as_dict())
    settings |= settings.pop("options", {})
    return ", ".join(f"{key} = {value if isinstance(value, str) else flow(value)}" for key, value in settings.items())


def _run_with(metadata: ScriptMetadata) -> str:
    if metadata.run_with:
        return flow(metadata.run_with)
    return f"none: {metadata.undecided}" if metadata.undecided else ""


def _document(shown: Described) -> dict[str, object]:
    metadata, spec, source = shown.decision.metadata, shown.decision.spec, shown.source
    lines, overlay, on = metadata.lines, spec.overlay, shown.decision.on_baselines
    return {
        "schema": SHOW_SCHEMA,
        "script": source.script.name,
        "sha256": source.sha256,
        "dialect": metadata.dialect,
        "cell": metadata.cell,
        "lines": None if lines is None else list(lines),
        "name": spec.name,
        "digest": spec.digest,
        "prefix": str(shown.place.prefix),
        "exists": shown.place.exists,
        **spec_document(spec),
        "base": None if overlay is None else overlay.base,
        "overlay": [] if overlay is None else list(map(redact, overlay.requirements)),
        "conda": [] if overlay is None else list(map(redact, overlay.conda)),
        "engine": shown.engine.name,
        "engine_reason": shown.engine.reason,
        "kernel": metadata.language,
        "run_with": None if metadata.run_with is None else list(metadata.run_with),
        "entrypoint": metadata.entrypoint,
        "command": list(shown.command),
        "lock": shown.decision.locked_by,
        "baselines": [] if on is None else list(on.named),
        "baseline_packages": None if on is None else on.packages,
        "without": [] if on is None else list(on.removed),
        "added": [] if on is None else list(map(redact, on.added)),
    }


def _baseline_rows(on: OnBaselines | None) -> list[tuple[str, str]]:
    if on is None:
        return []
    return [
        ("baseline", f"{flow(on.named)} ({counted(on.packages, 'package')})"),
        ("without", flow(on.removed) if on.removed else ""),
        ("added", flow(list(map(redact, on.added))) if on.added else ""),
    ]


@dataclass(frozen=True)
class InfoOptions(options.Group):
    """The options of ``cetool info``."""

    as_json: options.AsJson = False
    engine: options.EngineName = options.with_help("Show whether this engine can be used.")


@options.command
def info(*, given: InfoOptions) -> None:
    """Show versions, paths and engines for bug reports."""
    world, _ = options.open_world(given)
    from cetool.cli.settings import setting_text  # `cetool show` needs none of it

    found = inspect(world)
    if given.as_json:
        print_json(_info_document(found, world))
        return
    for rows in (found.versions, found.paths):
        for key, value in rows.items():
            print_line(f"{key + ':':18}{value}")
        print_line()
    for item in found.engines:
        facts = (
            [item.problem.removeprefix(f"{item.name} ")]
            if item.problem
            else [item.version, f"({item.path or item.how})"]
        )
        print_line(f"{item.name + ':':18}{' '.join(filter(None, facts))}")
    print_line()
    print_line(f"{'engine:':18}{found.engine.name or 'none'}: {found.engine.reason}")
    print_line(f"{'channels:':18}{flow(world.default_channels)}")
    for file in world.condarc.sources:
        print_line(f"{'condarc:':18}{file}")
    for key, origin in world.loaded.origins.items():
        if origin.source != "built-in" and key != "channels":
            print_line(f"{'setting:':18}{key} = {setting_text(key, origin.value)} ({origin.source})")


def _info_document(found: Inspected, world: World) -> dict[str, object]:
    return {
        "schema": INFO_SCHEMA,
        "versions": found.versions,
        "paths": found.paths,
        "engines": [
            {
                "name": item.name,
                "version": item.version,
                "path": item.path,
                "how": item.how,
                "problem": item.problem,
            }
            for item in found.engines
        ],
        "engine": found.engine.name,
        "engine_reason": found.engine.reason,
        "channels": [redact(channel) for channel in world.default_channels],
        "channel_alias": redact(world.condarc.channel_alias),
        "condarc": list(world.condarc.sources),
        "variables": list(found.variables),
    }

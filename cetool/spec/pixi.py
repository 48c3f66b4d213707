"""``[tool.pixi]`` in a script's TOML block, read as pixi reads it as far as one environment goes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from cetool.spec.dependencies import PIXI_FIELDS, conda_dependencies
from cetool.spec.environment import Ignored, Requirements
from cetool.spec.nodes import Node, channels_of, nearest, shorten
from cetool.spec.pixi_keys import (
    TABLE_KEYS,
    TOP_KEYS,
    WORKSPACE_KEYS,
    check_keys,
    declared_names,
    read_activation,
    read_constraints,
    read_workspace,
    target_names,
)
from cetool.spec.platforms import FAMILIES, PLATFORMS
from cetool.spec.pypi_settings import PypiSettings
from cetool.spec.pypi_tables import read_pixi_options, read_pixi_pypi

_ONE_WORKSPACE = "Keep [tool.pixi.workspace]: 'project' is its former name."


def read_pixi(root: Node, *, platform: str, base_dir: str | os.PathLike[str]) -> Requirements:
    """What ``[tool.pixi]`` asks for on ``platform``.

    Raises MetadataError, also for what cetool does not do: :data:`cetool.spec.pixi_keys.KEYS` lists that.
    """
    keys = root.as_mapping("[tool.pixi]")
    warnings = check_keys(keys, TOP_KEYS, "tool.pixi")
    found = Requirements()
    settings = PypiSettings()
    own: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    if "project" in keys and "workspace" in keys:
        keys["project"].fail("[tool.pixi] has both 'project' and 'workspace', of which pixi reads one", _ONE_WORKSPACE)
    for title in ("project", "workspace"):
        if title not in keys:
            continue
        what = f"tool.pixi.{title}"
        table = keys[title].as_mapping(f"[{what}]")
        check_keys(table, WORKSPACE_KEYS, what)
        wanted, own = read_workspace(table, what, platform)
        known += declared_names(table.get("platforms"))
        if "pypi-options" in table:
            settings = settings.plus(read_pixi_options(table["pypi-options"], f"{what}.pypi-options", base_dir))
        found = found.plus(wanted._replace(channels=channels_of(table.get("channels"), base_dir, f"{what}.channels")))
    constraints: dict[str, str] = {}
    packages: dict[str, str] = {}
    pypi: dict[str, Requirements] = {}
    for title, layer in _layers(keys, platform, own, known, warnings):
        constraints |= read_constraints(layer.get("constraints"), title, platform)
        found = found.plus(Requirements(variables=read_activation(layer.get("activation"), title)))
        for key, value in layer.items():
            what = f"[{title}.{key}]"
            if key == "dependencies":
                packages |= conda_dependencies(
                    value.as_mapping(what), platform=platform, base_dir=base_dir, known=PIXI_FIELDS
                )
            elif key == "pypi-dependencies":
                pypi |= read_pixi_pypi(value, base_dir)
    if "pypi-options" in keys:
        settings = settings.plus(read_pixi_options(keys["pypi-options"], "tool.pixi.pypi-options", base_dir))
    for each in pypi.values():
        settings = settings.plus(each.pypi_settings)
    return found._replace(
        packages=tuple(packages.values()),
        pypi=tuple(text for each in pypi.values() for text in each.pypi),
        pypi_settings=settings,
        warnings=tuple(warnings),
        solving=found.solving._replace(constraints=tuple(sorted(constraints.values()))),
    )


def _layers(
    keys: Mapping[str, Node], platform: str, own: Sequence[str], known: Sequence[str], warnings: list[Ignored]
) -> list[tuple[str, Mapping[str, Node]]]:
    """The tables that count here, the most general first, so that the later replace the earlier, with their titles.

    ``own`` are the names that the script gives this platform, ``known`` all that it gives to platforms.
    """
    layers = [("tool.pixi", keys)]
    if "target" not in keys:
        return layers
    targets = keys["target"].as_mapping("[tool.pixi.target]")
    names = (*FAMILIES, *PLATFORMS, *known)
    for name, target in targets.items():
        if name not in names:
            target.fail(f"tool.pixi.target.{shorten(name)} is no platform", nearest(name, names))
        title = f"tool.pixi.target.{name}"
        table = target.as_mapping(f"[{title}]")
        warnings += check_keys(table, TABLE_KEYS, title)
        read_activation(table.get("activation"), title)  # what is wrong on one platform is an error on all
    for name in target_names(platform, own):
        if name in targets:
            layers.append((f"tool.pixi.target.{name}", targets[name].entries))
    return layers

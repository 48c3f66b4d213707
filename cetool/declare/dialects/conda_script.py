"""Dialect 3: ``/// conda-script``, the draft of a standard for scripts in any language (prefix-dev/pixi issue 3751)."""

from __future__ import annotations

from cetool.base.errors import MetadataError
from cetool.base.text import nearest, shorten
from cetool.declare.blocks import Block
from cetool.declare.channels import channels_of
from cetool.declare.dialects.conda_execute import read_own_keys
from cetool.declare.dialects.dependencies import conda_dependencies
from cetool.declare.dialects.pixi import read_pixi, refuse_partial
from cetool.declare.environment import Requirements
from cetool.declare.nodes import Node
from cetool.declare.platforms import FAMILIES, PLATFORMS, current_platform, selectors
from cetool.declare.source import Script
from cetool.declare.toml import parse_toml

KEYS = ("channels", "entrypoint", "dependencies", "tool")


def read_conda_script(
    block: Block, script: Script, *, platform: str | None = None
) -> tuple[Requirements, tuple[str, ...] | None, str | None]:
    """The requirements, the command and the entry point of a block. Raises MetadataError."""
    root = parse_toml(block.content, block.numbers, name=script.name, first=block.first)
    return read_conda_script_keys(root, script, platform=platform)


def read_conda_script_keys(
    root: Node, script: Script, *, platform: str | None = None
) -> tuple[Requirements, tuple[str, ...] | None, str | None]:
    """The same of its keys; the command or the entry point is None, or both.

    ``platform`` is this machine's where None. ``[tool.cetool] run_with`` takes the place of the entry point. Raises
    MetadataError.
    """
    platform = platform or current_platform()
    keys = root.as_mapping("the '/// conda-script' block", KEYS)
    channels = channels_of(keys.get("channels"), script.directory)
    if channels is None:
        raise MetadataError(
            "the '/// conda-script' block names no channels, which it must",
            where=keys["channels"].where if "channels" in keys else root.where,
            hint='Add a line channels = ["conda-forge"].',
        )
    packages: dict[str, str] = {}
    if "dependencies" in keys:
        table = keys["dependencies"].as_mapping("[dependencies]")
        packages = conda_dependencies(table, platform=platform, base_dir=script.directory)
    requirements = Requirements(packages=tuple(packages.values()), channels=channels)
    tools = keys["tool"].as_mapping("[tool]") if "tool" in keys else {}
    run_with: tuple[str, ...] | None = None
    if "pixi" in tools:
        pixi = read_pixi(tools["pixi"], platform=platform, base_dir=script.directory)
        if pixi.channels is not None and pixi.channels != channels:
            places = (tools["pixi"].below(title, "channels") for title in ("workspace", "project"))
            node = next(node for node in places if node is not None)
            node.fail(
                "the block and its [tool.pixi] name different channels",
                "Name them once: in the block's own key 'channels', which every tool reads.",
            )
        requirements = requirements.plus(pixi)
    if "cetool" in tools:
        own = read_own_keys(tools["cetool"], "[tool.cetool]", script.directory, table=True)
        requirements, run_with = requirements.plus(own.requirements), own.run_with
    refuse_partial(requirements, root.where)
    entrypoint = _entrypoint(keys.get("entrypoint"), platform)
    if run_with is not None:
        entrypoint = None
    return requirements, run_with, entrypoint


def _entrypoint(node: Node | None, platform: str) -> str | None:
    """The command for this platform: of a table's keys, the most specific. None where there is no entry point."""
    if node is None:
        return None
    if node.kind != "mapping":
        return node.as_text("entrypoint", 'Write it as in entrypoint = "python ${SCRIPT}".')
    known = (*FAMILIES, *PLATFORMS)
    for key, value in node.entries.items():
        if key not in known:
            value.fail(f"entrypoint.{shorten(key)} is no platform", nearest(key, known), code="platform-invalid")
        value.as_text(f"entrypoint.{key}")
    for key in selectors(platform):
        if key in node.entries:
            return node.entries[key].text
    node.fail(
        f"there is no entrypoint for {platform}, only for {', '.join(node.entries) or 'nothing'}",
        f"Add one for {' or '.join(selectors(platform))}.",
    )

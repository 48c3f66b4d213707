"""Read dialect 3, ``/// conda-script``: the draft of a standard for scripts in any language (prefix-dev/pixi issue
3751).
"""

from __future__ import annotations

from collections.abc import Sequence

from cetool.base.errors import MetadataError
from cetool.base.text import nearest, pattern, shorten
from cetool.declare.blocks import CONDA_SCRIPT, Block, Broken, Declaration
from cetool.declare.channels import channels_of
from cetool.declare.dialects.conda_execute import read_own_keys
from cetool.declare.dialects.dependencies import conda_dependencies
from cetool.declare.dialects.pixi import read_pixi, refuse_partial
from cetool.declare.nodes import Node
from cetool.declare.platforms import FAMILIES, PLATFORMS, current_platform, selectors
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script
from cetool.declare.toml import parse_toml

KEYS = ("channels", "entrypoint", "dependencies", "tool")
_OPEN = pattern(r"(?P<prefix>[^\n]*?)/// conda-script[ \t]*")


def find_blocks(lines: list[str], script: Script, _: Sequence[Block | Broken]) -> list[Block | Broken]:
    """Return the blocks from ``<comment> /// conda-script`` to ``<comment> /// end-conda-script``."""
    blocks: list[Block | Broken] = []
    index = 0
    while index < len(lines):
        first = index
        index += 1
        comment = _comment_of(lines[first])
        if comment is None:
            continue
        content: list[str] = []
        ended = ""
        while index < len(lines) and (line := lines[index].lstrip()).startswith(comment):
            rest = line[len(comment) :]
            if rest.strip() in ("/// end-conda-script", "/// conda-script"):
                ended = rest.strip()
                break
            content.append(rest.removeprefix(" ").rstrip())
            index += 1
        if ended == "/// end-conda-script":
            numbers = tuple(range(first + 2, index + 1))
            blocks.append(Block(CONDA_SCRIPT, first + 1, index + 1, tuple(content), numbers))
            index += 1
        else:
            error = _unclosed(script, first + 1, index + 1 if index < len(lines) else None, comment)
            blocks.append(Broken(CONDA_SCRIPT, first + 1, error))
    return blocks


def _comment_of(line: str) -> str | None:
    """Return the comment characters of a line that opens a conda-script block, None for any other line."""
    if "/// conda-script" not in line:
        return None
    opened = _OPEN.fullmatch(line)
    comment = "" if opened is None else opened["prefix"].strip()
    # letters or digits before the mark: it is in code or in a sentence
    return comment if comment and not any(char.isalnum() or char in " \t" for char in comment) else None


def _unclosed(script: Script, first: int, broken: int | None, comment: str) -> MetadataError:
    """Return the error for a conda-script block without a closing line."""
    message = f"the '/// conda-script' block that opens at line {first} is "
    if broken is None:
        message += "never closed"
    else:
        message += f"not closed before line {broken}, which is not part of it"
    hint = f"Start each of its lines with '{comment}' and close it with a line '{comment} /// end-conda-script'."
    return MetadataError(message, where=script.at(broken or first), hint=hint)


def read_block(block: Block, script: Script, platform: str | None = None) -> Declaration:
    """Return what a block declares on a platform (None: this one). Raises MetadataError."""
    root = parse_toml(block.content, block.numbers, name=script.name, first=block.first)
    return read_keys(root, script, platform)


def read_keys(root: Node, script: Script, platform: str | None = None) -> Declaration:
    """Return what its keys declare. ``[tool.cetool] run_with`` replaces the entry point. Raises MetadataError."""
    platform = platform or current_platform()
    keys = root.as_mapping("the '/// conda-script' block", KEYS)
    channels = channels_of(keys.get("channels"), script.directory)
    if channels is None:
        raise MetadataError(
            "the '/// conda-script' block has no channels, which are required",
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
                "the block and its [tool.pixi] have different channels",
                "Keep only the block's own key 'channels', which every tool reads.",
            )
        requirements = requirements.plus(pixi)
    if "cetool" in tools:
        own = read_own_keys(tools["cetool"], "[tool.cetool]", script.directory, table=True)
        requirements, run_with = requirements.plus(own.requirements), own.run_with
    refuse_partial(requirements, root.where)
    entrypoint = _entrypoint(keys.get("entrypoint"), platform)
    return Declaration(requirements, run_with, entrypoint if run_with is None else None)


def _entrypoint(node: Node | None, platform: str) -> str | None:
    """Return the command for this platform, the most specific one of a table; None if there is no entry point."""
    if node is None:
        return None
    if node.kind != "mapping":
        return node.as_text("entrypoint", 'Write it like entrypoint = "python ${SCRIPT}".')
    known = (*FAMILIES, *PLATFORMS)
    for key, value in node.entries.items():
        if key not in known:
            value.fail(
                f"entrypoint.{shorten(key)}: unknown platform {shorten(key)!r}",
                nearest(key, known),
                code="platform-invalid",
            )
        value.as_text(f"entrypoint.{key}")
    for key in selectors(platform):
        if key in node.entries:
            return node.entries[key].text
    node.fail(
        f"no entrypoint for {platform}" + (f", only for {', '.join(node.entries)}" if node.entries else ""),
        f"Add one for {' or '.join(selectors(platform))}.",
    )

"""Read dialect 2, ``# /// script``: the inline script metadata of PEP 723, with conda packages in ``tool`` tables."""

from __future__ import annotations

from collections.abc import Sequence

from cetool.base.text import pattern
from cetool.declare.blocks import PEP723, Block, Broken, Declaration
from cetool.declare.channels import channels_of
from cetool.declare.dialects.conda_execute import read_own_keys, read_packages
from cetool.declare.dialects.pixi import read_pixi, refuse_partial
from cetool.declare.dialects.uv import applied, read_uv
from cetool.declare.match_specs import requires_python_spec, spec_name
from cetool.declare.nodes import Node
from cetool.declare.platforms import current_platform
from cetool.declare.pypi import canonical_requirement
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script
from cetool.declare.toml import parse_toml

KEYS = ("requires-python", "dependencies", "tool")
_OPEN = pattern(r"# /// [a-zA-Z0-9-]+")


def find_blocks(lines: list[str], _: Script, found: Sequence[Block | Broken]) -> list[Block]:
    """Return the ``# /// script`` blocks that the regular expression of the inline script metadata standard finds.

    The expression is greedy: in an unbroken run of comment lines, the first line ``# /// TYPE`` opens a block and the
    last line ``# ///`` closes it. The expression requires a line between them; uv, pipx, conda-exec and this function
    do not: an empty block means python alone. Reading each run once finds the same blocks in linear time, where
    backtracking takes quadratic time on many unclosed ones.
    """
    lines = list(lines)
    for other in found:  # for the standard, '# /// conda-script' opens a block of that type
        last = other.last if isinstance(other, Block) else other.first
        lines[other.first - 1 : last] = [""] * (last - other.first + 1)
    blocks: list[Block] = []
    index = 0
    while index < len(lines):
        if not _is_content(lines[index]):
            index += 1
            continue
        start = index
        while index < len(lines) and _is_content(lines[index]):
            index += 1
        run = lines[start:index]
        opened = next((at for at, line in enumerate(run) if _OPEN.fullmatch(line)), len(run))
        closed = next((at for at in range(len(run) - 1, opened, -1) if run[at] == "# ///"), None)
        if closed is not None and run[opened] == f"# /// {PEP723}":
            first, last = start + opened + 1, start + closed + 1
            content = tuple(line[2:] for line in run[opened + 1 : closed])
            blocks.append(Block(PEP723, first, last, content, tuple(range(first + 1, last))))
    return blocks


def _is_content(line: str) -> bool:
    return line == "#" or line.startswith("# ")


def read_block(block: Block, script: Script, platform: str | None = None) -> Declaration:
    """Return what a block declares on a platform (None: this one). Raises MetadataError."""
    root = parse_toml(block.content, block.numbers, name=script.name, first=block.first)
    return read_keys(root, script, platform)


def read_keys(root: Node, script: Script, platform: str | None = None) -> Declaration:
    """Return what its keys declare. Raises MetadataError.

    The script is Python, so python is always among the packages, unless it runs in a server's environment. If several
    tool tables have channels, ``[tool.cetool]`` wins over ``[tool.conda]``, and that over ``[tool.pixi]``.
    """
    keys = root.as_mapping("the '# /// script' block", KEYS)
    requirements = _standard_keys(root, script)
    tools = keys["tool"].as_mapping("[tool]") if "tool" in keys else {}
    run_with: tuple[str, ...] | None = None
    if "pixi" in tools:
        pixi = read_pixi(tools["pixi"], platform=platform or current_platform(), base_dir=script.directory)
        requirements = requirements.plus(pixi)
    if "conda" in tools:
        table = tools["conda"].as_mapping("[tool.conda]", ("channels", "dependencies"))
        conda = read_packages(table.get("dependencies"), "tool.conda.dependencies", script.directory)
        channels = channels_of(table.get("channels"), script.directory, "tool.conda.channels")
        requirements = requirements.plus(conda._replace(channels=channels))
    if "cetool" in tools:
        own = read_own_keys(tools["cetool"], "[tool.cetool]", script.directory, table=True)
        requirements, run_with = requirements.plus(own.requirements), own.run_with
    if "uv" in tools:
        requirements = applied(requirements, read_uv(tools["uv"], base_dir=script.directory))
    if requirements.environment is None and not any(spec_name(spec) == "python" for spec in requirements.packages):
        requirements = Requirements(packages=("python",)).plus(requirements)
    refuse_partial(requirements, root.where)
    return Declaration(requirements, run_with)


def _standard_keys(root: Node, script: Script) -> Requirements:
    """Return the requirements in the keys of the standard."""
    packages: tuple[str, ...] = ()
    python = root.below("requires-python")
    if python is not None:
        hint = 'Write it like requires-python = ">=3.11".'
        packages = (requires_python_spec(python.as_text("requires-python", hint), where=python.where),)
    listed = root.below("dependencies")
    hint = 'Write it like dependencies = ["requests>=2.31"].'
    items = () if listed is None else listed.as_list("dependencies", hint)
    pypi = tuple(
        canonical_requirement(item.as_text("an entry of dependencies"), where=item.where, base_dir=script.directory)
        for item in items
    )
    return Requirements(packages=packages, pypi=pypi)

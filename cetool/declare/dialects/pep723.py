"""Dialect 2: ``# /// script``, the inline script metadata of PEP 723, with conda's part in its ``tool`` tables."""

from __future__ import annotations

from cetool.declare.blocks import Block
from cetool.declare.channels import channels_of
from cetool.declare.dialects.conda_execute import read_own_keys, read_packages
from cetool.declare.dialects.pixi import read_pixi, refuse_partial
from cetool.declare.environment import Requirements
from cetool.declare.match_specs import requires_python_spec, spec_name
from cetool.declare.nodes import Node
from cetool.declare.platforms import current_platform
from cetool.declare.pypi import canonical_requirement
from cetool.declare.source import Script
from cetool.declare.toml import parse_toml

KEYS = ("requires-python", "dependencies", "tool")


def read_pep723(
    block: Block, script: Script, *, platform: str | None = None
) -> tuple[Requirements, tuple[str, ...] | None]:
    """The requirements, and the command if it names one, of a ``# /// script`` block. Raises MetadataError."""
    root = parse_toml(block.content, block.numbers, name=script.name, first=block.first)
    return read_pep723_keys(root, script, platform=platform)


def read_pep723_keys(
    root: Node, script: Script, *, platform: str | None = None
) -> tuple[Requirements, tuple[str, ...] | None]:
    """The same of its keys. Raises MetadataError.

    ``platform`` is this machine's where None. The script is Python, so python is always among the packages. Where
    several tool tables name channels, ``[tool.cetool]`` wins over ``[tool.conda]``, and that over ``[tool.pixi]``.
    """
    keys = root.as_mapping("the '# /// script' block; the standard reserves others", KEYS)
    requirements = _standard_keys(root, script)
    tools = keys["tool"].as_mapping("[tool]") if "tool" in keys else {}
    run_with: tuple[str, ...] | None = None
    if "pixi" in tools:
        requirements = requirements.plus(
            read_pixi(tools["pixi"], platform=platform or current_platform(), base_dir=script.directory)
        )
    if "conda" in tools:
        requirements = requirements.plus(_read_conda(tools["conda"], script))
    if "cetool" in tools:
        own = read_own_keys(tools["cetool"], "[tool.cetool]", script.directory, table=True)
        requirements, run_with = requirements.plus(own.requirements), own.run_with
    if "uv" in tools:
        from cetool.declare.dialects.uv import applied, read_uv

        requirements = applied(requirements, read_uv(tools["uv"], base_dir=script.directory))
    if not any(spec_name(spec) == "python" for spec in requirements.packages):
        requirements = Requirements(packages=("python",)).plus(requirements)
    refuse_partial(requirements, root.where)
    return requirements, run_with


def _standard_keys(root: Node, script: Script) -> Requirements:
    """What the keys of the standard itself ask for."""
    packages: tuple[str, ...] = ()
    python = root.below("requires-python")
    if python is not None:
        hint = 'Write it as in requires-python = ">=3.11".'
        packages = (requires_python_spec(python.as_text("requires-python", hint), where=python.where),)
    listed = root.below("dependencies")
    hint = 'Write it as in dependencies = ["requests>=2.31"].'
    items = () if listed is None else listed.as_list("dependencies", hint)
    pypi = tuple(
        canonical_requirement(item.as_text("an entry of dependencies"), where=item.where, base_dir=script.directory)
        for item in items
    )
    return Requirements(packages=packages, pypi=pypi)


def _read_conda(root: Node, script: Script) -> Requirements:
    """``[tool.conda]``: two lists of texts."""
    keys = root.as_mapping("[tool.conda]", ("channels", "dependencies"))
    return read_packages(keys.get("dependencies"), "tool.conda.dependencies", script.directory)._replace(
        channels=channels_of(keys.get("channels"), script.directory, "tool.conda.channels"),
    )

"""Dialect 1: the ``# conda execute`` block, YAML with the keys ``env``, ``channels``, ``run_with`` and ``variables``.

Instead of ``env`` it may have ``base``, ``overlay`` and ``conda``: an existing environment, and what is laid over it.
``baseline`` and ``without`` name packages to start from, and which of those are left out.

``[tool.cetool]`` in the two TOML dialects holds the same keys and is read by the same functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from cetool.base.errors import MetadataError
from cetool.base.patterns import pattern
from cetool.base.text import shorten
from cetool.base.values import Value
from cetool.declare.blocks import Block
from cetool.declare.channels import channels_of, ends_channels
from cetool.declare.dialects.own_keys import KEYS, meant_key
from cetool.declare.environment import Ignored, Requirements
from cetool.declare.match_specs import canonical_spec
from cetool.declare.nodes import Node
from cetool.declare.source import Script
from cetool.declare.yaml import parse_yaml

_VARIABLE = pattern(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_ENVIRONMENT = "no environment was found in the '# conda execute' specification"
_ADD_ENV = "Say what the script needs: a line '# env:' and below it one match spec a line, '#  - python >=3'."


_END = "An empty line ends the block: put one in front of a comment that follows it."


class OwnKeys(Value):
    """What our own keys say: the requirements, and the command where one is named."""

    requirements: Requirements = Requirements()
    run_with: tuple[str, ...] | None = None


def read_conda_execute(block: Block, script: Script) -> tuple[Requirements, tuple[str, ...] | None]:
    """The requirements, and the command if it names one, of a ``# conda execute`` block. Raises MetadataError."""
    root = read_tree(block, script)
    if root is None or root.kind == "nothing":
        raise MetadataError(_NO_ENVIRONMENT, code="block-missing", where=script.at(block.first), hint=_ADD_ENV)
    try:
        own = read_own_keys(root, "the '# conda execute' specification", script.directory)
    except MetadataError as error:
        last = block.numbers[-1] if block.numbers else None
        if error.where is None or error.where.line != last or _END in (error.hint or ""):
            raise
        # the last line may be a comment that follows the block
        raise error.but(hint=f"{error.hint or ''} {_END}".strip()) from None
    needs = own.requirements
    if not needs.packages and not needs.pypi and not needs.baselines and needs.overlay is None:
        raise MetadataError(_NO_ENVIRONMENT, code="block-missing", where=script.at(block.first), hint=_ADD_ENV)
    return own.requirements, own.run_with


def read_tree(block: Block, script: Script) -> Node | None:
    """The YAML of a ``# conda execute`` block; None where there is none.

    Raises MetadataError, also where a text goes on in the next line: that may be a comment.
    """
    try:
        root = parse_yaml(block.text, name=script.name, lines=block.numbers)
    except MetadataError as error:
        raise error.but(hint=f"{error.hint} {_END}" if error.hint else _END) from None
    for key in KEYS if root is not None else ():
        folded = root.entries[key].folded_part() if root is not None and key in root.entries else None
        if folded is not None:
            folded.fail(f"{shorten(folded.text)!r} goes over several lines", f"Write it in one line. {_END}")
    return root


def read_own_keys(root: Node, what: str, base_dir: str | os.PathLike[str], *, table: bool = False) -> OwnKeys:
    """What the keys of a specification say; relative paths start from ``base_dir``. Raises MetadataError.

    In a ``table`` (``[tool.cetool]``) every other key is an error, and the named channels are all there are. In a
    ``# conda execute`` block cetool passes over other keys, as conda-execute did, and the configured channels follow.
    """
    keys = root.as_mapping(what, KEYS if table else None)
    warnings = () if table else _unknown_keys(keys, what)
    overlay = None
    if any(key in keys for key in ("base", "overlay", "conda")):
        from cetool.declare.overlay import read_overlay_keys

        overlay = read_overlay_keys(keys, base_dir)
    listed = read_packages(keys.get("env"), "env", base_dir)
    if overlay is not None:
        from cetool.declare.overlay import refuse_packages

        refuse_packages(listed.packages, keys["base"].where)
    requirements = listed._replace(
        channels=channels_of(keys.get("channels"), base_dir),
        variables=read_variables(keys.get("variables")),
        warnings=warnings,
        overlay=overlay,
    )
    if not table and requirements.channels is not None:
        requirements = requirements._replace(configured=not ends_channels(keys["channels"]))
    if "baseline" in keys or "without" in keys:
        requirements = _with_baselines(requirements, keys, base_dir)
    return OwnKeys(requirements, _run_with(keys.get("run_with")))


def _unknown_keys(keys: Mapping[str, Node], what: str) -> tuple[Ignored, ...]:
    """What to say of the keys that nothing reads. Raises MetadataError for one that was meant to be a known one."""
    found = []
    for key, node in keys.items():
        if key in KEYS:
            continue
        meant = meant_key(key)
        if meant is not None:
            node.fail(
                f"unknown key {shorten(key)!r} in {what}",
                f"Did you mean {meant!r}? {_END}",
                code="key-unknown",
                about=key,
            )
        found.append(Ignored(f"unknown key {shorten(key)!r} in {what}: cetool passes over it", node.where))
    return tuple(found)


def _with_baselines(
    requirements: Requirements, keys: Mapping[str, Node], base_dir: str | os.PathLike[str]
) -> Requirements:
    from cetool.declare.baselines import read_baselines, read_without

    if requirements.overlay is not None:
        keys["baseline" if "baseline" in keys else "without"].fail(
            "'base' and 'baseline' exclude each other",
            "A base is an environment that is there, a baseline a list of packages to make one of.",
        )
    baselines, without = read_baselines(keys.get("baseline"), base_dir), read_without(keys.get("without"))
    if without and not baselines:
        keys["without"].fail(
            "'without' takes packages out of a baseline, and none is named",
            "Name one: baseline: https://example.org/envs/standard.txt",
        )
    return requirements._replace(baselines=baselines, without=without)


def read_packages(node: Node | None, what: str, base_dir: str | os.PathLike[str]) -> Requirements:
    """The match specs of a list, and what its ``pip:`` entries ask for, canonical. Raises MetadataError."""
    if node is None or node.kind == "nothing":
        return Requirements()
    packages: list[str] = []
    pip: list[Node] = []
    for item in node.as_list(what, "Write one match spec an entry: [python >=3, numpy]"):
        if item.kind == "mapping":
            pip += _pip_entry(item, what)
            continue
        hint = "A match spec starts with a name; put quotes around what YAML takes for something else."
        packages.append(canonical_spec(item.as_text(f"an entry of {what}", hint), where=item.where, base_dir=base_dir))
    if not pip:
        return Requirements(packages=tuple(packages))
    from cetool.declare.dialects.pip_lines import read_pip_lines

    return read_pip_lines(tuple(pip), base_dir)._replace(packages=tuple(packages))


def _pip_entry(item: Node, what: str) -> Iterable[Node]:
    for key, value in item.entries.items():
        if key != "pip":
            value.fail(
                f"an entry of {what} is a match spec, not a mapping: {shorten(key)!r}",
                f"Write '{shorten(key)} VERSION' without a colon; only 'pip:' is followed by a list.",
                code="match-spec-invalid",
            )
    requirements = item.entries.get("pip")
    if requirements is None or requirements.kind == "nothing":
        return []
    return requirements.as_list("pip", "Below 'pip:' write one PyPI requirement an entry.")


def read_variables(node: Node | None) -> tuple[tuple[str, str], ...]:
    """Names and values of environment variables; numbers and booleans count as written. Raises MetadataError."""
    if node is None or node.kind == "nothing":
        return ()
    pairs = []
    for name, value in node.as_mapping("variables").items():
        if not _VARIABLE.fullmatch(name) or len(name) > 1000:
            value.fail(
                f"{shorten(name)!r} cannot be the name of an environment variable",
                "It has letters, digits and underscores, and does not start with a digit.",
            )
        if value.kind in ("list", "mapping", "nothing"):
            value.fail(f"the variable {name} must be a text, not {value.in_words}", 'Write "" for an empty one.')
        if "\0" in value.text:
            value.fail(f"the variable {name} holds a NUL, which no environment can hold")
        if any("\ud800" <= char <= "\udfff" for char in value.text):
            value.fail(f"the variable {name} holds half of a character (a lone surrogate)", "Write the whole one.")
        pairs.append((name, value.text))
    return tuple(pairs)


def _run_with(node: Node | None) -> tuple[str, ...] | None:
    """The words of the command: a text is split on blanks, a list is taken as it is."""
    if node is None or node.kind == "nothing":
        return None
    if node.kind != "list":
        return tuple(node.as_text("run_with", "Write a command, as in python -u, or a list of its words.").split())
    words = tuple(item.text if item.kind == "number" else item.as_text("a word of run_with") for item in node.items)
    if not words:
        node.fail("run_with is empty", "Name the program that runs the script, or leave run_with out.")
    return words

"""Writes whole blocks: what a script needs and how it runs, in any dialect, in the comments of any language."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cetool.declare.blocks import CONDA_EXECUTE, CONDA_SCRIPT, PEP723
from cetool.declare.dialects.pip_lines import bare_requirement
from cetool.declare.nodes import Node
from cetool.edit import toml as edit_toml
from cetool.edit import yaml as edit_yaml
from cetool.edit.declared import package_name
from cetool.edit.lines import Edit
from cetool.edit.toml_entries import conda_entry, pypi_entry, python_specifier

_CETOOL = ("tool", "cetool")
_CONDA = ("tool", "conda")
_PIXI_PYPI = ("tool", "pixi", "pypi-dependencies")
_WORD = re.compile(r"[A-Za-z0-9_./=+:@%,-]+")


@dataclass(frozen=True)
class Wanted:
    """What a block is to say: texts as a user writes them, not canonical ones.

    ``channels`` and ``run_with`` are None where nothing is to be said of them.
    """

    packages: tuple[str, ...] = ()
    pypi: tuple[str, ...] = ()
    channels: tuple[str, ...] | None = None
    variables: tuple[tuple[str, str], ...] = ()
    run_with: tuple[str, ...] | None = None
    entrypoint: str | None = None
    comments: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def render(
    dialect: str, wanted: Wanted, *, comment: str, base_dir: str | os.PathLike[str], shared: str = ""
) -> list[str]:
    """The lines of a block, without line ends. ``shared`` is TOML that goes into it as it is: tables below ``tool``."""
    if dialect == CONDA_EXECUTE:
        return [f"{comment} conda execute", *(f"{comment} {line}" for line in _yaml(wanted, comment))]
    lines = _toml(dialect, wanted, base_dir, shared).rstrip("\n").split("\n")
    lines = [*(f"# {text}".rstrip() for text in wanted.comments), *lines]
    opening, closing = ("/// script", "///") if dialect == PEP723 else ("/// conda-script", "/// end-conda-script")
    return [f"{comment} {line}".rstrip() for line in (opening, *lines, closing)]


def _yaml(wanted: Wanted, comment: str) -> list[str]:
    lines = [f"{comment} {text}".rstrip() for text in wanted.comments]
    if wanted.baselines:
        lines += [f"baseline: {_flow(wanted.baselines)}"]
    if wanted.without:
        lines += [f"without: {_flow(wanted.without)}"]
    if wanted.packages or wanted.pypi or not wanted.baselines:
        lines += ["env:", *(f" - {edit_yaml.quoted(text, flow=False)}" for text in wanted.packages)]
    if wanted.pypi:
        lines += [" - pip:", *(f"   - {edit_yaml.quoted(text, flow=False)}" for text in wanted.pypi)]
    if wanted.channels is not None:
        lines += [f"channels: {_flow(wanted.channels)}"]
    if wanted.run_with is not None:
        line = " ".join(wanted.run_with)
        plain = all(map(_WORD.fullmatch, wanted.run_with)) and edit_yaml.quoted(line, flow=False) == line
        lines += [f"run_with: {line if plain else _flow(wanted.run_with)}"]
    if wanted.variables:
        lines += ["variables:", *(f" {key}: {edit_yaml.quoted(text, flow=False)}" for key, text in wanted.variables)]
    return lines


def _flow(texts: Sequence[str]) -> str:
    return f"[{', '.join(edit_yaml.quoted(text, flow=True) for text in texts)}]"


class _Toml:
    """TOML that entries are added to."""

    def __init__(self, content: str) -> None:
        self.content = content

    def apply(self, edits: Sequence[Edit]) -> None:
        """Make these edits."""
        for edit in sorted(edits, key=lambda edit: -edit.start):
            self.content = self.content[: edit.start] + edit.text + self.content[edit.end :]

    def set(self, table: tuple[str, ...], key: str, value: str) -> None:
        """Add an entry to a table."""
        self.apply(edit_toml.set_entry(self.content, table, key, value))

    def own_env(self, value: str) -> None:
        """Add a value, as TOML, to ``[tool.cetool] env``."""
        path = (*_CETOOL, "env")
        if edit_toml.find(self.content, path) is None:
            self.set(_CETOOL, "env", f"[{value}]")
        else:
            self.apply(edit_toml.append(self.content, path, value))

    def packages(self, table: tuple[str, ...], texts: Sequence[str], base_dir: str | os.PathLike[str]) -> None:
        """Match specs as entries; what no entry can say, or a name said before, goes to ``[tool.cetool]``."""
        for text in texts:
            pair = conda_entry(text, base_dir)
            if pair is None or edit_toml.exists(self.content, (*table, pair[0])):
                self.own_env(edit_toml.quoted(text))
            else:
                self.set(table, *pair)

    def requirements(self, texts: Sequence[str], base_dir: str | os.PathLike[str]) -> None:
        """PyPI requirements, likewise; pip's options and URLs without a name can only go there."""
        for text in texts:
            pair = None if bare_requirement(text) is None else pypi_entry(text, base_dir)
            if pair is None or edit_toml.exists(self.content, (*_PIXI_PYPI, pair[0])):
                self.own_env(f"{{ pip = [{edit_toml.quoted(text)}] }}")
            else:
                self.set(_PIXI_PYPI, *pair)


def _toml(dialect: str, wanted: Wanted, base_dir: str | os.PathLike[str], shared: str) -> str:
    toml = _Toml(shared.strip("\n"))
    channels = None if wanted.channels is None else edit_toml.array_text(wanted.channels)
    if dialect == CONDA_SCRIPT:
        toml.set((), "channels", channels or "[]")
        if wanted.entrypoint is not None:
            toml.set((), "entrypoint", edit_toml.quoted(wanted.entrypoint))
        toml.packages(("dependencies",), wanted.packages, base_dir)
        toml.requirements(wanted.pypi, base_dir)
    else:
        packages = list(wanted.packages)
        python = [text for text in packages if package_name(text) == "python"]
        specifier = python_specifier(python[0], base_dir) if len(python) == 1 else None
        if specifier is not None:
            packages.remove(python[0])
            toml.set((), "requires-python", edit_toml.quoted(specifier))
        elif [text.strip().lower() for text in python] == ["python"] and dialect == PEP723:
            packages.remove(python[0])  # it is there in any case
        plain = [text for text in wanted.pypi if bare_requirement(text) is not None]
        toml.set((), "dependencies", edit_toml.array_text(plain))
        for text in wanted.pypi:
            if text not in plain:
                toml.own_env(f"{{ pip = [{edit_toml.quoted(text)}] }}")
        if channels is not None:
            toml.set(_CONDA, "channels", channels)
        if packages:
            toml.set(_CONDA, "dependencies", edit_toml.array_text(packages))
    for key, texts in (("baseline", wanted.baselines), ("without", wanted.without)):
        if texts:
            toml.set(_CETOOL, key, edit_toml.array_text(texts))
    if wanted.run_with is not None:
        toml.set(_CETOOL, "run_with", edit_toml.array_text(wanted.run_with))
    if wanted.variables:
        pairs = ", ".join(f"{key} = {edit_toml.quoted(value)}" for key, value in wanted.variables)
        toml.set(_CETOOL, "variables", f"{{ {pairs} }}")
    return toml.content


def toml_value(node: Node) -> str:
    """A value that was read, as TOML in one line."""
    if node.kind == "list":
        return f"[{', '.join(map(toml_value, node.items))}]"
    if node.kind == "mapping":
        pairs = [f"{edit_toml.key_text(key)} = {toml_value(item)}" for key, item in node.entries.items()]
        return f"{{ {', '.join(pairs)} }}"
    return edit_toml.quoted(node.text) if node.kind == "text" else node.text


def entrypoint_of(words: Sequence[str]) -> str | None:
    """The conda-script entry point that runs a script with these words; None where it takes more than plain words."""
    return " ".join((*words, "${SCRIPT}")) if all(map(_WORD.fullmatch, words)) else None


def words_of(entrypoint: str) -> tuple[str, ...] | None:
    """The words before the script's path in an entry point; None where it is more than such a command."""
    *words, last = entrypoint.split() or [""]
    return tuple(words) if words and last == "${SCRIPT}" and all(map(_WORD.fullmatch, words)) else None

"""A block that is being changed, whichever language it is in: replace, remove and add what it declares."""

from __future__ import annotations

from collections.abc import Sequence

from cetool.base.errors import MetadataError
from cetool.declare.blocks import CONDA_EXECUTE, CONDA_SCRIPT, PEP723, Block
from cetool.declare.nodes import Node
from cetool.declare.toml import parse_toml
from cetool.declare.yaml import parse_yaml
from cetool.edit import toml as edit_toml
from cetool.edit import yaml as edit_yaml
from cetool.edit.declared import Item, channels_place, declared_items, package_name
from cetool.edit.document import Document, require_script
from cetool.edit.lines import Edit, Path, block_text
from cetool.edit.toml_entries import conda_entry, pypi_entry, python_specifier

_CETOOL_ENV = ("tool", "cetool", "env")
_CONDA = ("tool", "conda")
_PIXI = ("tool", "pixi")


class Draft:
    """One block on its way from what it says to what it is to say. Nothing is checked here but that it can be done."""

    def __init__(self, document: Document, block: Block) -> None:
        self._document = document
        self._script = require_script(document)
        self._block = block
        self._text = block_text(document, block)

    @property
    def content(self) -> str:
        """What the block says by now, without its comment characters."""
        return self._text.content

    @property
    def root(self) -> Node:
        """The same as a tree. Raises MetadataError where it cannot be read any more."""
        lines = self.content.split("\n")
        numbers = [self._block.first + 1 + index for index in range(len(lines))]
        if self._block.dialect == CONDA_EXECUTE:
            root = parse_yaml(self.content + "\n", name=self._script.name, lines=numbers)
            empty = root is None or root.kind == "nothing"
            return Node("mapping", self._script.at(self._block.first)) if root is None or empty else root
        return parse_toml(lines, numbers, name=self._script.name, first=self._block.first)

    @property
    def items(self) -> list[Item]:
        """What the block asks for by now."""
        return declared_items(self.root, self._block.dialect)

    def document(self) -> Document:
        """The file with the block as it is by now. Raises MetadataError where its encoding cannot hold the text."""
        block = self._block
        closing = 0 if block.dialect == CONDA_EXECUTE else 1
        ends_file = block.last == len(self._document.lines) and not self._document.line(block.last - 1)[1]
        try:
            new = self._text.encoded(self._document.codec, ends_file=ends_file and not closing)
        except UnicodeError:
            raise MetadataError(
                f"the file is in {self._document.codec}, which does not have every character of what is to be added",
                code="block-not-editable",
                where=self._script.at(block.first),
                hint="Save it as UTF-8.",
            ) from None
        opening = self._document.lines[block.first - 1]
        if new and not self._document.line(block.first - 1)[1]:
            opening += self._text.ending.encode(self._document.codec)
        return self._document.spliced(block.first - 1, block.last - closing, [opening, *new])

    def _apply(self, edits: Sequence[Edit]) -> None:
        self._text = self._text.edited(edits)

    def replace(self, item: Item, text: str) -> None:
        """Have an item say something else."""
        if self._block.dialect == CONDA_EXECUTE:
            self._apply(edit_yaml.replace_text(self.content, item.path, text))
        elif item.form == "text":
            self._apply(edit_toml.replace_text(self.content, item.path, text))
        elif item.form == "requires-python":
            specifier = python_specifier(text, self._script.directory)
            if specifier is None:
                self.remove(item)
                self.add(text)
            else:
                self._apply(edit_toml.replace_text(self.content, item.path, specifier))
        else:
            pair = (conda_entry if item.kind == "conda" else pypi_entry)(text, self._script.directory)
            if pair is not None and edit_toml.find(self.content, item.path) is not None:
                self._apply(edit_toml.replace_value(self.content, item.path, pair[1]))
            else:
                self.remove(item)
                self.add(text, pypi=item.kind == "pypi")

    def remove(self, item: Item) -> None:
        """Take an item out, and a list ``pip:`` with its last one."""
        path = item.path
        if len(path) > 1 and path[-2] == "pip":
            siblings = [other for other in self.items if other.path[:-1] == path[:-1]]
            path = path[:-2] if len(siblings) == 1 else path
        language = edit_yaml.remove_item if self._block.dialect == CONDA_EXECUTE else edit_toml.remove
        self._apply(language(self.content, path))

    def add(self, text: str, *, pypi: bool = False) -> None:
        """Add a match spec or a PyPI requirement that the block does not have, in the place that suits it."""
        if self._block.dialect == CONDA_EXECUTE:
            self._add_to_yaml(text, pypi)
        elif self._block.dialect == PEP723:
            self._add_to_pep723(text, pypi)
        else:
            self._add_to_conda_script(text, pypi)

    def _add_to_yaml(self, text: str, pypi: bool) -> None:
        env = self.root.below("env")
        if env is None or env.kind != "list":
            self._apply(edit_yaml.set_list(self.content, "env", (text,), below="pip" if pypi else None))
            return
        if not pypi:
            self._apply(edit_yaml.append_text(self.content, ("env",), text, first=self._first_pip(env)))
            return
        place = next((index for index, item in enumerate(env.items) if "pip" in item.entries), None)
        if place is None:
            self._apply(edit_yaml.append_list(self.content, ("env",), "pip", text))
        else:
            self._apply(edit_yaml.append_text(self.content, ("env", place, "pip"), text))

    @staticmethod
    def _first_pip(env: Node) -> int | None:
        """The index of the first of the lists ``pip:`` at the end, in front of which match specs stand."""
        index = len(env.items)
        while index and env.items[index - 1].kind == "mapping":
            index -= 1
        return index if 0 < index < len(env.items) else None

    def _has(self, *path: str) -> bool:
        return edit_toml.exists(self.content, path)

    def _add_to_pep723(self, text: str, pypi: bool) -> None:
        listed = (*_CONDA, "dependencies")
        if pypi:
            self._append_or_set(("dependencies",), text)
            return
        specifier = python_specifier(text, self._script.directory) if package_name(text) == "python" else None
        if specifier is not None and not self._has("requires-python"):
            self._apply(edit_toml.set_entry(self.content, (), "requires-python", edit_toml.quoted(specifier)))
        elif edit_toml.find(self.content, listed) is None and self._has(*_PIXI) and not self._has(*_CONDA):
            self._add_entry((*_PIXI, "dependencies"), text, pypi=False)
        elif not self._has(*listed) and edit_toml.find(self.content, _CETOOL_ENV) is not None:
            self._append_or_set(_CETOOL_ENV, text)
        else:
            self._append_or_set(listed, text)

    def _add_to_conda_script(self, text: str, pypi: bool) -> None:
        self._add_entry((*_PIXI, "pypi-dependencies") if pypi else ("dependencies",), text, pypi=pypi)

    def _add_entry(self, table: tuple[str, ...], text: str, *, pypi: bool) -> None:
        """Add to a table, or to ``[tool.cetool] env`` where no entry can say it or the table has the name already."""
        pair = (pypi_entry if pypi else conda_entry)(text, self._script.directory)
        if pair is not None and not self._has(*table, pair[0]):
            self._apply(edit_toml.set_entry(self.content, table, *pair))
        elif pypi:
            value = f"{{ pip = [{edit_toml.quoted(text)}] }}"
            if edit_toml.find(self.content, _CETOOL_ENV) is None:
                self._apply(edit_toml.set_entry(self.content, _CETOOL_ENV[:-1], "env", f"[{value}]"))
            else:
                self._apply(edit_toml.append(self.content, _CETOOL_ENV, value))
        else:
            self._append_or_set(_CETOOL_ENV, text)

    def _append_or_set(self, path: tuple[str, ...], text: str) -> None:
        if edit_toml.find(self.content, path) is None:
            self._apply(edit_toml.set_entry(self.content, path[:-1], path[-1], f"[{edit_toml.quoted(text)}]"))
        else:
            self._apply(edit_toml.append_text(self.content, path, text))

    def add_channels(self, channels: Sequence[str], *, before: Sequence[str]) -> None:
        """Add channels after those that are named; where none are, ``before`` are written in front of them."""
        dialect = self._block.dialect
        place = channels_place(self.root, dialect)
        texts = tuple(channels) if place is not None else (*before, *channels)
        if dialect == CONDA_EXECUTE:
            node = self.root.below("channels")
            if node is None or node.kind != "list":
                self._apply(edit_yaml.set_list(self.content, "channels", texts))
                return
            for text in texts:
                self._apply(edit_yaml.append_text(self.content, ("channels",), text))
            return
        where: Path = place or self._new_channels()
        for text in texts:
            self._append_or_set(tuple(map(str, where)), text)

    def _new_channels(self) -> tuple[str, ...]:
        if self._block.dialect == CONDA_SCRIPT:
            return ("channels",)
        if self._has(*_PIXI) and not self._has(*_CONDA):
            return (*_PIXI, "workspace", "channels")
        return (*_CONDA, "channels")

"""Find what a block declares and where (:class:`DeclaredItem`), and change a block (:class:`Draft`)."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cetool.base.errors import MetadataError
from cetool.base.text import normalized
from cetool.declare.blocks import CONDA_EXECUTE, CONDA_SCRIPT, PEP723, Block
from cetool.declare.channels import NO_DEFAULTS
from cetool.declare.dialects.pip_lines import bare_requirement
from cetool.declare.match_specs import canonical_spec, spec_name
from cetool.declare.nodes import Node, parse_yaml
from cetool.declare.source import Script
from cetool.declare.toml import parse_toml
from cetool.edit.block_text import Path, block_text
from cetool.edit.document import Document, require_script
from cetool.edit.rendering import CETOOL_ENV, add_to_table, conda_entry, pypi_entry, python_specifier
from cetool.edit.toml import TomlText, quoted
from cetool.edit.yaml import YamlText

_CETOOL = ("tool", "cetool")
_CONDA = ("tool", "conda")
_PIXI = ("tool", "pixi")


@dataclass(frozen=True)
class DeclaredItem:
    """One declared package."""

    kind: Literal["conda", "pypi"]
    #: The package's name, normalized as conda or PyPI does.
    name: str
    #: The match spec or requirement as written; for a table's entry, as much as fits into one.
    text: str
    path: Path
    line: int | None
    form: Literal["text", "entry", "requires-python"] = "text"
    #: None for all platforms.
    platform: str | None = None


def package_name(spec: str) -> str:
    """Return the name in a match spec as written, in lower case. Raises MetadataError for a malformed one."""
    return spec_name(canonical_spec(spec))


def pypi_name(requirement: str) -> str:
    """Return the normalized name in a PyPI requirement as written; empty for a URL alone."""
    found = re.match(r"\s*([A-Za-z0-9._-]+)(?![A-Za-z0-9._+-]*://)", requirement)
    return normalized(found[1]) if found else ""


def block_tree(block: Block, script: Script) -> Node:
    """Return a block's content as a tree; an empty mapping for an empty block. Raises MetadataError."""
    if block.dialect != CONDA_EXECUTE:
        return parse_toml(block.content, block.numbers, name=script.name, first=block.first)
    root = parse_yaml(block.text, name=script.name, lines=block.numbers)
    return Node("mapping", script.at(block.first)) if root is None or root.kind == "nothing" else root


def declared_items(root: Node, dialect: str) -> list[DeclaredItem]:
    """Return everything that the block requests on any platform, in order of precedence."""
    if dialect == CONDA_EXECUTE:
        return list(_list(root, ("env",)))
    found: list[DeclaredItem] = []
    if dialect == PEP723:
        key: Literal["requires-python"] = "requires-python"
        python = root.below(key)
        if python is not None:
            found.append(DeclaredItem("conda", "python", f"python {python.text}", (key,), python.where.line, key))
        found += _list(root, ("dependencies",), "pypi")
        found += _list(root, (*_CONDA, "dependencies"))
    else:
        found += _table(root, ("dependencies",), "conda")
    for path, platform in _pixi_features(root):
        found += _table(root, (*path, "dependencies"), "conda", platform)
        found += _table(root, (*path, "pypi-dependencies"), "pypi", platform)
    return [*found, *_list(root, (*_CETOOL, "env"))]


def _pixi_features(root: Node) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Yield the tables of pixi that have dependencies, and the platform that each is for (None: all)."""
    yield _PIXI, None
    targets = root.below(*_PIXI, "target")
    for platform in () if targets is None else targets.entries:
        yield (*_PIXI, "target", platform), platform


def _list(root: Node, path: tuple[str, ...], kind: Literal["conda", "pypi"] = "conda") -> Iterator[DeclaredItem]:
    node = root.below(*path)
    for index, item in enumerate(() if node is None else node.items):
        if item.kind == "text":
            name = package_name(item.text) if kind == "conda" else pypi_name(item.text)
            yield DeclaredItem(kind, name, item.text, (*path, index), item.where.line)
            continue
        listed = item.entries.get("pip")
        for place, entry in enumerate(() if listed is None else listed.items):
            text = bare_requirement(entry.text)
            if text is not None:  # options, files and URLs have no name
                yield DeclaredItem("pypi", pypi_name(text), text, (*path, index, "pip", place), entry.where.line)


def _table(
    root: Node, path: tuple[str, ...], kind: Literal["conda", "pypi"], platform: str | None = None
) -> Iterator[DeclaredItem]:
    node = root.below(*path)
    for name, value in ({} if node is None else node.entries).items():
        text = f"{name} {value.text if value.kind == 'text' else ''}"
        fields = value.entries
        if value.kind == "mapping" and set(fields) <= {"version", "build", "channel"}:
            channel = f"{fields['channel'].text}::" if "channel" in fields else ""
            text = " ".join([f"{channel}{name}", *(fields[key].text for key in ("version", "build") if key in fields)])
        known = name.lower() if kind == "conda" else pypi_name(name)
        text = text.strip().removesuffix(" *")
        yield DeclaredItem(kind, known, text, (*path, name), value.where.line, "entry", platform)


def channel_places(dialect: str) -> tuple[tuple[str, ...], ...]:
    """Return the places for channels; the first one wins."""
    if dialect == CONDA_EXECUTE:
        return (("channels",),)
    pixi = ((*_PIXI, "workspace", "channels"), (*_PIXI, "project", "channels"))
    if dialect == PEP723:
        return ((*_CETOOL, "channels"), (*_CONDA, "channels"), *pixi)
    return ((*_CETOOL, "channels"), *pixi, ("channels",))


def channels_place(root: Node, dialect: str) -> tuple[str, ...] | None:
    """Return the place of the effective channels; None if there are none."""
    for path in channel_places(dialect):
        node = root.below(*path)
        if node is not None and any(item.text != NO_DEFAULTS for item in node.items):
            return path
    return None


def untouched(root: Node, dialect: str) -> Any:
    """Return everything but packages and channels as plain values: what an edit must not change."""
    places: set[tuple[str, ...]] = {("env",)} if dialect == CONDA_EXECUTE else {("requires-python",), ("dependencies",)}
    places |= {(*_CONDA, "dependencies"), (*_CETOOL, "env"), *channel_places(dialect)}
    for path, _ in _pixi_features(root):
        places |= {(*path, "dependencies"), (*path, "pypi-dependencies")}
    return _plain(root, (), places)


def _plain(node: Node, path: tuple[str, ...], left_out: set[tuple[str, ...]]) -> Any:
    """Return the value without what is left out, and without tables that are then empty."""
    if node.kind == "mapping":
        inner = {
            key: _plain(value, (*path, key), left_out)
            for key, value in node.entries.items()
            if (*path, key) not in left_out
        }
        return {key: value for key, value in inner.items() if value != {}}
    if node.kind == "list":
        return [_plain(item, (*path, "[]"), left_out) for item in node.items]
    return (node.kind, node.text)


class Draft(ABC):
    """A block that is being changed. It checks only that a change is possible, not what it means."""

    def __init__(self, document: Document, block: Block, editor: TomlText | YamlText) -> None:
        self._document = document
        self._script = require_script(document)
        self._block = block
        self._editor = editor

    @property
    def content(self) -> str:
        """The block's current text, without comment characters."""
        return self._editor.content

    @property
    def dialect(self) -> str:
        """The block's dialect."""
        return self._block.dialect

    @property
    def root(self) -> Node:
        """The content as a tree. Raises MetadataError if it is malformed."""
        lines = self.content.split("\n")
        numbers = range(self._block.first + 1, self._block.first + 1 + len(lines))
        return block_tree(self._block._replace(content=tuple(lines), numbers=tuple(numbers)), self._script)

    @property
    def items(self) -> list[DeclaredItem]:
        """What the block currently requests."""
        return declared_items(self.root, self.dialect)

    def document(self) -> Document:
        """Return the file with the changed block. Raises MetadataError if its encoding does not support the text."""
        document, block, text = self._document, self._block, self._editor.text
        closing = 0 if block.dialect == CONDA_EXECUTE else 1
        ends_file = block.last == len(document.lines) and not document.line(block.last - 1)[1]
        try:
            new = text.encoded(document.codec, ends_file=ends_file and not closing)
        except UnicodeError:
            raise MetadataError(
                f"the file is in {document.codec}, which lacks a character of the text to add",
                code="block-not-editable",
                where=self._script.at(block.first),
                hint="Save it as UTF-8.",
            ) from None
        opening = document.lines[block.first - 1]
        if new and not document.line(block.first - 1)[1]:
            opening += text.ending.encode(document.codec)
        return document.spliced(block.first - 1, block.last - closing, [opening, *new])

    def replace(self, item: DeclaredItem, text: str) -> None:
        """Replace the text of an item."""
        self._editor.replace_text(item.path, text)

    def remove(self, item: DeclaredItem) -> None:
        """Remove an item, and a list ``pip:`` with its last one."""
        path = item.path
        if len(path) > 1 and path[-2] == "pip":
            siblings = [other for other in self.items if other.path[:-1] == path[:-1]]
            path = path[:-2] if len(siblings) == 1 else path
        self._editor.remove(path)

    @abstractmethod
    def add(self, text: str, *, pypi: bool = False) -> None:
        """Add a match spec or a PyPI requirement that the block does not have, in a suitable place."""

    @abstractmethod
    def add_channels(self, channels: Sequence[str], *, before: Sequence[str]) -> None:
        """Add channels after the named ones; if there are none, write ``before`` before them."""


class _YamlDraft(Draft):
    """A ``# conda execute`` block."""

    def __init__(self, document: Document, block: Block) -> None:
        self._yaml = YamlText(block_text(document, block))
        super().__init__(document, block, self._yaml)

    def add(self, text: str, *, pypi: bool = False) -> None:
        env = self.root.below("env")
        if env is None or env.kind != "list":
            self._yaml.set_list("env", (text,), below="pip" if pypi else None)
            return
        if not pypi:
            self._yaml.append_text(("env",), text, first=self._first_pip(env))
            return
        place = next((index for index, item in enumerate(env.items) if "pip" in item.entries), None)
        if place is None:
            self._yaml.append_list(("env",), "pip", text)
        else:
            self._yaml.append_text(("env", place, "pip"), text)

    @staticmethod
    def _first_pip(env: Node) -> int | None:
        """Return the index of the first of the lists ``pip:`` at the end; match specs come before it."""
        index = len(env.items)
        while index and env.items[index - 1].kind == "mapping":
            index -= 1
        return index if 0 < index < len(env.items) else None

    def add_channels(self, channels: Sequence[str], *, before: Sequence[str]) -> None:
        texts = channels if channels_place(self.root, CONDA_EXECUTE) is not None else (*before, *channels)
        node = self.root.below("channels")
        if node is None or node.kind != "list":
            self._yaml.set_list("channels", texts)
            return
        for text in texts:
            self._yaml.append_text(("channels",), text)


class _TomlDraft(Draft):
    """A PEP 723 or conda-script block."""

    def __init__(self, document: Document, block: Block) -> None:
        self._toml = TomlText(block_text(document, block))
        super().__init__(document, block, self._toml)

    def replace(self, item: DeclaredItem, text: str) -> None:
        base = self._script.directory
        if item.form == "entry":
            pair = conda_entry(text, base) if item.kind == "conda" else pypi_entry(text, base)
            if pair is not None and self._toml.find(item.path) is not None:
                self._toml.replace(item.path, pair[1])
                return
        else:
            new = text if item.form == "text" else python_specifier(text, base)
            if new is not None:
                self._toml.replace_text(item.path, new)
                return
        self.remove(item)
        self.add(text, pypi=item.kind == "pypi")

    def add(self, text: str, *, pypi: bool = False) -> None:
        toml, base = self._toml, self._script.directory
        if self._block.dialect == CONDA_SCRIPT:
            table = (*_PIXI, "pypi-dependencies") if pypi else ("dependencies",)
            add_to_table(toml, table, text, base, pypi=pypi)
            return
        if pypi:
            toml.append_text(("dependencies",), text)
            return
        listed = (*_CONDA, "dependencies")
        specifier = python_specifier(text, base) if package_name(text) == "python" else None
        if specifier is not None and not toml.has("requires-python"):
            toml.set((), "requires-python", quoted(specifier))
        elif toml.find(listed) is None and toml.has(*_PIXI) and not toml.has(*_CONDA):
            add_to_table(toml, (*_PIXI, "dependencies"), text, base, pypi=False)
        elif not toml.has(*listed) and toml.find(CETOOL_ENV) is not None:
            toml.append_text(CETOOL_ENV, text)
        else:
            toml.append_text(listed, text)

    def add_channels(self, channels: Sequence[str], *, before: Sequence[str]) -> None:
        place = channels_place(self.root, self._block.dialect)
        where = place
        if where is None:
            pixi = self._toml.has(*_PIXI) and not self._toml.has(*_CONDA)
            where = (*_PIXI, "workspace", "channels") if pixi else (*_CONDA, "channels")
            where = ("channels",) if self._block.dialect == CONDA_SCRIPT else where
        for text in channels if place is not None else (*before, *channels):
            self._toml.append_text(where, text)


def draft_of(document: Document, block: Block) -> Draft:
    """Return a draft for changing this block."""
    return _YamlDraft(document, block) if block.dialect == CONDA_EXECUTE else _TomlDraft(document, block)

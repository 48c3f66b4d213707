"""Which places of a block declare what: each match spec, each PyPI requirement and the channels, with their paths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cetool.declare.blocks import CONDA_EXECUTE, PEP723
from cetool.declare.channels import NO_DEFAULTS
from cetool.declare.dialects.pip_lines import bare_requirement
from cetool.declare.match_specs import canonical_spec, spec_name
from cetool.declare.nodes import Node
from cetool.edit.lines import Path

_CETOOL = ("tool", "cetool")
_CONDA = ("tool", "conda")
_PIXI = ("tool", "pixi")


@dataclass(frozen=True)
class Item:
    """One thing that is declared.

    ``name`` is the package's, as conda or PyPI compares names; ``text`` a match spec or requirement as it is written,
    for the entry of a table (``form``) as much of it as fits in one; ``platform`` is None for what holds everywhere.
    """

    kind: Literal["conda", "pypi"]
    name: str
    text: str
    path: Path
    line: int | None
    form: Literal["text", "entry", "requires-python"] = "text"
    platform: str | None = None


def package_name(spec: str) -> str:
    """The name in a match spec as it is written, in lower case. Raises MetadataError for what is none."""
    return spec_name(canonical_spec(spec))


def pypi_name(requirement: str) -> str:
    """The name in a PyPI requirement as it is written, as PyPI compares names; empty for a URL alone."""
    found = re.match(r"\s*([A-Za-z0-9._-]+)(?![A-Za-z0-9._+-]*://)", requirement)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""


def declared_items(root: Node, dialect: str) -> list[Item]:
    """Everything that the block asks for on any platform, in its order of meaning."""
    if dialect == CONDA_EXECUTE:
        return list(_list(root, ("env",)))
    found: list[Item] = []
    if dialect == PEP723:
        python = root.below("requires-python")
        if python is not None:
            found.append(
                Item("conda", "python", f"python {python.text}", ("requires-python",), _line(python), "requires-python")
            )
        found += _list(root, ("dependencies",), "pypi")
        found += _list(root, (*_CONDA, "dependencies"))
    else:
        found += _table(root, ("dependencies",), "conda")
    found += _pixi(root, _PIXI, None)
    targets = root.below(*_PIXI, "target")
    for platform in () if targets is None else targets.entries:
        found += _pixi(root, (*_PIXI, "target", platform), platform)
    return [*found, *_list(root, (*_CETOOL, "env"))]


def _line(node: Node) -> int | None:
    return node.where.line


def _list(root: Node, path: tuple[str, ...], kind: Literal["conda", "pypi"] = "conda") -> Iterator[Item]:
    node = root.below(*path)
    for index, item in enumerate(() if node is None else node.items):
        if item.kind == "text":
            name = package_name(item.text) if kind == "conda" else pypi_name(item.text)
            yield Item(kind, name, item.text, (*path, index), _line(item))
            continue
        listed = item.entries.get("pip")
        for place, entry in enumerate(() if listed is None else listed.items):
            text = bare_requirement(entry.text)
            if text is not None:  # options, files and URLs have no name to be found by
                yield Item("pypi", pypi_name(text), text, (*path, index, "pip", place), _line(entry))


def _pixi(root: Node, path: tuple[str, ...], platform: str | None) -> Iterator[Item]:
    yield from _table(root, (*path, "dependencies"), "conda", platform)
    yield from _table(root, (*path, "pypi-dependencies"), "pypi", platform)


def _table(
    root: Node, path: tuple[str, ...], kind: Literal["conda", "pypi"], platform: str | None = None
) -> Iterator[Item]:
    node = root.below(*path)
    for name, value in ({} if node is None else node.entries).items():
        version = value.text if value.kind == "text" else ""
        fields = value.entries
        if value.kind == "mapping" and set(fields) <= {"version", "build", "channel"}:
            channel = f"{fields['channel'].text}::" if "channel" in fields else ""
            version = " ".join(fields[key].text for key in ("version", "build") if key in fields)
            name_and_version = f"{channel}{name} {version}".strip()
        else:
            name_and_version = f"{name} {version}".strip()
        known = name.lower() if kind == "conda" else pypi_name(name)
        yield Item(kind, known, name_and_version.removesuffix(" *"), (*path, name), _line(value), "entry", platform)


def channel_places(dialect: str) -> tuple[tuple[str, ...], ...]:
    """Where channels can stand, the place that wins first."""
    if dialect == CONDA_EXECUTE:
        return (("channels",),)
    pixi = ((*_PIXI, "workspace", "channels"), (*_PIXI, "project", "channels"))
    if dialect == PEP723:
        return ((*_CETOOL, "channels"), (*_CONDA, "channels"), *pixi)
    return ((*_CETOOL, "channels"), *pixi, ("channels",))


def channels_place(root: Node, dialect: str) -> tuple[str, ...] | None:
    """The place of the channels that are in force; None where none are named."""
    for path in channel_places(dialect):
        node = root.below(*path)
        if node is not None and any(item.text != NO_DEFAULTS for item in node.items):
            return path
    return None


def untouched(root: Node, dialect: str) -> Any:
    """All that the block says besides packages and channels, as plain values: what an edit must leave as it was."""
    places: set[tuple[str, ...]] = {("env",)} if dialect == CONDA_EXECUTE else {("requires-python",), ("dependencies",)}
    places |= {(*_CONDA, "dependencies"), (*_CETOOL, "env"), *channel_places(dialect)}
    for path in (_PIXI, *((*_PIXI, "target", key) for key in _keys(root.below(*_PIXI, "target")))):
        places |= {(*path, "dependencies"), (*path, "pypi-dependencies")}
    return _plain(root, (), places)


def _keys(node: Node | None) -> Mapping[str, Node]:
    return {} if node is None else node.entries


def _plain(node: Node, path: tuple[str, ...], left_out: set[tuple[str, ...]]) -> Any:
    """The value without what is left out, and without the tables that are empty then."""
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

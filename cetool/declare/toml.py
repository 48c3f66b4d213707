"""Reads TOML 1.1 into :class:`~cetool.declare.nodes.Node`: the values with the lines that they were written in.

The parser keeps no lines, so they are looked up in the text afterwards: by header and key, and within a value by what
it says. They serve messages only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cetool.base.errors import Location, MetadataError
from cetool.base.text import shorten
from cetool.declare.nodes import MAX_DEPTH, Node

_PART = r"(?:[A-Za-z0-9_-]+|\"[^\"\n]*\"|'[^'\n]*')"
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER = re.compile(rf"[ \t]*\[{{1,2}}[ \t]*({_KEY})[ \t]*\]")
_ASSIGNMENT = re.compile(rf"[ \t]*({_KEY})[ \t]*=")
_PARTS = re.compile(_PART)
#: How many lines below a key a value is looked for.
_WINDOW = 200


class _Float(str):
    """A TOML float as it was written, so that 3.10 stays 3.10."""


def parse_toml(content: Sequence[str], numbers: Sequence[int], *, name: str, first: int) -> Node:
    """The document in these lines: always a mapping.

    ``numbers`` gives for each line the line of the file that it came from, ``first`` the line that stands for the
    whole; ``name`` is what messages call the file. Raises MetadataError for what is not TOML 1.1, or nested too deep.
    """
    import tomli

    try:
        data = tomli.loads("\n".join(content) + "\n", parse_float=_Float)
    except tomli.TOMLDecodeError as error:
        index = max(0, min(error.lineno - 1, len(numbers) - 1))
        where = Location(name, numbers[index] if numbers else first)
        hint = 'A text needs quotes: name = "value"; a list is ["one", "two"].'
        message = f"this is not TOML: {shorten(error.msg, 200)} (column {error.colno})"
        raise MetadataError(message, code="toml-invalid", where=where, hint=hint) from None
    except (ValueError, RecursionError) as error:
        message = f"this TOML cannot be read: {shorten(str(error), 200)}"
        raise MetadataError(message, code="toml-invalid", where=Location(name, first)) from None
    return _Tree(content, numbers, name, first).node(data, (), -1)


class _Tree:
    """Gives each value its line."""

    def __init__(self, content: Sequence[str], numbers: Sequence[int], name: str, first: int) -> None:
        self._content = content
        self._numbers = numbers
        self._name = name
        self._first = first
        self._known: dict[tuple[str, ...], int] = {}
        header: tuple[str, ...] = ()
        for index, line in enumerate(content):
            if found := _HEADER.match(line):
                header = _parts(found[1])
                self._note(header, index)
            elif found := _ASSIGNMENT.match(line):
                self._note(header + _parts(found[1]), index)

    def _note(self, path: tuple[str, ...], index: int) -> None:
        for length in range(1, min(len(path), MAX_DEPTH) + 1):
            self._known.setdefault(path[:length], index)

    def _find(self, text: str, start: int) -> int:
        """The first line from ``start`` that holds the text, ``start`` itself where none near it does."""
        begin = max(start, 0)
        for index in range(begin, min(begin + _WINDOW, len(self._content))):
            if text and text in self._content[index]:
                return index
        return start

    def node(self, value: Any, path: tuple[str, ...], index: int) -> Node:
        """The tree of a value that stands at line ``index`` of the content (-1: the whole)."""
        where = Location(self._name, self._numbers[index] if 0 <= index < len(self._numbers) else self._first)
        if len(path) > MAX_DEPTH:
            raise MetadataError("the TOML is nested too deep", code="toml-invalid", where=where)
        if isinstance(value, dict):
            entries = {}
            for key, item in value.items():
                below = (*path, key)
                place = self._known.get(below)
                entries[key] = self.node(item, below, self._find(key, index) if place is None else place)
            return Node("mapping", where, entries=entries)
        if isinstance(value, list):
            items = []
            for item in value:
                index = self._find(item, index) if isinstance(item, str) else index
                items.append(self.node(item, (*path, "[]"), index))
            return Node("list", where, items=tuple(items))
        if isinstance(value, bool):
            return Node("boolean", where, "true" if value else "false")
        if isinstance(value, int):
            # Python refuses to write the longest integers in decimal
            return Node("number", where, str(value) if value.bit_length() < 4096 else hex(value))
        if isinstance(value, _Float):
            return Node("number", where, str(value))
        if isinstance(value, str):
            return Node("text", where, value)
        return Node("date", where, value.isoformat())


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PARTS.findall(key))

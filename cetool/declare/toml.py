"""Read TOML 1.1 into :class:`~cetool.declare.nodes.Node`: the values with their lines.

The parser keeps no lines, so they are searched for in the text afterwards: by header and key, and inside a value by its
text. They are used only in messages.
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
#: The number of lines below a key in which to look for a value.
_WINDOW = 200


class _Float(str):
    """A TOML float as written, so that 3.10 stays 3.10."""


def parse_toml(content: Sequence[str], numbers: Sequence[int], *, name: str, first: int) -> Node:
    """Parse the document in these lines, which is always a mapping.

    ``numbers`` gives the file's line for each line, ``first`` the line for the whole document; ``name`` is the file's
    name in messages. Raises MetadataError for text that is not TOML 1.1, or nested too deeply.
    """
    import tomli

    try:
        data = tomli.loads("\n".join(content) + "\n", parse_float=_Float)
    except tomli.TOMLDecodeError as error:
        index = max(0, min(error.lineno - 1, len(numbers) - 1))
        where = Location(name, numbers[index] if numbers else first)
        hint = 'A string needs quotes: name = "value"; a list is ["one", "two"].'
        message = f"invalid TOML: {shorten(error.msg, 200)} (column {error.colno})"
        raise MetadataError(message, code="toml-invalid", where=where, hint=hint) from None
    except (ValueError, RecursionError) as error:
        message = f"invalid TOML: {shorten(str(error), 200)}"
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
        """Return the first line from ``start`` that contains the text, or ``start`` if none near it does."""
        begin = max(start, 0)
        for index in range(begin, min(begin + _WINDOW, len(self._content))):
            if text and text in self._content[index]:
                return index
        return start

    def node(self, value: Any, path: tuple[str, ...], index: int) -> Node:
        """Return the tree of a value at line ``index`` of the content (-1: the whole document)."""
        where = Location(self._name, self._numbers[index] if 0 <= index < len(self._numbers) else self._first)
        if len(path) > MAX_DEPTH:
            raise MetadataError("the TOML is nested too deeply", code="toml-invalid", where=where)
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

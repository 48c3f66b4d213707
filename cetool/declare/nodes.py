"""Represent values of YAML and TOML with their places, check them for all dialects, and read YAML.

Both readers return the same tree, so that a key means the same in both languages and every error has its line. YAML's
tree is built from the parser's events, so no objects are ever constructed: no tags, no second document, no duplicate
keys. Anchors, aliases and merge keys (``<<``) are read only in environment files, as conda does. Plain scalars follow
YAML 1.2's core schema (``yes`` and ``on`` are strings).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from cetool.base.errors import Location, MetadataError
from cetool.base.limits import NODES
from cetool.base.plain_yaml import Plain, read_plainly
from cetool.base.text import has_control, nearest, pattern, shorten
from cetool.base.urls import redact
from cetool.base.values import Value

#: Where relative paths start from.
Directory = str | os.PathLike[str]
Kind = Literal["text", "number", "boolean", "nothing", "date", "list", "mapping"]

#: More nesting than a specification needs; deeper values are refused before they can exhaust the stack.
MAX_DEPTH = 32

_IN_WORDS: dict[str, str] = {
    "text": "a string",
    "number": "a number",
    "boolean": "true or false",
    "nothing": "an empty value",
    "date": "a date",
    "list": "a list",
    "mapping": "a mapping of keys to values",
}


_NO_ENTRIES: Mapping[str, Node] = MappingProxyType({})


class Node(Value):
    """A value of a YAML or TOML document."""

    kind: Kind
    #: Where it is; for a value in a mapping, the line of its key.
    where: Location
    #: A scalar as written (``3.10`` stays ``3.10``).
    text: str = ""
    #: The items of a list.
    items: tuple[Node, ...] = ()
    #: The entries of a mapping, in the order of the file.
    entries: Mapping[str, Node] = _NO_ENTRIES
    #: Whether this is a string without quotes on several lines.
    folded: bool = False

    def fail(
        self, message: str, hint: str | None = None, code: str | None = None, about: str | None = None
    ) -> NoReturn:
        """Raise MetadataError about this value."""
        raise MetadataError(message, code=code, about=about, where=self.where, hint=hint)

    @property
    def in_words(self) -> str:
        """A description of the value for messages: ``a number (3.1)``."""
        words = _IN_WORDS[self.kind]
        return f"{words} ({shorten(redact(self.text))})" if self.kind in ("number", "boolean", "date") else words

    def as_text(self, what: str, hint: str | None = None) -> str:
        """Return the string. Raises MetadataError for another kind, an empty string, and control characters."""
        if self.kind != "text":
            quote = "Put quotes around it." if self.kind in ("number", "boolean", "date") else None
            self.fail(f"{what} must be a string, not {self.in_words}", hint or quote)
        if not self.text.strip():
            self.fail(f"{what} is empty", hint)
        if has_control(self.text):
            self.fail(f"{what} contains a line break or a control character: {shorten(redact(self.text))!r}", hint)
        return self.text

    def as_list(self, what: str, hint: str | None = None) -> tuple[Node, ...]:
        """Return the items. Raises MetadataError for another kind."""
        if self.kind != "list":
            self.fail(f"{what} must be a list, not {self.in_words}", hint)
        return self.items

    def as_texts(self, what: str, hint: str | None = None) -> tuple[str, ...]:
        """Return the items, which must all be strings. Raises MetadataError otherwise."""
        return tuple(item.as_text(f"an entry of {what}", hint) for item in self.as_list(what, hint))

    def as_mapping(self, what: str, known: Iterable[str] | None = None) -> Mapping[str, Node]:
        """Return the entries. Raises MetadataError for another kind, and for a key that is not in ``known``."""
        if self.kind != "mapping":
            self.fail(f"{what} must be {_IN_WORDS['mapping']}, not {self.in_words}")
        if known is not None:
            names = list(known)
            for key, value in self.entries.items():
                if key not in names:
                    value.fail(
                        f"unknown key {shorten(key)!r} in {what}", nearest(key, names), code="key-unknown", about=key
                    )
        return self.entries

    def as_choice(self, what: str, choices: tuple[str, ...]) -> str:
        """Return a string that must be one of the choices. Raises MetadataError."""
        text = self.as_text(what)
        if text not in choices:
            self.fail(f"{what} cannot be {shorten(text)!r}", f"Use one of: {', '.join(choices)}.")
        return text

    def as_flag(self, what: str) -> bool:
        """Return true or false. Raises MetadataError for another kind."""
        if self.kind != "boolean":
            self.fail(f"{what} must be true or false, not {self.in_words}")
        return self.text == "true"

    def below(self, *keys: str) -> Node | None:
        """Return the value at the end of a path of keys; None if one is missing or its value is not a mapping."""
        node: Node | None = self
        for key in keys:
            node = node.entries.get(key) if node is not None else None
        return node

    def folded_part(self) -> Node | None:
        """Return the first string in this value that spans several lines; None if there is none."""
        if self.folded:
            return self
        parts = (part.folded_part() for part in (*self.items, *self.entries.values()))
        return next((part for part in parts if part is not None), None)

    def relocated(self, where: Location) -> Node:
        """Return the same value with another place."""
        return self._replace(where=where)


def listed(node: Node | None, what: str, hint: str | None = None) -> tuple[Node, ...]:
    """Return the items of a list, which may be missing or empty. Raises MetadataError for another kind."""
    return () if node is None or node.kind == "nothing" else node.as_list(what, hint)


_NOTHING = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = frozenset(("true", "True", "TRUE", "false", "False", "FALSE"))
#: The most values that aliases may expand to: a few short lines can expand to billions.
_MOST_COPIED = 10_000
_NUMBER = pattern(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def parse_yaml(text: str, *, name: str, lines: Sequence[int] | None = None, aliases: bool = False) -> Node | None:
    """Parse the document in ``text``; return None if there is none.

    ``name`` is the file's name in messages; ``lines`` gives the file's line for each line of the text (None: the text
    is the file); with ``aliases``, anchors and merge keys are read. Raises MetadataError for everything that is not
    plain, simple YAML.
    """
    reader = _Reader(name, lines, aliases)
    plain = read_plainly(text)
    if plain is not None:
        return reader.plainly(plain)
    try:
        return reader.document(text)
    except MetadataError:
        raise
    except RecursionError:
        raise _wrong("the YAML is nested too deeply", Location(name, reader.line(0))) from None
    except Exception as error:
        # for malformed input, the parser also raises AssertionError, IndexError and so on
        raise reader.syntax_error(error) from None


class _Reader:
    """Builds the tree of one document from the parser's events."""

    def __init__(self, name: str, lines: Sequence[int] | None, aliases: bool = False) -> None:
        self._name = name
        self._lines = lines
        self._aliases = aliases
        #: The values of the anchors, None while one is still being read.
        self._anchors: dict[str, Node | None] = {}
        self._copied = 0
        self._text = ""
        self._nodes = 0
        self._events: Iterator[Any] = iter(())

    def line(self, index: int) -> int | None:
        """Return the file's line for a line of the text; both are limited to existing ones."""
        if self._lines is None:
            return index + 1
        return self._lines[max(0, min(index, len(self._lines) - 1))] if self._lines else None

    def where(self, event: Any) -> Location:
        """Return where an event starts."""
        return Location(self._name, self.line(event.start_mark.line))

    def plainly(self, plain: Plain, line: int | None = None) -> Node:
        """Return the tree of a document that took no parser; ``line`` is that of the key of a value in a mapping."""
        where = Location(self._name, self.line(plain.line if line is None else line))
        if plain.items is not None:
            return Node("list", where, "", tuple(map(self.plainly, plain.items)), _NO_ENTRIES, False)
        if plain.entries is not None:
            entries = {key: self.plainly(value, line) for line, key, value in plain.entries}
            return Node("mapping", where, "", (), entries, False)
        text = plain.text or ""
        return Node("text" if plain.quoted else _kind_of(text), where, text, (), _NO_ENTRIES, False)

    def document(self, text: str) -> Node | None:
        """Return the only document, None if the stream is empty."""
        from ruamel.yaml import YAML

        self._text = text
        self._events = iter(YAML(typ="safe", pure=True).parse(text))
        next(self._events)  # the start of the stream
        event = next(self._events)
        if _kind(event) != "DocumentStart":
            return None
        root = self._node(next(self._events), 0)
        next(self._events)  # the end of the document
        after = next(self._events)
        if _kind(after) == "DocumentStart":
            raise _wrong("there is a second YAML document", self.where(after), "Remove the '---'.")
        return root

    def _node(self, event: Any, depth: int) -> Node:
        where = self.where(event)
        anchor = getattr(event, "anchor", None)
        if anchor is None:
            return self._plain_node(event, where, depth)
        if not self._aliases:
            hint = "Repeat the value instead; a string that starts with '&' or '*' needs quotes."
            raise _wrong("YAML anchors (&) and aliases (*) are not allowed here", where, hint)
        if _kind(event) == "Alias":
            return self._alias(str(anchor), where)
        self._anchors[str(anchor)] = None
        node = self._anchors[str(anchor)] = self._plain_node(event, where, depth)
        return node

    def _alias(self, anchor: str, where: Location) -> Node:
        """Return the value of an anchor. Raises MetadataError if it is undefined, too large or contains the alias."""
        node = self._anchors.get(anchor)
        if node is None:
            problem = "refers to a value that contains it" if anchor in self._anchors else "has no anchor above it"
            raise _wrong(f"the alias *{shorten(anchor)} {problem}", where)
        self._copied += _size(node)
        if self._copied > _MOST_COPIED:
            raise _wrong(f"the aliases (*) of this file expand to more than {_MOST_COPIED} values", where)
        return node

    def _plain_node(self, event: Any, where: Location, depth: int) -> Node:
        tag = None if getattr(event, "tag", None) is None else str(event.tag)
        if tag is not None and tag not in ("!", "tag:yaml.org,2002:str"):
            hint = "Remove it; a string that starts with '!' needs quotes."
            raise _wrong(f"YAML tags are not allowed here: {shorten(tag)!r}", where, hint)
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > NODES:
            problem = "is nested too deeply" if depth > MAX_DEPTH else f"has more than {NODES} values"
            raise _wrong(f"the YAML {problem}", where)
        if _kind(event) == "Scalar":
            folded = event.style is None and event.start_mark.line != event.end_mark.line
            kind: Kind = _kind_of(str(event.value)) if tag is None and event.implicit[0] else "text"
            return Node(kind, where, str(event.value), folded=folded)
        if _kind(event) == "SequenceStart":
            items = []
            while _kind(event := next(self._events)) != "SequenceEnd":
                items.append(self._node(event, depth + 1))
            return Node("list", where, items=tuple(items))
        return self._mapping(where, depth)

    def _mapping(self, where: Location, depth: int) -> Node:
        entries: dict[str, Node] = {}
        merged: list[Node] = []
        while _kind(event := next(self._events)) != "MappingEnd":
            key = self._node(event, depth + 1)
            if key.kind in ("list", "mapping"):
                key.fail("a key must be a string, not a list or a mapping")
            if self._aliases and key.text == "<<" and key.kind == "text":
                merged.append(self._node(next(self._events), depth + 1))
                continue
            if key.text in entries:
                first = entries[key.text].where.line
                key.fail(f"duplicate key {shorten(key.text)!r}, first at line {first}", "Keep one of them.")
            entries[key.text] = self._node(next(self._events), depth + 1).relocated(key.where)
        for node in merged:
            for each in node.items if node.kind == "list" else (node,):
                if each.kind != "mapping":
                    each.fail("the value of '<<' must be a mapping or a list of mappings")
                entries = {**each.entries, **entries}
        return Node("mapping", where, entries=entries)

    def syntax_error(self, error: Exception) -> MetadataError:
        """Return the parser's error with the line of the file."""
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        index = mark.line if mark is not None else 0
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
        position = getattr(error, "position", None)
        if mark is None and isinstance(position, int):  # a character that YAML does not allow
            index = self._text.count("\n", 0, position)
            problem = f"the character {self._text[position : position + 1]!r} is not allowed"
        rows = self._text.split("\n")
        hint = "A value that contains ': ' or ' #', or starts with one of @ ` % & * ! | > [ { needs quotes."
        if (0 <= index < len(rows) and rows[index].startswith("\t")) or "'\\t'" in str(problem):
            hint = "Indent YAML with spaces, not tabs."
        return _wrong(f"invalid YAML: {shorten(str(problem), 200)}", Location(self._name, self.line(index)), hint)


def _wrong(message: str, where: Location, hint: str | None = None) -> MetadataError:
    return MetadataError(message, code="yaml-invalid", where=where, hint=hint)


def _size(node: Node) -> int:
    """Return the number of values in a node, including itself."""
    return 1 + sum(map(_size, node.items)) + sum(map(_size, node.entries.values()))


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")


def _kind_of(value: str) -> Kind:
    """Return the kind of a plain scalar."""
    if value in _NOTHING:
        return "nothing"
    if value in _BOOLEANS:
        return "boolean"
    # the first character decides mostly: compiling the expression takes longer than reading a block
    return "number" if value[0] in "+-.0123456789" and _NUMBER.fullmatch(value) else "text"

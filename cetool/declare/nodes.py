"""Values read from YAML or TOML that remember their places, the checks every dialect makes on them, and YAML's reader.

Both readers give the same tree, so a key means the same whichever language it was written in, and every refusal can
name its line. YAML's tree is built from the parser's events, so nothing is ever constructed: no tags, no second
document, no key twice. Anchors, aliases and merge keys (``<<``) are read in environment files alone, as conda reads
them there. Plain scalars are told apart by YAML 1.2's core schema (``yes`` and ``on`` are texts)."""

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

#: Nesting that no specification needs; deeper ones are refused before they can exhaust the stack.
MAX_DEPTH = 32

_IN_WORDS: dict[str, str] = {
    "text": "a text",
    "number": "a number",
    "boolean": "true or false",
    "nothing": "nothing",
    "date": "a date",
    "list": "a list",
    "mapping": "a table of keys",
}


class Node(Value):
    """A value."""

    kind: Kind
    #: Where it is; of a mapping's value, the line of its key.
    where: Location
    #: A scalar as it was written (``3.10`` stays ``3.10``).
    text: str = ""
    #: Those of a list.
    items: tuple[Node, ...] = ()
    #: Those of a mapping, in the order of the file.
    entries: Mapping[str, Node] = MappingProxyType({})
    #: Whether this is a text without quotes that YAML reads on from one line to the next.
    folded: bool = False

    def fail(
        self, message: str, hint: str | None = None, code: str | None = None, about: str | None = None
    ) -> NoReturn:
        """Raise MetadataError about this value."""
        raise MetadataError(message, code=code, about=about, where=self.where, hint=hint)

    @property
    def in_words(self) -> str:
        """What the value is, for a message: ``a number (3.1)``."""
        words = _IN_WORDS[self.kind]
        return f"{words} ({shorten(redact(self.text))})" if self.kind in ("number", "boolean", "date") else words

    def as_text(self, what: str, hint: str | None = None) -> str:
        """The text. Raises MetadataError for another kind, for an empty one, and for control characters."""
        if self.kind != "text":
            quote = "Put quotes around it." if self.kind in ("number", "boolean", "date") else None
            self.fail(f"{what} must be a text, not {self.in_words}", hint or quote)
        if not self.text.strip():
            self.fail(f"{what} is empty", hint)
        if has_control(self.text):
            self.fail(f"{what} holds a line break or a control character: {shorten(redact(self.text))!r}", hint)
        return self.text

    def as_list(self, what: str, hint: str | None = None) -> tuple[Node, ...]:
        """The items. Raises MetadataError for another kind."""
        if self.kind != "list":
            self.fail(f"{what} must be a list, not {self.in_words}", hint)
        return self.items

    def as_texts(self, what: str, hint: str | None = None) -> tuple[str, ...]:
        """The items, all of them texts. Raises MetadataError otherwise."""
        return tuple(item.as_text(f"an entry of {what}", hint) for item in self.as_list(what, hint))

    def as_mapping(self, what: str, known: Iterable[str] | None = None) -> Mapping[str, Node]:
        """The entries. Raises MetadataError for another kind, and for a key that is not among ``known``."""
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
        """A text that is one of the choices. Raises MetadataError."""
        text = self.as_text(what)
        if text not in choices:
            self.fail(f"{what} = {shorten(text)!r} is unknown", f"It can be one of: {', '.join(choices)}.")
        return text

    def as_flag(self, what: str) -> bool:
        """True or false. Raises MetadataError for another kind."""
        if self.kind != "boolean":
            self.fail(f"{what} must be true or false, not {self.in_words}")
        return self.text == "true"

    def below(self, *keys: str) -> Node | None:
        """The value reached by these keys from mapping to mapping; None where one is missing or is no mapping."""
        node: Node | None = self
        for key in keys:
            node = node.entries.get(key) if node is not None else None
        return node

    def folded_part(self) -> Node | None:
        """The first text in this value that goes over several lines; None where there is none."""
        if self.folded:
            return self
        parts = (part.folded_part() for part in (*self.items, *self.entries.values()))
        return next((part for part in parts if part is not None), None)

    def relocated(self, where: Location) -> Node:
        """The same value at another place."""
        return self._replace(where=where)


def listed(node: Node | None, what: str, hint: str | None = None) -> tuple[Node, ...]:
    """The items of a list that may be left out, or empty. Raises MetadataError for another kind."""
    return () if node is None or node.kind == "nothing" else node.as_list(what, hint)


_NOTHING = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = frozenset(("true", "True", "TRUE", "false", "False", "FALSE"))
#: Values that aliases may stand for in all: a few short lines can stand for billions.
_MOST_COPIED = 10_000
_NUMBER = pattern(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def parse_yaml(text: str, *, name: str, lines: Sequence[int] | None = None, aliases: bool = False) -> Node | None:
    """The document in ``text``, None where there is none.

    ``name`` is what messages call the file; ``lines`` gives for each line of the text the line of the file that it came
    from (None: the text is the file); with ``aliases``, anchors and merge keys are read. Raises MetadataError for
    whatever is not plain, simple YAML.
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
        raise _wrong("the YAML is nested too deep", Location(name, reader.line(0))) from None
    except Exception as error:
        # besides its own exceptions, the parser meets some malformed input with an AssertionError, IndexError ...
        raise reader.syntax_error(error) from None


class _Reader:
    """Builds one document's tree from the parser's events."""

    def __init__(self, name: str, lines: Sequence[int] | None, aliases: bool = False) -> None:
        self._name = name
        self._lines = lines
        self._aliases = aliases
        #: What the anchors stand for, None while that is still being read.
        self._anchors: dict[str, Node | None] = {}
        self._copied = 0
        self._text = ""
        self._nodes = 0
        self._events: Iterator[Any] = iter(())

    def line(self, index: int) -> int | None:
        """The file's line for a line of the text, both clamped to what exists."""
        if self._lines is None:
            return index + 1
        return self._lines[max(0, min(index, len(self._lines) - 1))] if self._lines else None

    def where(self, event: Any) -> Location:
        """The place where an event starts."""
        return Location(self._name, self.line(event.start_mark.line))

    def plainly(self, plain: Plain) -> Node:
        """The tree of a document that needed no parser."""
        where = Location(self._name, self.line(plain.line))
        if plain.items is not None:
            return Node("list", where, items=tuple(map(self.plainly, plain.items)))
        if plain.entries is not None:
            entries = {
                key: self.plainly(value).relocated(Location(self._name, self.line(line)))
                for line, key, value in plain.entries
            }
            return Node("mapping", where, entries=entries)
        text = plain.text or ""
        return Node("text" if plain.quoted else _kind_of(text), where, text)

    def document(self, text: str) -> Node | None:
        """The only document, None where the stream is empty."""
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
            raise _wrong("there is a second YAML document", self.where(after), "Take the '---' out.")
        return root

    def _node(self, event: Any, depth: int) -> Node:
        where = self.where(event)
        anchor = getattr(event, "anchor", None)
        if anchor is None:
            return self._plain_node(event, where, depth)
        if not self._aliases:
            hint = "Write the value out; a text that starts with '&' or '*' needs quotes."
            raise _wrong("YAML anchors (&) and aliases (*) are not accepted here", where, hint)
        if _kind(event) == "Alias":
            return self._alias(str(anchor), where)
        self._anchors[str(anchor)] = None
        node = self._anchors[str(anchor)] = self._plain_node(event, where, depth)
        return node

    def _alias(self, anchor: str, where: Location) -> Node:
        """What an anchor stands for. Raises MetadataError where that is nothing, itself, or too much."""
        node = self._anchors.get(anchor)
        if node is None:
            problem = "is used within itself" if anchor in self._anchors else "is not defined above"
            raise _wrong(f"the anchor of the alias *{shorten(anchor)} {problem}", where)
        self._copied += _size(node)
        if self._copied > _MOST_COPIED:
            raise _wrong(f"the aliases (*) of this file stand for more than {_MOST_COPIED} values", where)
        return node

    def _plain_node(self, event: Any, where: Location, depth: int) -> Node:
        tag = None if getattr(event, "tag", None) is None else str(event.tag)
        if tag is not None and tag not in ("!", "tag:yaml.org,2002:str"):
            hint = "Take it out; a text that starts with '!' needs quotes."
            raise _wrong(f"YAML tags are not accepted here: {shorten(tag)!r}", where, hint)
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > NODES:
            problem = "is nested too deep" if depth > MAX_DEPTH else f"has more than {NODES} values"
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
                key.fail("a key must be a word, not a list or a mapping")
            if self._aliases and key.text == "<<" and key.kind == "text":
                merged.append(self._node(next(self._events), depth + 1))
                continue
            if key.text in entries:
                first = entries[key.text].where.line
                key.fail(f"the key {shorten(key.text)!r} is there twice, first at line {first}", "Keep one of them.")
            entries[key.text] = self._node(next(self._events), depth + 1).relocated(key.where)
        for node in merged:
            for each in node.items if node.kind == "list" else (node,):
                if each.kind != "mapping":
                    each.fail("'<<' merges a mapping, or a list of mappings, into this one")
                entries = {**each.entries, **entries}
        return Node("mapping", where, entries=entries)

    def syntax_error(self, error: Exception) -> MetadataError:
        """The parser's complaint with the line of the file."""
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        index = mark.line if mark is not None else 0
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
        position = getattr(error, "position", None)
        if mark is None and isinstance(position, int):  # a character that YAML does not allow
            index = self._text.count("\n", 0, position)
            problem = f"the character {self._text[position : position + 1]!r} is not allowed"
        rows = self._text.split("\n")
        hint = "A value that holds ': ' or ' #', or starts with one of @ ` % & * ! | > [ { needs quotes."
        if (0 <= index < len(rows) and rows[index].startswith("\t")) or "'\\t'" in str(problem):
            hint = "YAML indents with blanks, not with tabs."
        return _wrong(f"this is not YAML: {shorten(str(problem), 200)}", Location(self._name, self.line(index)), hint)


def _wrong(message: str, where: Location, hint: str | None = None) -> MetadataError:
    return MetadataError(message, code="yaml-invalid", where=where, hint=hint)


def _size(node: Node) -> int:
    """How many values a node has, itself included."""
    return 1 + sum(map(_size, node.items)) + sum(map(_size, node.entries.values()))


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")


def _kind_of(value: str) -> Kind:
    """What a plain scalar is."""
    if value in _NOTHING:
        return "nothing"
    if value in _BOOLEANS:
        return "boolean"
    # the first character tells most: the expression takes longer to compile than a block to read
    return "number" if value[0] in "+-.0123456789" and _NUMBER.fullmatch(value) else "text"

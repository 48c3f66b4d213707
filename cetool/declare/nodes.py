"""Values read from YAML or TOML that remember where they were written, and the checks every dialect makes on them.

Both readers give the same tree, so a key means the same whichever language it was written in, and every refusal can
name its line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NoReturn

from cetool.base.errors import Location, MetadataError
from cetool.base.text import has_control, nearest, shorten
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

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
from cetool.base.urls import redact
from cetool.base.values import Value
from cetool.declare.channels import canonical_channel

Kind = Literal["text", "number", "boolean", "nothing", "date", "list", "mapping"]

#: Nesting that no specification needs; deeper ones are refused before they can exhaust the stack.
MAX_DEPTH = 32

#: The entry of a list of channels that keeps the configured ones out.
NO_DEFAULTS = "nodefaults"

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
    """One value: what kind it is, where it stands, and its text, its items or its entries.

    ``text`` is a scalar as it was written (``3.10`` stays ``3.10``); ``items`` belong to a list, ``entries`` to a
    mapping, in the order of the file. The place of a mapping's value is the line of its key. ``folded`` is a text
    without quotes that YAML reads on from one line to the next.
    """

    kind: Kind
    where: Location
    text: str = ""
    items: tuple[Node, ...] = ()
    entries: Mapping[str, Node] = MappingProxyType({})
    folded: bool = False

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        """Raise MetadataError about this value."""
        raise MetadataError(message, where=self.where, hint=hint)

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
                    value.fail(f"unknown key {shorten(key)!r} in {what}", nearest(key, names))
        return self.entries

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


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint for a word that is not known: the one that was probably meant, or all of them."""
    import difflib

    names = list(known)
    folded = {name.lower().replace("-", "_"): name for name in names}
    meant = word[:100].lower().replace("-", "_")
    close = difflib.get_close_matches(meant, list(folded), n=1, cutoff=0.6)
    close = close or [name for name in folded if len(name) > 2 and meant.startswith(name)]  # enviroment: env
    if close:
        return f"Did you mean {folded[close[0]]!r}?"
    return f"It can be one of: {', '.join(names)}."


def has_control(text: str) -> bool:
    """Whether the text holds a character that moves the cursor, breaks the line or ends a C string."""
    return any(ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u2028\u2029" for char in text)


def shorten(text: str, limit: int = 120) -> str:
    """The text, cut where it is too long for a message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def channels_of(node: Node | None, base_dir: str | os.PathLike[str], what: str = "channels") -> tuple[str, ...] | None:
    """The canonical channels of a list; None where it is left out or empty.

    ``nodefaults`` is not a channel: :func:`ends_channels` tells whether it is there. Entries are names, URLs or
    directories, or (pixi) tables with ``channel`` and ``priority``, the highest of which comes first. Raises
    MetadataError, also where ``nodefaults`` alone leaves no channel.
    """
    if node is None or node.kind == "nothing":
        return None
    ranked = []
    for item in node.as_list(what, "Write [conda-forge], or one entry a line."):
        priority = 0
        if item.kind == "mapping":
            fields = item.as_mapping(f"an entry of {what}", ("channel", "priority"))
            priority = _priority(fields["priority"]) if "priority" in fields else 0
            item = fields.get("channel") or item
        ranked.append((-priority, canonical_channel(item.as_text("a channel"), base_dir=base_dir, where=item.where)))
    found = [channel for _, channel in sorted(ranked, key=lambda pair: pair[0])]
    kept = tuple(dict.fromkeys(channel for channel in found if channel != NO_DEFAULTS))
    if found and not kept:
        node.fail(f"{what} has only '{NO_DEFAULTS}', which leaves no channel", "Name the channels to use as well.")
    return kept or None


def _priority(node: Node) -> int:
    if node.kind != "number" or not node.text.lstrip("+-").isdigit() or len(node.text) > 9:
        node.fail("the priority of a channel must be a whole number")
    return int(node.text)


def ends_channels(node: Node | None) -> bool:
    """Whether ``nodefaults`` says that the configured channels do not come after those named (CEP 24)."""
    return node is not None and any(item.text.strip() == NO_DEFAULTS for item in node.items)

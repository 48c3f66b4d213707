"""Where the values of a block are in its text, and how lists in brackets change there.

The two languages of the blocks (:mod:`cetool.edit.yaml`, :mod:`cetool.edit.toml`) build a tree of :class:`Spot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cetool.base.errors import MetadataError

#: The way to a value: keys of mappings, indexes of lists.
Path = tuple["str | int", ...]


class UneditableError(MetadataError):
    """Something is written in a way that a program cannot safely change."""

    code = "block-not-editable"

    def __init__(self) -> None:
        super().__init__("this is written in a way that cannot be changed by a program")


@dataclass(frozen=True)
class Spot:
    """A value in the content, from ``start`` up to and without ``end``."""

    kind: Literal["scalar", "list", "mapping"]
    start: int
    end: int
    #: Whether a list or mapping is in brackets.
    flow: bool = False
    #: A scalar's value.
    text: str = ""
    items: tuple[Spot, ...] = ()
    entries: Mapping[str, Spot] = field(default_factory=dict)
    #: Where the entries' keys start.
    keys: Mapping[str, int] = field(default_factory=dict)

    def at(self, path: Path) -> Spot | None:
        """The value below this one; None where there is none."""
        spot: Spot | None = self
        for step in path:
            if spot is None:
                return None
            if isinstance(step, str):
                spot = spot.entries.get(step)
            else:
                spot = spot.items[step] if step < len(spot.items) else None
        return spot

    def spans(self) -> list[tuple[int, int]]:
        """Where each item or entry, its key included, starts and ends."""
        if self.kind == "list":
            return [(item.start, item.end) for item in self.items]
        return [(self.keys[key], value.end) for key, value in self.entries.items()]


@dataclass(frozen=True)
class Edit:
    """Replace the text from ``start`` up to and without ``end``."""

    start: int
    end: int
    text: str


def line_end(text: str, offset: int) -> int:
    """The offset at which the line of ``offset`` ends."""
    found = text.find("\n", offset)
    return len(text) if found < 0 else found


def line_start(text: str, offset: int) -> int:
    """The offset at which the line of ``offset`` starts."""
    return text.rfind("\n", 0, offset) + 1


def flow_append(text: str, whole: Spot, value: str) -> list[Edit]:
    """Add a value, or an entry, at the end of a list or mapping in brackets, laid out as those before it."""
    spans = whole.spans()
    if not spans:
        inner = text[whole.start + 1 : whole.end - 1]
        return [Edit(whole.start + 1, whole.start + 1 if inner.strip() else whole.end - 1, value)]
    start, end = spans[-1]
    begins = line_start(text, start)
    if text[begins:start].strip() or whole.start >= begins:
        return [Edit(end, end, f", {value}")]
    indent = text[begins:start]
    comma = _comma_after(text, end, whole.end)
    after = line_end(text, end if comma is None else comma)
    if after >= whole.end:
        return [Edit(end, end, f",\n{indent}{value}")]
    if comma is not None:
        return [Edit(after, after, f"\n{indent}{value},")]
    if after == end:
        return [Edit(end, end, f",\n{indent}{value}")]
    return [Edit(end, end, ","), Edit(after, after, f"\n{indent}{value}")]


def flow_remove(text: str, whole: Spot, index: int) -> list[Edit]:
    """Take an item or entry, its comma, and a comment on its line out of a list or mapping in brackets."""
    spans = whole.spans()
    start, end = spans[index]
    alone = not text[line_start(text, start) : start].strip()
    comma = _comma_after(text, end, whole.end)
    if comma is not None:
        return [Edit(start, _rest(text, comma + 1, alone), "")]
    edits = [Edit(start, _rest(text, end, alone), "")]
    if index:
        before = spans[index - 1][1]
        comma = _comma_after(text, before, whole.end)
        if comma is not None and not text[before:start].replace(",", "", 1).strip(" \t"):
            return [Edit(before, edits[0].end, "")]
        if comma is not None:
            edits.append(Edit(comma, comma + 1, ""))
    return edits


def _rest(text: str, end: int, alone: bool) -> int:
    """Where what goes with an item ends: blanks, and the line's comment where the line was the item's own."""
    after = end
    while text[after : after + 1] in (" ", "\t"):
        after += 1
    rest = line_end(text, after)
    return rest if alone and (after == rest or text[after] == "#") else after


def _comma_after(text: str, offset: int, end: int) -> int | None:
    """The next comma, if there are only blanks and comments before it."""
    while offset < end:
        char = text[offset]
        if char == ",":
            return offset
        if char == "#":
            offset = line_end(text, offset)
        elif char not in " \t\n":
            return None
        else:
            offset += 1
    return None

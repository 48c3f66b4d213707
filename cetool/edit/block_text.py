"""Represent a block's text without its comment characters: the places of its values, edits, and the script's bytes.

The two languages of the blocks (:mod:`cetool.edit.yaml`, :mod:`cetool.edit.toml`) build a tree of :class:`Spot`.
Positions are offsets into :attr:`BlockText.content`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from cetool.base.errors import MetadataError
from cetool.declare.blocks import CONDA_EXECUTE, CONDA_SCRIPT, Block
from cetool.edit.document import Document

#: The path to a value: keys of mappings, indexes of lists.
Path = tuple["str | int", ...]


class UneditableError(MetadataError):
    """A program cannot safely change a text that is written in this way."""

    code = "block-not-editable"

    def __init__(self) -> None:
        super().__init__("cetool cannot change text that is written in this way")


@dataclass(frozen=True)
class Spot:
    """A value in the content, from ``start`` to before ``end``."""

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
        """Return the value at a path below this one; None if there is none."""
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
        """Return where each item or entry (with its key) starts and ends."""
        if self.kind == "list":
            return [(item.start, item.end) for item in self.items]
        return [(self.keys[key], value.end) for key, value in self.entries.items()]


@dataclass(frozen=True)
class Edit:
    """Replace the text from ``start`` to before ``end``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class _Line:
    """A line of the block: its content, and the text around it."""

    prefix: str
    content: str
    suffix: str
    ending: str
    #: Its bytes, while it is unchanged.
    raw: bytes | None = None
    #: Whether it is a comment inside the block, not a part of its content.
    hidden: bool = False


@dataclass(frozen=True)
class BlockText:
    """The lines between the opening and closing lines of a block."""

    lines: tuple[_Line, ...]
    prefix: str = ""
    ending: str = "\n"

    @classmethod
    def of(cls, content: str) -> BlockText:
        """Return a separate text, outside any script."""
        return cls(tuple(_Line("", line, "", "\n") for line in content.split("\n")) if content else ())

    @property
    def content(self) -> str:
        """The text of the lines with content, joined by line feeds."""
        return "\n".join(line.content for line in self.lines if not line.hidden)

    def edited(self, edits: Sequence[Edit]) -> BlockText:
        """Return the text after these edits, which must not overlap.

        A line that a removal leaves blank is removed; new lines look like the one before them.
        """
        text = self
        for edit in sorted(edits, key=lambda edit: (-edit.start, -edit.end)):
            text = text._edited(edit)
        return text

    def _edited(self, edit: Edit) -> BlockText:
        shown = [index for index, line in enumerate(self.lines) if not line.hidden]
        if not shown:
            made = [self._new(part, self.prefix, self.ending) for part in edit.text.strip("\n").split("\n")]
            return replace(self, lines=(*made, *self.lines))
        starts = [0]
        for index in shown[:-1]:
            starts.append(starts[-1] + len(self.lines[index].content) + 1)
        first, last = (bisect_right(starts, offset) - 1 for offset in (edit.start, edit.end))
        one, other = self.lines[shown[first]], self.lines[shown[last]]
        if edit.start == edit.end == starts[first] and edit.text.endswith("\n"):
            made = [self._new(part, one.prefix, one.ending) for part in edit.text[:-1].split("\n")]
            return replace(self, lines=(*self.lines[: shown[first]], *made, *self.lines[shown[first] :]))
        old = one.content + other.content
        new = one.content[: edit.start - starts[first]] + edit.text + other.content[edit.end - starts[last] :]
        made = []
        if new.strip() or not old.strip() or edit.text:
            parts = new.split("\n")
            if parts[0] == one.content:
                made.append(one)
            else:
                made.append(replace(one, prefix=self._before(parts[0], one.prefix), content=parts[0], raw=None))
            made += [self._new(part, one.prefix, one.ending) for part in parts[1:]]
        between = [line for line in self.lines[shown[first] : shown[last] + 1] if line.hidden]
        return replace(self, lines=(*self.lines[: shown[first]], *made, *between, *self.lines[shown[last] + 1 :]))

    def _new(self, content: str, prefix: str, ending: str) -> _Line:
        """Return a new line."""
        return _Line(self._before(content, prefix), content, "", ending or self.ending)

    def _before(self, content: str, prefix: str) -> str:
        """Return the prefix of this content, without blanks at its end for an empty one."""
        if not content:
            return prefix.rstrip()
        return f"{prefix} " if self.prefix.endswith(" ") and not prefix.endswith((" ", "\t")) else prefix

    def encoded(self, codec: str, *, ends_file: bool) -> list[bytes]:
        """Return the lines as bytes; at the end of the file, the last line has no line end if it had none."""
        done = []
        for index, line in enumerate(self.lines):
            ending = line.ending or self.ending
            if ends_file and index == len(self.lines) - 1:
                ending = ""
            if line.raw is not None and ending == line.ending:
                done.append(line.raw)
            else:
                done.append((line.prefix + line.content + line.suffix + ending).encode(codec))
        return done


def block_text(document: Document, block: Block) -> BlockText:
    """Return the text inside a block of this document."""
    inner_last = block.last if block.dialect == CONDA_EXECUTE else block.last - 1
    shown = dict(zip(block.numbers, block.content, strict=True))
    lines = []
    for number in range(block.first + 1, inner_last + 1):
        text, ending = document.line(number - 1)
        raw = document.lines[number - 1]
        content = shown.get(number)
        if content is None:
            lines.append(_Line("", text, "", ending, raw, hidden=True))
            continue
        cut = _prefix_length(text, content, block.dialect)
        lines.append(_Line(text[:cut], content, text[cut + len(content) :], ending, raw))
    opening = document.line(block.first - 1)[0]
    indent = opening[: len(opening) - len(opening.lstrip())]
    mark = "/// conda-script" if block.dialect == CONDA_SCRIPT else " "
    comment = opening.strip().partition(mark)[0].strip()
    blank = "" if block.dialect == CONDA_EXECUTE else " "
    return BlockText(tuple(lines), indent + comment + blank, document.ending)


def _prefix_length(text: str, content: str, dialect: str) -> int:
    """Return the number of characters before a line's content."""
    if dialect not in (CONDA_EXECUTE, CONDA_SCRIPT):
        return min(2, len(text))
    # blanks after the content were stripped
    return len(text.rstrip()) - len(content) if content else len(text.rstrip())


class BlockEditor:
    """A block's text while it is being changed."""

    def __init__(self, text: BlockText) -> None:
        self.text = text

    @property
    def content(self) -> str:
        """The block's current text."""
        return self.text.content

    def _apply(self, *edits: Edit) -> None:
        self.text = self.text.edited(edits)


def line_end(text: str, offset: int) -> int:
    """Return the offset at which the line of ``offset`` ends."""
    found = text.find("\n", offset)
    return len(text) if found < 0 else found


def line_start(text: str, offset: int) -> int:
    """Return the offset at which the line of ``offset`` starts."""
    return text.rfind("\n", 0, offset) + 1


def flow_append(text: str, whole: Spot, value: str) -> list[Edit]:
    """Add a value or entry at the end of a list or mapping in brackets, in the layout of those before it."""
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
    """Remove an item or entry, its comma and a comment on its line from a list or mapping in brackets."""
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
    """Return where the text after an item ends that belongs to it: blanks, and a comment if the item is alone on its
    line.
    """
    after = end
    while text[after : after + 1] in (" ", "\t"):
        after += 1
    rest = line_end(text, after)
    return rest if alone and (after == rest or text[after] == "#") else after


def _comma_after(text: str, offset: int, end: int) -> int | None:
    """Return the next comma, if only blanks and comments come before it."""
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

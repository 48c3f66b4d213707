"""Find the places of values in the YAML of a ``# conda execute`` block, and change them in place.

ruamel.yaml's events have the positions; its round-trip dump would reformat unchanged parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from cetool.base.errors import MetadataError
from cetool.declare.nodes import parse_yaml
from cetool.edit.block_text import (
    BlockEditor,
    Edit,
    Path,
    Spot,
    UneditableError,
    flow_append,
    flow_remove,
    line_end,
    line_start,
)


def scan_yaml(content: str) -> Spot:
    """Return the tree of a document that :func:`~cetool.declare.nodes.parse_yaml` accepts."""
    from ruamel.yaml import YAML

    events = iter(YAML(typ="safe", pure=True).parse(content + "\n"))
    next(events)  # the start of the stream
    if _kind(next(events)) != "DocumentStart":
        return Spot("mapping", len(content), len(content))
    return _spot(next(events), events, content)


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")


def _spot(event: Any, events: Iterator[Any], content: str) -> Spot:
    kind, start, end = _kind(event), event.start_mark.index, event.end_mark.index
    if kind == "Scalar":
        # a string on several lines (| or >) ends where the next value begins
        end = start + len(content[start:end].rstrip())
        return Spot("scalar", start, end, text=str(event.value))
    flow = bool(event.flow_style)
    if kind == "SequenceStart":
        items = []
        while _kind(event := next(events)) != "SequenceEnd":
            items.append(_spot(event, events, content))
        end = event.end_mark.index if flow else items[-1].end if items else end
        return Spot("list", start, end, flow, items=tuple(items))
    entries: dict[str, Spot] = {}
    keys: dict[str, int] = {}
    while _kind(event := next(events)) != "MappingEnd":
        key = _spot(event, events, content)
        value = _spot(next(events), events, content)
        if value.kind == "scalar" and value.start == value.end:
            colon = content.index(":", key.end) + 1  # the parser puts an empty value just before the next token
            value = Spot("scalar", colon, colon)
        entries[key.text], keys[key.text] = value, key.start
        end = value.end
    # 'key: value' in a list in brackets is a mapping without braces
    braces = flow and content[start : start + 1] == "{"
    return Spot("mapping", start, event.end_mark.index if braces else end, braces, entries=entries, keys=keys)


def quoted(text: str, *, flow: bool, like: str = "") -> str:
    """Return the text as a YAML scalar: plain if that means the same, else in the quotes of ``like``."""
    if like[:1] not in ('"', "'") and _means(f"[{text}]" if flow else f"- {text}", text):
        return text
    if like[:1] == '"' or not text.isprintable():
        return json.dumps(text, ensure_ascii=False)
    return "'" + text.replace("'", "''") + "'"


def _means(yaml: str, text: str) -> bool:
    try:
        node = parse_yaml(yaml, name="")
    except MetadataError:
        return False
    items = () if node is None or node.kind != "list" else node.items
    return len(items) == 1 and items[0].kind == "text" and items[0].text == text


class YamlText(BlockEditor):
    """A block's YAML that is being changed."""

    def _at(self, path: Path) -> Spot:
        spot = scan_yaml(self.content).at(path)
        assert spot is not None
        return spot

    def replace_text(self, path: Path, text: str) -> None:
        """Replace a scalar by another string."""
        spot = self._at(path)
        flow = any(self._at(path[:length]).flow for length in range(len(path)))
        self._apply(Edit(spot.start, spot.end, quoted(text, flow=flow, like=self.content[spot.start : spot.end])))

    def append_text(self, path: Path, text: str, *, first: int | None = None) -> None:
        """Add a string at the end of a list, or before the item ``first`` if that is not the first one."""
        self._append(path, quoted(text, flow=True), quoted(text, flow=False), first)

    def append_list(self, path: Path, key: str, text: str) -> None:
        """Add ``key: [text]`` at the end of a list."""
        self._append(path, f"{{{key}: [{quoted(text, flow=True)}]}}", f"{key}:\n  - {quoted(text, flow=False)}")

    def set_list(self, key: str, texts: Iterable[str], *, below: str | None = None) -> None:
        """Set ``key: [texts]`` in the document's mapping, where the key is missing or has no value.

        With ``below``, the strings are a list inside that one: ``key: [{below: [texts]}]``.
        """
        root = scan_yaml(self.content)
        value = f"[{', '.join(quoted(text, flow=True) for text in texts)}]"
        value = value if below is None else f"[{{{below}: {value}}}]"
        known = root.entries.get(key)
        if known is not None:
            self._apply(Edit(known.start, known.end, f" {value}"))
        elif root.flow:
            self._apply(*flow_append(self.content, root, f"{key}: {value}"))
        else:
            first = next(iter(root.keys.values()), None)
            column = 1 if first is None else first - line_start(self.content, first)
            end = line_end(self.content, root.end)
            self._apply(Edit(end, end, f"{chr(10) if self.content else ''}{' ' * column}{key}: {value}"))

    def _append(self, path: Path, flow: str, block: str, first: int | None = None) -> None:
        content, spot = self.content, self._at(path)
        if first is not None:
            items = spot.items[:first]
            spot = replace(spot, items=items, end=spot.end if spot.flow else items[-1].end)
            if spot.flow:
                self._apply(Edit(items[-1].end, items[-1].end, f", {flow}"))
                return
        if spot.kind == "scalar":  # 'pip:' without a value
            self._apply(Edit(spot.start, spot.end, f" [{flow}]"))
            return
        if spot.flow:
            self._apply(*flow_append(content, spot, flow))
            return
        last = len(spot.items) - 1
        dash = _dash(content, spot, last)
        between = content[dash + 1 : spot.items[last].start]
        between = between if between.strip(" ") == "" else " "
        indent = " " * (dash - line_start(content, dash))
        # the item's further lines start below its first character
        lines = block.replace("\n", f"\n{indent} {' ' * len(between)}")
        end = line_end(content, spot.end)
        self._apply(Edit(end, end, f"\n{indent}-{between}{lines}"))

    def remove(self, path: Path) -> None:
        """Remove an item from a list."""
        content, holder, index = self.content, self._at(path[:-1]), path[-1]
        assert isinstance(index, int)
        if holder.flow:
            self._apply(*flow_remove(content, holder, index))
            return
        start, end = _dash(content, holder, index), holder.items[index].end
        begins, ends = line_start(content, start), line_end(content, end)
        rest = content[end:ends].strip()
        alone = not content[begins:start].strip()
        self._apply(Edit(begins if alone else start, end if rest and rest[0] != "#" else ends, ""))


def _dash(content: str, whole: Spot, index: int) -> int:
    """Return the offset of the dash before an item of a list without brackets."""
    offset = whole.items[index - 1].end if index else line_start(content, whole.items[0].start)
    stop = whole.items[index].start
    if not index:  # back over lines with only a dash or a comment
        offset = min(offset, line_start(content, whole.start))
    while offset < stop:
        begins = line_start(content, offset)
        if content[offset] == "-" and not content[begins:offset].strip(" -"):
            return offset
        offset = line_end(content, offset) + 1 if content[offset] == "#" else offset + 1
    raise UneditableError

"""Where things stand in the YAML of a ``# conda execute`` block, and the edits that change them in place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cetool.base.errors import MetadataError
from cetool.declare.yaml import parse_yaml
from cetool.edit.lines import Edit, Path, Spot, UneditableError, flow_append, flow_remove, line_end, line_start


def scan_yaml(content: str) -> Spot:
    """The tree of a document that :func:`~cetool.declare.yaml.parse_yaml` accepts; an empty mapping of nothing."""
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
        # a text in several lines (| or >) ends where the next thing begins
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
            colon = content.index(":", key.end) + 1  # of nothing the parser says that it stands before what comes next
            value = Spot("scalar", colon, colon)
        entries[key.text], keys[key.text] = value, key.start
        end = value.end
    # 'key: value' in a list in brackets is a mapping without braces
    braces = flow and content[start : start + 1] == "{"
    return Spot("mapping", start, event.end_mark.index if braces else end, braces, entries=entries, keys=keys)


def quoted(text: str, *, flow: bool, like: str = "") -> str:
    """The text as a YAML scalar that means it: as it is where that can be, else in the quotes that ``like`` has."""
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


def replace_text(content: str, path: Path, text: str) -> list[Edit]:
    """Put another text in a scalar's place."""
    root = scan_yaml(content)
    spot = root.at(path)
    assert spot is not None
    return [Edit(spot.start, spot.end, quoted(text, flow=_in_flow(root, path), like=content[spot.start : spot.end]))]


def append_text(content: str, path: Path, text: str, *, first: int | None = None) -> list[Edit]:
    """Add a text at the end of a list, or in front of the item ``first`` where others stand before that."""
    return _append(content, path, quoted(text, flow=True), quoted(text, flow=False), first)


def append_list(content: str, path: Path, key: str, text: str) -> list[Edit]:
    """Add ``key: [text]`` at the end of a list."""
    return _append(content, path, f"{{{key}: [{quoted(text, flow=True)}]}}", f"{key}:\n  - {quoted(text, flow=False)}")


def set_list(content: str, key: str, texts: tuple[str, ...], *, below: str | None = None) -> list[Edit]:
    """Have the document's mapping say ``key: [texts]``, where it does not have the key or nothing behind it.

    With ``below`` the texts are a list of their own in that one: ``key: [{below: [texts]}]``.
    """
    root = scan_yaml(content)
    value = f"[{', '.join(quoted(text, flow=True) for text in texts)}]"
    value = value if below is None else f"[{{{below}: {value}}}]"
    known = root.entries.get(key)
    if known is not None:
        return [Edit(known.start, known.end, f" {value}")]
    if root.flow:
        return flow_append(content, root, f"{key}: {value}")
    column = 1
    for start in root.keys.values():
        column = start - line_start(content, start)
        break
    end = line_end(content, root.end)
    return [Edit(end, end, f"{'' if not content else chr(10)}{' ' * column}{key}: {value}")]


def _append(content: str, path: Path, flow: str, block: str, first: int | None = None) -> list[Edit]:
    root = scan_yaml(content)
    spot = root.at(path)
    assert spot is not None
    if first is not None:
        items = spot.items[:first]
        spot = replace(spot, items=items, end=spot.end if spot.flow else items[-1].end)
        if spot.flow:
            return [Edit(items[-1].end, items[-1].end, f", {flow}")]
    if spot.kind == "scalar":  # 'pip:' with nothing behind it
        return [Edit(spot.start, spot.end, f" [{flow}]")]
    if spot.flow:
        return flow_append(content, spot, flow)
    last = len(spot.items) - 1
    dash = _dash(content, spot, last)
    begins = line_start(content, dash)
    between = content[dash + 1 : spot.items[last].start]
    between = between if between.strip(" ") == "" else " "
    indent = " " * (dash - begins)
    # what belongs to the item stands below its first character
    lines = block.replace("\n", f"\n{indent} {' ' * len(between)}")
    end = line_end(content, spot.end)
    return [Edit(end, end, f"\n{indent}-{between}{lines}")]


def remove_item(content: str, path: Path) -> list[Edit]:
    """Take an item out of a list."""
    root = scan_yaml(content)
    holder, index = root.at(path[:-1]), path[-1]
    assert holder is not None and isinstance(index, int)
    if holder.flow:
        return flow_remove(content, holder, index)
    start, end = _dash(content, holder, index), holder.items[index].end
    rest = content[end : line_end(content, end)].strip()
    if not rest or rest.startswith("#"):
        end = line_end(content, end)
    return [
        Edit(line_start(content, start) if not content[line_start(content, start) : start].strip() else start, end, "")
    ]


def _dash(content: str, whole: Spot, index: int) -> int:
    """The offset of the dash before an item of a list without brackets."""
    offset = whole.items[index - 1].end if index else line_start(content, whole.items[0].start)
    stop = whole.items[index].start
    if not index:  # back over lines on which nothing but a dash or a comment stands
        offset = min(offset, line_start(content, whole.start))
    while offset < stop:
        begins = line_start(content, offset)
        if content[offset] == "-" and not content[begins:offset].strip(" -"):
            return offset
        offset = line_end(content, offset) + 1 if content[offset] == "#" else offset + 1
    raise UneditableError


def _in_flow(root: Spot, path: Path) -> bool:
    holders = [root.at(path[:length]) for length in range(len(path))]
    return any(holder is not None and holder.flow for holder in holders)

"""Where things stand in a block's TOML, and the edits that change them in place.

The text is known to be TOML (:func:`~cetool.declare.toml.parse_toml` has read it), so the scanner only has to find
where its parts begin and end.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import tomli

from cetool.edit.lines import Edit, Path, Spot, UneditableError, flow_append, flow_remove, line_end, line_start

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_KEY_END = re.compile(r"(?:[A-Za-z0-9_-]+|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|[ \t]*\.[ \t]*)+")
_SCALAR = re.compile(
    r'"""(?:\\.|[^\\])*?"""+|\'\'\'.*?\'\'\'+|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|[^\s,\]}#]+(?: [0-9][^\s,\]}#]*)?',
    re.DOTALL,
)


@dataclass(frozen=True)
class Entry:
    """``key = value``: the key's parts from the top of the document, where it starts, and the value."""

    path: tuple[str, ...]
    start: int
    value: Spot


@dataclass(frozen=True)
class Section:
    """A table with a header, from ``start`` to ``end`` on its line; the first one is what stands before any header."""

    path: tuple[str, ...]
    start: int
    end: int
    array: bool
    entries: tuple[Entry, ...]


def scan_toml(content: str) -> tuple[Section, ...]:
    """The document's tables, in order."""
    return _Scanner(content).sections()


class _Scanner:
    def __init__(self, content: str) -> None:
        self._text = content
        self._at = 0

    def sections(self) -> tuple[Section, ...]:
        found: list[Section] = []
        path: tuple[str, ...] = ()
        start = end = 0
        array = False
        entries: list[Entry] = []
        while self._skip(newlines=True):
            if self._text[self._at] != "[":
                entries.append(self._entry(path))
                continue
            found.append(Section(path, start, end, array, tuple(entries)))
            start, entries = self._at, []
            array = self._text.startswith("[[", start)
            self._at += 2 if array else 1
            self._skip()
            path = self._key()
            self._skip()
            self._at += 2 if array else 1
            end = self._at
        return (*found, Section(path, start, end, array, tuple(entries)))

    def _skip(self, *, newlines: bool = False) -> bool:
        """Go over blanks and comments; whether anything follows."""
        blank = " \t\n" if newlines else " \t"
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "#" and newlines:
                self._at = line_end(self._text, self._at)
            elif char in blank:
                self._at += 1
            else:
                return True
        return False

    def _key(self) -> tuple[str, ...]:
        found = _KEY_END.match(self._text, self._at)
        if found is None:
            raise UneditableError
        self._at = found.end()
        parts: list[str] = []
        inner: Any = tomli.loads(f"{found[0].strip()} = 0")
        while isinstance(inner, dict):
            ((part, inner),) = inner.items()
            parts.append(part)
        return tuple(parts)

    def _entry(self, above: tuple[str, ...]) -> Entry:
        start = self._at
        path = (*above, *self._key())
        self._skip()
        self._at += 1  # =
        self._skip()
        return Entry(path, start, self._value())

    def _value(self) -> Spot:
        start = self._at
        opening = self._text[start]
        if opening == "[":
            items = []
            self._at += 1
            while self._skip(newlines=True) and self._text[self._at] != "]":
                items.append(self._value())
                self._pass_comma()
            self._at += 1
            return Spot("list", start, self._at, True, items=tuple(items))
        if opening == "{":
            entries: dict[str, Spot] = {}
            keys: dict[str, int] = {}
            self._at += 1
            while self._skip(newlines=True) and self._text[self._at] != "}":
                entry = self._entry(())
                # a dotted key stands for itself alone: what is below it is not changed
                key = entry.path[0] if len(entry.path) == 1 else ".".join(entry.path)
                entries[key], keys[key] = entry.value, entry.start
                self._pass_comma()
            self._at += 1
            return Spot("mapping", start, self._at, True, entries=entries, keys=keys)
        found = _SCALAR.match(self._text, start)
        assert found is not None
        self._at = found.end()
        value = tomli.loads(f"value = {found[0]}")["value"]
        return Spot("scalar", start, self._at, text=value if isinstance(value, str) else found[0])

    def _pass_comma(self) -> None:
        if self._skip(newlines=True) and self._text[self._at] == ",":
            self._at += 1


def quoted(text: str, like: str = "") -> str:
    """The text as a TOML string, in the quotes that ``like`` has, or in those that need no escapes."""
    literal = "'" not in text and text.isprintable()
    if literal and (like[:1] == "'" or '"' in text or "\\" in text):
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)


def key_text(*parts: str) -> str:
    """A key, its parts in quotes where they need them."""
    return ".".join(part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in parts)


def array_text(texts: tuple[str, ...] | list[str], width: int = 100) -> str:
    """Texts as an array: in one line where that is short."""
    items = [quoted(text) for text in texts]
    line = f"[{', '.join(items)}]"
    return line if len(line) <= width else "[\n" + "".join(f"  {item},\n" for item in items) + "]"


def find(content: str, path: Path) -> Spot | None:
    """The value at a path; None for a table with a header, and where there is nothing."""
    for section in scan_toml(content):
        if section.array:
            continue
        for entry in section.entries:
            length = len(entry.path)
            if entry.path == path[:length]:
                return entry.value.at(path[length:])
    return None


def exists(content: str, path: tuple[str, ...]) -> bool:
    """Whether there is a value or a table at a path, or anything below it."""
    if find(content, path) is not None:
        return True
    length = len(path)
    return any(
        section.path[:length] == path or any(entry.path[:length] == path for entry in section.entries)
        for section in scan_toml(content)
    )


def replace_text(content: str, path: Path, text: str) -> list[Edit]:
    """Put another text in a value's place."""
    spot = _must(find(content, path))
    return [Edit(spot.start, spot.end, quoted(text, content[spot.start : spot.end]))]


def replace_value(content: str, path: Path, value: str) -> list[Edit]:
    """Put another value, as TOML, in a value's place."""
    spot = _must(find(content, path))
    return [Edit(spot.start, spot.end, value)]


def append(content: str, path: Path, value: str) -> list[Edit]:
    """Add a value, as TOML, at the end of an array."""
    return flow_append(content, _must(find(content, path)), value)


def append_text(content: str, path: Path, text: str) -> list[Edit]:
    """Add a text at the end of an array, in the quotes of its last item."""
    spot = _must(find(content, path))
    like = content[spot.items[-1].start : spot.items[-1].end] if spot.items else ""
    return flow_append(content, spot, quoted(text, like))


def set_entry(content: str, table: tuple[str, ...], key: str, value: str) -> list[Edit]:
    """Add ``key = value`` to a table that does not have the key; the table is made at the end where it is missing."""
    inline = find(content, table)
    if inline is not None and inline.kind == "mapping":
        return flow_append(content, inline, f"{key_text(key)} = {value}")
    sections = [section for section in scan_toml(content) if not section.array]
    for section in reversed(sections):
        if section.path == table and (table or section.entries):
            last = max([section.end, *(entry.value.end for entry in section.entries)])
            start = section.entries[-1].start if section.entries else section.start
            return [_below(content, last, start, f"{key_text(key)} = {value}")]
    for section in reversed(sections):
        depth = len(section.path)
        below = [entry for entry in section.entries if entry.path[: len(table)] == table]
        if table and table[:depth] == section.path and below:
            line = f"{key_text(*table[depth:], key)} = {value}"
            return [_below(content, below[-1].value.end, below[-1].start, line)]
    if not table:
        gap = "\n" if content.strip() else ""
        return [Edit(0, 0, f"{key_text(key)} = {value}\n{gap}")]
    end = len(content.rstrip())
    gap = "\n\n" if end else ""
    end = line_end(content, end)
    return [Edit(end, end, f"{gap}[{key_text(*table)}]\n{key_text(key)} = {value}")]


def _below(content: str, last: int, like: int, line: str) -> Edit:
    """A line after the one in which ``last`` is, indented as the one in which ``like`` is."""
    begins = line_start(content, like)
    indent = content[begins:like] if not content[begins:like].strip() else ""
    end = line_end(content, last)
    return Edit(end, end, f"\n{indent}{line}")


def remove(content: str, path: Path) -> list[Edit]:
    """Take out what is at a path: an item of an array, an entry, or a table with its header and all that is below."""
    holder = find(content, path[:-1]) if path[:-1] else None
    if holder is not None:
        step = path[-1]
        if isinstance(step, str) and step not in holder.entries:
            raise UneditableError  # one of several dotted keys in braces
        index = step if isinstance(step, int) else list(holder.entries).index(step)
        return flow_remove(content, holder, index)
    length = len(path)
    edits = []
    for section in scan_toml(content):
        if section.path[:length] == path and length:
            edits.append(Edit(line_start(content, section.start), _after(content, section.end), ""))
        for entry in section.entries:
            if entry.path[:length] == path:
                edits.append(Edit(line_start(content, entry.start), _after(content, entry.value.end), ""))
    if not edits:
        raise UneditableError  # in an array of tables
    return edits


def _after(content: str, end: int) -> int:
    """The end of the line: a comment on it belongs to what stands there."""
    return line_end(content, end)


def _must(spot: Spot | None) -> Spot:
    if spot is None:
        raise UneditableError
    return spot

"""Find the places of values in a block's TOML, and change them in place.

tomlkit parses the text, and its items, which keep their source, are followed through it: if they are not where they
should be, UneditableError is raised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cetool.edit.block_text import (
    BlockEditor,
    BlockText,
    Edit,
    Path,
    Spot,
    UneditableError,
    flow_append,
    flow_remove,
    line_end,
    line_start,
)

if TYPE_CHECKING:
    from tomlkit.container import Container
    from tomlkit.items import Table

_BARE = re.compile(r"[A-Za-z0-9_-]+")
#: Text between two items.
_GAP = re.compile(r"(?:[ \t\n,]+|#[^\n]*)*")


@dataclass(frozen=True)
class Entry:
    """``key = value``: the key's parts from the top of the document, where it starts, and the value."""

    path: tuple[str, ...]
    start: int
    value: Spot


@dataclass(frozen=True)
class Section:
    """A table with a header, from ``start`` to ``end`` on its line; the first one precedes any header."""

    path: tuple[str, ...]
    start: int
    end: int
    array: bool
    entries: list[Entry] = field(default_factory=list)


def scan_toml(content: str) -> list[Section]:
    """Return the document's tables, in order. Raises UneditableError if tomlkit's items do not match the text."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(content)
        return _Reader(content).sections(document)
    except (TOMLKitError, RecursionError):
        raise UneditableError from None


class _Reader:
    """Follows the items of a parsed document through its text."""

    def __init__(self, content: str) -> None:
        self._text = content
        self._at = 0
        self._sections = [Section((), 0, 0, False)]

    def sections(self, document: Container) -> list[Section]:
        self._container(document, (), "")
        return self._sections

    def _pass(self, text: str) -> int:
        """Pass this text, which comes next, and return where it starts."""
        gap = _GAP.match(self._text, self._at)
        start = gap.end() if gap else self._at
        if not self._text.startswith(text, start):
            raise UneditableError
        self._at = start + len(text)
        return start

    def _container(self, container: Container, path: tuple[str, ...], dotted: str) -> None:
        """Follow a table's entries and the tables below it; ``dotted`` is the written key of one without a header."""
        from tomlkit.items import AoT, Table

        for key, item in container.body:
            if key is None:
                continue
            below = (*path, key.key)
            if isinstance(item, AoT):
                for table in item.body:
                    self._headed(table, below, f"[[{table.display_name}]]")
            elif isinstance(item, Table) and item.display_name is not None:
                self._headed(item, below, f"[{item.display_name}]")
            elif isinstance(item, Table):
                self._container(item.value, below, f"{dotted}{key.as_string()}." if key.is_dotted() else "")
            else:
                start = self._pass(dotted + key.as_string() + key.sep)
                self._sections[-1].entries.append(Entry(below, start, self._value(item)))

    def _headed(self, table: Table, path: tuple[str, ...], header: str) -> None:
        start = self._pass(header)
        self._sections.append(Section(path, start, self._at, header.startswith("[[")))
        self._container(table.value, path, "")

    def _value(self, item: Any) -> Spot:
        from tomlkit.items import Array, InlineTable

        text = item.as_string() if hasattr(item, "as_string") else str(item).lower()  # arrays return Python's bool
        start = self._pass(text)
        end = self._at
        if isinstance(item, Array):
            self._at = start + 1
            spot = Spot("list", start, end, True, items=tuple([self._value(each) for each in item]))
        elif isinstance(item, InlineTable):
            self._at = start + 1
            found = list(self._inline(item.value, "", ""))
            entries = {key: value for key, _, value in found}
            spot = Spot("mapping", start, end, True, entries=entries, keys={key: place for key, place, _ in found})
        else:
            spot = Spot("scalar", start, end, text=str(item) if isinstance(item, str) else text)
        self._at = end
        return spot

    def _inline(self, container: Container, name: str, dotted: str) -> Iterator[tuple[str, int, Spot]]:
        """Yield each entry in braces: its key, where that starts, and its value.

        A dotted key is one word: values below its parts are not changed.
        """
        for key, item in container.body:
            if key is None:
                continue
            if key.is_dotted():
                yield from self._inline(item.value, f"{name}{key.key}.", f"{dotted}{key.as_string()}.")
            else:
                start = self._pass(dotted + key.as_string() + key.sep)
                yield name + key.key, start, self._value(item)


def quoted(text: str, like: str = "") -> str:
    """Return the text as a TOML string, in the quotes of ``like``, or in quotes that need no escapes."""
    literal = "'" not in text and text.isprintable()
    if literal and (like[:1] == "'" or '"' in text or "\\" in text):
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)


def key_text(*parts: str) -> str:
    """Return a key, with quotes around the parts that need them."""
    return ".".join(part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in parts)


def array_text(texts: tuple[str, ...] | list[str], width: int = 100) -> str:
    """Return strings as an array, on one line if that is short."""
    items = [quoted(text) for text in texts]
    line = f"[{', '.join(items)}]"
    return line if len(line) <= width else "[\n" + "".join(f"  {item},\n" for item in items) + "]"


class TomlText(BlockEditor):
    """A block's TOML that is being changed.

    Changes raise UneditableError if the value cannot be changed in place.
    """

    _scanned: tuple[BlockText, list[Section]] | None = None

    @property
    def _sections(self) -> list[Section]:
        """The document's current tables."""
        if self._scanned is None or self._scanned[0] is not self.text:
            self._scanned = self.text, scan_toml(self.content)
        return self._scanned[1]

    def find(self, path: Path) -> Spot | None:
        """Return the value at a path; None for a table with a header, and if there is none."""
        for section in self._sections:
            for entry in () if section.array else section.entries:
                length = len(entry.path)
                if entry.path == path[:length]:
                    return entry.value.at(path[length:])
        return None

    def _must(self, path: Path) -> Spot:
        spot = self.find(path)
        if spot is None:
            raise UneditableError
        return spot

    def has(self, *path: str) -> bool:
        """Return whether there is a value or a table at a path, or anything below it."""
        length = len(path)
        return self.find(path) is not None or any(
            section.path[:length] == path or any(entry.path[:length] == path for entry in section.entries)
            for section in self._sections
        )

    def replace(self, path: Path, value: str) -> None:
        """Replace a value by another one, written as TOML."""
        spot = self._must(path)
        self._apply(Edit(spot.start, spot.end, value))

    def replace_text(self, path: Path, text: str) -> None:
        """Replace a value by a string, in the same quotes."""
        spot = self._must(path)
        self._apply(Edit(spot.start, spot.end, quoted(text, self.content[spot.start : spot.end])))

    def append(self, path: tuple[str, ...], value: str) -> None:
        """Add a value, written as TOML, at the end of an array; create a missing array."""
        spot = self.find(path)
        if spot is None:
            self.set(path[:-1], path[-1], f"[{value}]")
        else:
            self._apply(*flow_append(self.content, spot, value))

    def append_text(self, path: tuple[str, ...], text: str) -> None:
        """Add a string at the end of an array, likewise, in the quotes of its last item."""
        spot = self.find(path)
        like = self.content[spot.items[-1].start : spot.items[-1].end] if spot is not None and spot.items else ""
        self.append(path, quoted(text, like))

    def set(self, table: tuple[str, ...], key: str, value: str) -> None:
        """Add ``key = value`` to a table without that key; create a missing table at the end."""
        content, entry = self.content, f"{key_text(key)} = {value}"
        inline = self.find(table)
        if inline is not None and inline.kind == "mapping":
            self._apply(*flow_append(content, inline, entry))
            return
        sections = [section for section in self._sections if not section.array]
        for section in reversed(sections):
            if section.path == table and (table or section.entries):
                last = max([section.end, *(entry.value.end for entry in section.entries)])
                self._below(last, section.entries[-1].start if section.entries else section.start, entry)
                return
        for section in reversed(sections):
            depth = len(section.path)
            below = [entry for entry in section.entries if entry.path[: len(table)] == table]
            if table and table[:depth] == section.path and below:
                self._below(below[-1].value.end, below[-1].start, f"{key_text(*table[depth:], key)} = {value}")
                return
        if not table:
            self._apply(Edit(0, 0, entry + ("\n\n" if content.strip() else "\n")))
            return
        end = len(content.rstrip())
        gap = "\n\n" if end else ""
        end = line_end(content, end)
        self._apply(Edit(end, end, f"{gap}[{key_text(*table)}]\n{entry}"))

    def _below(self, last: int, like: int, line: str) -> None:
        """Add a line after the one of ``last``, with the indentation of the one of ``like``."""
        before = self.content[line_start(self.content, like) : like]
        end = line_end(self.content, last)
        self._apply(Edit(end, end, f"\n{'' if before.strip() else before}{line}"))

    def remove(self, path: Path) -> None:
        """Remove an item of an array, an entry, or a table with its header and content."""
        content, length = self.content, len(path)
        holder = self.find(path[:-1]) if path[:-1] else None
        if holder is not None:
            step = path[-1]
            if isinstance(step, str) and step not in holder.entries:
                raise UneditableError  # one of several dotted keys in braces
            index = step if isinstance(step, int) else list(holder.entries).index(step)
            self._apply(*flow_remove(content, holder, index))
            return
        spans = []
        for section in self._sections:
            spans += [(section.start, section.end)] * (section.path[:length] == path)
            spans += [(entry.start, entry.value.end) for entry in section.entries if entry.path[:length] == path]
        if not spans:
            raise UneditableError  # in an array of tables
        # a comment on the line belongs to the value
        self._apply(*(Edit(line_start(content, start), line_end(content, end), "") for start, end in spans))

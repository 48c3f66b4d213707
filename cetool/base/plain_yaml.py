"""Read the simple YAML of most blocks and configuration files: keys and lists of words.

Importing ruamel.yaml takes 10 ms, and reading ten lines some more: a sixth of what cetool may add to creating an
environment; a lock of 500 packages takes it half a second, and this module a tenth of that. It reads what it reads
exactly as ruamel.yaml does. It reads nothing beyond simple forms (no flow mappings, anchors, tags, multi-line texts,
escapes, non-ASCII letters) and reports no errors: for all these it returns None, and ruamel.yaml reads the text or
reports what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cetool.base.limits import NODES
from cetool.base.text import pattern
from cetool.base.values import Value

# A scalar that every version of YAML reads as its characters, a number or a boolean; ``:`` and ``#`` only inside.
_START = r"[A-Za-z0-9_./~]"
_MIDDLE = r"[A-Za-z0-9_./~ +=<>!*^$|()@%;-]"
_INSIDE = rf"{_MIDDLE}|[,&]|:(?=[A-Za-z0-9_./~+=<>*$|()@%;-])|(?<=[A-Za-z0-9_./-])#(?=[A-Za-z0-9])"
_PLAIN = rf"{_START}(?:(?:{_INSIDE})*(?:{_MIDDLE}|,)(?<! ))?"
_IN_FLOW = rf"{_START}(?:{_MIDDLE}*(?<! ))?"
_SINGLE, _DOUBLE = r"'[ !-&(-~]*'", r'"[ !#-\[\]-~]*"'
_COMMENT = r"(?: +#[ -~]*)?"

_SCALAR = pattern(rf"(?:({_PLAIN})|({_SINGLE}|{_DOUBLE})){_COMMENT} *")
_FLOW = pattern(rf"\[([^\[\]#]*)\]{_COMMENT} *")
_FLOW_ITEM = pattern(rf"({_IN_FLOW})|({_SINGLE}|{_DOUBLE})")
_KEY = pattern(r"(?:([A-Za-z_][A-Za-z0-9_.-]*)|'([A-Za-z0-9_.-]+)') *:(?: +|$)")
_ITEM = pattern(r"- +(?=[^ -])")
#: Words that are not strings without quotes, for example as keys.
_WORDS = frozenset(("null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE"))
#: Limits: characters of a row, leading blanks (with the lists among them, fewer levels than other readers accept).
_LONGEST, _DEEPEST = 500, 20
#: Values that a row can have, without those of a list in brackets: a list, a mapping, a key and its value.
_IN_ROW = 4
_INTEGER = pattern(r"0|[1-9][0-9]{0,8}")
_TEXT = pattern(r"[A-Za-z_/~][^\n]+|[A-Za-z_/]")


class Plain(Value):
    """A value and the line of the text where it begins, counted from 0.

    It is one of these: the ``text`` of a scalar, and whether it was quoted; the ``items`` of a list; the ``entries`` of
    a mapping, each with the line of its key.
    """

    line: int
    text: str | None = None
    quoted: bool = False
    items: tuple[Plain, ...] | None = None
    entries: _Entries | None = None


def read_plainly(text: str) -> Plain | None:
    """Return the document in a text, or None if it takes a real parser."""
    rows = []
    if _IN_ROW * text.count("\n") + text.count(",") > NODES:
        return None
    for number, row in enumerate(text.split("\n")):
        content = row.strip(" ")
        if content and not content.startswith("#"):
            indent = len(row) - len(row.lstrip(" "))
            if indent > _DEEPEST or len(content) > _LONGEST:
                return None
            rows.append((number, indent, content))
        elif not content.isprintable() or not content.isascii():
            return None
    if not rows:
        return None
    try:
        value, end = _collection(rows, 0)
    except _NotPlain:
        return None
    return value if end == len(rows) else None


class Setting(Value):
    """A value in a configuration file (string, integer, boolean, list or mapping of these) and its line, from 1;
    ``lines`` are those of a mapping's keys.
    """

    value: Any
    line: int
    lines: Mapping[str, int] = MappingProxyType({})


def settings_of(text: str) -> dict[str, Setting] | None:
    """Return the settings in a configuration file by key, or None if it takes a real parser."""
    document = read_plainly(text)
    if document is None or document.entries is None:
        return None
    try:
        return {key: Setting(_value(value), line + 1, _lines(value)) for line, key, value in document.entries}
    except _NotPlain:
        return None


class _NotPlain(Exception):
    """This takes a real parser."""


_Rows = list[tuple[int, int, str]]
_Entries = tuple[tuple[int, str, Plain], ...]


def _collection(rows: _Rows, at: int) -> tuple[Plain, int]:
    """Return the list or mapping that begins at a row, and the row after it."""
    line, indent, content = rows[at]
    if content.startswith("- "):
        items = []
        while at < len(rows) and rows[at][1] == indent and (found := _ITEM.match(rows[at][2])):
            number, rest = rows[at][0], rows[at][2][found.end() :]
            if _KEY.match(rest):
                rows[at] = number, indent + found.end(), rest
                item, at = _collection(rows, at)
            else:
                item, at = _scalar(rest, number), at + 1
            items.append(item)
        return Plain(line, None, False, tuple(items), None), _ended(rows, at, indent)
    entries: list[tuple[int, str, Plain]] = []
    keys: set[str] = set()
    while at < len(rows) and rows[at][1] == indent and (found := _KEY.match(rows[at][2])):
        number, key, rest = rows[at][0], found[1] or found[2], rows[at][2][found.end() :]
        if key in _WORDS or key in keys:
            raise _NotPlain
        keys.add(key)
        at += 1
        if rest == "{}":
            value = Plain(number, None, False, None, ())
        elif rest and rest[0] != "#":
            value = _flow(rest, number) if rest[0] == "[" else _scalar(rest, number)
        elif at < len(rows) and (rows[at][1] > indent or (rows[at][1] == indent and rows[at][2].startswith("- "))):
            value, at = _collection(rows, at)
        elif at < len(rows) and rows[at][1] == indent and rows[at][2][0] == "-":
            raise _NotPlain
        else:
            value = Plain(number, "", False, None, None)
        entries.append((number, key, value))
    return Plain(line, None, False, None, tuple(entries)), _ended(rows, at, indent)


def _ended(rows: _Rows, at: int, indent: int) -> int:
    """Return the row if a collection with this indentation can end before it."""
    if at < len(rows) and rows[at][1] > indent:
        raise _NotPlain
    return at


def _scalar(text: str, line: int) -> Plain:
    found = _SCALAR.fullmatch(text)
    if found is None:
        raise _NotPlain
    plain, quoted = found.groups()
    if quoted is None:
        return Plain(line, plain, False, None, None)
    return Plain(line, quoted[1:-1], True, None, None)


def _flow(text: str, line: int) -> Plain:
    """Return a list in brackets on one line."""
    found = _FLOW.fullmatch(text)
    if found is None:
        raise _NotPlain
    items = []
    for part in found[1].split(",") if found[1].strip(" ") else ():
        item = _FLOW_ITEM.fullmatch(part.strip(" "))
        if item is None:
            raise _NotPlain
        items.append(Plain(line, item[1]) if item[2] is None else Plain(line, item[2][1:-1], True))
    return Plain(line, items=tuple(items))


def _lines(plain: Plain) -> dict[str, int]:
    return {key: line + 1 for line, key, _ in plain.entries or ()}


def _value(plain: Plain) -> Any:
    """Return the value of a setting."""
    if plain.items is not None:
        return [_value(item) for item in plain.items]
    if plain.entries is not None:
        return {key: _value(value) for _, key, value in plain.entries}
    text = plain.text or ""
    if plain.quoted:
        return text
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if text in _WORDS or not _TEXT.fullmatch(text):
        raise _NotPlain
    return text

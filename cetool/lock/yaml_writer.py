"""Writes plain values as YAML that means the same to every reader: lock files are read by programs of many languages.

A text is left plain only where YAML 1.1 and 1.2 both take it for a text (``1_0``, ``yes``, ``12e3`` and ``1:30`` are
something else in one of them), which the dumpers that are at hand decide by one of the two alone. Writing does not sort
and does not wrap, so equal values are equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

#: Texts, booleans, integers, and lists and mappings of them.
Value = object

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./+@%&=~()#:-]*", re.ASCII)
_SPECIAL = "\u2028\u2029\ufeff"
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def to_yaml(document: Mapping[str, Value]) -> str:
    """The document in block style."""
    return "".join(f"{line}\n" for line in _mapping(document, ""))


def _mapping(values: Mapping[str, Value], indent: str) -> Iterator[str]:
    for key, value in values.items():
        yield from _entry(f"{indent}{_scalar(key)}:", value, indent)


def _entry(head: str, value: Value, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        yield head
        yield from _mapping(value, f"{indent}  ")
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        yield head
        for item in value:
            if isinstance(item, Mapping) and item:
                first, *rest = _mapping(item, f"{indent}  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{indent}- {_scalar(item)}"
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{}"
    if not isinstance(value, str):
        return "[]"
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS and not value.endswith(":"):
        return value
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or char in _SPECIAL for char in value):
        return f'"{"".join(map(_escaped, value))}"'
    return "'" + value.replace("'", "''") + "'"


def _escaped(char: str) -> str:
    """A character within double quotes."""
    if char in '\\"':
        return f"\\{char}"
    plain = 32 <= ord(char) < 127 or (ord(char) >= 160 and char not in _SPECIAL)
    return char if plain else f"\\u{ord(char):04x}"

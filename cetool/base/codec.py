"""Convert JSON documents to values, checking each field, and back: the one codec for the files that cetool keeps.

The annotations of a class say what its document contains::

    class Layer(Value):
        name: str
        source: Source                                 # another such class
        size: int | None = None
        depends: tuple[str, ...] = ()
        variables: tuple[tuple[str, str], ...] = ()    # a JSON object

    layer = decode(Layer, read_json(path, NOTE, exact=True), schema=1)    # ValueError: 'depends[2]' is not a string
    text = json.dumps(encode(layer, schema=1))

It works for :class:`~cetool.base.values.Value` and dataclasses in modules that import annotations from the future. The
fields' types are ``str``, ``int``, ``float``, ``bool``, ``Path``, ``Any``, ``tuple[X, ...]``, ``Mapping[str, X]``, such
classes, and each of them ``| None``. A key may be missing if its field has a default; unknown keys are ignored, so that
a later version can add some. If a key differs from its field's name, a static method ``json_key`` turns the name into
the key. A class with ``from_dict`` and ``as_dict`` is read and written by these, which may call :func:`decode` and
:func:`encode` and check more.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cetool.base.values import Value

T = TypeVar("T")
_Reader = Callable[[Any], Any]

_PAIRS = "tuple[tuple[str, str], ...]"
_LIST = re.compile(r"tuple\[(.+), \.\.\.\]")
_MAPPING = re.compile(r"(?:Mapping|dict)\[str, (.+)\]")


class FieldError(ValueError):
    """Report a field that is missing or wrong; ``field`` is its path in the document, as in ``packages[3].url``."""

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(f"{field!r} {problem}" if field else f"it {problem}")
        self.problem, self.field = problem, field

    def below(self, part: str) -> FieldError:
        """Return the same error as seen from the value that contains ``part``."""
        glue = "" if not self.field or self.field.startswith("[") else "."
        return FieldError(self.problem, f"{part}{glue}{self.field}")


class _Plan(Value):
    """How to read documents of a class: for each field its name, key, reader, and whether it may be missing."""

    fields: tuple[tuple[str, str, _Reader, bool], ...]


_plans: dict[type, _Plan] = {}


def decode(kind: type[T], data: object, *, schema: int | str | None = None) -> T:
    """Return the value in a JSON document; a given ``schema`` must be the document's.

    Raises FieldError, a ValueError, which names the wrong field.
    """
    if schema is not None and (not isinstance(data, dict) or data.get("schema") != schema):
        raise FieldError(f"is not {schema!r}", "schema")
    return _from(kind, data)  # type: ignore[no-any-return]


def encode(value: object, *, schema: int | str | None = None) -> dict[str, Any]:
    """Return a value as a JSON object: tuples as lists, pairs of strings as objects, paths as strings."""
    kind = type(value)
    found: dict[str, Any] = {} if schema is None else {"schema": schema}
    for name, text, _ in _fields_of(kind):
        item = getattr(value, name)
        found[_key(kind, name)] = dict(item) if item is not None and text.startswith(_PAIRS) else _encoded(item)
    return found


def _encoded(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {str(key): _encoded(item) for key, item in value.items()}
    if _fields_of(type(value)):
        return encode(value)
    if isinstance(value, (tuple, list)):
        return [_encoded(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _from(kind: type, data: Any) -> Any:
    if type(data) is not dict:
        raise FieldError("is not an object")
    plan = _plans.get(kind)
    if plan is None:
        plan = _plans[kind] = _plan_of(kind)
    values = {}
    for name, key, reader, optional in plan.fields:
        if key in data:
            try:
                values[name] = reader(data[key])
            except FieldError as error:
                raise error.below(key) from None
        elif not optional:
            raise FieldError("is missing", key)
    return kind(**values)


def _fields_of(kind: type) -> list[tuple[str, str, bool]]:
    """Return the fields of a class: name, annotation, and whether it has a default."""
    defaults = getattr(kind, "_field_defaults", None)
    if defaults is not None:
        return [(name, annotation, name in defaults) for name, annotation in kind.__annotations__.items()]
    found = []
    for name, field in getattr(kind, "__dataclass_fields__", {}).items():
        missing = type(field.default).__name__ == type(field.default_factory).__name__ == "_MISSING_TYPE"
        found.append((name, field.type, not missing))
    return found


def _key(kind: type, name: str) -> str:
    named: Callable[[str], str] | None = getattr(kind, "json_key", None)
    return name if named is None else named(name)


def _plan_of(kind: type) -> _Plan:
    return _Plan(tuple((name, _key(kind, name), _reader(text, kind), has) for name, text, has in _fields_of(kind)))


def _reader(text: str, owner: type) -> _Reader:
    """Return a function that reads a field; ``text`` is the field's annotation in the module of ``owner``."""
    if text.endswith(" | None"):
        inner = _reader(text.removesuffix(" | None"), owner)
        return lambda value: None if value is None else inner(value)
    if text in _SCALARS:
        return _SCALARS[text]
    if match := _LIST.fullmatch(text):
        return _list_of(_reader(match[1], owner))
    if match := _MAPPING.fullmatch(text):
        return _mapping_of(_reader(match[1], owner))
    kind = getattr(sys.modules[owner.__module__], text)
    if not hasattr(kind, "from_dict"):
        return lambda value: _from(kind, value)

    def read(value: Any) -> Any:
        try:
            return kind.from_dict(value)
        except FieldError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FieldError("is malformed") from None

    return read


def _list_of(reader: _Reader) -> _Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise FieldError("is not a list")
        at = 0
        try:
            found = []
            for item in value:
                found.append(reader(item))
                at += 1
        except FieldError as error:
            raise error.below(f"[{at}]") from None
        return tuple(found)

    return read


def _mapping_of(reader: _Reader) -> _Reader:
    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise FieldError("is not an object")
        found = {}
        for key, item in value.items():
            try:
                found[_text(key)] = reader(item)
            except FieldError as error:
                raise error.below(key) from None
        return found

    return read


def _text(value: Any) -> str:
    if type(value) is not str or "\0" in value:
        raise FieldError("contains a NUL character" if type(value) is str else "is not a string")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise FieldError("is not an integer")
    return value


def _number(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise FieldError("is not a number")
    return float(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise FieldError("is neither true nor false")
    return value


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(_mapping_of(_text)(value).items()))


_SCALARS: dict[str, _Reader] = {
    "str": _text,
    "int": _integer,
    "float": _number,
    "bool": _flag,
    "Path": lambda value: Path(_text(value)),
    "Any": lambda value: value,
    "object": lambda value: value,
    _PAIRS: _pairs,
}


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of a value, equal on every machine, in ASCII (docs/reference/specification.md).

    Keys are sorted by code point, tokens are separated by ``,`` and ``:`` alone, and every character that is not
    printable ASCII becomes a lower-case escape, so that the result does not depend on a Unicode version. Raises
    ValueError for NaN and infinities, TypeError for types that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 digest as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()

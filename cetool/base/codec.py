"""Values from JSON documents, checked field by field, and back: the one codec of what cetool keeps.

A class says by its annotations what its document has::

    class Layer(Value):
        name: str
        source: Source                                 # another such class
        size: int | None = None
        depends: tuple[str, ...] = ()
        variables: tuple[tuple[str, str], ...] = ()    # a JSON object

    layer = decode(Layer, read_json(path, NOTE, exact=True), schema=1)    # ValueError: 'depends[2]' is not a text
    text = json.dumps(encode(layer, schema=1))

It works for :class:`~cetool.base.values.Value` and dataclasses of modules that import annotations from the future. The
fields' types are ``str``, ``int``, ``float``, ``bool``, ``Path``, ``Any``, ``tuple[X, ...]``, ``Mapping[str, X]``, such
classes, and each of them ``| None``. A key may be missing where its field has a default; keys that are not fields are
passed over, so that a later version can add some. A static method ``json_key`` turns a field's name into its key where
they differ. A field of a class with ``from_dict`` and ``as_dict`` goes through these, which may call :func:`decode` and
:func:`encode` themselves, to check more.
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
    """A document is not what it should be; ``field`` says where in it, as in ``packages[3].url``."""

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(f"{field!r} {problem}" if field else f"it {problem}")
        self.problem, self.field = problem, field

    def below(self, part: str) -> FieldError:
        """The same, seen from what holds ``part``."""
        glue = "" if not self.field or self.field.startswith("[") else "."
        return FieldError(self.problem, f"{part}{glue}{self.field}")


class _Plan(Value):
    """Reads documents of a class: for each field its name, its key, its reader, and whether it may be missing."""

    fields: tuple[tuple[str, str, _Reader, bool], ...]


_plans: dict[type, _Plan] = {}


def decode(kind: type[T], data: object, *, schema: int | str | None = None) -> T:
    """The value in a JSON document, whose ``schema`` has to be this one if one is named.

    Raises FieldError, a ValueError, which names the field that is wrong.
    """
    if schema is not None and (not isinstance(data, dict) or data.get("schema") != schema):
        raise FieldError(f"is not {schema!r}", "schema")
    return _from(kind, data)  # type: ignore[no-any-return]


def encode(value: object, *, schema: int | str | None = None) -> dict[str, Any]:
    """A value as a JSON object: tuples as lists, pairs of texts as objects, paths as texts."""
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
    """The fields of a class: name, annotation, whether there is a default."""
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
    """What reads a field whose annotation is this text in a class's module."""
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
            raise FieldError("is not what it should be") from None

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
        raise FieldError("has a NUL character in it" if type(value) is str else "is not a text")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise FieldError("is not a whole number")
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
    """The one JSON text of a value: the same on every Python and machine, in ASCII (docs/reference/specification.md).

    Keys are sorted by code point, nothing separates tokens but ``,`` and ``:``, and every character that is not
    printable ASCII is an escape in lower case, so that no version of Unicode has a say. Raises ValueError for a float
    that is not a number, TypeError for what JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_of(data: bytes) -> str:
    """The digest, 64 lowercase hex digits."""
    return hashlib.sha256(data).hexdigest()

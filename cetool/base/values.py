"""Define values with named fields: ``class Point(Value)`` works, and type-checks, as a ``typing.NamedTuple``.

A named tuple takes 0.15 ms per class at import, and a run that creates an environment imports 45 of them; this takes a
tenth of that. Modules with such classes need ``from __future__ import annotations``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

__all__ = ["Value", "strings_in"]

if TYPE_CHECKING:
    from typing import NamedTuple as Value
else:
    from operator import itemgetter
    from types import MappingProxyType

    class _Fields(type):
        """Turn the annotations of a class into fields of the tuple, and their values into defaults."""

        def __new__(mcs, name, bases, namespace):
            if bases != (tuple,):
                fields = tuple(namespace.get("__annotations__", ()))
                namespace["_field_defaults"] = {each: namespace[each] for each in fields if each in namespace}
                for at, each in enumerate(fields):
                    namespace[each] = property(itemgetter(at))
                namespace["_fields"] = namespace["__match_args__"] = fields
                namespace["__slots__"] = ()
            return type.__new__(mcs, name, bases, namespace)

    class Value(tuple, metaclass=_Fields):
        """A tuple with named fields; the annotations of its class give their names, types and defaults."""

        __slots__ = ()
        _fields = ()
        _field_defaults = MappingProxyType({})

        def __new__(cls, *values, **named):
            fields = cls._fields
            if named or len(values) != len(fields):
                defaults, given = cls._field_defaults, len(values)
                absent = []
                try:
                    values += tuple([named.pop(f) if f in named else defaults[f] for f in fields[given:]])
                except KeyError as error:
                    absent = [error.args[0]]
                if absent or named or given > len(fields):
                    wrong = ", ".join(absent or [*named] or [f"{given} values"])
                    raise TypeError(f"{cls.__name__} has the fields {', '.join(fields)}; wrong or missing: {wrong}")
            return tuple.__new__(cls, values)

        def _replace(self, **named):
            """Return a copy with other values in some fields."""
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self):
            """Return the values by field name."""
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

        def __getnewargs__(self):
            return tuple(self)


def strings_in(value: object) -> Iterator[str]:
    """Yield all strings in a value, at any depth: in tuples, lists, mappings and dataclasses."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings_in(tuple(value.items()))
    elif isinstance(value, (tuple, list, set, frozenset)):
        for each in value:
            yield from strings_in(each)
    elif hasattr(value, "__dataclass_fields__"):
        yield from strings_in([getattr(value, name) for name in value.__dataclass_fields__])

"""JSON documents become values, or an error that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cetool.base.codec import FieldError, decode, encode
from cetool.base.values import Value


class Source(Value):
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class Whole:
    name: str
    size: int
    ratio: float
    kept: bool
    place: Path
    made_by: str
    sources: tuple[Source, ...] = ()
    first: Source | None = None
    variables: tuple[tuple[str, str], ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    other: Any = None

    @staticmethod
    def json_key(field: str) -> str:
        return {"made_by": "made-by"}.get(field, field)


class Dashed(Value):
    one_thing: str

    @staticmethod
    def json_key(field: str) -> str:
        return field.replace("_", "-")


WHOLE: dict[str, Any] = {
    "name": "six",
    "size": 3,
    "ratio": 1,
    "kept": True,
    "place": "/a",
    "made-by": "x",
    "sources": [{"url": "u"}, {"url": "v", "sha256": "0"}],
    "first": {"url": "w", "sha256": None},
    "variables": {"b": "2", "a": "1"},
    "groups": {"g": ["x", "y"]},
    "other": [1, None],
}


def test_a_document_becomes_a_value_and_back() -> None:
    value = decode(Whole, WHOLE)
    assert value.sources == (Source("u"), Source("v", "0")) and value.first == Source("w")
    assert value.variables == (("a", "1"), ("b", "2")) and value.place == Path("/a") and value.ratio == 1.0
    again = encode(value, schema=2)
    assert json.loads(json.dumps(again)) == {
        **WHOLE,
        "schema": 2,
        "sources": [{"url": "u", "sha256": None}, WHOLE["sources"][1]],
    }
    assert decode(Whole, again, schema=2) == value


def test_keys_that_are_not_fields_are_ignored() -> None:
    assert decode(Source, {"url": "u", "later": 1}) == Source("u")


def test_fields_can_have_keys_with_dashes() -> None:
    assert decode(Dashed, {"one-thing": "x"}) == Dashed("x") and encode(Dashed("x")) == {"one-thing": "x"}


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"name": 3}, "name", "is not a string"),
        ({"name": "a\0b"}, "name", "contains a NUL character"),
        ({"size": 1.5}, "size", "is not an integer"),
        ({"size": True}, "size", "is not an integer"),
        ({"ratio": "1"}, "ratio", "is not a number"),
        ({"kept": 1}, "kept", "is neither true nor false"),
        ({"sources": {}}, "sources", "is not a list"),
        ({"sources": [{"url": "u"}, 3]}, "sources[1]", "is not an object"),
        ({"sources": [{"url": "u"}, {}]}, "sources[1].url", "is missing"),
        ({"sources": [{"url": None}]}, "sources[0].url", "is not a string"),
        ({"variables": {"a": 1}}, "variables.a", "is not a string"),
        ({"groups": {"g": ["x", None]}}, "groups.g[1]", "is not a string"),
        ({"made-by": None}, "made-by", "is not a string"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(FieldError) as error:
        decode(Whole, {**WHOLE, **change})
    assert (error.value.field, error.value.problem) == (field, problem)
    assert str(error.value) == f"{field!r} {problem}" and isinstance(error.value, ValueError)


@pytest.mark.parametrize("data", [None, [], "x", 3, {}, {"schema": 2}])
def test_another_schema_is_an_error(data: object) -> None:
    with pytest.raises(FieldError, match="'schema' is not 1"):
        decode(Source, data, schema=1)

"""A notebook's parameters: read from the command line, written as assignments in the notebook's language.

They take effect as papermill's do: in a cell of their own, tagged ``injected-parameters``, behind the cell that is
tagged ``parameters`` and holds the defaults.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from cetool.base.errors import UsageError
from cetool.base.text import printable

#: What a parameter can be: JSON's values.
Value = Any

_WORDS: Mapping[str, Value] = {
    "True": True,
    "False": False,
    "None": None,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
}
_BASH_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_R_NAME = re.compile(r"(?:[A-Za-z]|\.(?![0-9]))[A-Za-z0-9._]*")
_R_RESERVED = re.compile(
    "if|else|repeat|while|function|for|next|break|in|TRUE|FALSE|NULL|Inf|NaN|NA(_(integer|real|complex|character)_)?"
)
#: Integers that R can hold as such.
_R_INTEGERS = range(-(2**31) + 1, 2**31)


def read_parameter(text: str, *, raw: bool = False) -> tuple[str, Value]:
    """The name and the value in ``name=value``: JSON, or a literal of Python's, else text; with ``raw`` always text.

    Raises UsageError.
    """
    name, sign, value = text.partition("=")
    name = name.strip()
    if not sign or not name:
        raise UsageError(
            f"{printable(text)!r} is no parameter", hint='Write name=value: -p alpha=0.1 -p \'names=["a", "b"]\'.'
        )
    return name, value if raw else read_value(value)


def read_value(text: str) -> Value:
    """The value that a text stands for."""
    word = text.strip()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        pass
    if word[:1] in ("[", "(", "{", "'", '"'):
        try:
            found = _plain(ast.literal_eval(word))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return text
        return found
    return text


def _plain(value: object) -> Value:
    """The literal with tuples made lists. Raises ValueError for what JSON has no form for."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError


def parameters_source(language: str, values: Mapping[str, Value]) -> str:
    """A cell that sets the parameters. Raises UsageError for a language that cetool cannot write, and for bad names."""
    if language not in _LANGUAGES:
        known = ", ".join(_LANGUAGES)
        raise UsageError(
            f"parameters cannot be set in a notebook in {language}, only in one of these: {known}",
            hint="Have it read an environment variable.",
        )
    fits, write = _LANGUAGES[language]
    lines = ["# Parameters"]
    for name, value in values.items():
        if not fits(name):
            raise UsageError(f"{printable(name)!r} cannot be the name of a variable in {language}")
        lines.append(write(name, value))
    return "\n".join(lines)


def assigned_names(source: str) -> set[str] | None:
    """The names that a cell in Python gives values to; None where that cannot be known."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _python_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def _python(value: Value) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_python(key)}: {_python(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
    return repr(value)


def _r(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return f"{value}L" if value in _R_INTEGERS else repr(float(value))
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else repr(value) if math.isfinite(value) else "Inf" if value > 0 else "-Inf"
    if isinstance(value, list):
        return f"list({', '.join(map(_r, value))})"
    if isinstance(value, dict):
        return f"list({', '.join(f'{_r(key)} = {_r(item)}' for key, item in value.items())})"
    return '"' + "".join(_R_ESCAPES.get(char, char) for char in str(value)) + '"'


_R_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _bash(value: Value) -> str:
    if isinstance(value, list):
        return f"({' '.join(map(_bash, value))})"
    if isinstance(value, dict):
        raise UsageError("a table of keys cannot be a parameter of a notebook in bash", hint="Pass several parameters.")
    text = "" if value is None else json.dumps(value) if isinstance(value, bool | int | float) else str(value)
    return "'" + text.replace("'", "'\\''") + "'"


#: By language which names fit, and how a value is given to one.
_LANGUAGES: Mapping[str, tuple[Callable[[str], bool], Callable[[str, Value], str]]] = {
    "python": (_python_name, lambda name, value: f"{name} = {_python(value)}"),
    "r": (
        lambda name: _R_NAME.fullmatch(name) is not None and _R_RESERVED.fullmatch(name) is None,
        lambda name, value: f"{name} = {_r(value)}",
    ),
    "bash": (lambda name: _BASH_NAME.fullmatch(name) is not None, lambda name, value: f"{name}={_bash(value)}"),
}

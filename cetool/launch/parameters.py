"""A notebook's parameters: read from the command line, written as assignments in the notebook's language.

They work as in papermill: in a new cell tagged ``injected-parameters``, after the cell tagged ``parameters``, which has
the defaults.
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

#: Values of parameters: JSON's.
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
#: Integers that R can represent as such.
_R_INTEGERS = range(-(2**31) + 1, 2**31)


def read_parameter(text: str, *, raw: bool = False) -> tuple[str, Value]:
    """Return the name and value of ``name=value``: JSON, or a Python literal, else a string; with ``raw`` always a
    string.

    Raises UsageError.
    """
    name, sign, value = text.partition("=")
    name = name.strip()
    if not sign or not name:
        raise UsageError(
            f"{printable(text)!r} is not a parameter", hint='Write name=value: -p alpha=0.1 -p \'names=["a", "b"]\'.'
        )
    return name, value if raw else read_value(value)


def read_value(text: str) -> Value:
    """Return the value that a text stands for."""
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
    """Return the literal with tuples as lists. Raises ValueError for values that JSON cannot represent."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError


def parameters_source(language: str, values: Mapping[str, Value]) -> str:
    """Return a cell that sets the parameters. Raises UsageError for unsupported languages and invalid names."""
    if language not in _LANGUAGES:
        known = ", ".join(_LANGUAGES)
        raise UsageError(
            f"notebooks in {language} cannot take parameters; supported languages: {known}",
            hint="Read an environment variable in the notebook instead.",
        )
    fits, write = _LANGUAGES[language]
    lines = ["# Parameters"]
    for name, value in values.items():
        if not fits(name):
            raise UsageError(f"parameter {printable(name)!r} is not a valid variable name in {language}")
        lines.append(write(name, value))
    return "\n".join(lines)


def assigned_names(source: str) -> set[str] | None:
    """Return the names that a Python cell assigns; None if they cannot be determined."""
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
        raise UsageError("a parameter of a bash notebook cannot be a mapping", hint="Pass several parameters instead.")
    text = "" if value is None else json.dumps(value) if isinstance(value, bool | int | float) else str(value)
    return "'" + text.replace("'", "'\\''") + "'"


#: For each language: which names are valid, and how to write an assignment.
_LANGUAGES: Mapping[str, tuple[Callable[[str], bool], Callable[[str, Value], str]]] = {
    "python": (_python_name, lambda name, value: f"{name} = {_python(value)}"),
    "r": (
        lambda name: _R_NAME.fullmatch(name) is not None and _R_RESERVED.fullmatch(name) is None,
        lambda name, value: f"{name} = {_r(value)}",
    ),
    "bash": (lambda name: _BASH_NAME.fullmatch(name) is not None, lambda name, value: f"{name}={_bash(value)}"),
}

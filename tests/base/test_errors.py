"""Errors are data: each has a code that programs compare, and ``--json`` prints it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.home import Home

from cetool.base.errors import CODES, CetoolError, EngineError, Location, MetadataError, StoreError

PACKAGE = Path(__file__).resolve().parents[2] / "cetool"


def _codes() -> Iterator[tuple[str, str]]:
    """Every literal code in the source, with its place: arguments called ``code``, their defaults, and assignments."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for part in (each for value in _values(node) for each in ast.walk(value)):
                if isinstance(part, ast.Constant) and re.fullmatch("[a-z]+(-[a-z]+)*", str(part.value)):
                    yield str(part.value), f"{path.relative_to(PACKAGE)}:{part.lineno}"


def _values(node: ast.AST) -> Iterator[ast.expr]:
    """The values that a piece of code gives to what is called ``code``."""
    if isinstance(node, ast.keyword) and node.arg == "code":
        yield node.value
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).split(",")[0].strip("( ") == "code":
        yield node.value.elts[0] if isinstance(node.value, ast.Tuple) else node.value
    elif isinstance(node, ast.arguments):
        given = [*node.posonlyargs, *node.args]
        named = list(zip(given[len(given) - len(node.defaults) :], node.defaults, strict=True))
        pairs = [*named, *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        yield from (value for argument, value in pairs if argument.arg == "code" and value is not None)


def test_each_code_in_the_source_is_registered_and_each_registered_one_is_used() -> None:
    used = dict(_codes())
    assert {code: place for code, place in used.items() if code not in CODES} == {}
    assert set(CODES) - set(used) == set()
    assert all(meaning.endswith(".") and len(meaning) < 100 for meaning in CODES.values())


def test_each_class_of_error_has_a_registered_code() -> None:
    pending: list[type[CetoolError]] = [CetoolError]
    for kind in pending:
        assert kind.code in CODES
        pending += kind.__subclasses__()


def test_a_copy_of_an_error_has_the_fields_that_were_not_changed() -> None:
    error = EngineError("it broke", about="six", where=Location("a.py", 3), hint="Fix it.", log="/log")
    copy = error.but(message="for linux-64: it broke")
    assert type(copy) is EngineError and copy is not error and error.message == "it broke"
    assert str(copy) == "a.py:3: for linux-64: it broke"
    assert (copy.about, copy.hint, copy.log, copy.code) == ("six", "Fix it.", "/log", "engine-failed")


def test_an_error_turned_into_another_keeps_only_a_code_of_its_own() -> None:
    assert StoreError("x").turned_into(MetadataError).code == MetadataError.code
    assert StoreError("x", code="disk-full").turned_into(MetadataError).code == "disk-full"
    assert StoreError("x", code="disk-full").turned_into(MetadataError, code="lock-missing").code == "lock-missing"


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (["show", "--json", "absent.py"], "script-not-found", 127),
        (["show", "absent.py", "--json"], "script-not-found", 127),
        (["show", "--json", "wrong.py"], "key-unknown", 125),
        (["list", "--json", "--no-such-option"], "usage", 2),
        (["check", "--json", "--rule", "none"], "usage", 2),
    ],
)
def test_a_command_with_json_that_fails_prints_its_code(words: list[str], code: str, status: int, home: Home) -> None:
    home.write("wrong.py", "# conda execute\n# env: [python]\n# chanels: [conda-forge]\n")
    done = home.cetool(*words)
    document = json.loads(done.stdout)
    assert list(document) == ["schema", "error"] and document["schema"] == "cetool.error/1"
    error = document["error"]
    assert (error["code"], error["status"], done.returncode) == (code, status, status)
    assert error["message"] in done.stderr
    assert set(error) == {"code", "message", "about", "where", "details", "hint", "status"}


def test_an_error_in_a_script_has_its_line(home: Home) -> None:
    home.write("wrong.py", "# conda execute\n# env: [python]\n# chanels: [conda-forge]\n")
    error = json.loads(home.cetool("show", "--json", "wrong.py").stdout)["error"]
    assert error["where"] == {"path": "wrong.py", "line": 3} and error["about"] == "chanels"


def test_without_json_nothing_is_printed_on_standard_output(home: Home) -> None:
    assert home.cetool("show", "absent.py").stdout == ""

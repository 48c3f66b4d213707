"""The rules of docs/explanation/architecture.md for every module: sizes, parameters, imports within functions."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cetool

ROOT = Path(cetool.__file__).parent
MODULES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in MODULES.items()}
#: Packages that may import cetool's modules within functions, each for its reason.
LATE = {
    "__init__.py": "the library loads what a program uses",
    "__main__.py": "the warm path comes before every other import",
    "app": "a cold run on an existing environment imports neither engines nor what other use cases need",
    "cli": "a command imports what it does, not what its neighbours do",
}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_no_module_is_longer_than_400_lines() -> None:
    long = {name: lines for name, text in MODULES.items() if (lines := text.count("\n")) > 400}
    assert not long


def test_no_function_is_longer_than_60_lines() -> None:
    long = [
        f"{name}:{node.lineno} {node.name}: {lines} lines"
        for name, tree in TREES.items()
        for node in functions(tree)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]
    assert not long


def test_no_function_has_more_than_seven_parameters() -> None:
    many = []
    for name, tree in TREES.items():
        for node in functions(tree):
            given = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if len([each for each in given if each not in ("self", "cls")]) > 7:
                many.append(f"{name}:{node.lineno} {node.name}: {len(given)} parameters")
    assert not many


def test_only_the_outermost_layers_import_cetool_within_functions() -> None:
    late = []
    for name, tree in TREES.items():
        if name.split("/")[0] in LATE:
            continue
        for function in functions(tree):
            for node in ast.walk(function):
                ours = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cetool"
                ours = ours or (isinstance(node, ast.Import) and node.names[0].name.split(".")[0] == "cetool")
                # the warm path itself is made of late imports: tests/warm/test_warm.py counts them
                if ours and not name.startswith("warm/"):
                    late.append(f"{name}: {function.name}: {ast.unparse(node)}")
    assert not late


def test_importing_cetool_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import cetool; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "['cetool']", done.stderr


def test_the_map_of_the_architecture_names_every_module() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", page[page.index("\n## Modules\n") : page.index("\n## How a script runs\n")]))
    modules = {name for name in MODULES if not name.endswith("__init__.py") and "/" in name}
    missing = [name for name in modules if Path(name).stem not in words]
    assert not missing, "add them to docs/explanation/architecture.md"

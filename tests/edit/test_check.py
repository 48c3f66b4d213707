"""Promises about ``cetool check``: mistakes are reported with their lines, correct scripts pass, nothing is created."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.home import Home
from support.scripts import environments, told, unconfirmed

from cetool.app.checking import RULES, lint_script
from cetool.declare.source import script_from_text

ROOT = Path(__file__).resolve().parents[2]
CLEAN = "# conda execute\n# env:\n#  - python >=3.9\n#  - numpy >=1,<3\n#  - pip:\n#     - six ==1.*\nprint(1)\n"


def found(text: str, name: str = "s.py") -> list[tuple[str, int | None]]:
    """The rules that a script breaks, and where."""
    return [(item.rule, item.line) for item in lint_script(script_from_text(text, Path("/d") / name, name))[1]]


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        (CLEAN, []),
        (CLEAN.replace("numpy >=1,<3", "numpy"), [("unpinned", 4)]),
        (CLEAN.replace("numpy >=1,<3", "c::numpy *"), [("unpinned", 4)]),
        (CLEAN.replace("numpy >=1,<3", "numpy[build_number=3]"), []),
        (CLEAN.replace("six ==1.*", "six[x] ; python_version > '3'"), [("unpinned", 6)]),
        (CLEAN.replace("six ==1.*", "six @ https://example.org/six.whl"), []),
        (CLEAN.replace("numpy", "python"), [("duplicate", 4)]),
        (CLEAN.replace("env:", "envs:"), [("metadata", 2)]),
        (CLEAN.replace("numpy >=1,<3", "numpy >="), [("metadata", 4)]),
        (CLEAN.replace("conda execute", "conda-execute"), [("undeclared", 1)]),
        ("print(1)\n", [("undeclared", None)]),
        ("# conda execute\n# env: [numpy >=1]\n", [("no-python", 1)]),
        ("#!/bin/sh\n# conda execute\n# env: [numpy >=1]\n", []),
        ("#!/usr/bin/env Rscript\n# conda execute\n# env: [numpy >=1]\n", [("run-with", 2)]),
        ("#!/usr/bin/env Rscript\n# conda execute\n# env: [r-ggplot2 >=1]\n", []),
        ("# conda execute\n# env: [python >=3]\n# run_with: python | tee log\n", [("run-with", 1)]),
        ("# conda execute\n# env: [python >=3]\n# channels: ['https://u:p@h/c']\n", [("secret", 3)]),
        ("# /// script\n# dependencies = ['six>=1']\n# ///\n", [("unpinned", 1)]),
        ("# /// script\n# requires-python = '>=3.9'\n# [tool.pixi.tasks]\n# a = 'b'\n# ///\n", [("ignored", 3)]),
        (
            "# /// script\n# requires-python = '>=3.9'\n# [tool.pixi.dependencies]\n# a = '*'\n# ///\n",
            [("unpinned", 4)],
        ),
    ],
)
def test_what_is_found(text: str, findings: list[tuple[str, int | None]]) -> None:
    assert found(text) == findings


def test_a_script_that_nothing_says_how_to_run_is_found() -> None:
    assert found("#!/usr/bin/env cetool\n# conda execute\n# env: [numpy >=1]\n", "clean-up") == [("run-with", 2)]
    assert found("#!/usr/bin/env cetool\n# conda execute\n# env: [python >=3]\n", "clean-up") == []


def test_the_examples_and_the_documents_are_right() -> None:
    for path in (ROOT / "examples").iterdir():
        if path.suffix in (".py", ".sh", ".R", ".js", ".cpp") and path.name != "make.py":
            assert not [rule for rule, _ in found(path.read_text(encoding="utf-8"), path.name) if rule != "unpinned"]
    listed = (ROOT / "docs" / "how-to" / "editing.md").read_text(encoding="utf-8")
    assert all(f"| `{rule}` |" in listed for rule in RULES)


def test_findings_are_lines_and_an_exit_status(home: Home) -> None:
    home.write("clean.py", CLEAN)
    home.write("loose.py", CLEAN.replace(" >=1,<3", ""))
    home.write(
        "wrong.js", "// /// conda-script\n// channels = ['c']\n// entrypoint = 'a | b'\n// /// end-conda-script\n"
    )
    home.write("notes.txt", "no script\n")
    done = home.cetool("check", "clean.py")
    assert (done.returncode, done.stdout, unconfirmed(done.stderr)) == (0, "", "")
    done = home.cetool("check", "clean.py", "loose.py", "wrong.js")
    assert done.returncode == 1 and unconfirmed(done.stderr) == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "loose.py:4: warning: numpy has no version [unpinned]"
    assert lines[1].startswith("wrong.js") and ": error: " in lines[1] and lines[1].endswith("[metadata]")
    assert home.cetool("check", "--ignore", "unpinned", "loose.py").returncode == 0
    assert home.cetool("check", "notes.txt").returncode == 1
    assert home.cetool("check", "--declared-only", "notes.txt", "clean.py").returncode == 0
    (home.path / "blob").write_bytes(b"\0\1\2")
    assert home.cetool("check", "--declared-only", "blob").returncode == 0
    done = home.cetool("check", "--ignore", "unpined", "clean.py")
    assert done.returncode == 2 and "unpinned" in told(done.stderr)[1]
    assert home.cetool("check", "absent.py").returncode == 127


def test_satisfiable_or_not_is_found_out_without_making_anything(home: Home) -> None:
    home.write("good.sh", "# conda execute\n# env: [hello-bin =1, python >=3]\n")
    home.write("torn.sh", "# conda execute\n# env:\n#  - python >=3\n#  - conflict-a =1\n#  - conflict-b =1\n")
    home.write("none.sh", "# conda execute\n# env: [hello-bim =1]\n")
    home.write("late.sh", "# conda execute\n# channels: [conda-forge]\n# env: [hello-bin >=9]\n")
    done = home.cetool("check", "--solve", "good.sh")
    assert (done.returncode, done.stdout, unconfirmed(done.stderr)) == (0, "", "")
    done = home.cetool("check", "--solve", "--json", "good.sh", "torn.sh", "none.sh", "late.sh")
    assert done.returncode == 1
    findings = json.loads(done.stdout)["findings"]
    assert [(item["script"], item["rule"]) for item in findings] == [
        (name, "unsatisfiable") for name in ("torn.sh", "none.sh", "late.sh")
    ]
    assert [item["line"] for item in findings] == [4, 2, 3]
    assert "hello-bin" in findings[1]["hint"]
    for name, line in (("torn.sh", 4), ("none.sh", 2), ("late.sh", 3)):  # running and locking name the same line
        for words in (("run", name), ("lock", name)):
            assert told(home.cetool(*words).stderr)[0].startswith(f"cetool: {name}:{line}: "), words
    assert environments(home) == {}
    # what cannot be found out is no finding
    shutil.rmtree(home.cache)
    done = home.cetool("check", "--solve", "good.sh", env={"CONDA_CHANNEL_ALIAS": "http://127.0.0.1:9"})
    assert done.returncode == 125 and "cannot reach" in told(done.stderr)[0]


def test_the_hook_for_pre_commit_is_one(home: Home) -> None:
    hooks = YAML(typ="safe").load(ROOT / ".pre-commit-hooks.yaml")
    assert [hook["id"] for hook in hooks] == ["cetool-check"]
    assert hooks[0]["language"] == "python" and hooks[0]["types"] == ["text"]
    home.write("loose.py", CLEAN.replace(" >=1,<3", ""))
    home.write("notes.txt", "no script\n")
    command = hooks[0]["entry"].split()
    assert command[0] == "cetool"
    done = home.cetool(*command[1:], "loose.py", "notes.txt")
    assert (done.returncode, done.stdout) == (1, "loose.py:4: warning: numpy has no version [unpinned]\n")

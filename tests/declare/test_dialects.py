"""What scripts and files written for conda-execute, conda and pixi mean here: channels, PREFIX, keys, further marks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import real_engine
from support.archive import write_package, write_repodata
from support.baselines import small
from support.home import Home
from support.warm import learn, run_warm

from cetool.app.environments import requirements_of
from cetool.base.errors import MetadataError
from cetool.declare.dialects.environment_yml import read_environment_file
from cetool.declare.dialects.pixi import IRRELEVANT, KEYS, REFUSED
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.declare.metadata import ScriptMetadata, read_metadata
from cetool.declare.requirements import Requirements, Solving
from cetool.declare.source import script_from_text


def read(text: str, name: str = "s.py") -> ScriptMetadata:
    return read_metadata(script_from_text(text, f"/work/{name}", name))


def block(*lines: str) -> str:
    return "\n".join(f"# {line}" for line in ("conda execute", *lines)) + "\n"


# --- PREFIX -----------------------------------------------------------------------------------------------------------

_TELL = 'echo "PREFIX=$PREFIX/lib CONDA_PREFIX=$CONDA_PREFIX/lib"\n'


def test_prefix_is_the_environment_for_conda_execute_cold_warm_and_without_activation(settled: Home) -> None:
    """conda-execute: PREFIX."""
    script = settled.write("prefix.sh", "#!/bin/sh\n" + block("env: [hello-bin]") + _TELL)
    learn(settled, script)
    told = run_warm(settled, script).stdout.split()
    assert told[0].removeprefix("PREFIX=") == told[1].removeprefix("CONDA_PREFIX=") != "/lib"
    bare = settled.cetool("run", "--no-activate", str(script), env={"PREFIX": "/caller"}).stdout.split()
    assert bare[0] == told[0]


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        (block("env: [hello-bin]", "variables: {PREFIX: /mine}"), "/mine"),
        (
            "# /// conda-script\n# channels = ['conda-forge']\n# dependencies.hello-bin = '*'\n"
            "# entrypoint = 'sh ${SCRIPT}'\n# /// end-conda-script\n",
            "/caller",
        ),
    ],
)
def test_prefix_is_what_the_script_declares_or_what_the_caller_has_set(settled: Home, text: str, prefix: str) -> None:
    script = settled.write("own-prefix.sh", text + _TELL)
    assert settled.cetool("run", str(script), env={"PREFIX": "/caller"}).stdout.startswith(f"PREFIX={prefix}/lib ")


# --- channels ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A channel that has no more than one package, named as one of the configured channel."""
    root = tmp_path_factory.mktemp("channels") / "side"
    record = write_package(small("only-here"), root)
    write_repodata({f"{small('only-here').stem}.conda": record}, "noarch", root)
    return root


def test_the_configured_channels_come_after_those_that_a_script_names(settled: Home, side: Path) -> None:
    script = settled.write("side.sh", block("env: [only-here, hello-bin]", f"channels: ['{side}']", "run_with: hello"))
    assert settled.cetool("run", str(script)).stdout.startswith("hello from")
    shown = json.loads(settled.cetool("show", "--json", str(script)).stdout)
    assert shown["channels"] == [side.as_uri(), "conda-forge"]
    file = settled.write("side.yml", f"channels: ['{side}']\ndependencies: [only-here, hello-bin]\n")
    assert settled.cetool("create", "--file", str(file)).stdout.strip() == shown["prefix"]
    assert settled.cetool("lock", str(script)).returncode == 0
    lock = script.with_name("side.sh.conda-lock.yml")
    assert "only-here" in lock.read_text() and "conda-forge" in lock.read_text()
    assert settled.cetool("run", "--locked", str(script)).stdout.startswith("hello from")
    lock.unlink()


def test_nodefaults_keeps_the_configured_channels_out(settled: Home, side: Path) -> None:
    """CEP 24: channels."""
    lines = block("env: [only-here, hello-bin]", f"channels: ['{side}', nodefaults]", "run_with: hello")
    failed = settled.cetool("run", str(settled.write("nodefaults.sh", lines)))
    assert failed.returncode == 125 and "hello-bin" in failed.stderr
    file = settled.write("nodefaults.yml", f"channels: ['{side}', nodefaults]\ndependencies: [only-here, hello-bin]\n")
    assert settled.cetool("create", "--file", str(file)).returncode == 125


@pytest.mark.parametrize(
    ("text", "channels"),
    [
        (block("env: [a]"), ("x", "y")),
        (block("env: [a]", "channels: [b]"), ("b", "x", "y")),
        (block("env: [a]", "channels: [y, b]"), ("y", "b", "x")),
        (block("env: [a]", "channels: [b, nodefaults]"), ("b",)),
        (block("env: [a]", "channels: [nodefaults, b]"), ("b",)),
        ("# /// script\n# tool.conda.channels = ['b']\n# ///\n", ("b",)),
        ("# /// script\n# tool.cetool.channels = ['b']\n# ///\n", ("b",)),
        ("# /// script\n# tool.pixi.workspace.channels = ['b']\n# ///\n", ("b",)),
        ("# /// script\n# ///\n", ("x", "y")),
        ("# /// conda-script\n# channels = ['b']\n# /// end-conda-script\n", ("b",)),
    ],
)
def test_which_channels_count_in_each_dialect(text: str, channels: tuple[str, ...]) -> None:
    """conda-execute: channels."""
    needs = read(text).requirements
    assert EnvironmentSpec.of(needs, default_channels=("x", "y")).channels == channels
    given = needs.plus(Requirements(channels=("option",)))
    assert EnvironmentSpec.of(given, default_channels=("x", "y")).channels == ("option",)


def test_nodefaults_alone_is_refused() -> None:
    with pytest.raises(MetadataError, match="leaves no channel"):
        read(block("env: [a]", "channels: [nodefaults]"))


def test_an_exported_environment_file_names_all_its_channels(settled: Home) -> None:
    script = settled.write("exported.sh", block("env: [hello-bin]", "run_with: hello"))
    settled.cetool("run", str(script))
    text = settled.cetool("export", "--format", "environment-yml", str(script)).stdout
    needs = read_environment_file(settled.write("exported.yml", text))
    assert needs.channels == ("conda-forge",) and not needs.configured


def test_a_lock_made_for_the_named_channels_alone_still_fits() -> None:
    needs = read(block("env: [a]", "channels: [b]")).requirements
    alone = read(block("env: [a]", "channels: [b, nodefaults]")).requirements
    assert needs.is_request(needs.digest) and needs.is_request(alone.digest)
    assert not alone.is_request(needs.digest)


# --- keys that nothing reads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "description: a tool",
        "author: me",
        "name: x",
        "version: 1.0",
        "env_name: tool",
        "license: MIT",
        "Notes: {a: [b]}",
    ],
)
def test_other_keys_of_a_conda_execute_block_are_ignored_with_a_warning(line: str) -> None:
    """conda-execute: keys."""
    found = read("\n" + block("env: [a]", line)).requirements
    assert [str(each.where) for each in found.warnings] == ["s.py:4"]
    assert found._replace(warnings=()) == read(block("env: [a]")).requirements


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("chanels: [b]", "channels"),
        ("channel: [b]", "channels"),
        ("run-with: python -u", "run_with"),
        ("Run_With: python -u", "run_with"),
        ("runwith: python", "run_with"),
        ("run: python", "run_with"),
        ("entrypoint: python", "run_with"),
        ("envs: [b]", "env"),
        ("enviroment: [b]", "env"),
        ("dependencies: [b]", "env"),
        ("pip: [b]", "env"),
        ("env_linux: [b]", "env"),
        ("variable: {A: b}", "variables"),
        ("overlays: [b]", "overlay"),
        ("base-line: x", "baseline"),
    ],
)
def test_a_key_that_was_meant_to_be_another_is_an_error(line: str, meant: str) -> None:
    """conda-execute: keys."""
    with pytest.raises(MetadataError) as caught:
        read(block("env: [a]", line))
    assert str(caught.value.where) == "s.py:3" and str(caught.value.hint).startswith(f"Did you mean {meant!r}?")


def test_run_and_check_report_an_ignored_key(settled: Home) -> None:
    script = settled.write("described.sh", block("description: a tool", "env: [hello-bin]", "run_with: hello"))
    told = settled.cetool("run", str(script)).stderr
    assert "described.sh:2: unknown key 'description'" in told
    found = json.loads(settled.cetool("check", "--json", str(script)).stdout)
    assert ("ignored", 2) in [(each["rule"], each["line"]) for each in found["findings"]]


# --- where a block ends, how it is indented, which mark opens it ----------------------------------------------------

_TWO = (("python", "numpy"), ("python",))


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        ((" - python", " - numpy", "Prints ok."), 4),
        ((" - python", " - numpy", "vim: ts=4 sw=4:"), 4),
        ((" - python", " - numpy", "noqa"), 4),
        ((" - python", " - numpy", "-------"), 4),
        ((" - python", " - numpy", "It's (c) me: all rights: reserved."), 4),
        ((" - python", " - numpy", "", "Prints ok.", "----------"), 4),
        ((" - python", " - numpy", "Prints ok.", "  and more of it."), 4),
        (("  - python", "   - numpy"), 4),
        (("   - python", "  - numpy"), 4),
        ((" - python", "        - numpy", "   run_with: python"), 5),
        (("\t- python", "\t\t- numpy"), 4),
        (("- python", " - numpy", "Prints ok."), 4),
    ],
)
def test_a_block_ends_with_its_yaml_and_is_read_as_conda_execute_read_it(lines: tuple[str, ...], last: int) -> None:
    """conda-execute: block."""
    found = read(block("env:", *lines))
    assert (found.requirements.packages, found.run_with) == _TWO
    assert found.lines == (1, last) and found.requirements.warnings == ()


@pytest.mark.parametrize("comment", ["pylint: disable=x", "-*- coding: utf-8 -*-", "Usage: s.py FILE", "type: ignore"])
def test_a_comment_that_is_yaml_is_ignored_as_an_unknown_key(comment: str) -> None:
    found = read(block("env: [python, numpy]", comment))
    assert (found.requirements.packages, found.run_with) == _TWO
    assert [each.where.line for each in found.requirements.warnings] == [3]


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (("env:", " - python", " numpy"), 4),  # without its dash
        (("env:", " - python", "numpy >=1"), 4),
        (("env:", " - python", "Prints ok.", " - numpy"), 5),
        (("env:", " - python", "channels conda-forge"), 4),
        (("env: [python]", "the channels:", "chanels = [a]"), 4),
        (("env:", "Prints ok."), 3),
        (("env: [python,", "Prints ok."), 3),
        (("env: [python]", "run_with: python", "  Prints ok."), 3),
        (("env:", " - python", "    >=3"), 3),
        (("env:", " - python", "   - numpy", " - pip:", "   - six"), 3),
        (("env: [python]", "env: [numpy]"), 3),
        (("env:", " - python", " - a line of a list in prose"), 4),
    ],
)
def test_what_may_be_a_part_of_the_block_is_never_taken_for_a_comment(lines: tuple[str, ...], line: int) -> None:
    with pytest.raises(MetadataError) as caught:
        read(block(*lines))
    assert caught.value.where is not None and caught.value.where.line == line
    assert "An empty line ends the block" in str(caught.value.hint)


_PYTHON_SCRIPT = "# /// script\n# dependencies = ['six']\n# ///\n"


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("s.py", block("env: [python]") + "\n'''\n" + block("env: [numpy]") + "'''\n", (1, 2)),
        ("s.py", "'''\n" + block("env: [numpy]") + "'''\n" + block("env: [python]"), (5, 6)),
        ("s.py", "'''It's\n" + _PYTHON_SCRIPT + "'''\n" + block("env: [python]"), (6, 7)),
        ("s.py", '"""\n// /// conda-script\n"""\n' + block("env: [python]"), (4, 5)),
        ("s.py", block("env: [python]") + "\n" + block("env: [numpy]"), (1, 2)),
        ("s", "#!/usr/bin/env cetool\n" + block("env: [python]") + 'x = """\n' + _PYTHON_SCRIPT + '"""\n', (2, 3)),
        ("s.sh", block("env: [python]") + "\ncat <<EOF\n" + _PYTHON_SCRIPT + "EOF\n", (1, 2)),
        ("s.sh", "set -e\n" + block("env: [python]") + "\ncat <<-'EOF' >s.py\n" + _PYTHON_SCRIPT + "\tEOF\n", (2, 3)),
        ("s.sh", "cat <<E\n" + block("env: [numpy]") + "E\n" + block("env: [python]"), (5, 6)),
        ("s.js", "// conda execute\n// env: [python]\n\nlet x = `\n// /// conda-script\n`\n", (1, 2)),
    ],
)
def test_a_mark_in_the_scripts_own_text_declares_nothing(name: str, text: str, lines: tuple[int, int]) -> None:
    found = read(text, name)
    assert (found.requirements.packages, found.lines) == (("python",), lines)


@pytest.mark.parametrize(
    "text",
    [
        block("env: [python]") + "\n" + _PYTHON_SCRIPT,
        _PYTHON_SCRIPT + "import six\n" + block("env: [python]"),
        _PYTHON_SCRIPT + "\n" + _PYTHON_SCRIPT,
    ],
)
def test_two_declarations_in_comments_are_an_error(text: str) -> None:
    """PEP 723: Specification."""
    with pytest.raises(MetadataError, match="the file has two blocks"):
        read(text)


def test_a_mark_in_a_string_of_another_cell_declares_nothing() -> None:
    cells = [block("env: [python, six]"), f"text = '''\n{block('env: [python, numpy]')}'''\n"]
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "language": "python", "display_name": "x"}},
        "cells": [
            {"cell_type": "code", "id": str(at), "metadata": {}, "outputs": [], "execution_count": None, "source": each}
            for at, each in enumerate(cells)
        ],
    }
    for _ in range(2):
        assert set(read(json.dumps(document), "n.ipynb").requirements.packages) == {"python", "six", "ipykernel"}
        document["cells"].reverse()  # type: ignore[attr-defined]


def test_an_empty_pep_723_block_asks_for_python(settled: Home) -> None:
    """PEP 723: Specification."""
    script = settled.write("empty.py", "# /// script\n# ///\nprint('ran')\n")
    assert settled.cetool("run", str(script)).stdout == "ran\n"


def test_a_block_with_uneven_lines_can_be_edited(settled: Home) -> None:
    script = settled.write("uneven.py", block("env:", "  - python", "   - zlib", "Prints ok.") + "print()\n")
    assert settled.cetool("add", str(script), "six").returncode == 0
    assert read(script.read_text()).requirements.packages == ("python", "zlib", "six")
    assert script.read_text().endswith("# Prints ok.\nprint()\n")


# --- environment.yml --------------------------------------------------------------------------------------------------


def environment(path: Path, text: str, platform: str = "linux-64") -> Requirements:
    path.write_text(text)
    return read_environment_file(path, platform)


@pytest.mark.parametrize(
    ("line", "here", "elsewhere"),
    [
        ("- a  # [linux]", "linux-64", "win-64"),
        ("- a # [unix and not osx]", "linux-aarch64", "osx-arm64"),
        ("- a  #[(win or osx) and x86_64]", "osx-64", "osx-arm64"),
        ("- a # [win64]", "win-64", "win-arm64"),
        ("- a # [aarch64]", "linux-aarch64", "linux-64"),
        ("- a # [x86 or arm64]", "osx-arm64", "linux-aarch64"),
        ("- sel(unix): a", "osx-arm64", "win-64"),
        ("- sel(win): a", "win-64", "linux-64"),
        ("- {sel(osx): a, sel(linux): a}", "linux-64", "win-64"),
    ],
)
def test_selectors_choose_lines_by_platform(tmp_path: Path, line: str, here: str, elsewhere: str) -> None:
    """CEP 24: Preprocessing selectors; Dictionary-based selectors."""
    text = f"dependencies:\n- b # [see the docs]\n{line}\n"
    assert environment(tmp_path / "e.yml", text, here).packages == ("b", "a")
    assert environment(tmp_path / "e.yml", text, elsewhere).packages == ("b",)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("dependencies:\n- a # [win and py<38]\n", 2, "selector"),
        ("dependencies:\n- a # [linux win]\n", 2, "selector"),
        ("dependencies:\n- sel(cuda): a\n", 2, "selector"),
        ("dependencies:\n- sel(linux): [a]\n", 2, "one match spec"),
        ("dependencies:\n- npm: [a]\n", 2, "not a mapping: 'npm'"),
        ("dependencies: a\n", 1, "must be a list"),
        ("channels: [a]\n", None, "no dependencies"),
        ("channels: [a]\ndependecies: [a]\n", 2, "no dependencies"),
        ("dependencies: [a]\ndependencies: [b]\n", 2, "duplicate key"),
        ("dependencies: [a]\n---\ndependencies: [b]\n", 2, "second YAML document"),
        ("dependencies: [a]\nvariables: {A: }\n", 2, "must be a string"),
        ("dependencies: [3.8]\n", 1, "must be a string"),
        ("", None, "empty"),
        ("# nothing\n", None, "is empty"),
    ],
)
def test_an_invalid_environment_file_is_refused(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    """CEP 24: Comment-based selectors; Dictionary-based selectors."""
    with pytest.raises(MetadataError) as caught:
        environment(tmp_path / "e.yml", text)
    assert says in caught.value.message
    assert caught.value.where is not None and caught.value.where.line == line


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("# platform: linux-64\n@EXPLICIT\nhttps://h/linux-64/a-1-0.conda\n", 2, "a list of exact packages"),
        ("version: 1\nmetadata:\n  platforms: [linux-64]\npackage:\n- name: a\n", 2, "a conda-lock.yml"),
        ("version: 6\nenvironments:\n  default: {}\npackages:\n- conda: x\n", 2, "a pixi.lock"),
        ('[project]\nname = "a"\n', 1, "a pyproject.toml"),
        ('[workspace]\nchannels = ["a"]\n[dependencies]\nsix = "*"\n', 1, "a pixi.toml"),
        ("six\n-r more.txt\n", 2, "a requirements file of pip"),
        ("six\nrequests[socks]==2.31 ; python_version < '3.9'\n", 2, "a requirements file of pip"),
        ("six @ https://h/six.whl\n", 1, "a requirements file of pip"),
    ],
)
@pytest.mark.parametrize("name", ["e.yml", "e.txt"])
def test_files_of_other_tools_are_recognized_by_their_content(
    tmp_path: Path, name: str, text: str, line: int, what: str
) -> None:
    with pytest.raises(MetadataError) as caught:
        environment(tmp_path / name, text)
    assert f"this is {what}" in caught.value.message and caught.value.hint
    assert caught.value.where is not None and caught.value.where.line == line


def test_an_environment_yml_may_have_any_name(tmp_path: Path) -> None:
    found = environment(tmp_path / "e.txt", "channels: [a]\ndependencies:\n- six >=1\n- pip: [idna]\n")
    assert (found.packages, found.pypi, found.channels) == (("six >=1",), ("idna",), ("a",))
    assert environment(tmp_path / "e.lst", "six >=1\n# about six\na[subdir=noarch]\n").packages[0] == "six >=1"


def test_other_keys_of_an_environment_file_are_ignored_with_a_warning_each(tmp_path: Path) -> None:
    """CEP 24, «Other top-level keys»: MUST be ignored, SHOULD be warned of. CEP 24: platforms."""
    lines = ("name: x", "platforms: [linux-64]", "category: dev", "chanels: [b]", "x-mine: {a: [1]}", "prefix: ~/x")
    found = environment(tmp_path / "e.yml", "dependencies: [a]\n" + "\n".join(lines) + "\n")
    assert [each.where.line for each in found.warnings] == [3, 4, 5, 6, 7]
    assert "Did you mean 'channels'?" in found.warnings[2].text
    assert found._replace(warnings=()) == Requirements(packages=("a",))


def test_an_environment_file_may_be_in_utf_16_and_have_typed_variables(tmp_path: Path) -> None:
    """CEP 24: variables."""
    text = "dependencies: [a]\nvariables: {N: 1.50, B: true, Y: yes, D: 2020-01-01, E: ''}\n"
    (tmp_path / "e.yml").write_bytes(text.encode("utf-16"))
    expected = (("N", "1.50"), ("B", "true"), ("Y", "yes"), ("D", "2020-01-01"), ("E", ""))
    assert read_environment_file(tmp_path / "e.yml").variables == expected
    (tmp_path / "e.yml").write_bytes(text.encode("utf-8-sig"))
    assert read_environment_file(tmp_path / "e.yml").variables == expected


def test_several_environment_files_have_the_channels_of_all(tmp_path: Path) -> None:
    for name, text in (("a.yml", "channels: [a, b]"), ("b.yml", "channels: [c, a, nodefaults]")):
        (tmp_path / name).write_text(f"{text}\ndependencies: [x]\n")
    found = requirements_of([], [tmp_path / "a.yml", tmp_path / "b.yml"])
    assert (found.channels, found.configured) == (("a", "b", "c"), False)


def test_an_environment_file_without_packages_makes_an_empty_environment(settled: Home) -> None:
    """CEP 24: name and prefix."""
    file = settled.write("empty.yml", "variables: {A: b}\ndependencies:\nprefix: /x\n")
    made = settled.cetool("create", "--file", file)
    assert made.returncode == 0 and made.stderr.count("empty.yml:3: 'prefix'") == 1
    script = settled.write("plain.sh", "echo $A")
    assert settled.cetool("run", "--env-file", file, script).stdout == "b\n"
    # so do conditions that do not hold, and virtual packages alone
    made = settled.cetool("create", "__unix", "six[when=__win]")
    assert made.returncode == 0, made.stderr


# --- [tool.pixi] ------------------------------------------------------------------------------------------------------


def pixi(*lines: str, platform: str = "linux-64") -> Requirements:
    text = "\n".join(("# /// script", *(f"# {line}" for line in lines), "# ///", ""))
    return read_metadata(script_from_text(text, "/work/s.py", "s.py"), platform).requirements


def test_the_docs_list_every_key_of_tool_pixi_and_what_becomes_of_it() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "pixi.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \|", text, re.MULTILINE)
    assert dict(rows) == KEYS and len(rows) == len(KEYS)


def _statement(key: str, value: str) -> str:
    path = key.replace("PLATFORM", "osx-arm64").replace("$schema", '"$schema"')
    return f"tool.pixi.{path} = {value}"


@pytest.mark.parametrize("key", sorted(key for key, what in KEYS.items() if what == REFUSED))
def test_a_refused_key_of_tool_pixi_is_an_error_with_its_line(key: str) -> None:
    for value in ("{ a = '*' }", "['a']", "true"):
        with pytest.raises(MetadataError) as caught:
            pixi("dependencies = []", _statement(key, value))
        assert (
            str(caught.value.where) == "s.py:3" and caught.value.hint and key.rpartition(".")[2] in caught.value.message
        )


@pytest.mark.parametrize("key", sorted(key for key, what in KEYS.items() if what == IRRELEVANT))
def test_an_irrelevant_key_of_tool_pixi_changes_nothing(key: str) -> None:
    found = pixi(_statement(key, "{ a = 'b' }"))
    assert found._replace(warnings=()) == pixi("dependencies = []")
    assert bool(found.warnings) == key.endswith("tasks")


@pytest.mark.parametrize(
    "key", ["nonsense", "workspace.nonsense", "target.linux.nonsense", "target.linux.pypi-options"]
)
def test_an_unknown_key_of_tool_pixi_is_an_error(key: str) -> None:
    with pytest.raises(MetadataError, match="unknown key"):
        pixi(_statement(key, "{ a = 'b' }"))


def test_a_project_and_a_workspace_of_tool_pixi_exclude_each_other() -> None:
    with pytest.raises(MetadataError, match="both 'project' and 'workspace'"):
        pixi("tool.pixi.workspace.channels = ['a']", "tool.pixi.project.channels = ['b']")


def test_constraints_variables_and_solver_settings_of_tool_pixi_are_honoured() -> None:
    found = pixi(
        "[tool.pixi.workspace]",
        "platforms = ['osx-arm64', { name = 'linux-ci', platform = 'linux-64' }]",
        "channels = ['a', { channel = 'b', priority = 2 }]",
        "channel-priority = 'disabled'",
        "solve-strategy = 'lowest-direct'",
        "exclude-newer = '2026-01-31'",
        "[tool.pixi]",
        "constraints = { x = '>=1', y = { version = '2.*', build = 'h*' } }",
        "activation.env = { A = '1', B = '2' }",
        "target.unix.constraints.x = '>=2'",
        "target.linux-ci.activation.env.B = '3'",
        "target.linux-ci.dependencies.z = '*'",
        "target.osx.dependencies.not-here = '*'",
    )
    assert found.solving == Solving(("x >=2", "y 2.* h*"), "disabled", "lowest-direct")
    assert found.exclude_newer == "2026-01-31T23:59:59Z"
    assert (found.channels, found.packages) == (("b", "a"), ("python", "z"))
    assert dict(found.variables) == {"A": "1", "B": "3"}
    spec = EnvironmentSpec.of(found)
    assert EnvironmentSpec.from_dict(spec.as_dict()) == spec
    assert (
        len(
            {spec.name, spec._replace(solving=Solving()).name, EnvironmentSpec(Solve(("python", "z")), ("b", "a")).name}
        )
        == 3
    )
    assert found.digest != found._replace(solving=Solving()).digest != found._replace(exclude_newer=None).digest


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["workspace.platforms = ['osx-arm64']"], "not for linux-64"),
        (["workspace.platforms = [{ platform = 'linux-64', cuda = '12' }]"], "'cuda'"),
        (["workspace.platforms = ['noarch']"], "not a platform"),
        (["target.linux-ci.dependencies.a = '*'"], "unknown platform"),
        (["workspace.exclude-newer = '1 month'"], "not a date"),
        (["workspace.channel-priority = 'none'"], "cannot be 'none'"),
        (["activation.env.A = '$HOME/x'"], "refers to another variable"),
        (["activation.env.A = '%HOME%'"], "refers to another variable"),
        (["workspace.solve-strategy = 'lowest'", "pypi-dependencies.six = '*'"], "PyPI requirements"),
        (["constraints.a = { version = '1', channel = 'b' }"], "unknown key 'channel'"),
        (["workspace.channels = [{ channel = 'a', exclude-newer = '7d' }]"], "unknown key 'exclude-newer'"),
    ],
)
def test_what_tool_pixi_asks_for_and_cetool_does_not_do_is_refused(lines: list[str], says: str) -> None:
    with pytest.raises(MetadataError) as caught:
        pixi(*(f"tool.pixi.{line}" for line in lines))
    assert says in caught.value.message and caught.value.where is not None and caught.value.where.line


def test_channels_of_a_conda_script_block_are_not_replaced_by_those_of_tool_pixi() -> None:
    """conda-script: channels."""
    text = "# /// conda-script\n# channels = ['a']\n# tool.pixi.workspace.channels = ['{}']\n# /// end-conda-script\n"
    assert read(text.format("a")).requirements.channels == ("a",)
    with pytest.raises(MetadataError, match="different channels") as caught:
        read(text.format("b"))
    assert str(caught.value.where) == "s.py:3"


def test_an_unknown_key_of_tool_conda_or_tool_cetool_is_an_error() -> None:
    for table in ("conda", "cetool"):
        with pytest.raises(MetadataError, match="unknown key 'chanels'"):
            read(f"# /// script\n# tool.{table}.chanels = ['a']\n# ///\n")


@pytest.mark.parametrize("engine", ["rattler", pytest.param("conda", marks=pytest.mark.real_conda)])
def test_a_constraint_decides_which_package_another_one_brings(settled: Home, tmp_path: Path, engine: str) -> None:
    channel = tmp_path / "both"
    packages = [small("lib", "1.0"), small("lib", "2.0"), small("app", "1.0", "lib")]
    records = {f"{each.stem}.conda": write_package(each, channel) for each in packages}
    write_repodata(records, "noarch", channel)
    lines = [f"channels = ['{channel}']", "dependencies.app = '*'", "tool.pixi.constraints.lib = '<2'"]
    lines = ["/// conda-script", *lines, "entrypoint = '/bin/sh ${SCRIPT}'", "/// end-conda-script"]
    text = "\n".join(f"# {line}" for line in lines) + '\nls "$CONDA_PREFIX/conda-meta"\n'
    script = settled.write(f"constrained-{engine}.sh", text)
    ran = settled.cetool("run", "--engine", engine, script, env={"CONDA_EXE": real_engine("real_conda")})
    assert "lib-1.0" in ran.stdout and "lib-2.0" not in ran.stdout, ran.stderr
    assert settled.cetool("lock", script).returncode == 0
    lock = script.with_name(f"{script.name}.conda-lock.yml")
    assert "lib-1.0" in lock.read_text() and "lib-2.0" not in lock.read_text()
    lock.unlink()

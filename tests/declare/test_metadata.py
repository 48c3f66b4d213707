"""Promises about what a script can declare: three dialects mean the same; each error has its line and a hint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.home import Home

from cetool.base.errors import CetoolError, MetadataError
from cetool.declare.blocks import find_block, read_block
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.metadata import ScriptMetadata, read_metadata
from cetool.declare.platforms import current_platform, selectors, virtual_package_holds
from cetool.declare.source import script_from_text

SEED = """#!/usr/bin/env python

# conda execute
# env:
#  - python >=3
#  - numpy

import numpy as np

print(np.random.poisson(size=5))
"""
PEP723 = """# /// script
# requires-python = ">=3"
# dependencies = ["Six >=1"]
#
# [tool.conda]
# dependencies = ["numpy"]
# channels = ["conda-forge"]
# [tool.pixi.dependencies]
# gdal = { version = "3.*", build = "py*" }
# [tool.uv]
# exclude-newer = "2025-01-01"
# ///
"""
CONDA_SCRIPT = """// /// conda-script
// channels = ["conda-forge"]
// entrypoint = { unix = "cc ${SCRIPT}", linux-64 = "gcc ${SCRIPT}" }
//
// [dependencies]
// gcc = "*"
// zlib = {
//   version = ">=1.2",
//   when = "__unix",
// }
// /// end-conda-script
int main() {}
"""
DIRECTORY = Path("/where/the script is")


def read(text: str, name: str = "s.py") -> ScriptMetadata:
    return read_metadata(script_from_text(text, DIRECTORY / name, name))


def toml(*lines: str) -> str:
    return "\n".join(["# /// script", *(f"# {line}" for line in lines), "# ///", ""])


def script(*lines: str) -> str:
    head = ["# /// conda-script", '# channels = ["conda-forge"]']
    return "\n".join([*head, *(f"# {line}" for line in lines), "# /// end-conda-script", ""])


def execute(*lines: str) -> str:
    return "\n".join(["# conda execute", *(f"# {line}" for line in lines), ""])


def test_the_example_of_conda_execute_is_read() -> None:
    """conda-execute: env; names."""
    found = read(SEED)
    assert found.requirements.packages == ("python >=3", "numpy")
    assert found.run_with == ("/usr/bin/env", "python")
    assert (found.dialect, found.lines, found.entrypoint) == ("conda execute", (3, 6), None)
    assert EnvironmentSpec.of(found.requirements).name == "ea977067a8fbeb21a594"


@pytest.mark.parametrize(
    "text",
    [
        SEED.replace("\n", "\r\n"),
        "\ufeff" + SEED,
        SEED.replace("conda execute", "conda execute:"),
        SEED.replace("# env:", "## no YAML: [\n#  # nor this: [\n# env:"),
        SEED.replace("# ", "    # "),
        execute("env: [NumPy, 'python>=3', numpy]", "channels: [conda-forge]"),
        execute("env: [numpy, python >=3]").replace("#", "--"),
        execute("env: [numpy, python >=3]").replace("#", ";;"),
        execute("env: [numpy, python >=3]").replace("#", "'"),
        toml("requires-python = '>=3'", "[tool.conda]", "dependencies = ['numpy']"),
        toml("[tool.pixi.dependencies]", "python = '>=3'", "numpy = '*'"),
        toml("[tool.cetool]", "env = ['numpy', 'python >=3']"),
        script("[dependencies]", "python = { version = '>=3' }", "numpy = '*'"),
        script("[tool.pixi.dependencies]", "python = '>=3'", "[tool.cetool]", "env = ['numpy']"),
    ],
)
def test_the_same_needs_are_the_same_environment(text: str) -> None:
    """conda-execute: block."""
    assert EnvironmentSpec.of(read(text).requirements).name == "ea977067a8fbeb21a594"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run_with: hello world", ("hello", "world")),
        ('run_with: ["hello world"]', ("hello world",)),
        ("run_with: [nice, -n, 5, python]", ("nice", "-n", "5", "python")),
    ],
)
def test_run_with(line: str, words: tuple[str, ...]) -> None:
    """conda-execute: run_with."""
    assert read(execute("env: [a]", line)).run_with == words


def test_everything_a_conda_execute_block_can_say() -> None:
    text = execute(
        "env:", "  - a", "  - pip: [six, 'b @ ./b']", "channels: [./c d]", "variables: {V: 1.10, W: yes, E: ''}"
    )
    wanted = read(text).requirements
    assert wanted.packages == ("a",)
    assert wanted.pypi[0] == "six" and wanted.pypi[1].endswith("/the%20script%20is/b")
    assert wanted.channels == ((DIRECTORY / "c d").as_uri(),)
    assert wanted.variables == (("V", "1.10"), ("W", "yes"), ("E", ""))


def test_everything_a_pep723_block_can_say() -> None:
    found = read(PEP723)
    wanted = found.requirements
    assert wanted.packages == ("python >=3", "gdal 3.* py*", "numpy")
    assert wanted.pypi == ("six>=1",)
    assert wanted.channels == ("conda-forge",)
    assert wanted.pypi_settings.exclude_newer == "2025-01-01"
    assert (found.dialect, found.lines, found.run_with) == ("script", (1, 12), ("python",))
    assert read(toml("")).requirements.packages == ("python",)


def test_tool_pixi_as_far_as_it_goes() -> None:
    here = current_platform()
    family = selectors(here)[-1]
    wanted = read(
        toml(
            "[tool.pixi.workspace]",
            "channels = ['conda-forge', { channel = 'https://host/x', priority = 1 }]",
            "platforms = ['linux-64']",
            "[tool.pixi.dependencies]",
            "a = '1.*'",
            "b = { version = '>=1', build-number = 3, channel = 'bioconda' }",
            f"[tool.pixi.target.{family}.dependencies]",
            "a = '2.*'",
            "c = '*'",
            f"[tool.pixi.target.{here}.dependencies]",
            "a = '3.*'",
            "[tool.pixi.target.zos-z.dependencies]",
            "z = '*'",
            "[tool.pixi.pypi-dependencies]",
            "p = '*'",
            "q = { version = '>=1', extras = ['y', 'x'] }",
            "r = { git = 'https://host/r', tag = 'v1', subdirectory = 'sub' }",
            "s = { path = './s', editable = false }",
            "[tool.pixi.tasks]",
            "t = 'x'",
        )
    ).requirements
    assert wanted.packages == ("python", "a 3.*", 'bioconda::b >=1[build_number="==3"]', "c")
    assert wanted.channels == ("https://host/x", "conda-forge")
    assert wanted.pypi[:3] == ("p", "q[x,y]>=1", "r @ git+https://host/r@v1#subdirectory=sub")
    assert wanted.pypi[3].endswith("/the%20script%20is/s")
    assert any("tool.pixi.tasks" in str(each) for each in wanted.warnings)


def test_tool_uv_indexes() -> None:
    lines = ("[[tool.uv.index]]", "url = 'https://one/simple'", "default = true", "[[tool.uv.index]]")
    more = (
        "url = 'https://two/simple'",
        "[tool.uv]",
        "find-links = ['./wheels']",
        "extra-index-url = ['https://three']",
    )
    found = read(toml(*more[1:], *lines, more[0])).requirements.pypi_settings
    assert found.index_url == "https://one/simple"
    assert found.extra_index_urls == ("https://two/simple", "https://three"), "in the order in which uv asks them"
    assert found.find_links[0].endswith("/the%20script%20is/wheels")


@pytest.mark.parametrize(
    ("platform", "entrypoint", "packages"),
    [
        ("linux-64", "gcc ${SCRIPT}", ("gcc", "zlib >=1.2")),
        ("osx-arm64", "cc ${SCRIPT}", ("gcc", "zlib >=1.2")),
    ],
)
def test_conda_script_on_two_platforms(platform: str, entrypoint: str, packages: tuple[str, ...]) -> None:
    """conda-script: block; entrypoint."""
    text = script_from_text(CONDA_SCRIPT, DIRECTORY / "s.c", "s.c")
    block = find_block(text)
    assert block is not None and (block.first, block.last) == (1, 11)
    wanted, run_with, found = read_block(block, text, platform)
    assert (wanted.packages, run_with, found) == (packages, None, entrypoint)
    with pytest.raises(MetadataError, match=r"s\.c:3: no entrypoint for win-64, only for unix, linux-64"):
        read_block(block, text, "win-64")


def test_fields_of_a_conda_script_dependency() -> None:
    """conda-script: dependencies."""
    digest = "d41d8cd98f00b204e9800998ecf8427e"
    wanted = read(
        script(
            "[dependencies]",
            f"a = {{ version = '>=1,<2', build = 'py*', subdir = 'noarch', md5 = '{digest}', extras = ['y', 'x'] }}",
            "b = { when = 'python >=3.9' }",
            "c = { when = '__no_such_thing' }",
            "d = { channel = './e f', flags = ['cuda'] }",
            "e = { url = 'https://host/noarch/e-1-0.conda' }",
        )
    ).requirements.packages
    assert wanted[0] == f'a >=1,<2 py*[extras=[x, y], md5="{digest}", subdir="noarch"]'
    assert wanted[1] == 'b[when="python>=3.9"]'
    assert len(wanted) == 4 and "file:///where/the%20script%20is/e%20f/" in wanted[2] and "flags=[cuda]" in wanted[2]
    assert wanted[3] == 'e[url="https://host/noarch/e-1-0.conda"]'


def test_conda_script_runs_by_its_entrypoint_or_by_run_with_or_by_its_suffix() -> None:
    """conda-script: entrypoint."""
    assert read(script("entrypoint = 'x ${SCRIPT}'")).entrypoint == "x ${SCRIPT}"
    own = read(script("entrypoint = 'x'", "[tool.cetool]", "run_with = 'y z'"))
    assert (own.entrypoint, own.run_with) == (None, ("y", "z"))
    assert read(script(), "s.R").run_with == ("Rscript",)


def test_virtual_packages() -> None:
    """conda-script: dependencies."""
    assert virtual_package_holds("__unix", "linux-64") is True
    assert virtual_package_holds(" __unix ", "win-64") is False
    assert virtual_package_holds("__linux", "osx-64") is False
    assert virtual_package_holds("__no_such_thing >=3", "linux-64") is False
    assert virtual_package_holds("python >=3", "linux-64") is None
    assert virtual_package_holds("__unix and python", "linux-64") is None


def test_virtual_packages_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.4")
    assert virtual_package_holds("__cuda", "linux-64") is True
    assert virtual_package_holds("__cuda >=12", "linux-64") is True
    assert virtual_package_holds("__cuda >=13", "linux-64") is False


@pytest.mark.parametrize(
    "text",
    [
        'print("# conda execute")\n',
        '"""\nRun it with conda execute, as in\n# conda execute my_script.py\n"""\n',
        "# /// script\n# dependencies = []\n",  # never closed
        "# /// script \n# dependencies = []\n# ///\n",
        "#/// script\n# dependencies = []\n# ///\n",
        "# /// other\n# /// script\n# x\n# ///\n",  # within a block of another type
        'x = "// /// conda-script"\n',
    ],
)
def test_text_that_is_not_a_block_is_ignored(text: str) -> None:
    """PEP 723: Specification."""
    with pytest.raises(MetadataError, match="declares no environment|does not open a block|is never closed") as refused:
        read(text)
    assert refused.value.code == "block-missing"
    assert refused.value.where is not None or "# conda execute\n# env:\n" in (refused.value.hint or "")


def test_rulers_of_comment_characters_are_looked_past(home: Home) -> None:
    """A line of them is in every other Lisp file: it took for ever once, found by atheris."""
    lines = "".join(f"{mark * 20_000} x\n" for mark in ("#", "/", "-", ";", "%", "!", "'", ";;", "; "))
    done = home.cetool(home.write("init.el", lines))
    assert done.returncode == 125 and "declares no environment" in done.stderr


def test_a_block_that_was_nearly_one_is_pointed_at() -> None:
    with pytest.raises(MetadataError) as refused:
        read("x\n#conda-execute:\n# env: [a]\n")
    assert refused.value.where is not None and refused.value.where.line == 2


def test_a_pep723_block_ends_where_the_standard_says() -> None:
    """PEP 723: Specification."""
    block = find_block(script_from_text("# /// script\n# a = '''\n# ///\n# '''\n# ///\n# after\n", "s", "s"))
    assert block is not None and (block.first, block.last, block.content) == (1, 5, ("a = '''", "///", "'''"))


PROBLEMS = [
    (execute(), 1, "the '# conda execute' block declares no environment"),
    (execute("env: []"), 1, "block declares no environment"),
    (execute("run_with: python"), 1, "block declares no environment"),
    (execute("env:", "  - a", "  - b >>1"), 4, "'b >>1'"),
    (execute("env:", "## note", "  - a", "  - 3.1"), 5, "not a number (3.1)"),
    (execute("env:", "  - python: 3"), 3, "'python'"),
    (execute("env: a"), 2, "must be a list"),
    (execute("env: [a]", "chanels: [b]"), 3, "unknown key 'chanels'"),
    (execute("env: [a]", "env: [b]"), 3, "duplicate key 'env', first at line 2"),
    (execute("env: [a", "b: }"), 3, "invalid YAML"),
    (execute("env: &x [a]"), 2, "anchors"),
    (execute("env: !!python/object:os.system [a]"), 2, "tags"),
    (execute("env: [a]").replace("# env", "#env") + "#---\n#env: [b]\n", 3, "second YAML document"),
    (execute("- a"), 2, "must be a mapping of keys to values"),
    (execute("env: [a]", "base: x"), 3, "the base already has"),
    (execute("env: [a]", "overlay: x"), 3, "'overlay'"),
    (execute("env: [a]", "variables: {1A: x}"), 3, "'1A'"),
    (execute("env: [a]", "variables: {A: [x]}"), 3, "the variable A"),
    (execute("env: [a]", "run_with: []"), 3, "run_with is empty"),
    (execute("env: [a]", "channels: ['-x']"), 3, "'-x'"),
    (execute("env: [a]", "channels: conda-forge"), 3, "must be a list"),
    (execute("env:", "  - pip: [-r x]"), 3, "requirements file does not exist"),
    (execute("env: [a]") + "\n" + toml("dependencies = []"), 4, "at line 1 and '# /// script' at line 4"),
    (toml("") + "\n" + toml(""), 5, "two blocks"),
    (script() + toml("dependencies = []"), 4, "'/// conda-script' at line 1 and '# /// script' at line 4"),
    (script() + script(), 4, "two blocks"),
    (toml("dependencies = [", "  'a',", "  'b c d',", "]"), 4, "'b c d'"),
    (toml("dependancies = []"), 2, "unknown key 'dependancies'"),
    (toml("requires-python = '3'"), 2, "PEP 440"),
    (toml("requires-python = 3.11"), 2, "a number (3.11)"),
    (toml("a = 1", "b ="), 3, "invalid TOML"),
    (toml("[tool.pixi.target.linux64.dependencies]", "a = '*'"), 2, "linux64"),
    (toml("[tool.pixi.dependencies]", "a = { git = 'https://h/a' }"), 3, "cannot build a from source"),
    (toml("[tool.pixi.pypi-dependencies]", "a = { path = '.', editable = true }"), 3, "editable"),
    (toml("[tool.uv]", "index-url = '-x'"), 3, "URL of an index"),
    (toml("[tool.cetool]", "envs = ['a']"), 3, "unknown key 'envs'"),
    ("# /// conda-script\n# /// end-conda-script\n", 1, "has no channels"),
    ("# /// conda-script\n# channels = ['a']\n", 3, "not closed before line 3"),
    ("# /// conda-script\n# channels = ['a']", 1, "never closed"),
    ("# /// conda-script\n# channels = ['a']\ncode\n# /// end-conda-script\n", 3, "not closed before line 3"),
    (script("entrypoint = { plan9 = 'x' }"), 3, "plan9"),
    (script("dependencies.a = { versoin = '1' }"), 3, "unknown key 'versoin'"),
    (script("[dependencies]", "a = '1'", "'b[x=y]' = '*'"), 5, "not a package name"),
    (script("[dependencies]", "a = '1\",channel=\"evil'"), 4, "quote"),
    (script("[dependencies]", "a = { md5 = 'xyz' }"), 4, "md5"),
    (script("[dependencies]", "a = { subdir = '../x' }"), 4, "not a platform"),
    (script("[dependencies]", "a = { url = 'https://h/a.zip' }"), 4, "conda package"),
    (execute("env: [" + "a, " * 4000 + "a]"), 2, "larger than"),
    (execute("env: " + "[" * 200), 2, "nested too deep"),
    (toml("a = " + "[" * 4000), 1, "nested"),
]


@pytest.mark.parametrize(("text", "line", "says"), PROBLEMS)
def test_an_error_has_its_line_and_a_hint(text: str, line: int, says: str) -> None:
    """conda-script: block; channels. conda-execute: env."""
    with pytest.raises(MetadataError) as refused:
        read(text)
    assert says in refused.value.message
    assert refused.value.where is not None and (refused.value.where.path, refused.value.where.line) == ("s.py", line)
    assert refused.value.exit_status == 125


_VALID = [SEED, PEP723, CONDA_SCRIPT, *(text for text, _, _ in PROBLEMS if len(text) < 500)]
_PIECES = [*"#\n[]{}'\":=,|>-\t\x07\\~@\u2028\udcff", "# ", "//", "&a", "*a", "!!x", "---\n", "# ///\n"]
_PIECES += ["# conda execute\n", "1e999", "0x" + "f" * 5000, "a." * 1200]


@st.composite
def mutations(draw: Any) -> str:
    """A block, valid or nearly so, with pieces taken out, put in and repeated."""
    text: str = draw(st.sampled_from(_VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(st.sampled_from(_PIECES) | st.text(max_size=4)) + text[end:]
    return text


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutations() | st.text(max_size=200) | st.text(max_size=200).map(lambda text: execute(*text.split("\n"))))
def test_any_text_is_metadata_or_an_error(text: str) -> None:
    try:
        found = read(text)
    except CetoolError as error:
        assert error.message and "Traceback" not in error.message
        return
    assert found.requirements.packages or found.requirements.pypi or found.dialect == "conda-script"
    assert EnvironmentSpec.of(found.requirements).name
    assert (found.run_with is None) != (found.entrypoint is None)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["# ///", "# /// script", "# /// x", "#", "# a", "", " # a", "# /// ", "b"])))
def test_pep723_blocks_are_those_of_the_standards_expression(lines: list[str]) -> None:
    """PEP 723: Specification."""
    text = "\n".join(lines)
    expression = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)*)^# ///$"  # the standard has a +
    wanted = [found for found in re.finditer(expression, text) if found["type"] == "script"]
    try:
        block = find_block(script_from_text(text or "\n", "s", "s"))
    except MetadataError:
        assert len(wanted) > 1
        return
    if not wanted:
        assert block is None
        return
    content = "".join(line[2:] for line in wanted[0]["content"].splitlines(keepends=True) if line != "#\n")
    assert block is not None and block.text.replace("\n", "") == content.replace("\n", "")

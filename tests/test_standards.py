"""Rules of standards that no other test shows; the tests that docs/explanation/standards.md names say which section."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.locks import FORGE, LOCK, SIX, YES

from cetool.app.environments import is_explicit
from cetool.base.errors import MetadataError
from cetool.declare.dialects.environment_yml import read_environment_file
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.match_specs import requires_python_spec
from cetool.declare.metadata import read_metadata
from cetool.declare.platforms import current_platform
from cetool.declare.pypi import canonical_requirement
from cetool.declare.requirements import Requirements
from cetool.declare.source import script_from_text
from cetool.lock.conda_lock import read_conda_lock, write_conda_lock
from cetool.lock.explicit import read_explicit
from cetool.lock.plain import write_environment_yml

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


# --- docs/explanation/standards.md ------------------------------------------------------------------------------------

_ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
_NAMED = re.compile(r"((?:CEP|PEP) \d+|conda-(?:script|execute))[:,] ([^.]+)")
_TEST = re.compile(r"`(?:(test_\w+)\.?(?:py)?)?::(test_\w+)`")


@cache
def _tests(file: str) -> dict[str, str]:
    """The source of each test in a file, its decorators and the comment above it included."""
    path = next(TESTS.rglob(f"{file}.py"), None)
    if path is None:
        return {}
    text = path.read_text(encoding="utf-8")
    lines, found = text.split("\n"), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            while lines[first - 1].startswith("#"):
                first -= 1
            found[node.name] = "\n".join(lines[first : node.end_lineno])
    return found


def _named(text: str) -> list[tuple[str, str]]:
    """The tests that a text names: ``test_file::test_name``, and ``::test_name`` for more of the same file."""
    found, file = [], ""
    for named, test in _TEST.findall(text):
        file = named or file
        found.append((file, test))
    return found


def _words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9-]+", " ", text.lower()).split())


def _sections(source: str) -> set[tuple[str, str]]:
    """The standards and sections in a test's source, as in «CEP 29: Syntax; String matching: what is refused.»"""
    return {
        (standard, _words(section.partition(":")[0]))
        for standard, sections in _NAMED.findall(source)
        for section in sections.split(";")
    }


def test_every_row_of_the_page_has_tests_that_name_its_section() -> None:
    rows, wrong = 0, []
    for part in (DOCS / "explanation" / "standards.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title = re.match(r"(?:CEP|PEP) \d+|conda-\w+", part)
        for section, asks, answer, tests in _ROW.findall(part) if title is not None else ():
            if section == "section" or not section.strip("- "):
                continue
            rows += 1
            named = _named(tests)
            assert asks and named and re.match(r"(?:\*\*deviates\*\*|follows)(?:: \S|$)", answer), section
            standard = title[0] if title is not None else ""
            wrong += [
                f"{file}::{test} does not name {standard}: {section}"
                for file, test in named
                if (standard, _words(section)) not in _sections(_tests(file).get(test, ""))
            ]
    assert not wrong and rows > 60, "\n".join(wrong)


def test_the_tests_that_the_documents_name_exist() -> None:
    named = [(page.name, *each) for page in DOCS.rglob("*.md") for each in _named(page.read_text(encoding="utf-8"))]
    missing = [f"{page}: {file}::{test}" for page, file, test in named if test not in _tests(file)]
    assert not missing and len(named) > 100, "\n".join(missing)


# --- CEP 23 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "explicit"),
    [
        ("@EXPLICIT", True),
        (" \t@EXPLICIT  \r", True),
        ("@explicit", False),
        ("# @EXPLICIT", False),
        ("@EXPLICIT x", False),
    ],
)
def test_one_explicit_line_makes_a_file_explicit(tmp_path: Path, line: str, explicit: bool) -> None:
    """CEP 23: Explicit input files."""
    path = tmp_path / "list.txt"
    path.write_bytes(f"# a comment\n\n{line}\n{SIX.line}\n".encode())
    assert is_explicit(path) is explicit


@pytest.mark.parametrize("line", ["six", "six >=1", f"{FORGE}/noarch/", f"{FORGE}/six.zip", f"{SIX.url} {YES.url}"])
def test_a_line_of_an_explicit_file_is_one_package_file(line: str) -> None:
    """CEP 23: Explicit input files."""
    with pytest.raises(MetadataError) as refused:
        read_explicit(f"# platform: linux-64\n@EXPLICIT\n{line}\n", "x")
    assert refused.value.where is not None and refused.value.where.line == 3


def test_other_files_have_one_match_spec_a_line(tmp_path: Path) -> None:
    """CEP 23: Specification; Non-explicit input files."""
    path = tmp_path / "list.txt"
    path.write_text("# platform: osx-arm64\n\n \t \npython\nscipy=1.13.1\n  setuptools>=69.5.1\ntk[build=h5083fa2_1]\n")
    wanted = ("python", "scipy 1.13.1.*", "setuptools >=69.5.1", 'tk[build="h5083fa2_1"]')
    assert read_environment_file(path).packages == wanted
    path.write_text("numpy\n\nsci py >>1\n")
    with pytest.raises(MetadataError, match=r"list\.txt:3: "):
        read_environment_file(path)


# --- CEP 24 -----------------------------------------------------------------------------------------------------------


def _environment(folder: Path, text: str, name: str = "environment.yml", platform: str = "linux-64") -> Requirements:
    (folder / name).write_text(text)
    return read_environment_file(folder / name, platform)


def test_an_environment_file_is_yaml_by_its_suffix_or_its_keys(tmp_path: Path) -> None:
    """CEP 24: Specification."""
    text = "dependencies:\n- numpy >=1\n"
    for name in ("environment.yml", "e.yaml", "E.YML", "e.txt"):
        assert _environment(tmp_path, text, name).packages == ("numpy >=1",)
    with pytest.raises(MetadataError, match="must be a mapping"):
        _environment(tmp_path, "numpy >=1\n", "e.yml")


def test_dependencies_are_match_specs_then_known_subsections(tmp_path: Path) -> None:
    """CEP 24: dependencies."""
    found = _environment(tmp_path, "dependencies:\n- a >=1\n- pip:\n  - six\n- b\n")
    assert (found.packages, found.pypi) == (("a >=1", "b"), ("six",))
    for unknown in ("npm: [x]", "conda: x"):
        with pytest.raises(MetadataError, match=r"environment\.yml:3: "):
            _environment(tmp_path, f"dependencies:\n- a\n- {unknown}\n")


@pytest.mark.parametrize(
    ("line", "channels"),
    [
        ("", ("x", "y")),
        ("channels: [b, ./c]", ("b", "HERE/c", "x", "y")),
        ("channels: [b, nodefaults]", ("b",)),
        ("channels: [nodefaults, y, b]", ("y", "b")),
    ],
)
def test_channels_of_an_environment_file(tmp_path: Path, line: str, channels: tuple[str, ...]) -> None:
    """CEP 24: channels."""
    needs = _environment(tmp_path, f"{line}\ndependencies: [a]\n")
    wanted = tuple(each.replace("HERE", tmp_path.as_uri()) for each in channels)
    assert EnvironmentSpec.of(needs, default_channels=("x", "y")).channels == wanted


@pytest.mark.parametrize("variable", ["1A: x", "A-B: x", "'A=B': x", "'': x", "A: ", "A: [x]", "A: {b: c}"])
def test_a_variable_has_a_name_that_systems_take_and_one_value(tmp_path: Path, variable: str) -> None:
    """CEP 24: variables."""
    with pytest.raises(MetadataError, match=r"environment\.yml:3: "):
        _environment(tmp_path, f"dependencies: [a]\nvariables:\n  {variable}\n")


def test_selectors_leave_yaml_behind(tmp_path: Path) -> None:
    """CEP 24: Comment-based selectors: ``py`` and ``np`` are not names of selectors."""
    text = "dependencies:\n- [broken # [win]\n- b # [osx64 or (linux and x86_64)]\n- c #[unix and not linux]\n"
    assert _environment(tmp_path, text).packages == ("b",)
    for wrong in ("win and py38", "linux ||| win", "np and linux"):
        with pytest.raises(MetadataError, match=r"environment\.yml:2: .*selector"):
            _environment(tmp_path, f"dependencies:\n- a # [{wrong}]\n")


def test_the_platform_is_the_one_that_is_asked_for_else_this_one(tmp_path: Path) -> None:
    """CEP 24: platforms."""
    (tmp_path / "e.yml").write_text("dependencies:\n- a # [win]\n- b # [linux]\n- c # [osx]\n")
    found = {system: read_environment_file(tmp_path / "e.yml", f"{system}-64").packages for system in ("win", "linux")}
    assert found == {"win": ("a",), "linux": ("b",)}
    assert (
        read_environment_file(tmp_path / "e.yml").packages
        == read_environment_file(tmp_path / "e.yml", current_platform()).packages
        != ()
    )


@pytest.mark.parametrize("name", ["my table", "a/b", "a:b#c", "base", "root", " / "])
def test_the_name_that_is_written_is_one_that_environments_can_have(name: str) -> None:
    """CEP 24: name and prefix."""
    document = YAML(typ="safe").load(write_environment_yml(LOCK.platforms[1], name, ("conda-forge",), {}))
    assert document["name"] and not re.search(r"[/\s:#]", document["name"])
    assert document["name"] not in ("base", "root")


# --- CEP 37 -----------------------------------------------------------------------------------------------------------

CONDA_LOCK = write_conda_lock(LOCK, sources=("a.py",))


def test_a_package_is_for_one_of_the_platforms_of_the_lock() -> None:
    """CEP 37: platform."""
    text = CONDA_LOCK.replace("platform: osx-arm64", "platform: win-64")
    with pytest.raises(MetadataError, match=r"x:\d+: .*win-64, which is not in metadata\.platforms"):
        read_conda_lock(text, "x")


def test_written_files_have_only_the_keys_of_the_standard() -> None:
    """CEP 37: metadata; git_metadata; inputs_metadata; package; hash; source."""
    document = YAML(typ="safe").load(CONDA_LOCK)
    metadata = document["metadata"]
    assert set(metadata) == {
        *("content_hash", "channels", "platforms", "sources", "time_metadata", "custom_metadata"),
    }
    assert list(metadata["time_metadata"]) == ["created_at"]
    assert all(isinstance(value, str) for value in metadata["custom_metadata"].values())
    identities = set()
    for package in document["package"]:
        assert set(package["hash"]) <= {"md5", "sha256"} and package["manager"] in ("conda", "pip")
        assert package["platform"] in metadata["platforms"] and isinstance(package["optional"], bool)
        identities.add(tuple(package[key] for key in ("name", "manager", "platform", "category")))
    assert len(identities) == len(document["package"])


def test_the_hash_of_a_platform_is_that_of_its_packages() -> None:
    """CEP 37: content_hash: other packages have another one, whatever else differs has not."""
    first, second = LOCK.platforms
    changed = LOCK._replace(platforms=(first._replace(conda=first.conda[:1]), second), created=None, custom=())
    before, after = (
        YAML(typ="safe").load(write_conda_lock(lock, sources=("a",)))["metadata"]["content_hash"]
        for lock in (LOCK, changed)
    )
    assert set(before) == {"linux-64", "osx-arm64"} and all(
        re.fullmatch("[0-9a-f]{64}", each) for each in before.values()
    )
    assert before["linux-64"] != after["linux-64"] and before["osx-arm64"] == after["osx-arm64"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("metadata:\n", "metadata:\n  git_metadata: {git_user_name: x, other: y}\n  inputs_metadata: {}\n  more: 1\n"),
        ("    md5: ", "    sha512: ''\n    md5: "),
        ("  category: main\n", "  source: {type: url, url: https://x}\n  build_number: 3\n"),
    ],
)
def test_keys_without_packages_are_ignored(old: str, new: str) -> None:
    """CEP 37: metadata; git_metadata; hash; source; category: left out it is main."""
    text = CONDA_LOCK.replace(old, new, 1)
    assert text != CONDA_LOCK
    assert read_conda_lock(text, "x") == read_conda_lock(CONDA_LOCK, "x")


# --- PEP 440 and 508 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("~=3.11a4", "python 3.*,>=3.11a4"),
        ("==3.11.4+local.1", "python ==3.11.4+local.1"),
        # deviations: what conda has no clause for
        ("==3.11.4", "python ==3.11.4"),
        ("<3.13", "python <3.13"),
        (">3.11", "python >3.11"),
        ("===3.12", "python ==3.12"),
    ],
)
def test_clauses_of_requires_python(text: str, spec: str) -> None:
    """PEP 440: Compatible release; Version matching; Exclusive ordered comparison; Arbitrary equality."""
    assert requires_python_spec(text) == spec


@pytest.mark.parametrize("text", ["~=3", ">=3.11+local", "<=3.11+local", "~=3.11+local", "==3.11.dev1.*", "===any"])
def test_versions_that_pep_440_forbids_are_refused(text: str) -> None:
    """PEP 440: Version specifiers; Compatible release; Arbitrary equality."""
    with pytest.raises(MetadataError, match="PEP 440"):
        requires_python_spec(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("six_", "not a PyPI requirement"),
        ("-six", "option of pip"),
        ("s\u00efx", "not a PyPI requirement"),
        ("six[a b]", "not a PyPI requirement"),
        ("six; no_such == 'x'", "not a PyPI requirement"),
        ("six; sys_platform = 'x'", "not a PyPI requirement"),
        ("six @ ", "not a PyPI requirement"),
    ],
)
def test_invalid_dependency_specifiers_are_refused(text: str, says: str) -> None:
    """PEP 508: Grammar; Names; Extras; Environment markers."""
    with pytest.raises(MetadataError, match=says):
        canonical_requirement(text)


# --- PEP 723 ----------------------------------------------------------------------------------------------------------


def test_blocks_of_other_types_and_tables_of_other_tools_are_left_alone() -> None:
    """PEP 723: Specification; script type."""
    block = "# /// script\n# dependencies = ['six']\n# [tool.ruff]\n# line-length = 100\n# ///\n"
    wanted = read_metadata(script_from_text(block, "/s.py", "s.py")).requirements
    for other in ("# /// other\n# dependencies = ['evil']\n# ///\n", "# /// Script\n# nonsense\n# ///\n"):
        for text in (f"{other}\n{block}", f"{block}\n{other}"):
            assert read_metadata(script_from_text(text, "/s.py", "s.py")).requirements == wanted
    assert wanted.pypi == ("six",) and wanted.packages == ("python",)


@pytest.mark.parametrize(
    "line", ["dependencies = 'six'", "dependencies = ['>=1']", "requires-python = '3.11'", "requires-python = ['>=3']"]
)
def test_keys_of_a_script_block_have_their_form(line: str) -> None:
    """PEP 723: script type."""
    with pytest.raises(MetadataError, match=r"s\.py:2: "):
        read_metadata(script_from_text(f"# /// script\n# {line}\n# ///\n", "/s.py", "s.py"))

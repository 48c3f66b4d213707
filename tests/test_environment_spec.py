"""Promises about what an environment is called, and about the files that ask for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cetool.errors import MetadataError
from cetool.spec.environment import EnvironmentSpec, PypiSettings, Requirements
from cetool.spec.environment_file import read_environment_file

SEED = EnvironmentSpec(packages=("numpy", "python >=3"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_name_is_the_originals_for_plain_specs() -> None:
    assert SEED.name == "ea977067a8fbeb21a594"
    assert EnvironmentSpec.of(Requirements(packages=("python >=3", "numpy", "numpy"))) == SEED


@pytest.mark.parametrize(
    "other",
    [
        Requirements(packages=("python >=3",)),
        Requirements(packages=("python >=3", "numpy"), channels=("bioconda", "conda-forge")),
        Requirements(packages=("python >=3", "numpy"), channels=("bioconda",)),
        Requirements(packages=("python >=3", "numpy"), pypi=("six",)),
        Requirements(packages=("python >=3", "numpy"), variables=(("A", "1"),)),
    ],
)
def test_whatever_else_is_asked_for_changes_the_name(other: Requirements) -> None:
    assert EnvironmentSpec.of(other).name != SEED.name


def test_virtual_packages_change_the_name_and_the_order_of_channels_counts() -> None:
    plain = Requirements(packages=("python >=3", "numpy"))
    assert EnvironmentSpec.of(plain, virtual_packages=(("__cuda", "12"),)).name != SEED.name
    one, two = (EnvironmentSpec.of(plain, default_channels=order) for order in (("a", "b"), ("b", "a")))
    assert one.name != two.name


def test_python_is_added_for_pypi_packages_only_where_missing() -> None:
    assert EnvironmentSpec.of(Requirements(pypi=("six",))).packages == ("python",)
    assert EnvironmentSpec.of(Requirements(("conda-forge::python 3.12.*",), pypi=("six",))).packages == (
        "conda-forge::python 3.12.*",
    )
    assert "python" in EnvironmentSpec.of(Requirements(("python-dateutil",), pypi=("six",))).packages


def test_credentials_take_no_part_and_are_not_stored() -> None:
    def spec(login: str) -> EnvironmentSpec:
        return EnvironmentSpec(
            packages=(f'numpy >=1[channel="https://{login}host/t/{login or "x"}/ch/"]',),
            channels=(f"https://{login}host/channel",),
            pypi=(f"six @ https://{login}host/six.whl",),
            pypi_settings=PypiSettings(index_url=f"https://{login}host/simple"),
        )

    assert spec("user:s3cret@").name == spec("").name
    assert "s3cret" not in json.dumps(spec("user:s3cret@").as_dict())


def test_a_stored_spec_comes_back() -> None:
    spec = EnvironmentSpec(
        packages=("numpy", "python >=3"),
        channels=("a", "b"),
        pypi=("six",),
        pypi_settings=PypiSettings(exclude_newer="2025-01-01", extra_index_urls=("https://h/simple",)),
        variables=(("A", "1"),),
        virtual_packages=(("__cuda", "12"),),
    )
    assert EnvironmentSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


def test_an_environment_file_is_read(tmp_path: Path) -> None:
    text = """
name: anything
channels: [conda-forge, nodefaults, ./local channel]
dependencies:
  - Python>=3
  - numpy
  - pip:
    - Six >=1
variables: {PORT: 8080, MODE: "on"}
prefix: /opt/x
"""
    found = read_environment_file(write(tmp_path / "environment.yml", text))
    assert found.packages == ("python >=3", "numpy")
    assert found.channels == ("conda-forge", (tmp_path / "local channel").as_uri())
    assert found.pypi == ("six>=1",)
    assert found.variables == (("PORT", "8080"), ("MODE", "on"))
    assert [str(each).partition(" ")[0] for each in found.warnings] == [f"{tmp_path / 'environment.yml'}:10:"]


def test_a_list_of_specs_is_read(tmp_path: Path) -> None:
    found = read_environment_file(write(tmp_path / "specs.txt", "# what it needs\n\npython>=3  # any\nnumpy\n"))
    assert EnvironmentSpec.of(found) == SEED


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("e.yml", "dependencies:\n  - a\n  - b >>1\n", 3, "b >>1"),
        ("e.yml", "dependencies:\n  - pip:\n    - -r more.txt\n", 3, "option of pip"),
        ("e.yml", "- a\n", 1, "must be a table"),
        ("e.yaml", "dependencies: &a [x]\n", 1, "anchors"),
        ("e.txt", "numpy\n@EXPLICIT\nhttps://h/x.conda\n", 2, "@EXPLICIT"),
        ("e.txt", "numpy\n-r more.txt\n", 2, "-r more.txt"),
        ("e.txt", "# nothing\n", None, "no packages"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(
    tmp_path: Path, name: str, text: str, line: int | None, says: str
) -> None:
    with pytest.raises(MetadataError) as refused:
        read_environment_file(write(tmp_path / name, text))
    assert refused.value.where is not None and refused.value.where.line == line
    assert says in refused.value.message


def test_a_missing_environment_file_is_not_a_missing_script(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yml", tmp_path):
        with pytest.raises(MetadataError, match="environment file"):
            read_environment_file(path)

"""``cetool list NAME`` and ``cetool tree``: the packages in an environment, and which of them require which."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.cache import builder, ensure, small_store
from support.documents import run_on_terminal
from support.home import Home
from support.scripts import shell_script, told

from cetool.declare.environment import EnvironmentSpec, Solve

#: Name, version, channel or None, and what it requires.
CONDA: tuple[tuple[str, str, str | None, Sequence[str]], ...] = (
    ("python", "3.9.7", "https://conda.anaconda.org/conda-forge", ["openssl >=3.0,<4.0a0", "__glibc >=2.17", "pip"]),
    ("openssl", "3.0.1", "https://conda.anaconda.org/conda-forge", []),
    ("pip", "23.1", "https://repo.anaconda.com/pkgs/main", ["python >=3.7", "setuptools"]),
    ("numpy", "1.26.4", "https://me:sEcReT@example.org/private", ["python >=3.9,<3.10.0a0", "libblas 3.9.* *openblas"]),
    ("libblas", "3.9.0", None, []),
    ("left", "1", None, ["right"]),
    ("right", "1", None, ["left"]),
)
PYPI: tuple[tuple[str, str, Sequence[str]], ...] = (
    ("app", "2.0", ["Lib_One[fast]>=1", "numpy>=1.20", "old; python_version < '3'", "new; python_version >= '3.8'"]),
    ("lib-one", "1.5", ["speedups<9; extra == 'fast'", "docs; extra == 'docs'", "windows; sys_platform == 'win32'"]),
    ("speedups", "8", []),
    ("new", "3", ["this is not a requirement!"]),
)


def furnish(prefix: Path) -> None:
    """Put package records and distributions into an environment, as engines and installers leave them."""
    place = prefix / "lib" / "python3.9" / "site-packages"
    for name, version, channel, depends in CONDA:
        file = f"lib/python3.9/site-packages/{name}-{version}.dist-info/METADATA"
        record = {"name": name, "version": version, "build": "py39_0", "build_number": 0, "depends": list(depends)}
        record |= {"url": f"{channel}/linux-64/{name}.conda"} if channel else {}
        record |= {"files": [file]} if name in ("numpy", "pip") else {"files": []}
        (prefix / "conda-meta" / f"{name}-{version}-py39_0.json").write_text(json.dumps(record))
    for name, version, requires in (*PYPI, ("numpy", "1.26.4", ()), ("pip", "23.1", ())):
        info = place / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = "".join(f"Requires-Dist: {each}\n" for each in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}")


@pytest.fixture
def name(home: Home) -> str:
    """An environment for numpy and app, with all that these require."""
    spec = EnvironmentSpec(Solve(("numpy >=1.20", "python"), ("app",)))
    with ensure(small_store(home.cache), spec, builder(spec)) as lease:
        furnish(lease.prefix)
        return lease.prefix.name


def test_list_shows_the_packages_of_an_environment(name: str, home: Home) -> None:
    done = home.cetool("list", name[:8])
    lines = done.stdout.splitlines()
    assert (done.stderr, lines[0].split()) == ("", ["NAME", "VERSION", "BUILD", "CHANNEL"])
    assert [line.split() for line in lines[1:-1]] == [
        ["app", "2.0", "-", "PyPI"],
        ["left", "1", "py39_0", "-"],
        ["lib-one", "1.5", "-", "PyPI"],
        ["libblas", "3.9.0", "py39_0", "-"],
        ["new", "3", "-", "PyPI"],
        ["numpy", "1.26.4", "py39_0", "https://example.org/private"],
        ["openssl", "3.0.1", "py39_0", "conda-forge"],
        ["pip", "23.1", "py39_0", "pkgs/main"],
        ["python", "3.9.7", "py39_0", "conda-forge"],
        ["right", "1", "py39_0", "-"],
        ["speedups", "8", "-", "PyPI"],
    ]
    assert lines[-1] == f"11 packages, 4 of them from PyPI, in {name}"
    assert "sEcReT" not in done.stdout


def test_packages_fit_narrow_terminals(name: str, home: Home) -> None:
    for width in (40, 60):
        status, shown = run_on_terminal(f"COLUMNS={width} CETOOL_CACHE_DIR={home.cache} cetool list {name[:8]}", home)
        lines = shown.splitlines()
        assert status == 0 and len(lines) == 13 and max(map(cell_len, lines[:-1])) <= width


def test_packages_as_json(name: str, home: Home) -> None:
    found = json.loads(home.cetool("list", name, "--json").stdout)
    rows = {row["name"]: row for row in found["packages"]}
    assert (found["schema"], found["name"], found["base"]) == ("cetool.packages/1", name, None)
    assert rows["openssl"] == {
        "name": "openssl",
        "version": "3.0.1",
        "build": "py39_0",
        "channel": "conda-forge",
        "kind": "conda",
        "layer": None,
        "hidden": False,
    }
    assert (rows["app"]["kind"], rows["app"]["build"], rows["app"]["channel"]) == ("pypi", None, None)


TREE = """\
numpy 1.26.4
├── libblas 3.9.0 (3.9.* *openblas)
└── python 3.9.7 (>=3.9,<3.10.0a0)
    ├── openssl 3.0.1 (>=3.0,<4.0a0)
    └── pip 23.1
        ├── python 3.9.7 (>=3.7) (*)
        └── setuptools (not installed)
python 3.9.7 (*)
app 2.0 (PyPI)
├── lib-one 1.5 (PyPI, [fast]>=1)
│   └── speedups 8 (PyPI, <9)
├── new 3 (PyPI)
└── numpy 1.26.4 (>=1.20) (*)
left 1
└── right 1
    └── left 1 (*)
(*) shown above
"""


def test_tree_shows_what_requires_what(name: str, home: Home) -> None:
    done = home.cetool("tree", name[:8])
    assert (done.stdout, done.stderr, done.returncode) == (TREE, "", 0)


def test_tree_has_no_lines_that_the_terminal_cannot_show(name: str, home: Home) -> None:
    done = home.cetool("tree", name, "--depth", "1", env={"PYTHONIOENCODING": "ascii"})
    assert done.stdout.splitlines()[:3] == [
        "numpy 1.26.4",
        "+-- libblas 3.9.0 (3.9.* *openblas)",
        "`-- python 3.9.7 (>=3.9,<3.10.0a0)",
    ]
    assert "setuptools" not in done.stdout
    assert home.cetool("tree", name, "--depth", "0").stdout.splitlines()[:2] == ["numpy 1.26.4", "python 3.9.7"]


def test_tree_inverted_shows_what_requires_a_package(name: str, home: Home) -> None:
    assert home.cetool("tree", name, "--invert", "Speedups").stdout == (
        "speedups 8 (PyPI)\n└── lib-one 1.5 (PyPI, <9)\n    └── app 2.0 (PyPI, [fast]>=1)\n"
    )
    assert home.cetool("tree", name, "--invert", "numpy").stdout == "numpy 1.26.4\n└── app 2.0 (PyPI, >=1.20)\n"
    found = json.loads(home.cetool("tree", name, "--invert", "speedups", "--json").stdout)
    assert found["roots"] == ["pypi:speedups"]
    assert [row["id"] for row in found["packages"]] == ["pypi:app", "pypi:lib-one", "pypi:speedups"]
    assert {(row["package"], row["requires"]) for row in found["requirements"]} == {
        ("pypi:app", "pypi:lib-one"),
        ("pypi:lib-one", "pypi:speedups"),
    }


def test_tree_suggests_a_package(name: str, home: Home) -> None:
    done = home.cetool("tree", name, "--invert", "nunpy")
    assert done.returncode == 125
    assert told(done.stderr) == [
        f"cetool: the environment {name} has no package 'nunpy'",
        "Did you mean 'numpy'?",
    ]
    assert "lists the packages" in home.cetool("tree", name, "--invert", "zzzzzz").stderr


def test_a_broken_package_record_is_reported_and_the_others_are_shown(name: str, home: Home) -> None:
    record = home.cache / "envs" / name / "conda-meta" / "openssl-3.0.1-py39_0.json"
    record.write_text("{")
    done = home.cetool("tree", name, "--depth", "1")
    assert done.returncode == 0 and f"warning: the package record {record} cannot be read" in done.stderr
    assert "├── libblas" in done.stdout


def test_tree_reads_requirements_in_all_forms_that_records_have(name: str, home: Home) -> None:
    (path,) = (home.cache / "envs" / name / "conda-meta").glob("libblas-*")
    depends = ["openssl>=3.0", "conda-forge::left[version='>=1']", "pip=23"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"depends": depends}))
    document = json.loads(home.cetool("tree", "--json", name).stdout)
    found = [(each["requires"], each["spec"]) for each in document["requirements"] if each["package"] == "libblas"]
    assert found == [("left", "[version='>=1']"), ("openssl", ">=3.0"), ("pip", "=23")]


def test_an_environment_that_does_not_exist_yet(home: Home) -> None:
    script = home.write("new.sh", shell_script("true", env="never-made"))
    for command in ("list", "tree"):
        done = home.cetool(command, script)
        assert done.returncode == 125 and done.stdout == ""
        assert f"the environment of {script} does not exist yet" in done.stderr
        assert f"`cetool run {script}`" in done.stderr
        assert "there is no environment or script called 'nonesuch.py'" in home.cetool(command, "nonesuch.py").stderr
        assert "there is no environment called" in home.cetool(command, "0" * 20).stderr

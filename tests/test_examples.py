"""Every example runs for real, out of the local channel."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.channel import Channel
from support.home import Home

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@dataclass(frozen=True)
class Run:
    """An example's file, arguments, the pattern of what it prints, and a package that not every machine can give."""

    name: str
    args: tuple[str, ...]
    printed: str
    package: str | None = None


RUNS = (
    Run("poisson.py", (), r"\[( ?\d+){5}\]\n"),
    Run("random_numbers.py", ("3",), r"\[( *-?\d+\.\d+){3} *\]\n"),
    Run("execute_directly.py", (), r"numpy \d\S+ in /.*/[0-9a-f]{20}\n"),
    Run("table.py", (), r"distribution .*\n(-+ *)+\nnormal .*\nuniform .*\nPoisson .*\n"),
    Run("count_words.sh", ("words.txt",), r"     2 the\n     1 cat\n     1 hat\n     1 in\n", "bash"),
    Run("regression.R", (), r"slope [12]\.\d\d, intercept [01]\.\d\d\n", "r-base"),
    Run("pi.cpp", ("10000",), r"pi is about 3\.\d+\n", "gxx"),
    Run("primes.js", ("12",), r"2 3 5 7 11\n", "nodejs"),
)


@pytest.fixture
def examples(home: Home) -> Path:
    """A copy of the examples in the test's home."""
    (home.path / "words.txt").write_text("The cat in the hat\n", encoding="utf-8")
    return shutil.copytree(EXAMPLES, home.path / "examples")


@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
def test_example(run: Run, examples: Path, home: Home, local_channel: Channel) -> None:
    if run.package is not None and not local_channel.has(run.package):
        pytest.skip(f"this machine has no program that the test channel's {run.package} could wrap")
    done = home.cetool("run", examples / run.name, *run.args)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(run.printed, done.stdout), done.stdout


@pytest.mark.parametrize("name", ["random_numbers.py", "execute_directly.py"])
def test_example_with_a_cetool_shebang_runs_by_itself(name: str, examples: Path, home: Home) -> None:
    done = home.run(examples / name)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_make_example_runs_as_a_makefile(examples: Path, home: Home) -> None:
    assert "{html,publish,reload}" in home.run(examples / "make.py", "--help").stdout
    done = home.run(examples / "make.py", "--output", "site", "publish")
    assert done.returncode == 0, done.stderr
    assert "<em>written</em>" in (home.path / "site/index.html").read_text(encoding="utf-8")
    assert zipfile.ZipFile(home.path / "site/site.zip").namelist() == ["index.html"]


def test_every_example_is_listed_and_run() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert files == {run.name for run in RUNS} | {"make.py"}
    listed = re.findall(r"^\| `([^`]+)` \|", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(files) == sorted(listed)
    shebangs = {path.name for path in EXAMPLES.iterdir() if path.is_file() and path.read_bytes().startswith(b"#!")}
    assert shebangs == {name for name in files if os.access(EXAMPLES / name, os.X_OK)}

"""What users, cleaners or power cuts remove from environments and package caches is detected and made again."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import install_fakes
from support.home import Home
from support.scripts import assert_nothing_half_made, environments, shell_script, told, unconfirmed
from support.warm import learn

from cetool.engines.linked import remove_refused

pytestmark = pytest.mark.skipif(os.name == "nt", reason="environments as POSIX has them")

#: conda 26.7's message about an incomplete package.
REFUSED = """\
SafetyError: The package for bigpkg located at {0}
appears to be corrupted. The path 'share/bigpkg/noise.bin'
has an incorrect size.


CondaVerificationError: The package for bigpkg located at {0}
appears to be corrupted. The path 'share/bigpkg/other'
specified in the package manifest cannot be found.
"""


@pytest.fixture
def python_script(home: Home) -> Iterator[Path]:
    """A shell script in an environment with python, run often enough to be warm."""
    script = home.write("python.sh", shell_script("python -c 'import six' && hello", "hello-bin, python, six"))
    learn(home, script)
    learn(home, script)
    yield script


def test_a_damaged_environment_is_made_again(home: Home, python_script: Path) -> None:
    """After warm runs, which check almost nothing: the next run detects it, says so in a line, and works."""
    [name] = environments(home)
    prefix = home.cache / "envs" / name
    record = next((prefix / "conda-meta").glob("six-*.json")).name
    for lost, words in (
        (f"conda-meta/{record}", r"1 of its \d+ package records is missing"),
        ("bin/python", "its bin/python is missing"),
        ("conda-meta/cetool", None),
        ("conda-meta", None),
        ("", None),
    ):
        target = prefix / lost
        shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()
        done = home.cetool(python_script)
        assert (done.returncode, done.stdout) == (0, f"hello from {prefix}\n"), (lost, done.stderr)
        lines = unconfirmed(done.stderr).splitlines()
        if words:
            assert len(lines) == 1 and re.search(
                rf"environment {name} is damaged \({words}\); re-creating it", lines[0]
            )
        else:
            assert lines == []
        learn(home, python_script)
    assert_nothing_half_made(home)


def test_a_removed_package_cache_is_filled_again(home: Home, python_script: Path) -> None:
    """Environments share files with it, which stay; missing ones are downloaded again."""
    [name] = environments(home)
    packages = home.cache / "pkgs"
    assert any(path.stat().st_nlink > 1 for path in (home.cache / "envs" / name).rglob("six*") if path.is_file())
    shutil.rmtree(packages)
    done = home.cetool(python_script)
    assert (done.returncode, unconfirmed(done.stderr)) == (0, ""), unconfirmed(done.stderr)
    assert home.cetool("create", "six", "idna").returncode == 0
    done = home.cetool("run", "--refresh", python_script)
    assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
    # missing files, as after a cleaner of old files, and truncated ones, as after a power cut
    for number, path in enumerate(sorted(path for path in packages.rglob("*") if path.is_file())):
        if number % 3 == 1:
            path.unlink()
        elif number % 3 == 2:
            data = path.read_bytes()
            path.unlink()  # the environments' own files stay
            path.write_bytes(data[: len(data) // 2 // 4096 * 4096])
    done = home.cetool("run", "--refresh", python_script)
    assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
    assert_nothing_half_made(home)


def test_truncated_packages_are_detected(home: Home, python_script: Path) -> None:
    """The embedded engine downloads them again; for another package cache the message says what is wrong."""
    (cached,) = (home.cache / "pkgs").rglob("six.py")
    for engine in ("rattler", "micromamba"):
        if engine != "rattler":
            install_fakes(home.bin, engine)
            assert home.cetool("create", "--engine", engine, "six").returncode == 0
            (cached,) = (home.path / ".fake-engine").rglob("six.py")
        cached.unlink()
        cached.touch()
        done = home.cetool("run", "--refresh", "--engine", engine, python_script)
        if engine == "rattler":
            assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
            assert cached.stat().st_size
        else:
            assert done.returncode == 125
            lines = told(done.stderr)
            assert "is damaged: files of six-" in lines[0] and "Remove" in lines[1]
            shutil.rmtree(cached.parents[1])
            assert home.cetool("run", "--refresh", "--engine", engine, python_script).returncode == 0
    assert_nothing_half_made(home)


def test_a_package_that_conda_refuses_is_removed_from_its_cache(tmp_path: Path) -> None:
    package = tmp_path / "pkgs" / "bigpkg-1.0-0"
    words = REFUSED.format(package)
    (package / "info").mkdir(parents=True)
    (package / "info" / "index.json").write_text("{}")
    paths = [{"_path": "share/noise.bin", "size_in_bytes": 3}]
    (package / "info" / "paths.json").write_text(json.dumps({"paths": paths}))
    assert remove_refused(words) == [], "it is in no package cache"
    (package.parent / "urls.txt").touch()
    assert remove_refused(words.replace("bigpkg-1.0", "other-1.0")) == []
    (package / "share").mkdir()
    (package / "share" / "noise.bin").write_text("abc")
    assert remove_refused(words) == [], "it is complete again"
    (package / "share" / "noise.bin").unlink()
    assert remove_refused(words) == [package.name]
    assert sorted(path.name for path in package.parent.iterdir()) == ["urls.txt"]


@pytest.mark.real_conda
def test_a_real_conda_recovers_from_a_half_unpacked_package(home: Home, real_conda: str) -> None:
    env = {"CETOOL_ENGINE": "conda", "CONDA_EXE": real_conda, "CONDA_PKGS_DIRS": str(home.path / "pkgs")}
    assert home.cetool("create", "many-files", env=env).returncode == 0
    assert home.cetool("gc", "--all").returncode == 0
    half = home.path / "pkgs" / "many-files-1.0-0" / "share" / "many-files"
    for path in sorted(half.iterdir())[200:]:
        path.unlink()
    done = home.cetool("create", "-v", "many-files", env=env)
    assert done.returncode == 0, done.stderr
    assert "many-files-1.0-0" in done.stderr
    assert len(list(half.iterdir())) == 400
    assert not list((home.path / "pkgs").glob(".damaged-*"))

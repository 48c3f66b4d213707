"""What a stranger stumbled over: mistakes that are told of clearly, and a conda that was killed while it unpacked."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import tomli
from support.home import Home
from support.readme import run_on_terminal
from support.scripts import FIVE_NUMBERS, SEEDS, SEEDS_NAME, told

from cetool.engines import linked as extracted
from cetool.engines.linked import remove_refused

ROOT = Path(__file__).resolve().parents[1]
#: What conda 26.7 says of a package that is not whole.
REFUSED = """\
SafetyError: The package for bigpkg located at {0}
appears to be corrupted. The path 'share/bigpkg/noise.bin'
has an incorrect size.


CondaVerificationError: The package for bigpkg located at {0}
appears to be corrupted. The path 'share/bigpkg/other'
specified in the package manifest cannot be found.
"""


@pytest.mark.parametrize(
    ("text", "line", "advice"),
    [
        ("# conda execute\n# enviroment: [python]\n", 2, "Did you mean 'env'?"),
        ("#conda execute\n# env: [python]\n", 1, "has to be '# conda execute'"),
        ("\n// conda-execute\n", 2, "has to be '// conda execute'"),
        ("# /// conda_script\n", 1, "has to be '# /// conda-script'"),
        ("# /// script\n# dependencies = []\nprint()\n", 1, "opens a block that is never closed"),
        (
            "# /// conda-script\n# channels = ['c']\n# entrypoint = 'python | cat'\n# /// end-conda-script\n",
            3,
            "Put the command into the script",
        ),
    ],
)
def test_a_mistake_has_its_line_and_the_way_out(settled: Home, text: str, line: int, advice: str) -> None:
    script = settled.write("mistake.py", text)
    for command in ("run", "show"):
        done = settled.cetool(command, script)
        assert (done.returncode, done.stdout) == (125, "")
        assert f"{script}:{line}: " in told(done.stderr)[0]
        assert advice in done.stderr


def test_words_that_were_meant_otherwise(settled: Home) -> None:
    for words, status, advice in (
        (("",), 127, "its path is empty"),
        (("help",), 127, "`cetool --help`"),
        (("create", "--file", str(settled.path)), 125, "this is a directory, not an environment file"),
    ):
        done = settled.cetool(*words)
        assert (done.returncode, done.stdout) == (status, "")
        assert advice in "\n".join(told(done.stderr))
    done = settled.cetool("name", "missing.py")
    assert "there is no file 'missing.py', so it was taken for a package" in done.stderr


def test_a_name_stays_in_one_piece_on_a_narrow_terminal(settled: Home) -> None:
    status, _ = run_on_terminal("cetool create hello-bin activated activation-noise postlink", settled)
    assert status == 0
    name = Path(settled.cetool("name", "hello-bin", "activated", "activation-noise", "postlink").stdout.strip()).name
    status, shown = run_on_terminal("stty cols 80 < /dev/tty 2>/dev/null; COLUMNS=80 cetool list", settled)
    assert status == 0 and name in shown, shown


def test_a_package_that_conda_refuses_leaves_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracted, "_STILL", 0.05)
    package = tmp_path / "pkgs" / "bigpkg-1.0-0"
    words = REFUSED.format(package)
    (package / "info").mkdir(parents=True)
    (package / "info" / "index.json").write_text("{}")
    paths = [{"_path": "share/noise.bin", "size_in_bytes": 3}]
    (package / "info" / "paths.json").write_text(json.dumps({"paths": paths}))
    assert remove_refused(words) == [], "it lies in no package cache"
    (package.parent / "urls.txt").touch()
    assert remove_refused(words.replace("bigpkg-1.0", "other-1.0")) == []
    (package / "share").mkdir()
    (package / "share" / "noise.bin").write_text("abc")
    assert remove_refused(words) == [], "it is whole by now"
    (package / "share" / "noise.bin").unlink()
    assert remove_refused(words) == [package.name]
    assert sorted(path.name for path in package.parent.iterdir()) == ["urls.txt"]


@pytest.mark.real_conda
def test_a_real_conda_recovers_from_what_was_half_unpacked(home: Home, real_conda: str) -> None:
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


@pytest.mark.real_conda
def test_a_real_conda_has_the_commands(settled: Home, real_conda: str, tmp_path: Path) -> None:
    """From 26.3 on it runs plugins only: what an installation in its Python does, a path and metadata do here."""
    told_version = json.loads(settled.run(real_conda, "info", "--json").stdout)["python_version"]
    if not told_version.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}."):
        pytest.skip("conda's Python cannot import what this one can")
    declared = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["conda"]
    metadata = tmp_path / "cetool_as_plugin-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: cetool-as-plugin\nVersion: 0\n")
    lines = [f"{name} = {module}" for name, module in declared.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[conda]", *lines, ""]))
    env: dict[str, str | None] = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, sys.path)])}
    script = settled.write("seeds.py", SEEDS)
    settled.cetool("create", "python >=3", "numpy")
    done = settled.run(real_conda, "execute", "-v", script, env=env)
    assert done.returncode == 0, done.stderr
    assert f"{settled.cache}/envs/{SEEDS_NAME}" in done.stderr
    assert re.fullmatch(FIVE_NUMBERS, done.stdout)
    assert settled.run(real_conda, "execute", "missing.py", env=env).returncode == 127
    assert SEEDS_NAME in settled.run(real_conda, "tmpenv", "list", env=env).stdout
    assert settled.run(real_conda, "tmpenv", "name", "python >=3", "numpy", env=env).stdout.endswith(f"{SEEDS_NAME}\n")

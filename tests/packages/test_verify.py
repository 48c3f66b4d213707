"""``cetool verify`` finds differences between an environment and its packages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uv
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.scripts import shell_script, told

SCRIPT = """\
# /// script
# requires-python = ">=3"
# dependencies = ["tabulate==0.9.0"]
# [tool.conda]
# dependencies = ["six", "postlink", "activated", "shared-lib"]
# ///
import six, tabulate
print(tabulate.__version__)
"""


@pytest.fixture
def copying(local_channel: Channel, tmp_path: Path) -> Iterator[Home]:
    """A home where uv copies files: a test's changes to an environment must not affect the shared cache."""
    made = make_home(Path(os.path.realpath(tmp_path)) / "home", local_channel)
    made.env["UV_LINK_MODE"] = "copy"
    yield made
    remove_home(made)


def prefix_of(home: Home, script: str) -> Path:
    """Return the environment of a script."""
    return Path(home.cetool("name", script).stdout.strip())


def differences(home: Home, *targets: str | os.PathLike[str]) -> list[tuple[str, str, str | None]]:
    """Return what ``verify --json`` finds: paths, states and packages, after checking the exit status."""
    done = home.cetool("verify", "--json", *targets)
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if document["intact"] else 1), done.stderr
    assert document["intact"] is not bool(document["differences"])
    return [(each["path"], each["state"], each["package"]) for each in document["differences"]]


def write_anew(path: Path, data: bytes) -> None:
    """Replace the content of the file, but not of its hard link in the package cache."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)


def check_each_kind_of_difference(home: Home, env: dict[str, str]) -> None:
    """Make an environment, use it, and change it in every way that must be reported."""
    home.write("table.py", SCRIPT)
    assert home.cetool("run", "table.py", env=env).stdout == "0.9.0\n"
    assert home.cetool("run", "table.py", env=env).stdout == "0.9.0\n"  # Python has compiled what it imported
    prefix = prefix_of(home, "table.py")
    assert (prefix / "postlink.txt").exists()
    done = home.cetool("verify", "table.py")
    assert (done.returncode, done.stderr) == (0, "") and f"{prefix.name}: intact (" in done.stdout
    verbose = home.cetool("verify", "-v", "table.py").stdout
    assert "  made     postlink.txt" in verbose and ".pyc" in verbose

    (site,) = prefix.glob("lib/python3*/site-packages")
    below = site.relative_to(prefix).as_posix()
    write_anew(site / "six.py", (site / "six.py").read_bytes() + b"\n")
    (site / "six-1.17.0.dist-info/LICENSE").unlink()
    (site / "sitecustomize.py").write_text("print('added')\n")
    write_anew(site / "tabulate/__init__.py", b"# nothing\n")
    (prefix / "bin/tabulate").unlink()
    found = differences(home, "table.py")
    states = {path: (state, package) for path, state, package in found}
    assert states[f"{below}/six.py"] == ("changed", "six-1.17.0-pyh_0")
    assert states[f"{below}/sitecustomize.py"] == ("added", None)
    assert states["bin/tabulate"] == ("removed", "tabulate 0.9.0 (PyPI)")
    assert states[f"{below}/tabulate/__init__.py"] == ("changed", "tabulate 0.9.0 (PyPI)")
    assert states[f"{below}/six-1.17.0.dist-info/LICENSE"] == ("removed", "six-1.17.0-pyh_0")
    assert len(found) == 5, found
    done = home.cetool("verify", prefix)
    assert done.returncode == 1 and f"{prefix.name}: " in done.stdout and "cetool run --refresh" in done.stderr
    assert f"  changed  {below}/six.py  six-1.17.0-pyh_0" in done.stdout
    assert home.cetool("run", "--refresh", "table.py", env=env).returncode == 0
    assert differences(home, "table.py") == []


def test_verify_finds_each_kind_of_difference(copying: Home) -> None:
    check_each_kind_of_difference(copying, {})


@pytest.mark.real_conda
def test_verify_checks_an_environment_of_conda(copying: Home, real_conda: str) -> None:
    check_each_kind_of_difference(copying, {"CONDA_EXE": real_conda, "CETOOL_ENGINE": "conda"})


def test_verify_finds_added_and_removed_packages(copying: Home) -> None:
    copying.write("table.py", SCRIPT)
    assert copying.cetool("run", "table.py").returncode == 0
    prefix = prefix_of(copying, "table.py")
    (site,) = prefix.glob("lib/python3*/site-packages")
    below = site.relative_to(prefix).as_posix()
    (record,) = prefix.glob("conda-meta/activated-*.json")
    record.unlink()
    six = prefix / "conda-meta/six-1.17.0-pyh_0.json"
    text = six.read_text()
    six.write_text(text.replace('"name"', ' "name"', 1))
    python = str(prefix / "bin/python")
    _uv(copying, "uninstall", "--python", python, "tabulate")
    found = differences(copying, prefix.name)
    assert (f"conda-meta/{record.name}", "removed", record.stem) in found
    assert ("conda-meta/six-1.17.0-pyh_0.json", "changed", "six-1.17.0-pyh_0") in found
    assert ("tabulate-0.9.0.dist-info", "removed", "tabulate 0.9.0 (PyPI)") in found
    _uv(copying, "install", "--python", python, "idna==3.10")
    found = differences(copying, prefix.name)
    assert (f"{below}/idna-3.10.dist-info", "added", "idna 3.10 (PyPI)") in found
    six.write_text(text[:-20])
    assert differences(copying, prefix.name) == [("conda-meta/six-1.17.0-pyh_0.json", "changed", None)]


def _uv(home: Home, command: str, *words: str) -> None:
    done = home.run(uv.find_uv_bin(), "pip", command, "--break-system-packages", *words)
    assert done.returncode == 0, done.stderr


def test_verify_checks_all_environments_and_the_package_cache(home: Home) -> None:
    assert home.cetool("verify").returncode == 0
    home.write("a.sh", shell_script("true", env="six"))
    home.write("b.sh", shell_script("true", env="six, activated"))
    home.write("c.sh", shell_script("true", env="activated"))
    for name in "abc":
        assert home.cetool("run", f"{name}.sh").returncode == 0
    done = home.cetool("verify")
    assert done.returncode == 0 and done.stdout.endswith(": 3 intact, 0 not\n") and done.stderr == ""
    (path,) = prefix_of(home, "a.sh").glob("lib/python3*/site-packages/six.py")
    with path.open("a") as file:  # in place: the file is hard-linked to the package cache and the other environment
        file.write("# damaged\n")
    done = home.cetool("verify")
    assert done.returncode == 1 and done.stdout.endswith(": 1 intact, 2 not\n")
    assert "the package cache has damaged files too" in done.stderr
    cached = done.stderr.partition("remove ")[2].splitlines()[0]
    assert Path(cached).name == "six-1.17.0-pyh_0" and (Path(cached) / "info").is_dir()
    done = home.cetool("verify", "a.sh", "c.sh")
    assert (done.returncode == 1 and done.stdout.endswith("2 environments, 1768 files: 1 intact, 1 not\n")) or (
        ": 1 intact, 1 not\n" in done.stdout
    )
    assert home.cetool("verify", "-q", "c.sh").stdout == ""


def test_verify_reports_what_it_cannot_check(settled: Home) -> None:
    settled.write("unmade.sh", shell_script("true", env="bigpkg, hello-bin"))
    for target in ("unmade.sh", "0123456789abcdef0123", "nowhere"):
        done = settled.cetool("verify", target)
        assert done.returncode == 125 and "there is no environment" in told(done.stderr)[0]

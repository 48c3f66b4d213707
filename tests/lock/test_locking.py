"""``cetool lock``: what it solves, keeps and writes, and that files are written atomically."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from rattler.lock import LockFile
from ruamel.yaml import YAML
from support.home import Home
from support.locks import make_channel
from support.scripts import bound_by_modes

from cetool.declare.metadata import read_metadata
from cetool.declare.source import read_script
from cetool.lock.find import find_lock, open_lock
from cetool.lock.model import Lock

SCRIPT = """#!/usr/bin/env python
# conda execute
# channels: [./channel, nodefaults]
# env: [tool]
print()
"""


@pytest.fixture
def here(home: Home) -> Home:
    """A home with a script and, next to it, the script's channel."""
    make_channel(home.path / "channel")
    home.write("a.py", SCRIPT)
    return home


def locked(home: Home, *arguments: str, status: int = 0, **more: Any) -> subprocess.CompletedProcess[str]:
    done = home.cetool("lock", *arguments, **more)
    assert done.returncode == status, done.stderr
    return done


def versions(lock: Lock, platform: str) -> dict[str, str]:
    found = lock.platform(platform)
    assert found is not None
    conda = {package.name: package.version for package in found.conda}
    return conda | {package.name: package.version for package in found.pypi}


def lock_of(home: Home, name: str = "a.py.conda-lock.yml") -> Lock:
    return open_lock(home.path / name).lock


def test_a_written_lock_follows_the_standard(here: Home) -> None:
    """CEP 37: Specification; channels; platforms; sources; time_metadata."""
    locked(here, "a.py", "--platform", "linux-64", "osx-arm64")
    text = (here.path / "a.py.conda-lock.yml").read_text(encoding="utf-8")
    document = YAML(typ="safe").load(text)
    assert list(document) == ["version", "metadata", "package"] and document["version"] == 1
    metadata = document["metadata"]
    assert set(metadata) == {
        *("content_hash", "channels", "platforms", "sources"),
        *("time_metadata", "custom_metadata"),
    }
    assert metadata["platforms"] == ["linux-64", "osx-arm64"] == list(metadata["content_hash"])
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in metadata["content_hash"].values())
    assert metadata["channels"] == [{"url": (here.path / "channel").as_uri(), "used_env_vars": []}]
    assert metadata["sources"] == ["a.py"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["time_metadata"]["created_at"])
    requirements = read_metadata(read_script(here.path / "a.py")).requirements
    assert metadata["custom_metadata"] == {"cetool_request": requirements.digest, "created_by": "cetool"}
    required = {"name", "version", "manager", "platform", "dependencies", "url", "hash", "category", "optional"}
    for package in document["package"]:
        assert set(package) == required and set(package["hash"]) == {"md5", "sha256"}
        assert all(isinstance(package[key], str) for key in required - {"dependencies", "hash", "optional"})
    mac = [package for package in document["package"] if package["platform"] == "osx-arm64"]
    assert [package["name"] for package in mac] == ["lib", "tool"], "what is needed comes first"
    assert mac[1]["dependencies"] == {"__osx": ">=11", "lib": ""} and "/osx-arm64/tool-2-" in mac[1]["url"]


def test_each_platform_has_its_usual_virtual_packages(here: Home) -> None:
    locked(here, "a.py", "--platform", "win-64", "--platform", "osx-arm64", "--platform", "linux-64")
    assert [each.platform for each in lock_of(here).platforms] == ["linux-64", "osx-arm64", "win-64"]
    here.write("cuda.py", SCRIPT.replace("tool", "needs-cuda"))
    refused = locked(here, "cuda.py", "--platform", "win-64", status=125)
    assert "for win-64:" in refused.stderr and "__cuda" in refused.stderr
    assert not (here.path / "cuda.py.conda-lock.yml").exists()
    locked(here, "cuda.py", "--platform", "win-64", "--virtual-package", "__cuda=12.4")
    locked(here, "cuda.py", "--update", "--platform", "osx-arm64", env={"CONDA_OVERRIDE_CUDA": "12.1"})
    old = locked(here, "a.py", "--platform", "osx-arm64", "--update", status=125, env={"CONDA_OVERRIDE_OSX": "10.9"})
    assert "__osx" in old.stderr
    # overrides for one system have no effect on another
    locked(here, "a.py", "--platform", "win-64", "--update", env={"CONDA_OVERRIDE_OSX": "10.9"})


def test_tables_for_platforms_apply_to_their_platform(here: Home) -> None:
    channel = (here.path / "channel").as_uri()
    table = (
        f'# [tool.pixi.workspace]\n# channels = ["{channel}"]\n# [tool.pixi.target.osx.dependencies]\n# tool = "1.*"\n'
    )
    here.write("p.py", f"# /// script\n{table}# [tool.pixi.target.win.dependencies]\n# lib = '1.*'\n# ///\n")
    locked(here, "p.py", "--platform", "win-64", "osx-arm64")
    lock = lock_of(here, "p.py.conda-lock.yml")
    assert versions(lock, "osx-arm64") == {"python": "3.11.7", "tool": "1", "lib": "2"}
    assert versions(lock, "win-64") == {"python": "3.11.7", "lib": "1"}
    assert len({each.request for each in lock.platforms}) == 2
    assert locked(here, "p.py", "--check").returncode == 0


def test_locked_packages_stay_until_updated(here: Home) -> None:
    script = here.path / "a.py"
    script.write_text(SCRIPT.replace("[tool]", "[tool 1.*, lib 1.*]"), encoding="utf-8")
    locked(here, "a.py")
    before = (here.path / "a.py.conda-lock.yml").read_bytes()
    assert "up to date" in locked(here, "a.py").stderr
    assert (here.path / "a.py.conda-lock.yml").read_bytes() == before
    script.write_text(SCRIPT, encoding="utf-8")
    assert "the lock is outdated" in locked(here, "a.py", "--check", status=1).stderr
    assert (here.path / "a.py.conda-lock.yml").read_bytes() == before
    locked(here, "a.py")
    assert versions(lock_of(here), "linux-64") == {"tool": "1", "lib": "1"}, "they still fit"
    locked(here, "a.py", "--check")
    locked(here, "a.py", "--check", "--update", status=1)
    assert "no package tol" in locked(here, "--update", "a.py", "tol").stderr
    locked(here, "a.py", "--update", "lib")
    assert versions(lock_of(here), "linux-64") == {"tool": "1", "lib": "2"}
    locked(here, "--update", "a.py")
    assert versions(lock_of(here), "linux-64") == {"tool": "2", "lib": "2"}
    kept = (here.path / "a.py.conda-lock.yml").read_bytes()
    locked(here, "a.py", "--update", "-P", "lib")
    assert (here.path / "a.py.conda-lock.yml").read_bytes() == kept, "the time of its making stays, too"


def test_platforms_stay_unless_others_are_given(here: Home) -> None:
    locked(here, "a.py", "--platform", "win-64", "--platform", "linux-64")
    (here.path / "a.py").write_text(SCRIPT.replace("[tool]", "[tool, lib]"), encoding="utf-8")
    locked(here, "a.py")
    assert [each.platform for each in lock_of(here).platforms] == ["linux-64", "win-64"]
    gone = locked(here, "a.py", "--platform", "win-64")
    assert "linux-64 is no longer in" in gone.stderr
    assert [each.platform for each in lock_of(here).platforms] == ["win-64"]
    assert locked(here, "a.py", "--platform", "osx", status=2).stderr.count("osx-64") == 1


def test_packages_published_later_are_ignored(here: Home) -> None:
    locked(here, "a.py", "--exclude-newer", "2020-09-13")  # the day of 1,600,000,000
    assert versions(lock_of(here), "linux-64")["tool"] == "1"
    assert dict(lock_of(here).custom) == {"cetool_exclude_newer": "2020-09-13T23:59:59Z"}
    too_early = locked(here, "a.py", "--exclude-newer", "2020-09-13T12:26:39Z", status=125)
    assert "exclude-newer" in too_early.stderr
    locked(here, "a.py", "--exclude-newer", "2020-09-13T14:26:40+02:00")
    assert locked(here, "a.py", "--exclude-newer", "2020-13-01", status=2).stderr.startswith("cetool: '2020-13-01'")


def test_a_span_is_locked_as_the_moment_that_it_meant(here: Home) -> None:
    locked(here, "a.py", "--exclude-newer", "7d")
    ((key, moment),) = lock_of(here).custom
    assert key == "cetool_exclude_newer" and moment.endswith("Z") and moment < datetime.now(timezone.utc).isoformat()
    path = here.path / "a.py.conda-lock.yml"
    path.write_text(path.read_text(encoding="utf-8").replace(moment, "2026-01-01T00:00:00Z"), encoding="utf-8")
    # nothing but the moment would change
    assert "up to date" in locked(here, "a.py", "--exclude-newer", "7d").stderr
    assert dict(lock_of(here).custom) == {"cetool_exclude_newer": "2026-01-01T00:00:00Z"}
    assert locked(here, "a.py", "--check", "--exclude-newer", "1 week").returncode == 0


def test_the_time_and_the_platform_of_a_lock_of_another_tool_are_read(here: Home) -> None:
    """A lock of conda-lock has no digest of the request: its packages are preferred, and it is rewritten."""
    locked(here, "a.py", "--exclude-newer", "2020-09-13")
    path = here.path / "a.py.conda-lock.yml"
    foreign = re.sub(r"  custom_metadata:\n(?:    .*\n)+", "", path.read_text(encoding="utf-8"))
    path.write_text(foreign.replace("# Generated", "# By hand"), encoding="utf-8")
    found = find_lock(read_script(here.path / "a.py"))
    requirements = read_metadata(read_script(here.path / "a.py")).requirements
    assert found is not None and found.matches(requirements) is None
    locked(here, "a.py", "--check")
    locked(here, "a.py")
    found = find_lock(read_script(here.path / "a.py"))
    assert found is not None and found.matches(requirements) is True
    assert versions(found.lock, "linux-64")["tool"] == "1"
    (here.path / "a.py").write_text(SCRIPT.replace("[tool]", "[tool, lib 1.*]"), encoding="utf-8")
    assert found.matches(read_metadata(read_script(here.path / "a.py")).requirements) is False
    # a package that was changed by hand does not match the request
    path.write_text(path.read_text(encoding="utf-8").replace("sha256: ", "sha256: '0", 1), encoding="utf-8")
    locked(here, "a.py", "--check", status=125)


def test_a_lock_is_embedded_in_the_script(here: Home) -> None:
    script = here.path / "a.py"
    script.write_bytes(SCRIPT.replace("\n", "\r\n").encode().rstrip())
    script.chmod(0o750)
    before = script.read_bytes()
    locked(here, "a.py", "--embed", "--platform", "linux-64", "win-64")
    after = script.read_bytes()
    assert after.startswith(before + b"\r\n\r\n# /// cetool-lock\r\n") and after.endswith(b"\r\n# ///\r\n")
    assert b"\n" not in after.replace(b"\r\n", b"") and script.stat().st_mode & 0o777 == 0o750
    found = find_lock(read_script(script))
    assert found is not None and found.format == "embedded"
    assert found.matches(read_metadata(read_script(script)).requirements, "win-64") is True
    assert locked(here, "a.py", "--check").stderr == "a.py is up to date\n"
    assert not (here.path / "a.py.conda-lock.yml").exists()
    # the block can still be edited, and the lock is replaced where it is
    assert here.cetool("add", "a.py", "lib 1.*").returncode == 0
    locked(here, "a.py", "--check", status=1)
    locked(here, "a.py")
    assert script.read_bytes().startswith(before.replace(b"[tool]", b"[tool, lib 1.*]") + b"\r\n\r\n# /// cetool-lock")
    assert script.read_bytes().count(b"cetool-lock") == 1
    assert here.cetool("convert", "a.py", "--to", "conda-script").returncode == 0
    assert here.cetool("check", "--ignore", "unpinned", "--ignore", "no-python", "a.py").returncode == 0
    locked(here, "a.py")
    # another lock next to it is reported
    left = locked(here, "a.py", "--format", "conda-lock")
    assert "still used instead of the new one" in left.stderr and (here.path / "a.py.conda-lock.yml").exists()
    assert "a.py.conda-lock.yml is ignored" in locked(here, "a.py").stderr


def test_rattler_reads_a_written_pixi_lock(here: Home) -> None:
    locked(here, "a.py", "--format", "pixi", "--platform", "osx-arm64", "linux-64")
    environment = LockFile.from_path(here.path / "a.py.pixi.lock").default_environment()
    assert environment is not None
    names = {
        str(platform): sorted(package.name for package in packages)
        for platform, packages in environment.packages_by_platform().items()
    }
    assert names == {"linux-64": ["lib", "tool"], "osx-arm64": ["lib", "tool"]}
    assert "up to date" in locked(here, "a.py").stderr
    text = (here.path / "a.py.pixi.lock").read_bytes()
    locked(here, "a.py", "--platform", "linux-64", "osx-arm64", "--lock-file", "other.lock")
    assert (here.path / "other.lock").read_bytes() == text
    locked(here, "a.py", "--lock-file", "other.yml")
    assert versions(lock_of(here, "other.yml"), "linux-64") == versions(lock_of(here, "other.lock"), "linux-64")


def test_pypi_packages_are_locked_with_uv_and_pip(home: Home) -> None:
    """six is a conda package, so it is not installed from PyPI for python-dateutil."""
    home.write(
        "t.py",
        "# /// script\n# dependencies = ['tabulate<0.10', 'python-dateutil']\n"
        "# [tool.conda]\n# dependencies = ['six <1.17']\n# ///\n",
    )
    locked(home, "t.py", "--exclude-newer", "2024-06-01T00:00:00Z")
    by_uv = lock_of(home, "t.py.conda-lock.yml").platforms[0]
    assert [package.line for package in by_uv.pypi] == [
        "python-dateutil @ https://files.pythonhosted.org/packages/ec/57/56b9bcc3c9c6a792fcbaf139543cee77261f3651ca9da0c9"
        "3f5c1221264b/python_dateutil-2.9.0.post0-py2.py3-none-any.whl"
        "#sha256=a8b2bc7bffae282281c8140a97d3aa9c14da0b136dfe83f850eea9a5f7470427",
        "tabulate @ https://files.pythonhosted.org/packages/40/44/4a5f08c96eb108af5cb50b41f76142f0afa346dfa99d5296fe7202a1"
        "1854/tabulate-0.9.0-py3-none-any.whl"
        "#sha256=024ca478df22e9340661486f85298cff5f6dcdba14f3813e8830015b9ed1948f",
    ]
    assert by_uv.pypi[0].requires == ("six",)
    assert {package.name for package in by_uv.conda} == {"python", "six", "pip"}
    # kept if possible, also with pip
    home.write("t.py", (home.path / "t.py").read_text(encoding="utf-8").replace("<0.10", ""))
    locked(home, "t.py", env={"CETOOL_PIP_INSTALLER": "pip"})
    by_pip = lock_of(home, "t.py.conda-lock.yml").platforms[0]
    assert {package.name for package in by_pip.pypi} == {"python-dateutil", "tabulate"}
    home.write("t.py", (home.path / "t.py").read_text(encoding="utf-8").replace("python-dateutil", "six>=1.17"))
    assert "which conda installed" in locked(home, "t.py", status=125).stderr


def test_other_platforms_need_wheels_and_directories_cannot_be_locked(here: Home) -> None:
    channel = (here.path / "channel").as_uri()
    block = "# /// script\n# dependencies = ['cffi==1.17.1']\n# [tool.conda]\n# channels = ['{}']\n# ///\n"
    here.write("w.py", block.format(channel))
    locked(here, "w.py", "--platform", "linux-64", "osx-arm64", "win-64")
    wheels = {
        each.platform: next(package.url for package in each.pypi if package.name == "cffi")
        for each in lock_of(here, "w.py.conda-lock.yml").platforms
    }
    assert wheels["linux-64"].endswith("cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
    assert wheels["osx-arm64"].endswith("cp311-macosx_11_0_arm64.whl")
    assert wheels["win-64"].endswith("cp311-win_amd64.whl")
    only = locked(here, "w.py", "--platform", "win-64", status=125, env={"CETOOL_PIP_INSTALLER": "pip"})
    assert "requires uv" in only.stderr
    (here.path / "project").mkdir()
    here.write("project/pyproject.toml", "[project]\nname = 'project'\nversion = '1'\n")
    here.write("d.py", block.format(channel).replace("cffi==1.17.1", "project @ ./project"))
    assert "it is a directory, whose content may change" in locked(here, "d.py", status=125).stderr


def test_a_lock_contains_no_secrets(here: Home) -> None:
    secret = (here.path / "channel").as_uri().replace("file://", "file://user:s3cret@localhost")
    here.write("s.py", SCRIPT.replace("./channel", (here.path / "channel").as_uri()))
    locked(here, "s.py", "--channel", secret, "--embed")
    locked(here, "s.py", "--channel", secret, "--format", "pixi")
    locked(here, "s.py", "--channel", secret, "--format", "conda-lock")
    for path in here.path.rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path


def test_a_failure_leaves_the_lock_unchanged(here: Home) -> None:
    locked(here, "a.py")
    path = here.path / "a.py.conda-lock.yml"
    before = path.read_bytes()
    (here.path / "a.py").write_text(SCRIPT.replace("[tool]", "[tool, nothing-there]"), encoding="utf-8")
    assert "nothing-there" in locked(here, "a.py", status=125).stderr
    assert path.read_bytes() == before
    (here.path / "a.py").write_text(SCRIPT.replace("[tool]", "[tool, lib]"), encoding="utf-8")
    path.chmod(0o444)
    done = here.run(*bound_by_modes(), sys.executable, "-m", "cetool", "lock", "a.py")
    assert done.returncode == 125 and "read-only" in done.stderr and path.read_bytes() == before
    path.chmod(0o644)
    path.write_bytes(b"<<<<<<< HEAD\n" + before)
    assert "invalid YAML" in locked(here, "a.py", "--check", status=125).stderr
    healed = locked(here, "a.py")
    assert "the lock is re-created" in healed.stderr and locked(here, "a.py", "--check").returncode == 0
    assert sorted(each.name for each in here.path.glob("*.cetool")) == []
    here.write("notes.txt", "not a lock\n")
    assert "not a lock file" in locked(here, "a.py", "--lock-file", "notes.txt", status=125).stderr
    assert (here.path / "notes.txt").read_text(encoding="utf-8") == "not a lock\n"


def test_several_scripts_are_locked_and_reported_as_json(here: Home) -> None:
    here.write("b.py", SCRIPT.replace("tool", "lib"))
    none = locked(here, "a.py", "b.py", "--check", "--json", status=1, env={"CETOOL_OFFLINE": "1"})
    assert [each["changed"] for each in json.loads(none.stdout)["locks"]] == [True, True]
    assert not list(here.path.glob("*.conda-lock.yml"))
    document = json.loads(locked(here, "a.py", "b.py", "--json").stdout)
    assert [each["changed"] for each in document["locks"]] == [True, True]
    assert {change["name"] for change in document["changes"]} == {"tool", "lib"}
    document = json.loads(locked(here, "a.py", "b.py", "--json", "--check").stdout)
    assert [each["changed"] for each in document["locks"]] == [False, False] and document["changes"] == []
    locked(here, "a.py", "b.py", "--lock-file", "x.yml", status=2)
    locked(here, "a.py", "--embed", "--format", "pixi", status=2)
    assert locked(here, "c.py", status=127).stdout == ""


def test_a_symbolic_link_is_locked_next_to_its_target(here: Home) -> None:
    (here.path / "real.yml").write_text("", encoding="utf-8")
    (here.path / "a.py.conda-lock.yml").symlink_to("real.yml")
    locked(here, "a.py")
    assert (here.path / "a.py.conda-lock.yml").is_symlink()
    assert Path(here.path / "real.yml").read_text(encoding="utf-8").startswith("# Generated")

"""``cetool overlay``: named overlays, shells with active overlays, sharing and collection."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.channel import Channel
from support.home import Home
from support.overlays import make_base, make_wheel, protect, site_packages_of, snapshot

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX shells")


@pytest.fixture(scope="module")
def wheels() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="cetool-wheels-"))
    for version in ("1.0", "2.0", "3.0"):
        files: dict[str, str | bytes] = {
            "ovlib.py": f"version = {version!r}\ndef main():\n    print('tool', version)\n"
        }
        make_wheel(directory, "ovlib", version, files=files, scripts={"ovlib-tool": "ovlib:main"})
    make_wheel(directory, "ovbound", "1.0", ["ovlib <2"])
    make_wheel(directory, "ovbound", "2.0", ["ovlib >=2"])
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def base(local_channel: Channel, wheels: Path) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="cetool-base-"))
    names = ("ovlib-1.0", "ovbound-1.0")
    made = make_base(
        root / "envs/beamline", local_channel, wheels=[wheels / f"{name}-py3-none-any.whl" for name in names]
    )
    (made / "etc/conda/activate.d").mkdir(parents=True)
    (made / "etc/conda/activate.d/base.sh").write_text("export FROM_BASE=$CONDA_PREFIX\n")
    (made / "etc/conda/deactivate.d").mkdir()
    (made / "etc/conda/deactivate.d/base.sh").write_text("unset FROM_BASE\n")
    protect(made)
    yield made
    subprocess.run(["chmod", "-R", "u+w", root], check=True)
    shutil.rmtree(root)


@pytest.fixture
def lab(home: Home, wheels: Path, base: Path) -> Home:
    """A home whose only index is the directory of wheels, and where conda knows the base by name."""
    home.env.update(UV_FIND_LINKS=str(wheels), PIP_FIND_LINKS=str(wheels), CETOOL_OFFLINE="true")
    home.condarc.write_text(f"{home.condarc.read_text()}envs_dirs: [{base.parent}]\n")
    return home


def ok(home: Home, *words: str | os.PathLike[str], env: dict[str, str | None] | None = None) -> str:
    done = home.cetool(*words, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_named_overlay_can_be_made_changed_and_removed(lab: Home, base: Path) -> None:
    before = snapshot(base)
    prefix = Path(ok(lab, "overlay", "create", "fix", "--base", "beamline", "ovlib ==2.0").strip())
    assert prefix.parent == lab.cache / "overlays/beamline"
    (row,) = json.loads(ok(lab, "overlay", "list", "--json"))["overlays"]
    assert (row["name"], row["base"], row["state"], row["prefix"]) == ("fix", str(base), "ready", str(prefix))
    shown = [line.split(None, 4) for line in ok(lab, "overlay", "diff", "fix").splitlines()[1:]]
    assert [line[:4] for line in shown] == [["ovbound", "1.0", "2.0", "pypi"], ["ovlib", "1.0", "2.0", "pypi"]]
    assert "requires ovlib<2" in shown[0][4]
    newer = Path(ok(lab, "overlay", "install", "fix", "ovlib ==3.0").strip())
    assert newer != prefix and prefix.is_dir(), "what runs in it goes on"
    document = json.loads(ok(lab, "overlay", "show", "fix", "--json"))
    assert document["overlay"] == ["ovlib==3.0"]
    recipe = ok(lab, "overlay", "export", "fix")
    lab.write("recipe.yml", recipe)
    assert ok(lab, "overlay", "create", "same", "--file", "recipe.yml").strip() == str(newer), "one directory for both"
    frozen = ok(lab, "overlay", "freeze", "fix", "--format", "environment-yml")
    assert "      - ovlib==3.0\n" in frozen and "  - python=" in frozen and "ovbound==2.0" in frozen
    assert ok(lab, "overlay", "remove", "same") == "" and newer.is_dir()
    ok(lab, "overlay", "uninstall", "fix", "ovlib")
    assert json.loads(ok(lab, "overlay", "diff", "fix", "--json"))["packages"] == []
    last = Path(json.loads(ok(lab, "overlay", "show", "fix", "--json"))["prefix"])
    ok(lab, "overlay", "remove", "fix")
    assert not last.exists() and snapshot(base) == before
    done = lab.cetool("overlay", "show", "fix")
    assert done.returncode == 125 and "overlay 'fix' was not found" in done.stderr


def test_a_frozen_overlay_is_an_ordinary_environment(lab: Home, base: Path) -> None:
    """The lock of base and overlay makes a separate environment with the packages of both, without a solve."""
    over = Path(ok(lab, "overlay", "create", "fix", "--base", "beamline", "ovlib ==2.0").strip())
    noted = json.loads((over / "conda-meta/cetool-pypi").read_text())["packages"]
    assert [each["name"] for each in noted] == ["ovbound", "ovlib"], "what it came from need not be asked for again"
    ok(lab, "overlay", "freeze", "fix", "-o", "release.conda-lock.yml")
    assert "name: ovlib\n  version: '2.0'" in (lab.path / "release.conda-lock.yml").read_text()
    path = lab.write("see.py", "import json, ovbound, ovlib, sys\nprint(json.dumps([ovlib.version, sys.prefix]))")
    words = ("run", "--frozen", "--lock-file", "release.conda-lock.yml", "--env-file", "any.yml", path)
    lab.write("any.yml", "dependencies: [python]\n")
    version, prefix = json.loads(ok(lab, *words))
    assert version == "2.0" and Path(prefix).parent == lab.cache / "envs"
    done = lab.cetool("overlay", "freeze", "fix", "--format", "explicit")
    assert done.returncode == 0 and "@EXPLICIT" in done.stdout and "ovlib" in done.stderr


def test_wrong_requests_are_errors_with_hints(lab: Home) -> None:
    done = lab.cetool("overlay", "create", "fix", "--base", "beamlin")
    assert done.returncode == 125 and "Did you mean 'beamline'?" in done.stderr
    done = lab.cetool("overlay", "create", "a/b", "--base", "beamline")
    assert done.returncode == 2 and "invalid overlay name" in done.stderr
    done = lab.cetool("overlay", "create", "fix", "--base", "beamline", "ovlib ==9")
    assert done.returncode == 125 and "ovlib" in done.stderr
    assert json.loads(ok(lab, "overlay", "list", "--json"))["overlays"] == []
    done = lab.cetool("run", "--overlay", "ovlib", lab.write("a.py", "# conda execute\n# env: [python]\n"))
    assert done.returncode == 2 and "none is declared" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_activate_and_deactivate_an_overlay(shell: str, lab: Home, base: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    ok(lab, "overlay", "create", "fix", "--base", str(base), "ovlib ==2.0")
    cetool = f"{sys.executable} -m cetool"
    commands = [
        f'eval "$({cetool} overlay activate fix --shell {shell})"' if shell != "fish" else "",
        f"{cetool} overlay activate fix --shell fish | source" if shell == "fish" else "",
        "ovlib-tool; python -c 'import ovlib, sys; print(ovlib.version, sys.prefix)'; echo $FROM_BASE",
        "cetool_overlay_deactivate",
        "echo $PATH $PYTHONPATH",
    ]
    done = lab.run(program, input="\n".join([*commands, ""]))
    lines = done.stdout.splitlines()
    assert lines[:3] == ["tool 2.0", f"2.0 {base}", str(base)], done.stderr
    assert lines[3].replace(" ", ":") == lab.env["PATH"], "PATH is unchanged, PYTHONPATH not set"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only Linux shows the variables of processes")
def test_a_program_started_in_an_active_shell_keeps_the_overlay(lab: Home, base: Path) -> None:
    prefix = Path(ok(lab, "overlay", "create", "fix", "--base", str(base), "ovlib ==2.0").strip())
    code = ok(lab, "overlay", "activate", "fix", "--shell", "bash")
    command = ["bash", "-c", f"{code}\npython -c 'print(1, flush=True); input()'\ntrue"]
    with subprocess.Popen(command, env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None and running.stdout is not None
        assert running.stdout.readline() == "1\n"
        done = lab.cetool("overlay", "remove", "fix")
        assert done.returncode == 125 and "is in use" in done.stderr and prefix.is_dir()
        running.stdin.write("\n")
        running.stdin.close()
    ok(lab, "overlay", "remove", "fix")
    assert not prefix.exists()


def test_base_and_overlay_can_come_from_the_command_line(lab: Home, base: Path) -> None:
    plain = lab.write("plain.py", "import ovlib, sys\nprint(ovlib.version, sys.argv[1:])\n")
    assert ok(lab, "run", "--base", "beamline", "--overlay", "ovlib ==2.0", plain, "x") == "2.0 ['x']\n"
    seen = ok(lab, "run", "--no-activate", "--base", "beamline", "--overlay", "ovlib ==2.0", plain)
    assert seen == "2.0 []\n", "the overlay is there without activation, too"
    block = '# /// script\n# requires-python = ">=3"\n# dependencies = ["ovlib==3.0"]\n# ///\n'
    pep723 = f"{block}import ovlib\nprint(ovlib.version)\n"
    script = lab.write("pep723.py", pep723)
    assert ok(lab, "run", "--base", str(base), script) == "3.0\n"
    done = lab.cetool("run", "--base", str(base), lab.write("no.py", pep723.replace(">=3", "<3")))
    assert done.returncode == 125 and "python <3" in done.stderr
    assert (
        ok(lab, "path", "--python", lab.write("s.py", f"# conda execute\n# base: {base}\n")).strip()
        == f"{base}/bin/python"
    )


def test_a_group_can_share_a_directory_of_overlays(lab: Home, base: Path, tmp_path: Path) -> None:
    place = tmp_path / "site"
    place.mkdir()
    place.chmod(0o2775)
    env: dict[str, str | None] = {"CETOOL_OVERLAYS_DIR": f"{place}/{{env_name}}/over", "CETOOL_TRUST_CACHE_DIR": "true"}
    prefix = Path(ok(lab, "overlay", "create", "fix", "--base", str(base), "ovlib ==2.0", env=env).strip())
    assert prefix.parent == place / "beamline/over"
    for path in (prefix, site_packages_of(prefix), place / ".named/fix.json", prefix.parent / ".locks"):
        assert path.stat().st_mode & stat.S_IWGRP, path
    other = {**env, "CETOOL_CACHE_DIR": str(lab.path / "another-user")}
    assert json.loads(ok(lab, "overlay", "list", "--json", env=other))["overlays"][0]["name"] == "fix"
    assert json.loads(ok(lab, "overlay", "list", "--json"))["overlays"] == []
    done = lab.cetool("overlay", "list", env={**env, "CETOOL_TRUST_CACHE_DIR": None})
    assert done.returncode == 125 and "writable by its group" in done.stderr


def test_gc_respects_scripts_names_and_bases(lab: Home, local_channel: Channel, wheels: Path, base: Path) -> None:
    ok(lab, "overlay", "create", "kept", "--base", str(base), "ovlib ==2.0")
    script = lab.write("s.py", f"# conda execute\n# base: {base}\n# overlay: [ovlib ==3.0]\nimport ovlib\n")
    ok(lab, "run", script)
    used = Path(ok(lab, "name", script).strip())
    waiting = lab.write(
        "w.py", f"# conda execute\n# base: {base}\n# overlay: [ovbound ==2.0]\nprint(1, flush=True)\ninput()\n"
    )
    command = [sys.executable, "-m", "cetool", "run", str(waiting)]
    with subprocess.Popen(command, env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None and running.stdout is not None
        assert running.stdout.readline() == "1\n"
        report = json.loads(ok(lab, "gc", "--older-than", "1h", "--json"))
        assert report["removed"] == [] and used.is_dir()
        (lock,) = used.parent.glob(f".locks/{used.name}.lock")
        marker = json.loads((used / "conda-meta/cetool").read_text())
        (used / "conda-meta/cetool").write_text(json.dumps({**marker, "created": 1.0}))
        os.utime(lock, (time.time() - 7200,) * 2)
        report = json.loads(ok(lab, "gc", "--older-than", "1h", "--json"))
        assert [item["prefix"] for item in report["removed"]] == [str(used)]
        report = json.loads(ok(lab, "gc", "--all", "--json"))
        assert report["removed"] == [] and len(report["in_use"]) == 1, "what has a name, or runs, stays"
        running.stdin.close()
    own = make_base(lab.path / "own", local_channel, wheels=[wheels / "ovlib-1.0-py3-none-any.whl"])
    ok(lab, "overlay", "create", "orphan", "--base", str(own), "ovlib ==2.0")
    own.rename(lab.path / "moved")
    twin = ok(lab, "overlay", "create", "twin", "--base", str(base), "ovlib ==2.0").strip()
    states = {row["name"]: row["state"] for row in json.loads(ok(lab, "overlay", "list", "--json"))["overlays"]}
    assert states == {**states, "orphan": "base gone", "kept": "ready", "twin": "ready"}
    shutil.rmtree(twin)
    states = {row["name"]: row["state"] for row in json.loads(ok(lab, "overlay", "list", "--json"))["overlays"]}
    assert states == {**states, "kept": "not made", "twin": "not made"}, "each name, though they share a directory"
    report = json.loads(ok(lab, "gc", "--json"))
    assert [item["reason"] for item in report["removed"]] == ["its base is gone"]
    done = lab.cetool("overlay", "activate", "orphan")
    assert done.returncode == 125 and "does not exist" in done.stderr
    (lab.path / "moved").rename(own)
    assert "PYTHONPATH" in ok(lab, "overlay", "activate", "orphan"), "the recipe stays, and the overlay is re-created"


def test_cetools_own_environment_can_be_a_base(lab: Home) -> None:
    """It is frozen and unchanged. CEP 22: Specification."""
    env: dict[str, str | None] = {"CETOOL_OFFLINE": "false"}
    below = Path(ok(lab, "create", "python", "six", env=env).strip())
    before = snapshot(below)
    assert "conda-meta/frozen" in before
    script = lab.write(
        "s.py", f"# conda execute\n# base: {below.name}\n# overlay: [ovlib]\nprint(1, flush=True)\ninput()\n"
    )
    command = [sys.executable, "-m", "cetool", "run", str(script)]
    with subprocess.Popen(command, env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None and running.stdout is not None
        assert running.stdout.readline() == "1\n"
        report = json.loads(ok(lab, "gc", "--all", "--json"))
        assert {item["prefix"] for item in report["in_use"]} >= {str(below)}, "the base of what runs is in use"
        running.stdin.close()
    assert snapshot(below) == before

"""Every command of README.md is run: what it shows is what happens."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import uv
from support.channel import Channel
from support.documents import commands, run_page
from support.home import EXECUTABLES, Home

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

#: Commands that install, and where the executables are then, below the home directory.
INSTALLATIONS = {
    "pipx install .": "apps",
    "uv tool install .": "apps",
    "python3 -m pip install .": "venv/bin",
}


def test_the_commands_print_what_readme_shows(home: Home, local_channel: Channel) -> None:
    run_page(README, home, local_channel.has, without=INSTALLATIONS)


@pytest.mark.parametrize("line", INSTALLATIONS)
def test_it_installs_from_a_clone(line: str, home: Home) -> None:
    skipped = shutil.ignore_patterns(".*", "__pycache__", "dist")
    source = shutil.copytree(ROOT, home.path / "source", ignore=skipped)
    tools = home.path / "venv"
    uv_program = Path(uv.find_uv_bin())
    made = home.run(uv_program, "venv", "--seed", "--python", sys.executable, tools)
    assert made.returncode == 0, made.stderr
    if line.startswith("pipx"):
        made = home.run(tools / "bin/python", "-m", "pip", "install", "--quiet", "pipx")
        assert made.returncode == 0, made.stderr
    apps = str(home.path / "apps")
    env = {
        "PATH": f"{tools / 'bin'}:{uv_program.parent}:{home.env['PATH']}",
        "PIPX_HOME": str(home.path / "pipx"),
        "PIPX_BIN_DIR": apps,
        "UV_TOOL_DIR": str(home.path / "uv-tools"),
        "UV_TOOL_BIN_DIR": apps,
        "UV_PYTHON": sys.executable,
    }
    done = home.run("bash", "-c", line, cwd=source, env=env)
    assert done.returncode == 0, done.stderr
    for program in EXECUTABLES:
        done = home.run(home.path / INSTALLATIONS[line] / program, "--help")
        assert done.returncode == 0, done.stderr
    if line.startswith("python3") and shutil.which("man"):
        done = home.run("man", "-w", "cetool-run", env={"MANPATH": str(tools / "share/man")})
        assert done.stdout.strip() == str(tools / "share/man/man1/cetool-run.1"), done.stderr


def test_the_smallest_block_of_each_dialect_works(home: Home) -> None:
    rows = re.findall(r"^\| `([\w -]+)`: [^|]+ \| ([^|]+) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert [dialect for dialect, _ in rows] == ["conda execute", "script", "conda-script"]
    for dialect, example in rows:
        lines = re.findall("`([^`]+)`", example)
        script = home.write("least.py", "\n".join([*lines, "print('it ran')", ""]))
        assert f"dialect:    {dialect}, lines 1 to {len(lines)}\n" in home.cetool("show", script).stdout
        done = home.cetool("run", script)
        assert (done.returncode, done.stdout) == (0, "it ran\n"), done.stderr


def test_commands_that_tests_do_not_run_are_run_in_ci() -> None:
    assert {command.line for command in commands(README)} >= set(INSTALLATIONS)
    skipped = [command.line for command in commands(ROOT / "docs/how-to/demo-channel.md") if command.mark]
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert all(re.search(rf"^{re.escape(line)}\b", script, re.MULTILINE) for line in skipped)


def test_links_lead_somewhere() -> None:
    for path in (README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), ROOT / "examples/README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]*)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"

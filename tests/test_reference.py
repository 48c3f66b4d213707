"""The man pages and the generated reference match the commands, and man shows the pages without a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cetool.settings.meanings import SETTINGS, VARIABLES
from cetool.settings.settings import DEFAULTS, unknown_variables
from cetool.warm import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
MANUALS = sorted((ROOT / "man").glob("*.1"))


def test_generated_files_are_up_to_date() -> None:
    """``nox -s reference`` (or ``python tools/reference.py``) writes them."""
    words = [sys.executable, str(ROOT / "tools/reference.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_command_has_a_man_page() -> None:
    names = {path.stem for path in MANUALS}
    commands = set(COMMANDS) - {"help", "remove-dep"}
    assert names == {"cetool", "cex", "conda-execute", "conda-tmpenv", *(f"cetool-{name}" for name in commands)}


@pytest.mark.skipif(shutil.which("man") is None, reason="has no man")
def test_man_shows_each_page_without_a_warning() -> None:
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    for path in MANUALS:
        words = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(path)]
        done = subprocess.run(words, env=environ, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), path.name
    shown = subprocess.run(["man", "-l", str(ROOT / "man/cetool-run.1")], env=environ, capture_output=True, text=True)
    assert "cetool run [OPTIONS] [SCRIPT] [ARGS]..." in shown.stdout
    assert "--exclude-newer" in shown.stdout and "`" not in shown.stdout


def test_every_setting_and_variable_is_explained() -> None:
    assert set(SETTINGS) == set(DEFAULTS)
    assert unknown_variables(dict.fromkeys(VARIABLES, "1")) == ()

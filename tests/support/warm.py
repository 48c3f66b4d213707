"""Distinguish warm runs from cold ones: with a Python that exits with a special status when a cold run begins."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from support.home import Home

#: The exit status of a run that is not warm.
COLD = 99
_TRAP = f"""\
import os, sys
class Trap:
    def find_spec(self, name, path=None, target=None):
        if name == "cetool.cli":
            os._exit({COLD})
sys.meta_path.insert(0, Trap())
"""


def settle(*paths: Path) -> None:
    """Wait until a change to these files would change their times."""
    for path in paths:
        while time.time() - path.stat().st_ctime < 0.06:
            time.sleep(0.02)


def trap(home: Home) -> dict[str, str]:
    """Return variables with which a run that is not warm exits with :data:`COLD`."""
    directory = home.path / "trap"
    if not directory.is_dir():
        home.write("trap/sitecustomize.py", _TRAP)
    return {"PYTHONPATH": str(directory)}


def learn(home: Home, *args: str | os.PathLike[str], env: Mapping[str, str | None] | None = None) -> str:
    """Run a script in any way, so that the next run can be warm; return its output."""
    settle(*(path for word in args if (path := home.path / word).is_file()), home.condarc)
    done = home.cetool(*args, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_warm(
    home: Home,
    *args: str | os.PathLike[str],
    env: Mapping[str, str | None] | None = None,
    input: str | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``cetool`` with these arguments; its status is :data:`COLD` if the run is not warm."""
    return home.cetool(*args, env={**(env or {}), **trap(home)}, input=input, cwd=cwd)


def is_warm(home: Home, *args: str | os.PathLike[str], env: Mapping[str, str | None] | None = None) -> bool:
    """Return whether the next run is warm (and succeeds)."""
    done = run_warm(home, *args, env=env)
    assert done.returncode in (0, COLD), done.stderr
    return done.returncode == 0


def records(home: Home) -> list[Path]:
    """Return the launch records."""
    return sorted((home.cache / "launch").glob("*"))


def command(*words: str | os.PathLike[str]) -> list[str]:
    """Return the command line of cetool in this Python."""
    return [sys.executable, "-m", "cetool", *(os.fspath(word) for word in words)]

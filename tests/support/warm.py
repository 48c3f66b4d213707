"""Tells warm runs from cold ones: an interpreter that ends at once, with a status of its own, when the latter begin."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from support.home import Home

#: The status that a run ends with which is not warm.
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
    """Wait until a change to these files would show in their times."""
    for path in paths:
        while time.time() - path.stat().st_ctime < 0.06:
            time.sleep(0.02)


def trap(home: Home) -> dict[str, str]:
    """The variables with which a run that is not warm ends with :data:`COLD`."""
    directory = home.path / "trap"
    if not directory.is_dir():
        home.write("trap/sitecustomize.py", _TRAP)
    return {"PYTHONPATH": str(directory)}


def learn(home: Home, *args: str | os.PathLike[str], env: Mapping[str, str | None] | None = None) -> str:
    """Run a script, by whichever way, so that the next run can be warm; what it printed."""
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
    """Run ``cetool`` with these arguments; its status is :data:`COLD` where that is not warm."""
    return home.cetool(*args, env={**(env or {}), **trap(home)}, input=input, cwd=cwd)


def is_warm(home: Home, *args: str | os.PathLike[str], env: Mapping[str, str | None] | None = None) -> bool:
    """Whether the next run is warm (one that succeeds)."""
    done = run_warm(home, *args, env=env)
    assert done.returncode in (0, COLD), done.stderr
    return done.returncode == 0


def records(home: Home) -> list[Path]:
    """The launch records."""
    return sorted((home.cache / "launch").glob("*"))


def command(*words: str | os.PathLike[str]) -> list[str]:
    """The command line of cetool in this interpreter."""
    return [sys.executable, "-m", "cetool", *(os.fspath(word) for word in words)]

"""A slow creation, and the processes that make it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import psutil

from support.scripts import shell_script

#: Slow in every stage: 6 MB to download, 400 files to link.
HEAVY = shell_script("hello", env="hello-bin, bigpkg, many-files")
STAGES = ("Engine:", "Solving", "Downloading", "Linking")


def wait_for_stage(process: subprocess.Popen[str], stage: str) -> None:
    """Read the output of a verbose cetool until this stage begins."""
    assert process.stderr is not None
    heard = []
    for line in process.stderr:
        heard.append(line)
        if line.startswith(stage):
            return
    raise AssertionError("".join(heard))


def read(asked: Path) -> list[dict[str, int]]:
    """Return what the fake engines wrote."""
    return [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []


def creations(asked: Path) -> list[int]:
    """Return the processes of the fake engines that were asked for an environment."""
    return [entry["pid"] for entry in read(asked) if "pid" in entry]


def alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

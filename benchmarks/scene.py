"""The environment of measurements: a home directory, the local channel, and installed programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.channel import Channel, shared_channel
from support.home import Home, make_home, remove_home
from support.interpreter import python_executable

from benchmarks.measure import Failed

#: Programs that are measured if found, and the variables that name one that is not on the PATH.
OTHERS = {"conda": "CETOOL_TEST_CONDA", "mamba": "", "micromamba": "CETOOL_TEST_MAMBA", "ce": ""}
_NOTHING = "# nothing to do\n"


@dataclass
class Scene:
    """Home, channel, programs by name, and what was left out and why."""

    home: Home
    channel: Channel
    cetool: str
    programs: dict[str, str]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The environment variables of commands."""
        return self.home.environment()

    def script(self, name: str, *, env: str = "[python]", shebang: str = "#!/usr/bin/env python") -> str:
        """Write a script for cetool that does nothing; return its path."""
        text = f"{shebang}\n# conda execute\n# env: {env}\n# run_with: python\n\n{_NOTHING}"
        return str(self.home.write(name, text, executable=True))

    def uv_script(self, name: str, shebang: str = "#!/usr/bin/env python") -> str:
        """Write a script for uv that does nothing, without dependencies; return its path."""
        text = f"{shebang}\n# /// script\n# dependencies = []\n# ///\n\n{_NOTHING}"
        return str(self.home.write(name, text, executable=True))

    def ask(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        """Return a command's standard output, with ``env`` added to its variables. Raises Failed if it fails."""
        done = self.home.run(*command, env=env)
        if done.returncode:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def prefix(self, script: str) -> str:
        """Run a script once, and return the environment that cetool made for it."""
        self.ask(self.cetool, script)
        return self.ask(self.cetool, "name", script)


@contextlib.contextmanager
def set_scene() -> Iterator[Scene]:
    """Provide a scene in a temporary directory. Raises Failed if cetool is not installed."""
    cetool = Path(sysconfig.get_path("scripts"), "cetool")
    if not cetool.exists():
        raise Failed(f"{cetool} does not exist: install cetool in this environment, or use nox -s benchmark")
    channel = shared_channel()
    directory = Path(tempfile.mkdtemp(prefix="cetool-benchmark-")).resolve()
    home = make_home(directory / "home", channel)
    home.env.update(
        UV_CACHE_DIR=str(directory / "uv"),
        UV_OFFLINE="1",
        UV_PYTHON_DOWNLOADS="never",
        UV_PYTHON=str(python_executable()),
    )
    before = Path.cwd()
    os.chdir(home.path)  # so that `python -m cetool` finds the installed cetool
    try:
        yield Scene(home, channel, str(cetool), dict(_found(home)))
    finally:
        os.chdir(before)
        remove_home(home)
        shutil.rmtree(directory, ignore_errors=True)


def _found(home: Home) -> Iterator[tuple[str, str]]:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv:
        (home.bin / "uv").symlink_to(uv)
        yield "uv", str(home.bin / "uv")
    for name, variable in OTHERS.items():
        path = os.environ.get(variable) if variable else None
        path = path or shutil.which(name)
        if path:
            yield name, path


def version_of(program: str) -> str:
    """Return the last word of the first line of ``PROGRAM --version``; empty if it prints nothing."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = (done.stdout.splitlines() or [""])[0].split()
    return next((word for word in words if word[:1].isdigit()), "")

"""Where everything is measured: a home directory of its own, the local channel, and the programs that are here."""

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

#: Programs that are measured beside cetool where they are found, and the variables that name one off the PATH.
OTHERS = {"conda": "CETOOL_TEST_CONDA", "mamba": "", "micromamba": "CETOOL_TEST_MAMBA", "ce": ""}
_NOTHING = "# nothing to do\n"


@dataclass
class Scene:
    """The home, its channel, the programs by name, and what was left out and why."""

    home: Home
    channel: Channel
    cetool: str
    programs: dict[str, str]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The variables that commands are run with."""
        return self.home.environment()

    def script(self, name: str, *, env: str = "[python]", shebang: str = "#!/usr/bin/env python") -> str:
        """A script of cetool's that does nothing; its path."""
        text = f"{shebang}\n# conda execute\n# env: {env}\n# run_with: python\n\n{_NOTHING}"
        return str(self.home.write(name, text, executable=True))

    def uv_script(self, name: str, shebang: str = "#!/usr/bin/env python") -> str:
        """A script of uv's that does nothing, without dependencies; its path."""
        text = f"{shebang}\n# /// script\n# dependencies = []\n# ///\n\n{_NOTHING}"
        return str(self.home.write(name, text, executable=True))

    def ask(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        """What a command prints on standard output, ``env`` on top of its variables. Raises Failed where it fails."""
        done = self.home.run(*command, env=env)
        if done.returncode:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def prefix(self, script: str) -> str:
        """Run a script once, and tell the environment that cetool made for it."""
        self.ask(self.cetool, script)
        return self.ask(self.cetool, "name", script)


@contextlib.contextmanager
def set_scene() -> Iterator[Scene]:
    """A scene in a new directory, which goes away with all in it. Raises Failed where cetool is not installed."""
    cetool = Path(sysconfig.get_path("scripts"), "cetool")
    if not cetool.exists():
        raise Failed(f"there is no {cetool}: cetool is to be installed where this runs (nox -s benchmark does it)")
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
    os.chdir(home.path)  # `python -m cetool` is to find the installed one
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
    """The last word of what ``PROGRAM --version`` prints first; empty where it prints nothing."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = (done.stdout.splitlines() or [""])[0].split()
    return next((word for word in words if word[:1].isdigit()), "")

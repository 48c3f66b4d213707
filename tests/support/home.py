"""A user for the tests: a home directory, an environment, and cetool's real command line run in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.channel import Channel

#: Outside variables that access to PyPI, the locale and coverage depend on.
_PASSED_ON = ("PIP_", "UV_", "SSL_", "REQUESTS_CA", "COVERAGE_", "COV_CORE", "LANG", "LC_", "TZ")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
#: cetool's executables, to which ``home/bin`` has links.
EXECUTABLES = ("cetool", "cex", "conda-execute", "conda-tmpenv")


@dataclass(frozen=True)
class Home:
    """A home directory whose ``.condarc`` makes conda-forge the local channel, and its environment variables."""

    path: Path
    env: dict[str, str] = field(repr=False)

    @property
    def cache(self) -> Path:
        """CETOOL_CACHE_DIR, where cetool keeps everything."""
        return Path(self.env["CETOOL_CACHE_DIR"])

    @property
    def bin(self) -> Path:
        """The first directory on its PATH."""
        return self.path / "bin"

    @property
    def condarc(self) -> Path:
        """Its ``.condarc``."""
        return self.path / ".condarc"

    @property
    def user_site(self) -> Path:
        """The user's site-packages, from which this version of Python imports unless it is isolated."""
        return self.path / f".local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

    def write(self, name: str, text: str, *, executable: bool = False) -> Path:
        """Write a file below the home directory and return its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if executable else 0o644)
        return path

    def environment(self, changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Return its variables with some changed, and without those given as None."""
        merged: dict[str, str | None] = {**self.env, **(changes or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def run(
        self,
        *command: str | os.PathLike[str],
        env: Mapping[str, str | None] | None = None,
        input: str | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end, without standard input unless given, and keep its output as text."""
        return subprocess.run(
            [os.fspath(word) for word in command],
            env=self.environment(env),
            cwd=cwd or self.path,
            input=input or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def cetool(
        self,
        *args: str | os.PathLike[str],
        env: Mapping[str, str | None] | None = None,
        input: str | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m cetool`` with these arguments here."""
        return self.run(sys.executable, "-m", "cetool", *args, env=env, input=input, cwd=cwd, timeout=timeout)


def make_home(path: Path, channel: Channel) -> Home:
    """Make a home at ``path`` that only contains what a user of the channel has."""
    for name in ("bin", "tmp"):
        (path / name).mkdir(parents=True)
    (path / ".condarc").write_text(channel.condarc, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if _passes(name)}
    env |= {
        "HOME": str(path),
        "USER": "tester",
        "PATH": f"{path / 'bin'}:{_SYSTEM_PATH}",
        "TMPDIR": str(path / "tmp"),
        "XDG_CACHE_HOME": str(path / ".cache"),
        "XDG_CONFIG_HOME": str(path / ".config"),
        "XDG_DATA_HOME": str(path / ".local/share"),
        "XDG_STATE_HOME": str(path / ".local/state"),
        "XDG_RUNTIME_DIR": str(path / "tmp"),
        "CETOOL_CACHE_DIR": str(path / "cetool"),
        "TERM": "dumb",
    }
    # all homes share what was downloaded from PyPI
    env.setdefault("PIP_CACHE_DIR", str(channel.root.parent / "pip"))
    env.setdefault("UV_CACHE_DIR", str(channel.root.parent / "uv"))
    for name in EXECUTABLES:
        program = Path(sysconfig.get_path("scripts"), name)
        if program.exists():
            (path / "bin" / name).symlink_to(program)
    return Home(path, env)


def remove_home(home: Home) -> None:
    """Remove the home with read-only directories, and with files that a background process is still writing."""
    for _ in range(3):
        for directory, names, _ in os.walk(home.path):
            for path in (Path(directory, name) for name in names):
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(home.path, ignore_errors=True)
        if not home.path.exists():
            return


def _passes(name: str) -> bool:
    return name.startswith(_PASSED_ON) or name.lower() in _PROXIES

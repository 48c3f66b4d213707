"""Run nox without an installed nox: ``python3 noxfile.py SESSION...`` needs only Python 3.10 or later, and PyPI.

nox is installed in the virtual environment ``.nox/bootstrap``. Debian's Python has neither ``venv`` nor ``pip`` by
default: then virtualenv creates the environment, downloaded with any available pip.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

_INDEX = "https://pypi.org/simple"
_NOX = "nox>=2024.10.9"


def run_nox(arguments: list[str], root: Path) -> int:
    """Run the sessions in ``arguments`` (those after ``--`` go to the sessions) and return nox's exit status."""
    if sys.version_info < (3, 10):  # noqa: UP036 - this runs before anything has checked
        print(f"cetool needs Python 3.10 or later, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    python = sys.executable if importlib.util.find_spec("nox") else str(_python_with_nox(root / ".nox" / "bootstrap"))
    split = arguments.index("--") if "--" in arguments else len(arguments)
    sessions = ["--session", *arguments[:split]] if split else ["--list"]
    command = [python, "-m", "nox", "--noxfile", str(root / "noxfile.py"), *sessions, *arguments[split:]]
    return subprocess.call(command, env=_clean_environment())


def _python_with_nox(directory: Path) -> Path:
    python = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = directory / "nox-installed"
    if not done.exists():
        print(f"Setting up nox in {directory}", file=sys.stderr, flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        _make_environment(directory)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", _NOX]
        subprocess.run(install, check=True, env=_clean_environment())
        done.touch()
    return python


def _make_environment(directory: Path) -> None:
    venv = subprocess.run([sys.executable, "-m", "venv", str(directory)], capture_output=True, env=_clean_environment())
    if venv.returncode == 0:
        return
    shutil.rmtree(directory, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="cetool-bootstrap-") as temporary:
        packages = Path(temporary, "packages")
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else _fetched_pip(Path(temporary))
        install = [*pip, "install", "--quiet", "--disable-pip-version-check", "--target", str(packages), "virtualenv"]
        subprocess.run(install, check=True, env=_clean_environment())
        env = {**_clean_environment(), "PYTHONPATH": str(packages)}
        subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", str(directory)], check=True, env=env)


def _fetched_pip(directory: Path) -> list[str]:
    """Return the command of the newest pip on PyPI (simple API); its wheel runs without being installed."""
    page = os.environ.get("PIP_INDEX_URL", _INDEX).rstrip("/") + "/pip/"
    with urllib.request.urlopen(page, timeout=60) as response:
        links = re.findall(
            r'href="([^"]*?(pip-([0-9.]+)-py3-none-any\.whl)#sha256=([0-9a-f]{64}))"', response.read().decode()
        )
    if not links:
        raise SystemExit(f"{page} has no wheel of pip")
    link, name, _, sha256 = max(links, key=lambda found: tuple(map(int, found[2].split("."))))
    with urllib.request.urlopen(urllib.parse.urljoin(page, link), timeout=60) as response:
        data = response.read()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SystemExit(f"{name} does not have the digest given by {page}")
    (directory / name).write_bytes(data)
    return [sys.executable, str(directory / name / "pip")]


def _clean_environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }

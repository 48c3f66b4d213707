"""conda-store's real clients: its command line and library and its kernels from PyPI, its web interface from npm.

They are downloaded once into ``CETOOL_TEST_CACHE``. Tests that need them are skipped where PyPI or npm cannot be
reached.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.channel import default_cache

REQUIREMENTS = ("conda-store==2025.2.2", "nb-conda-store-kernels==0.1.5", "jupyter-client")
INTERFACE = "@conda-store/conda-store-ui@2024.11.1"


def clients() -> Path:
    """Return the directory of the programs ``conda-store`` and ``python``, which has both packages."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        pytest.skip("conda-store's clients are for Python 3.10 to 3.12")
    directory = default_cache() / f"conda-store-{sys.implementation.cache_tag}"
    with _first(directory) as staging:
        if staging is not None:
            uv = [sys.executable, "-m", "uv", "--quiet"]
            _run(*uv, "venv", "--clear", "--relocatable", "--python", sys.executable, staging)
            _run(*uv, "pip", "install", "--python", staging / "bin" / "python", *REQUIREMENTS)
    return directory / "bin"


def interface() -> Path:
    """Return the directory of the web interface, which ``--ui-dir`` takes."""
    npm = shutil.which("npm")
    directory = default_cache() / "conda-store-ui-2024.11.1"
    with _first(directory) as staging:
        if staging is not None:
            if npm is None:
                pytest.skip("npm is not installed")
            staging.mkdir()
            _run(npm, "pack", "--silent", "--pack-destination", staging, INTERFACE)
            with tarfile.open(next(staging.glob("*.tgz"))) as tar:
                members = [each for each in tar.getmembers() if each.name.startswith("package/dist/") and each.isreg()]
                tar.extractall(staging, members)
    return directory / "package"


@contextmanager
def _first(directory: Path) -> Iterator[Path | None]:
    """Give the first process a directory to fill, which becomes ``directory``; None if that exists."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = directory.with_suffix(".part")
    with directory.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.exists():
            yield None
            return
        shutil.rmtree(staging, ignore_errors=True)
        yield staging
        staging.rename(directory)


def _run(*words: str | Path) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot download conda-store's clients: {done.stderr.strip()[-300:]}")

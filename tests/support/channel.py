"""Build a real conda channel on this machine, from which the tests and ``nox -s demo`` install.

The channel is in ``ROOT/conda-forge``, so that ``channel_alias: file://ROOT`` makes it conda-forge. Its ``python`` is
the running interpreter, numpy and some pure packages are wheels from PyPI, and the others are made by hand (see
:mod:`support.handmade`). :func:`shared_channel` builds it once for each machine and interpreter.

This module imports only the standard library, so that it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.archive import Package, write_package, write_repodata
from support.handmade import WRAPPED, handmade_packages, machine_packages
from support.interpreter import current_subdir, python_executable, python_package
from support.wheels import family_packages, wheel_packages

#: The wheels that the channel provides as conda packages.
PYPI = ("numpy", "pip", "six", "six==1.16.0", "packaging", "idna", "markdown")
#: Those that it provides with all their dependencies, to run notebooks.
PYPI_FAMILIES = ("ipykernel",)
#: The channel's name below its root.
NAME = "conda-forge"

_KEEP_SECONDS = 14 * 24 * 3600
_MARKER = "channel.json"


@dataclass(frozen=True)
class Channel:
    """A channel on disk: ``root`` is the value for ``channel_alias``, ``versions`` maps packages to versions."""

    root: Path
    subdir: str
    python: str
    versions: dict[str, tuple[str, ...]]

    @property
    def path(self) -> Path:
        """The channel's directory."""
        return self.root / NAME

    @property
    def url(self) -> str:
        """The channel's ``file://`` URL."""
        return self.path.as_uri()

    @property
    def condarc(self) -> str:
        """A ``.condarc`` that makes this channel conda-forge, the default channel."""
        return f"channel_alias: {self.root.as_uri()}\nchannels:\n  - {NAME}\nauto_update_conda: false\n"

    def has(self, package: str) -> bool:
        """Return whether the channel has the package: wrappers of the machine's programs may be missing."""
        return package in self.versions


def build_channel(
    root: Path,
    *,
    python: bool = True,
    pypi: Sequence[str] = PYPI,
    families: Sequence[str] = PYPI_FAMILIES,
    wheels: Path | None = None,
) -> Channel:
    """Build the channel at ``root``, which need not exist, and return it.

    ``python``, ``pypi`` and ``families`` say whether the interpreter and which wheels go in, the last with what they
    need; ``wheels`` is where downloaded ones are kept. Raises RuntimeError on a platform not provided for and where
    PyPI cannot be reached.
    """
    subdir = current_subdir()
    channel = root / NAME
    records: dict[str, dict[str, Any]] = {}
    for package in _packages(python, tuple(pypi), tuple(families), wheels or wheel_cache()):
        records[package.stem + package.suffix] = write_package(package, channel)
    for each in (subdir, "noarch"):
        write_repodata(records, each, channel)
    versions: dict[str, list[str]] = {}
    for record in records.values():
        versions.setdefault(record["name"], []).append(record["version"])
    about = {"subdir": subdir, "python": platform.python_version(), "versions": versions}
    (root / _MARKER).write_text(json.dumps(about, indent=1), encoding="utf-8")
    return load_channel(root)


def load_channel(root: Path) -> Channel:
    """Return the channel that was built at ``root``."""
    about = json.loads((root / _MARKER).read_text(encoding="utf-8"))
    versions = {name: tuple(found) for name, found in about["versions"].items()}
    return Channel(root, about["subdir"], about["python"], versions)


def shared_channel(cache: Path | None = None) -> Channel:
    """Return the channel of this interpreter and these sources; the first process builds it while others wait.

    Channels in the same cache that were not used for two weeks are removed.
    """
    cache = cache or default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / _key()
    with _locked(cache / "lock"):
        if not (root / _MARKER).exists():
            _remove_old(cache)
            staging = cache / f"{root.name}.part"
            shutil.rmtree(staging, ignore_errors=True)
            build_channel(staging)
            shutil.rmtree(root, ignore_errors=True)
            staging.rename(root)
        os.utime(root / _MARKER)
    return load_channel(root)


def default_cache() -> Path:
    """Return the directory of shared channels: ``CETOOL_TEST_CACHE``, or ``.cache/test-channel`` in the repository."""
    given = os.environ.get("CETOOL_TEST_CACHE")
    return Path(given) if given else Path(__file__).resolve().parents[2] / ".cache" / "test-channel"


def wheel_cache() -> Path:
    """Return the directory of downloaded wheels: ``CETOOL_TEST_WHEELS``, or next to the shared channels."""
    given = os.environ.get("CETOOL_TEST_WHEELS")
    return Path(given) if given else default_cache() / "wheels"


def _packages(python: bool, pypi: tuple[str, ...], families: tuple[str, ...], wheels: Path) -> Iterator[Package]:
    if python:
        yield python_package()
    if families:
        yield from family_packages(families, wheels)
    yield from wheel_packages(pypi, wheels)
    yield from handmade_packages()
    yield from machine_packages(current_subdir())


def _key() -> str:
    """Return a name for what the channel is built from: the builder's sources, the interpreter, programs."""
    programs = [shutil.which(name) for wrapped in WRAPPED for name in wrapped.programs]
    executable = python_executable()
    parts = [PYPI, PYPI_FAMILIES, sys.version, str(executable), executable.stat().st_mtime_ns, sys.base_prefix]
    parts.append(programs)
    digest = hashlib.sha256(repr(parts).encode())
    for name in ("archive", "channel", "handmade", "interpreter", "wheels"):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return f"{sys.implementation.cache_tag}-{digest.hexdigest()[:12]}"


def _remove_old(cache: Path) -> None:
    for marker in cache.glob(f"*/{_MARKER}"):
        if time.time() - marker.stat().st_mtime > _KEEP_SECONDS:
            shutil.rmtree(marker.parent, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Build a channel from the command line and print its root."""
    parser = argparse.ArgumentParser(description="Build a conda channel out of this interpreter and PyPI.")
    parser.add_argument(
        "root", nargs="?", type=Path, help="where to build it (default: the shared one of this checkout)"
    )
    root = parser.parse_args().root
    print((shared_channel() if root is None else build_channel(root.resolve())).root)


if __name__ == "__main__":
    main()

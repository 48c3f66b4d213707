"""Finds an environment by the name that conda, mamba or micromamba know it by."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cetool.condarc import Condarc
from cetool.errors import StoreError
from cetool.limits import SETTINGS, read_text

#: Names told in a message.
_MOST_TOLD = 12


def find_base(name: str, environ: Mapping[str, str], condarc: Condarc, roots: Iterable[Path]) -> Path:
    """The prefix that a base's name, or its absolute path, means. Raises StoreError, which names the candidates.

    Names are looked up in conda's ``envs_dirs``, in the ``envs`` of the installations at ``roots``, in
    ``~/.conda/envs`` and among the prefixes that ``~/.conda/environments.txt`` lists; ``base`` is an installation.
    """
    if os.path.isabs(name):
        prefix = Path(name)
        if is_environment(prefix):
            return prefix
        there = "is no environment: it has neither conda-meta nor a python" if prefix.is_dir() else "is not there"
        raise StoreError(
            f"the base {name} {there}", hint="Name an environment by its path, or as `conda env list` shows it."
        )
    installations = [root for root in dict.fromkeys(roots) if (root / "conda-meta").is_dir()]
    if name in ("base", "root") and installations:
        return installations[0]
    known = _known(environ, condarc, installations)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(sorted(known)[:_MOST_TOLD]) + (", ..." if len(known) > _MOST_TOLD else "")
    meant = f"Was {near[0]!r} meant? " if near else ""
    hint = f"{meant}Known are: {listed}." if known else "No engine knows of any: name it by its path, from / on."
    raise StoreError(f"there is no environment called {name!r} that could be the base", hint=hint)


def is_environment(prefix: Path) -> bool:
    """Whether there is something at a prefix that can be a base: conda's, or a virtual environment."""
    return (prefix / "conda-meta").is_dir() or os.path.exists(prefix / "bin" / "python") or _has_windows_python(prefix)


def _has_windows_python(prefix: Path) -> bool:
    return os.name == "nt" and (prefix / "python.exe").exists()


def _known(environ: Mapping[str, str], condarc: Condarc, installations: Iterable[Path]) -> dict[str, Path]:
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    listed = (environ.get("CONDA_ENVS_DIRS") or environ.get("CONDA_ENVS_PATH") or "").split(os.pathsep)
    folders = [*filter(None, listed), *condarc.envs_dirs]
    folders += [str(root / "envs") for root in installations]
    folders += [f"{home}/.conda/envs"] if home else []
    found: dict[str, Path] = {}
    for folder in dict.fromkeys(folders):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            if is_environment(Path(folder, name)):
                found.setdefault(name, Path(folder, name))
    try:
        lines = read_text(Path(home, ".conda", "environments.txt"), SETTINGS).splitlines() if home else []
    except (OSError, ValueError):
        lines = []
    for line in map(str.strip, lines):
        if os.path.isabs(line) and is_environment(Path(line)):
            found.setdefault(os.path.basename(line), Path(line))
    return found

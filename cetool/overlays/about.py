"""What an overlay says of itself: its base and the state that was in, and which packages lie over which.

It is ``conda-meta/overlay`` in the overlay, JSON, written before the marker that makes the overlay complete.

Finds an environment by the name that conda, mamba or micromamba know it by.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cetool.base.below import read_below, write_below
from cetool.base.codec import decode, encode
from cetool.base.errors import StoreError
from cetool.base.limits import NOTE, SETTINGS, parse_json, read_text
from cetool.overlays.base import Fingerprint
from cetool.settings.condarc import Condarc

ABOUT = "conda-meta/overlay"
SCHEMA = 1


@dataclass(frozen=True)
class Layer:
    """A package that lies over the base: ``kind`` is ``pypi`` or ``conda``.

    ``shadows`` is the version that the base has of it, None where it has none; ``why`` tells of one that nobody asked
    for why it is there; ``source`` is what it was installed from where that was no index.
    """

    name: str
    version: str
    kind: str
    shadows: str | None = None
    why: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class About:
    """What was laid over what. ``python`` is the base's version, for which the overlay was made; None without one."""

    base: str
    python: str | None
    fingerprint: Fingerprint
    layers: tuple[Layer, ...]


def read_about(prefix: Path) -> About | None:
    """What the overlay at ``prefix`` says of itself, None where nothing of it can be read."""
    try:
        return decode(About, parse_json(read_below(prefix, ABOUT, limit=NOTE), exact=True), schema=SCHEMA)
    except (OSError, ValueError):
        return None


def write_about(prefix: Path, about: About) -> None:
    """Write it. Raises OSError."""
    write_below(prefix, ABOUT, json.dumps(encode(about, schema=SCHEMA), indent=1).encode(), parents=True)


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
            f"the base {name} {there}",
            code="base-unusable",
            hint="Name an environment by its path, or as `conda env list` shows it.",
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
    raise StoreError(
        f"there is no environment called {name!r} that could be the base", code="environment-not-found", hint=hint
    )


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

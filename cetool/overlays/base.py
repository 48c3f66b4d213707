"""The base of an overlay: its Python, its packages, and how to detect that it has changed."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cetool.base.errors import EngineError, StoreError
from cetool.base.limits import SETTINGS, parse_json, read_text
from cetool.base.process import Consent, clean_environ, python_command
from cetool.base.text import normalized
from cetool.packages.distributions import Distribution, distributions_by_name
from cetool.settings.condarc import Condarc

#: Maximum number of names in a message.
_MOST_TOLD = 12
_PYTHON = "python.exe" if os.name == "nt" else "bin/python"
_META = (".dist-info", ".egg-info", ".egg-link")
#: Seconds that the base's Python may take to answer: it may be on a slow network.
_PATIENCE = 120.0
#: Number of modules from which compiling in several processes is faster.
_MANY_MODULES = 200
#: Runs in the base's Python, of any version in use; isolated, and without writing byte code.
_ASK = """\
import json, os, platform, sys
try:
    version = sys.implementation.version
    implementation = "%d.%d.%d" % tuple(version[:3])
    if version.releaselevel != "final":
        implementation += version.releaselevel[0] + str(version.serial)
except AttributeError:
    implementation = platform.python_version()
json.dump({
    "version": list(sys.version_info[:3]),
    "prefix": sys.prefix,
    "path": [entry for entry in sys.path if entry],
    "markers": {
        "implementation_name": sys.implementation.name,
        "implementation_version": implementation,
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "platform_python_implementation": platform.python_implementation(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    },
}, sys.stdout)
"""


@dataclass(frozen=True)
class Base:
    """A base with Python: ``path`` is where that looks for modules, ``markers`` its environment for PEP 508."""

    prefix: Path
    python: Path
    version: tuple[int, int, int]
    path: tuple[str, ...]
    markers: Mapping[str, str]

    @functools.cached_property
    def distributions(self) -> dict[str, Distribution]:
        """Its Python distributions, by normalized name."""
        return distributions_by_name(self.path)


@dataclass(frozen=True)
class Fingerprint:
    """Identifies a state of a base: the names of its package records and distributions."""

    conda: tuple[str, ...]
    python: tuple[str, ...]


def python_of(prefix: Path) -> Path:
    """Return the path of the base's Python, whether or not it exists."""
    return prefix / _PYTHON


def read_base(prefix: Path, environ: Mapping[str, str], consent: Consent) -> Base:
    """Start the base's Python and return what it reports.

    Raises EngineError if there is none, or if it does not answer.
    """
    python = python_of(prefix)
    if not os.access(python, os.X_OK):
        hint = "An overlay of Python packages needs a base with Python. List other packages under 'conda:'."
        raise unusable(f"base {prefix} has no Python ({python.relative_to(prefix)})", hint)
    try:
        done = subprocess.run(
            python_command(python, "-c", _ASK),
            env=clean_environ(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=True,
        )
        said = parse_json(done.stdout)
        major, minor, micro = said["version"]
        return Base(prefix, python, (major, minor, micro), tuple(said["path"]), said["markers"])
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().splitlines()
        reason = words[-1] if words else f"exit status {error.returncode}"
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise unusable(f"the Python of base {prefix} does not work: {reason}", f"Try it: `{python} -I -c pass`.")


def unusable(problem: str, hint: str | None = None) -> EngineError:
    """Return the error for a base that cannot have the requested overlay."""
    return EngineError(problem, code="base-unusable", hint=hint)


def compile_all(base: Base, prefix: Path, environ: Mapping[str, str]) -> None:
    """Compile the modules below ``prefix`` with the base's Python; skip those that do not compile.

    Later it may be impossible: the user who runs an overlay may not have permission to write to it.
    """
    places = [str(place) for place in site_directories(prefix)]
    if places:
        many = len([path for place in places for path in Path(place).rglob("*.py")]) > _MANY_MODULES
        command = python_command(base.python, "-m", "compileall", "-q", *(["-j", "0"] if many else []), *places)
        with contextlib.suppress(OSError):
            subprocess.run(command, env=clean_environ(environ), stdin=subprocess.DEVNULL, capture_output=True)


def site_directories(prefix: Path) -> list[Path]:
    """Return the existing directories of a prefix into which Python packages are installed."""
    patterns = ("lib*/python*/site-packages", "lib*/python*/dist-packages", "local/lib/python*/dist-packages")
    candidates = [path for pattern in patterns for path in sorted(prefix.glob(pattern))]
    candidates += [prefix / "Lib" / "site-packages"] if os.name == "nt" else []
    found = {os.path.realpath(path): path for path in reversed(candidates)}  # lib64 may be a link to lib
    return [path for path in candidates if path in found.values()]


def fingerprint_of(prefix: Path) -> Fingerprint:
    """Return the base's state. Only reads names, because every run that is not warm calls it."""
    conda = sorted(name.removesuffix(".json") for name in _names(prefix / "conda-meta") if name.endswith(".json"))
    python = [name for place in site_directories(prefix) for name in _names(place) if name.endswith(_META)]
    return Fingerprint(tuple(conda), tuple(sorted(python)))


def watched_in(prefix: Path) -> list[str]:
    """Return paths whose states change whenever :func:`fingerprint_of` may."""
    return [str(prefix / "conda-meta"), *map(str, site_directories(prefix))]


def _names(directory: Path) -> Iterable[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return ()


# --- finding a base ---------------------------------------------------------------------------------------------------


def find_base(name: str, environ: Mapping[str, str], condarc: Condarc, roots: Iterable[Path]) -> Path:
    """Return the prefix for a base's name or absolute path. Raises StoreError with the candidates.

    Names are searched for in conda's ``envs_dirs``, in the ``envs`` of the installations at ``roots``, in
    ``~/.conda/envs``, and among the prefixes in ``~/.conda/environments.txt``; ``base`` is an installation.
    """
    if os.path.isabs(name):
        prefix = Path(name)
        if _is_environment(prefix):
            return prefix
        there = "is not an environment: it has neither conda-meta nor Python" if prefix.is_dir() else "does not exist"
        hint = "Name an environment by its absolute path, or as `conda env list` shows it."
        raise StoreError(f"base {name} {there}", code="base-unusable", hint=hint)
    installations = [root for root in dict.fromkeys(roots) if (root / "conda-meta").is_dir()]
    if name in ("base", "root") and installations:
        return installations[0]
    known = environments_by_name(environ, condarc, installations)
    if name in known:
        return known[name]
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(sorted(known)[:_MOST_TOLD]) + (", ..." if len(known) > _MOST_TOLD else "")
    meant = f"Did you mean {near[0]!r}? " if near else ""
    hint = (
        f"{meant}Known environments: {listed}."
        if known
        else "Name the base by its absolute path: conda lists no environments."
    )
    problem = f"base {name!r} was not found"
    raise StoreError(problem, code="environment-not-found", hint=hint)


def _is_environment(prefix: Path) -> bool:
    """Return whether a prefix can be a base: a conda environment or a virtual environment."""
    return (prefix / "conda-meta").is_dir() or python_of(prefix).exists()


def environments_by_name(
    environ: Mapping[str, str], condarc: Condarc, installations: Iterable[Path] = ()
) -> dict[str, Path]:
    """Return the environments that conda knows by name."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    folders = (environ.get("CONDA_ENVS_DIRS") or environ.get("CONDA_ENVS_PATH") or "").split(os.pathsep)
    folders += [*condarc.envs_dirs, *(str(root / "envs") for root in installations)]
    folders += [f"{home}/.conda/envs"] if home else []
    found = [Path(folder, name) for folder in filter(None, folders) for name in sorted(_names(Path(folder)))]
    with contextlib.suppress(OSError, ValueError):
        lines = read_text(Path(home, ".conda", "environments.txt"), SETTINGS).splitlines() if home else []
        found += [Path(line.strip()) for line in lines if os.path.isabs(line.strip())]
    return {prefix.name: prefix for prefix in reversed(found) if _is_environment(prefix)}


# --- changes ----------------------------------------------------------------------------------------------------------


def changes_between(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Return the changes in a base, one text for each package: ``numpy 1.26.4 -> 2.0.1``, ``six 1.17 removed``."""
    old, new = _versions(before), _versions(after)
    told = []
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if was is None or now is None:
            told.append(f"{name} {was[0]} removed" if was else f"{name} {new[name][0]} added")
        elif was != now:
            texts = (" ".join(filter(None, each)) if was[0] == now[0] else each[0] for each in (was, now))
            told.append(f"{name} {' -> '.join(texts)}")
    return told


def _versions(state: Fingerprint) -> dict[str, tuple[str, str]]:
    """Return version and build of each package; one that both conda and Python list counts once, as conda's."""
    found: dict[str, tuple[str, str]] = {}
    for stem in state.python:
        name, _, version = stem.rpartition(".")[0].partition("-")
        found[normalized(name)] = (version.split("-py")[0], "")
    for stem in state.conda:
        name, version, build = [*stem.rsplit("-", 2), "", ""][:3]
        python = found.get(normalized(name))
        # pip may have replaced what conda installed: its version is the one that is imported
        found[normalized(name)] = (version, build) if python is None or python[0] == version else python
    return found

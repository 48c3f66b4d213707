"""Check whether compiled packages of a base still work with the overlay.

A package compiled against another's C interface (above all numpy's) may break with a newer version although its
metadata allow it. So packages of the base that have compiled modules and require a shadowed package are imported once
with the overlay; a package that fails there, but works in the base alone, is broken.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cetool.base.process import clean_environ, guarded_command
from cetool.base.text import normalized
from cetool.overlays.base import Base
from cetool.overlays.guard import guard_of
from cetool.packages.distributions import Distribution

_COMPILED = (".so", ".pyd", ".dylib")
#: Maximum number of modules to import for a package: each loads others that it needs.
_MOST_MODULES = 6
#: Seconds for one package. A slower import counts as working: it has not failed.
_PATIENCE = 60.0
_IMPORT = """\
import importlib, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = "%s: %s" % (type(error).__name__, (str(error).strip().splitlines() or [""])[-1][:200])
sys.stdout.flush()
print("\\n" + json.dumps(failed))
"""


@dataclass(frozen=True, slots=True)
class Failure:
    """A package of the base that no longer works."""

    name: str
    version: str
    #: Its error message.
    reason: str
    #: Whether conda installed it: an index has another build of the same version.
    rebuilt: bool


def failures(
    base: Base,
    prefix: Path,
    below: Mapping[str, Distribution],
    over: Mapping[str, Distribution],
    environ: Mapping[str, str],
    *,
    also: set[str],
) -> list[Failure]:
    """Return the base's compiled packages that fail only with the overlay; also check those in ``also``."""
    shadowed = {name for name in over if name in below and _modules(below[name])}
    found = []
    for name, distribution in sorted(below.items()):
        if name in over and name not in also:
            continue
        if not shadowed - {name} & _needed(distribution):
            continue
        current = over.get(name, distribution)
        modules = _modules(current)
        failed = _import(base, modules, environ, guard_of(prefix)) if modules else {}
        if failed:
            alone = {} if name in over else _import(base, list(failed), environ, None)
            if failed.keys() - alone.keys():
                reason = next(text for module, text in failed.items() if module not in alone)
                found.append(Failure(name, current.version, reason, current.installer == "conda"))
    return found


def _needed(distribution: Distribution) -> set[str]:
    from packaging.requirements import InvalidRequirement, Requirement

    names = set()
    for text in distribution.requires:
        try:
            names.add(normalized(Requirement(text).name))
        except InvalidRequirement:
            continue
    return names


def _modules(distribution: Distribution) -> list[str]:
    """Return the compiled modules of a distribution to import, the outermost packages first."""
    names = set()
    for file in distribution.listed:
        if file.suffix in _COMPILED and ".." not in file.parts and file.name.partition(".")[2]:
            parts = (*file.parts[:-1], file.name.partition(".")[0])
            if all(part.isidentifier() for part in parts) and "tests" not in parts:
                names.add(".".join(parts))
    return sorted(names, key=lambda name: (name.count("."), name))[:_MOST_MODULES]


def _import(base: Base, modules: list[str], environ: Mapping[str, str], guard: Path | None) -> dict[str, str]:
    """Return the error of each module that cannot be imported; a crash fails all of them."""
    variables = clean_environ(environ)
    if guard is not None:
        variables["PYTHONPATH"] = str(guard)
    variables.update(MPLBACKEND="agg", QT_QPA_PLATFORM="offscreen")
    try:
        done = subprocess.run(
            guarded_command(base.python, "-c", _IMPORT, *modules),
            env=variables,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if done.returncode < 0:
        return dict.fromkeys(modules, f"crash with signal {-done.returncode}")
    try:
        failed = json.loads(done.stdout.decode(errors="replace").strip().splitlines()[-1])
        return {str(name): str(text) for name, text in failed.items()}
    except (ValueError, IndexError, AttributeError):
        return {}

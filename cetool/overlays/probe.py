"""Whether compiled packages of a base still work with what lies over it.

A package that was compiled against another's C interface (numpy's, above all) may break with a newer one although its
metadata say nothing of the kind. So those of the base that have compiled modules, and require something that is
shadowed, are imported once in the merged view; what fails there and does not in the base by itself is broken.
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
#: Modules of one package that are imported: each loads those that it needs itself.
_MOST_MODULES = 6
#: Seconds for one package. What takes longer is left alone: it has not failed.
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
    """A package of the base that does not work any more."""

    name: str
    version: str
    #: What it said.
    reason: str
    #: Conda installed it: what an index has of the same version was built by others.
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
    """The compiled packages of the base that work there and fail in the merged view; those ``also`` of the overlay."""
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
    """The compiled modules of a distribution, those nearest to the top first, as far as they are imported here."""
    names = set()
    for file in distribution.listed:
        if file.suffix in _COMPILED and ".." not in file.parts and file.name.partition(".")[2]:
            parts = (*file.parts[:-1], file.name.partition(".")[0])
            if all(part.isidentifier() for part in parts) and "tests" not in parts:
                names.add(".".join(parts))
    return sorted(names, key=lambda name: (name.count("."), name))[:_MOST_MODULES]


def _import(base: Base, modules: list[str], environ: Mapping[str, str], guard: Path | None) -> dict[str, str]:
    """What importing these modules failed at, by module; a crash fails them all."""
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
        return dict.fromkeys(modules, f"it crashes, by signal {-done.returncode}")
    try:
        failed = json.loads(done.stdout.decode(errors="replace").strip().splitlines()[-1])
        return {str(name): str(text) for name, text in failed.items()}
    except (ValueError, IndexError, AttributeError):
        return {}

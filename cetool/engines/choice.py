"""Choose the engine that makes environments, and explain the choice.

The order is mamba, micromamba, conda, then rattler, which is built in.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from cetool.base.errors import EngineError, UsageError
from cetool.engines.discovery import NAMES, VARIABLES, command_of, find_engine
from cetool.engines.protocol import Engine, Found

#: The module of each engine; only that of the chosen engine is imported (the module for programs takes 5 ms).
_MODULES = {
    "rattler": "cetool.engines.rattler.engine",
    **dict.fromkeys(("mamba", "micromamba", "conda"), "cetool.engines.program"),
}


def choose_engine(
    wanted: str | None, environ: Mapping[str, str], *, lock_dir: Path, cache_dir: Path, trusting: bool = True
) -> tuple[Engine, str]:
    """Return an engine that is ready to use, and the reason for the choice.

    ``wanted`` is its name, or None for the first engine that is found and works. ``lock_dir`` has the file locks for
    conda's package cache, ``cache_dir`` is where the embedded engine keeps packages. If ``trusting``, a program that
    looks genuine is not asked for its version, which takes time: if it does not work, creation fails soon enough.
    Raises UsageError if there is no engine of this name, and EngineError if the wanted engine cannot be used.
    """
    if wanted is not None:
        name = _known(wanted)
        found = find_engine(name, environ, with_version=True, trusting=trusting)
        if found.problem is not None:
            variable = VARIABLES.get(name)
            set_variable = f", set {variable} to its path" if variable else ""
            raise EngineError(
                str(found.problem) if found.path is None else _unusable(found),
                about=name,
                code="engine-missing",
                hint=f"Install {name}{set_variable}, or choose another engine (--engine, CETOOL_ENGINE).",
            )
        engine = _engine(found, environ, lock_dir, cache_dir)
        return engine, f"{name} was requested" + (f" and found at {found.path} ({found.how})" if found.path else "")
    passed_over: list[str] = []
    for name in NAMES:
        found = find_engine(name, environ, with_version=True, trusting=trusting)
        if found.problem is None:
            return _engine(found, environ, lock_dir, cache_dir), _reason(found, passed_over)
        if found.path is not None:
            passed_over.append(f"{found.path}: {found.problem}")
    raise EngineError(
        "no engine was found: mamba, micromamba, conda and py-rattler are not installed",
        code="engine-missing",
        hint="Install micromamba or Miniforge, or reinstall cetool with its dependencies, which include py-rattler.",
    )


def choose_again(
    engine: Engine, wanted: str | None, environ: Mapping[str, str], *, lock_dir: Path, cache_dir: Path
) -> tuple[Engine, str] | None:
    """Choose another engine after a trusted one has failed; return None if the failed engine is genuine.

    Raises EngineError if there is no other engine.
    """
    if not getattr(engine, "on_trust", False):
        return None
    try:
        _ = engine.version
    except EngineError:
        return choose_engine(wanted, environ, lock_dir=lock_dir, cache_dir=cache_dir, trusting=False)
    return None


def _unusable(found: Found) -> str:
    return f"cannot use {found.name} at {found.path} ({found.how}): {found.problem}"


def _reason(found: Found, passed_over: list[str]) -> str:
    if found.path is None:
        reason = "built in; mamba, micromamba and conda were not found"
        if passed_over:
            reason = "built in; no other engine can be used"
    else:
        reason = f"found at {found.path} ({found.how})"
    return reason + (f"; skipped {'; '.join(passed_over)}" if passed_over else "")


def _known(wanted: str) -> str:
    name = wanted.strip().lower()
    if name in NAMES:
        return name
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
    raise UsageError(
        f"unknown engine {wanted!r}",
        hint=(f"Did you mean '{near[0]}'? " if near else "") + f"The engines are {', '.join(NAMES)}.",
    )


def _engine(found: Found, environ: Mapping[str, str], lock_dir: Path, cache_dir: Path) -> Engine:
    module = import_module(_MODULES[found.name])
    made: Engine
    if found.name == "rattler":
        made = module.RattlerEngine(environ, cache_dir)
    else:
        made = module.ProgramEngine(found.name, command_of(found), environ, lock_dir=lock_dir, version=found.version)
    return made

"""Which engine makes environments on this machine, and why it is taken.

The order is mamba, micromamba, conda, then rattler, which is built in.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from cetool.base.errors import EngineError, UsageError
from cetool.engines.discovery import NAMES, command_of, find_engine
from cetool.engines.protocol import Engine, Found

#: The module of each engine, imported for the one that is chosen: that of programs takes 5 ms.
_MODULES = {
    "rattler": "cetool.engines.rattler.engine",
    **dict.fromkeys(("mamba", "micromamba", "conda"), "cetool.engines.program"),
}


def choose_engine(
    wanted: str | None, environ: Mapping[str, str], *, lock_dir: Path, cache_dir: Path, trusting: bool = True
) -> tuple[Engine, str]:
    """The engine that serves, ready to use, and a sentence on why it was taken.

    ``wanted`` is its name, or None for the first that is found and answers. ``lock_dir`` is where creations by conda
    take turns, ``cache_dir`` where the embedded engine keeps its packages. One that looks genuine need not answer,
    unless ``trusting`` is false: asking takes time, and that it works is seen soon enough. Raises UsageError for a name
    that there is not, and EngineError where the wanted engine is not found or does not answer.
    """
    if wanted is not None:
        name = _known(wanted)
        found = find_engine(name, environ, with_version=True, trusting=trusting)
        if found.problem is not None:
            raise EngineError(
                f"the engine {name} does not serve: {found.problem}",
                about=name,
                code="engine-missing",
                hint="Install it, set its variable (MAMBA_EXE, CONDA_EXE), or leave --engine and CETOOL_ENGINE out.",
            )
        engine = _engine(found, environ, lock_dir, cache_dir)
        return engine, f"{name} was asked for" + (f", and found at {found.path} ({found.how})" if found.path else "")
    passed_over: list[str] = []
    for name in NAMES:
        found = find_engine(name, environ, with_version=True, trusting=trusting)
        if found.problem is None:
            return _engine(found, environ, lock_dir, cache_dir), _reason(found, passed_over)
        if found.path is not None:
            passed_over.append(f"{found.path}: {found.problem}")
    raise EngineError(
        "no engine serves: there is no mamba, micromamba or conda, and py-rattler is not installed",
        code="engine-missing",
        hint="Install micromamba or Miniforge, or cetool with its dependencies (pip install --force-reinstall cetool).",
    )


def choose_anew(
    engine: Engine, wanted: str | None, environ: Mapping[str, str], *, lock_dir: Path, cache_dir: Path
) -> tuple[Engine, str] | None:
    """As :func:`choose_engine`, after one that was taken on trust has failed; None where it is what it was taken for.

    Raises EngineError where there is no other.
    """
    if not getattr(engine, "on_trust", False):
        return None
    try:
        _ = engine.version
    except EngineError:
        return choose_engine(wanted, environ, lock_dir=lock_dir, cache_dir=cache_dir, trusting=False)
    return None


def _reason(found: Found, passed_over: list[str]) -> str:
    if found.path is None:
        reason = "it is built in, and no mamba, micromamba or conda was found"
        if passed_over:
            reason = "it is built in, and no other engine serves"
    else:
        reason = f"it was found at {found.path} ({found.how})"
    return reason + (f"; passed over: {'; '.join(passed_over)}" if passed_over else "")


def _known(wanted: str) -> str:
    name = wanted.strip().lower()
    if name in NAMES:
        return name
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
    raise UsageError(
        f"there is no engine {wanted!r}",
        hint=(f"Did you mean {near[0]}? " if near else "") + f"Engines: {', '.join(NAMES)}.",
    )


def _engine(found: Found, environ: Mapping[str, str], lock_dir: Path, cache_dir: Path) -> Engine:
    module = import_module(_MODULES[found.name])
    made: Engine
    if found.name == "rattler":
        made = module.RattlerEngine(environ, cache_dir)
    else:
        made = module.ProgramEngine(found.name, command_of(found), environ, lock_dir=lock_dir, version=found.version)
    return made

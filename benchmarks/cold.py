"""The cold run and creation with each installed engine, compared with calling the engine for the same specs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.groups import Difference, Group
from benchmarks.measure import Case
from benchmarks.scene import Scene

#: Seconds that cetool may add to the time of the engine.
MARGIN = 0.060
#: Seconds until a script with python and numpy has run, by the embedded engine, with the packages in its cache.
LIMIT = 0.35
SPECS = ("python", "numpy")

_DIRECT = Path(__file__).with_name("direct_rattler.py")
# the commands that cetool runs conda and mamba with, followed by the script
_CREATE = {
    "conda": 'prefix=$2 script=$3; "$1" create --yes --prefix "$prefix" --no-default-packages --override-channels '
    '--channel conda-forge python numpy && exec "$prefix/bin/python" "$script"',
    "mamba": 'prefix=$2 script=$3; "$1" create -y -p "$prefix" --override-channels -c conda-forge python numpy '
    '&& exec "$prefix/bin/python" "$script"',
}


def engines(scene: Scene) -> list[str]:
    """Return the installed engines; note in the scene why others are left out."""
    names = [name for name in ("conda", "mamba", "micromamba") if name in scene.programs]
    for name in ("conda", "mamba", "micromamba"):
        if name not in names:
            scene.skipped[f"the engine {name}"] = f"{name} is not on the PATH"
    return ["rattler", *names]


def cold_group(scene: Scene, rounds: int) -> Group:
    """Run a script whose environment is missing: with cetool, and with the engine, packages cached or not."""
    script = scene.script("cold.py", env=f"[{', '.join(SPECS)}]")
    cases: list[Case] = []
    comparisons: list[Difference] = []
    for engine in engines(scene):
        for cached in (True, False):
            packages = scene.home.path / f"packages-{engine}{'' if cached else '-new'}"
            state = "packages cached" if cached else "packages not cached"
            base, name = f"{engine} itself, {state}", f"cetool, {engine}, {state}"
            every = 1 if engine == "rattler" or cached else 3
            gone = [] if cached else [packages]
            cases += _pair(scene, engine, packages, script, (base, name), gone, every)
            target = MARGIN if cached else None
            comparisons.append(Difference(f"cetool adds to {engine}, {state}", name, base, target))
    comparisons.append(Difference("python and numpy, rattler", "cetool, rattler, packages cached", target=LIMIT))
    notes = [
        "The channel is a local directory: packages that are not cached are read from there.",
        "cetool waits until the environment is written to disk; the engines do not.",
        "conda's own time varies between runs by more than cetool adds: the bounds show the uncertainty.",
    ]
    return Group("cold", "The cold run: python and numpy", rounds, cases, comparisons, notes)


def creation_group(scene: Scene, rounds: int) -> Group:
    """Run ``cetool create`` with each engine, packages cached."""
    cases = []
    for engine in engines(scene):
        packages = scene.home.path / f"packages-{engine}"
        env, cache = variables(scene, engine, packages)
        argv = (scene.cetool, "create", "--quiet", *SPECS)
        cases.append(
            Case(f"cetool create, {engine}", argv, env, prepare=remover(cache), every=1 if engine == "rattler" else 3)
        )
    return Group("creation", "Creation: python and numpy, packages cached", rounds, cases)


def _pair(
    scene: Scene,
    engine: str,
    packages: Path,
    script: str,
    names: tuple[str, str],
    gone: Sequence[Path],
    every: int,
) -> Iterator[Case]:
    """Return the engine's case and cetool's: ``names`` are their names, ``gone`` is removed before each run."""
    base, name = names
    env, cache = variables(scene, engine, packages)
    prefix = scene.home.path / f"prefix-{engine}"
    if engine == "rattler":
        places = (str(prefix), str(packages), scene.channel.url, script)
        argv: tuple[str, ...] = (sys.executable, str(_DIRECT), *places, *SPECS)
    else:
        words = _CREATE["conda" if engine == "conda" else "mamba"]
        argv = ("/bin/sh", "-c", words, "sh", scene.programs[engine], str(prefix), script)
    yield Case(base, argv, env, prepare=remover(prefix, *gone), every=every)
    yield Case(name, (scene.cetool, "--quiet", script), env, base, remover(cache, *gone), every=every)


def variables(scene: Scene, engine: str, packages: Path) -> tuple[dict[str, str], Path]:
    """Return variables that make cetool use this engine and package cache, and cetool's cache directory."""
    cache = scene.home.path / f"cache-{engine}"
    changes = {"CETOOL_CACHE_DIR": str(cache), "CETOOL_ENGINE": engine}
    if engine == "rattler":
        changes["CETOOL_PKG_DIR"] = str(packages)
    else:
        changes["CONDA_EXE" if engine == "conda" else "MAMBA_EXE"] = scene.programs[engine]
        changes["CONDA_PKGS_DIRS"] = str(packages)
        changes["MAMBA_ROOT_PREFIX"] = str(scene.home.path / "mamba")
        changes |= {"CONDA_REGISTER_ENVS": "false", "CONDA_NUMBER_CHANNEL_NOTICES": "0"}
    return scene.home.environment(changes), cache


def remover(*paths: Path) -> Callable[[], None]:
    """Return a function that removes directories and flushes pending writes to disk."""

    def remove() -> None:
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
        os.sync()

    return remove

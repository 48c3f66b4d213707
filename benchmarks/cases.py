"""The warm run, compared with the environment's python, uv, and other programs; alone, and many at once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.groups import Difference, Group, Ratio
from benchmarks.measure import Case
from benchmarks.scene import Scene

#: The maximum that a warm run of cetool may add, as a fraction of what `uv run --script` adds.
BAR = 0.75
#: Numbers of processes that are started at once.
CROWDS = (1, 10, 100)

CETOOL, CETOOL_BASE = "cetool script", "its python script"
UV, UV_BASE = "uv run --script script", "its python script (uv)"
# Waiting for a file's times to settle lets the processor idle, so the compared command waits too.
CHANGED, CHANGED_BASE = "cetool: script changed, block not", "its python script (changed)"
UV_CHANGED, UV_CHANGED_BASE = "uv: script changed, block not", "its python script (uv, changed)"
_UV_RUN = ("run", "--quiet", "--script")


def warm_group(scene: Scene, rounds: int) -> Group:
    """Return all forms of the warm run, those of uv, and those of other installed programs."""
    script = scene.script("warm.py")
    prefix = scene.prefix(script)
    env = scene.env
    python = f"{prefix}/bin/python"
    changed = scene.script("changed.py")
    activating = scene.script("activating.py", env="[python, activated]")
    activating_prefix = scene.prefix(activating)
    cases = [
        Case(CETOOL_BASE, (python, script), env),
        Case(CETOOL, (scene.cetool, script), env, CETOOL_BASE),
        Case("cetool run script ARGS", (scene.cetool, "run", script, "one", "two"), env, CETOOL_BASE),
        Case("cetool -q script", (scene.cetool, "-q", script), env, CETOOL_BASE),
        Case("cetool: shebang", (scene.script("shebang.py", shebang="#!/usr/bin/env cetool"),), env, CETOOL_BASE),
        Case(CHANGED_BASE, (python, changed), env, None, changing(changed)),
        Case(CHANGED, (scene.cetool, changed), env, CHANGED_BASE, changing(changed)),
        Case("its python script (activation)", (f"{activating_prefix}/bin/python", activating), env),
        Case("cetool: activation scripts", (scene.cetool, activating), env, "its python script (activation)"),
    ]
    comparisons: list[Ratio | Difference] = [Difference("cetool script adds", CETOOL, CETOOL_BASE)]
    if "uv" in scene.programs:
        cases += _uv_cases(scene)
        comparisons.append(Difference("uv run --script adds", UV, UV_BASE))
        comparisons += [
            Ratio(f"{ours} adds, of what uv adds", ours, theirs, base, their, BAR)
            for ours, theirs, base, their in (
                (CETOOL, UV, CETOOL_BASE, UV_BASE),
                ("cetool: shebang", "uv: shebang", CETOOL_BASE, UV_BASE),
                (CHANGED, UV_CHANGED, CHANGED_BASE, UV_CHANGED_BASE),
            )
        ]
    cases += _others(scene, prefix, python, script)
    return Group("warm", "The warm run", rounds, cases, comparisons)


def _uv_cases(scene: Scene) -> Iterator[Case]:
    script, python = uv_setup(scene)
    uv, env = scene.programs["uv"], scene.env
    changed = scene.uv_script("changed_uv.py")
    scene.ask(uv, *_UV_RUN, changed)
    shebang = scene.uv_script("shebang_uv.py", "#!/usr/bin/env -S uv run --quiet --script")
    yield Case(UV_BASE, (python, script), env)
    yield Case(UV, (uv, *_UV_RUN, script), env, UV_BASE)
    yield Case("uv: shebang", (shebang,), env, UV_BASE)
    yield Case(UV_CHANGED_BASE, (python, changed), env, None, changing(changed))
    yield Case(UV_CHANGED, (uv, *_UV_RUN, changed), env, UV_CHANGED_BASE, changing(changed))


def uv_setup(scene: Scene) -> tuple[str, str]:
    """Return a script for uv, and the python of the environment that uv made for it."""
    uv = scene.programs["uv"]
    # uv keeps an environment for each script's path, independent of its text
    told = "# /// script\n# dependencies = []\n# ///\nimport sys\nprint(sys.executable)\n"
    python = scene.ask(uv, *_UV_RUN, str(scene.home.write("warm_uv.py", told)))
    return scene.uv_script("warm_uv.py"), python


def changing(script: str) -> Callable[[], None]:
    """Return a function that changes a script below its block and lets the file's times settle, as after an edit."""
    path = Path(script)
    text = path.read_text(encoding="utf-8")
    numbers = itertools.count()

    def change() -> None:
        path.write_text(f"{text}# change {next(numbers)}\n", encoding="utf-8")
        time.sleep(0.06)

    return change


def _others(scene: Scene, prefix: str, python: str, script: str) -> Iterator[Case]:
    """Yield conda run, micromamba run and conda-exec's ce if installed; otherwise note the reason in the scene."""
    root, packages = str(scene.home.path / "mamba"), str(scene.home.path / "conda-pkgs")
    env = scene.home.environment({"MAMBA_ROOT_PREFIX": root, "CONDA_PKGS_DIRS": packages})
    block = "# /// script\n# [tool.conda]\n# channels = ['conda-forge']\n# dependencies = ['python']\n# ///\n"
    run = ("run", "-p", prefix, "python", script)
    candidates: dict[str, tuple[str, ...]] = dict.fromkeys(("conda", "mamba", "micromamba"), run)
    candidates["ce"] = (str(scene.home.write("warm_ce.py", block)),)
    for name, words in candidates.items():
        shown = "ce script" if name == "ce" else f"{name} run -p PREFIX python script"
        program = scene.programs.get(name)
        if program is None:
            scene.skipped[shown] = f"{name} is not on the PATH"
            continue
        done = scene.home.run(program, *words, env=env)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            scene.skipped[shown] = f"it failed with exit status {done.returncode}: {said[-1]}".replace(
                str(scene.home.path), "~"
            )
            continue
        yield Case(shown, (program, *words), env, CETOOL_BASE, every=5)


def parallel_group(scene: Scene, rounds: int) -> Group:
    """Return warm runs that are started at once, measured until the last one ends."""
    script = scene.script("warm.py")
    python = f"{scene.prefix(script)}/bin/python"
    env = scene.env
    uv = uv_setup(scene) if "uv" in scene.programs else None
    cases, comparisons = [], []
    for copies in CROWDS:
        base = f"{copies} × its python script"
        cases.append(Case(base, (python, script), env, copies=copies))
        cases.append(Case(f"{copies} × cetool script", (scene.cetool, script), env, base, copies=copies))
        if uv is not None:
            their, theirs = f"{copies} × its python script (uv)", f"{copies} × uv run --script script"
            argv = (scene.programs["uv"], *_UV_RUN, uv[0])
            cases.append(Case(their, (uv[1], uv[0]), env, copies=copies))
            cases.append(Case(theirs, argv, env, their, copies=copies))
            comparisons.append(
                Ratio(
                    f"{copies} at once: cetool adds, of what uv adds", f"{copies} × cetool script", theirs, base, their
                )
            )
    return Group("parallel", "Warm runs at once", rounds, cases, comparisons)

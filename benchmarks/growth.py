"""Measure growth: the warm run, ``list`` and ``gc --dry-run`` with thousands of environments."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cases import CETOOL_BASE
from benchmarks.groups import Difference, Group, Peak, Ratio
from benchmarks.measure import Case
from benchmarks.scene import Scene
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.settings.paths import Paths
from cetool.store.store import FROZEN, MARKER, Marker, Store, note_made
from cetool.store.usage import open_usage_log
from cetool.warm.files import ACTIVE

#: The maximum time of a warm run with the full cache, as a multiple of the time with an empty one.
FACTOR = 1.05
#: Seconds and bytes that `list` and `gc --dry-run` may take.
SECONDS, MEMORY = 2.0, 200e6

#: One in this many environments is unused for longer than it is kept.
_ONE_OLD_IN = 10
_DAY = 86400.0
_BYTES = 120_000_000


def growth_group(scene: Scene, rounds: int, environments: int, runs: int, tell: Callable[[str], None]) -> Group:
    """Measure in two caches: an empty one, and one with many environments and logged runs."""
    script = scene.script("growth.py")
    full = scene.home.path / "full"
    env = scene.env
    env_full = scene.home.environment({"CETOOL_CACHE_DIR": str(full)})
    seconds = fill(full, environments, runs, tell)
    python = f"{scene.prefix(script)}/bin/python"
    many = f"{environments:,} environments, {runs:,} runs"
    every = max(1, rounds // 10)
    empty, filled = "cetool script, empty cache", f"cetool script, {many}"
    commands = {
        "cetool list": ("list",),
        "cetool list --json": ("list", "--json"),
        "cetool gc --dry-run": ("gc", "--dry-run"),
        "cetool gc --dry-run --older-than 0s": ("gc", "--dry-run", "--older-than", "0s"),
    }
    cases = [
        Case(CETOOL_BASE, (python, script), env),
        Case(empty, (scene.cetool, script), env, CETOOL_BASE),
        Case(filled, (scene.cetool, script), env_full, CETOOL_BASE),
        *(Case(name, (scene.cetool, *words), env_full, every=every, peak=True) for name, words in commands.items()),
    ]
    comparisons: list[Ratio | Difference | Peak] = [
        Ratio("the warm run, full cache to empty", filled, empty, target=FACTOR),
        Ratio("what it adds, full cache to empty", filled, empty, CETOOL_BASE, CETOOL_BASE),
    ]
    for name in commands:
        comparisons += [Difference(name, name, target=SECONDS), Peak(f"{name}: memory", name, MEMORY)]
    notes = [
        f"The full cache has {many}, {environments:,} launch records; one environment in {_ONE_OLD_IN} is old "
        "enough to be removed. Each has five small files: with thousands, computing the freed size takes longer.",
        f"Adding {runs:,} runs from the spool to the usage log took {seconds:.1f} s, once.",
    ]
    return Group("growth", "A cache that has grown", rounds, cases, comparisons, notes)


def fill(root: Path, environments: int, runs: int, tell: Callable[[str], None]) -> float:
    """Fill a cache as cetool would: markers, file locks, launch records, and a usage log with the runs.

    Returns the seconds that taking them in took.
    """
    paths = Paths(root, root / "envs", root / "locks", root / "trash", None)
    for directory in (paths.envs, paths.locks, paths.launch, paths.spool):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    draw = random.Random(0)
    now = time.time()
    with open_usage_log(paths, Store(paths), warn=tell) as usage:
        ages = [_make_environment(paths, number, now, draw) for number in range(environments)]
        tell(f"{environments:,} environments made")
        _write_notes(paths, ages, runs, now, draw)
        tell(f"{runs:,} runs noted")
        begun = time.perf_counter()
        usage.take_in()
        return time.perf_counter() - begun


def _spec(number: int) -> EnvironmentSpec:
    return EnvironmentSpec(Solve((f"package-{number}", "python >=3")))


def _make_environment(paths: Paths, number: int, now: float, draw: random.Random) -> tuple[str, float]:
    """Make a small environment with everything that cetool keeps; return its name and seconds since its last use."""
    spec = _spec(number)
    prefix = paths.envs / spec.name
    unused = draw.uniform(2, 20) * _DAY if number % _ONE_OLD_IN == 0 else draw.uniform(60, 20 * 3600)
    marker = Marker(
        name=spec.name,
        prefix=str(prefix),
        subdir="linux-64",
        spec=spec,
        engine="rattler",
        engine_version="0",
        created=now - unused - draw.uniform(1, 30) * _DAY,
        seconds=1.5,
        packages=12,
        size=_BYTES,
        cetool="0",
    )
    files = {
        "bin/python": "",
        "lib/library.so": "",
        "conda-meta/history": "==> made by the benchmark <==\n",
        FROZEN: "{}\n",
        MARKER: json.dumps(marker.as_dict(), indent=1),
    }
    for name in ("bin", "lib", "conda-meta"):
        (prefix / name).mkdir(parents=True)
    for name, text in files.items():
        (prefix / name).write_text(text, encoding="utf-8")
    (paths.locks / f"{spec.name}.lock").touch(0o600)
    (paths.launch / f"{number:032x}").write_text("a record of another script\n", encoding="utf-8")
    note_made(paths.spool, spec.name)
    return spec.name, unused


def _write_notes(paths: Paths, ages: list[tuple[str, float]], runs: int, now: float, draw: random.Random) -> None:
    """Write this many runs to the spool, distributed evenly over the environments, the latest last."""
    host = os.uname().nodename
    kept = 30 * _DAY
    with (paths.spool / ACTIVE).open("a", encoding="utf-8") as file:
        for number in range(runs):
            name, unused = ages[number % len(ages)]
            since = unused + (kept - unused) * (1 - number / runs)
            pid, start = draw.randrange(300, 4_000_000), draw.randrange(1000, 100_000_000)
            when = int((now - since) * 1e9)
            file.write(f"\n{when}\t{pid}\t{start}\t{host}\t{name}\t/home/user/scripts/{name}.py\n")

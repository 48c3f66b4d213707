"""Solving in a channel of conda-forge's size, by cetool, by py-rattler called directly, and by other engines.

Nothing is installed: ``cetool check --solve``, and the dry runs of conda, mamba and micromamba.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.big_channel import NAMES, chosen, write_big_channel
from benchmarks.groups import Difference, Group, Peak, Ratio
from benchmarks.measure import Case, Failed
from benchmarks.scene import Scene

_DIRECT = Path(__file__).with_name("direct_solving.py")
_ENGINES = ("micromamba", "mamba", "conda")
#: The states of the metadata: what the server says of its answers, and whether the cache is emptied before each run.
_STATES = {"nothing cached": ("fresh", True), "cached": ("fresh", False), "expired": ("stale", False)}
#: Of micromamba's time, by the number of names, and for answers that are 25 ms late.
_TARGETS = {2: 0.6, 10: 0.95, 40: 0.95}
_SLOW_TARGET = 0.2


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Serve a channel in another process; return its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "benchmarks.big_server", str(directory), str(port)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(argv, cwd=root, stdin=subprocess.PIPE) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{address}/-/count").close()
                    break
                time.sleep(0.05)
            else:
                raise Failed("the server of the synthetic channel did not start")
            yield address
        finally:
            assert process.stdin is not None
            process.stdin.close()


def scale_group(scene: Scene, rounds: int, address: str, channel: Path, size: float, seed: int) -> Group:
    """Solve for 2, 10 and 40 names in each state of the cache, and lock for one and for three platforms."""
    cases: list[Case] = []
    comparisons: list[Ratio | Difference | Peak] = []
    for count in (2, 10, 40):
        specs = chosen(count, scale=size, seed=seed)
        for state, (how, empty) in _STATES.items():
            title = f"{count} names, {state}"
            cases += _solvers(scene, f"{address}/{how}", specs, title, empty=empty)
            comparisons += _compared(scene, title, _TARGETS[count])
        comparisons.append(Peak(f"memory for {count} names", f"cetool, {count} names, cached", _memory(count)))
    many, few = chosen(40, scale=size, seed=seed), chosen(2, scale=size, seed=seed)
    cases += _solvers(scene, f"{address}/slow", many, "40 names, answers 25 ms late", empty=True)
    comparisons += _compared(scene, "40 names, answers 25 ms late", _SLOW_TARGET)
    for state, empty in (("nothing cached", True), ("cached", False)):
        title = f"2 names, no shards, {state}"
        cases += _solvers(scene, f"{address}/plain", few, title, empty=empty)
        comparisons += _compared(scene, title, _TARGETS[2])
    cases += _locks(scene, f"{address}/fresh", chosen(10, scale=size, seed=seed))
    comparisons.append(
        Ratio("three platforms, of one", "cetool lock, 3 platforms", "cetool lock, 1 platform", target=1.5)
    )
    comparisons.append(Difference("a lock that is up to date", "cetool lock, up to date", target=0.15))
    asking = [case for case in cases if case.name.startswith("cetool") and "nothing cached" in case.name]
    notes = [
        f"The channel has {int(NAMES * size):,} names (conda-forge's is of size 1: {NAMES:,}), seed {seed}.",
        *(_traffic(case, address) for case in asking),
    ]
    return Group("scale", "Solving in a large channel", rounds, cases, comparisons, notes)


def _memory(count: int) -> float | None:
    return {2: 90e6, 40: 400e6}.get(count)


def _compared(scene: Scene, title: str, target: float) -> list[Ratio]:
    """Return the comparisons with micromamba, and with rattler itself, which has no target."""
    found = [Ratio(f"cetool, of rattler itself: {title}", f"cetool, {title}", f"rattler itself, {title}")]
    if "micromamba" in scene.programs:
        name = f"cetool, of micromamba: {title}"
        found.append(Ratio(name, f"cetool, {title}", f"micromamba, {title}", target=target))
    return found


def _solvers(scene: Scene, channel: str, specs: list[str], title: str, *, empty: bool) -> list[Case]:
    place = scene.home.path / "scale" / title.replace(" ", "-").replace(",", "")
    script = scene.script(f"{place.name}.py", env=f"[{', '.join(specs)}]")
    cache = place / "cetool"
    env = {**scene.env, "CETOOL_CACHE_DIR": str(cache), "CETOOL_CHANNELS": channel, "CETOOL_ENGINE": "rattler"}
    argv: tuple[str, ...] = (scene.cetool, "check", "--solve", "--ignore", "unpinned", script)
    measured = title.endswith("names, cached")
    cases = [Case(f"cetool, {title}", argv, env, prepare=_emptied(cache, empty), peak=measured)]
    direct = place / "rattler"
    argv = (sys.executable, str(_DIRECT), str(direct), channel, *specs)
    cases.append(Case(f"rattler itself, {title}", argv, scene.env, prepare=_emptied(direct, empty)))
    for name in _ENGINES:
        program = scene.programs.get(name)
        if program is None:
            scene.skipped[f"the engine {name}"] = f"{name} is not on the PATH"
            continue
        packages = place / name
        prefix = str(place / f"{name}-prefix")
        argv = (program, "create", "--yes", "--dry-run", "-p", prefix, "--override-channels", "-c", channel, *specs)
        env = {**scene.env, "CONDA_PKGS_DIRS": str(packages)}
        cases.append(Case(f"{name}, {title}", argv, env, prepare=_emptied(packages, empty), every=2))
    return cases


def _locks(scene: Scene, channel: str, specs: list[str]) -> list[Case]:
    place = scene.home.path / "scale" / "lock"
    env = {**scene.env, "CETOOL_CACHE_DIR": str(place), "CETOOL_CHANNELS": channel, "CETOOL_ENGINE": "rattler"}
    several = ("--platform", "linux-64", "--platform", "osx-arm64", "--platform", "win-64")
    cases: list[Case] = []
    for name, words in (("1 platform", ()), ("3 platforms", several), ("up to date", ())):
        script = scene.script(f"lock-{len(cases)}.py", env=f"[{', '.join(specs)}]")
        lock = Path(f"{script}.conda-lock.yml")
        gone = None if name == "up to date" else _without(lock)
        cases.append(Case(f"cetool lock, {name}", (scene.cetool, "lock", script, *words), env, prepare=gone))
    return cases


def _without(lock: Path) -> Callable[[], None]:
    return lambda: lock.unlink(missing_ok=True)


def _emptied(directory: Path, empty: bool) -> Callable[[], None] | None:
    return (lambda: shutil.rmtree(directory, ignore_errors=True)) if empty else None


def _traffic(case: Case, address: str) -> str:
    """Return a note about what a case asks of the server."""
    if case.prepare is not None:
        case.prepare()
    urllib.request.urlopen(f"{address}/-/count").close()
    done = subprocess.run(case.argv, env=dict(case.env), capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(case.argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    with urllib.request.urlopen(f"{address}/-/count") as answer:
        counted = json.load(answer)
    return f"{case.name}: {counted['requests']:,} requests, {counted['bytes'] / 1e6:.1f} MB."


@contextlib.contextmanager
def scaled(scene: Scene, rounds: int, size: float, seed: int) -> Iterator[Group]:
    """Make the channel, serve it, and provide the group."""
    channel = write_big_channel(scene.home.path / "channel", scale=size, seed=seed)
    with serving(channel) as address:
        yield scale_group(scene, rounds, address, channel, size, seed)

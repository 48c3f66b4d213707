"""Solving in a channel of conda-forge's size, by cetool, by py-rattler called directly, and by other engines.

cetool solves with ``cetool check --solve``, the engines with dry runs; ``cetool path`` creates an environment.
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
from dataclasses import dataclass
from pathlib import Path

from benchmarks.big_channel import NAMES, chosen, impossible, write_big_channel
from benchmarks.groups import Difference, Group, Peak, Ratio
from benchmarks.measure import Case, Failed
from benchmarks.scene import Scene

_DIRECT = Path(__file__).with_name("direct_solving.py")
_ENGINES = ("micromamba", "mamba", "conda")
#: The states of the metadata: what the server says of its answers, and whether the cache is emptied before each run.
_STATES = {
    "nothing cached": ("fresh", True),
    "metadata cached": ("fresh", False),
    "metadata expired": ("stale", False),
}
#: Of micromamba's time, by the number of names, and for answers that are 25 ms late.
_TARGETS = {2: 0.6, 10: 0.95, 40: 0.95}
_SLOW_TARGET = 0.2
#: Bytes that cetool may take, by the number of names.
_MEMORY = {2: 90e6, 40: 400e6}
#: Where cetool remembers solutions, below its cache directory.
_SOLUTIONS = Path("pkgs", "repodata", "solutions")
#: Seconds to use the solution of 40 names again, and to find that a lock is up to date.
_AGAIN, _UP_TO_DATE = 0.3, 0.15


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


def scale_group(scene: Scene, rounds: int, address: str, size: float, seed: int) -> Group:
    """Solve for 2, 10 and 40 names in each state of the cache, fail to, create an environment, and lock."""
    cases: list[Case] = []
    comparisons: list[Ratio | Difference | Peak] = []

    def compare(task: _Task, target: float | None) -> None:
        cases.extend(_solvers(scene, task))
        comparisons.extend(_compared(scene, task.title, target))

    for count in (2, 10, 40):
        specs = chosen(count, scale=size, seed=seed)
        for state, (how, empty) in _STATES.items():
            compare(_Task(f"{count} names, {state}", f"{address}/{how}", specs, empty=empty), _TARGETS[count])
        task = _Task(f"{count} names, solved before", f"{address}/fresh", specs)
        cases.append(_cetool(scene, task, again=True))
        if "micromamba" in scene.programs:
            below = f"micromamba, {count} names, metadata cached"
            comparisons.append(Ratio(f"cetool, of micromamba: {task.title}", f"cetool, {task.title}", below))
        comparisons.append(
            Peak(f"memory for {count} names", f"cetool, {count} names, metadata cached", _MEMORY.get(count))
        )
    comparisons.append(Difference("40 names, solved before", "cetool, 40 names, solved before", target=_AGAIN))
    few, many = (chosen(count, scale=size, seed=seed) for count in (2, 40))
    compare(_Task("40 names, answers 25 ms late", f"{address}/slow", many, empty=True), _SLOW_TARGET)
    for state, empty in (("nothing cached", True), ("metadata cached", False)):
        compare(_Task(f"2 names, no shards, {state}", f"{address}/plain", few, empty=empty), _TARGETS[2])
    for count in (10, 40):
        specs = impossible(count, scale=size, seed=seed)
        compare(_Task(f"{count} names, unsatisfiable", f"{address}/fresh", specs, fails=True), None)
    compare(_Task("creation, 40 names, packages cached", f"{address}/fresh", many, creates=True), None)
    cases += _locks(scene, f"{address}/fresh", chosen(10, scale=size, seed=seed))
    comparisons.append(
        Ratio("three platforms, of one", "cetool lock, 3 platforms", "cetool lock, 1 platform", target=1.5)
    )
    comparisons.append(Difference("a lock that is up to date", "cetool lock, up to date", target=_UP_TO_DATE))
    asking = [case for case in cases if case.name.startswith("cetool") and "nothing cached" in case.name]
    notes = [
        f"The channel has {int(NAMES * size):,} names (conda-forge's is of size 1: {NAMES:,}), seed {seed}.",
        *(_traffic(case, address) for case in asking),
    ]
    return Group("scale", "Solving in a large channel", rounds, cases, comparisons, notes)


@dataclass(frozen=True)
class _Task:
    """What each engine does: solve for ``specs``; ``empty`` if nothing is cached, ``fails`` if there is no solution."""

    title: str
    channel: str
    specs: list[str]
    empty: bool = False
    fails: bool = False
    creates: bool = False

    @property
    def peak(self) -> bool:
        """Whether memory is measured."""
        return self.title.endswith("names, metadata cached")

    def place(self, scene: Scene, name: str) -> Path:
        """Return a directory of an engine."""
        return scene.home.path / "scale" / self.title.replace(" ", "-").replace(",", "") / name


def _compared(scene: Scene, title: str, target: float | None) -> Iterator[Ratio]:
    """Yield the comparisons with micromamba, and with rattler itself, which has no target."""
    if not title.startswith("creation"):
        yield Ratio(f"cetool, of rattler itself: {title}", f"cetool, {title}", f"rattler itself, {title}")
    if "micromamba" in scene.programs:
        yield Ratio(f"cetool, of micromamba: {title}", f"cetool, {title}", f"micromamba, {title}", target=target)


def _solvers(scene: Scene, task: _Task) -> Iterator[Case]:
    yield _cetool(scene, task)
    if not task.creates:
        place = task.place(scene, "rattler")
        argv: tuple[str, ...] = (sys.executable, str(_DIRECT), str(place), task.channel, *task.specs)
        gone = _without(place) if task.empty else None
        name = f"rattler itself, {task.title}"
        yield Case(name, argv, scene.env, prepare=gone, peak=task.peak, fails=task.fails)
    for name in _ENGINES:
        program = scene.programs.get(name)
        if program is None:
            scene.skipped[f"the engine {name}"] = f"{name} is not on the PATH"
        elif name != "conda" or task.peak:  # conda takes ten times as long
            yield _engine(scene, task, name, program)


def _cetool(scene: Scene, task: _Task, *, again: bool = False) -> Case:
    """Return cetool's case; it solves unless the solution is used ``again``."""
    cache = task.place(scene, "cetool")
    script = scene.script(f"{cache.parent.name}.py", env=json.dumps(task.specs))
    env = {**scene.env, "CETOOL_CACHE_DIR": str(cache), "CETOOL_CHANNELS": task.channel, "CETOOL_ENGINE": "rattler"}
    words = ("path",) if task.creates else ("check", "--solve", "--ignore", "unpinned")
    solved = () if again else (cache / _SOLUTIONS,)
    gone = (cache,) if task.empty else (*solved, *((cache / "envs",) if task.creates else ()))
    argv = (scene.cetool, *words, script)
    return Case(f"cetool, {task.title}", argv, env, prepare=_without(*gone), peak=task.peak, fails=task.fails)


def _engine(scene: Scene, task: _Task, name: str, program: str) -> Case:
    place = task.place(scene, name)
    place.mkdir(parents=True, exist_ok=True)
    prefix = place / "prefix"
    words = ("create", "--yes", *(() if task.creates else ("--dry-run",)), "-p", str(prefix))
    argv = (program, *words, "--override-channels", "-c", task.channel, *task.specs)
    home = place / "home"  # micromamba keeps shards there
    env = {**scene.env, "HOME": str(home), "XDG_CACHE_HOME": str(home), "MAMBA_ROOT_PREFIX": str(home / "root")}
    env["CONDA_PKGS_DIRS"] = str(home / "packages")
    gone = (home, prefix) if task.empty else (prefix,)
    title = f"{name}, {task.title}"
    return Case(title, argv, env, prepare=_without(*gone), every=2, peak=task.peak, fails=task.fails)


def _locks(scene: Scene, channel: str, specs: list[str]) -> list[Case]:
    place = scene.home.path / "scale" / "lock"
    env = {**scene.env, "CETOOL_CACHE_DIR": str(place), "CETOOL_CHANNELS": channel, "CETOOL_ENGINE": "rattler"}
    several = ("--platform", "linux-64", "--platform", "osx-arm64", "--platform", "win-64")
    cases: list[Case] = []
    for name, words in (("1 platform", ()), ("3 platforms", several), ("up to date", ())):
        script = scene.script(f"lock-{len(cases)}.py", env=f"[{', '.join(specs)}]")
        lock = Path(f"{script}.conda-lock.yml")
        gone = None if name == "up to date" else _without(lock, place / _SOLUTIONS)
        cases.append(Case(f"cetool lock, {name}", (scene.cetool, "lock", script, *words), env, prepare=gone))
    return cases


def _without(*paths: Path) -> Callable[[], None]:
    """Return a function that removes files and directories."""

    def remove() -> None:
        for path in paths:
            if path.is_file():
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)

    return remove


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
        yield scale_group(scene, rounds, address, size, seed)

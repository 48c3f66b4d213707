"""Run commands in turns and time them, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Runs of each case before measuring: they compile byte code, write launch records, and fill system caches.
WARM_UPS = 2
_RESAMPLES = 400
_WITNESS = Path(__file__).with_name("witness.py")


@dataclass(frozen=True)
class Case:
    """A command that is timed from start to end.

    ``base`` is the case that its added cost is relative to; ``prepare`` is called before each run and is not timed;
    ``copies`` are started at once; it runs in every ``every``-th round; with ``peak`` its memory is measured; ``fails``
    says that it exits with another status than 0. Instead of a command, ``timed`` can do something and return how many
    seconds it took, and its memory in bytes or None.
    """

    name: str
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    base: str | None = None
    prepare: Callable[[], None] | None = field(default=None, repr=False)
    copies: int = 1
    every: int = 1
    peak: bool = False
    fails: bool = False
    timed: Callable[[], tuple[float, int | None]] | None = field(default=None, repr=False)


@dataclass
class Samples:
    """The measurements of a case: seconds by round, and peak memory in bytes if requested."""

    case: Case
    seconds: dict[int, float] = field(default_factory=dict)
    peaks: list[int] = field(default_factory=list)

    def over(self, base: Samples) -> list[float]:
        """Return the seconds in addition to those of the base in the same round."""
        return [value - base.seconds[at] for at, value in self.seconds.items() if at in base.seconds]


@dataclass(frozen=True)
class Spread:
    """The distribution of measured values."""

    median: float
    low: float
    high: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one or more values; ``low`` and ``high`` are the quartiles."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(statistics.median(values), low, high, min(values), max(values), len(values))


class Failed(Exception):
    """A measured command failed; the text has its output."""


def measure(cases: Sequence[Case], rounds: int, tell: Callable[[str], None]) -> dict[str, Samples]:
    """Run all cases in turns, in reverse order in every other round. Raises Failed if one fails."""
    samples = {case.name: Samples(case) for case in cases}
    for case in cases:
        tell(f"warming up: {case.name}")
        for _ in range(WARM_UPS if case.copies == 1 else 1):
            _rehearse(case)
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        for case in cases if number % 2 == 0 else reversed(cases):
            if number % case.every == 0:
                seconds, peak = _run(case)
                samples[case.name].seconds[number] = seconds
                samples[case.name].peaks += [] if peak is None else [peak]
    return samples


def ratio(above: Sequence[float], below: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """Return the ratio of the medians, and the bounds of 95 % of the ratios of resampled values."""
    draw = random.Random(seed)

    def once() -> float:
        upper = statistics.median(draw.choices(above, k=len(above)))
        lower = statistics.median(draw.choices(below, k=len(below)))
        return upper / lower if lower else float("inf")

    drawn = sorted(once() for _ in range(_RESAMPLES))
    middle = statistics.median(below)
    value = statistics.median(above) / middle if middle else float("inf")
    return value, drawn[int(0.025 * _RESAMPLES)], drawn[int(0.975 * _RESAMPLES) - 1]


def _rehearse(case: Case) -> None:
    """Run a case without timing it, and keep its output in case it fails."""
    if case.prepare is not None:
        case.prepare()
    if case.timed is not None:
        case.timed()
        return
    running = [
        subprocess.Popen(
            case.argv, env=case.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(case.copies)
    ]
    for process in running:
        said, _ = process.communicate()
        if bool(process.returncode) != case.fails:
            words = said.decode("utf-8", "replace")[-2000:]
            raise Failed(f"{case.name} ({' '.join(case.argv)}) ended with {process.returncode}:\n{words}")


def _run(case: Case) -> tuple[float, int | None]:
    """Return seconds, and bytes if requested."""
    if case.prepare is not None:
        case.prepare()
    if case.timed is not None:
        return case.timed()
    if case.peak:
        return _witnessed(case)
    actions = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1, 2)]
    program, argv, env = case.argv[0], case.argv, case.env
    pids = []
    begun = time.perf_counter_ns()
    for _ in range(case.copies):
        pids.append(os.posix_spawn(program, argv, env, file_actions=actions))
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    seconds = (time.perf_counter_ns() - begun) / 1e9
    if any(statuses) != case.fails:
        raise Failed(f"{case.name} ({' '.join(argv)}) ended with {os.waitstatus_to_exitcode(max(statuses))}")
    return seconds, None


def _witnessed(case: Case) -> tuple[float, int]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(_WITNESS), *case.argv],
        env=case.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failed(f"{case.name} ({' '.join(case.argv)}) ended with {done.returncode}: {done.stderr}")
    told = json.loads(done.stdout)
    return told["seconds"], told["peak"]

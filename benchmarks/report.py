"""Report measurements: on the terminal, as JSON, and as tables in the documentation."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.groups import Comparison, Group
from benchmarks.measure import Samples, Spread
from benchmarks.scene import Scene, version_of

SCHEMA = "cetool.benchmark/1"


@dataclass(frozen=True)
class Result:
    """A group with the measurements of its cases and the comparisons."""

    group: Group
    samples: Mapping[str, Samples]

    @property
    def comparisons(self) -> list[Comparison]:
        """Return the comparisons computed from the samples."""
        return [each.drawn(self.samples) for each in self.group.comparisons]


@dataclass
class Report:
    """All measurements of one run, with place and time, and what was left out and why."""

    machine: str
    versions: dict[str, str]
    date: str
    results: list[Result] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values: times in seconds, memory in bytes."""
        return {
            "schema": SCHEMA,
            "machine": self.machine,
            "versions": self.versions,
            "date": self.date,
            "skipped": self.skipped,
            "groups": [
                {
                    "name": result.group.name,
                    "title": result.group.title,
                    "rounds": result.group.rounds,
                    "notes": result.group.notes,
                    "cases": [_case(samples, result.samples) for samples in result.samples.values()],
                    "comparisons": [{**asdict(each), "met": each.met} for each in result.comparisons],
                }
                for result in self.results
            ],
        }


def begin_report(scene: Scene, machine: str | None) -> Report:
    """Return an empty report for now; ``machine`` names the machine, otherwise it is described."""
    versions = {"cetool": version("cetool"), "Python": platform.python_version(), "py-rattler": version("py-rattler")}
    versions |= {name: version_of(path) for name, path in scene.programs.items() if name != "ce"}
    return Report(machine or _machine(), versions, time.strftime("%Y-%m-%d"))


def _machine() -> str:
    """Return processor, number of cores, memory size, and system."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    kernel = f"{platform.system()} {platform.release().split('-')[0]}"
    return f"{platform.node()}: {model}, {os.cpu_count()} cores, {memory:.0f} GB, {kernel}"


def _case(samples: Samples, others: Mapping[str, Samples]) -> dict[str, Any]:
    case = samples.case
    told: dict[str, Any] = {
        "name": case.name,
        "command": list(case.argv),
        "copies": case.copies,
        "base": case.base,
        "seconds": asdict(Spread.of(list(samples.seconds.values()))),
        "adds": None if case.base is None else asdict(Spread.of(samples.over(others[case.base]))),
        "samples": list(samples.seconds.values()),
    }
    if samples.peaks:
        told["peak_bytes"] = max(samples.peaks)
    return told


# --- texts ----------------------------------------------------------------------------------------------------------


def amount(value: float, unit: str) -> str:
    """Return a number with its unit: seconds as s or ms, bytes as MB, ratios without unit."""
    if unit == "s":
        return f"{value:.2f} s" if abs(value) >= 1 else f"{value * 1e3:.1f} ms"
    return f"{value / 1e6:.0f} MB" if unit == "B" else f"{value:.2f}"


def case_rows(result: Result) -> Iterator[tuple[str, ...]]:
    """Yield a row for each case: name, median, quartiles, least, what it adds to its base, runs."""
    for samples in result.samples.values():
        spread = Spread.of(list(samples.seconds.values()))
        base = samples.case.base
        adds = ""
        if base is not None:
            adds = amount(Spread.of(samples.over(result.samples[base])).median, "s")
        peak = f", {amount(max(samples.peaks), 'B')}" if samples.peaks else ""
        quartiles = f"{amount(spread.low, 's')} to {amount(spread.high, 's')}"
        median = amount(spread.median, "s") + peak
        yield samples.case.name, median, quartiles, amount(spread.least, "s"), adds, str(spread.count)


def comparison_rows(result: Result) -> Iterator[tuple[str, ...]]:
    """Yield a row for each comparison: name, value, its interval, target, whether it is met."""
    for each in result.comparisons:
        bounds = f"{amount(each.low, each.unit)} to {amount(each.high, each.unit)}"
        target = "" if each.target is None else f"at most {amount(each.target, each.unit)}"
        met = "" if each.met is None else "yes" if each.met else "no"
        yield each.name, amount(each.value, each.unit), bounds, target, met


CASE_HEAD = ("case", "median", "quartiles", "least", "adds", "runs")
COMPARISON_HEAD = ("comparison", "value", "95 % of resamples", "target", "met")


def print_report(report: Report, console: Console) -> None:
    """Print the tables."""
    console.print(f"{report.machine}; {_versions(report)}; {report.date}", highlight=False, soft_wrap=True)
    for result in report.results:
        for head, rows in ((CASE_HEAD, case_rows(result)), (COMPARISON_HEAD, comparison_rows(result))):
            table = Table(*head, title=result.group.title, title_justify="left")
            for row in rows:
                table.add_row(*row)
            if table.row_count:
                console.print(table)
        for note in result.group.notes:
            console.print(note, highlight=False, soft_wrap=True)
    for name, reason in report.skipped.items():
        console.print(f"left out: {name}: {reason}", highlight=False, soft_wrap=True)


def _versions(report: Report) -> str:
    return ", ".join(f"{name} {number}".strip() for name, number in report.versions.items())


# --- documentation --------------------------------------------------------------------------------------------------


def write_docs(report: Report, path: Path) -> None:
    """Write the tables between their markers in a Markdown file; groups that were not measured are unchanged.

    Raises ValueError where the file has no markers of a group's.
    """
    text = path.read_text(encoding="utf-8")
    for result in report.results:
        begin, end = (f"<!-- benchmark:{result.group.name}{mark} -->" for mark in ("", ":end"))
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{path} has to have {begin} and {end}, once each")
        head, _, rest = text.partition(begin)
        text = head + begin + "\n\n" + "\n".join(_markdown(report, result)) + "\n\n" + end + rest.partition(end)[2]
    path.write_text(text, encoding="utf-8")


def _markdown(report: Report, result: Result) -> Iterator[str]:
    yield f"{report.machine}; {_versions(report)}; {report.date}; {result.group.rounds} rounds."
    for head, rows in ((CASE_HEAD, list(case_rows(result))), (COMPARISON_HEAD, list(comparison_rows(result)))):
        if rows:
            yield ""
            yield _line(head)
            yield _line(["---"] + ["---:"] * (len(head) - 1))
            yield from map(_line, rows)
    for note in result.group.notes:
        yield from ("", note)
    if report.skipped and result.group.name in ("warm", "cold"):
        yield ""
        yield "Left out: " + "; ".join(f"{name} ({reason})" for name, reason in report.skipped.items()) + "."


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

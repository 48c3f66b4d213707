"""``python -m benchmarks``: measure the selected groups, print the results, and write them to files."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from rich.console import Console  # noqa: E402

from benchmarks.baseline import baseline_group  # noqa: E402
from benchmarks.cases import parallel_group, warm_group  # noqa: E402
from benchmarks.chart import draw_chart  # noqa: E402
from benchmarks.cold import cold_group, creation_group  # noqa: E402
from benchmarks.executable import executable_group  # noqa: E402
from benchmarks.groups import Group  # noqa: E402
from benchmarks.growth import growth_group  # noqa: E402
from benchmarks.measure import Failed, measure  # noqa: E402
from benchmarks.report import Report, Result, begin_report, print_report, write_docs  # noqa: E402
from benchmarks.scene import Scene, set_scene  # noqa: E402

GROUPS = ("warm", "executable", "parallel", "growth", "cold", "creation", "baseline", "scale", "server")
#: By how much the rounds of groups with slow cases are divided.
_FEWER = {"parallel": 20, "cold": 10, "creation": 20, "baseline": 20, "scale": 40, "server": 20}


def main(words: Sequence[str] | None = None) -> int:
    """Measure; return exit status 1 if a measured command fails, 3 if a target is missed."""
    options = _parser().parse_args(words)
    # the program changes to another directory
    outputs = {name: path and path.resolve() for name, path in (("json", options.json), ("svg", options.svg))}
    rounds = options.rounds or (10 if options.quick else 200)
    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=150)

    def tell(group: str, text: str) -> None:
        if progress.is_terminal:
            progress.print(f"{f'{group}: {text}':<78.78}", end="\r", highlight=False)

    try:
        with set_scene() as scene:
            report = _measured(scene, options, rounds, tell)
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    print_report(report, console)
    if outputs["json"]:
        outputs["json"].write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
    whole = options.docs and not options.only  # the chart shows all groups
    svg = outputs["svg"] or (ROOT / "docs" / "explanation" / "performance.svg" if whole else None)
    if svg:
        svg.write_text(draw_chart(report), encoding="utf-8")
    if options.docs:
        write_docs(report, ROOT / "docs" / "explanation" / "performance.md")
    missed = [each.name for result in report.results for each in result.comparisons if each.met is False]
    for name in missed:
        print(f"over its target: {name}", file=sys.stderr)
    return 3 if missed and options.strict else 0


def _measured(scene: Scene, options: argparse.Namespace, rounds: int, tell: Callable[[str, str], None]) -> Report:
    report = begin_report(scene, options.machine)
    for name in GROUPS:
        if options.only and name not in options.only:
            continue
        with _group(name, scene, options, max(2, rounds // _FEWER.get(name, 1)), tell) as group:
            report.results.append(Result(group, measure(group.cases, group.rounds, functools.partial(tell, name))))
    report.skipped.update(scene.skipped)
    return report


def _group(
    name: str, scene: Scene, options: argparse.Namespace, rounds: int, tell: Callable[[str, str], None]
) -> AbstractContextManager[Group]:
    if name == "scale":  # its libraries are only for this group
        from benchmarks.scale import scaled

        return scaled(scene, rounds, options.size or (0.05 if options.quick else 0.1), options.seed)
    if name == "server":
        from benchmarks.serving import measured_server

        return measured_server(scene, rounds, functools.partial(tell, name), rows=1_000 if options.quick else 100_000)
    if name == "growth":
        environments = options.environments or (1_000 if options.quick else 10_000)
        runs = options.runs or 100 * environments
        return nullcontext(growth_group(scene, rounds, environments, runs, functools.partial(tell, name)))
    makers = {
        "warm": warm_group,
        "executable": executable_group,
        "parallel": parallel_group,
        "cold": cold_group,
        "creation": creation_group,
        "baseline": baseline_group,
    }
    return nullcontext(makers[name](scene, rounds))


def _size(text: str) -> float:
    """Return a size of the large channel. Raises ArgumentTypeError if it is too small to choose 40 names from."""
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0.05 <= size <= 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.05 to 4")
    return size


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nox -s benchmark --", description="Measure cetool and other programs.")
    parser.add_argument("--quick", action="store_true", help="few rounds, and a cache of a tenth of the size")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds of the fast cases (200); slow cases: a tenth or twentieth"
    )
    parser.add_argument("--only", action="append", choices=GROUPS, help="measure only this group; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a chart")
    parser.add_argument(
        "--docs", action="store_true", help="rewrite the tables and the chart of docs/explanation/performance.md"
    )
    parser.add_argument("--machine", metavar="NAME", help="name of this machine in the results")
    parser.add_argument("--environments", type=int, metavar="N", help="environments in the large cache (10000)")
    parser.add_argument("--runs", type=int, metavar="N", help="logged runs in the large cache (100 per environment)")
    parser.add_argument("--size", type=_size, metavar="N", help="size of the large channel; conda-forge's is 1 (0.1)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the large channel (1)")
    parser.add_argument("--strict", action="store_true", help="exit with status 3 if a target is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())

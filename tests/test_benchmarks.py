"""The benchmark runs and reports every case; no test looks at the times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.big_channel import chosen, write_big_channel
from benchmarks.scale import serving

_ROOT = Path(__file__).resolve().parents[1]
_GROUPS = ("warm", "executable", "parallel", "growth", "cold", "creation", "baseline")
#: Cases that are there on every machine; uv's are where uv is, which the tests need anyway.
_CASES = {
    "warm": (
        "cetool script",
        "cetool run script ARGS",
        "cetool -q script",
        "cetool: shebang",
        "cetool: script changed, block not",
        "cetool: activation scripts",
        "uv run --script script",
        "uv: shebang",
        "uv: script changed, block not",
    ),
    "executable": (
        "python -I -S -c pass",
        "cetool as installed here",
        "cetool with import re (pip 23, conda, rattler)",
    ),
    "parallel": ("1 × cetool script", "10 × cetool script", "100 × cetool script", "100 × uv run --script script"),
    "growth": (
        "cetool script, empty cache",
        "cetool script, 30 environments, 200 runs",
        "cetool list",
        "cetool gc --dry-run",
    ),
    "cold": (
        "rattler itself, packages cached",
        "cetool, rattler, packages cached",
        "rattler itself, packages not cached",
        "cetool, rattler, packages not cached",
    ),
    "creation": ("cetool create, rattler",),
    "baseline": (
        "rattler: linking alone",
        "cetool, rattler: a baseline, two taken out",
        "cetool, rattler: a baseline, two taken out, one put in",
    ),
}


def test_the_benchmark_measures_and_reports_every_case(tmp_path: Path) -> None:
    """A run of few rounds, without the engines that take seconds, prints tables and writes JSON and a chart."""
    told, chart = tmp_path / "told.json", tmp_path / "chart.svg"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("CETOOL_TEST_")}
    kept = {name: os.environ[name] for name in ("CETOOL_TEST_CACHE", "CETOOL_TEST_WHEELS") if name in os.environ}
    words = ["--rounds", "2", "--environments", "30", "--runs", "200", "--json", str(told), "--svg", str(chart)]
    words += [word for group in _GROUPS for word in ("--only", group)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=_ROOT,
        env={**bare, **kept, "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "cetool script" in done.stdout
    report = json.loads(told.read_text(encoding="utf-8"))
    assert report["schema"] == "cetool.benchmark/1"
    assert {"cetool", "Python", "uv"} <= report["versions"].keys()
    assert all(report["skipped"].values())
    assert tuple(group["name"] for group in report["groups"]) == _GROUPS
    for group in report["groups"]:
        _check_group(group)
    _check_targets(report)
    _check_chart(report, chart)


def test_the_benchmark_measures_a_server(tmp_path: Path, scale: int) -> None:
    """With ``--long``, since it takes a minute."""
    if scale == 1:
        pytest.skip("only with --long")
    group = _measured(tmp_path / "told.json", "server")
    assert len(group["cases"]) >= 24
    targets = {each["name"]: each["target"] for each in group["comparisons"]}
    assert targets["a build, of cetool create: python, six"] == 1.5
    assert targets["an answer: hit"] == 0.003


def test_the_benchmark_measures_solving(tmp_path: Path, scale: int) -> None:
    """With ``--long``, since it takes a minute."""
    if scale == 1:
        pytest.skip("only with --long")
    group = _measured(tmp_path / "told.json", "scale")
    names = {case["name"] for case in group["cases"]}
    for title in ("2 names, nothing cached", "10 names, metadata expired", "40 names, unsatisfiable"):
        assert {f"cetool, {title}", f"rattler itself, {title}"} <= names
    targets = {each["name"]: each["target"] for each in group["comparisons"]}
    assert targets["three platforms, of one"] == 1.5
    assert targets["a lock that is up to date"] == 0.15
    assert targets["40 names, solved before"] == 0.3


def _measured(told: Path, group: str) -> dict[str, Any]:
    """Measure one group quickly, and return its part of the report."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "20", "--only", group, "--json", str(told)],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(told.read_text(encoding="utf-8"))["groups"]
    return cast("dict[str, Any]", found)


def _check_group(group: dict[str, Any]) -> None:
    """The group has its cases, each case its base and as many samples as it took part in rounds."""
    cases = {case["name"]: case for case in group["cases"]}
    assert set(_CASES[group["name"]]) <= cases.keys()
    for case in cases.values():
        spread = case["seconds"]
        assert 1 <= spread["count"] == len(case["samples"]) <= group["rounds"]
        assert 0 < spread["least"] <= spread["low"] <= spread["median"] <= spread["high"] <= spread["most"]
        assert case["base"] is None or case["base"] in cases
        assert (case["adds"] is None) == (case["base"] is None)
    assert {case["copies"] for case in cases.values()} == ({1, 10, 100} if group["name"] == "parallel" else {1})
    peaks = [case["peak_bytes"] for case in cases.values() if "peak_bytes" in case]
    assert len(peaks) == (4 if group["name"] == "growth" else 0) and all(peak > 1e6 for peak in peaks)


def _check_targets(report: dict[str, Any]) -> None:
    """What the project holds itself to is among the comparisons."""
    targets = {each["name"]: each["target"] for group in report["groups"] for each in group["comparisons"]}
    assert targets["cetool script adds, of what uv adds"] == 0.75
    assert targets["the warm run, full cache to empty"] == 1.05
    assert targets["cetool adds to rattler, packages cached"] == 0.06
    assert targets["python and numpy, rattler"] == 0.35
    assert targets["rattler, two taken out, one put in, to linking alone"] == 2.0


def _check_chart(report: dict[str, Any], chart: Path) -> None:
    """The chart is well-formed and has the labels of what was measured."""
    root = xml.etree.ElementTree.fromstring(chart.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {name for names in _CASES.values() for name in names} - {"python -I -S -c pass"} <= set(texts)
    assert any(report["machine"] in text and report["date"] in text for text in texts)


def test_docs_have_room_for_every_group() -> None:
    """docs/explanation/performance.md has the markers that the program writes between."""
    text = (_ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    for group in (*_GROUPS, "scale", "server"):
        assert text.count(f"<!-- benchmark:{group} -->") == text.count(f"<!-- benchmark:{group}:end -->") == 1
    assert "performance.svg" in text


def test_the_large_channel_is_the_same_for_a_seed_and_every_set_of_names_has_a_solution(tmp_path: Path) -> None:
    """Solved through the channel's server, with shards and without, by py-rattler itself."""
    directory = write_big_channel(tmp_path / "one", scale=0.01, subdirs=("linux-64",))
    again = write_big_channel(tmp_path / "two", scale=0.01, subdirs=("linux-64",))
    for file in ("linux-64/repodata.json.zst", "noarch/repodata_shards.msgpack.zst"):
        assert (directory / file).read_bytes() == (again / file).read_bytes()
    names = chosen(20, scale=0.01)
    found = set()
    with serving(directory) as address:
        for how in ("fresh", "plain", "stale"):
            cache = tmp_path / how
            argv = [sys.executable, "-m", "benchmarks.direct_solving", str(cache), f"{address}/{how}", *names]
            done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            found.add(int(done.stdout.split()[0]))
        wanted = Request(f"{address}/fresh/linux-64/repodata.json.zst", headers={"Range": "bytes=4-7"})
        with urlopen(wanted) as answer:
            assert (
                answer.status == 206 and answer.read() == (directory / "linux-64/repodata.json.zst").read_bytes()[4:8]
            )
            kept = {"If-None-Match": answer.headers["ETag"]}
        with pytest.raises(HTTPError, match="304"):
            urlopen(Request(wanted.full_url, headers=kept))
    assert len(found) == 1 and found.pop() > len(names)

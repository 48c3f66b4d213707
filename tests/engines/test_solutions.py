"""Remembered solutions: the same as a fresh solve, whatever changes in the channel between two solves."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.requests import HOLD, request_for

from cetool.declare.package import Package
from cetool.engines.errors import UnsatisfiableError
from cetool.engines.protocol import SilentProgress
from cetool.engines.rattler.client import process_variables
from cetool.engines.rattler.engine import RattlerEngine
from cetool.engines.rattler.solutions import Solutions
from cetool.settings.condarc import load_condarc

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.big_channel import chosen, read_subdir, write_big_channel, write_subdir  # noqa: E402
from benchmarks.scale import serving  # noqa: E402

Records = dict[str, dict[str, Any]]
_NAMES = chosen(6, scale=0.01)
_SAME = "The channels have not changed since the same request was solved"


class Noted(SilentProgress):
    """Progress that keeps the sentences for users who ask for details."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Channel:
    """A channel in a directory, and the ways to reach it."""

    def __init__(self, path: Path, address: str) -> None:
        self.path = path
        self.urls = {
            "shards": f"{address}/stale",
            "no shards": f"{address}/stale-plain",
            "directory": path.as_uri(),
        }

    def change(self, subdir: str, change: Callable[[Records], None]) -> None:
        """Write a subdir's repodata with changed records."""
        records = read_subdir(self.path / subdir)
        change(records)
        write_subdir(self.path / subdir, subdir, iter(records.items()))
        write_plainly(self.path / subdir)


def write_plainly(subdir: Path) -> None:
    """Write the ``repodata.json`` without which rattler does not read a local channel."""
    document = {"info": {"subdir": subdir.name}, "packages": {}, "packages.conda": read_subdir(subdir)}
    (subdir / "repodata.json").write_text(json.dumps(document))


def local_channel(root: Path, seed: int = 1) -> Path:
    """Write a channel that can be used from the directory, too."""
    path = write_big_channel(root, scale=0.01, seed=seed, subdirs=("linux-64",))
    for subdir in ("linux-64", "noarch"):
        write_plainly(path / subdir)
    return path


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Channel]:
    path = local_channel(tmp_path / "channels")
    with serving(path) as address:
        yield Channel(path, address)


def solve(channels: tuple[str, ...], cache: Path, *specs: str, **more: Any) -> tuple[list[Package], bool]:
    """Return the solution, and whether it was remembered."""
    environ = {"HOME": str(cache), "PATH": os.defpath}
    noted = Noted()
    request = request_for(
        prefix=cache / "prefix", packages=specs, channels=channels, log=cache / "log", environ=environ, **more
    )
    cache.mkdir(exist_ok=True)
    found = RattlerEngine(environ, cache / "pkgs").solve(request, noted, HOLD)
    return found, _SAME in noted.notes


@pytest.mark.parametrize("way", ["shards", "no shards", "directory"])
def test_the_same_request_of_an_unchanged_channel_is_not_solved_again(big: Channel, tmp_path: Path, way: str) -> None:
    channels = (big.urls[way],)
    first, remembered = solve(channels, tmp_path / "cache", *_NAMES)
    assert not remembered and len(first) > len(_NAMES)
    if way == "no shards":  # reading the index again takes too long; the next run keeps the solution
        assert solve(channels, tmp_path / "cache", *_NAMES) == (first, False)
    assert solve(channels, tmp_path / "cache", *_NAMES) == (first, True)
    # another request, other virtual packages, another priority, another date: each is solved for itself
    assert not solve(channels, tmp_path / "cache", *_NAMES[:5])[1]
    assert not solve(channels, tmp_path / "cache", *_NAMES, virtual_packages=(("__cuda", "12.4"),))[1]
    assert not solve(channels, tmp_path / "cache", *_NAMES, exclude_newer="2026-06-01T00:00:00Z")[1]
    assert solve(channels, tmp_path / "cache", *_NAMES) == (first, True)


@pytest.mark.parametrize("way", ["shards", "no shards", "directory"])
def test_a_change_of_any_field_is_seen(big: Channel, tmp_path: Path, way: str) -> None:
    """After each change, the solution equals that of a new cache."""
    channels = (big.urls[way],)
    before, _ = solve(channels, tmp_path / "cache", *_NAMES)
    draw = random.Random(way)
    fields = list(_CHANGES) if way == "shards" else ["version", "depends", "sha256"]
    for number, field in enumerate(fields):
        change = _CHANGES[field]
        package = draw.choice([each for each in before if each.name not in ("python", "numpy")])

        def changed(records: Records, package: Package = package, change: Any = change) -> None:
            change(records, package.file_name)

        original = read_subdir(big.path / package.subdir)
        big.change(package.subdir, changed)
        again, remembered = _answer(channels, tmp_path / "cache")
        assert not remembered, field
        assert (again, False) == _answer(channels, tmp_path / f"fresh-{number}"), field
        write_subdir(big.path / package.subdir, package.subdir, iter(original.items()))
        write_plainly(big.path / package.subdir)


def _answer(channels: tuple[str, ...], cache: Path) -> tuple[list[Package] | str, bool]:
    """Return the solution, or that there is none, and whether it was remembered."""
    try:
        return solve(channels, cache, *_NAMES)
    except UnsatisfiableError as error:
        return str(error), False


def _set(field: str, value: Any) -> Callable[[Records, str], None]:
    def change(records: Records, file: str) -> None:
        records[file][field] = value

    return change


def _newer(records: Records, file: str) -> None:
    """Add a newer version of a package."""
    record = copy.deepcopy(records[file])
    record |= {"version": "999.0", "sha256": "12" * 32, "md5": "34" * 16}
    records[f"{record['name']}-999.0-{record['build']}.conda"] = record


def _removed(records: Records, file: str) -> None:
    name = records[file]["name"]
    if sum(record["name"] == name for record in records.values()) > 1:
        del records[file]
    else:
        records[file]["license"] = "changed"


_CHANGES: dict[str, Callable[[Records, str], None]] = {
    "version": _newer,
    "removal": _removed,
    "depends": _set("depends", ["zlib"]),
    "constrains": _set("constrains", ["no-such-package >=1"]),
    "sha256": _set("sha256", "ab" * 32),
    "md5": _set("md5", "cd" * 16),
    "size": _set("size", 7),
    "timestamp": _set("timestamp", 1_400_000_000_000),
    "license": _set("license", "GPL-3.0-only"),
    "track_features": _set("track_features", "slow"),
}


def test_three_channels_are_one_state(big: Channel, tmp_path: Path) -> None:
    """A change of the last of three channels is seen, too."""
    other, third = local_channel(tmp_path / "other", seed=2), local_channel(tmp_path / "third", seed=3)
    channels = (big.urls["shards"], other.as_uri(), third.as_uri())
    first, _ = solve(channels, tmp_path / "cache", *_NAMES)
    assert solve(channels, tmp_path / "cache", *_NAMES) == (first, True)
    records = read_subdir(third / "noarch")
    records.popitem()
    write_subdir(third / "noarch", "noarch", iter(records.items()))
    write_plainly(third / "noarch")
    again, remembered = solve(channels, tmp_path / "cache", *_NAMES)
    assert not remembered and again == solve(channels, tmp_path / "fresh", *_NAMES)[0]


@pytest.mark.parametrize("way", ["shards", "no shards", "directory"])
def test_a_subdir_that_is_gone_or_comes_back_is_seen(big: Channel, tmp_path: Path, way: str) -> None:
    """rattler keeps the index of a subdir that a server does not have any more."""
    other = local_channel(tmp_path / "other", seed=2)
    channels = (big.urls[way], other.as_uri())
    first, _ = solve(channels, tmp_path / "cache", "python", "numpy")
    assert {package.channel for package in first} == {big.urls[way]}
    subdir, away = big.path / "linux-64", big.path / "away"
    if way == "directory":  # rattler requires the directory
        shutil.copytree(subdir, away)
        write_subdir(subdir, "linux-64", iter(()))
        write_plainly(subdir)
    else:
        subdir.rename(away)
    without, remembered = solve(channels, tmp_path / "cache", "python", "numpy")
    assert not remembered and other.as_uri() in {package.channel for package in without}
    assert without == solve(channels, tmp_path / "fresh", "python", "numpy")[0]
    assert solve(channels, tmp_path / "cache", "python", "numpy")[0] == without
    shutil.rmtree(subdir, ignore_errors=True)
    away.rename(subdir)
    assert solve(channels, tmp_path / "cache", "python", "numpy")[0] == first


@pytest.mark.parametrize("moment", ["look", "have_changed", "remember"])
def test_a_solution_is_not_kept_with_an_index_that_it_was_not_solved_with(
    big: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Another process fetches a newer index into the same cache before or after rattler reads it, or has solved."""
    channels, cache, specs = (big.urls["shards"],), tmp_path / "cache", ("python", "numpy")
    environ = {"HOME": str(cache)}
    for name in process_variables(load_condarc(environ), environ):  # so that the engine works in this process
        monkeypatch.delenv(name)
    first, _ = solve(channels, cache, *specs)
    numpy = next(package for package in first if package.name == "numpy")
    shutil.rmtree(next(cache.rglob("solutions")))
    changed: list[str] = []
    original = getattr(Solutions, moment)

    def change() -> None:
        changed.append(moment)
        big.change("linux-64", lambda records: _newer(records, numpy.file_name))
        solve(channels, tmp_path / "other", *specs)
        for path in (tmp_path / "other").rglob("*.shards-cache-v1"):
            next(cache.rglob(path.name)).write_bytes(path.read_bytes())

    def meanwhile(self: Solutions, *words: Any) -> Any:
        if moment != "look" and not changed:
            change()
        answer = original(self, *words)
        if not changed:
            change()
        return answer

    monkeypatch.setattr(Solutions, moment, meanwhile)
    solve(channels, cache, *specs)
    assert changed == [moment]
    again = solve(channels, cache, *specs)[0]
    assert again == solve(channels, tmp_path / "fresh", *specs)[0] != first


def _of_another(path: Path) -> bytes:
    return next(other for other in path.parent.iterdir() if other != path).read_bytes()


_DAMAGES: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda path: b"",
    "not JSON": lambda path: b"\x00" * 100,
    "nothing": lambda path: b"{}",
    "another form": lambda path: b"[1]",
    "no packages": lambda path: json.dumps({"cetool": json.loads(path.read_bytes())["cetool"]}).encode(),
    "cut off": lambda path: path.read_bytes()[:-1000],
    "a field": lambda path: path.read_bytes().replace(b'"build_number": 1,', b'"build_number": 2,', 1),
    "an address": lambda path: path.read_bytes().replace(b"/noarch/", b"/noarcH/", 1),
    "a type": lambda path: path.read_bytes().replace(b'"build_number": 1,', b'"build_number": [],', 1),
    "another solution": _of_another,
}


def test_a_damaged_solution_is_solved_again(big: Channel, tmp_path: Path) -> None:
    channels = (big.urls["shards"],)
    solve(channels, tmp_path / "cache", *_NAMES[:4])
    (kept,) = (tmp_path / "cache").rglob("solutions/*")
    first, _ = solve(channels, tmp_path / "cache", *_NAMES)
    (path,) = (each for each in kept.parent.iterdir() if each != kept)
    for name, damage in _DAMAGES.items():
        path.write_bytes(damage(path))
        assert solve(channels, tmp_path / "cache", *_NAMES) == (first, False), name
        assert solve(channels, tmp_path / "cache", *_NAMES) == (first, True), name


def test_solutions_that_cannot_be_kept_or_read_do_no_harm(big: Channel, tmp_path: Path) -> None:
    channels = (big.urls["shards"],)
    first, _ = solve(channels, tmp_path / "cache", *_NAMES)
    (path,) = (tmp_path / "cache").rglob("solutions/*")
    path.unlink()
    os.mkfifo(path)
    assert solve(channels, tmp_path / "cache", *_NAMES) == (first, False)
    assert solve(channels, tmp_path / "cache", *_NAMES) == (first, True)
    shutil.rmtree(path.parent)
    path.parent.write_text("not a directory")
    assert solve(channels, tmp_path / "cache", *_NAMES) == (first, False)


def test_generated_requests_have_the_solutions_of_rattler_itself(big: Channel, tmp_path: Path, scale: int) -> None:
    """One channel and three, with conda's default priority, which rattler itself compares package by package."""
    other, third = local_channel(tmp_path / "other", seed=2), local_channel(tmp_path / "third", seed=3)
    draw, names = random.Random(17), chosen(25, scale=0.01)
    for channels in ((big.urls["shards"],), (big.urls["shards"], other.as_uri(), third.as_uri())):
        for number in range(4 * scale):
            specs = draw.sample(names, draw.randint(1, 6))
            words = [str(tmp_path / "direct"), ",".join(channels), *specs]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.direct_solving", *words], cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            found, _ = solve(channels, tmp_path / f"cache-{len(channels)}-{number % 2}", *specs)
            assert {package.url for package in found} == set(done.stdout.split()[1:]), specs

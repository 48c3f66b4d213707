"""Collection: what is removed, what stays, what it frees, and that nothing in use is removed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.cache import (
    builder,
    change_database,
    collect,
    ensure,
    finish,
    hear,
    leftovers,
    made,
    make_files,
    run,
    small_paths,
    small_spec,
    small_store,
    start,
    usage_log,
)

from cetool.base.errors import StoreError
from cetool.store.disk import Freed, disk_size
from cetool.store.gc import Collection, Policy
from cetool.store.kinds import downloads, kept_sources, launch_records
from cetool.store.store import MARKER

HOUR = 3600.0


def _collect(root: Path, policy: Policy, *, dry_run: bool = False) -> Collection:
    with usage_log(root) as log:
        return collect(small_store(root), log, policy, dry_run=dry_run)


def _used(root: Path, ages: dict[str, float]) -> None:
    """Set the last use of the environments of these packages, in hours ago."""
    with usage_log(root) as log:
        assert {small_spec(package).name for package in ages} <= log.rows().keys()
    for package, hours in ages.items():
        when, name = time.time() - hours * HOUR, small_spec(package).name
        change_database(root, f"UPDATE uses SET last_used = {when} WHERE directory = '{name}'")


def _names(prefixes: Iterable[Path]) -> list[str]:
    packages = {small_spec(package).name: package for package in ("a", "b", "c", "d")}
    return [packages.get(prefix.name, prefix.name) for prefix in prefixes]


def _gone(report: Collection) -> list[str]:
    return _names(each.item.path for each in report.collected)


def _there(root: Path) -> list[str]:
    return sorted(_names(directory.prefix for directory in small_store(root).directories()))


def _four(root: Path) -> None:
    for package in ("a", "b", "c", "d"):
        made(root, package).release()
    _used(root, {"a": 10, "b": 40, "c": 30, "d": 0})


def test_gc_removes_the_longest_unused_first(tmp_path: Path) -> None:
    _four(tmp_path)
    before = leftovers(tmp_path)
    told = _collect(tmp_path, Policy(older_than=25 * HOUR), dry_run=True)
    assert leftovers(tmp_path) == before
    report = _collect(tmp_path, Policy(older_than=25 * HOUR))
    assert _gone(report) == _gone(told) == ["b", "c"]
    assert report.freed == told.freed > 0
    assert [item.reason for item in report.collected] == ["unused", "unused"]
    assert [round((item.unused or 0) / HOUR) for item in report.collected] == [40, 30]
    assert _there(tmp_path) == ["a", "d"]
    assert _gone(_collect(tmp_path, Policy(older_than=0.0))) == ["a", "d"]
    assert leftovers(tmp_path) == []
    assert _collect(tmp_path, Policy()).collected == []


def test_gc_removes_the_least_recently_used_beyond_the_size_limit(tmp_path: Path) -> None:
    """An environment in use counts as used now, and its size counts: others are removed instead."""
    _four(tmp_path)
    size = disk_size(small_store(tmp_path).prefix(small_spec("a").name))
    with usage_log(tmp_path) as log:
        sizes = {row.size for row in log.rows().values()}
    limit = 2 * max(sizes)
    assert size > 0
    held = made(tmp_path, "b")
    assert _gone(_collect(tmp_path, Policy(max_size=4 * max(sizes)))) == []
    report = _collect(tmp_path, Policy(max_size=limit))
    assert _names(item.path for item in report.in_use) == ["b"]
    assert _gone(report) == ["c", "a"]
    assert {item.reason for item in report.collected} == {"over the size limit"}
    held.release()
    assert _gone(_collect(tmp_path, Policy(max_size=max(sizes)))) == ["d"]  # b was in use
    assert _gone(_collect(tmp_path, Policy(max_size=0))) == ["b"]


def test_an_environment_in_use_stays_and_counts_as_used(tmp_path: Path) -> None:
    _four(tmp_path)
    holder = start(tmp_path, 'lease = made(ROOT, "b")\nsay("held")\nsys.stdin.read()')
    hear(holder)
    for dry_run in (True, False):
        report = _collect(tmp_path, Policy(everything=True), dry_run=dry_run)
        assert _names(item.path for item in report.in_use) == ["b"]
        assert sorted(_gone(report)) == ["a", "c", "d"]
    finish(holder)
    assert _gone(_collect(tmp_path, Policy(older_than=HOUR))) == []
    assert _gone(_collect(tmp_path, Policy(everything=True))) == ["b"]


def test_a_program_that_closed_the_lock_keeps_its_environment(tmp_path: Path) -> None:
    _four(tmp_path)
    prefix = small_store(tmp_path).prefix(small_spec("b").name)
    shutil.copy2(shutil.which("sleep") or "", prefix / "bin" / "sleep")
    pid = os.posix_spawn(prefix / "bin" / "sleep", ["sleep", "600"], {})
    try:
        assert _names(item.path for item in _collect(tmp_path, Policy(older_than=25 * HOUR)).in_use) == ["b"]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert _there(tmp_path) == ["a", "b", "d"]


def test_gc_removes_incomplete_environments_that_are_not_being_made(tmp_path: Path) -> None:
    _four(tmp_path)
    store = small_store(tmp_path)
    make_files(tmp_path / "envs" / ("0" * 20))  # left by a crash
    (store.prefix(small_spec("d").name) / MARKER).write_text("{")
    body = 'ensure(STORE, SPEC, builder(SPEC, then=lambda site: (say("making"), sys.stdin.read())))'
    maker = start(tmp_path, body)
    hear(maker)
    report = _collect(tmp_path, Policy(older_than=100 * HOUR))
    assert sorted(_gone(report)) == ["0" * 20, "d"]
    assert {(item.reason, item.unused) for item in report.collected} == {("incomplete", None)}
    assert [item.name for item in report.in_use] == [small_spec().name]
    finish(maker)
    assert store.lease(small_spec().name) is not None
    assert _there(tmp_path) == sorted(["a", "b", "c", small_spec().name])


def test_gc_tolerates_a_wrong_clock(tmp_path: Path) -> None:
    """A use in the future counts as now and ages from then on, and no age is negative."""
    _four(tmp_path)
    _used(tmp_path, {"a": -365 * 24, "b": -1})
    report = _collect(tmp_path, Policy(older_than=25 * HOUR))
    assert _gone(report) == ["c"]
    with usage_log(tmp_path) as log:
        assert all(row.last_used <= time.time() for row in log.rows().values())
    _used(tmp_path, {"a": -5})
    report = _collect(tmp_path, Policy(everything=True), dry_run=True)
    assert all(item.unused is not None and item.unused >= 0 for item in report.collected)


def test_an_environment_used_during_the_collection_stays(tmp_path: Path) -> None:
    """An environment that was used for a moment since the collection began is not unused."""
    _four(tmp_path)
    store = small_store(tmp_path)

    def use(prefix: Path) -> None:
        if prefix.name == small_spec("b").name:
            run(tmp_path, 'lease = made(ROOT, "c")\nnote_use(ROOT / "spool", lease.prefix.name, "script")')

    with usage_log(tmp_path) as log:
        report = collect(store, log, Policy(older_than=25 * HOUR), on_removed=use)
    assert _gone(report) == ["b"]
    assert _there(tmp_path) == ["a", "c", "d"]


def test_a_failed_removal_does_not_stop_the_others(tmp_path: Path) -> None:
    _four(tmp_path)
    (tmp_path / "locks" / f"{small_spec('b').name}.lock").unlink()
    (tmp_path / "locks" / f"{small_spec('b').name}.lock").mkdir()
    report = _collect(tmp_path, Policy(everything=True))
    assert sorted(_gone(report)) == ["a", "c", "d"]
    ((item, error),) = report.failed
    assert _names([item.path]) == ["b"]
    assert isinstance(error, StoreError)
    assert error.hint


def test_interrupted_deletions_are_finished_and_locks_cleared(tmp_path: Path) -> None:
    made(tmp_path).release()
    make_files(tmp_path / "trash" / "leftover.1.2.3")
    make_files(tmp_path / "trash" / "anything")
    body = """
    lease = made(ROOT, "x")
    lease.release()
    from cetool.store.disk import discard
    discard(lease.prefix, ROOT / "trash")
    os.kill(os.getpid(), signal.SIGKILL)
    """
    start(tmp_path, body).communicate()
    assert len(os.listdir(tmp_path / "trash")) == 3
    wait = small_store(tmp_path).build_lock("1" * 20)
    wait.touch()
    _collect(tmp_path, Policy(), dry_run=True)
    assert len(os.listdir(tmp_path / "trash")) == 3
    _collect(tmp_path, Policy())
    name = small_spec().name
    assert leftovers(tmp_path) == [f"envs/{name}", f"locks/{name}.lock"]


def test_freed_bytes_exclude_files_with_other_hard_links(tmp_path: Path) -> None:
    """Linked into a package cache: not freed. Linked into both removed ones: freed once. Into one that stays: not
    freed.
    """
    _four(tmp_path)
    store = small_store(tmp_path)
    prefixes = {package: store.prefix(small_spec(package).name) for package in "abcd"}
    plain = {package: Freed().add(prefix) for package, prefix in prefixes.items()}
    block = 1 << 20
    for name in ("cached", "both", "stays", "all"):
        (tmp_path / name).write_bytes(b"x" * block)
    os.sync()  # only takes blocks once it has content
    for name, packages in (("cached", "bc"), ("both", "bc"), ("stays", "ba"), ("all", "abcd")):
        for package in packages:
            os.link(tmp_path / name, prefixes[package] / "lib" / name)
    for name in ("both", "stays", "all"):
        (tmp_path / name).unlink()
    assert disk_size(prefixes["b"]) - plain["b"] == 4 * block
    expected = {"b": plain["b"], "c": plain["c"] + block}
    for dry_run in (True, False):
        report = _collect(tmp_path, Policy(older_than=25 * HOUR), dry_run=dry_run)
        assert {_names([item.item.path])[0]: item.freed for item in report.collected} == expected
    last = _collect(tmp_path, Policy(everything=True))
    assert last.freed == plain["a"] + plain["d"] + 2 * block


def test_concurrent_runs_and_collections_do_not_interfere(tmp_path: Path) -> None:
    """Two processes run and two collect everything unused: no run loses a file, and each finds its environment."""
    body = """
    from cetool.store.gc import Policy
    def act(number):
        for _ in range(100 if number < 2 else 25):
            if number < 2:
                lease = ensure(STORE, SPEC, builder(SPEC))
                note_use(ROOT / "spool", lease.prefix.name, "script")
                for _ in range(5):
                    assert is_whole(lease.prefix)
                    os.sched_yield()
                lease.release()
            else:
                with usage_log(ROOT) as log:
                    assert not collect(STORE, log, Policy(everything=True)).failed
    fork_many(4, act)
    """
    run(tmp_path, body)
    _collect(tmp_path, Policy(everything=True))
    assert leftovers(tmp_path) == []


def test_gc_keeps_an_environment_that_the_log_does_not_know_yet(tmp_path: Path) -> None:
    """The log was opened before it was made and does not know it, but its marker does."""
    store = small_store(tmp_path)
    with usage_log(tmp_path) as log:
        ensure(store, small_spec(), builder(small_spec())).release()
        assert collect(store, log, Policy(older_than=HOUR, max_size=10**9)).collected == []
        assert len(collect(store, log, Policy(max_size=0)).collected) == 1
    with pytest.raises(StoreError), usage_log(tmp_path) as log:
        shutil.rmtree(tmp_path / "envs")
        (tmp_path / "envs").touch()
        collect(store, log, Policy())


def test_a_use_in_the_future_counts_as_now_for_every_kind(tmp_path: Path) -> None:
    """Copies of scripts, launch records, logs and downloads follow the same clock as environments."""
    paths, cache = small_paths(tmp_path), tmp_path / "pkgs"
    places = [paths.copies, paths.launch, paths.logs, cache / "repodata", cache / "pkgs"]
    ages = {"0": 60, "1": 100 * 24 * HOUR, "2": -100 * 24 * HOUR}
    for place in places:
        for name, age in ages.items():
            path = place / (name * 64)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
            os.utime(path, (time.time() - age,) * 2)
    kinds = [*kept_sources(paths), launch_records(paths), *downloads([cache], paths.logs)]
    would = Collection(Policy(older_than=30 * HOUR), dry_run=True)
    would.collect(*kinds)
    done = Collection(Policy(older_than=30 * HOUR))
    done.collect(*kinds)
    assert [item.item for item in done.collected] == [item.item for item in would.collected]
    assert done.freed == would.freed > 0
    gone = {place.name: sorted(set(ages) - {path.name[0] for path in place.iterdir()}) for place in places}
    assert gone == {"copies": ["1"], "launch": ["1"], "logs": ["1"], "repodata": ["1"], "pkgs": []}

"""Kept scripts: one file for the same content, private, complete, available on request, removed when unused."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cetool.base.errors
from cetool.base.errors import StoreError
from cetool.base.files import put_file
from cetool.store import scripts
from cetool.store.gc import Collection, Policy
from cetool.store.kinds import KeptScripts
from cetool.store.scripts import ScriptStore, safe_name

DATA = b"#!/bin/sh\necho kept\n"
KEEP = """
import sys
from pathlib import Path
from cetool.store.scripts import ScriptStore
sys.stdin.readline()
print(ScriptStore(Path(sys.argv[1])).hold(b"x" * 3_000_000, "big.py").path)
"""
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX only")


@pytest.fixture
def store(tmp_path: Path) -> ScriptStore:
    return ScriptStore(tmp_path / "scripts")


def age(path: Path, seconds: float) -> None:
    """Set the last use of the kept script or cache directory."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def kept(store: ScriptStore, name: str, data: bytes = DATA) -> Path:
    """Keep a script without holding it."""
    held = store.hold(data, name)
    held.release()
    return held.path


def cache_dir(store: ScriptStore, script: Path) -> Path:
    """Return the script's cache directory, without holding it."""
    held = store.hold_cache_dir(script)
    held.release()
    return held.path


def collected(store: ScriptStore, older_than: float, *, dry_run: bool = False) -> int:
    """Return the bytes freed by collecting what was unused for this many seconds."""
    collection = Collection(Policy(older_than=older_than), dry_run=dry_run)
    collection.collect(KeptScripts(store))
    return collection.freed


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def left(store: ScriptStore) -> list[str]:
    return sorted(str(p.relative_to(store.directory)) for p in store.directory.rglob("*") if not p.is_dir())


@posix
def test_a_kept_script_is_private_and_runs(store: ScriptStore) -> None:
    path = kept(store, "my script.sh")
    assert path == store.directory / hashlib.sha256(DATA).hexdigest()[:20] / "my_script.sh"
    assert [mode(p) for p in (path, path.parent, store.directory)] == [0o700] * 3
    assert subprocess.run([path], capture_output=True, timeout=60).stdout == b"kept\n"
    assert {entry.name for entry in path.parent.iterdir()} == {path.name}


def test_the_same_content_is_the_same_file(store: ScriptStore) -> None:
    path = kept(store, "a.py")
    inode = path.stat().st_ino
    age(path, 5000)
    age(path.parent, 5000)
    assert kept(store, "a.py") == path and path.stat().st_ino == inode
    assert min(path.stat().st_mtime, path.parent.stat().st_mtime) > time.time() - 4000
    assert kept(store, "b.py").parent == path.parent
    assert kept(store, "a.py", DATA + b"#").parent != path.parent


@pytest.mark.parametrize("how", ["longer", "shorter", "link", "second name", "open", "unreadable"])
@posix
def test_a_changed_file_is_corrected(store: ScriptStore, tmp_path: Path, how: str) -> None:
    path = kept(store, "a.sh")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(DATA)
    if how in ("link", "second name"):
        path.unlink()
        path.symlink_to(elsewhere) if how == "link" else path.hardlink_to(elsewhere)
    elif how in ("open", "unreadable"):
        path.chmod(0o777 if how == "open" else 0)
    else:
        path.write_bytes(DATA + b"rm -r x\n" if how == "longer" else b"")
    assert kept(store, "a.sh") == path
    assert path.read_bytes() == DATA and mode(path) == 0o700
    assert not path.is_symlink() and path.stat().st_nlink == 1 and elsewhere.read_bytes() == DATA


def test_eight_processes_can_keep_the_same_script(store: ScriptStore) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(cetool.base.errors.__file__).parents[2])}
    command = [sys.executable, "-c", KEEP, str(store.directory)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environ) for _ in range(8)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120) for process in running]
    assert [error for _, error in ends] == [b""] * 8
    (path,) = {Path(out.decode().strip()) for out, _ in ends}
    assert path.read_bytes() == b"x" * 3_000_000
    assert [name for name in left(store) if not name.startswith(".locks")] == [f"{path.parent.name}/big.py"]


@posix
def test_each_script_has_its_own_cache_directory(
    store: ScriptStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cache_dir(store, tmp_path / "s.cpp")
    assert made.parent == store.directory / "cache" and mode(made) == mode(made.parent) == 0o700
    (made / "program").write_text("compiled")
    age(made, 5000)
    monkeypatch.chdir(tmp_path)
    assert cache_dir(store, Path("s.cpp")) == made and (made / "program").exists()
    assert made.stat().st_mtime > time.time() - 4000
    assert cache_dir(store, tmp_path / "t.cpp") != made
    assert cache_dir(store, Path(os.fsdecode(b"/x/\xff.py"))).is_dir()


def test_collection_is_by_age(store: ScriptStore, tmp_path: Path) -> None:
    old, new, future = (kept(store, "s.py", DATA + name) for name in (b"old", b"new", b"future"))
    old_cache, new_cache = cache_dir(store, tmp_path / "old"), cache_dir(store, tmp_path / "new")
    (old_cache / "deep").mkdir()
    (old_cache / "deep" / "data").write_bytes(b"#" * 100_000)
    (old_cache / "deep").chmod(0o500)
    old_cache.chmod(0o500)
    for directory in (old.parent, old_cache):
        age(directory, 7300)
    age(future.parent, -90_000)  # the clock was set back since
    foreign = store.directory / "notes.txt"
    foreign.write_text("not ours")

    would = collected(store, 7200, dry_run=True)
    assert would > 100_000 and old.exists() and (old_cache / "deep" / "data").exists()
    assert collected(store, 7200) == would
    assert not old.parent.exists() and not old_cache.exists()
    assert new.exists() and new_cache.exists() and future.exists()
    assert collected(store, 7200) == 0
    assert collected(store, 0) > 0
    assert not new.exists() and not new_cache.exists()
    assert left(store) == ["notes.txt"]


def test_collecting_an_absent_directory_does_nothing(store: ScriptStore) -> None:
    assert collected(store, 0) == 0 and not store.directory.exists()


def test_an_interrupted_collection_is_finished(store: ScriptStore) -> None:
    path = kept(store, "s.py")
    (store.directory / ".trash").mkdir()
    path.parent.rename(store.directory / ".trash" / "half-way")
    collected(store, 1_000_000)
    assert left(store) == []


@posix
def test_a_held_script_stays_even_through_exec(store: ScriptStore, tmp_path: Path) -> None:
    held, cache = store.hold(DATA, "s.sh"), store.hold_cache_dir(tmp_path / "s.sh")
    assert held.lock is not None and cache.lock is not None
    fds = (held.lock.fd, cache.lock.fd)
    with subprocess.Popen(["/bin/sh", "-c", "exec cat"], pass_fds=fds, stdin=subprocess.PIPE) as script:
        held.release()
        cache.release()
        assert collected(store, 0) == 0
        assert held.path.exists() and cache.path.exists()
        script.communicate(timeout=60)
    assert collected(store, 0) > 0
    assert not held.path.exists() and not cache.path.exists()


def test_a_script_kept_during_a_collection_stays(store: ScriptStore, tmp_path: Path) -> None:
    over = threading.Event()
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            while not over.is_set():
                collected(store, 0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=collect) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(150):
            held, cache = store.hold(DATA, "s.sh"), store.hold_cache_dir(tmp_path / "s.sh")
            assert held.path.read_bytes() == DATA and cache.path.is_dir()
            held.release()
            cache.release()
            kept(store, "t.sh")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_script_can_be_kept_while_its_directory_is_removed(
    store: ScriptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Path] = []

    def removing(path: Path, data: bytes, *, mode: int, sync: bool) -> None:
        if len(removed) < 2:
            removed.append(path)
            path.parent.rmdir()
        put_file(path, data, mode=mode, sync=sync)

    monkeypatch.setattr(scripts, "put_file", removing)
    path = kept(store, "s.sh")
    assert removed == [path, path] and path.read_bytes() == DATA


def test_a_script_that_cannot_be_kept_is_an_error_with_the_reason(
    store: ScriptStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, **how: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(scripts, "put_file", full)
        with pytest.raises(StoreError) as caught:
            kept(store, "s.sh")
    assert "No space left" in caught.value.message and "cetool gc" in str(caught.value.hint)
    collected(store, 0)
    for blocked in (store.directory / hashlib.sha256(DATA).hexdigest()[:20], tmp_path / "file"):
        blocked.write_text("in the way")
        with pytest.raises(StoreError) as caught:
            kept(store if blocked.parent == store.directory else ScriptStore(blocked), "s.sh")
        assert str(blocked) in f"{caught.value} {caught.value.hint}" and caught.value.hint


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("stdin", "stdin"),
        ("code", "code"),
        ("../../etc/x.sh", "etc_x.sh"),
        ("..", "script"),
        ("", "script"),
        (".py", "script.py"),
        ("-rf", "rf"),
        ("n" * 300, "n" * 100),
        ("x.", "x"),
        ("a\nb\x1b.R", "a_b.R"),
        ("\u00e4.py", "script.py"),
        ("x" * 300 + ".tar.py", "x" * 97 + ".py"),
        ("." * 2 + "y" * 300, "script." + "y" * 50),
    ],
)
def test_names_are_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe

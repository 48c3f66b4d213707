"""What counts as an environment, and where the store can be: damaged markers, read-only, shared and split caches."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cache import (
    builder,
    ensure,
    finish,
    hear,
    leftovers,
    made,
    make_files,
    marker_for,
    open_directory,
    run,
    small_spec,
    small_store,
    start,
    tidy,
)

from cetool.base.errors import StoreError
from cetool.declare.environment import Solve
from cetool.settings.paths import Paths
from cetool.store.making import Settling, put_away, write_marker
from cetool.store.store import MARKER, Store, read_marker

SPEC = small_spec()
NAME = SPEC.name
_needs_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user"
)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user can enter."""
    with open_directory() as directory:
        yield directory


def _with(**changes: object) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **changes}).encode()


_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(range(256)),
    "deep": lambda data: b"[" * 200_000,
    "list": lambda data: b"[1]",
    "schema": _with(schema=2),
    "type": _with(created="today"),
    "nan": _with(created=float("nan")),
    "spec": _with(spec={"packages": [], "variables": []}),
    "prefix": _with(prefix="/a\0b"),
    "huge": _with(size=2**70),
    "no path": _with(prefix="\ud800"),
    "no text": _with(engine="\ud800"),
    "no text in the spec": _with(spec={"packages": ["\ud800"]}),
    "a number in the spec": _with(spec={"packages": [10**400]}),
    "deep spec": _with(spec={"packages": [[[[[[[["x"]]]]]]]]}),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_an_environment_with_a_damaged_marker_is_absent(tmp_path: Path, damage: str) -> None:
    lease = made(tmp_path)
    lease.release()
    (lease.prefix / MARKER).write_bytes(_DAMAGE[damage]((lease.prefix / MARKER).read_bytes()))
    store = small_store(tmp_path)
    assert store.lease(NAME) is None
    assert [directory.is_marked for directory in store.directories()] in ([True], [False])
    assert ensure(store, SPEC, builder(SPEC)).created


@pytest.mark.skipif(os.name == "nt", reason="pipes and links of POSIX")
@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_marker_that_is_not_a_file_is_ignored(tmp_path: Path, name: str) -> None:
    lease = made(tmp_path)
    lease.release()
    marker = lease.prefix / MARKER
    if name == "pipe":
        marker.unlink()
        os.mkfifo(marker)
    else:
        marker.rename(tmp_path / "elsewhere")
        marker.symlink_to(tmp_path / "elsewhere")
    assert small_store(tmp_path).lease(NAME) is None
    assert ensure(small_store(tmp_path), SPEC, builder(SPEC)).created


def test_a_moved_or_copied_environment_is_absent(tmp_path: Path) -> None:
    lease = made(tmp_path)
    lease.release()
    shutil.copytree(lease.prefix, tmp_path / "copy" / "envs" / NAME)
    assert small_store(tmp_path / "copy").lease(NAME) is None
    os.symlink(tmp_path, tmp_path / "link")
    reached = small_store(tmp_path / "link", trusted=True).lease(NAME)  # another path to the same directory
    assert reached is not None
    os.rename(tmp_path / "envs" / NAME, tmp_path / "envs" / f"{NAME}-2")
    assert small_store(tmp_path).lease(NAME) is None


def test_a_marker_keeps_every_field_of_a_spec(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    make_files(prefix)
    spec = small_spec()._replace(
        what=Solve(("x",), ("six",)), variables=(("A", "\udc80 ü\n"),), virtual_packages=(("__cuda", "12"),)
    )
    marker = marker_for(prefix, small_spec())._replace(spec=spec, engine="mamba")
    Settling(prefix).finish()
    write_marker(prefix, marker)
    assert read_marker(prefix) == marker
    assert json.loads((prefix / "conda-meta/frozen").read_text())["message"]
    assert not list((prefix / "conda-meta").glob("*.new"))


@_needs_root
def test_a_read_only_cache_works(open_path: Path) -> None:
    """Its environments work, and are held in use by a lock that needs no write permission; nothing else is possible."""
    root = open_path / "cache"
    for place in (root, root / "envs", root / "locks", root / "trash"):
        place.mkdir()
        place.chmod(0o755)
    made(root).release()
    body = """
    import fcntl
    os.chdir("/")
    os.setuid(65534)
    STORE = small_store(ROOT, trusted=True)
    lease = STORE.lease(SPEC.name)
    assert lease is not None and lease.lock is not None and is_whole(lease.prefix)
    other = next(STORE.directories())
    for act in (
        lambda: ensure(STORE, small_spec("other"), builder(small_spec("other"))),
        lambda: remove(STORE, other, lease.lock),
    ):
        try:
            act()
        except StoreError as error:
            assert error.hint
        else:
            raise AssertionError("no error")
    tidy(STORE)
    say("held")
    sys.stdin.read()
    """
    reader = start(root, body)
    assert hear(reader) == ["held"]
    (directory,) = small_store(root).directories()
    assert small_store(root).in_use(directory)
    finish(reader)
    assert not small_store(root).in_use(directory)


@_needs_root
def test_locks_of_shared_environments_have_their_permissions(open_path: Path) -> None:
    """A user who can use a colleague's ``env-dir`` can hold its environments in use."""
    envs = open_path / "shared"
    envs.mkdir()
    envs.chmod(0o755)
    paths = Paths(open_path / "mine", envs, envs / ".locks", envs / ".trash", None)
    ensure(Store(paths), SPEC, builder(SPEC)).release()
    assert stat.S_IMODE((envs / ".locks").stat().st_mode) == 0o755
    body = """
    import fcntl
    os.chdir("/")
    os.setuid(65534)
    envs = ROOT / "shared"
    lease = Store(Paths(Path("/nonexistent"), envs, envs / ".locks", envs / ".trash", None, True)).lease(SPEC.name)
    assert lease is not None and lease.lock is not None
    """
    run(open_path, body)


def test_the_trash_can_be_on_another_file_system(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other file system at hand")
    trash = other / f"cetool-test-{os.getpid()}-{tmp_path.name}"
    store = Store(Paths(tmp_path, tmp_path / "envs", tmp_path / "locks", trash, None))
    try:
        ensure(store, SPEC, builder(SPEC)).release()
        ensure(store, SPEC, builder(SPEC), refresh=True).release()
        (directory,) = store.directories()
        lock = store.hold_for_removal(directory)
        assert lock is not None
        gone = put_away(store, directory)
        lock.delete()
        assert gone is not None
        assert gone.parent == tmp_path / "envs"
        assert list(store.directories()) == []
        tidy(store)
        assert leftovers(tmp_path) == []
    finally:
        shutil.rmtree(trash, ignore_errors=True)


@_needs_root
def test_a_tree_is_deleted_whatever_its_modes_and_nothing_else(open_path: Path) -> None:
    """As a user other than root; the mode of a file with another hard link elsewhere is unchanged."""
    work = open_path / "work"
    make_files(work / "tree" / "inner")
    make_files(work / "kept")
    (work / "package").write_text("cached")
    (work / "package").chmod(0o444)
    os.link(work / "package", work / "tree" / "inner" / "lib" / "linked")
    os.symlink(work / "kept", work / "tree" / "link")
    for path in (work, *work.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    for directory in ("inner/lib", "inner", "."):
        (work / "tree" / directory).chmod(0)
    run(open_path, "os.setuid(65534); delete_tree(ROOT / 'work' / 'tree')")
    assert sorted(os.listdir(work)) == ["kept", "package"]
    assert stat.S_IMODE((work / "package").stat().st_mode) == 0o444
    assert (work / "kept/bin/tool").is_file()


def test_foreign_files_among_the_environments_are_left_alone(tmp_path: Path) -> None:
    made(tmp_path).release()
    for name in ("notes.txt", NAME.upper(), f"{NAME}-x", f"x{NAME}"):
        make_files(tmp_path / "envs" / name)
    store = small_store(tmp_path)
    assert [directory.prefix.name for directory in store.directories()] == [NAME]
    tidy(store)
    assert len(os.listdir(tmp_path / "envs")) == 5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "envs").touch()
    store = small_store(tmp_path / "other")
    with pytest.raises(StoreError):
        list(store.directories())
    with pytest.raises(StoreError):
        ensure(store, SPEC, builder(SPEC))

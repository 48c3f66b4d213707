"""Promises of file locks: they last through fork, exec and SIGSTOP; deleted and foreign files are not locks."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from support.cache import finish, hear, kill, run, start, wait_until

from cetool.base.errors import StoreError
from cetool.base.filelock import is_locked, try_lock, wait_for_lock

_HOLD = """
lock = wait_for_lock(ROOT / "a.lock", shared={shared})
lock.write_holder("process 1 (to see)")
say("held", os.getpid())
{then}
"""


def test_shared_and_exclusive_between_processes(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert not is_locked(path)
    assert not path.exists()
    holder = start(tmp_path, _HOLD.format(shared=True, then="sys.stdin.read()"))
    hear(holder)
    reader = try_lock(path, shared=True)
    assert reader is not None
    reader.release()
    assert try_lock(path, shared=False) is None
    assert is_locked(path)
    finish(holder)
    assert not is_locked(path)


def test_a_lock_passes_through_exec_and_to_a_daemon(tmp_path: Path) -> None:
    """It is free when the last process that inherited it has ended, and not before."""
    then = """
    os.set_inheritable(lock.fd, True)
    if os.fork() == 0:
        os.setsid()
        os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"])
    """
    holder = start(tmp_path, _HOLD.format(shared=True, then="\n".join(line[4:] for line in then.splitlines())))
    hear(holder)
    holder.wait()
    assert is_locked(tmp_path / "a.lock")
    assert try_lock(tmp_path / "a.lock", shared=False) is None
    assert holder.stdin is not None
    holder.communicate()  # the daemon's standard input ends
    wait_until(lambda: not is_locked(tmp_path / "a.lock"))


def test_a_stopped_process_holds_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    holder = start(tmp_path, _HOLD.format(shared=False, then="sys.stdin.read()"))
    hear(holder)
    os.kill(holder.pid, signal.SIGSTOP)
    told: list[str] = []
    with pytest.raises(StoreError, match="is held by process 1") as caught:
        wait_for_lock(path, on_wait=told.append, at_most=0.2)
    assert told == ["process 1 (to see)"]
    assert caught.value.hint
    kill(holder)  # SIGKILL reaches a stopped process
    assert not is_locked(path)


def test_deleting_locks_leaves_one_holder_at_a_time(tmp_path: Path) -> None:
    """Five processes count in one file under a lock that each deletes or retires when it is done."""
    body = """
    def act(number):
        for turn in range(100):
            lock = wait_for_lock(ROOT / "a.lock")
            count = int((ROOT / "count").read_text())
            os.sched_yield()
            (ROOT / "count").write_text(str(count + 1))
            (lock.delete, lock.retire, lock.release)[turn % 3]()
    fork_many(5, act)
    """
    (tmp_path / "count").write_text("0")
    run(tmp_path, body)
    assert (tmp_path / "count").read_text() == "500"


def test_a_lock_that_a_child_inherited_is_not_retired(tmp_path: Path) -> None:
    lock = wait_for_lock(tmp_path / "a.lock")
    inherited = os.dup(lock.fd)  # as a child has it: the same open file description
    lock.retire()
    assert lock.path.exists()
    assert is_locked(lock.path)
    os.close(inherited)
    lock = wait_for_lock(tmp_path / "a.lock")
    lock.retire()
    assert not lock.path.exists()
    lock.release()  # once more does nothing


def test_downgrading_tells_whether_the_lock_is_still_the_one_in_place(tmp_path: Path) -> None:
    lock = wait_for_lock(tmp_path / "a.lock")
    assert lock.downgrade()
    other = try_lock(lock.path, shared=True)
    assert other is not None
    other.release()
    lock.path.unlink()
    assert not lock.downgrade()
    lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="links and FIFOs")
def test_files_that_are_not_locks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.link(tmp_path / "file", tmp_path / "hard.lock")
    os.symlink(tmp_path / "elsewhere", tmp_path / "soft.lock")
    os.mkfifo(tmp_path / "fifo.lock")
    (tmp_path / "dir.lock").mkdir()
    for name in ("hard", "soft", "fifo", "dir"):
        with pytest.raises(StoreError) as caught:
            try_lock(tmp_path / f"{name}.lock", shared=True)
        assert caught.value.hint
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(StoreError):
        try_lock(tmp_path / "file" / "below.lock", shared=True)


def test_a_lock_is_as_open_as_its_directory(tmp_path: Path) -> None:
    """Whatever the umask: who shares the directory has to be able to open its locks."""
    modes = []
    umask = os.umask(0o077)
    try:
        for mode in (0o700, 0o755, 0o770):
            directory = tmp_path / f"{mode:o}"
            directory.mkdir()
            directory.chmod(mode)
            wait_for_lock(directory / "a.lock").release()
            modes.append(stat.S_IMODE((directory / "a.lock").stat().st_mode))
    finally:
        os.umask(umask)
    assert modes == [0o600, 0o644, 0o660]
    with wait_for_lock(tmp_path / "new" / "b.lock"):
        assert is_locked(tmp_path / "new" / "b.lock")

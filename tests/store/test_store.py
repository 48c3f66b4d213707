"""The store: an environment is made once and complete, or absent, whatever is killed or fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from support.cache import (
    Site,
    builder,
    ensure,
    hear,
    is_whole,
    leftovers,
    made,
    make_files,
    marker_for,
    remove,
    run,
    small_spec,
    small_store,
    start,
    tidy,
    wait_until,
)

from cetool.base.errors import StoreError
from cetool.base.filelock import is_locked
from cetool.store.making import Settling
from cetool.store.store import Directory, Lease, Marker, read_marker

SPEC = small_spec()
NAME = SPEC.name
# --- made once, complete or absent ------------------------------------------------------------------------------------


def test_of_twenty_processes_one_makes_the_environment(tmp_path: Path) -> None:
    body = """
    def act(number):
        lease = ensure(STORE, SPEC, builder(SPEC, built=ROOT / "built", then=lambda site: time.sleep(0.2)))
        assert is_whole(lease.prefix)
        say(lease.created)
    fork_many(20, act)
    """
    said = run(tmp_path, body).splitlines()
    assert sorted(said) == ["[false]"] * 19 + ["[true]"]
    assert (tmp_path / "built").read_text() == f"{NAME}\n"
    assert leftovers(tmp_path) == [f"envs/{NAME}", f"locks/{NAME}.lock"]
    assert not is_locked(tmp_path / "locks" / f"{NAME}.lock")


def test_threads_of_one_process_share_one_creation(tmp_path: Path) -> None:
    """Each thread holds the environment by a separate lock: it is in use until the last has released it."""
    start_together = threading.Barrier(4)
    leases: list[Lease] = []
    failures: list[BaseException] = []

    def want(package: str) -> None:
        spec = small_spec(package)
        start_together.wait()
        try:
            then = lambda site: time.sleep(0.1)  # noqa: E731
            leases.append(ensure(small_store(tmp_path), spec, builder(spec, built=tmp_path / "built", then=then)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=want, args=(package,)) for package in ("a", "a", "b", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and len(leases) == 4
    assert len((tmp_path / "built").read_text().split()) == len({lease.prefix for lease in leases}) == 2
    assert sum(lease.created for lease in leases) == 2
    store = small_store(tmp_path)
    for lease in leases:
        assert store.in_use(Directory(lease.prefix, lease.marker.name))
        with lease:
            assert is_whole(lease.prefix)
    assert not any(map(store.in_use, store.directories()))


def test_making_an_environment_leaves_the_process_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("other threads would notice")

    with monkeypatch.context() as patched:
        for name in ("umask", "chdir", "putenv", "unsetenv"):
            patched.setattr(os, name, refuse)
        lease = made(tmp_path)
    with lease:
        assert is_whole(lease.prefix)


def test_waiting_processes_share_a_failure(tmp_path: Path) -> None:
    body = """
    from cetool.base.errors import EngineError

    def fail(site):
        time.sleep(0.5)
        raise EngineError("the channel is out of reach", log="/the/log")

    def act(number):
        try:
            ensure(STORE, SPEC, builder(SPEC, built=ROOT / "built", then=fail))
        except EngineError as error:
            say(error.message.partition(" (")[0], error.log)
    fork_many(8, act)
    """
    said = run(tmp_path, body).splitlines()
    assert said == ['["the channel is out of reach", "/the/log"]'] * 8
    assert (tmp_path / "built").read_text() == f"{NAME}\n"
    # a later request tries again
    assert ensure(small_store(tmp_path), SPEC, builder(SPEC)).created


@pytest.mark.parametrize(
    "problem", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken")]
)
def test_a_failed_creation_leaves_nothing(tmp_path: Path, problem: BaseException) -> None:
    def fail(site: Site) -> None:
        raise problem

    expected = StoreError if isinstance(problem, OSError) else type(problem)
    with pytest.raises(expected) as caught:
        ensure(small_store(tmp_path), SPEC, builder(SPEC, then=fail))
    assert leftovers(tmp_path) == []
    if isinstance(caught.value, StoreError):
        assert caught.value.hint
        assert str(problem.args[1]) in str(caught.value)


def test_a_missing_or_foreign_marker_leaves_nothing(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    with pytest.raises(StoreError, match="cannot write environment"):
        ensure(store, SPEC, builder(SPEC, then=lambda site: shutil.rmtree(site.prefix / "conda-meta")))

    def elsewhere(prefix: Path, log: Path, descriptors: tuple[int, ...], settling: Settling) -> Marker:
        make_files(prefix)
        return marker_for(tmp_path / "elsewhere", SPEC)

    with pytest.raises(StoreError, match="made for another prefix"):
        ensure(store, SPEC, elsewhere)
    assert leftovers(tmp_path) == []


_KILLED = """
KINDS = {"open", "os.mkdir", "os.rename", "os.remove", "os.chmod", "fcntl.flock", "shutil.rmtree", "os.listdir"}

def killed_at(step):
    pid = os.fork()
    if pid == 0:
        seen = [0]
        def hook(event, arguments):
            if event in KINDS:
                if seen[0] == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen[0] += 1
        sys.addaudithook(hook)
        ensure(STORE, SPEC, builder(SPEC), refresh=REFRESH)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

step = 0
while True:
    if REFRESH:
        ensure(STORE, SPEC, builder(SPEC)).release()
    if not killed_at(step):
        break
    lease = STORE.lease(SPEC.name)
    if lease is not None:
        assert is_whole(lease.prefix), step
        lease.release()
    lease = ensure(STORE, SPEC, builder(SPEC))
    assert is_whole(lease.prefix), step
    lease.release()
    tidy(STORE)
    for directory in list(STORE.directories()):
        with STORE.hold_for_removal(directory) as lock:
            remove(STORE, directory, lock)
    assert leftovers(ROOT) == [], (step, leftovers(ROOT))
    step += 1
say(step)
"""


@pytest.mark.parametrize("refresh", [False, True])
def test_a_kill_at_any_step_leaves_no_half_environment(tmp_path: Path, refresh: bool) -> None:
    """SIGKILL before each file operation in turn: no half environment is used, and the next process makes a complete
    one.
    """
    steps = json.loads(run(tmp_path, f"REFRESH = {refresh}\n{_KILLED}"))[0]
    assert steps > 20


def test_others_wait_for_the_engine_of_a_killed_process(tmp_path: Path) -> None:
    """The engine inherited the locks: the next process waits for its end, then removes what it left."""
    body = """
    def then(site):
        code = "import sys, time; sys.stdin.read(); open(sys.argv[1] + '/late', 'w'); time.sleep(0.2)"
        engine = subprocess.Popen([sys.executable, "-c", code, str(site.prefix)], pass_fds=site.inherit)
        say(engine.pid)
        engine.wait()
    ensure(STORE, SPEC, builder(SPEC, then=then), purpose="for a test")
    """
    maker = start(tmp_path, body)
    hear(maker)
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    told: list[str] = []
    store = small_store(tmp_path)
    assert store.in_use(Directory(tmp_path / "envs" / NAME, NAME))

    def on_wait(holder: str) -> None:
        told.append(holder)
        assert maker.stdin is not None
        maker.stdin.close()  # which the engine has inherited, and waits for

    with maker:
        lease = ensure(store, SPEC, builder(SPEC), on_wait=on_wait)
    assert told == [f"process {maker.pid} (for a test)"]
    assert lease.created
    assert is_whole(lease.prefix)
    assert not (lease.prefix / "late").exists()
    assert lease.prefix.name == NAME


# --- in use while locked ----------------------------------------------------------------------------------------------


def test_a_lease_lasts_as_long_as_its_last_process(tmp_path: Path) -> None:
    """The maker execs a script that forks a daemon and ends; stopped or not, the daemon keeps the environment."""
    body = """
    lease = ensure(STORE, SPEC, builder(SPEC))
    os.set_inheritable(lease.lock.fd, True)
    code = "import os, sys; pid = os.fork(); print([pid], flush=True) if pid else sys.stdin.read()"
    os.execv(sys.executable, [sys.executable, "-c", code])
    """
    script = start(tmp_path, body)
    (daemon,) = hear(script)
    assert isinstance(daemon, int)
    script.wait()
    store = small_store(tmp_path)
    (directory,) = store.directories()
    assert store.in_use(directory)
    os.kill(daemon, signal.SIGSTOP)
    assert store.hold_for_removal(directory) is None
    os.kill(daemon, signal.SIGCONT)
    script.communicate()  # its standard input ends, and so it ends
    wait_until(lambda: not store.in_use(directory))
    lock = store.hold_for_removal(directory)
    assert lock is not None
    remove(store, directory, lock)
    assert leftovers(tmp_path) == []


def test_checking_for_use_disturbs_no_process(tmp_path: Path) -> None:
    """While some check repeatedly whether it is in use, no process fails to get it or makes it a second time."""
    body = """
    def act(number):
        for directory in list(STORE.directories()) * 300:
            if number:
                STORE.in_use(directory)
            else:
                ensure(STORE, SPEC, builder(SPEC, built=ROOT / "built")).release()
    ensure(STORE, SPEC, builder(SPEC)).release()
    fork_many(3, act)
    """
    run(tmp_path, body)
    assert not (tmp_path / "built").exists()


def test_a_lease_keeps_every_file(tmp_path: Path) -> None:
    """Two processes use it in a loop, two remove it until it was made 30 times: complete for each lease until its
    release.
    """
    body = """
    def act(number):
        while (ROOT / "built").read_text().count("\\n") < 30:
            if number < 2:
                lease = ensure(STORE, SPEC, builder(SPEC, built=ROOT / "built"))
                for _ in range(5):
                    assert is_whole(lease.prefix)
                    os.sched_yield()
                lease.release()
            else:
                for directory in STORE.directories():
                    lock = STORE.hold_for_removal(directory)
                    if lock is not None:
                        remove(STORE, directory, lock)
            time.sleep(0.001)
    (ROOT / "built").touch()
    fork_many(4, act)
    """
    run(tmp_path, body)
    store = small_store(tmp_path)
    tidy(store)
    assert {entry.split("/")[0] for entry in leftovers(tmp_path)} <= {"envs", "locks"}


# --- refresh ----------------------------------------------------------------------------------------------------------


def test_refresh_leaves_a_running_script_alone(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    old = made(tmp_path)
    new = ensure(store, SPEC, builder(SPEC), refresh=True)
    assert new.created
    assert new.prefix.name == f"{NAME}-2"
    assert (old.prefix / "bin/tool").is_file()
    again = ensure(store, SPEC, builder(SPEC))
    assert (store.prefix(NAME), again.prefix, again.created) == (new.prefix, new.prefix, False)
    third = ensure(store, SPEC, builder(SPEC), refresh=True)
    assert third.prefix.name == f"{NAME}-3"
    for lease in (old, new, again):
        lease.release()
    fourth = ensure(store, SPEC, builder(SPEC), refresh=True)
    assert fourth.prefix.name == NAME  # free again
    # the second could be removed when the fourth was made; the third is still in use, but no new run gets it
    assert leftovers(tmp_path)[:2] == [f"envs/{NAME}", f"envs/{NAME}-3"]
    assert (third.prefix / "bin/tool").is_file()
    assert read_marker(third.prefix) is None
    assert not os.listdir(tmp_path / "trash")


def test_a_failed_refresh_keeps_the_old_environment(tmp_path: Path) -> None:
    made(tmp_path).release()
    store = small_store(tmp_path)
    old = store.prefix(NAME).stat().st_ino

    def fail(site: Site) -> None:
        run(tmp_path, "tidy(STORE)")  # another process's collection, which must leave the old one
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(store, SPEC, builder(SPEC, then=fail), refresh=True)
    lease = store.lease(NAME)
    assert lease is not None
    assert is_whole(lease.prefix)
    assert lease.prefix.stat().st_ino == old
    assert leftovers(tmp_path) == [f"envs/{NAME}", f"locks/{NAME}.lock"]


def test_concurrent_refreshes_share_a_creation(tmp_path: Path) -> None:
    """Each gets an environment made after its request; one build serves all requests made before it ended."""
    body = """
    made(ROOT).release()
    def act(number):
        asked = time.time()
        lease = ensure(STORE, SPEC, builder(SPEC, built=ROOT / "built"), refresh=True)
        assert lease.marker.created >= asked
        assert is_whole(lease.prefix)
        lease.release()
    fork_many(6, act)
    """
    run(tmp_path, body)
    assert 1 <= len((tmp_path / "built").read_text().splitlines()) <= 6
    assert sum(item.marker is not None for item in small_store(tmp_path).directories()) == 1


def test_a_daemon_without_inherited_locks_keeps_its_files(tmp_path: Path) -> None:
    """Its program shows that it is in use: a new environment is made next to it."""
    lease = made(tmp_path)
    program = lease.prefix / "bin" / "sleep"
    shutil.copy2(shutil.which("sleep") or "", program)
    lease.release()
    pid = os.posix_spawn(program, [str(program), "600"], {})
    try:
        new = ensure(small_store(tmp_path), SPEC, builder(SPEC), refresh=True)
        assert new.prefix.name == f"{NAME}-2"
        assert program.exists()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

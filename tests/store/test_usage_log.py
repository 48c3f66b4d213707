"""The usage log and its spool: no use is lost or counted twice, whatever is killed; damaged databases."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cache import (
    change_database,
    finish,
    hear,
    kill,
    made,
    run,
    small_paths,
    small_spec,
    small_store,
    start,
    usage_log,
    wait_until,
)

from cetool.base.errors import StoreError
from cetool.base.process import is_running, processes_in, start_time
from cetool.store import usage_files
from cetool.store.store import note_made, note_use
from cetool.store.usage_files import read_uses, taken_files

NAME = small_spec().name

_NOTE = """
def act(number):
    for turn in range(200):
        note_use(ROOT / "spool", SPEC.name, f"script {number} {turn}")
        time.sleep(0.003)
fork_many(8, act)
"""


def _runs(root: Path) -> int:
    with usage_log(root) as log:
        return log.rows()[NAME].runs


def _scripts(root: Path) -> list[str]:
    connection = sqlite3.connect(root / "usage.sqlite3")
    try:
        return sorted(row[0] for row in connection.execute("SELECT script FROM runs"))
    finally:
        connection.close()


# --- the spool --------------------------------------------------------------------------------------------------------


def test_each_use_is_counted_once_under_concurrency(tmp_path: Path) -> None:
    """Eight processes note 200 uses each, another drains in a loop and is killed at random moments."""
    made(tmp_path).release()
    writers = start(tmp_path, _NOTE)
    chance = random.Random(0)
    drain = "say('ready')\nwhile True:\n    with usage_log(ROOT) as log: pass"
    while writers.poll() is None:
        drainer = start(tmp_path, drain)
        hear(drainer)
        with contextlib.suppress(subprocess.TimeoutExpired):
            drainer.wait(chance.random() / 10)
        kill(drainer)
    finish(writers)
    assert _runs(tmp_path) == 1600
    assert _scripts(tmp_path) == sorted(f"script {number} {turn}" for number in range(8) for turn in range(200))
    assert os.listdir(tmp_path / "spool") == []


def test_a_kill_while_reading_the_spool_loses_no_use(tmp_path: Path) -> None:
    """SIGKILL before each file operation in turn, including the one that deletes a file that was read."""
    body = """
    made(ROOT).release()
    def killed_at(step):
        pid = os.fork()
        if pid == 0:
            seen = [0]
            def hook(event, arguments):
                if event in ("open", "os.rename", "os.remove", "os.listdir", "sqlite3.connect", "fcntl.flock"):
                    if seen[0] == step:
                        os.kill(os.getpid(), signal.SIGKILL)
                    seen[0] += 1
            sys.addaudithook(hook)
            with usage_log(ROOT) as log:
                pass
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
    step = 0
    note_use(ROOT / "spool", SPEC.name, "0")
    while killed_at(step):
        step += 1
        note_use(ROOT / "spool", SPEC.name, str(step))
    say(step)
    """
    steps = int(run(tmp_path, body).strip("[]\n"))
    assert steps >= 5
    assert _runs(tmp_path) == steps + 1


def test_damaged_lines_are_skipped_and_names_made_safe(tmp_path: Path) -> None:
    made(tmp_path).release()
    spool = tmp_path / "spool"
    names = ["a\tb\nc\rd\0e", "x" * 100_000, "\udcff", "\ud800", "ü 🐍", ""]
    for name in names[:3]:
        note_use(spool, NAME, name)
    with (spool / "uses").open("ab") as file:
        file.write(b"\n\0\0\0\n1\t2\t3\n" + b"\xff" * 70_000 + b"\n")
        file.write(f"{2**70}\t1\t1\th\t{NAME}\thuge\n-1\t1\t1\th\t{NAME}\tnegative\n".encode())
        file.write(f"1\t{2**40}\t1\th\t{NAME}\tpid\n1\t1\t1\th\t../../x\tname\n".encode())
        file.write(f"{'9' * 5000}\t1\t1\th\t{NAME}\tdigits\n1\t1\t1\th\t{NAME}\tone\ttoo many\n".encode())
        file.write(f"1\t1\t1\thalf a line of a full disk, at host {NAME}".encode())
    for name in names[3:]:
        note_use(spool, NAME, name)
    assert _runs(tmp_path) == len(names)
    found = _scripts(tmp_path)
    assert len(found) == len(names)
    assert "a b c d e" in found
    assert "x" * 3000 in found
    assert "\\xff" in found  # text that is not UTF-8 is replaced
    assert "ü 🐍" in found


def test_a_spool_that_cannot_be_written_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    with pytest.raises(OSError):
        note_use(tmp_path / "spool", NAME, "script")
    with pytest.raises(OSError):
        note_use(tmp_path / "spool" / "below", NAME, "script")
    if Path("/dev/full").exists():
        (tmp_path / "other").mkdir()
        os.symlink("/dev/full", tmp_path / "other" / "uses")
        with pytest.raises(OSError):
            note_use(tmp_path / "other", NAME, "script")
    assert taken_files(tmp_path / "nowhere") == []


def test_uses_count_before_the_log_knows_the_environment(tmp_path: Path) -> None:
    """A run may be noted before the log knows the environment, and does not count for one that replaces it."""
    made(tmp_path).release()
    note_use(tmp_path / "spool", NAME, "first")
    with usage_log(tmp_path) as log:
        assert log.rows()[NAME].runs == 1
        log.forget(NAME)
        note_made(tmp_path / "spool", NAME)
        log.take_in()
        assert log.rows()[NAME].runs == 0
    assert _scripts(tmp_path) == ["first"]


# --- processes --------------------------------------------------------------------------------------------------------


def test_running_processes_are_identified_by_pid_and_start(tmp_path: Path) -> None:
    made(tmp_path).release()
    process = start(tmp_path, 'note_use(ROOT / "spool", SPEC.name, "s")\nsay("noted")\nsys.stdin.read()')
    hear(process)
    begun = start_time(process.pid)
    with usage_log(tmp_path) as log:
        assert log.running() == {NAME: [process.pid]}
        assert is_running(process.pid, begun)
        assert not is_running(process.pid, "1")  # another process had the PID
        assert not is_running(process.pid, "")
        change_database(tmp_path, "UPDATE runs SET process_start = '1'")
        assert log.running() == {}
        change_database(tmp_path, f"UPDATE runs SET process_start = '{begun}'")
        process.kill()
        wait_until(lambda: start_time(process.pid) == "")  # a zombie has ended
        assert log.running() == {}
    kill(process)


def test_processes_are_found_by_their_programs(tmp_path: Path) -> None:
    real = tmp_path / "real"
    prefixes = [real / name for name in ("a", "b", "ab")]
    for prefix in prefixes:
        (prefix / "bin").mkdir(parents=True)
        shutil.copy2(shutil.which("sleep") or "", prefix / "bin" / "sleep")
    os.symlink(real, tmp_path / "link")
    os.symlink(prefixes[0], real / "c")
    pid = os.posix_spawn(prefixes[0] / "bin" / "sleep", ["sleep", "600"], {})
    try:
        assert processes_in(prefixes) == {prefixes[0]: [pid]}
        assert processes_in([tmp_path / "link" / "a"]) == {tmp_path / "link" / "a": [pid]}
        assert processes_in([real / "c"]) == {real / "c": [pid]}
        assert processes_in([]) == {}
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


# --- the database -----------------------------------------------------------------------------------------------------


def _overwrite(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(random.Random(1).randbytes(path.stat().st_size - at))


def _execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _other_tables(path: Path) -> None:
    path.unlink()
    _execute(path, "CREATE TABLE runs (a)")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _exchange(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


_DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: os.truncate(path, 0),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "noise": lambda path: _overwrite(path, 0),
    "noise behind the header": lambda path: _overwrite(path, 100),
    "text": lambda path: path.write_text("this is no database" * 100),
    "directory": _directory,
    "other tables": _other_tables,
    "no tables": lambda path: _execute(path, "DROP TABLE uses"),
    "a pipe": _pipe,
    "a version below none": lambda path: _execute(path, "PRAGMA user_version = -5"),
    "a schema that is not text": lambda path: _exchange(path, b"run_counts", b"run_\xff\xfe\xff\xff\xff\xff"),
    "another schema": lambda path: _exchange(path, b"runs = runs + 1", b"runs = runs + 7"),
    "a name that is not text": lambda path: _execute(path, "UPDATE environments SET name = CAST(x'ff' AS TEXT)"),
    "a text for a number": lambda path: _execute(path, "UPDATE environments SET bytes = 'many'"),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_database_is_rebuilt(tmp_path: Path, damage: str) -> None:
    made(tmp_path, created=1.0).release()
    assert _runs(tmp_path) == 0
    _DAMAGE[damage](tmp_path / "usage.sqlite3")
    note_use(tmp_path / "spool", NAME, "after")
    told: list[str] = []
    with usage_log(tmp_path, told) as log:
        row = log.rows()[NAME]
        assert row.created == 1.0
        assert row.last_used > 1e9  # unknown, which must not get it collected
    assert len(told) <= 1
    if damage != "empty":  # an empty file is a database
        assert "usage.sqlite3.damaged-" in told[0]
    late = damage in ("a name that is not text", "a text for a number")  # found after the use was read
    assert _runs(tmp_path) == (0 if late else 1)


def test_random_damage_is_always_repaired(tmp_path: Path, scale: int) -> None:
    made(tmp_path).release()
    note_use(tmp_path / "spool", NAME, "script")
    assert _runs(tmp_path) == 1
    database = tmp_path / "usage.sqlite3"
    good = database.read_bytes()
    written = [at for at, byte in enumerate(good) if byte and not 60 <= at < 64]  # the version may be a newer cetool's
    dice = random.Random(12)
    for _ in range(40 * scale):
        data = bytearray(good)
        for at in dice.sample(written, dice.choice([1, 2, 8, 40])):
            data[at] = dice.randrange(256)
        for path in tmp_path.glob("usage.sqlite3*"):
            path.unlink()
        database.write_bytes(data)
        note_use(tmp_path / "spool", NAME, "script")
        with usage_log(tmp_path, []) as log:
            assert log.rows().keys() == {NAME}
            log.running()
            log.saw_in_use(NAME, 1.0)
            log.tidy(1e9)


def test_damage_found_during_an_action_is_repaired(tmp_path: Path) -> None:
    made(tmp_path).release()
    told: list[str] = []
    with usage_log(tmp_path, told) as log:
        change_database(tmp_path, "PRAGMA writable_schema = ON", "DROP TABLE environments")
        assert log.rows().keys() == {NAME}
        log.saw_in_use(NAME, 1e10)
        assert log.last_used(NAME) == 1e10
        log.tidy(1e9)
        assert log.last_used(NAME) == 1e9  # an earlier wrong clock is corrected
    assert len(told) == 1


def test_only_one_process_replaces_a_damaged_database(tmp_path: Path) -> None:
    made(tmp_path).release()
    (tmp_path / "usage.sqlite3").write_text("this is no database" * 100)
    body = """
    def act(number):
        told = []
        note_use(ROOT / "spool", SPEC.name, str(number))
        with usage_log(ROOT, told) as log:
            assert log.rows()
        say(len(told))
    fork_many(8, act)
    """
    assert sorted(run(tmp_path, body).split()) == ["[0]"] * 7 + ["[1]"]
    assert _runs(tmp_path) == 8
    assert len(list(tmp_path.glob("usage.sqlite3.damaged-*"))) == 1


def test_ten_processes_create_one_log(tmp_path: Path) -> None:
    made(tmp_path).release()
    body = """
    def act(number):
        note_use(ROOT / "spool", SPEC.name, str(number))
        with usage_log(ROOT) as log:
            assert log.rows()[SPEC.name].runs > 0
    fork_many(10, act)
    """
    run(tmp_path, body)
    assert _runs(tmp_path) == 10


def test_a_newer_schema_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    made(tmp_path).release()
    _runs(tmp_path)
    _execute(tmp_path / "usage.sqlite3", "PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer cetool") as caught, usage_log(tmp_path):
        pass
    assert caught.value.hint
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_database_held_by_another_process_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path).release()
    _runs(tmp_path)
    note_use(tmp_path / "spool", NAME, "later")
    body = """
    import sqlite3
    db = sqlite3.connect(ROOT / "usage.sqlite3")
    db.execute("BEGIN EXCLUSIVE")
    say("held")
    sys.stdin.read()
    """
    holder = start(tmp_path, body)
    hear(holder)
    monkeypatch.setattr(usage_files, "BUSY_SECONDS", 0.1)
    with pytest.raises(StoreError, match="locked") as caught, usage_log(tmp_path):
        pass
    assert caught.value.hint
    finish(holder)
    assert _runs(tmp_path) == 1


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user")
def test_a_read_only_database_is_an_error(tmp_path: Path) -> None:
    body = """
    import fcntl
    with open_directory() as root:
        lease = made(root)
        with usage_log(root):
            pass
        for path in (root / "usage.sqlite3", *root.glob("*")):
            path.chmod(0o755)
        os.setegid(65534)
        os.seteuid(65534)
        try:
            with usage_log(root):
                pass
        except StoreError as error:
            say(bool(error.hint), str(error).count(str(root)) > 0)
        os.seteuid(0)
    """
    assert run(tmp_path, body) == "[true, true]\n"


def test_the_log_follows_directories_on_disk(tmp_path: Path) -> None:
    lease = made(tmp_path, "one")
    lease.release()
    with usage_log(tmp_path) as log:
        assert log.rows().keys() == {lease.prefix.name}
    shutil.rmtree(lease.prefix)
    other = made(tmp_path, "two")
    (tmp_path / "envs" / ("0" * 20)).mkdir()
    with usage_log(tmp_path) as log:
        assert log.rows().keys() == {other.prefix.name}
    assert small_paths(tmp_path).database.stat().st_mode & 0o077 == 0
    assert list(small_store(tmp_path).directories(other.marker.name))
    assert list(read_uses(Path(os.devnull))) == []

"""A database that is locked, read-only, damaged or on a full disk: errors that say so, and no half-done change."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.builds import posted

from cetool.base.errors import CetoolError
from cetool.server.data import builds, leases
from cetool.server.data.builds import BuildQuery
from cetool.server.data.database import Database, failures
from cetool.server.data.directory import held

TESTS = Path(__file__).resolve().parents[1]


def code_of(error: pytest.ExceptionInfo[CetoolError]) -> str:
    return error.value.code


def test_a_lock_of_another_process_is_waited_for_and_then_an_error(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "server.sqlite3", wait=0.3)
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CetoolError) as caught, database.write() as tx:
        posted(tx, "team/one", "python")
    assert code_of(caught) == "database-busy"
    with database.read() as tx:  # reads do not wait
        assert builds.count(tx, BuildQuery()) == 0
    timer = threading.Timer(0.1, lambda: other.execute("ROLLBACK"))
    patient = Database.open(tmp_path / "server.sqlite3", wait=20)
    other.close()
    other = sqlite3.connect(database.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer.start()
    with patient.write() as tx:
        assert posted(tx, "team/one", "python").created
    timer.join()


def test_writers_of_one_process_wait_in_turn(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "server.sqlite3", wait=0.2)
    errors: list[CetoolError] = []

    def write() -> None:
        try:
            with database.write():
                pass
        except CetoolError as error:
            errors.append(error)

    with database.write():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert [each.code for each in errors] == ["database-busy"]
    write()
    assert len(errors) == 1


def test_a_locked_database_leaves_threads_for_those_who_read(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "server.sqlite3", wait=30)
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    codes: list[str] = []
    done = threading.Semaphore(0)

    def write() -> None:
        try:
            with database.write() as tx:
                posted(tx, "team/one", "python")
        except CetoolError as error:
            codes.append(error.code)
        done.release()

    threads = [threading.Thread(target=write) for _ in range(30)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        done.acquire()  # these do not wait for 30 seconds
    assert codes == ["database-busy"] * len(codes) and len(codes) >= 20
    other.execute("ROLLBACK")
    for thread in threads:
        thread.join()
    assert len(codes) < 30
    with database.write() as tx:
        assert not posted(tx, "team/one", "python").created


def test_an_error_in_a_transaction_stays_what_it_is(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "server.sqlite3")
    with pytest.raises(FileNotFoundError), database.write():
        (tmp_path / "none").read_text()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_read_only_database_is_an_error(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "server.sqlite3")
    with database.write() as tx:
        posted(tx, "team/one", "python")
    with pytest.raises(CetoolError) as caught, failures(database.path):
        connection = sqlite3.connect(f"file:{database.path}?mode=ro", uri=True)
        connection.execute("INSERT INTO meta VALUES ('a', 'b')")
    assert code_of(caught) == "cache-not-writable"


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CetoolError) as caught:
        Database.open(tmp_path / "file" / "server.sqlite3")
    assert code_of(caught) == "cache-not-writable"


def test_a_damaged_database_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "server.sqlite3"
    database = Database.open(path)
    with database.write() as tx:
        for number in range(50):
            posted(tx, f"team/e{number}", f"spec{number}")
    database.close()
    raw = bytearray(path.read_bytes())
    raw[4096:] = os.urandom(len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(CetoolError) as caught, Database.open(path).write() as tx:
        posted(tx, "team/one", "python")
    assert code_of(caught) == "database-damaged"


_FILL = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from cetool.base.errors import CetoolError
from cetool.server.data import builds, leases
from cetool.server.data.builds import BuildQuery
from cetool.server.data.database import Database
from support.builds import posted, result

disk = Path(sys.argv[1])
database = Database.open(disk / "server.sqlite3")
filler = disk / "filler"
codes, done = [], 0
with filler.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
for number in range(400):
    try:
        with database.write() as tx:
            posted(tx, f"team/e{number}", "x" * 3000)
        done += 1
    except CetoolError as error:
        codes.append(error.code)
        if len(codes) > 3:
            break
with database.read() as tx:
    counted = builds.count(tx, BuildQuery())
filler.unlink()
with database.write() as tx:
    posted(tx, "team/after", "python")
    claim = leases.claim(tx, "w", 60)
    assert leases.complete(tx, claim, result(claim, "python"))
with database.read() as tx:
    check = tx.exec_driver_sql("PRAGMA integrity_check").scalar()
print(json.dumps([codes, done, counted, check]))
"""


def test_a_full_disk_is_an_error_and_the_next_write_works_when_there_is_room(tmp_path: Path) -> None:
    if not all(map(shutil.which, ("unshare", "mount"))):
        pytest.skip("there is no unshare or mount")
    mount = 'mount -t tmpfs -o size=3m,mode=700 cetool-test "$1" || exit 77; shift; exec "$@"'
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    words = ["unshare", "--mount", *user, "sh", "-c", mount, "sh", str(tmp_path)]
    done = subprocess.run(
        [*words, sys.executable, "-c", _FILL, str(tmp_path), str(TESTS)], capture_output=True, text=True
    )
    if done.returncode in (1, 77) and "ermi" in done.stderr and "Traceback" not in done.stderr:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    codes, written, counted, check = json.loads(done.stdout)
    assert codes and set(codes) == {"disk-full"}
    assert counted == written and check == "ok"


def test_a_data_directory_has_one_holder(tmp_path: Path) -> None:
    with held(tmp_path / "data"):
        with pytest.raises(CetoolError) as caught, held(tmp_path / "data"):
            pass
        assert code_of(caught) == "conflict"
        assert f"another server (process {os.getpid()})" in caught.value.message
    with held(tmp_path / "data", "an upgrade"):
        pass


def test_a_process_that_stops_for_longer_than_its_lease_changes_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "server.sqlite3")
    with database.write() as tx:
        number = posted(tx, "team/one", "python").build_id
    code = (
        "import sys, os, signal\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\n"
        "from cetool.server.data import leases\nfrom cetool.server.data.database import Database\n"
        "from support.builds import result\ndatabase = Database.open(Path(sys.argv[1]))\n"
        "with database.write() as tx:\n    claim = leases.claim(tx, 'slow', 0.01)\n"
        "print('claimed', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\n"
        "with database.write() as tx:\n    print(leases.complete(tx, claim, result(claim, 'python')), flush=True)\n"
    )
    words = [sys.executable, "-c", code, str(database.path), str(TESTS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as slow:
        assert slow.stdout is not None and slow.stdout.readline() == "claimed\n"
        os.waitid(os.P_PID, slow.pid, os.WSTOPPED)
        try:
            time.sleep(0.05)  # longer than its lease
            with database.write() as tx:
                claim = leases.claim(tx, "quick", 60)
            assert claim is not None and claim.build_id == number
            slow.send_signal(signal.SIGCONT)
            assert slow.stdout.readline() == "()\n"
        finally:
            slow.kill()
    with database.read() as tx:
        assert builds.get(tx, number).status == "BUILDING"

"""``cetool gc`` and background collection: what is removed, what stays, and what is reported."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.home import Home
from support.scripts import (
    assert_nothing_half_made,
    environments,
    eventually,
    held_locks,
    shell_script,
    started,
    told,
    unconfirmed,
)

from cetool.packages.cache import in_use

WAITS = shell_script('hello; read line; hello "$line"')


def make(home: Home, *specs: str) -> str:
    """Make an environment, and return its name."""
    return Path(home.cetool("create", *specs).stdout.strip()).name


def age(home: Home, name: str, hours: float) -> None:
    """Set an environment's last use in hours ago, in the usage log, after that has read the spool."""
    home.cetool("list")
    with sqlite3.connect(home.cache / "usage.sqlite3") as connection:
        then = time.time() - hours * 3600
        connection.execute("UPDATE uses SET last_used = ? WHERE directory = ?", (then, name))
    connection.close()


def gc(home: Home, *args: str) -> dict[str, list[str]]:
    """Return the names that ``gc --json`` removed and that it left in use."""
    done = home.cetool("gc", "--json", *args)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert list(report) == [
        *("schema", "dry_run", "removed", "in_use", "failed", "scripts_freed_bytes"),
        *("packages_removed", "downloads_freed_bytes", "freed_bytes"),
    ]
    assert report["schema"] == "cetool.gc/1"
    assert report["dry_run"] is ("--dry-run" in args)
    others = report["scripts_freed_bytes"] + report["downloads_freed_bytes"]
    assert report["freed_bytes"] == sum(item["freed_bytes"] for item in report["removed"]) + others
    for item in report["removed"]:
        assert list(item) == ["name", "prefix", "reason", "unused_seconds", "freed_bytes"]
        assert Path(item["prefix"]).exists() is report["dry_run"]
    return {key: [Path(item["prefix"]).name for item in report[key]] for key in ("removed", "in_use")}


def test_gc_removes_by_age(home: Home) -> None:
    new, old, older = make(home, "hello-bin"), make(home, "activated"), make(home, "many-files")
    age(home, old, 26)
    age(home, older, 24 * 9)
    # by default, 25 hours
    assert gc(home, "--dry-run") == {"removed": [older, old], "in_use": []}
    assert environments(home).keys() == {new, old, older}
    assert gc(home, "--older-than", "1w1d") == {"removed": [older], "in_use": []}
    assert gc(home, "--older-than", "27h") == {"removed": [], "in_use": []}
    home.write(".config/cetool/config.yaml", "remove-if-unused-for: 27\n")
    assert gc(home) == {"removed": [], "in_use": []}
    # a run counts as a use
    home.cetool("run", home.write("a.sh", shell_script("true", env="activated")))
    assert gc(home, "--older-than", "1h") == {"removed": [], "in_use": []}
    assert gc(home, "--older-than", "0s") == {"removed": [new, old], "in_use": []}
    assert environments(home) == {}
    assert_nothing_half_made(home)


@pytest.mark.parametrize("wrong", ["5", "25.5", "", "-1h", "1x", "h", "200y"])
def test_a_time_without_a_unit_is_refused(settled: Home, wrong: str) -> None:
    done = settled.cetool("gc", f"--older-than={wrong}")
    assert done.returncode == 2
    assert "25h" in told(done.stderr)[1]


def test_an_environment_used_by_another_user_stays(home: Home) -> None:
    shared = home.path / "shared"
    home.env.update({"CETOOL_ENV_DIR": str(shared), "CETOOL_TRUST_CACHE_DIR": "true", "CETOOL_AUTO_GC": "false"})
    theirs = {"CETOOL_CACHE_DIR": str(home.path / "theirs")}  # with a separate usage log
    script = home.write("report.sh", shell_script("hello"))
    assert home.cetool("run", script, env=theirs).returncode == 0
    [name] = [path.name for path in shared.iterdir() if path.name[0] != "."]
    lock = shared / ".locks" / f"{name}.lock"

    def all_was_long_ago() -> None:
        age(home, name, 48)
        os.utime(lock, (time.time() - 48 * 3600,) * 2)

    for _ in ("cold", "warm"):
        all_was_long_ago()
        assert home.cetool("run", script, env=theirs).returncode == 0
        assert gc(home, "--older-than", "24h")["removed"] == []
    all_was_long_ago()
    assert gc(home, "--older-than", "24h")["removed"] == [name]


def test_contradictory_options_are_refused(settled: Home) -> None:
    for words in (["--all", "--older-than", "1h"], ["--all", "--max-size", "1GB"], ["--max-size", "20"]):
        done = settled.cetool("gc", *words)
        assert done.returncode == 2
        told(done.stderr)


def test_gc_removes_by_size(home: Home) -> None:
    names = [make(home, spec) for spec in ("hello-bin", "activated", "many-files", "bigpkg")]
    sizes = {row["name"]: row["size_bytes"] for row in json.loads(home.cetool("list", "--json").stdout)["environments"]}
    for hours, name in enumerate(names):
        age(home, name, len(names) - hours)
    kept = sizes[names[2]] + sizes[names[3]]
    # the least recently used first, whatever their size
    assert gc(home, "--max-size", f"{kept}B", "--dry-run")["removed"] == names[:2]
    assert gc(home, "--max-size", "1GB")["removed"] == []
    assert gc(home, "--max-size", f"{kept}B")["removed"] == names[:2]
    home.write(".config/cetool/config.yaml", f"max-size: {sizes[names[3]]}B\n")
    assert gc(home)["removed"] == [names[2]]
    assert gc(home, "--max-size", "0B")["removed"] == [names[3]]


def test_gc_reports_what_it_did(home: Home) -> None:
    assert home.cetool("gc").stderr == "Nothing to remove\n"
    assert not home.cache.exists()
    name = make(home, "bigpkg")
    home.cetool("run", "-c", *shell_script("true").splitlines())
    summary = r"2 environments, 1 cached script, 2 downloaded packages and \d other cached files \(6\.\d MB\)\n"
    dry = home.cetool("gc", "--all", "--dry-run")
    assert re.fullmatch(f"Would remove {summary}", dry.stderr)
    assert re.fullmatch(r"(\w+: not in use, unused for \ds, \d+ kB\n){2}", dry.stdout) and name in dry.stdout
    done = home.cetool("gc", "--all", "-v")
    assert (done.returncode, done.stdout) == (0, "")
    said = "".join(line for line in done.stderr.splitlines(True) if not line.startswith("Collecting "))
    assert re.fullmatch(r"(Removed \w+: not in use, unused for \ds, \d+ kB\n){2}Removed " + summary, said)
    assert home.cetool("gc", "-q", "--all").stderr == ""


def test_gc_reports_the_bytes_actually_freed(home: Home) -> None:
    make(home, "bigpkg")
    row = json.loads(home.cetool("list", "--json").stdout)["environments"][0]
    assert row["size_bytes"] > 6_000_000
    freed = json.loads(home.cetool("gc", "--older-than", "0s", "--json").stdout)["freed_bytes"]
    assert freed < 1_000_000  # the package cache still has the 6 MB, under another name of the same file
    make(home, "bigpkg")
    [cached] = (home.cache / "pkgs").rglob("noise.bin")
    if cached.stat().st_nlink < 2:
        pytest.skip("this file system has no hard links")
    cached.unlink()
    freed = json.loads(home.cetool("gc", "--all", "--json").stdout)["freed_bytes"]
    assert freed > 6_000_000 and environments(home) == {}


def test_a_running_script_keeps_its_environment(home: Home) -> None:
    script = home.write("waits.sh", WAITS)
    other = make(home, "activated")
    with started(home, "run", script, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip().rpartition("/")[2]
        assert gc(home, "--older-than", "0s", "--dry-run") == {"removed": [other], "in_use": [name]}
        assert gc(home, "--older-than", "0s") == {"removed": [other], "in_use": [name]}
        text = home.cetool("gc", "--all").stderr
        assert text.startswith("Removed 1 downloaded package") and text.endswith("; 1 environment is in use\n")
        assert gc(home, "--max-size", "0B") == {"removed": [], "in_use": [name]}
        # it was in use until now, although it started long ago
        age(home, name, 100)
        assert gc(home) == {"removed": [], "in_use": [name]}
        output = process.communicate("end\n")
        assert output[0] == f"hello from {home.cache}/envs/{name}\n<end>\n"
    assert gc(home) == {"removed": [], "in_use": []}
    assert gc(home, "--older-than", "0s") == {"removed": [name], "in_use": []}


def ended(pid: int) -> bool:
    """Return whether a process is gone or a zombie."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_daemon_of_a_script_keeps_its_environment(home: Home) -> None:
    # one process holds the descriptors that it inherited, the other has closed all of them but runs the environment's
    # python
    body = (
        "setsid sh -c 'echo $$ >\"$HOME/pid\"; exec sleep 600' >/dev/null 2>&1 </dev/null &\n"
        'while [ ! -s "$HOME/pid" ]; do sleep 0.02; done'
    )
    inheriting = home.write("daemon.sh", shell_script(body))
    closing = home.write(
        "daemon.py",
        "# conda execute\n# env: [python]\nimport os, sys, time\nif os.fork(): sys.exit()\nos.setsid()\n"
        "os.closerange(0, 100)\nopen(os.environ['HOME'] + '/pid', 'w').write(str(os.getpid()))\ntime.sleep(600)\n",
    )
    for script in (inheriting, closing):
        assert home.cetool("run", script).returncode == 0
        pid = int(eventually(lambda: (home.path / "pid").exists() and (home.path / "pid").read_text()))
        try:
            [name] = environments(home)
            assert gc(home, "--older-than", "0s") == {"removed": [], "in_use": [name]}
            assert "is in use" in home.cetool("remove", name).stderr
        finally:
            os.kill(pid, signal.SIGKILL)
            (home.path / "pid").unlink()
        eventually(partial(ended, pid))
        assert gc(home, "--older-than", "0s") == {"removed": [name], "in_use": []}


def test_gc_finishes_interrupted_deletions(home: Home) -> None:
    name = make(home, "hello-bin")
    half = home.cache / "envs" / ("0" * 20)
    (half / "conda-meta").mkdir(parents=True)
    read_only = home.cache / "trash" / f"{'1' * 20}.1.2" / "directory"
    read_only.mkdir(parents=True)
    (read_only / "file").touch()
    read_only.chmod(0o500)
    foreign = home.cache / "envs" / "mine"
    foreign.mkdir()
    assert gc(home) == {"removed": [half.name], "in_use": []}
    assert environments(home).keys() == {name, "mine"}
    assert list((home.cache / "trash").iterdir()) == []
    foreign.rmdir()
    assert_nothing_half_made(home)


def test_a_run_during_a_collection_finds_its_environment(home: Home) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    make(home, "hello-bin")
    runs = []
    for _ in range(4):
        with started(home, "gc", "--all", "-q") as collection, started(home, "run", script) as run:
            runs.append((run.communicate(timeout=120), run.returncode))
            assert collection.wait(120) == 0
    assert {status for _, status in runs} == {0}
    shown = {(out, unconfirmed(err)) for (out, err), _ in runs}
    assert shown == {(f"hello from {home.cache}/envs/{make(home, 'hello-bin')}\n", "")}
    assert held_locks(home) == []


def outdated(home: Home) -> Path:
    """Set the last collection to two hours ago."""
    stamp = home.cache / "gc.stamp"
    os.utime(stamp, (time.time() - 7200,) * 2)
    return stamp


@pytest.mark.parametrize("command", ["run", "create"])
def test_a_run_starts_a_collection_in_the_background(home: Home, command: str) -> None:
    script = home.write("hello.sh", shell_script("hello"))
    assert home.cetool("run", script).returncode == 0
    old, new = make(home, "activated"), make(home, "many-files")
    age(home, old, 30)
    # not within the hour, and not if disabled
    home.cetool(command, script if command == "run" else "hello-bin")
    outdated(home)
    home.cetool(command, script if command == "run" else "hello-bin", env={"CETOOL_AUTO_GC": "false"})
    stamp = outdated(home)
    before = stamp.stat().st_mtime
    assert environments(home).keys() > {old, new}
    done = home.cetool(command, script if command == "run" else "hello-bin")
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: old not in environments(home))
    assert len(environments(home)) == 2 and new in environments(home)
    assert stamp.stat().st_mtime > before
    eventually(lambda: not _collecting(home))


def test_the_caller_does_not_wait_for_a_background_collection(home: Home) -> None:
    """The collection keeps no pipeline open, and does not die with its caller's terminal."""
    script = home.write("hello.sh", shell_script("hello"))
    home.cetool("run", script)
    old = make(home, "activated")
    age(home, old, 30)
    outdated(home)
    with sqlite3.connect(home.cache / "usage.sqlite3", isolation_level=None) as connection:
        connection.execute("BEGIN EXCLUSIVE")  # it has to wait for this
        with started(home, "run", script) as process:
            assert process.communicate(timeout=120)[0].startswith("hello from ")
        pids = eventually(lambda: _collecting(home))
        assert old in environments(home)
        assert os.getsid(pids[0]) != process.pid
        connection.execute("ROLLBACK")
    connection.close()
    eventually(lambda: not _collecting(home))


def _collecting(home: Home) -> list[int]:
    """Return the processes that collect in the background for this home."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "--background" in words and process.environ().get("HOME") == str(home.path):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def kept_packages(home: Home) -> set[str]:
    """Return the names of the packages that the embedded engine keeps unpacked."""
    return {path.name.rsplit("-", 2)[0] for path in (home.cache / "pkgs" / "pkgs").iterdir() if path.is_dir()}


def freed(home: Home, *args: str) -> tuple[int, int]:
    """Return the number of packages that ``gc --json`` removed, and the bytes that all downloads freed."""
    report = json.loads(home.cetool("gc", "--json", *args).stdout)
    return report["packages_removed"], report["downloads_freed_bytes"]


def test_gc_all_removes_downloads(home: Home) -> None:
    make(home, "hello-bin", "many-files")
    would = freed(home, "--all", "--dry-run")
    assert kept_packages(home) == {"hello-bin", "many-files"}
    assert freed(home, "--all") == would
    assert would[0] == 2
    files = [path for path in (home.cache / "pkgs").rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert (kept_packages(home), files, list((home.cache / "logs").iterdir())) == (set(), [], [])
    assert make(home, "hello-bin")


def test_gc_removes_packages_without_environment_by_age_and_on_request(home: Home) -> None:
    make(home, "many-files")
    home.cetool("remove", make(home, "bigpkg"))
    assert freed(home) == (0, 0)  # used within 25 hours
    assert freed(home, "--packages", "--older-than", "1h") == (0, 0)
    assert freed(home, "--packages", "--dry-run")[0] == 1
    done = home.cetool("gc", "--packages")
    assert done.stderr.startswith("Removed 1 downloaded package")
    assert kept_packages(home) == {"many-files"}
    assert len(environments(home)) == 1


def test_downloads_count_towards_the_size_and_go_first(home: Home) -> None:
    kept, gone = make(home, "many-files"), make(home, "bigpkg")
    home.cetool("remove", gone)
    assert freed(home, "--max-size", "1GB") == (0, 0)
    size = next(iter(json.loads(home.cetool("list", "--json").stdout)["environments"]))["size_bytes"]
    assert gc(home, "--max-size", f"{size + 1}B") == {"removed": [], "in_use": []}
    assert (kept_packages(home), set(environments(home))) == ({"many-files"}, {kept})


def test_packages_stay_while_an_engine_works(home: Home) -> None:
    home.cetool("remove", make(home, "hello-bin"))
    with in_use(home.cache / "pkgs"):
        assert freed(home, "--packages")[0] == 0
    assert kept_packages(home) == {"hello-bin"}
    assert freed(home, "--packages")[0] == 1


@pytest.mark.parametrize("other", [["--all"], ["--max-size", "1GB"]])
def test_gc_packages_refuses_other_options(home: Home, other: list[str]) -> None:
    done = home.cetool("gc", "--packages", *other)
    assert (done.returncode, f"--packages and {other[0]} cannot be used together" in done.stderr) == (2, True)

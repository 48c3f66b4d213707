"""Concurrency, kills, wrong clocks and a failing usage log on the command line; ten times the size with --long."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from engines import install_fakes
from support.home import Home
from support.scripts import (
    assert_nothing_half_made,
    assert_unknown_to_conda,
    environments,
    eventually,
    held_locks,
    shell_script,
    started,
    told,
    unconfirmed,
)
from support.server import ChannelServer, Fault

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")

DAY = 86400.0
#: Only succeeds in a complete environment.
WHOLE = 'test "$(ls "$CONDA_PREFIX/share/many-files" | wc -l)" = 400 && hello'


def script_of(home: Home, number: int, body: str = WHOLE, env: str = "hello-bin, many-files") -> Path:
    """A script with a separate environment, made from the same packages as the others'."""
    return home.write(f"script-{number}.sh", shell_script(body, env, f"# variables: {{NUMBER: '{number}'}}"))


def popen(home: Home, *command: str | os.PathLike[str], **changes: str) -> subprocess.Popen[str]:
    """A command that runs alongside the test."""
    return subprocess.Popen(
        [os.fspath(word) for word in command],
        env=home.environment(changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listed(home: Home, **changes: str) -> list[dict[str, object]]:
    """Return the environments in ``cetool list``."""
    done = home.cetool("list", "--json", env=changes)
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, object]] = json.loads(done.stdout)["environments"]
    return found


def assert_empties(home: Home) -> None:
    """Check that collecting everything leaves only cetool's own files."""
    done = home.cetool("gc", "--all")
    assert done.returncode == 0, done.stderr
    for name in ("envs", "locks", "trash"):
        assert [entry for entry in os.listdir(home.cache / name) if not entry.startswith("packages-")] == []
    assert_unknown_to_conda(home)


# --- concurrency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["rattler", "conda", "mamba", "micromamba"])
def test_many_missing_environments_are_made_at_once(home: Home, engine: str, scale: int) -> None:
    if engine != "rattler":
        install_fakes(home.bin, engine)
    count = 3 * scale
    running = [popen(home, "cetool", "run", script_of(home, number)) for number in range(count)]
    results = [(*process.communicate(timeout=600), process.returncode) for process in running]
    assert [status for _, _, status in results] == [0] * count, results
    assert len({output for output, _, _ in results}) == len(environments(home)) == count
    assert {row["engine"] for row in listed(home)} == {engine}
    assert held_locks(home) == []
    assert_nothing_half_made(home)
    assert_empties(home)


def test_hosts_can_share_a_cache(home: Home, scale: int) -> None:
    """Simulate hosts by name spaces: each with its own name, and without the others' processes."""
    host = ["unshare", "--pid", "--fork", "--mount-proc", "--uts"]
    if not shutil.which("unshare") or home.run(*host, "hostname", "host-0").returncode:
        pytest.skip("name spaces are not allowed here")
    count = 6 * scale
    script = script_of(home, 0)
    named = 'hostname "$0" && exec cetool run -v "$1"'
    running = [popen(home, *host, "sh", "-c", named, f"host-{number}", script) for number in range(count)]
    results = [(*process.communicate(timeout=600), process.returncode) for process in running]
    assert [status for _, _, status in results] == [0] * count, results
    assert sum("\nCreated " in said for _, said, _ in results) == 1
    assert len({output for output, _, _ in results}) == 1
    [row] = listed(home)
    assert (row["runs"], row["running"]) == (count, [])
    waiting = home.write("waits.sh", shell_script('echo "$$"; read line; hello'))
    with started(home, "run", waiting, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        done = home.run(*host, "sh", "-c", "hostname other && exec cetool gc --all")
        assert "in use" in done.stderr, done.stderr
        assert len(environments(home)) == 1
        out, err = process.communicate("go on\n")
        assert (process.returncode, unconfirmed(err)) == (0, "") and out.startswith("hello from ")
    assert_empties(home)


# --- kills ------------------------------------------------------------------------------------------------------------


def engines_of(pid: int) -> list[psutil.Process]:
    """Return the processes of a fake engine that this process has started."""
    with contextlib.suppress(psutil.Error):
        return [
            child for child in psutil.Process(pid).children(recursive=True) if "fake_engine" in str(child.cmdline())
        ]
    return []


def kill_somebody(victim: str, process: subprocess.Popen[str]) -> None:
    """SIGKILL cetool, the engine that it has started (if any), or both."""
    with contextlib.suppress(psutil.Error):
        if victim == "engine":
            for engine in engines_of(process.pid):
                engine.kill()
        else:
            (os.kill if victim == "cetool" else os.killpg)(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("engine", "times"), [("rattler", 6), ("conda", 2), ("micromamba", 2)])
def test_kills_at_random_moments_do_no_harm(home: Home, engine: str, times: int, scale: int) -> None:
    """No process runs in half an environment; the next run makes a complete one; a collection cleans up."""
    victims: tuple[str, ...] = ("cetool", "group")
    if engine != "rattler":
        install_fakes(home.bin, engine)
        victims = ("cetool", "engine", "group")
    moments = random.Random(engine)
    before = time.monotonic()
    assert home.cetool("run", script_of(home, 0)).returncode == 0
    longest = time.monotonic() - before
    for number in range(1, 1 + times * scale):
        script = script_of(home, number)
        if moments.random() < 0.5:
            shutil.rmtree(home.cache / "pkgs", ignore_errors=True)
        victim = victims[number % len(victims)]
        with started(home, "run", script) as process:
            time.sleep(moments.uniform(0.05, longest))
            kill_somebody(victim, process)
            out, err = process.communicate(timeout=120)
            assert process.returncode in ((0, 125) if victim == "engine" else (0, -signal.SIGKILL)), err
            # cetool may have become the script, and be killed after the script has printed everything
            assert out.startswith("hello from ") or (process.returncode != 0 and not out), (out, err)
            if process.returncode == 125:
                assert "SIGKILL" in "".join(told(err)) and not out
        done = home.cetool("run", script)
        assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
    assert held_locks(home) == []
    assert home.cetool("gc").returncode == 0
    assert_nothing_half_made(home)
    assert len(environments(home)) == 1 + times * scale
    assert_empties(home)


# --- damaged downloads ------------------------------------------------------------------------------------------------


def test_damaged_and_missing_downloads_leave_nothing(home: Home, server: ChannelServer) -> None:
    """The largest of three packages arrives damaged, after the others; afterwards everything is as if it had not."""
    home.condarc.write_text(f"channel_alias: {server.url}\nchannels: [conda-forge]\n")
    script = script_of(home, 0, env="hello-bin, many-files, bigpkg")
    for fault in (Fault("*bigpkg*", "corrupt"), Fault("*bigpkg*", "truncate"), Fault("*bigpkg*", "status", 404)):
        server.faults[:] = [fault]
        done = home.cetool("run", script)
        assert (done.returncode, done.stdout) == (125, "")
        assert "bigpkg" in told(done.stderr)[0]
        assert environments(home) == {}
        assert_nothing_half_made(home)
    server.faults.clear()
    done = home.cetool("run", script)
    assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
    assert_nothing_half_made(home)


def test_an_engine_that_dies_at_the_end_leaves_nothing(home: Home) -> None:
    install_fakes(home.bin, "micromamba")
    done = home.cetool("run", script_of(home, 0), env={"FAKE_ENGINE_FAULT": "signal-after"})
    assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
    assert_nothing_half_made(home)


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_stopped_script_keeps_its_environment(home: Home) -> None:
    script = home.write("stops.sh", shell_script("kill -STOP $$; hello"))
    with started(home, "run", script) as process:
        eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        [name] = environments(home)
        home.cetool("list")
        with sqlite3.connect(home.cache / "usage.sqlite3") as connection:
            connection.execute("UPDATE uses SET last_used = ?", (time.time() - 100 * DAY,))
        connection.close()
        for words in (("gc",), ("gc", "--older-than", "0s"), ("gc", "--all")):
            assert "1 environment is in use" in home.cetool(*words).stderr
        os.kill(process.pid, signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, unconfirmed(err)) == (0, f"hello from {home.cache}/envs/{name}\n", "")


_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) { const char *text = getenv("SHIM_CLOCK"); return text ? atol(text) : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (!status && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return status;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *into, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    into->tv_sec = now.tv_sec;
    into->tv_usec = now.tv_nsec / 1000;
    return 0;
}

static int is_shared_memory(int fd) {
    char link[64], path[4096];
    if (fd < 0 || !getenv("SHIM_NO_WAL")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 4 && !strncmp(path + length - 4, "-shm", 4);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t from) {
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "mmap");
    if (is_shared_memory(fd)) { errno = ENODEV; return MAP_FAILED; }
    return real(at, length, protection, flags, fd, from);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t from) {
    return mmap(at, length, protection, flags, fd, from);
}
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that gives programs that load it another time of day, or files without shared memory."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler, or not Linux")
    directory = tmp_path_factory.mktemp("shim")
    (directory / "shim.c").write_text(_SHIM)
    library = directory / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, directory / "shim.c", "-ldl"], check=True)
    return str(library)


def test_clock_changes_do_no_harm(home: Home, shim: str) -> None:
    """Programs see another time; the kernel's clock, by which files get theirs, is unchanged."""

    def at(days: float) -> dict[str, str]:
        return {"LD_PRELOAD": shim, "SHIM_CLOCK": str(int(days * DAY))}

    told_time = home.run(sys.executable, "-c", "import time; print(time.time())", env=at(365))
    if abs(float(told_time.stdout) - time.time() - 365 * DAY) > DAY:
        pytest.skip("this interpreter does not take its time from the C library")
    now, later = (home.write(f"{name}.sh", shell_script("hello", f"hello-bin, {name}")) for name in ("six", "idna"))
    waits = home.write("waits.sh", shell_script("echo ready; read line; hello"))
    assert home.cetool("run", now).returncode == 0
    with started(home, "run", waits, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        # a year forward: what is unused is removed, what is in use stays
        assert home.cetool("run", later, env={**at(365), "CETOOL_AUTO_GC": "false"}).returncode == 0
        done = home.cetool("gc", "-v", env=at(365))
        found = re.findall(r"(Removed|Kept) \w+: (?:it is in use|unused for 365d)", done.stderr)
        assert found == ["Removed", "Kept"]
        eventually(lambda: len(environments(home)) == 2)
        # a use that is now in the future counts as just now
        for days in (0, -1):
            done = home.cetool("gc", env=at(days))
            assert (done.returncode, len(environments(home))) == (0, 2), done.stderr
            rows = listed(home, **at(days))
            assert all(float(str(row["last_used"])) <= time.time() + days * DAY + 60 for row in rows), rows
            assert not re.search(r"\s-\d", home.cetool("list", env=at(days)).stdout)
            assert home.cetool("run", later, env=at(days)).returncode == 0
        # made again although the existing one was made tomorrow
        before = environments(home)
        done = home.cetool("run", "--refresh", later, env=at(-2))
        assert done.returncode == 0, done.stderr
        assert environments(home).keys() == before.keys() and environments(home) != before
        assert process.communicate("go on\n")[0].startswith("hello from ")
    assert re.findall(r"Removed \w+: unused for (\d+)", home.cetool("gc", "-v", "--older-than", "0s").stderr)
    assert environments(home) == {}


# --- the usage log ----------------------------------------------------------------------------------------------------


def test_the_usage_log_works_without_shared_memory(home: Home, shim: str) -> None:
    """As on file systems without mmap (9p, some network mounts): no WAL, but the log works."""
    env = {"LD_PRELOAD": shim, "SHIM_NO_WAL": "1"}
    script = script_of(home, 0)
    for times in (1, 2):
        done = home.cetool("run", script, env=env)
        assert (done.returncode, unconfirmed(done.stderr)) == (0, "")
        [row] = listed(home, **env)
        assert row["runs"] == times
    with sqlite3.connect(home.cache / "usage.sqlite3") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() != ("wal",)
    connection.close()
    # one that used WAL until it was moved there
    home.cetool("list")
    done = home.cetool("list", "--json", env=env)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    done = home.cetool("run", script, env=env)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_locked_usage_log_does_not_stop_scripts(home: Home) -> None:
    """Longer than anything waits: scripts run, new environments are made, and no use is lost."""
    first, second = script_of(home, 1), script_of(home, 2)
    home.cetool("run", first)
    home.cetool("list")
    with sqlite3.connect(home.cache / "usage.sqlite3", isolation_level=None) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        for script in (first, second):
            done = home.cetool("run", script)
            assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
        connection.execute("ROLLBACK")
    connection.close()
    assert sorted(int(str(row["runs"])) for row in listed(home)) == [1, 2]


def test_an_environment_without_packages_is_made_once(home: Home) -> None:
    block = "# /// conda-script\n# channels = ['conda-forge']\n# entrypoint = 'echo hi'\n# /// end-conda-script\n"
    script = home.write("nothing.sh", block)
    for _ in range(2):
        made = environments(home)
        done = home.cetool("run", script)
        assert (done.returncode, done.stdout, unconfirmed(done.stderr)) == (0, "hi\n", "")
        assert not made or made == environments(home)

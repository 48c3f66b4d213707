"""The store survives full disks, read-only disks and power cuts, on file systems that the tests mount.

The mounts are in a name space that ends with the process that holds it, so nothing is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from engines import install_fakes
from support.home import Home
from support.scripts import assert_unknown_to_conda, shell_script, told, unconfirmed

from cetool.store.store import MARKER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="name spaces are Linux's")

SCRIPT = shell_script("hello", "hello-bin, many-files")


@dataclass(frozen=True)
class Disk:
    """A file system that is the cache directory of a home, only visible to commands run through it."""

    home: Home
    holder: int
    enter: tuple[str, ...]

    def run(self, *command: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
        """Run a command that sees it."""
        return self.home.run(*self.enter, *command)

    def cetool(self, *words: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
        """Run cetool on it."""
        return self.run(sys.executable, "-m", "cetool", *words)

    def remount(self, options: str) -> None:
        """Change the mount's options."""
        done = self.run("mount", "-o", f"remount,{options}", self.home.cache)
        assert done.returncode == 0, done.stderr

    @property
    def root(self) -> Path:
        """The cache directory as this process sees it."""
        return Path(f"/proc/{self.holder}/root{self.home.cache}")

    def fill(self) -> None:
        """Fill it completely."""
        with contextlib.suppress(OSError), (self.root / "fill").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def entries(self, name: str) -> list[str]:
        """Return the entries of one of the cache's directories."""
        directory = self.root / name
        return sorted(os.listdir(directory)) if directory.is_dir() else []

    def used(self) -> tuple[int, int]:
        """Return the KiB and inodes in use."""
        status = os.statvfs(self.root)
        return (status.f_blocks - status.f_bfree) * status.f_frsize // 1024, status.f_files - status.f_ffree

    def assert_nothing_half_made(self) -> None:
        """Check that there is no environment, lock or remains of one, and that conda knows none."""
        assert [self.entries(name) for name in ("envs", "locks", "trash")] == [[], [], []]
        assert_unknown_to_conda(self.home)


@contextlib.contextmanager
def mounted(home: Home, *mount: str) -> Iterator[Disk]:
    """Mount a new file system as the cache directory."""
    root = os.geteuid() == 0
    space = ["unshare", "--mount", *([] if root else ["--user", "--map-root-user"])]
    if not all(map(shutil.which, ("unshare", "nsenter", "mount"))):
        pytest.skip("there is no unshare, nsenter or mount")
    home.cache.mkdir(exist_ok=True)
    words = [*space, "sh", "-c", 'mount "$@" && echo mounted && exec sleep 3600', "sh", *mount, str(home.cache)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stderr is not None
            if holder.stdout.readline() != "mounted\n":
                pytest.skip(f"mounting is not allowed here: {holder.stderr.read().strip()}")
            user = [] if root else ["--user", "--preserve-credentials"]
            yield Disk(home, holder.pid, ("nsenter", "--target", str(holder.pid), "--mount", *user))
        finally:
            holder.kill()


def tmpfs(options: str) -> tuple[str, ...]:
    """Return mount's arguments for a file system in memory."""
    return ("-t", "tmpfs", "-o", f"mode=700,{options}", "cetool-test")


# --- full disks -------------------------------------------------------------------------------------------------------


def assert_full(disk: Disk, done: subprocess.CompletedProcess[str]) -> None:
    """Check that it could not be made, that a message says so, and that nothing of it exists."""
    assert (done.returncode, done.stdout) == (125, ""), done.stderr
    text = "\n".join(told(done.stderr))
    assert re.search("disk is full|No space left|no space left on the device|ran out of disk space", text), text
    assert re.search("Free (disk|some) space", text), text
    disk.assert_nothing_half_made()


@pytest.mark.parametrize("kind", ["bytes", "inodes"])
@pytest.mark.parametrize("engine", ["rattler", "micromamba"])
def test_a_full_disk_at_any_step_leaves_no_half_environment(home: Home, engine: str, kind: str, scale: int) -> None:
    """The disk is a little larger each time, until there is enough space."""
    if engine != "rattler":
        install_fakes(home.bin, engine)
    script = home.write("script.sh", SCRIPT)
    with mounted(home, *tmpfs("size=1g")) as disk:
        assert disk.cetool("run", script).returncode == 0
        kib, inodes = disk.used()
    whole = kib if kind == "bytes" else inodes
    steps = (6 if engine == "rattler" else 3) * scale
    least = 8 if kind == "bytes" else 3
    limits = [least + (whole - least) * step // steps for step in range(steps)]
    # start in small steps: the first file operations need little space
    limits = sorted({*limits, *(least + 8 * step for step in range(3 * scale) if engine == "rattler")})
    option = "size={}k" if kind == "bytes" else "size=1g,nr_inodes={}"
    with mounted(home, *tmpfs(option.format(limits[0]))) as disk:
        failures = 0
        for limit in [limit for limit in limits if limit < whole * 0.9]:
            disk.remount(option.format(limit))
            done = disk.cetool("run", script)
            if done.returncode == 0:
                break
            assert_full(disk, done)
            failures += 1
        assert failures >= 2
        disk.remount(option.format(2 * whole + 100))
        done = disk.cetool("run", script)
        assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
        assert disk.cetool("gc", "--all").returncode == 0
        disk.assert_nothing_half_made()


def test_a_full_disk_allows_runs_and_collections(home: Home) -> None:
    script, other = home.write("script.sh", SCRIPT), home.write("other.sh", shell_script("hello", "hello-bin, six"))
    with mounted(home, *tmpfs("size=200m")) as disk:
        for path in (script, other):
            assert disk.cetool("run", path).returncode == 0
        assert disk.cetool("list").returncode == 0
        shutil.rmtree(disk.root / "spool")
        disk.fill()
        for words in (("run", script), (script,)):
            done = disk.cetool(*words)
            assert done.returncode == 0 and done.stdout.startswith("hello from ") and unconfirmed(done.stderr) == ""
        done = disk.cetool("run", "-v", script)
        assert done.returncode == 0 and done.stderr.count("Cannot note the use of ") == 1, done.stderr
        done = disk.cetool("create", "idna")
        assert done.returncode == 125
        assert "cetool gc" in "\n".join(told(done.stderr))
        done = disk.cetool("list", "-v")
        assert done.returncode == 0 and done.stdout.count("rattler") == 2, done.stderr
        # the hint works
        done = disk.cetool("gc", "--dry-run")
        assert done.returncode == 0 and "Nothing to remove" in done.stderr, done.stderr
        done = disk.cetool("gc", "--older-than", "0s")
        assert done.returncode == 0 and "Removed 2 environments" in done.stderr, done.stderr
        disk.assert_nothing_half_made()
        done = disk.cetool("run", script)
        assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
        done = disk.cetool("list")
        assert (done.returncode, unconfirmed(done.stderr)) == (0, "")


def test_a_read_only_cache_allows_runs(home: Home) -> None:
    script = home.write("script.sh", SCRIPT)
    with mounted(home, *tmpfs("size=100m")) as disk:
        for _ in range(2):
            output = disk.cetool("run", script).stdout
        disk.remount("ro")
        for words in (("run", script), (script,)):
            done = disk.cetool(*words)
            assert (done.returncode, done.stdout, unconfirmed(done.stderr)) == (0, output, "")
        done = disk.cetool("run", "-v", script)
        assert (done.returncode, done.stdout) == (0, output)
        assert done.stderr.count(": Read-only file system") == 1
        for command in (("create", "six"), ("run", "--refresh", script), ("gc",), ("remove", script)):
            done = disk.cetool(*command)
            assert done.returncode == 125, command
            told(done.stderr)
        assert disk.cetool("list").returncode == 0
        disk.remount("rw")
        done = disk.cetool("run", "--refresh", script)
        assert (done.returncode, done.stdout) == (0, output)


# --- power cuts -------------------------------------------------------------------------------------------------------

#: EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: from now on nothing reaches the disk, including its journal.
_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2
#: Only succeeds in a complete environment.
WHOLE = 'test "$(cat "$CONDA_PREFIX"/share/many-files/*.txt | wc -l)" = 400 && hello'


def lose_power(disk: Disk) -> None:
    """Lose everything that is not on disk yet."""
    descriptor = os.open(disk.root, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    except OSError as error:
        pytest.skip(f"a file system cannot be cut off from its disk here: {error}")
    finally:
        os.close(descriptor)


def sync(disk: Disk) -> None:
    """Sync everything that was written so far, as would happen within seconds."""
    disk.run("sync", "--file-system", disk.home.cache)


def assert_marked_are_whole(disk: Disk) -> None:
    """Check that every environment with a marker has all its files, with the right sizes."""
    for name in disk.entries("envs"):
        prefix = disk.root / "envs" / name
        if not (prefix / MARKER).exists():
            continue
        for path in (prefix / "conda-meta").glob("*.json"):
            for entry in json.loads(path.read_bytes())["paths_data"]["paths"]:
                size = os.lstat(prefix / entry["_path"]).st_size
                assert size == entry["size_in_bytes"] or (size and entry.get("prefix_placeholder")), entry


def test_power_cuts_at_random_moments_leave_no_half_environment(home: Home, scale: int) -> None:
    """An ext4 loses its disk while an environment is made or afterwards, and is mounted again."""
    image = home.path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if mkfs is None or home.run(mkfs, "-q", "-F", image).returncode:
        pytest.skip("there is no mkfs.ext4")
    moments = random.Random(2)
    with mounted(home, "-o", "loop", str(image)) as disk:
        for number in range(6 * scale):
            script = home.write(
                "script.sh", shell_script(WHOLE, "hello-bin, many-files", f"# variables: {{N: {number}}}")
            )
            words = [*disk.enter, sys.executable, "-m", "cetool", "run", str(script)]
            with subprocess.Popen(words, env=home.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                time.sleep(moments.uniform(0.1, 0.4))
                if number % 2:
                    sync(disk)
                    time.sleep(moments.uniform(0, 0.1))
                lose_power(disk)
                _, said = process.communicate(timeout=120)
                assert b"Traceback" not in said and b"defect" not in said, said
            assert disk.run("umount", home.cache).returncode == 0
            done = disk.run("mount", "-o", "loop", image, home.cache)
            assert done.returncode == 0, done.stderr
            assert_marked_are_whole(disk)
            done = disk.cetool("run", script)
            assert done.returncode == 0 and done.stdout.startswith("hello from "), done.stderr
            assert_marked_are_whole(disk)
        assert disk.cetool("list").returncode == 0
        assert disk.cetool("gc", "--all").returncode == 0
        disk.assert_nothing_half_made()


class Call(NamedTuple):
    """A system call: the first and last line (from 0) of strace's output, and the call in one line."""

    begin: int
    end: int
    text: str


def _calls(log: str) -> list[Call]:
    """Return the calls in the output of ``strace -f``, in the order of their beginning.

    strace writes an interrupted call in two parts: ``PID CALL <unfinished ...>`` and, after other lines, ``PID <...
    NAME resumed>REST``.
    """
    calls: list[Call] = []
    open_calls: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(log.splitlines()):
        pid, _, text = line.partition(" ")
        text = text.strip()
        resumed = re.match(r"<\.\.\. \w+ resumed>", text)
        if text.endswith("<unfinished ...>"):
            open_calls[pid] = number, text.removesuffix("<unfinished ...>").rstrip()
        elif resumed is not None:
            begin, head = open_calls.pop(pid, (number, ""))
            calls.append(Call(begin, number, f"{head}{text[resumed.end() :]}"))
        else:
            calls.append(Call(number, number, text))
    return sorted(calls)


def test_files_are_on_disk_before_the_marker(home: Home) -> None:
    """The order of calls: nothing is written to the environment between the sync and its marker."""
    strace = shutil.which("strace") or pytest.skip("there is no strace")
    log = home.path / "calls"
    script = home.write("script.sh", SCRIPT)
    traced = "trace=%file,syncfs,fsync,fdatasync"
    done = home.run(strace, "-f", "-y", "-o", log, "-e", traced, sys.executable, "-m", "cetool", "run", script)
    if "ptrace" in done.stderr:
        pytest.skip("tracing is not allowed")
    assert done.returncode == 0, done.stderr
    calls = _calls(log.read_text(errors="replace"))
    environment = next((home.cache / "envs").iterdir())
    meta = f"{environment}/conda-meta"

    def first(pattern: str) -> Call:
        return next(call for call in calls if re.search(pattern, call.text))

    synced = first(rf"syncfs\(\d+<{environment}>\) += 0")
    content = first(rf"fsync\(\d+<{meta}/cetool\.new>\) += 0")
    named = first(rf'rename\w*\(\d+<{meta}>, "cetool\.new", \d+<{meta}>, "cetool"\) += 0')
    directory = first(rf"fsync\(\d+<{meta}>\) += 0")
    assert synced.end < content.begin and content.end < named.begin and named.end < directory.begin
    writing = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|\b(?:rename|link|unlink|mkdir|symlink|truncate)")
    for call in calls:
        if synced.begin < call.begin < named.begin and str(environment) in call.text:
            assert not writing.search(call.text) or "cetool.new" in call.text, call.text

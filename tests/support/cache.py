"""A cache without an engine: small environments, and real processes that request, use and remove them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.settings.paths import Paths
from cetool.store.disk import delete_tree as delete_tree
from cetool.store.disk import disk_size
from cetool.store.gc import Collection, Policy
from cetool.store.kinds import collect_environments
from cetool.store.making import Builder, Settling, write_marker
from cetool.store.making import ensure as ensure
from cetool.store.making import remove as remove
from cetool.store.making import tidy as tidy
from cetool.store.store import Lease, Marker, Store, read_marker
from cetool.store.usage import UsageLog, open_usage_log

_TESTS = Path(__file__).resolve().parents[1]
_PROLOGUE = """
import errno, os, signal, subprocess, sys, time
from pathlib import Path
from support.cache import *
from cetool.base.filelock import is_locked, try_lock, wait_for_lock
from cetool.store.store import note_use
from cetool.base.errors import StoreError
ROOT = Path(sys.argv[1])
SPEC = small_spec()
STORE = small_store(ROOT)
"""
#: Seconds after which a test stops waiting.
PATIENCE = 60.0


def small_paths(root: Path, *, trusted: bool = False) -> Paths:
    """Return the paths of a cache below a directory."""
    return Paths(root, root / "envs", root / "locks", root / "trash", None, trusted)


def small_store(root: Path, *, trusted: bool = False) -> Store:
    """Return the store of that cache."""
    return Store(small_paths(root, trusted=trusted))


def small_spec(package: str = "demo") -> EnvironmentSpec:
    """Return the specification for one package."""
    return EnvironmentSpec(Solve((package,)))


def make_files(prefix: Path) -> None:
    """Return a small version of what an engine would leave."""
    for name in ("conda-meta/history", "bin/tool", "lib/data"):
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_text(name * 100)


def marker_for(prefix: Path, spec: EnvironmentSpec) -> Marker:
    """Return the marker of a small environment, created now."""
    return Marker(
        name=spec.name,
        prefix=str(prefix),
        subdir="linux-64",
        spec=spec,
        engine="small",
        engine_version="1",
        created=time.time(),
        seconds=0.1,
        packages=1,
        size=disk_size(prefix),
        cetool="0",
    )


class Site(Value):
    """Return where an environment is built."""

    prefix: Path
    log: Path
    inherit: tuple[int, ...]
    settling: Settling


def builder(spec: EnvironmentSpec, *, built: Path | None = None, then: Callable[[Site], None] | None = None) -> Builder:
    """Return a builder of a small environment that also writes a line to ``built`` and takes a further step."""

    def build(prefix: Path, log: Path, descriptors: tuple[int, ...], settling: Settling) -> Marker:
        site = Site(prefix, log, descriptors, settling)
        assert not site.prefix.exists()
        make_files(site.prefix)
        if built is not None:
            with built.open("a") as file:
                file.write(f"{site.prefix.name}\n")
        if then is not None:
            then(site)
        return marker_for(site.prefix, spec)

    return build


def made(root: Path, package: str = "demo", *, created: float | None = None) -> Lease:
    """Return a lease of an existing small environment, created at another time if requested."""
    spec = small_spec(package)
    lease = ensure(small_store(root), spec, builder(spec))
    if created is not None:
        write_marker(lease.prefix, lease.marker._replace(created=created))
    return lease


def is_whole(prefix: Path) -> bool:
    """Return whether a small environment is complete, including its marker."""
    names = ("conda-meta/history", "bin/tool", "lib/data")
    return all((prefix / name).is_file() for name in names) and read_marker(prefix) is not None


def leftovers(root: Path) -> list[str]:
    """Return the contents of a cache, apart from its directories and files inside environments, as relative paths."""
    found = []
    for name in ("envs", "locks", "trash"):
        if (root / name).is_dir():
            found += [f"{name}/{entry}" for entry in sorted(os.listdir(root / name))]
    return found


def usage_log(root: Path, told: list[str] | None = None) -> contextlib.AbstractContextManager[UsageLog]:
    """Open the usage log of a cache; its warnings go to ``told``."""
    return open_usage_log(small_paths(root), small_store(root), warn=(told if told is not None else []).append)


def change_database(root: Path, *statements: str) -> None:
    """Change the usage log's database as another program could."""
    with contextlib.closing(sqlite3.connect(small_paths(root).database)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def collect(
    store: Store,
    log: UsageLog,
    policy: Policy,
    *,
    dry_run: bool = False,
    on_removed: Callable[[Path], None] | None = None,
) -> Collection:
    """Collect only environments."""
    collection = Collection(policy, dry_run=dry_run)
    collect_environments(collection, store, log, on_removed=on_removed)
    return collection


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """Return a directory that every user can enter, unlike pytest's."""
    directory = Path(tempfile.mkdtemp(prefix="cetool-"))
    try:
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory)


# --- processes --------------------------------------------------------------------------------------------------------


def start(root: Path, body: str) -> subprocess.Popen[str]:
    """Start a Python process that runs ``body`` with ROOT, SPEC and STORE, and all of this module."""
    environ = {**os.environ, "PYTHONPATH": str(_TESTS)}
    return subprocess.Popen(
        [sys.executable, "-c", _PROLOGUE + dedent(body), str(root)],
        env=environ,
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that succeeds; return its output."""
    try:
        printed, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0
    return printed


def run(root: Path, body: str) -> str:
    """Run ``body`` in a new process; return its output."""
    return finish(start(root, body))


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process, and wait for it."""
    process.kill()
    process.communicate()


def say(*words: object) -> None:
    """Print a line as JSON in one write, for the reader of this process's output."""
    os.write(1, json.dumps(words).encode() + b"\n")


def hear(process: subprocess.Popen[str]) -> list[object]:
    """Return the next line of a process's output."""
    assert process.stdout is not None
    words = json.loads(process.stdout.readline())
    assert isinstance(words, list)
    return words


def fork_many(count: int, act: Callable[[int], None]) -> None:
    """Fork this many processes, let them begin at once, and wait for them. For a process without threads."""
    gate, opener = os.pipe()
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(opener)
                os.read(gate, 1)
                act(number)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        pids.append(pid)
    os.close(gate)
    os.close(opener)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert statuses == [0] * count, statuses


def wait_until(happens: Callable[[], bool]) -> None:
    """Return when the condition holds; fail if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)

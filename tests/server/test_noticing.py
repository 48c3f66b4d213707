"""Files in watched directories are noticed where the system refuses to send events, and no directory forms a circle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cetool.server.config_values import Watch
from cetool.server.file_events import has_no_events
from cetool.server.noticing import Files, scan_watch

WATCH = """
import sys, threading
from pathlib import Path
from cetool.server.config_values import Watch
from cetool.server.noticing import Files
file = Path(sys.argv[1], "a.yml")
files, stop, seen = Files([Watch(file.parent)], lambda event, **fields: print(event, flush=True)), threading.Event(), 0
while seen < 2:
    files.look()
    for each in files.due():
        each.due, seen = None, seen + 1
        print("due", flush=True)
        file.write_text("changed")
    files.wait(stop)
files.close()
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("unshare") is None, reason="needs Linux's name spaces")
@pytest.mark.parametrize("limit", ["watches", "instances"])
def test_directories_are_polled_if_the_limits_of_events_are_reached(tmp_path: Path, limit: str) -> None:
    (tmp_path / "a.yml").write_text("first")
    lower = f'echo 0 > /proc/sys/user/max_inotify_{limit} && exec "$@"'
    words = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        lower,
        "sh",
        sys.executable,
        "-c",
        WATCH,
        str(tmp_path),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if "unshare" in done.stderr or "max_inotify" in done.stderr:
        pytest.skip(f"name spaces are not allowed here: {done.stderr.strip()}")
    assert done.stdout.split() == ["watch-polls", "due", "due"], done.stderr


def test_a_scan_takes_environment_files_and_scripts_and_follows_no_link_to_a_directory(tmp_path: Path) -> None:
    for name in ("a.yml", "B.YAML", ".c.yml", "d.yml~", "e.py", "f.ipynb", "g.txt", "h/i.yml", "env/conda-meta/j.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "h" / "circle").symlink_to(tmp_path)
    (tmp_path / "k.yml").symlink_to("g.txt")
    (tmp_path / "broken.yml").symlink_to("nothing")
    (tmp_path / os.fsdecode(b"\xff.yml")).write_text("")

    def found(**more: Any) -> set[str]:
        return {os.path.relpath(path, tmp_path) for path in scan_watch(Watch(tmp_path, **more)).files}

    assert found() == {"a.yml", "B.YAML", "k.yml"}
    assert found(recursive=True) == {"a.yml", "B.YAML", "k.yml", "h/i.yml"}
    assert found(scripts=True) == {"a.yml", "B.YAML", "k.yml", "e.py", "f.ipynb"}
    assert scan_watch(Watch(tmp_path)).notes == [f"{tmp_path}/\\xff.yml is ignored: its name is not UTF-8"]


def test_an_absent_directory_is_a_problem_until_it_appears(tmp_path: Path) -> None:
    told: list[str] = []
    files = Files([Watch(tmp_path / "later")], lambda event, **fields: told.append(event))
    files.look()
    assert files.problems == {0: "it does not exist"}
    (tmp_path / "later").mkdir()
    deadline = time.monotonic() + 60
    while files.problems and time.monotonic() < deadline:
        files.wait(threading.Event())
        files.look()
    assert files.problems == {} and told == ["watch-unreadable", "watch-readable"]
    files.close()


def test_a_local_file_system_sends_events(tmp_path: Path) -> None:
    assert not has_no_events(tmp_path)

"""Promises of cetool.base.files: concurrent writes and an editor's saves are never lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.home import Home

from cetool.base.files import ChangedError, read_if_there, replace_file, update_file


def at_once(home: Home, commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Start command lines of cetool together; return their exit statuses and standard errors."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "cetool", *words],
            env=home.env,
            cwd=home.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    return [(process.wait(), process.communicate()[1]) for process in started]


def test_settings_that_are_set_at_once_are_all_kept(home: Home) -> None:
    values = {"max-size": "5GB", "offline": "true", "auto-gc": "false", "pip-installer": "uv", "stall-timeout": "77"}
    for turn in range(2):
        done = at_once(home, [("config", "set", key, value) for key, value in values.items()])
        assert done == [(0, done[at][1]) for at in range(len(values))]
        text = (home.path / ".config/cetool/config.yaml").read_text()
        assert sorted(line.split(":")[0] for line in text.splitlines()) == sorted(values), text
        if not turn:
            (home.path / ".config/cetool/config.yaml").unlink()


def test_packages_that_are_added_at_once_are_all_declared(home: Home) -> None:
    script = home.write("s.py", "# conda execute\n# env:\n#  - python\n\nprint()\n")
    names = [f"package-{number}" for number in range(5)]
    assert [status for status, _ in at_once(home, [("add", "s.py", name) for name in names])] == [0] * 5
    assert {line[5:] for line in script.read_text().splitlines() if line.startswith("#  - ")} == {"python", *names}
    assert {path.name for path in home.path.iterdir() if "s.py" in path.name} == {"s.py"}


@pytest.mark.parametrize("edited", [False, True])
def test_many_writers_lose_nothing_and_never_what_an_editor_saved(tmp_path: Path, edited: bool) -> None:
    """Processes of cetool take turns; an editor always saves its whole text."""
    file = tmp_path / "file"
    file.write_bytes(b"")
    failures: list[Exception] = []

    def add(name: str) -> None:
        try:
            for number in range(40):
                line = f"{name}{number}\n".encode()
                update_file(file, lambda old, line=line: (old or b"") + line)  # type: ignore[misc]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    text = ""
    for number in range(50 if edited else 0):
        text += f"editor{number}\n"
        (tmp_path / "edited").write_text(text)
        os.replace(tmp_path / "edited", file)
        time.sleep(0.002)
    for thread in threads:
        thread.join()
    assert not failures
    lines = file.read_text().split()
    if edited:
        assert [line for line in lines if line.startswith("editor")] == text.split()
    else:
        assert sorted(lines) == sorted(f"{name}{number}" for name in "abc" for number in range(40))
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_an_editor_saves_while_cetool_writes_stays(
    tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    sync = os.fsync

    def saves(descriptor: int) -> None:
        sync(descriptor)
        if not (tmp_path / "edited").exists() and file.read_bytes() == b"old":
            (tmp_path / "edited").write_bytes(b"saved")
            os.replace(tmp_path / "edited", file)  # after the look at what is there, before the exchange

    if exchanges:
        monkeypatch.setattr(os, "fsync", saves)
    else:
        file.write_bytes(b"saved")
    with pytest.raises(ChangedError):
        replace_file(file, b"old", b"new")
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"saved", ["file"])


def test_a_file_that_another_made_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "file"
    replace_file(file, None, b"first")
    with pytest.raises(ChangedError, match="another process changed it in the meantime"):
        replace_file(file, None, b"second")
    with pytest.raises(ChangedError):
        replace_file(file, b"second", None)
    replace_file(file, b"first", None)
    assert read_if_there(file) is None and not os.listdir(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX")
def test_a_file_keeps_its_mode_and_a_link_its_target(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    file.chmod(0o640)
    (tmp_path / "link").symlink_to(file)
    assert update_file(tmp_path / "link", lambda old: (old or b"") + b" new")
    assert not update_file(tmp_path / "link", lambda old: old)
    assert (tmp_path / "link").is_symlink() and file.read_bytes() == b"old new"
    assert file.stat().st_mode & 0o777 == 0o640

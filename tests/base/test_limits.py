"""Whatever is in a file's place: a reader reads it or refuses it in a sentence, at once; other files still count."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fuzz.blocks import BLOCKS
from fuzz.mutate import FEW
from fuzz.readers import READERS, check
from support.home import Home

from cetool.base import limits
from cetool.base.limits import LimitError, check_yaml, parse_json

_TESTS = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes, devices and memory limits of POSIX")


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_errors(name: str, scale: int) -> None:
    """200 cases a reader, 20,000 with --long, each within a second of processor time and all within 300 MiB."""
    assert name not in BLOCKS
    count = FEW // 5 * scale**2
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.mutate", name, str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")])},
        cwd=_TESTS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-10_000:]
    read, sound = map(int, done.stdout.split())
    assert read == count and sound > 0


# --- special files ----------------------------------------------------------------------------------------------------


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        where = os.getcwd()
        os.chdir(path.parent)  # a socket's path has 100 characters at most
        try:
            listening.bind(path.name)
        finally:
            os.chdir(where)


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"), 0o600)
    path.symlink_to("fifo")


def _large(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 1 << 31)


_SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": lambda path: os.mkfifo(path, 0o600),
    "link to a pipe": _link_to_pipe,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "directory": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path.name),
    "large": _large,
    "brackets": lambda path: path.write_bytes(b"[" * 400_000),
    "braces": lambda path: path.write_bytes(b'{"a":' * 400_000),
    "lists": lambda path: path.write_bytes(b"[" + b"[]," * 3_000_000 + b"[]]"),
    "items": lambda path: path.write_bytes(b"- " * 400_000 + b"a"),
    "lines": lambda path: path.write_bytes(b"- a\n" * 4_000_000),
    "digits": lambda path: path.write_bytes(b"9" * 400_000),
    "empty": lambda path: path.write_bytes(b""),
}


@contextmanager
def _within_seconds(seconds: int) -> Iterator[None]:
    """End a reader that waits; it waits forever, so the number says nothing of how fast the machine is."""

    def raise_timeout(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, raise_timeout)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
def test_special_files_are_refused_at_once(name: str, tmp_path: Path) -> None:
    """Pipes, devices, sockets, directories, 2 GiB, nesting without end: each reader goes on or says what is wrong."""
    reader = READERS[name]
    for number, (kind, make) in enumerate(_SPECIAL.items()):
        directory = tmp_path / str(number)
        place = directory / reader.file
        place.parent.mkdir(parents=True)
        make(place)
        try:
            with _within_seconds(60):
                check(reader, directory)
        except BaseException as error:
            raise AssertionError(f"{name}: {kind}") from error


# --- the limits themselves --------------------------------------------------------------------------------------------


def test_json_is_read_within_limits() -> None:
    deep = "[" * limits.DEPTH + "]" * limits.DEPTH
    assert parse_json(deep) and parse_json(json.dumps({"a": "[[[{" * 100, "b": '\\"[' * 100}))
    for text in ("[" * 65 + "]" * 65, "[" * 400_000, '{"a":' * 70 + "1" + "}" * 70, '"\\ud800"', '["\\udfff\\ud800"]'):
        with pytest.raises(ValueError):
            parse_json(text)
    assert parse_json('["\\ud83d\\ude00", "\\udc80"]') == ["\U0001f600", "\udc80"]
    for number in ("1" + "0" * 400, "1e999", "-1e999", "NaN", "Infinity", str(2**63)):
        with pytest.raises(LimitError):
            parse_json(f"[{number}]", exact=True)
    assert parse_json(f"[{2**63 - 1}, {-(2**63)}, 1.5e300]", exact=True) == [2**63 - 1, -(2**63), 1.5e300]
    with pytest.raises(LimitError, match="more than"):
        parse_json(b"[" + b"1," * limits.VALUES + b"1]")


def test_yaml_is_counted_with_its_aliases() -> None:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    with pytest.raises(LimitError, match="more than") as caught:
        check_yaml(laughs)
    assert caught.value.line is not None
    with pytest.raises(LimitError, match=r"alias \*a refers to a value that contains it"):
        check_yaml("a: &a\n  b: *a\n")
    with pytest.raises(LimitError, match="deeper than"):
        check_yaml("a: " + "[" * 3000)
    check_yaml("a: &a {b: c}\nd:\n  <<: *a\n")
    check_yaml("not: yaml: at all")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the memory of a process at once")
def test_an_engine_that_takes_too_much_memory_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    from cetool.engines.rattler.thread import TooMuchMemory, attend

    async def read_a_package_list() -> int:
        import asyncio

        taken = bytearray(os.urandom(1 << 20) * 96)
        await asyncio.sleep(60)
        return len(taken)

    monkeypatch.setattr(limits, "MEMORY", 32 << 20)
    with pytest.raises(TooMuchMemory):
        attend(read_a_package_list(), lambda: False)


def test_the_documentation_names_every_limit() -> None:
    text = (_TESTS.parent / "docs" / "explanation" / "limits.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    described = {
        name.strip("`"): size for _, size, name in rows if name.startswith("`") and name != "`cetool.base.limits`"
    }
    sizes = ("SCRIPT", "NOTEBOOK", "LOCK", "ENVIRONMENT_FILE", "SETTINGS", "RECORD", "NOTE", "KERNEL", "PACKAGE")
    assert {name: described.pop(name) for name in sizes} == {
        name: limits.in_words(getattr(limits, name)) for name in sizes
    }
    assert described == {
        "DEPTH": f"{limits.DEPTH} levels",
        "VALUES": f"{limits.VALUES:,}",
        "NODES": f"{limits.NODES:,}",
    }
    assert f"more than {limits.MEMORY >> 30} GiB" in text


# --- as users meet them -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.sh.pixi.lock", "version: 6\nenvironments: " + "[" * 400_000, "nested deeper than"),
        ("a.sh.conda-lock.yml", "version: 1\nmetadata: {}\npackage:\n" + "- [a]: b\n", "a key must be a string"),
        ("a.sh.conda-lock.yml", "version: 1\nmetadata: {}\npackage:\n" + "- a\n" * 3_000_000, "larger than 10 MiB"),
        (".config/cetool/config.yaml", "channels: " + "[" * 3000, "nested deeper than"),
        (".config/cetool/config.yaml", "max-size: 1" + "0" * 400, "401 digits"),
        (".condarc", "a: &a [*a]\n", "refers to a value that contains it"),
    ],
)
def test_a_run_says_which_file_is_beyond_its_limit(home: Home, name: str, text: str, words: str) -> None:
    script = home.write("a.sh", "# conda execute\n# env: [hello-bin]\n# run_with: sh\n")
    home.write(name, text)
    done = home.cetool("run", "--locked" if "lock" in name else "-q", script)
    assert done.returncode == 125 and words in done.stderr and Path(name).name in done.stderr, done.stderr
    assert "defect" not in done.stderr and not done.stdout


def test_a_large_notebook_is_refused_with_what_to_do(home: Home) -> None:
    notebook = home.write("a.ipynb", '{"nbformat": 4, "metadata": {}, "cells": []}')
    os.truncate(notebook, limits.NOTEBOOK + 1)
    done = home.cetool("run", notebook)
    assert done.returncode == 125 and "larger than 32 MiB" in done.stderr and "--clear-output" in done.stderr


# --- one environment's files and the others ---------------------------------------------------------------------------

_DAMAGES: dict[str, Callable[[Path], object]] = {
    "half a surrogate pair": lambda path: path.write_text('{"schema": 1, "prefix": "\\ud800", "name": "\\ud800"}'),
    "a number": lambda path: path.write_text('{"name": "a", "version": 1' + "0" * 400 + "}"),
    "other types": lambda path: path.write_text('{"name": "a", "version": "1", "build": "0", "files": [[1], null, 2]}'),
    "brackets": _SPECIAL["brackets"],
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\xed\xa0\x80"),
    "pipe": _SPECIAL["pipe"],
    "directory": _SPECIAL["directory"],
}


def test_damage_in_one_environment_stops_no_command_for_others(home: Home) -> None:
    text = "# conda execute\n# env: [hello-bin]\n# variables: {{NAME: {}}}\n# run_with: sh\nhello | cut -c 1-5\n"
    good, bad = (home.write(f"{name}.sh", text.format(name)) for name in ("good", "bad"))
    assert home.cetool("run", good).stdout == home.cetool("run", bad).stdout == "hello\n"
    meta = Path(home.cetool("path", bad).stdout.strip()) / "conda-meta"
    record = next(meta.glob("hello-bin-*.json")).name
    # without its marker an environment is not looked at any closer
    damages: list[tuple[str, tuple[str, ...]]] = [
        (kind, (record, "history", "state", "cetool-pypi")) for kind in _DAMAGES
    ]
    damages += [("half a surrogate pair", ("cetool",)), ("pipe", ("cetool",))]
    commands: list[tuple[str | os.PathLike[str], ...]] = [
        ("list", "--json"),
        ("gc", "--dry-run"),
        ("verify", good),
        ("run", good),
        ("verify",),
    ]
    for kind, names in damages:
        before = {name: (meta / name).read_bytes() for name in names if (meta / name).exists()}
        for name in names:
            (meta / name).unlink(missing_ok=True)
            _DAMAGES[kind](meta / name)
        for words in commands:
            done = home.cetool(*words, timeout=60)
            assert done.returncode == 0 or words == ("verify",), (kind, names, words, done.stderr)
            assert "defect" not in done.stderr and "Traceback" not in done.stderr, (kind, words, done.stderr)
        for name in names:
            (meta / name).rmdir() if kind == "directory" else (meta / name).unlink()
            if name in before:
                (meta / name).write_bytes(before[name])
    assert home.cetool("run", bad).stdout == "hello\n"

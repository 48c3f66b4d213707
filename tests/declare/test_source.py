"""Promises about reading a script's file: any text that is one, a sentence for everything else, and never a wait."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cetool.base.errors import CetoolError, MetadataError, ScriptNotFoundError, ScriptNotReadableError
from cetool.declare.metadata import choose_program, shell_choice
from cetool.declare.requirements import Requirements
from cetool.declare.source import MAX_SIZE, decode, read_script, script_from_text

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX only")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def line_of(error: CetoolError) -> int | None:
    assert error.where is not None
    return error.where.line


def refused(path: Path) -> CetoolError:
    with pytest.raises(CetoolError) as error:
        read_script(path)
    assert str(path) in str(error.value)
    return error.value


@pytest.mark.parametrize("data", [b"a\nb\n", b"\xef\xbb\xbfa\nb\n", b"a\r\nb\r\n", b"a\rb\r"])
def test_marks_and_line_ends_make_no_difference(tmp_path: Path, data: bytes) -> None:
    assert read_script(write(tmp_path / "s.sh", data)).text == "a\nb\n"
    assert script_from_text(data.decode(), "s.sh", "-c").text == "a\nb\n"


def test_a_script_keeps_the_path_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "real.py", b"x\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "link").symlink_to(tmp_path / "real.py")
    monkeypatch.chdir(tmp_path)
    script = read_script("bin/link")
    assert (script.path, script.name) == (tmp_path / "bin" / "link", "bin/link")


def test_the_coding_line_of_python_is_honoured(tmp_path: Path) -> None:
    """PEP 723: Specification."""
    latin = "# -*- coding: latin-1 -*-\n# gr\u00fc\u00dfe\n"
    assert read_script(write(tmp_path / "s.py", latin.encode("latin-1"))).text == latin
    second = "#!/usr/bin/env python3\n# vim: set fileencoding=cp1252 :\n# \u20ac\n"
    assert read_script(write(tmp_path / "s", second.encode("cp1252"))).text == second
    assert line_of(refused(write(tmp_path / "s.sh", latin.encode("latin-1")))) == 2
    third = b"x = 1\n# coding: nonsense\n"  # after a line of code it is a comment like any other
    assert read_script(write(tmp_path / "t.py", third)).text == third.decode()


@pytest.mark.parametrize("codec", ["nonsense", "rot13", "hex", "undefined", "utf-16", "punycode", "unicode_escape"])
def test_a_coding_line_that_names_no_encoding_is_refused(tmp_path: Path, codec: str) -> None:
    error = refused(write(tmp_path / "s.py", f"#!/bin/x\n# coding: {codec}\nx\n".encode()))
    assert isinstance(error, MetadataError) and line_of(error) == 2 and codec in error.message


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b"", None, "empty"),
        (b"\xef\xbb\xbf", None, "empty"),
        (b"one\ntwo\0\n", 2, "NUL byte at offset 7"),
        (b"one\r\ntwo\r\ncaf\xe9\n", 3, "byte 0xe9 at offset 13"),
        (b"\xef\xbb\xbfcaf\xe9\n", 1, "byte 0xe9 at offset 6"),
        ("x".encode("utf-16"), None, "UTF-16"),
        (b"\xef\xbb\xbf# coding: latin-1\n", 1, "byte order mark"),
        (b"#" * (MAX_SIZE + 1), None, "larger than 10 MiB"),
    ],
)
def test_a_file_that_is_not_text_is_refused_with_its_line(
    tmp_path: Path, data: bytes, line: int | None, says: str
) -> None:
    error = refused(write(tmp_path / "s.py", data))
    assert (error.exit_status, line_of(error)) == (125, line)
    assert says in error.message
    assert error.hint or "empty" in says


def test_the_largest_script_is_read(tmp_path: Path) -> None:
    assert len(read_script(write(tmp_path / "s.sh", b"#" * MAX_SIZE)).text) == MAX_SIZE


def test_no_script_is_127_and_a_directory_126(tmp_path: Path) -> None:
    assert isinstance(refused(tmp_path / "none.py"), ScriptNotFoundError)
    write(tmp_path / "file", b"x")
    assert isinstance(refused(tmp_path / "file" / "below.py"), ScriptNotFoundError)
    assert refused(tmp_path).exit_status == 126
    with pytest.raises(ScriptNotFoundError):
        read_script("a\0b")
    with pytest.raises(CetoolError):
        read_script("n" * 5000)


@posix
def test_nothing_that_could_block_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "pipe" in refused(tmp_path / "fifo").message
    with socket.socket(socket.AF_UNIX) as listening:
        home = os.getcwd()
        os.chdir(tmp_path)  # a socket's path is short
        try:
            listening.bind("socket")
        finally:
            os.chdir(home)
        assert "socket" in refused(tmp_path / "socket").message
    assert "device" in refused(Path("/dev/zero")).message


@posix
def test_an_unreadable_file_is_126(tmp_path: Path) -> None:
    path = write(tmp_path / "s.py", b"x\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert isinstance(refused(path), ScriptNotReadableError)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_a_name_that_is_not_utf8_can_be_shown(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9\x1b.py"
    Path(os.fsdecode(path)).write_text("x\n")
    assert read_script(os.fsdecode(path)).name.endswith("caf\\xe9\\x1b.py")


@settings(deadline=None)
@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe"]),
    st.sampled_from(["", "utf-8", "latin-1", "utf-7", "utf-16", "shift_jis", "iso2022_jp", "idna", "mbcs", "zip", "-"]),
)
def test_any_bytes_are_text_or_an_error(data: bytes, mark: bytes, codec: str) -> None:
    line = f"# coding: {codec}\n".encode() if codec else b""
    for python in (False, True):
        try:
            text = decode(mark + line + data, "s", python=python)
        except CetoolError as error:
            assert isinstance(error, MetadataError)
        else:
            assert "\r" not in text and "\0" not in text and text.encode()


def test_nul_and_emptiness_of_given_text() -> None:
    for text in ("", "a\0b"):
        with pytest.raises(MetadataError):
            script_from_text(text, "x", "-c")


@pytest.mark.parametrize(
    ("first", "name", "words"),
    [
        ("#!/usr/bin/env python", "s", ("/usr/bin/env", "python")),
        ("#!/bin/bash -e", "s.py", ("/bin/bash", "-e")),
        ("#!  /usr/bin/perl", "s", ("/usr/bin/perl",)),
        ("#!/usr/bin/env -S python -c 'a b'", "s", ("/usr/bin/env", "-S python -c 'a b'")),
        ("#!/usr/bin/env cetool", "s.py", ("python",)),
        ("#!/usr/bin/env conda-execute", "s.R", ("Rscript",)),
        ("#!/usr/bin/env -S cetool run -v", "s.jl", ("julia",)),
        ("#!/usr/bin/env -S -i A=1 cetool-run", "s", None),
        ("#!/usr/bin/env -S -i A=1 conda-execute", "s", ("/bin/sh",)),
        ("#!/opt/conda/bin/conda execute", "s.txt", ("/bin/sh",)),
        ("#!/usr/bin/env -S uv run", "s", None),
        ("#!/usr/bin/env -Scetool", "s.rb", ("ruby",)),
        ("#!/opt/conda/bin/conda execute", "s.js", ("node",)),
        ("#!/usr/bin/env -u A -C /tmp conda execute", "s.pl", ("perl",)),
        ("#!", "s.sh", ("bash",)),
        ("x", "s.PY", ("python",)),
        ("x", "s.unknown", None),
    ],
)
@posix
def test_the_shebang_then_the_suffix_then_nothing(first: str, name: str, words: tuple[str, ...] | None) -> None:
    assert choose_program(script_from_text(first + "\nbody\n", name, name), Requirements()).words == words


@pytest.mark.parametrize(
    ("name", "packages", "text", "words"),
    [
        ("s", ("python >=3", "make"), "x", ("python",)),
        ("s.txt", ("r-ggplot2",), "x", ("Rscript",)),
        ("s.ts", ("nodejs",), "let x: number = 1", ("node",)),
        ("s.c", ("python",), "import x", ("python",)),
        ("s", ("pypy3.9",), "x", ("python",)),
        ("s", ("gawk",), "x", ("awk", "-f")),
        ("s", ("python", "r-base"), "x", None),
        ("s", ("numpy",), "x", None),
        ("s", ("go",), "x", None),
        ("s.c", ("python",), "#include <stdio.h>", None),
        ("s.Rmd", ("r-base",), "---", None),
    ],
)
def test_the_one_interpreter_among_the_packages_runs_it(
    name: str, packages: tuple[str, ...], text: str, words: tuple[str, ...] | None
) -> None:
    assert choose_program(script_from_text(text + "\n", name, name), Requirements(packages)).words == words


@pytest.mark.parametrize(
    "text",
    [
        '"""x"""',
        "import os, sys",
        "x = 1\nfrom a import b",
        "library(x)",
        "#include <x.h>",
        "// conda execute",
        "fn main() {",
    ],
)
def test_a_text_in_another_language_is_not_handed_to_the_shell(text: str) -> None:
    other = shell_choice(script_from_text(text + "\n", "s", "s"))
    assert (other.words, other.by) == (None, "nothing") and "/bin/sh cannot run" in other.reason


@pytest.mark.parametrize(
    "text",
    [
        *("echo 1", "python <<EOF\nimport os\nEOF", "python -c '\nimport os\n'", "import -window root x.png"),
        *("import shot.png", "library() {\n:\n}", "module load gcc", "while :\ndo\nbreak\ndone", "let i=0", "source x"),
    ],
)
@posix
def test_a_shell_script_stays_one(text: str) -> None:
    assert shell_choice(script_from_text(text + "\n", "s", "s")).words == ("/bin/sh",)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("#!/usr/bin/env -S uv run --script", ("python",)),
        ("#!/usr/bin/env -S pixi run --script", ("python",)),
        ("#!/usr/bin/env cetool", ("python",)),
        ("#!/usr/bin/env ce", ("python",)),
        ("#!/usr/bin/env VAR=x ce", ("python",)),
        ("#!/opt/ce/bin/CE.exe", ("python",)),
        ("#!/usr/bin/env -S pipx run", ("python",)),
        ("#!/usr/bin/env --split-string='pixi exec -s python'", ("python",)),
        ("#!/usr/bin/env nix-shell", ("python",)),
        ("#!/bin/sh", ("python",)),
        ("#!/usr/bin/env python3", ("/usr/bin/env", "python3")),
        ("#!/usr/bin/env -S python -u -I", ("/usr/bin/env", "-S python -u -I")),
        ("#!/opt/python/bin/python3.9 -u", ("python", "-u")),
        ("#!/usr/bin/pypy3", ("python",)),
        ("# /// script", ("python",)),
    ],
)
@posix
def test_a_pep723_script_is_python(first: str, words: tuple[str, ...]) -> None:
    script = script_from_text(first + "\n", "s", "s")
    assert choose_program(script, Requirements(), python=True).words == words

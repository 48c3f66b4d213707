"""Archives of environments: the same bytes everywhere, and they work at any path."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
from support.home import Home

from cetool.server.archive.packing import write_archive
from cetool.server.archive.unpack import SHEBANG_LIMIT, with_prefix, with_short_shebang

SPECS = ("python", "six", "pip", "hello-bin", "activated", "postlink")


@pytest.fixture(scope="module")
def archive(settled: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of an environment with Python and packages of all kinds."""
    return packed(settled, tmp_path_factory.mktemp("archive") / "one.tar.gz")


@pytest.fixture(scope="module")
def plain(settled: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of an environment without Python."""
    return packed(settled, tmp_path_factory.mktemp("archive") / "plain.tar.gz", "hello-bin", "activated")


def packed(home: Home, archive: Path, *specs: str) -> Path:
    """Write the archive of an environment, which is created if it does not exist."""
    created = home.cetool("create", *(specs or SPECS))
    assert created.returncode == 0, created.stderr
    with archive.open("wb") as file:
        write_archive(Path(created.stdout.strip()), file, {"GREETING": "hi there"})
    return archive


def unpacked(archive: Path, directory: Path) -> Path:
    """Unpack an archive as conda-store's client does."""
    directory.mkdir(parents=True)
    subprocess.run(["tar", "xzf", archive, "-C", directory], check=True)
    done = subprocess.run([directory / "bin" / "conda-unpack"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return directory


def run(prefix: Path, command: str) -> str:
    """Run a command in an unpacked environment, as conda-store's client does."""
    script = f". '{prefix}/bin/activate' '{prefix}' && {command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_an_unpacked_archive_works_at_its_path(archive: Path, tmp_path: Path) -> None:
    prefix = unpacked(archive, tmp_path / "here")
    assert run(prefix, "hello") == f"hello from {prefix}\n"
    assert run(prefix, "python -c 'import six, sys; print(sys.prefix)'") == f"{prefix}\n"
    assert run(prefix, "pip --version").startswith("pip ")
    assert run(prefix, "echo $ACTIVATED $ACTIVATED_PREFIX $FROM_JSON $GREETING") == f"yes {prefix} a value hi there\n"
    assert (prefix / "postlink.txt").read_text() == "postlink\n"
    binary = (prefix / "share/hello/prefix.bin").read_bytes()
    assert binary.startswith(b"\0\x01" + bytes(prefix) + b"/share\0") and binary.endswith(b"\0\xff")


def test_deactivation_undoes_activation(plain: Path, tmp_path: Path) -> None:
    prefix = unpacked(plain, tmp_path / "here")
    after = run(prefix, f". {prefix}/bin/deactivate && echo $PATH:$CONDA_PREFIX:$ACTIVATED:$FROM_JSON$GREETING")
    assert after == "/usr/bin:/bin:::\n"


def test_equal_packages_result_in_equal_bytes(home: Home, archive: Path, tmp_path: Path) -> None:
    other = packed(home, tmp_path / "other.tar.gz")
    assert other.read_bytes() == archive.read_bytes()


def test_an_archive_contains_neither_paths_nor_times_of_the_server(archive: Path, settled: Home) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        assert {(each.mtime, each.uid, each.gid, each.uname) for each in members} == {(0, 0, 0, "")}
        names = [each.name for each in members]
        assert not [name for name in names if name.startswith(("/", ".")) or ".." in name or name.endswith(".pyc")]
        contents = [tar.extractfile(each) for each in members if each.isreg()]
        assert not any(file and bytes(settled.cache) in file.read() for file in contents)


def test_scripts_run_below_a_path_that_is_too_long_for_their_first_line(archive: Path, tmp_path: Path) -> None:
    prefix = unpacked(archive, tmp_path / ("long" * 30) / "here")
    assert len(str(prefix)) > SHEBANG_LIMIT
    assert run(prefix, "pip --version").startswith("pip ")
    assert run(prefix, "hello") == f"hello from {prefix}\n"


def test_unpacking_refuses_a_path_that_does_not_fit_into_a_binary_file(plain: Path, tmp_path: Path) -> None:
    prefix = tmp_path / ("long" * 30) / ("path" * 30) / "here"
    prefix.mkdir(parents=True)
    subprocess.run(["tar", "xzf", plain, "-C", prefix], check=True)
    done = subprocess.run([prefix / "bin" / "conda-unpack"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "prefix.bin cannot be changed: the path is longer than" in done.stderr


def test_an_environment_without_python_is_unpacked_by_the_machines(plain: Path, tmp_path: Path) -> None:
    prefix = unpacked(plain, tmp_path / "here")
    assert run(prefix, "hello") == f"hello from {prefix}\n"


def test_a_file_that_was_changed_after_linking_is_relocated_as_text(home: Home, tmp_path: Path) -> None:
    created = home.cetool("create", "hello-bin").stdout.strip()
    script = Path(created, "bin", "hello")
    script.unlink()
    script.write_text(f"#!/bin/sh\necho changed {created}\n")
    script.chmod(0o755)
    prefix = unpacked(packed(home, tmp_path / "changed.tar.gz", "hello-bin"), tmp_path / "here")
    assert run(prefix, "hello") == f"changed {prefix}\n"


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        (b"#!/p/bin/python -E\nprint()\n", b" -E"),
        (b"#! /p/bin/python\nprint()\n", b""),
    ],
)
def test_short_first_lines_stay_long_ones_start_python_in_another_way(line: bytes, rest: bytes) -> None:
    assert with_short_shebang(line) == line
    long = line.replace(b"/p/", b"/" + b"p" * 130 + b"/")
    head = b"#!/bin/sh\n'''exec' \"/" + b"p" * 130 + b'/bin/python"' + rest + b" \"$0\" \"$@\"\n' '''\n"
    assert with_short_shebang(long) == head + b"print()\n"
    other = long.replace(b"python", b"perl")
    assert with_short_shebang(other) == b"#!/usr/bin/env perl" + rest + b"\nprint()\n"


def test_binary_files_keep_their_size_with_several_prefixes_in_one_string() -> None:
    data = b"\x01/placeholder/a:/placeholder/b\0rest"
    new = with_prefix(data, b"/placeholder", b"/p", True)
    assert new == b"\x01/p/a:/p/b" + b"\0" * 21 + b"rest"
    assert len(new) == len(data)

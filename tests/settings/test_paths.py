"""Promises of cetool.settings.paths and cetool.base.durations: places, refused directories, times and sizes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cetool.base.durations import format_duration, format_size, parse_duration, parse_size
from cetool.base.errors import StoreError, UsageError
from cetool.base.ownership import ensure_private_dir
from cetool.settings.paths import config_file_path, resolve_paths

linux = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the XDG directories")
posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners")
as_root = pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- where things lie


@linux
def test_everything_lies_below_the_cache_directory() -> None:
    paths = resolve_paths({"HOME": "/home/ada"})
    assert paths.root == Path("/home/ada/.cache/cetool")
    assert (paths.envs, paths.locks, paths.trash) == (paths.root / "envs", paths.root / "locks", paths.root / "trash")
    assert paths.database == paths.root / "usage.sqlite3"
    assert paths.config_file == Path("/home/ada/.config/cetool/config.yaml")
    xdg = resolve_paths({"HOME": "/home/ada", "XDG_CACHE_HOME": "/x/", "XDG_CONFIG_HOME": "/y"})
    assert (xdg.root, xdg.config_file) == (Path("/x/cetool"), Path("/y/cetool/config.yaml"))
    # the XDG specification has relative paths ignored
    assert resolve_paths({"HOME": "/home/ada", "XDG_CACHE_HOME": "x"}).root == paths.root


def test_variables_name_the_cache_and_the_configuration_file(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    paths = resolve_paths({**home, "CETOOL_CACHE_DIR": str(tmp_path / "a" / ".." / "c"), "CETOOL_CONFIG_FILE": "~/f"})
    assert paths.root == tmp_path / "c"
    assert paths.config_file == tmp_path / "f"
    assert resolve_paths({**home, "CETOOL_CACHE_DIR": "~/c"}).root == tmp_path / "c"
    with pytest.raises(StoreError, match="CETOOL_CACHE_DIR is 'c', which is not an absolute path"):
        resolve_paths({**home, "CETOOL_CACHE_DIR": "c"})


def test_who_shares_the_environments_shares_their_locks(tmp_path: Path) -> None:
    environ = {"CETOOL_CACHE_DIR": str(tmp_path / "c")}
    shared = resolve_paths(environ, tmp_path / "shared")
    assert (shared.envs, shared.locks) == (tmp_path / "shared", tmp_path / "shared" / ".locks")
    assert shared.trash.parent == shared.envs  # renaming needs one file system
    assert shared.database.parent == tmp_path / "c"
    assert resolve_paths(environ, tmp_path / "c" / "envs") == resolve_paths(environ)


@linux
def test_without_home_the_password_database_is_asked() -> None:
    import pwd

    assert resolve_paths({}).root == Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache/cetool")
    with pytest.raises(StoreError, match="HOME is 'somewhere', which is not an absolute path"):
        resolve_paths({"HOME": "somewhere"})


@as_root
def test_a_missing_home_is_an_error() -> None:
    code = (
        "import os, pwd\n"
        "from cetool.base.errors import StoreError\n"
        "from cetool.settings.paths import config_file_path, resolve_paths\n"
        "os.setuid(54321)\n"
        "assert resolve_paths({'CETOOL_CACHE_DIR': '/c'}).config_file is None\n"
        "try: resolve_paths({})\n"
        "except StoreError as error: print(error, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HOME is not set (as in a cron job)" in done.stdout
    assert "CETOOL_CACHE_DIR" in done.stdout


# --- private directories


@posix
def test_what_is_made_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        ensure_private_dir(tmp_path / "a" / "b", trust=False)
    finally:
        os.umask(old)
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)
    ensure_private_dir(tmp_path / "a" / "b", trust=False)


@posix
@pytest.mark.parametrize(("bits", "who"), [(0o777, "everyone"), (0o770, "its group"), (0o702, "everyone")])
def test_a_directory_that_others_can_write_to_is_refused_unless_trusted(tmp_path: Path, bits: int, who: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(bits)
    with pytest.raises(StoreError, match=rf"is writable by {who} \(mode 0{bits:o}\)") as caught:
        ensure_private_dir(cache, trust=False)
    assert caught.value.hint is not None
    assert f"chmod go-w '{cache}'" in caught.value.hint
    assert "--trust-cache-dir" in caught.value.hint
    ensure_private_dir(cache, trust=True)
    assert mode(cache) == bits


@posix
def test_a_way_that_others_can_change_is_refused_but_for_sticky_directories(tmp_path: Path) -> None:
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)
    with pytest.raises(StoreError, match=f"{parent}, on the way to it, is writable by everyone"):
        ensure_private_dir(parent / "cache", trust=False)
    assert not (parent / "cache").exists()
    # by way of a link as well
    (tmp_path / "link").symlink_to(parent)
    with pytest.raises(StoreError, match="on the way to it"):
        ensure_private_dir(tmp_path / "link" / "cache", trust=False)
    parent.chmod(0o1777)
    ensure_private_dir(tmp_path / "link" / "cache", trust=False)
    assert mode(parent / "cache") == 0o700


@posix
def test_the_cache_directory_must_not_be_a_link_but_the_home_may(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(0o700)
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(StoreError, match="is a symbolic link") as caught:
        ensure_private_dir(tmp_path / "link", trust=False)
    assert str(real) in str(caught.value.hint)
    ensure_private_dir(tmp_path / "link" / "cache", trust=False)
    assert (real / "cache").is_dir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreError):
        ensure_private_dir(tmp_path / "loop" / "cache", trust=False)


@as_root
def test_what_belongs_to_someone_else_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "theirs"
    cache.mkdir(0o700)
    os.chown(cache, 54321, 54321)
    with pytest.raises(StoreError, match=r"belongs to user 54321: files in it would run as you"):
        ensure_private_dir(cache, trust=False)
    with pytest.raises(StoreError, match="could replace it"):
        ensure_private_dir(cache / "mine", trust=False)
    # a link in a sticky directory is its owner's to exchange
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "link").symlink_to(tmp_path)
    os.lchown(tmp_path / "sticky" / "link", 54321, 54321)
    with pytest.raises(StoreError, match="link, on the way to it, belongs to"):
        ensure_private_dir(tmp_path / "sticky" / "link" / "cache", trust=False)
    ensure_private_dir(cache, trust=True)


@posix
def test_in_a_trusted_shared_directory_what_is_made_is_shared(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    ensure_private_dir(shared / ".locks", trust=True)
    assert mode(shared / ".locks") == 0o770
    shared.chmod(0o755)
    ensure_private_dir(shared / "private", trust=True)
    assert mode(shared / "private") == 0o700


def test_a_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        for trust in (False, True):
            with pytest.raises(StoreError, match=r"cannot create|cannot be used|is not a directory"):
                ensure_private_dir(path, trust=trust)


@as_root
def test_an_unwritable_home_is_an_error(tmp_path: Path) -> None:
    code = (
        "import os, pwd\n"
        "from cetool.base.errors import StoreError\n"
        "from cetool.base.ownership import ensure_private_dir\n"
        "from cetool.settings.paths import resolve_paths\n"
        "os.setuid(54321)\n"
        "try: ensure_private_dir(resolve_paths({'HOME': '/'}).root, trust=False)\n"
        "except StoreError as error: print(error, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot create the directory /.cache/cetool: /.cache: Permission denied" in done.stdout
    assert "CETOOL_CACHE_DIR" in done.stdout


@linux
def test_looking_up_paths_imports_nothing_heavy() -> None:
    code = (
        "import sys, cetool.settings.paths as p; p.resolve_paths({'HOME': '/h'}); print('platformdirs' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert config_file_path({"HOME": "/h"}) == Path("/h/.config/cetool/config.yaml")


# --- times and sizes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("25h", 90000), ("90m", 5400), ("7d", 604800), ("2w", 1209600), ("1d12h", 129600), ("0s", 0), ("1.5h", 5400),
        (" 2d 3h ", 183600), ("3 min", 180),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("25", "has no unit"), ("1.5", "has no unit"), ("", "is empty"), ("-1h", "is negative"), ("h", "a duration"),
        ("1h1h", "a duration"), ("1h30", "a duration"), ("1y", "a duration"), ("1e3s", "a duration"),
        ("9" * 5000 + "h", "a duration"), ("999999w", "longer than a hundred years"), ("٣h", "a duration"),
        ("nan", "a duration"),
    ],
)  # fmt: skip
def test_an_invalid_duration_is_an_error_that_shows_the_units(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        parse_duration(text)
    assert "45s, 90m, 25h, 7d, 2w" in str(caught.value.hint)
    assert len(str(caught.value)) < 120


@given(st.floats(min_value=-1e3, max_value=3e9))
def test_a_time_is_shown_rounded_down_in_a_form_that_can_be_read(seconds: float) -> None:
    shown = parse_duration(format_duration(seconds))
    assert shown <= max(0, seconds) <= shown + max(86400 if seconds >= 14 * 86400 else 3600, 1)


def test_times_are_shown_short() -> None:
    times = (0, 59.9, 200, 3600, 18720, 183600, 172800, 40 * 86400 + 5000)
    assert [format_duration(t) for t in times] == ["0s", "59s", "3 min", "1h", "5h 12min", "2d 3h", "2d", "40d"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20 * 10**9), ("500MiB", 500 * 2**20), ("1.5TB", 15 * 10**11), ("0B", 0), ("1 kb", 1000), ("2gib", 2**31)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["20", "", "-1GB", "20G", "GB", "1,5GB", "20 GB!", "99999999PB", "20GB20GB", "1e3MB"])
def test_an_invalid_size_is_an_error_that_shows_the_units(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "20GB" in str(caught.value.hint)


def test_sizes_are_shown_short() -> None:
    sizes = (-5, 0, 999, 1000, 1500, 9_960, 212_345_678, 999_600, 20 * 10**9, 2**63)
    shown = ["0 B", "0 B", "999 B", "1 kB", "1.5 kB", "10 kB", "212 MB", "1 MB", "20 GB", "9223 PB"]
    assert [format_size(size) for size in sizes] == shown

"""Promises of cetool.base.ownership: what another user could have written is neither run nor obeyed."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import as_nobody_known

from cetool.base.errors import StoreError
from cetool.base.ownership import OwnershipError, ensure_private_dir, read_own_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root has several users")
#: A user of no account.
OTHER = 54321
SCRIPT = '# /// script\n# requires-python = ">=3"\n# ///\nprint("ran")\n'


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory of root's that every user can enter, not below a private one."""
    with tempfile.TemporaryDirectory(prefix="cetool-") as name:
        os.chmod(name, 0o755)
        yield Path(name).resolve()


def give(path: Path, *entries: tuple[int, int, int]) -> None:
    """Give a directory an access control list: its owner's and others' entries, a full mask, and these."""
    plain = [(0x01, 7, -1), (0x10, 7, -1), (0x20, 5, -1)]
    if not any(tag == 0x04 for tag, _, _ in entries):
        plain.append((0x04, 5, -1))
    packed = b"".join(struct.pack("<HHI", *item[:2], item[2] & 0xFFFFFFFF) for item in sorted([*plain, *entries]))
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    except (OSError, AttributeError):
        pytest.skip("no access control lists here")


@pytest.mark.parametrize(
    ("entry", "who"),
    [((0x02, 7, OTHER), rf"user {OTHER}, by its access"), ((0x08, 7, OTHER), f"group {OTHER}, by its")],
)
def test_who_may_write_by_an_access_control_list_counts(tmp_path: Path, entry: tuple[int, int, int], who: str) -> None:
    (tmp_path / "way").mkdir()
    give(tmp_path / "way", entry)
    with pytest.raises(OwnershipError, match=who):
        ensure_private_dir(tmp_path / "way" / "cache", trust=False)
    assert not (tmp_path / "way" / "cache").exists()
    give(tmp_path / "way", (entry[0], 5, OTHER))  # one that may only read does no harm
    ensure_private_dir(tmp_path / "way" / "cache", trust=False)


@as_root
@pytest.mark.parametrize("line", ["mallory:x:54321:0::/:/bin/sh", "root:x:0:mallory"])
def test_members_of_a_group_are_those_of_both_databases(open_path: Path, line: str) -> None:
    """By their primary group in passwd, and by name in group; root's own group is its owner's alone until then."""
    (open_path / "way").mkdir()
    (open_path / "way").chmod(0o775)
    database = "passwd" if line.count(":") > 3 else "group"
    old = Path("/etc", database).read_text()
    kept = [each for each in old.splitlines() if database == "passwd" or not each.startswith("root:")]
    (open_path / "database").write_text("\n".join([*kept, line, ""]))
    code = (
        "import sys; from pathlib import Path; from cetool.base.ownership import ensure_private_dir\n"
        "ensure_private_dir(Path(sys.argv[1]), trust=False)"
    )
    check = [sys.executable, "-c", code, str(open_path / "way" / "cache")]
    ensure_private_dir(open_path / "way" / "cache", trust=False)
    # in a namespace of its own, the machine's users stay as they are
    inside = ["unshare", "-m", "sh", "-c", f'mount --bind "$0" /etc/{database} && exec "$@"']
    done = subprocess.run([*inside, str(open_path / "database"), *check], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(done.stderr)
    assert "is writable by its group" in done.stderr, done.stderr


def test_a_file_that_can_switch_checks_off_is_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_bytes(b"data")
    assert read_own_file(file, limit=4) == b"data"
    file.chmod(0o666)
    with pytest.raises(OwnershipError, match="the file is writable by everyone"):
        read_own_file(file, limit=4)
    assert read_own_file(file, limit=4, trust=True) == b"data"
    file.chmod(0o600)
    with pytest.raises(OSError, match="larger than"):
        read_own_file(file, limit=3)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "link").symlink_to(file)
    with pytest.raises(OwnershipError, match=f"{tmp_path}/open, on the way to it, is writable by everyone"):
        read_own_file(tmp_path / "open" / "link", limit=4)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_own_file(tmp_path / "pipe", limit=4)


# --- on the command line


@pytest.mark.parametrize("name", [".config/cetool/config.yaml", ".condarc", "named.yaml"])
@pytest.mark.parametrize("whose", ["everybody's", pytest.param("another's", marks=as_root)])
def test_settings_of_other_users_are_refused(home: Home, name: str, whose: str) -> None:
    section = "trust-cache-dir: true\n"
    text = f"{home.condarc.read_text()}\nconda-execute:\n  {section}" if name == ".condarc" else section
    file = home.write(name, text)
    if whose == "everybody's":
        file.chmod(0o666)
        expected = "is writable by everyone"
    else:
        os.chown(file, OTHER, OTHER)
        expected = f"belongs to user {OTHER}"
    env = {"CETOOL_CONFIG_FILE": str(file)} if name == "named.yaml" else {}
    for command in (("list",), ("config", "list"), ("run", home.write("s.py", SCRIPT))):
        done = home.cetool(*command, env=env)
        assert done.returncode == 125, done.stderr
        assert expected in done.stderr and str(file) in done.stderr and "Traceback" not in done.stderr
    # the caller's own word counts
    assert home.cetool("list", env={**env, "CETOOL_TRUST_CACHE_DIR": "true"}).returncode == 0


@as_root
def test_a_cache_of_another_user_is_refused_with_a_hint_that_fits(home: Home) -> None:
    home.cache.mkdir(exist_ok=True)
    os.chown(home.cache, OTHER + 1, OTHER + 1)
    done = home.cetool("create", "hello-bin")
    assert done.returncode == 125 and f"belongs to user {OTHER + 1}" in done.stderr
    assert "You are root. With sudo, use `sudo -H`" in done.stderr
    home.path.chmod(0o755)
    done = home.run(*as_nobody_known(), "cetool", "create", "hello-bin")
    assert done.returncode == 125 and f"You are user {OTHER}. In a container, run as user {OTHER + 1}." in done.stderr
    os.chown(home.cache, 0, 0)
    done = home.run(*as_nobody_known(), "cetool", "create", "hello-bin")
    assert f"run `sudo chown -R {OTHER} '{home.cache}'`" in done.stderr, done.stderr
    done = home.run(*as_nobody_known(), "cetool", "create", "hello-bin", env={"CETOOL_CACHE_DIR": f"{home.path}/mine"})
    assert f"{home.path} belongs to root (user 0), and you are user {OTHER}. Set CETOOL_CACHE_DIR" in done.stderr


@pytest.mark.parametrize("named_by", ["CETOOL_PKG_DIR", "pkg-dir", "pkgs_dirs"])
def test_a_package_cache_that_others_can_write_to_is_refused_unless_trusted(home: Home, named_by: str) -> None:
    cache = home.path / "packages"
    cache.mkdir()
    cache.chmod(0o777)
    env = {}
    if named_by == "pkgs_dirs":
        home.condarc.write_text(f"{home.condarc.read_text()}\npkgs_dirs:\n  - {cache}\n")
    elif named_by == "pkg-dir":
        assert home.cetool("config", "set", "pkg-dir", str(cache)).returncode == 0
    else:
        env["CETOOL_PKG_DIR"] = str(cache)
    done = home.cetool("create", "hello-bin", env=env)
    assert done.returncode == 125
    assert f"{cache}, on the way to it, is writable by everyone" in done.stderr
    assert not any(cache.iterdir()) and not any((home.cache / "envs").iterdir())
    assert home.cetool("create", "--trust-cache-dir", "hello-bin", env=env).returncode == 0


def test_an_environment_is_closed_to_others_whatever_the_umask(home: Home) -> None:
    home.write("s.py", SCRIPT)
    shell = f"umask 0; exec {sys.executable} -m cetool run s.py"
    for expected in ("ran\n", "ran\n"):
        done = home.run("sh", "-c", shell)
        assert done.stdout == expected, done.stderr
    (prefix,) = (home.cache / "envs").iterdir()
    # the interpreter's own are made as it runs the script, with the umask that the user chose
    assert not [path for path in (prefix, *prefix.rglob("*")) if path.name != "__pycache__" and _is_open(path)]
    # and one that is open to others is not used, on the warm path either
    for changed in (prefix, home.path):
        before = changed.stat().st_mode
        changed.chmod(0o777)
        done = home.cetool("run", "s.py")
        assert done.returncode == 125 and "is writable by everyone" in done.stderr, done.stderr
        changed.chmod(before)
        assert home.cetool("run", "s.py").stdout == "ran\n"


def _is_open(path: Path) -> bool:
    info = path.lstat()
    return not stat.S_ISLNK(info.st_mode) and bool(info.st_mode & 0o022)


@as_root
def test_who_gets_access_after_a_warm_run_ends_it(home: Home) -> None:
    """A loop of renames by that user then has nothing to exchange: not one run starts."""
    home.write("s.py", SCRIPT)
    for _ in range(3):
        assert home.cetool("run", "s.py").stdout == "ran\n"
    os.chmod(home.path.parent, 0o775)  # root's own group: still private
    for _ in range(3):
        assert home.cetool("run", "s.py").stdout == "ran\n"
    give(home.path.parent, (0x02, 7, OTHER), (0x04, 7, -1))
    loop = 'while [ ! -e "$1" ]; do mv "$0" "$0.away" && mv "$0.away" "$0"; done'
    end = home.path.parent / "end"
    with subprocess.Popen(
        ["sh", "-c", loop, str(home.path), str(end)],
        user=OTHER,
        group=OTHER,
        extra_groups=[],
        stderr=subprocess.DEVNULL,
    ):
        try:
            for _ in range(20):
                done = subprocess.run(
                    [sys.executable, "-m", "cetool", "run", "s.py"], cwd="/", env=home.env, capture_output=True
                )
                assert b"ran" not in done.stdout
        finally:
            end.touch()


def test_a_store_is_checked_by_whoever_opens_it(tmp_path: Path) -> None:
    from support.cache import small_spec, small_store

    (tmp_path / "envs").mkdir()
    (tmp_path / "envs").chmod(0o777)
    store = small_store(tmp_path)
    for act in (lambda: store.lease(small_spec().name), lambda: list(store.directories())):
        with pytest.raises(StoreError, match="is writable by everyone"):
            act()

"""Locked runs on the command line: when a lock is used, when not, and what is reported."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from engines import install_fakes
from support.channel import Channel
from support.home import Home
from support.locked import explicit_list, flip, lines, lock_script, locked
from support.scripts import unconfirmed
from support.server import ChannelServer
from support.warm import COLD, is_warm, learn, run_warm, settle

from cetool.declare.metadata import read_metadata
from cetool.declare.package import PypiPackage
from cetool.declare.source import read_script
from cetool.edit.document import read_document
from cetool.lock.embedded import embed
from cetool.lock.model import Lock, PlatformLock

#: Prints ``conda`` in a second line where the package ``activated`` is in its environment.
SH = "#!/bin/sh\n# conda execute\n# env: [hello-bin]\n\nhello | cut -d/ -f1\nls $CONDA_PREFIX/etc 2>&-\nexit 0\n"
FRESH, LOCKED = "hello from \n", "hello from \nconda\n"
#: What the lock has, and a solve of what is declared would not have.
PACKAGES = ("hello-bin", "activated")
SIX = "# conda execute\n# env: [python, six]\nimport six\nprint(six.__version__)\n"

warm_path = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is no warm path")


@pytest.fixture
def script(home: Home) -> Path:
    """A script that prints whether its environment is the locked one."""
    return home.write("shows.sh", SH)


def shown(home: Home, *args: str | Path) -> dict[str, Any]:
    done = home.cetool("show", "--json", *args)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


# --- used -----------------------------------------------------------------------------------------------------------


def test_a_matching_lock_is_used(home: Home, script: Path, local_channel: Channel, server: ChannelServer) -> None:
    """No solver, exactly these packages, reported only with `-v`; a second run makes no requests."""
    before = shown(home, script)
    lock_script(script, locked(local_channel, *PACKAGES, url=f"{server.url}/conda-forge"), local_channel)
    document = shown(home, script)
    assert document["lock"].endswith("shows.sh.conda-lock.yml") and document["locked"] and not before["locked"]
    assert before["lock"] is None and document["name"] != before["name"]
    assert f"lock:       {document['lock']} (2 packages)" in home.cetool("show", script).stdout
    for options in ((), ("--locked",), ("--frozen",)):
        done = home.cetool("run", *options, script)
        assert (done.returncode, done.stdout) == (0, LOCKED), done.stderr
    assert all(path.endswith((".conda", ".tar.bz2")) for path in server.requests) and len(server.requests) == 2
    assert home.cetool("name", script).stdout == home.cetool("path", script).stdout == f"{document['prefix']}\n"
    assert home.cetool("name", "--no-lock", script).stdout == f"{before['prefix']}\n"
    (row,) = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert row["locked"] is True and row["specs"] == ["hello-bin"]
    assert "(locked)" in home.cetool("list").stdout
    assert f"lock: {document['lock']}" in home.cetool("-v", script).stderr
    assert home.cetool("remove", script).returncode == 0
    assert json.loads(home.cetool("list", "--json").stdout)["environments"] == []


@warm_path
def test_a_link_uses_the_lock_next_to_it_or_next_to_the_script(
    home: Home, script: Path, local_channel: Channel
) -> None:
    first = home.write("one/script.sh", SH)
    other = home.write("two/script.sh", SH)
    lock_script(first, locked(local_channel, *PACKAGES), local_channel)
    link = home.path / "bin/shows"
    link.symlink_to("middle")
    (home.path / "bin/middle").symlink_to(first)
    assert shown(home, link)["lock"] == f"{first}.conda-lock.yml"
    assert learn(home, "run", "--locked", link) == learn(home, link) == LOCKED
    assert is_warm(home, link)
    done = home.cetool("lock", "--check", link)
    assert done.returncode == 0, done.stderr
    # to another script with the same text, which has no lock
    (home.path / "bin/middle").unlink()
    (home.path / "bin/middle").symlink_to(other)
    assert not is_warm(home, link) and shown(home, link)["lock"] is None
    mine = link.with_name("shows.conda-lock.yml")
    mine.write_text(Path(f"{first}.conda-lock.yml").read_text())
    (home.path / "bin/middle").unlink()
    (home.path / "bin/middle").symlink_to(first)
    assert shown(home, link)["lock"] == str(mine)


def test_a_lock_works_with_another_engine(home: Home, local_channel: Channel) -> None:
    """After deleting all caches, another engine makes the same packages, by URL and digest."""
    script = home.write("shows.py", SIX.replace("six]", "six <1.17]"))
    install_fakes(home.bin, "conda", "mamba", "micromamba")
    done = home.cetool("lock", script)
    assert done.returncode == 0, done.stderr
    script.write_text(script.read_text() + "# changed, and still declares the same\n")
    found = []
    for engine in ("rattler", "conda", "mamba", "micromamba"):
        done = home.cetool("run", "--locked", "--engine", engine, script)
        assert (done.returncode, done.stdout) == (0, "1.16.0\n"), done.stderr
        found.append(explicit_list(Path(shown(home, "--locked", script)["prefix"])))
        for cache in (home.cache, home.path / ".fake-engine"):
            shutil.rmtree(cache, ignore_errors=True)
    assert found[0] == found[1] == found[2] == found[3] and len(found[0]) == 2


def test_a_damaged_package_never_runs(home: Home, script: Path, local_channel: Channel, tmp_path: Path) -> None:
    """Neither the package nor its link script; and nothing is left that a later run could use."""
    copy = tmp_path / "conda-forge" / "noarch" / "postlink-1.0-0.conda"
    copy.parent.mkdir(parents=True)
    shutil.copy(local_channel.path / "noarch" / copy.name, copy)
    flip(copy, b'echo "$PKG_NAME"')
    (package,) = locked(local_channel, "postlink", url=f"{tmp_path.as_uri()}/conda-forge")
    lock_script(script, (*locked(local_channel, *PACKAGES), package), local_channel)
    done = home.cetool(script)
    assert (done.returncode, done.stdout) == (125, "")
    assert "postlink-1.0-0.conda" in done.stderr and "has a wrong digest" in done.stderr
    assert json.loads(home.cetool("list", "--json").stdout)["environments"] == []


def test_variables_are_not_locked(home: Home, local_channel: Channel) -> None:
    """They select no packages, so a lock matches any variables, and each set has its own environment."""
    text = '# /// conda-script\n# channels = ["conda-forge"]\n# entrypoint = "sh ${SCRIPT}"\n# [dependencies]\n'
    script = home.write("vars.sh", text + '# hello-bin = "*"\n# /// end-conda-script\necho here\n')
    lock_script(script, locked(local_channel, "hello-bin"), local_channel)
    done = home.cetool("run", "--locked", script)
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr


# --- not used -------------------------------------------------------------------------------------------------------


def test_a_stale_lock_warns_or_fails(home: Home, script: Path, local_channel: Channel) -> None:
    """Solved again with a warning each time; refused with --locked, with a hint; used unchanged with --frozen."""
    lock_script(script, locked(local_channel, *PACKAGES), local_channel)
    script.write_text(SH.replace("[hello-bin]", "[hello-bin, shared-lib]"))
    settle(script, home.condarc)
    for _ in range(2):
        done = home.cetool(script)
        assert (done.returncode, done.stdout) == (0, FRESH), done.stderr
        assert "shows.sh.conda-lock.yml does not match what the script declares" in done.stderr
        assert "cetool lock" in done.stderr
    for env, options in ((None, ("--locked",)), ({"CETOOL_LOCKED": "1"}, ())):
        done = home.cetool("run", *options, script, env=env)
        assert (done.returncode, done.stdout) == (125, "")
        assert "does not match" in done.stderr and "cetool lock" in done.stderr and "--frozen" in done.stderr
    for env, options in ((None, ("--frozen",)), ({"CETOOL_FROZEN": "1"}, ()), ({"CETOOL_LOCKED": "1"}, ("--frozen",))):
        done = home.cetool("run", *options, script, env=env)
        assert (done.returncode, done.stdout, done.stderr.count("warning")) == (0, LOCKED, 0), done.stderr
    done = home.cetool("run", "--no-lock", script, env={"CETOOL_LOCKED": "1"})
    assert (done.returncode, done.stdout, unconfirmed(done.stderr)) == (0, FRESH, "")


def test_locked_without_a_lock_is_an_error(home: Home, script: Path) -> None:
    for option in ("--locked", "--frozen"):
        for command in ("run", "show", "name", "path"):
            done = home.cetool(command, option, script)
            assert done.returncode == 125 and "shows.sh has no lock" in done.stderr and "cetool lock" in done.stderr
    done = home.cetool("run", "--locked", "--frozen", script)
    assert done.returncode == 2 and "cannot be used together" in done.stderr
    done = home.cetool("run", "--no-lock", "--lock-file", "x", script)
    assert done.returncode == 2


def test_a_lock_for_other_platforms_is_an_error(home: Home, script: Path, local_channel: Channel) -> None:
    path = lock_script(script, locked(local_channel, *PACKAGES), local_channel)
    path.write_text(path.read_text().replace(local_channel.subdir, "linux-ppc64le"))
    done = home.cetool(script)
    assert done.stdout == FRESH and f"has no packages for {local_channel.subdir}" in done.stderr
    for option in ("--locked", "--frozen"):
        done = home.cetool("run", option, script)
        assert done.returncode == 125 and f"--platform {local_channel.subdir}" in done.stderr


def test_options_that_add_packages_conflict_with_a_lock(home: Home, script: Path, local_channel: Channel) -> None:
    lock_script(script, locked(local_channel, *PACKAGES), local_channel)
    added = (("--with", "shared-lib"), ("--channel", local_channel.url), ("--exclude-newer", "2024-01-01"))
    for option in added:
        done = home.cetool("run", *option, script)
        assert (done.returncode, done.stdout) == (0, FRESH), done.stderr
        assert f"cannot be combined with {option[0]}" in done.stderr
        done = home.cetool("run", "--locked", *option, script)
        assert done.returncode == 125 and f"Leave {option[0]} out" in done.stderr


def test_a_broken_lock_is_an_error(home: Home, script: Path) -> None:
    """It is not ignored, since a run would not use the locked packages."""
    home.write("shows.sh.conda-lock.yml", "version: 1\nmetadata: [\n")
    done = home.cetool(script)
    assert done.returncode == 125 and "shows.sh.conda-lock.yml" in done.stderr
    assert home.cetool("run", "--no-lock", script).returncode == 0


def test_the_named_lock_file_is_used(home: Home, script: Path, local_channel: Channel) -> None:
    """Unchanged if its format does not have the request; otherwise it must match."""
    explicit = home.write(
        "shows.txt", "\n".join([f"# platform: {local_channel.subdir}", "@EXPLICIT", *lines(local_channel, *PACKAGES)])
    )
    done = home.cetool("run", "--lock-file", explicit, script)
    assert (done.returncode, done.stdout) == (0, LOCKED), done.stderr
    named = home.cetool("name", "--lock-file", explicit, script).stdout
    assert named == f"{shown(home, '--lock-file', explicit, script)['prefix']}\n"
    assert done.stderr.count("\n") <= 2
    wrong = home.write("other.sh", SH.replace("[hello-bin]", "[hello-bin, shared-lib]"))
    done = home.cetool("run", "--lock-file", explicit, wrong)
    assert done.returncode == 125 and "does not match" in done.stderr
    assert home.cetool("run", "--lock-file", explicit, "--frozen", wrong).stdout == LOCKED
    other = lock_script(script, locked(local_channel, *PACKAGES), local_channel)
    other = other.rename(home.path / "elsewhere.yml")
    assert home.cetool("run", "--lock-file", other, script).stdout == LOCKED
    assert home.cetool("run", "--lock-file", other, wrong).returncode == 125
    done = home.cetool("run", "--lock-file", home.path / "nowhere", script)
    assert done.returncode != 0 and "nowhere" in done.stderr


def test_missing_digests_are_reported(home: Home, script: Path, local_channel: Channel) -> None:
    first, second = lines(local_channel, *PACKAGES)
    explicit = home.write("l.txt", f"# platform: {local_channel.subdir}\n@EXPLICIT\n{first}\n{second.split('#')[0]}\n")
    for _ in range(2):
        done = home.cetool("run", "--lock-file", explicit, script)
        assert done.stdout == LOCKED and "no digest for activated" in done.stderr


# --- PyPI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_locked_pypi_files_are_installed(home: Home, local_channel: Channel, installer: str) -> None:
    """Exactly these files, by digest, without an index, and without adding pip to the environment."""
    from support.pypi import wheel

    path = wheel(home.path / "wheels", "ours", "1.0", "never-there")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = PypiPackage("ours", "1.0", path.as_uri(), digest)
    text = "# /// script\n# dependencies = ['ours']\n# [tool.conda]\n# dependencies = ['python']\n# ///\n"
    text += "import importlib.util as u, ours\nprint(ours.version, u.find_spec('pip'))\n"
    script = home.write("pypi.py", text)
    env = {
        "CETOOL_PIP_INSTALLER": installer,
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "UV_INDEX_URL": "http://127.0.0.1:9/",
    }
    env["UV_CACHE_DIR"] = str(home.path / "uv")
    lock_script(script, locked(local_channel, "python"), local_channel, [file._replace(sha256="0" * 64)])
    done = home.cetool("run", "--locked", script, env=env)
    assert done.returncode == 125 and "PyPI packages could not be installed" in done.stderr, done.stderr
    lock_script(script, locked(local_channel, "python"), local_channel, [file])
    done = home.cetool("run", "--locked", script, env=env)
    assert (done.returncode, done.stdout) == (0, "1.0 None\n"), done.stderr


# --- warm -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(settled: Home, request: pytest.FixtureRequest) -> Path:
    """A script in its own directory, without a lock."""
    name = "".join(char for char in request.node.name if char.isalnum())
    return settled.write(f"locks-{name}/script.sh", SH)


@warm_path
def test_the_warm_run_notices_changes_of_the_lock(settled: Home, shell: Path, local_channel: Channel) -> None:
    with_etc, without = locked(local_channel, "hello-bin", "activated"), locked(local_channel, "hello-bin")
    learn(settled, shell)
    assert is_warm(settled, shell)
    lock = lock_script(shell, without, local_channel)
    assert run_warm(settled, shell).returncode == COLD
    settle(lock)
    plain = learn(settled, shell)
    assert "conda" not in plain and is_warm(settled, shell)
    lock_script(shell, with_etc, local_channel)
    assert run_warm(settled, shell).returncode == COLD
    settle(lock)
    assert learn(settled, shell) == f"{plain}conda\n" and is_warm(settled, shell)
    # a lock of higher or lower precedence appears
    other = shell.with_name("script.sh.pixi.lock")
    other.touch()
    assert run_warm(settled, shell).returncode == COLD
    other.unlink()
    assert is_warm(settled, shell)
    lock.unlink()
    assert run_warm(settled, shell).returncode == COLD
    assert learn(settled, shell) == plain and is_warm(settled, shell)


@warm_path
def test_an_embedded_lock_is_part_of_the_script(settled: Home, shell: Path, local_channel: Channel) -> None:
    """The script changes but not its block: the warm path alone cannot know the lock."""
    request = read_metadata(read_script(shell)).requirements.digest

    def lock(*names: str) -> None:
        shell.write_text(SH)
        platform = PlatformLock(local_channel.subdir, locked(local_channel, *names), (), request)
        shell.write_bytes(embed(read_document(shell), Lock((platform,), (local_channel.url,))).data)

    plain = learn(settled, shell)
    assert is_warm(settled, shell)
    lock("hello-bin", "activated")
    assert run_warm(settled, shell).returncode == COLD
    settle(shell)
    assert learn(settled, shell) == f"{plain}conda\n" and is_warm(settled, shell)
    lock("hello-bin")
    assert run_warm(settled, shell).returncode == COLD
    settle(shell)
    assert learn(settled, shell) == plain and is_warm(settled, shell)
    shell.write_text(SH)
    assert run_warm(settled, shell).returncode == COLD


@warm_path
def test_a_run_with_a_warning_is_not_warm(settled: Home, shell: Path, local_channel: Channel) -> None:
    path = lock_script(shell, locked(local_channel, "hello-bin"), local_channel)
    shell.write_text(SH.replace("[hello-bin]", "[hello-bin, activated]"))
    settle(path)
    learn(settled, shell)
    assert run_warm(settled, shell).returncode == COLD
    # nor is a run with its own options
    shell.write_text(SH)
    settle(shell)
    for options in (("--no-lock",), ("--frozen",), ("--lock-file", path), ("--exclude-newer", "2024-01-01")):
        assert settled.cetool("run", *options, shell).returncode == 0
        assert run_warm(settled, shell).returncode == COLD


# --- as of a day ----------------------------------------------------------------------------------------------------


def test_exclude_newer_solves_for_a_day(home: Home, script: Path, server: ChannelServer) -> None:
    """The second run finds the environment without solving; a day before the first package is an error."""
    home.condarc.write_text(f"channel_alias: {server.url}\nchannels: [conda-forge]\n")
    install_fakes(home.bin, "micromamba")
    for engine in ("rattler", "micromamba"):
        server.requests.clear()
        day = "2024-01-31" if engine == "rattler" else "2024-02-01"
        for _ in range(2):
            done = home.cetool("run", "--engine", engine, "--exclude-newer", day, script)
            assert (done.returncode, done.stdout) == (0, FRESH), done.stderr
            asked, server.requests[:] = list(server.requests), []
        assert asked == []
    rows = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert sorted(row["exclude_newer"] for row in rows) == ["2024-01-31T23:59:59Z", "2024-02-01T23:59:59Z"]
    for engine in ("rattler", "micromamba"):
        done = home.cetool("run", "--engine", engine, "--exclude-newer", "2020-01-31", script)
        assert done.returncode == 125 and "2020-01-31T23:59:59Z" in done.stderr
    done = home.cetool("run", "--exclude-newer", "last week", script)
    assert done.returncode == 2
    assert home.cetool("name", "--exclude-newer", "2024-01-31", script).stdout.strip() in {
        row["prefix"] for row in rows
    }


def test_as_of_a_span_of_time(home: Home, script: Path, server: ChannelServer) -> None:
    """The span names the environment, so that the next run finds it without a solve, tomorrow as well."""
    home.condarc.write_text(f"channel_alias: {server.url}\nchannels: [conda-forge]\n")
    for span in ("7d", "1 week"):
        done = home.cetool("run", "--engine", "rattler", "--exclude-newer", span, script)
        assert (done.returncode, done.stdout) == (0, FRESH), done.stderr
        asked, server.requests[:] = list(server.requests), []
    assert asked == []
    (row,) = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert row["exclude_newer"] == "P7D"
    shown = home.cetool("show", "--exclude-newer", "P1W", script).stdout
    assert "as of:      7d before creation\n" in shown and f"{row['prefix']} (exists)" in shown
    assert home.cetool("name", "--exclude-newer", "8d", script).stdout.strip() != row["prefix"]
    # ten years ago there was nothing
    done = home.cetool("run", "--engine", "rattler", "--exclude-newer", "3650d", script)
    assert done.returncode == 125 and "(exclude-newer)" in done.stderr


@warm_path
def test_a_span_in_a_block_runs_warm(settled: Home) -> None:
    block = "# /// script\n# dependencies = []\n# [tool.conda]\n# dependencies = ['six']\n"
    block += "# [tool.pixi.workspace]\n# channels = ['conda-forge']\n# exclude-newer = '2 days'\n# ///\n"
    script = settled.write("recent.py", block + "import six\nprint(six.__name__)\n")
    settle(script)
    learn(settled, script)
    assert run_warm(settled, script).stdout == "six\n"

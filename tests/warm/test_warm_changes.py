"""Every reason for doubt leads to the cold path; a changed script with the same block stays on the warm path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import eventually, shell_script, started
from support.warm import COLD, is_warm, learn, records, run_warm, settle

from cetool import warm
from cetool.app.world import load_world
from cetool.warm import files

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is no warm path")

TEXT = shell_script("printf '%s\\n' \"$0\"")


@pytest.fixture
def script(settled: Home) -> Path:
    """A script that is warm."""
    path = settled.write("changing/script.sh", TEXT)
    learn(settled, path)
    assert is_warm(settled, path)
    return path


# --- the script -------------------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "another package": lambda data: data.replace(b"hello-bin", b"activated"),
    "one character of the block": lambda data: data.replace(b"# env: [", b"# env:  ["),
    "a comment behind the block": lambda data: data.replace(b"\n\nprintf", b"\n# more\n\nprintf"),
    "an indented comment behind it": lambda data: data.replace(b"\n\nprintf", "\n\u00a0 # more\n\nprintf".encode()),
    "a second block": lambda data: data + b"# conda execute\n# env: [six]\n",
    "a second block of another dialect": lambda data: data + b"# /// script\n# dependencies = []\n# ///\n",
    "one with odd comment characters": lambda data: data + b":/// conda-script\n:channels=[]\n:/// end-conda-script\n",
    "no block": lambda data: b"#!/bin/sh\n",
    "another shebang": lambda data: data.replace(b"#!/bin/sh", b"#!/bin/bash"),
    "no shebang": lambda data: data.partition(b"\n")[2],
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "a coding line": lambda data: data.replace(b"/sh\n", b"/sh\n# -*- coding: latin-1 -*-\n"),
    "bad UTF-8": lambda data: data + b"# \xff\n",
    "a NUL": lambda data: data + b"# \0\n",
    "CR LF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data + b"echo\r# conda execute\r",
    "nothing": lambda data: b"",
    "too long": lambda data: data + b"#" * warm.MOST_BYTES,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_relevant_change_leads_to_the_cold_path(settled: Home, script: Path, change: str) -> None:
    script.write_bytes(CHANGES[change](script.read_bytes()))
    assert run_warm(settled, script).returncode == COLD


def test_an_irrelevant_change_stays_on_the_warm_path(settled: Home, script: Path) -> None:
    (record,) = [path for path in records(settled) if os.fsencode(script) in path.read_bytes()]
    for number, old in enumerate((b"printf", b"/sh\n", b"hello-bin]\n")):
        script.write_bytes(script.read_bytes().replace(old, old + b" " * (old == b"printf") + b"\n" * number))
        script.chmod(0o755 if number else 0o600)
        before = record.read_bytes()
        done = run_warm(settled, script)
        assert (done.returncode, done.stdout) == (0, f"{script}\n"), done.stderr
        settle(script)
        assert is_warm(settled, script)
        # written again, once the file has settled
        assert record.read_bytes() != before
        before = record.read_bytes()
        assert is_warm(settled, script)
        assert record.read_bytes() == before
    os.utime(script, (1, 1))
    assert is_warm(settled, script)
    # replaced by a longer one with the same times
    settled.write("changing/new", TEXT.replace("printf", "echo other; printf"))
    os.utime(script.with_name("new"), (1, 1))
    script.with_name("new").rename(script)
    assert run_warm(settled, script).stdout == f"other\n{script}\n"


def test_a_second_change_within_a_tick_is_detected(settled: Home, script: Path) -> None:
    before = script.stat()
    script.write_text(TEXT.replace("hello-bin", "activated"))
    os.utime(script, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (script.stat().st_size, script.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert not is_warm(settled, script)


def test_a_script_written_a_moment_ago_is_not_recorded() -> None:
    """It may be written again with the same times: they have the resolution of a tick, or of a second."""
    for at, enough in ((1_700_000_000_123_000_000, files.SETTLED_NS), (1_700_000_000 * 10**9, files.SETTLED_COARSE_NS)):
        info = os.stat_result((0,) * 10, {"st_ctime_ns": at})
        assert not warm.settled_before(info, at + enough)
        assert warm.settled_before(info, at + enough + 1)
        assert not warm.settled_before(info, at - 1)


def test_a_replaced_script_is_detected(settled: Home, script: Path) -> None:
    link = script.with_name("link")
    link.unlink(missing_ok=True)
    for suffix in (".py", ".sh"):
        text = "# conda execute\n# env: [hello-bin, python >=3, numpy]\n" + ("print(1)\n" if suffix == ".py" else "\n")
        settled.write(f"changing/target{suffix}", text)
    link.symlink_to("target.py")
    settle(script.with_name("target.sh"))
    assert learn(settled, link) == "1\n"
    assert is_warm(settled, link)
    link.unlink()
    link.symlink_to("target.sh")  # the same block, run by another program
    assert not is_warm(settled, link)
    script.unlink()
    assert run_warm(settled, script).returncode == COLD
    assert settled.cetool(script).returncode == 127
    for make in (Path.mkdir, os.mkfifo):
        make(script)
        assert run_warm(settled, script).returncode == COLD
        assert settled.cetool(script).returncode in (125, 126)
        script.rmdir() if script.is_dir() else script.unlink()


# --- configuration and variables --------------------------------------------------------------------------------------


class Elsewhere:
    """Another home directory that uses the shared cache, with a script recorded there."""

    def __init__(self, home: Home, name: str, env: dict[str, str] | None = None, text: str = TEXT) -> None:
        self.home = home
        self.path = home.path / "homes" / name
        shutil.rmtree(self.path, ignore_errors=True)
        self.env = {
            "HOME": str(self.path),
            "XDG_CONFIG_HOME": str(self.path / ".config"),
            "CETOOL_ENGINE": "rattler",
            **(env or {}),
        }
        self.write(".condarc", home.condarc.read_text())
        self.script = self.write("script.sh", text)
        self.path.joinpath(".conda").mkdir()

    def write(self, name: str, text: str) -> Path:
        return self.home.write(f"{self.path}/{name}", text)

    def learn(self) -> None:
        settle(*(path for path in self.path.rglob("*") if path.is_file()))
        learn(self.home, self.script, env=self.env)
        assert self.is_warm(), "it was not learned"

    def is_warm(self, **changes: str | None) -> bool:
        return is_warm(self.home, self.script, env={**self.env, **changes})


@pytest.mark.parametrize(
    "name",
    [
        *(".condarc", ".mambarc", ".conda/.condarc", ".conda/condarc", ".config/conda/.condarc", ".mamba/mambarc"),
        *(".config/conda/condarc.d/a.yml", ".conda/condarc.d/b.yaml", "prefix/.condarc", "named.yml", "root/.condarc"),
        *(".config/cetool/config.yaml", ".config/mamba/mambarc.d/x.yml"),
    ],
)
def test_a_changed_configuration_is_detected(settled: Home, name: str) -> None:
    here = settled.path / "homes" / "configured"
    env = {"CONDA_PREFIX": str(here / "prefix"), "CONDARC": str(here / "named.yml"), "CONDA_ROOT": str(here / "root")}
    other = Elsewhere(settled, "configured", env)
    text = "offline: false\n" if name != ".condarc" else settled.condarc.read_text()
    (other.path / name).unlink(missing_ok=True)
    if name != ".condarc":
        other.learn()
    other.write(name, text)
    assert not other.is_warm()
    other.learn()
    before = (other.path / name).stat()
    other.write(name, text.replace("false", "0    "))
    os.utime(other.path / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not other.is_warm()
    if name != ".condarc":
        other.learn()
        (other.path / name).unlink()
        assert not other.is_warm()


def test_a_configuration_changed_during_a_creation_is_detected(home: Home) -> None:
    script = home.write("script.sh", shell_script("exit 0", env="bigpkg, many-files"))
    old = home.write("aside/condarc", "offline: false\n")
    settle(old, script)
    with started(home, script) as process:
        eventually(lambda: list((home.cache / "locks").glob("*.build.lock")))
        # its times do not show that it was missing when the settings were read
        old.parent.rename(home.path / ".conda")
        assert process.wait(60) == 0
    assert not is_warm(home, script)
    learn(home, script)
    assert is_warm(home, script)


@pytest.mark.parametrize("directory", [".condarc", ".config/conda/condarc.d/a.yml"])
def test_variables_in_the_configuration_are_checked(settled: Home, directory: str) -> None:
    other = Elsewhere(settled, "referring", {"WHERE": "conda-forge"})
    text = settled.condarc.read_text() if directory == ".condarc" else "channels: [conda-forge]\n"
    other.write(directory, text.replace("conda-forge", "'$" + "{WHERE}'"))
    other.learn()
    assert other.is_warm(UNRELATED="1")
    for value in ("bioconda", "", None):
        assert not other.is_warm(WHERE=value)
    # and one set by a variable
    other = Elsewhere(settled, "referring", {"WHERE": "conda-forge", "CONDA_CHANNELS": "$WHERE"})
    other.learn()
    assert not other.is_warm(WHERE="bioconda")


def test_variables_that_decide_are_checked(settled: Home) -> None:
    other = Elsewhere(settled, "variables")
    other.learn()
    for name, value in {
        "CETOOL_ENGINE": "conda",
        "CETOOL_CHANNELS": "bioconda",
        "CETOOL_ENV_DIR": f"{settled.path}/envs",
        "CONDA_CHANNELS": "bioconda",
        "CONDA_OVERRIDE_CUDA": "12",
        "CONDARC": "/nowhere",
        "CONDA_PREFIX": "/nowhere",
        "MAMBA_ROOT_PREFIX": "/nowhere",
        "MAMBARC": "/nowhere",
        "HOME": f"{settled.path}",
        "XDG_CONFIG_HOME": "/nowhere",
        "CETOOL_CACHE_DIR": f"{settled.path}/another",
        "PATH": "/usr/bin:/bin",
    }.items():
        assert not other.is_warm(**{name: value}), name
    for name in ("PATH_ELSE", "CONDA_PROMPT_MODIFIER", "CONDA_SHLVL", "_", "PWD", "LANG"):
        assert other.is_warm(**{name: "0"}), name
    # values of PATH with the same result are remembered together
    paths = (other.home.env["PATH"], "/usr/bin:/bin", "/bin:/usr/bin")
    for path in paths:
        learn(settled, other.script, env={**other.env, "PATH": path})
    assert all(other.is_warm(PATH=path) for path in paths)
    # and do not matter if the script declares channels and program
    other = Elsewhere(settled, "channels", text=TEXT.replace("# env", "# channels: [conda-forge, nodefaults]\n# env"))
    other.learn()
    assert other.is_warm(PATH="/bin")


def test_runs_that_depend_on_the_working_directory_are_not_recorded(settled: Home) -> None:
    relative = {"CETOOL_CONFIG_FILE": "cetool.yaml", "CONDARC": "my.yml", "CONDA_CHANNELS": "./channel,conda-forge"}
    for name, value in list(relative.items())[:2]:
        other = Elsewhere(settled, "relative", {name: value})
        learn(settled, other.script, env=other.env)
        assert not other.is_warm(), name
    session = Elsewhere(settled, "relative", {"CONDA_CHANNELS": relative["CONDA_CHANNELS"]})
    # making that one needs the directory; recording it does not
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update({**settled.env, **session.env})
    try:
        world = load_world()
        assert world.is_plain() and world.evidence.lasts and world.default_channels
        assert not world.on_channels.lasts
    finally:
        os.environ.clear()
        os.environ.update(before)
    settled.write("tools/run", '#!/bin/sh\nexec sh "$@"\n', executable=True)
    settled.write("changing/tools/run", "#!/bin/sh\necho another\n", executable=True)
    text = "# conda execute\n# env: [hello-bin]\n# run_with: tools/run\necho one\n"
    script = settled.write("changing/with.sh", text)
    assert learn(settled, script) == "one\n"
    assert settled.cetool(script, cwd=script.parent).stdout == "another\n"


def test_a_program_on_the_path_is_checked(settled: Home) -> None:
    text = TEXT.replace("# env", "# run_with: sh -e\n# channels: [conda-forge, nodefaults]\n# env")
    other = Elsewhere(settled, "path", {"PATH": f"{settled.path}/homes/path/bin:/usr/bin:/bin"}, text=text)
    other.learn()
    assert not other.is_warm(PATH="/usr/bin:/bin")
    other.learn()
    other.write("bin/sh", "#!/bin/sh\necho mine\n").chmod(0o755)
    assert not other.is_warm()
    assert learn(settled, other.script, env=other.env) == "mine\n"


# --- the environment --------------------------------------------------------------------------------------------------


def test_changes_of_the_environment_are_detected(home: Home) -> None:
    script = home.write("script.sh", shell_script("hello", env="hello-bin, activated"))

    def learned() -> Path:
        prefix = learn(home, script).split()[-1]
        if not is_warm(home, script):
            learn(home, script)
        assert is_warm(home, script)
        return Path(prefix)

    prefix = learned()
    home.cetool("remove", script)
    assert not is_warm(home, script)
    prefix = learned()
    (prefix / "conda-meta/cetool").rename(prefix / "marker")
    assert not is_warm(home, script)
    (prefix / "marker").rename(prefix / "conda-meta/cetool")
    prefix = learned()
    lock = home.cache / "locks" / f"{prefix.name}.lock"
    lock.unlink()
    assert not is_warm(home, script)
    lock.symlink_to("/dev/null")
    assert not is_warm(home, script)
    lock.unlink()
    os.mkfifo(lock)
    assert not is_warm(home, script)
    lock.unlink()
    lock.touch()
    os.link(lock, f"{lock}.2")
    assert not is_warm(home, script)
    Path(f"{lock}.2").unlink()
    assert is_warm(home, script)
    for directory in (home.cache / "envs", home.cache, home.path):
        mode = directory.stat().st_mode
        directory.chmod(0o777)  # another user's file there would run as this user
        assert not is_warm(home, script)
        directory.chmod(mode)
    assert is_warm(home, script)
    shutil.copytree(home.cache / "envs", home.cache / "copied", symlinks=True)
    (home.cache / "envs").rename(home.cache / "aside")
    (home.cache / "copied").rename(home.cache / "envs")
    assert not is_warm(home, script)


def test_a_missing_program_of_the_environment_is_detected(home: Home) -> None:
    text = "# conda execute\n# env: [hello-bin, activated]\n# run_with: hello\n"
    script = home.write("script.sh", text)
    prefix = Path(learn(home, script).splitlines()[0].split()[-1])
    learn(home, script)
    assert is_warm(home, script)
    (prefix / "bin" / "hello").unlink()
    assert not is_warm(home, script)


def test_a_refreshed_environment_is_used_by_the_next_run(home: Home) -> None:
    script = home.write("script.sh", shell_script("hello; read line; hello"))
    learn(home, script)
    learn(home, script)
    with started(home, script, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        old = process.stdout.readline()
        done = home.cetool("run", "--refresh", script)
        assert done.returncode == 0 and done.stdout != old * 2
        assert run_warm(home, script).stdout == done.stdout
        assert process.communicate("\n")[0] == old

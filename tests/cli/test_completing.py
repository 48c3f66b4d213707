"""Completion in bash, zsh and fish: what real shells offer after it was installed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.terminal import converse

from cetool.store.keyed import Trusted, TrustStore

CONFIG = ["list", "get", "set", "unset", "path"]
SHELLS = ("bash", "zsh", "fish")
DIGEST = "0123456789abcdef" * 4
SCRIPT = "# conda execute\n# env: [activated]\n# run_with: sh\necho\n"


@pytest.fixture(scope="module")
def known(local_channel: Channel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with completion, an environment, an overlay, a kernel and a trusted script."""
    home = make_home(tmp_path_factory.mktemp("known") / "home", local_channel)
    script = home.write("script.sh", SCRIPT)
    assert home.cetool("create", "python", "six").returncode == 0
    base = home.cetool("name", "python", "six").stdout.strip()
    assert home.cetool("overlay", "create", "newer", "--base", base, "idna").returncode == 0
    assert home.cetool("kernel", "install", script, "--name", "arrays", "--language", "bash").returncode == 0
    answers = TrustStore(Path(home.env["XDG_DATA_HOME"]) / "cetool" / "trust")
    answers.add(Trusted(DIGEST, "https://example.org/script.sh", 0.0, "--yes"))
    (home.path / ".conda" / "envs" / "laboratory" / "conda-meta").mkdir(parents=True)
    home.write(".zshrc", "PROMPT='ready> '\n")
    for shell in SHELLS:
        assert home.cetool("--install-completion", shell).returncode == 0
    yield home
    remove_home(home)


def complete(home: Home, line: str, shell: str = "bash") -> list[str]:
    """Return what a shell offers for the last word of a line."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    program, *words = line.split(" ")
    if shell == "fish":
        done = home.run("fish", "-c", f"complete -C {shlex.quote(line)}")
    else:
        function = f"_{program.replace('-', '_')}_completion"
        code = f"""\
            source ~/.bash_completions/{program}.sh
            COMP_WORDS=({program} {" ".join(map(shlex.quote, words))})
            COMP_CWORD={len(words)}
            {function} {program}
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = home.run("bash", "-c", code)
    assert done.returncode == 0, done.stderr
    return [text.split("\t")[0] for text in done.stdout.split("\n") if text]


def environment(home: Home) -> str:
    """The name of the home's environment."""
    (name,) = os.listdir(home.cache / "envs")
    return name


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cetool ru", ["run"]),
        ("cetool help ru", ["run"]),
        ("cetool config ", CONFIG),
        ("cetool run --engine m", ["mamba", "micromamba"]),
        ("cetool script.sh --off", ["--offline"]),
        ("cetool -v script.sh --off", ["--offline"]),
        ("cetool convert --to pep", ["pep723"]),
        ("cetool init --dialect conda-s", ["conda-script"]),
        ("cetool lock --platform osx-", ["osx-64", "osx-arm64"]),
        ("cetool lock --format pix", ["pixi"]),
        ("cetool config set max", ["max-size"]),
        ("cetool config set engine mi", ["micromamba"]),
        ("cetool config set offline ", ["true", "false"]),
        ("cetool config get pip-", ["pip-installer"]),
        ("cetool overlay show n", ["newer"]),
        ("cetool overlay remove n", ["newer"]),
        ("cetool kernel remove a", ["arrays"]),
        ("cetool run --base la", ["laboratory"]),
        ("cex --offl", ["--offline"]),
        ("cex --engine ra", ["rattler"]),
        ("conda-execute --ver", ["--verbose"]),
    ],
)
def test_shells_complete_commands_options_and_values(known: Home, shell: str, line: str, offered: list[str]) -> None:
    assert sorted(complete(known, line, shell)) == sorted(offered)


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    "command", ["remove", "verify", "export", "baseline create", "list", "tree", "show", "path", "shell"]
)
def test_shells_complete_names_of_environments(known: Home, shell: str, command: str) -> None:
    name = environment(known)
    assert complete(known, f"cetool {command} {name[:3]}", shell) == [name]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_shells_complete_digests_of_trusted_scripts(known: Home, shell: str) -> None:
    assert complete(known, "cetool trust forget 012", shell) == [DIGEST[:16]]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_shells_complete_files_where_no_value_is_known(known: Home, shell: str) -> None:
    found = complete(known, "cetool show scr", shell)
    assert found == (["script.sh"] if shell == "fish" else [])  # bash itself adds files: `complete -o default`
    assert complete(known, "cetool run --engine nonsense", shell) == []


def test_zsh_completes_on_tab(known: Home) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh")
    typed = "cetool help conver\t\ncetool config get pip-\t\ncex --engine microm\t --help\nexit\n"
    _, shown = converse(
        known, ["zsh", "-i"], typed.split("\n")[:-1], prompt="ready> ", env={"TERM": "vt100", "NO_COLOR": "1"}
    )
    assert "Usage: cetool convert" in shown
    assert "\nauto\n" in shown.replace("\r", "")  # the value of pip-installer
    assert "Usage: cex" in shown
    assert "micromamba" in shown


def test_completion_offers_nothing_where_settings_are_wrong(home: Home) -> None:
    home.write(".config/cetool/config.yaml", "no-such-key: 1\n")
    env = {"_CETOOL_COMPLETE": "complete_bash", "COMP_WORDS": "cetool remove a", "COMP_CWORD": "2"}
    done = home.run("cetool", env=env)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_installing_completion_says_so_in_one_line_and_prints_nothing(home: Home) -> None:
    for shell in SHELLS:
        done = home.cetool("--install-completion", shell)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "", 1)
        assert f"Installed {shell} completion" in done.stderr
        done = home.cetool("--show-completion", shell)
        assert (done.returncode, done.stderr) == (0, "") and "_CETOOL_COMPLETE" in done.stdout
    done = home.cetool("--install-completion", "csh")
    assert (done.returncode, "does not support the shell 'csh'" in done.stderr) == (2, True)


def test_the_shell_of_completion_is_known_without_a_parent_that_is_one(home: Home) -> None:
    # under nohup or cron no parent process is a shell
    orphan = (
        "import os, sys, time\nparent = os.getpid()\nif os.fork(): os._exit(0)\n"
        "while os.getppid() == parent: time.sleep(0.01)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'cetool', '--show-completion'])"
    )
    done = home.run(sys.executable, "-c", orphan, env={"SHELL": "/usr/bin/zsh"})
    assert "#compdef cetool" in done.stdout, done.stderr

"""``cetool shell``: each shell on a terminal and on a pipe, robust against users' own files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import environments, eventually, shell_script, started, told, unconfirmed
from support.terminal import converse

SCRIPT = shell_script("", env="activated, hello-bin, python", more='# variables: {GREETING: "it\'s $HOME"}')
#: Lines in a user's start-up file that conflict with an environment.
RC = """\
export PATH="$HOME/mine:$PATH"
export GREETING=mine
export CONDA_PREFIX=/opt/base CONDA_SHLVL=1 CONDA_PROMPT_MODIFIER='(base) '
export VIRTUAL_ENV=/opt/venv
PATH="/opt/base/bin:/opt/venv/bin:$PATH"
greet() { echo "$GREETING, greeted"; }
"""
FISH_RC = """\
set -gx PATH /opt/base/bin /opt/venv/bin $HOME/mine $PATH
set -gx GREETING mine
set -gx CONDA_PREFIX /opt/base
set -gx CONDA_PROMPT_MODIFIER '(base) '
set -gx VIRTUAL_ENV /opt/venv
function greet; echo "$GREETING, greeted"; end
"""
#: The user's start-up file of each shell.
SHELLS = {"bash": ".bashrc", "sh": "my shrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}
ASKED = [
    "env -0 > told",
    "greet > greeted",
    "command -v hello > found",
    "hello > said",
    "exit 7",
]


def _shell(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"there is no {name}")


@pytest.mark.parametrize("name", SHELLS)
def test_shells_work_on_a_terminal(home: Home, name: str) -> None:
    home.write(SHELLS[name], FISH_RC if name == "fish" else RC)
    home.write(".zshenv", "export FROM_ZSHENV=1\n")
    script = home.write("my scrîpt $(touch bad)`.sh", SCRIPT)
    env: dict[str, str | None] = {"SHELL": _shell(name), "ENV": "$HOME/my shrc", "CONDA_PREFIX": "/opt/outer"}
    env |= {"PATH": f"/opt/outer/bin:{home.env['PATH']}", "TERM": "xterm"}
    status, shown = converse(home, ["cetool", "shell", script.name], ASKED, prompt="(cetool:my_scr", env=env)
    assert status == 7, shown
    assert "(cetool:my_scr_pt_touch_bad_.sh) " in shown and not (home.path / "bad").exists()
    prefix = home.cetool("name", script.name).stdout.strip()
    told = dict(entry.partition("=")[::2] for entry in (home.path / "told").read_text().split("\0"))
    assert told["PATH"].split(":")[:2] == [f"{prefix}/bin", f"{home.path}/mine"]
    assert not re.search(f"/opt|{prefix}.*{prefix}", told["PATH"])
    wanted = {"CONDA_PREFIX": prefix, "ACTIVATED": "yes", "ACTIVATED_PREFIX": prefix, "GREETING": "it's $HOME"}
    assert wanted.items() <= told.items() and told["CONDA_SHLVL"] == "1"
    gone = {"VIRTUAL_ENV", "CONDA_PROMPT_MODIFIER", "ZDOTDIR", "BASH_ENV"}
    assert not gone & told.keys() and told["ENV"] == "$HOME/my shrc"
    assert (home.path / "greeted").read_text() == "it's $HOME, greeted\n"
    assert (home.path / "found").read_text() == f"{prefix}/bin/hello\n"
    assert (home.path / "said").read_text().startswith("hello from ")
    assert ("FROM_ZSHENV" in told) is (name == "zsh")


def test_a_dynamic_prompt_keeps_the_hint(home: Home) -> None:
    home.write(".bashrc", "PROMPT_COMMAND='PS1=\"dynamic> \"'\nset -u\n")
    words = ["cetool", "shell", "--spec", "hello-bin", "--spec", "six"]
    lines = ["true", "bash -c 'exit 3'", "echo $? > told", "exit"]
    env = {"SHELL": _shell("bash")}
    status, shown = converse(home, words, lines, prompt="(cetool:hello-bin,six) dynamic> ", env=env)
    assert status == 0 and shown.count("(cetool:hello-bin,six) dynamic> ") >= 4, shown
    assert (home.path / "told").read_text() == "3\n" and "unbound" not in shown


def test_zsh_reads_files_from_another_directory(home: Home) -> None:
    home.write(".zshenv", "export ZDOTDIR=$HOME/zsh\n")
    home.write("zsh/.zshrc", f"{RC}HISTFILE=${{ZDOTDIR:-$HOME}}/history\n")
    words = ["cetool", "shell", "--spec", "hello-bin"]
    lines = ['print -r -- "$ZDOTDIR $HISTFILE $path[1]" > told', "exit"]
    env = {"SHELL": _shell("zsh"), "TERM": "xterm"}
    status, shown = converse(home, words, lines, prompt="(cetool:hello-bin)", env=env)
    assert status == 0, shown
    prefix = home.cetool("name", "hello-bin").stdout.strip()
    assert (home.path / "told").read_text() == f"{home.path}/zsh {home.path}/zsh/history {prefix}/bin\n"


@pytest.mark.parametrize("name", SHELLS)
def test_shells_work_on_a_pipe(settled: Home, name: str) -> None:
    script = settled.write(f"pipes/{name}.sh", SCRIPT)
    path = {"fish": "(string join : $PATH)"}.get(name, "$PATH")
    lines = f'echo {path} "$GREETING" $ACTIVATED\nhello\n'
    env = {"SHELL": _shell(name), "BASH_ENV": str(settled.write("pipes/env", RC.replace("greet()", "greet ()")))}
    done = settled.cetool("shell", script, input=lines, env=env)
    prefix = settled.cetool("name", script).stdout.strip()
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{prefix}/bin:") and first.endswith(" it's $HOME yes") and "/opt" not in first
    assert (f"{settled.path}/mine" in first) is (name == "bash")
    assert second == f"hello from {prefix}" and (done.returncode, unconfirmed(done.stderr)) == (0, "")
    done = settled.cetool("shell", "--spec", "hello-bin", input="exit 5\n", env=env)
    assert (done.returncode, done.stdout) == (5, "")


def test_the_shell_is_the_users(settled: Home) -> None:
    for named in (None, "", "/bin/nonesuch", "bash", "/usr/bin/env", str(settled.path)):
        done = settled.cetool("shell", "--spec", "hello-bin", input="echo $0; hello\n", env={"SHELL": named})
        assert re.fullmatch(r"\S*/sh\nhello from .*\n", done.stdout), (named, done)
    fake = settled.write("a shell/bash", '#!/bin/sh\necho "fake $#"\n', executable=True)
    assert settled.cetool("shell", "--spec", "hello-bin", env={"SHELL": str(fake)}).stdout == "fake 0\n"


def test_the_environment_is_in_use_while_the_shell_lives(home: Home) -> None:
    script = home.write("script.sh", SCRIPT)
    env = {"SHELL": _shell("bash"), "BASH_ENV": str(home.write("env", RC))}
    with started(home, "shell", script, env=env, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("echo $$\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{process.pid}\n"
        (listed,) = json.loads(home.cetool("list", "--json").stdout)["environments"]
        assert listed["running"] == [process.pid]
        assert "in use" in home.cetool("gc", "--all").stderr
        assert list((home.cache / "scripts" / "cache").glob("*/*"))
        process.communicate("exit 3\n")
        assert process.returncode == 3
    # its start-up file is collected like kept scripts
    assert eventually(lambda: home.cetool("gc", "--all").returncode == 0 and not environments(home))
    assert list((home.cache / "scripts" / "cache").glob("*/*")) == []


def test_a_python_script_gets_a_repl(home: Home) -> None:
    script = home.write(
        "script.py", "# conda execute\n# env: [python, six, activated]\nraise SystemExit('never run')\n"
    )
    code = "import six, os\nprint(six.__name__, os.environ['ACTIVATED'])\n"
    done = home.cetool("shell", "--repl", script, input=code)
    assert (done.returncode, done.stdout, unconfirmed(done.stderr)) == (0, "six yes\n", "")
    status, shown = converse(
        home, ["cetool", "shell", "--repl", script], [*code.splitlines(), "exit(4)"], prompt=">>> "
    )
    assert status == 4 and "\nsix yes\n" in shown.replace("\r", ""), shown
    prefix = Path(home.cetool("path", script).stdout.strip())
    (prefix / "bin/ipython").write_text("#!/bin/sh\necho this is ipython\n")
    (prefix / "bin/ipython").chmod(0o755)
    status, shown = converse(home, ["cetool", "shell", script, "--repl"], [], prompt="none")
    assert (status, shown) == (0, "this is ipython\n")
    assert home.cetool("shell", "--repl", script, input="print(1)").stdout == "1\n"
    done = home.cetool("shell", "--repl", "--spec", "hello-bin")
    assert done.returncode == 127 and "there is no python" in told(done.stderr)[0]


def test_errors_open_no_shell(settled: Home) -> None:
    script = settled.write("wrong/none.sh", "echo\n")
    file = settled.write("wrong/environment.yml", "dependencies: [hello-bin]\n")
    for command in ("shell", "path"):
        for words, status, text in (
            ([], 2, "no script was given"),
            ([script, "--spec", "six"], 2, "a script and --spec cannot be used together"),
            (["--env-file", file, "--spec", "six"], 2, "cannot be used together"),
            ([script], 125, "declares no environment"),
            (["missing.py"], 127, "missing.py"),
            ([settled.path], 126, str(settled.path)),
            (["--spec", "a b c d"], 125, "is not a match spec"),
            ([script, "another"], 2, "another"),
        ):
            done = settled.cetool(command, *words)
            assert (done.returncode, done.stdout) == (status, ""), (command, words, done.stderr)
            assert text in done.stderr and "Traceback" not in done.stderr
        done = settled.cetool(command, "-v", "--env-file", file, script, input="hello\n")
        assert done.returncode == 0, done.stderr
        done = settled.cetool(command, "--env-file", file, "--with", "activated", input="echo $ACTIVATED\n")
        assert done.returncode == 0, done.stderr

"""Which program runs a script: never one that would read another language's text."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import shell_script, told
from support.warm import is_warm, learn

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shebangs and /bin/sh are POSIX's")

#: A Python script whose text a shell would execute: the quotes do not protect the backquotes.
PYTHON = '"""Removes files: `touch executed`."""\nprint("run")\n'
DECLARED = "# conda execute\n# env: [{}]\n\n"


def script(env: str, text: str = PYTHON, shebang: str = "#!/usr/bin/env cetool\n") -> str:
    return shebang + DECLARED.format(env) + text


@pytest.mark.parametrize("name", ["clean-up", "x.c", "x.cpp", "x.rs", "x.f90", "x.ts", "x.Rmd", "x.txt", "x.v1.2"])
def test_sh_never_gets_a_text_not_declared_as_shell(settled: Home, name: str) -> None:
    path = settled.write(f"program/{name}", script("hello-bin"), executable=True)
    for done in (settled.cetool("run", path, cwd=path.parent), settled.run(path, cwd=path.parent)):
        assert done.returncode == 125
        assert "run_with" in done.stderr and "include no interpreter" in told(done.stderr)[0]
    path.write_text(script("python, numpy"))
    done = settled.run(path, cwd=path.parent)
    assert (done.returncode, done.stdout) == (0, "run\n"), done.stderr
    assert not (path.parent / "executed").exists()


def test_two_interpreters_among_the_packages_are_an_error(settled: Home) -> None:
    done = settled.cetool(settled.write("program/both", script("python, nodejs")))
    assert done.returncode == 125 and "several interpreters (python, nodejs)" in done.stderr


def test_conda_execute_uses_the_shell_unless_the_text_is_clearly_not_shell(settled: Home) -> None:
    """conda-execute: run_with."""
    shell = settled.write("program/by-sh", script("python, numpy", 'echo "$0 $#"\n'), executable=True)
    for line in ("conda-execute", "cetool"):
        text = script("python, numpy", 'echo "sh $#"\n', f"#!/usr/bin/env {line}\n")
        shell.write_text(text)
        done = settled.run("conda-execute", shell, "x")
        assert (done.returncode, done.stdout) == (0, "sh 1\n"), done.stderr
    # what one of the two executables records does not affect the other
    again = settled.write("program/again", script("python, numpy", "nonesuch = 1\n", "#!/usr/bin/env cetool\n"))
    learn(settled, again)
    done = settled.run("conda-execute", again)
    assert done.returncode == 127 and "nonesuch" in done.stderr
    assert learn(settled, again) == ""
    assert is_warm(settled, again)
    clear = settled.write("program/clear", script("python, numpy"), executable=True)
    done = settled.run("conda-execute", clear, cwd=clear.parent)
    assert done.returncode == 125 and "it looks like Python, which /bin/sh cannot run" in done.stderr
    assert not (clear.parent / "executed").exists()


def test_lines_and_standard_input_use_the_shell_unless_they_declare_an_interpreter(settled: Home) -> None:
    done = settled.cetool("run", "-", input=script("hello-bin", "hello | cut -c 1-5\n"))
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    done = settled.cetool("run", "-c", *script("python, numpy").splitlines())
    assert (done.returncode, done.stdout) == (0, "run\n"), done.stderr
    done = settled.cetool("run", "-", input=script("hello-bin"))
    assert done.returncode == 125 and "it looks like Python" in done.stderr


def test_commands_that_do_not_run_the_script_need_no_program(settled: Home) -> None:
    path = settled.write("program/data.txt", script("hello-bin", "text\n", ""))
    for words in (("show", path), ("name", "hello-bin"), ("path", path), ("show", "--json", path)):
        done = settled.cetool(*words)
        assert done.returncode == 0, done.stderr
    assert "run_with:   none: its packages include no interpreter" in settled.cetool("show", path).stdout


# --- missing programs -------------------------------------------------------------------------------------------------


def test_a_guessed_interpreter_that_the_environment_lacks_is_an_error(settled: Home) -> None:
    settled.write("bin/julia", "#!/bin/sh\necho the machine\n", executable=True)
    for name, package in (("guess.py", "python"), ("guess.jl", "julia")):
        path = settled.write(f"program/{name}", script("hello-bin", 'print("run")\n', ""))
        done = settled.cetool("run", path, env={"PATH": f"{Path(sys.executable).parent}:{settled.env['PATH']}"})
        assert (done.returncode, done.stdout) == (127, "")
        assert f"Add '{package}'" in done.stderr


def test_a_shebangs_interpreter_missing_from_the_environment_is_a_warning(settled: Home) -> None:
    settled.write("bin/julia", "#!/bin/sh\necho the machine\n", executable=True)
    path = settled.write("program/named", script("hello-bin", "x\n", "#!/usr/bin/env julia\n"))
    for _ in range(2):
        done = settled.cetool("run", path)
        assert (done.returncode, done.stdout) == (0, "the machine\n")
        assert "its environment lacks" in done.stderr and "'julia'" in done.stderr


# --- launchers, recursion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["/usr/bin/env ce", "/usr/bin/env -S uv run --script", "/opt/x/pipx.exe run", "/usr/bin/env -S A=1 rye run"]
)
def test_launchers_do_not_run_a_pep723_script_outside_its_environment(settled: Home, line: str) -> None:
    for name in ("ce", "uv", "rye"):
        settled.write(f"launchers/{name}", "#!/bin/sh\necho left\n", executable=True)
    text = f"#!{line}\n# /// script\n# ///\nimport sys; print(sys.prefix)\n"
    text = text.replace("# ///\n", '# [tool.conda]\n# dependencies = ["numpy"]\n# ///\n')
    path = settled.write("program/pep723", text)
    done = settled.cetool(path, env={"PATH": f"{settled.path}/launchers:{settled.env['PATH']}"})
    assert done.returncode == 0 and done.stdout.startswith(f"{settled.cache}/envs/"), done.stderr


def test_a_script_whose_program_is_cetool_is_an_error(settled: Home) -> None:
    own = "#!/usr/bin/env cetool\n"
    block = (
        "# /// conda-script\n# channels = ['conda-forge']\n# entrypoint = '{}'\n# [dependencies]\n# hello-bin = '*'\n"
    )
    scripts = {
        "direct": script("hello-bin]\n# run_with: [cetool", ""),
        "run": script("hello-bin]\n# run_with: [cetool, run", ""),
        "itself": own + block.format('"${SCRIPT}"') + "# /// end-conda-script\n",
        "env": script("hello-bin]\n# run_with: [/usr/bin/env, A=1, cetool", ""),
        "shell": script('hello-bin]\n# run_with: [sh, -c, "exec cetool $0"', ""),
    }
    for name, text in scripts.items():
        done = settled.cetool(settled.write(f"program/{name}", text, executable=True))
        assert done.returncode == 125, (name, done.stderr)
        assert re.search("by cetool.*nested|cetool.*would never end", told(done.stderr)[0]), done.stderr


def test_scripts_can_run_each_other_up_to_a_limit(settled: Home) -> None:
    text = shell_script('test "$1" = 0 || exec cetool run "$0" $(($1 - 1))\necho end', env="hello-bin")
    path = settled.write("program/nested.sh", text)
    done = settled.cetool("run", path, "12")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    done = settled.cetool("run", path, "12", env={"CETOOL_RUN_MAX_RECURSION_DEPTH": "5"})
    assert done.returncode == 125 and "5 runs are nested" in told(done.stderr)[0]


# --- influences from outside ------------------------------------------------------------------------------------------


def test_a_script_imports_nothing_from_the_users_site(home: Home) -> None:
    home.write(str(home.user_site / "in_user_site.py"), "")
    text = (
        "import importlib.util as u, os\n"
        'print(u.find_spec("in_user_site") is None, os.environ.get("PYTHONPATH"), os.environ.get("PYTHONNOUSERSITE"))\n'
    )
    path = home.write("program/site.py", script("python, numpy", text))
    for _ in range(2):  # cold, warm
        assert learn(home, path, env={"PYTHONPATH": "/a:/b"}) == "True /a:/b 1\n"
    assert learn(home, "run", "--no-activate", path).startswith("True")
    assert learn(home, path, env={"CETOOL_USER_SITE": "true"}) == "False None None\n"
    own = home.write("program/own.py", script("python, numpy]\n# variables: {PYTHONNOUSERSITE: ''}\n# x: [", text))
    own.write_text(own.read_text().replace("# x: []\n", ""))
    assert learn(home, own).startswith("False")
    code = "import importlib.util as u; print(u.find_spec('in_user_site') is None)"
    assert learn(home, "exec", "--spec", "python", "python", "-c", code) == "True\n"

"""``cetool run``: what a script prints, gets and leaves behind, through the real command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.channel import Channel
from support.home import Home
from support.scripts import (
    FIVE_NUMBERS,
    SEEDS,
    SEEDS_NAME,
    environments,
    eventually,
    held_locks,
    shell_script,
    started,
    told,
    unconfirmed,
)

#: Prints its arguments, with a NUL after each.
ECHO = shell_script("printf '%s\\0' \"$@\"")
#: Prints its variables, with a NUL after each.
VARIABLES = shell_script("exec env -0", env="activated")

# the seed's script in other dialects, another order and other words
SAME_NEEDS = {
    "order.py": '# conda execute\n# env: [numpy, "Python>=3", numpy]\nimport numpy; print(numpy.zeros(5, dtype=int))\n',
    "pep723.py": (
        "# /// script\n# [tool.conda]\n# dependencies = ['numpy', 'python >=3']\n# ///\n"
        "import numpy; print(numpy.zeros(5, dtype=int))\n"
    ),
    "pixi.py": (
        "# /// script\n# requires-python = '>=3'\n# [tool.pixi.dependencies]\n# numpy = '*'\n# ///\n"
        "import numpy; print(numpy.zeros(5, dtype=int))\n"
    ),
    "conda_script.py": (
        "# /// conda-script\n# channels = ['conda-forge']\n# entrypoint = 'python ${SCRIPT}'\n# [dependencies]\n"
        "# python = '>=3'\n# numpy = '*'\n# /// end-conda-script\nimport numpy; print(numpy.zeros(5, dtype=int))\n"
    ),
}


def variables(text: str) -> dict[str, str]:
    """Return what ``env -0`` printed."""
    return dict(entry.partition("=")[::2] for entry in text.split("\0") if entry)


def test_the_seeds_script_prints_five_numbers(settled: Home) -> None:
    script = settled.write("seeds/my_script.py", SEEDS)
    done = settled.cetool("run", script)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(FIVE_NUMBERS, done.stdout)
    assert SEEDS_NAME in environments(settled)


def test_the_same_requirements_share_an_environment(settled: Home) -> None:
    settled.cetool("run", settled.write("my_script.py", SEEDS))
    before = environments(settled)
    for name, text in SAME_NEEDS.items():
        done = settled.cetool("-v", settled.write(f"elsewhere/{name}", text))
        assert (done.returncode, done.stdout) == (0, "[0 0 0 0 0]\n"), done.stderr
        assert f"/{SEEDS_NAME}\n" in done.stderr
        assert "Created" not in done.stderr
    assert environments(settled) == before


def test_verbose_output_has_the_seeds_form_on_standard_error(home: Home) -> None:
    script = home.write("my_script.py", SEEDS)
    form = (
        "Using specification: \nenv: [python >=3, numpy]\nrun_with: [/usr/bin/env, python]\n\n"
        f"Prefix: {home.cache}/envs/{SEEDS_NAME}\n\n"
    )
    first, second = home.cetool("run", "-v", script), home.cetool("run", "--verbose", script)
    for done in (first, second):
        assert re.fullmatch(FIVE_NUMBERS, done.stdout), done.stderr
    assert first.stderr.startswith(form)
    assert re.search(
        rf"^Created {SEEDS_NAME} \(python, numpy; 2 packages, \d+ MB\) in \d+\.\ds with rattler$",
        first.stderr,
        re.MULTILINE,
    )
    assert second.stderr == form


@pytest.mark.parametrize("flags", [(), ("-q",), ("--quiet",)])
def test_a_success_is_silent_without_a_terminal(home: Home, flags: tuple[str, ...]) -> None:
    done = home.cetool("run", *flags, home.write("echo.sh", ECHO), "argument")
    assert (done.returncode, done.stdout, unconfirmed(done.stderr)) == (0, "argument\0", "")


def test_verbose_output_shows_the_whole_declaration(settled: Home) -> None:
    more = "# channels: [conda-forge]\n# variables: {GREETING: hello, EMPTY: ''}"
    script = settled.write("declares.sh", shell_script('echo "$GREETING<$EMPTY>"', more=more))
    done = settled.cetool("run", "-v", "--with", "six >=1,<2", script)
    assert done.stdout == "hello<>\n"
    assert done.stderr.startswith(
        "Using specification: \nchannels: [conda-forge]\nenv: [hello-bin, 'six >=1,<2']\n"
        "variables: [GREETING=hello, EMPTY=]\nrun_with: [/bin/sh]\n\nPrefix: "
    )


def named(home: Home, *args: str, env: dict[str, str | None] | None = None) -> str:
    """Return the name that ``cetool name`` prints."""
    done = home.cetool("name", "--json", *args, env=env)
    assert done.returncode == 0, done.stderr
    name = json.loads(done.stdout)["name"]
    assert isinstance(name, str)
    return name


def test_an_environment_is_named_after_its_specification(settled: Home, channel: Path) -> None:
    """conda-execute: names."""

    def script(name: str, specification: str) -> str:
        lines = "".join(f"# {line}\n" for line in ("conda execute", *specification.split("\n")))
        return named(settled, str(settled.write(f"named/{name}", lines)))

    plain = "env: [python >=3, numpy]"
    assert script("a.py", plain) == script("b/c.R", "env:\n - numpy\n - python>=3\nchannels: [conda-forge]")
    assert script("run.py", plain + "\nrun_with: python -u") == SEEDS_NAME
    other = [
        script("channels.py", plain + "\nchannels: [bioconda, nodefaults]"),
        script("order.py", plain + "\nchannels: [bioconda, conda-forge]"),
        script("reverse.py", plain + "\nchannels: [conda-forge, bioconda]"),
        script("pip.py", "env: [python >=3, numpy, {pip: [six]}]"),
        script("pinned.py", "env: [python >=3, numpy, {pip: [six ==1.16]}]"),
        script("variables.py", plain + "\nvariables: {A: b}"),
        script("value.py", plain + "\nvariables: {A: c}"),
        script("version.py", "env: [python >=3.1, numpy]"),
        named(settled, "numpy", "python >=3", env={"CONDA_OVERRIDE_CUDA": "12.4"}),
        named(settled, "numpy", "python >=3", env={"CETOOL_CHANNELS": "bioconda"}),
        named(settled, "numpy", "python >=3", "--channel", str(channel / "conda-forge")),
        SEEDS_NAME,
    ]
    # the same channel from a variable and from the script is the same request
    assert other[0] == other[9]
    assert len(set(other)) == len(other) - 1


@pytest.mark.parametrize("status", [0, 1, 7, 125, 255])
def test_the_exit_status_is_the_scripts(settled: Home, status: int) -> None:
    done = settled.cetool("run", settled.write(f"exit{status}.sh", shell_script(f"exit {status}")))
    assert (done.returncode, unconfirmed(done.stderr)) == (status, "")


@pytest.mark.parametrize("name", ["TERM", "KILL", "INT"])
def test_a_signal_that_ends_the_script_ends_cetool(settled: Home, name: str) -> None:
    done = settled.cetool("run", settled.write(f"die{name}.sh", shell_script(f"kill -{name} $$; sleep 10")))
    assert done.returncode == -getattr(signal, f"SIG{name}")


@pytest.mark.parametrize("how", [("run",), ()])
def test_arguments_after_the_script_are_the_scripts(settled: Home, how: tuple[str, ...]) -> None:
    script = os.fsencode(settled.write("echo.sh", ECHO))
    words = [
        "--help",
        "-v",
        "--",
        "",
        "-c",
        "--version",
        "a  b",
        "ünï→🐍",
        "two\nlines",
        "$HOME `id` 'q' \"q\" \\",
        "*",
    ]
    given = [*(word.encode() for word in words), b"not \xff utf-8", b"run"]
    command: list[str | bytes] = [sys.executable, "-m", "cetool", *how, script, *given]
    done = subprocess.run(command, env=settled.env, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.stdout.split(b"\0")[:-1] == given, done.stderr
    # -- ends cetool's own options
    command = [sys.executable, "-m", "cetool", *how, "-q", "--", script, b"--", b"-x"]
    done = subprocess.run(command, env=settled.env, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.stdout == b"--\0-x\0", done.stderr


def test_a_python_script_sees_the_given_path(settled: Home) -> None:
    text = "# conda execute\n# env: [python >=3, numpy]\nimport sys; print(sys.argv, __file__, sys.path[0])\n"
    directory = settled.write("a dir/with ünï.py", text).parent
    done = settled.cetool("run", "with ünï.py", "x y", cwd=directory)
    assert done.stdout == f"['with ünï.py', 'x y'] {directory}/with ünï.py {directory}\n", done.stderr
    settled.write("a dir/-odd.py", text)
    done = settled.cetool("run", "--", "-odd.py", cwd=directory)
    assert done.stdout.startswith("['./-odd.py'] "), done.stderr


def test_working_directory_and_standard_input_are_the_scripts(settled: Home) -> None:
    script = settled.write("reads.sh", shell_script("pwd; cat; umask"))
    work = settled.path / "some where"
    work.mkdir(exist_ok=True)
    done = settled.run(
        "sh", "-c", 'umask 031; exec cetool run "$1"', "sh", script, cwd=work, input="line 1\nline 2, no end"
    )
    assert done.stdout == f"{work}\nline 1\nline 2, no end0031\n", done.stderr


def test_the_process_becomes_the_script(settled: Home) -> None:
    settled.cetool("run", settled.write("echo.sh", ECHO))
    script = settled.write("waits.sh", shell_script("echo $$ $PPID; read line; echo $line"))
    with started(settled, "run", script, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        assert pids == [str(process.pid), str(os.getpid())]
        if Path("/proc/self/exe").exists():
            assert "python" not in os.readlink(f"/proc/{process.pid}/exe")
        assert process.communicate("done\n")[0] == "done\n"


def test_a_script_runs_activated(settled: Home) -> None:
    outer = settled.path / "outer"
    settled.write("outer/etc/conda/deactivate.d/end.sh", 'export OUTER_ENDED="$CONDA_PREFIX"; unset OUTER_SET\n')
    leaking: dict[str, str | None] = {
        "PYTHONHOME": "/nowhere",
        "VIRTUAL_ENV": "/venv",
        "CONDA_PREFIX": str(outer),
        "CONDA_DEFAULT_ENV": "outer",
        "CONDA_SHLVL": "1",
        "CONDA_PROMPT_MODIFIER": "(outer) ",
        "OUTER_SET": "1",
        "MINE": "stays",
        "PATH": f"{outer}/bin:/venv/bin:{settled.env['PATH']}",
    }
    # PYTHONHOME would break the python that runs cetool
    script = settled.write("variables.sh", VARIABLES)
    done = settled.run(sys.executable, "-E", "-m", "cetool", "run", script, env=leaking)
    seen = variables(done.stdout)
    prefix = seen["CONDA_PREFIX"]
    assert Path(prefix).parent == settled.cache / "envs"
    assert (seen["CONDA_DEFAULT_ENV"], seen["CONDA_SHLVL"]) == (prefix, "1")
    assert seen["PATH"] == f"{prefix}/bin:{settled.env['PATH']}"
    assert not seen.keys() & {"PYTHONHOME", "VIRTUAL_ENV", "CONDA_PROMPT_MODIFIER", "OUTER_SET", "CONDA_PREFIX_1"}
    assert (seen["ACTIVATED"], seen["ACTIVATED_PREFIX"], seen["FROM_JSON"]) == ("yes", prefix, "a value")
    assert (seen["MINE"], seen["OUTER_ENDED"]) == ("stays", str(outer))


def test_no_activate_leaves_the_variables_alone(settled: Home) -> None:
    script = settled.write("variables.sh", VARIABLES)
    seen = variables(settled.cetool("run", "--no-activate", script, env={"CONDA_PREFIX": "/outer"}).stdout)
    assert seen["CONDA_PREFIX"] == "/outer"
    assert seen["PATH"] == settled.env["PATH"]
    assert not seen.keys() & {"ACTIVATED", "FROM_JSON", "CONDA_SHLVL"}
    # the program is still the environment's
    text = "# conda execute\n# env: [python >=3, numpy]\nimport sys; print(sys.prefix)\n"
    done = settled.cetool("run", "--no-activate", settled.write("prefix.py", text))
    assert done.stdout == f"{settled.cache}/envs/{SEEDS_NAME}\n"


def test_a_missing_program_is_an_error(settled: Home) -> None:
    for program, package in (("Rscript", "r-base"), ("nonesuch", "nonesuch")):
        script = settled.write("program.sh", shell_script("", more=f"# run_with: {program}"))
        done = settled.cetool("run", script, env={"PATH": "/nowhere"})
        assert done.returncode == 127
        assert repr(program) in told(done.stderr)[0] and package in done.stderr


def test_an_entrypoint_can_have_several_commands(settled: Home) -> None:
    """conda-script: command language."""
    script = settled.write(
        "several.txt",
        "# /// conda-script\n# channels = ['conda-forge']\n"
        "# entrypoint = 'mkdir -p ${CACHE}/out && cp ${SCRIPT} ${CACHE}/out/copy && hello $(basename ${SCRIPT})'\n"
        "# [dependencies]\n# hello-bin = '*'\n# /// end-conda-script\n",
    )
    done = settled.cetool("run", script, "an argument")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"hello from {settled.cache}/envs/\w+\n<several.txt>\n<an argument>\n", done.stdout)
    assert settled.cetool("run", settled.write("fails.txt", script.read_text().replace("mkdir -p", "false"))).returncode


def test_pypi_packages_are_installed_into_the_environment(settled: Home) -> None:
    script = settled.write(
        "pypi.py", "# /// script\n# dependencies = ['six']\n# ///\nimport six, sys; print(six.__file__, sys.prefix)\n"
    )
    done = settled.cetool("run", "-v", script)
    assert done.returncode == 0, done.stderr
    file, prefix = done.stdout.split()
    assert file.startswith(f"{prefix}/lib/") and Path(prefix).parent == settled.cache / "envs"
    assert "pip: [six]\n" in done.stderr


def test_nothing_is_downloaded_offline(home: Home, local_channel: Channel) -> None:
    script = home.write("offline.sh", ECHO)
    home.condarc.write_text("channel_alias: http://127.0.0.1:9\nchannels: [conda-forge]\n")
    done = home.cetool("run", "--offline", script)
    assert done.returncode == 125
    told(done.stderr)
    assert environments(home) == {}
    # earlier downloads are enough
    home.condarc.write_text(local_channel.condarc)
    assert home.cetool("run", script, "a").stdout == "a\0"
    assert home.cetool("run", "--offline", script, "b").stdout == "b\0"
    assert home.cetool("run", script, "c", env={"CETOOL_OFFLINE": "true"}).stdout == "c\0"


def test_refresh_leaves_a_running_script_alone(home: Home) -> None:
    waits = shell_script('echo "$CONDA_PREFIX"; read line; hello "$line"')
    script = home.write("waits.sh", waits)
    with started(home, "run", script, stdin=subprocess.PIPE) as old:
        assert old.stdout is not None
        first = old.stdout.readline().strip()
        done = home.cetool("run", "--refresh", script, input="new\n")
        second = done.stdout.splitlines()[0]
        assert done.stdout == f"{second}\nhello from {second}\n<new>\n", done.stderr
        assert second == f"{first}-2"
        # from now on the new one is used
        assert home.cetool("run", script, input="again\n").stdout == done.stdout.replace("<new>", "<again>")
        assert old.communicate("old\n")[0] == f"hello from {first}\n<old>\n"
    # the old one is removed when it is free, and its name is free for the next
    assert home.cetool("gc", "--older-than", "1h").returncode == 0
    assert list(environments(home)) == [Path(second).name]
    assert held_locks(home) == []
    assert home.cetool("run", "--refresh", script, input="x\n").stdout == f"{first}\nhello from {first}\n<x>\n"
    assert list(environments(home)) == [Path(first).name]


def test_a_run_is_listed_while_it_lasts(home: Home) -> None:
    script = home.write("waits.sh", shell_script("echo ready; read line"))
    with started(home, "run", script, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        [row] = json.loads(home.cetool("list", "--json").stdout)["environments"]
        assert (row["running"], row["runs"]) == ([process.pid], 1)
        assert str(process.pid) in home.cetool("list").stdout.splitlines()[1].split()
        process.communicate("end\n")
    eventually(lambda: process.returncode == 0)
    [row] = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert (row["running"], row["runs"]) == ([], 1)

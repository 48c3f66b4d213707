"""Warm runs: which command lines are warm, what they cost, and that a script cannot tell one from a cold run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import shell_script, unconfirmed
from support.warm import COLD, command, learn, run_warm, settle, trap

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is no warm path")

#: Everything that a warm run may import beyond Python's own imports.
IMPORTED = {
    "cetool",
    "cetool.__main__",
    "cetool.warm",
    "cetool.warm.environ",
    "cetool.warm.handover",
    "cetool.warm.files",
    "fcntl",
}
#: System calls from the first access to the script to the exec, with one configuration file.
MOST_CALLS = 70

_ENV = "# conda execute\n# env: [python >=3, numpy]\n"
#: Prints everything that a process can know about how it was started.
DUMP = f"""\
#!/usr/bin/env cetool
{_ENV}
import json, os, signal, sys

def descriptor(number):
    try:
        target = os.readlink(f"/proc/self/fd/{{number}}")
    except OSError:
        return ""  # that of the listing
    return "pipe" if target.startswith("pipe:") else target

status = open("/proc/self/status").read()
told = {{
    "argv": sys.argv, "file": __file__, "path0": sys.path[0], "executable": sys.executable, "prefix": sys.prefix,
    "command": open("/proc/self/cmdline").read(), "exe": os.readlink("/proc/self/exe"),
    "environ": open("/proc/self/environ", errors="surrogateescape").read().split("\\0"),
    "cwd": os.getcwd(), "parent": os.getppid(), "umask": os.umask(0), "nice": os.nice(0),
    "group": os.getpgrp() == os.getpid(), "session": os.getsid(0),
    "signals": [line for line in status.splitlines() if line.startswith(("Sig", "Shd")) and "SigQ" not in line],
    "descriptors": sorted(descriptor(number) for number in os.listdir("/proc/self/fd")),
}}
told["descriptors"] = [name for name in told["descriptors"] if name and not name.startswith("/proc")]
try:
    told["input"] = sys.stdin.read() if sys.stdin else None
except OSError as error:
    told["input"] = str(error)
print(json.dumps(told))
"""


@pytest.fixture
def hello(settled: Home) -> Path:
    """A script that prints its name and arguments, run once."""
    script = settled.write("warm scripts/hellö.sh", shell_script('printf \'%s\\0\' "$0" "$@"'), executable=True)
    learn(settled, script)
    return script


# --- cost -------------------------------------------------------------------------------------------------------------


def _modules(home: Home, *words: str | os.PathLike[str]) -> set[str]:
    done = home.run(sys.executable, "-X", "importtime", *words)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^import time: .*\|\s*(\S+)$", done.stderr, re.MULTILINE)) - {"package"}


def test_a_warm_run_imports_almost_nothing(settled: Home, hello: Path) -> None:
    nothing = settled.write("nothing.py", "import cetool\n")
    for program in ("cetool", "conda-execute"):
        executable = Path(settled.bin, program)
        own = set(re.findall(r"^import (\w+)$", executable.read_text(), re.MULTILINE))
        imported = _modules(settled, executable, "-q", hello) - _modules(settled, nothing)
        # imports of an installer's stub are not ours
        stub = set().union(*(_modules(settled, "-c", f"import {name}") for name in own))
        assert imported - stub <= IMPORTED
    assert "cetool.warm" in imported


def _system_calls(home: Home, script: Path, *, env: Mapping[str, str | None] | None = None) -> list[str]:
    """Return a warm run's system calls from the first access to the script to the last exec, and earlier execs."""
    strace = shutil.which("strace") or pytest.skip("there is no strace")
    log = home.path / "calls"
    words = [strace, "-f", "-o", str(log), "-s", "4096", *command(script)]
    done = home.run(*words, env={**(env or {}), **trap(home)})
    if "ptrace" in done.stderr:
        pytest.skip("tracing is not allowed")
    assert done.returncode == 0, done.stderr
    calls = [line.split(None, 1)[1] for line in log.read_text(errors="replace").splitlines()]
    execs = [number for number, call in enumerate(calls) if call.startswith("execve(") and call.endswith("= 0")]
    assert execs[0] == 0
    # strace prints bytes beyond ASCII as numbers
    first = next(number for number, call in enumerate(calls) if "stat" in call.split("(")[0] and script.name in call)
    last = execs[1]
    return [*calls[first : last + 1], *(calls[number] for number in execs[2:])]


def test_a_warm_run_makes_few_system_calls_and_starts_no_shell(settled: Home) -> None:
    script = settled.write("plain.py", f"{_ENV}print(1)\n")
    learn(settled, script)
    # in the C locale Python sets LC_CTYPE, and what the caller set is read from /proc
    calls = _system_calls(settled, script, env={"LC_ALL": "C.UTF-8", "LC_CTYPE": None})
    assert len(calls) <= MOST_CALLS, "\n".join(calls)
    assert [call.split("(")[0] for call in calls].count("execve") == 1
    assert not any(call.startswith(("fork", "vfork", "clone")) for call in calls)


def test_activation_scripts_take_one_shell(settled: Home) -> None:
    script = settled.write("activated.sh", shell_script("echo $ACTIVATED $FROM_JSON", env="activated"))
    assert learn(settled, script) == "yes a value\n"
    execs = [call for call in _system_calls(settled, script) if call.startswith("execve(")]
    assert len(execs) == 2 and "bash" in execs[0], execs
    assert run_warm(settled, script).stdout == "yes a value\n"


def test_the_cost_is_independent_of_the_cache_size(home: Home) -> None:
    script = home.write("plain.sh", shell_script("exit 0"))
    learn(home, script)
    before = _system_calls(home, script)
    for number in range(300):
        name = f"{number:020x}"
        (home.cache / "envs" / name / "conda-meta").mkdir(parents=True)
        (home.cache / "locks" / f"{name}.lock").touch()
        (home.cache / "launch" / f"{number:032x}").write_bytes(b"cetool launch")
    with (home.cache / "spool" / "uses").open("a") as spool:
        spool.write("1\t1\t1\thost\t" + "0" * 20 + "\tscript\n" * 100_000)
    assert len(_system_calls(home, script)) == len(before)


# --- warm command lines -----------------------------------------------------------------------------------------------


def test_these_command_lines_are_warm(settled: Home, hello: Path) -> None:
    for words in ((), ("run",), ("-q",), ("--quiet",), ("run", "-q"), ("run", "--quiet")):
        done = run_warm(settled, *words, hello, "--help", "a b", "", "-q", "--", "ünï")
        assert done.returncode == 0, words
        assert done.stdout == f"{hello}\0--help\0a b\0\0-q\0--\0ünï\0"
    for program, *more in (["conda-execute"], ["conda-execute", "-q"], ["cetool"]):
        for env in (trap(settled), {"CONDA_UNRELATED": str(len(more))}):  # the latter is cold
            done = settled.run(settled.bin / program, *more, hello, "--", "-x", "--code", env=env)
            assert (done.returncode, done.stdout) == (0, f"{hello}\0--\0-x\0--code\0")
    # cold: verbose output comes from the cold path
    for words in (("-v",), ("run", "-v"), ("run", "--offline"), ("run", "--")):
        assert run_warm(settled, *words, hello).returncode == COLD


def test_each_path_of_a_script_has_its_own_record(settled: Home, hello: Path) -> None:
    """A relative path, a symbolic link and a name on the PATH have separate records."""
    text = (
        '#!/usr/bin/env cetool\n# conda execute\n# env: [hello-bin]\n# run_with: /bin/sh\nprintf \'%s\\0\' "$0" "$@"\n'
    )
    script = settled.write("warm scripts/run me", text, executable=True)
    link = settled.path / "a link"
    link.symlink_to(script)
    settle(script)
    path = {"PATH": f"{script.parent}:{settled.env['PATH']}"}
    ways: tuple[tuple[list[str], Path, dict[str, str], str], ...] = (
        ([str(script)], settled.path, {}, str(script)),
        (["./run me"], script.parent, {}, "./run me"),
        ([str(link)], settled.path, {}, str(link)),
        (["sh", "-c", '"run me" "$1"', "sh"], settled.path, path, str(script)),
    )
    for words, cwd, env, name in ways:
        for more in ({}, trap(settled)):
            done = settled.run(*words, "an argument", env={**env, **more}, cwd=cwd)
            assert (done.returncode, done.stdout) == (0, f"{name}\0an argument\0"), done.stderr


def test_a_name_that_is_not_utf_8_can_be_warm(settled: Home) -> None:
    script = os.fsencode(settled.path) + b"/not \xff utf-8.sh"
    Path(os.fsdecode(script)).write_text(shell_script("printf '%s' \"$0\""))
    settle(Path(os.fsdecode(script)))
    for more in ({}, trap(settled), {"LC_ALL": "C", **trap(settled)}):
        done = subprocess.run([*command(), script], env=settled.environment(more), capture_output=True)
        assert (done.returncode, done.stdout) == (0, script), done.stderr


# --- no difference from cold runs -------------------------------------------------------------------------------------


def _told(home: Home, script: Path, env: dict[str, str | None], prefix: list[str]) -> dict[str, object]:
    settle(script)
    words = [*prefix, *command(script.name, "one", "two  words", "")]
    # the trap exists all the time, so that the variables are the same, and is armed for the second run
    with_trap = {**env, **trap(home)}
    armed = home.path / "trap" / "sitecustomize.py"
    armed.rename(armed.with_suffix(".aside"))
    try:
        cold = home.run(*words, env=with_trap, cwd=script.parent, input="line\n")
    finally:
        armed.with_suffix(".aside").rename(armed)
    warm = home.run(*words, env=with_trap, cwd=script.parent, input="line\n")
    assert cold.returncode == 0, cold.stderr
    assert (warm.returncode, unconfirmed(warm.stderr)) == (0, unconfirmed(cold.stderr))
    told, again = (json.loads(done.stdout.splitlines()[-1]) for done in (cold, warm))
    assert told == again
    assert isinstance(told, dict)
    return told


def test_a_script_cannot_distinguish_a_warm_run(settled: Home) -> None:
    outer = settled.path / "outer env"
    settled.write("outer env/etc/conda/deactivate.d/end.sh", 'export OUTER_ENDED="$CONDA_PREFIX"; unset OUTER_SET\n')
    activated: dict[str, str | None] = {
        "CONDA_PREFIX": str(outer),
        "CONDA_DEFAULT_ENV": "outer",
        "CONDA_SHLVL": "2",
        "CONDA_PREFIX_1": "/elsewhere",
        "OUTER_SET": "1",
        "PATH": f"{outer}/bin:{settled.env['PATH']}",
    }
    worlds: dict[str, tuple[dict[str, str | None], list[str]]] = {
        "plain": ({"MINE": "a\nb", "_": "x"}, []),
        "outer": (activated, []),
        "venv": ({"VIRTUAL_ENV": "/venv", "VIRTUAL_ENV_PROMPT": "v", "PATH": f"/venv/bin:{settled.env['PATH']}"}, []),
        "locale": ({"LC_ALL": "C", "LANG": None, "LC_CTYPE": None}, []),
        "posix": ({"LC_ALL": None, "LANG": None, "LC_CTYPE": None}, []),
        "nohup": ({}, ["nohup"]),
        "nice": ({}, ["nice", "-n", "5"]),
        "umask": ({}, ["sh", "-c", 'umask 027; exec "$@"', "sh"]),
        "descriptors": ({}, ["sh", "-c", 'exec 7</dev/null 8>/dev/null; exec "$@"', "sh"]),
        "ignoring": ({}, ["sh", "-c", 'trap "" INT PIPE; exec "$@"', "sh"]),
    }
    for name, (env, prefix) in worlds.items():
        told = _told(settled, settled.write(f"dumps/in_{name}.py", DUMP), env, prefix)
        assert told["argv"] == [f"in_{name}.py", "one", "two  words", ""]
        assert told["input"] == "line\n"


def test_a_script_cannot_distinguish_a_warm_run_after_activation_scripts(settled: Home) -> None:
    more = "# variables: {GREETING: 'hello $HOME', ACTIVATED_PREFIX: mine}"
    body = 'python3 -c \'import os, json; print(json.dumps(dict(os.environ, argv=" ".join(os.sys.argv))))\' "$0" "$@"'
    script = settled.write("dumps/activated.sh", shell_script(body, env="activated", more=more))
    told = _told(settled, script, {"A": "b"}, [])
    assert (told["ACTIVATED"], told["GREETING"], told["FROM_JSON"]) == ("yes", "hello $HOME", "a value")


def test_a_script_cannot_distinguish_a_warm_run_with_few_variables(settled: Home) -> None:
    bare: dict[str, str | None] = dict.fromkeys(settled.env)
    keep = {"HOME": str(settled.path), "CETOOL_CACHE_DIR": str(settled.cache)}
    told = _told(settled, settled.write("dumps/bare.py", DUMP), {**bare, **keep}, [])
    assert told["input"] == "line\n"


@pytest.mark.parametrize("words", ["python ${SCRIPT} --cache=${CACHE}", "python ${SCRIPT} a 'b c'"])
def test_entrypoints_can_be_warm(settled: Home, words: str) -> None:
    block = (
        f'# /// conda-script\n# channels = ["conda-forge"]\n# entrypoint = "{words}"\n# [dependencies]\n'
        "# python = '>=3'\n# numpy = '*'\n# /// end-conda-script\n"
    )
    script = settled.write(f"dumps/entry{len(words)}.py", DUMP.replace(_ENV, block))
    told = _told(settled, script, {}, [])
    argv = told["argv"]
    assert isinstance(argv, list) and argv[-3:] == ["one", "two  words", ""]
    if "CACHE" in words:
        cache = Path(argv[1].removeprefix("--cache="))
        cache.rmdir()
        assert run_warm(settled, script).returncode == COLD
        learn(settled, script)
        assert cache.is_dir()


def test_closed_standard_streams_stay_closed(settled: Home) -> None:
    # otherwise the script would find a lock file as its standard input
    body = 'ls -l /proc/self/fd > "$1"'
    script = settled.write("closed.sh", shell_script(body))
    settle(script)
    for more in ({}, trap(settled)):
        log = settled.path / "closed.log"
        words = command(script, log)
        done = settled.run("sh", "-c", 'exec "$@" <&- >&-', "sh", *words, env=more)
        assert done.returncode == 0, done.stderr
        assert re.search(r" [3-9] -> \S+\.lock$", log.read_text(), re.MULTILINE)
        assert not re.search(r" [012] -> \S+\.lock$", log.read_text(), re.MULTILINE)


def test_the_exit_status_is_the_scripts(settled: Home) -> None:
    for body, status in (("exit 7", 7), ("kill -TERM $$", -signal.SIGTERM), ("kill -INT $$", -signal.SIGINT)):
        script = settled.write("ends.sh", shell_script(body))
        settle(script)
        for env in ({}, trap(settled)):
            done = settled.cetool(script, env=env)
            assert (done.returncode, unconfirmed(done.stderr)) == (status, "")
    script = settled.write("pipe.sh", shell_script("yes"))
    learn_all = settled.run("bash", "-c", '"$@" | head -1; echo "${PIPESTATUS[0]}"', "bash", *command(script))
    assert learn_all.stdout == f"y\n{128 + signal.SIGPIPE}\n"
    settle(script)
    settled.run("bash", "-c", '"$@" | head -1', "bash", *command(script))
    warm = settled.run(
        "bash", "-c", '"$@" | head -1; echo "${PIPESTATUS[0]}"', "bash", *command(script), env=trap(settled)
    )
    assert (warm.stdout, unconfirmed(warm.stderr)) == (learn_all.stdout, "")

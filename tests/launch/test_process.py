"""Running commands: exit statuses, signals, terminals, descriptors, variables, all with real processes."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cetool.base.errors
from cetool.base.errors import CetoolError, NotExecutableError, ProgramNotFoundError
from cetool.base.process import issue
from cetool.launch.children import sourced_environ, spawn_and_wait
from cetool.launch.process import Command, check_executable, launch_error
from cetool.warm import handover

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")
SOURCE = str(Path(cetool.base.errors.__file__).parents[2])
#: Runs the given command in the given way, and ends like cetool's entry point.
DRIVER = """
import json, sys
from cetool.base.process import issue
from cetool.base.errors import CetoolError
from cetool.launch.children import spawn_and_wait
from cetool.launch.process import Command, end_like, exec_command
how, program, argv, environ, scripts, keep = json.loads(sys.argv[1])
command = Command(program, tuple(argv), environ, tuple(scripts))
try:
    print("unflushed", end=" ")
    if how == "exec":
        exec_command(command, issue("a test"), keep=keep)
    end_like(spawn_and_wait(command, issue("a test"), keep=keep))
except CetoolError as error:
    print(error.message, error.hint, file=sys.stderr)
    sys.exit(error.exit_status)
"""
BOTH = pytest.mark.parametrize("how", ["exec", "spawn"])
SHELLS = ["bash", "sh"] if shutil.which("bash") else ["sh"]


def driver(
    how: str,
    argv: list[str],
    *,
    environ: dict[str, str] | None = None,
    scripts: list[str] | None = None,
    keep: tuple[int, ...] = (),
) -> list[str]:
    environ = {"PATH": os.defpath, **(environ or {})}
    told = json.dumps([how, argv[0], argv, environ, scripts or [], keep])
    return ["env", f"PYTHONPATH={SOURCE}", sys.executable, "-c", DRIVER, told]


def run(how: str, argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(driver(how, argv, **options), capture_output=True, text=True)  # type: ignore[arg-type]


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


# statuses and signals


@BOTH
def test_exit_statuses_are_the_programs_own(how: str) -> None:
    for status in (0, 1, 3, 125, 255):
        done = run(how, ["/bin/sh", "-c", f"echo out; echo err >&2; exit {status}"])
        assert (done.returncode, done.stdout, done.stderr) == (status, "unflushed out\n", "err\n")


@BOTH
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGINT", "SIGSEGV", "SIGPIPE", "SIGQUIT"])
def test_cetool_ends_by_the_signal_that_ended_the_program(how: str, name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        driver(how, ["/bin/sh", "-c", f"kill -{name[3:]} $$; sleep 5"]), cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    assert done.returncode == -getattr(signal, name)


@BOTH
def test_signals_ignored_by_python_are_reset(how: str) -> None:
    if Path("/proc/self/status").exists():
        done = run(how, ["/bin/sh", "-c", "grep SigIgn /proc/self/status"])
        ignored = int(done.stdout.split()[-1], 16)
        assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))
    # a pipeline that ends early ends its first program, silently
    done = run(how, ["/bin/sh", "-c", "(yes; echo status $? >&2) | head -n 1"])
    assert done.stderr in ("", f"status {128 + signal.SIGPIPE}\n")


@BOTH
def test_signals_ignored_by_the_caller_stay_ignored(how: str) -> None:
    line = 'trap "" INT HUP; exec "$@"'
    argv = ["/bin/sh", "-c", line, "sh", *driver(how, ["/bin/sh", "-c", "kill -INT $$; kill -HUP $$; echo alive"])]
    assert subprocess.run(argv, capture_output=True, text=True).stdout.endswith("alive\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_waiting_cetool_passes_signals_on(name: str) -> None:
    text = f"trap 'echo got {name}; exit 7' {name[3:]}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(driver("spawn", ["/bin/sh", "-c", text]), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(getattr(signal, name))
        assert (first, process.stdout.read(), process.wait()) == ("unflushed ready\n", f"got {name}\n", 7)


def test_a_signal_reaches_the_child_at_any_moment() -> None:
    # cetool flushes its output just before it starts the child; a lost signal would block both forever
    for n in range(30):
        argv = driver("spawn", [shutil.which("sleep") or "", "600"])
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.read(10) == b"unflushed "
            time.sleep(n * 0.0001)
            process.terminate()
            assert process.wait(60) == -signal.SIGTERM


# terminals


#: Makes standard input its controlling terminal, then runs the command (forkpty is not safe among threads).
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A driver as the foreground job of a new terminal."""

    def __init__(self, argv: list[str]) -> None:
        self.fd, inner = pty.openpty()
        told = [sys.executable, "-I", "-c", TAKE_TERMINAL, *argv]
        self.process = subprocess.Popen(told, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
        self.pid = self.process.pid
        os.close(inner)
        self.text = b""

    def read_until(self, text: bytes) -> None:
        deadline = time.monotonic() + 60
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self.fd], [], [], 1)[0]:
                self.text += os.read(self.fd, 1000)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@BOTH
def test_control_c_at_a_terminal_ends_both(how: str, terminals: list[Terminal]) -> None:
    terminals.append(terminal := Terminal(driver(how, ["/bin/sh", "-c", "echo ready; while :; do sleep 0.05; done"])))
    terminal.read_until(b"ready")
    os.write(terminal.fd, b"\x03")
    assert terminal.process.wait(60) == -signal.SIGINT
    assert b"Traceback" not in terminal.text


def test_a_program_that_survives_control_c_decides_the_status(terminals: list[Terminal]) -> None:
    text = "trap 'echo going on; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    terminals.append(terminal := Terminal(driver("spawn", ["/bin/sh", "-c", text])))
    terminal.read_until(b"ready")
    os.write(terminal.fd, b"\x03")
    terminal.read_until(b"going on")
    assert terminal.process.wait(60) == 5


@BOTH
def test_job_control_stops_and_continues_the_program(how: str, terminals: list[Terminal]) -> None:
    text = "test -t 0 && test -t 1 && echo tty; read line; echo got $line; exit 4"
    terminals.append(terminal := Terminal(driver(how, ["/bin/sh", "-c", text])))
    terminal.read_until(b"tty")
    # a terminal does not stop the session's leader, which no process could continue: stop the job as a shell would
    os.killpg(terminal.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(terminal.pid, os.WUNTRACED)[1])
    os.killpg(terminal.pid, signal.SIGCONT)
    os.write(terminal.fd, b"hello\n")
    terminal.read_until(b"got hello")
    assert terminal.process.wait(60) == 4


def test_the_terminals_modes_and_group_stay_unchanged(terminals: list[Terminal]) -> None:
    code = "import os, termios; print('group', os.tcgetpgrp(0) == os.getpgrp()); termios.tcgetattr(0); print('end')"
    terminals.append(terminal := Terminal(driver("spawn", [sys.executable, "-I", "-c", code])))
    terminal.read_until(b"end")
    assert b"group True" in terminal.text
    assert termios.tcgetattr(terminal.fd)
    assert terminal.process.wait(60) == 0


# descriptors and streams


@BOTH
@pytest.mark.parametrize("with_script", [False, True])
def test_only_the_descriptors_to_keep_are_kept(how: str, with_script: bool, tmp_path: Path) -> None:
    # the driver opens no lock: it is given one, which exec would close unless it is kept
    held = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    kept = os.dup(held)
    os.set_inheritable(kept, True)
    scripts = [script(tmp_path / "a.sh", "")] if with_script else []
    line = f"import os; os.set_inheritable({kept}, False)\n"
    argv = driver(how, ["/bin/sh", "-c", f"test -e /dev/fd/{kept} && echo kept"], scripts=scripts, keep=(kept,))
    argv[4] = line + argv[4]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, pass_fds=(kept,))
    assert done.stdout.endswith("kept\n")
    os.close(held)
    os.close(kept)


@BOTH
def test_closed_standard_streams_do_no_harm(how: str) -> None:
    argv = driver(how, ["/bin/sh", "-c", "exit 3"])
    assert subprocess.run(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *argv]).returncode == 3


def test_capturing_works_with_closed_streams(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom cetool.base.process import issue\n"
        "from cetool.launch.children import *\nos.close(0); os.close(1)\n"
        "consent = issue('a test')\n"
        "command = Command('/bin/sh', ('sh', '-c', 'cat; echo out; exit 3'), dict(os.environ))\n"
        "status, out = capture_output(command, consent)\n"
        "assert (status, out) == (3, b'out\\n'), (status, out)\n"
        f"env = sourced_environ([{script(tmp_path / 'a.sh', 'export A=1; echo noise')!r}], dict(os.environ), consent)\n"
        "assert env['A'] == '1'\nos._exit(11)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True)
    assert done.returncode == 11, done.stderr


# errors


@BOTH
@pytest.mark.parametrize("with_script", [False, True])
def test_a_program_that_cannot_run_is_an_error_with_a_status(how: str, with_script: bool, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("echo hello\n")
    cases = {
        str(tmp_path / "none"): (127, "does not exist"),
        str(tmp_path / "plain"): (126, "chmod +x"),
        str(tmp_path): (126, "directory"),
        script(tmp_path / "bad", "#!/no/such/interpreter -x\n"): (126, "/no/such/interpreter"),
    }
    if not with_script:  # a shell would run these two
        cases[script(tmp_path / "bare", "echo hello\n")] = (126, "#!/bin/sh")
        cases[script(tmp_path / "noise", "\x7fELF nonsense")] = (126, "architecture")
    scripts = [script(tmp_path / "a.sh", "")] if with_script else []
    for program, (status, word) in cases.items():
        done = run(how, [program, "x"], scripts=scripts)
        assert (done.returncode, word in done.stderr, "Traceback" in done.stderr) == (status, True, False), done.stderr


def test_arguments_that_are_too_long_or_have_a_nul_are_errors() -> None:
    with pytest.raises(NotExecutableError, match="too long for this system"):
        spawn_and_wait(Command("/bin/sh", ("sh", "-c", ":", "x" * 50_000_000), {}), issue("a test"))
    with pytest.raises(NotExecutableError, match="null"):
        spawn_and_wait(Command("/bin/sh", ("sh", "\0"), {}), issue("a test"))
    assert isinstance(launch_error(OSError(2, "x"), "/no/such"), ProgramNotFoundError)
    check_executable("/bin/sh")


# activation scripts


@pytest.fixture(params=SHELLS)
def shell_path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH on which the sourcing shell is bash, if requested and present; else /bin/sh."""
    if request.param == "bash":
        return os.defpath
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("env", "cat", "true"):
        (tools / name).symlink_to(shutil.which(name) or "/nowhere")
    return str(tools)


@BOTH
def test_activation_scripts_are_sourced_in_order_whatever_they_do(how: str, shell_path: str, tmp_path: Path) -> None:
    folder = tmp_path / "a 'b\" $(touch evil)"
    folder.mkdir()
    scripts = [
        script(folder / "1.sh", 'export ONE="a  b"; echo "args $#"; set -eu\n'),
        script(folder / "2.sh", 'export TWO="$ONE/${UNSET}2"; false\n'),
        script(folder / "3.sh", "return 9\n"),
        script(folder / "4.sh", "export FOUR=4; PRIVATE=1; if then (\n" if "bash" in SHELLS else "export FOUR=4\n"),
        "SET=by step",
        "/no/such/script.sh",
        script(folder / "5.sh", 'FIVE="[$SET]"; export FIVE; unset GONE; shift 2>/dev/null || :; IFS=x\n'),
    ]
    argv = [sys.executable, "-I", "-c", "import json,os,sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"]
    args = ["", "a b", "*", "$(touch evil)", "--", "x'y\"z\\", "\n", "é"]
    environ = {"PATH": shell_path, "GONE": "x", "BASH_ENV": str(folder / "5.sh"), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        driver(how, [*argv, *args], environ=environ, scripts=scripts), capture_output=True, text=True, cwd=tmp_path
    )
    first, second = done.stdout.removeprefix("unflushed ").split("\n", 1)
    assert first == "args 0"
    got_args, got = json.loads(second)
    assert got_args == args
    for name, value in {"ONE": "a  b", "TWO": "a  b/2", "SET": "by step", "FIVE": "[by step]"}.items():
        assert got.get(name) == value, name
    assert "GONE" not in got and "PRIVATE" not in got
    assert not [name for name in got if "cetool" in name]
    assert not (tmp_path / "evil").exists()


def test_with_bash_variables_from_activation_scripts_stay(tmp_path: Path) -> None:
    if "bash" not in SHELLS:
        pytest.skip("no bash here")
    one = script(tmp_path / "1.sh", "declare -x DECLARED=1; my_function() { echo called; }; export -f my_function\n")
    line = 'echo "$DECLARED"; my_function; outer; printenv we.ird; echo "${SHLVL-none}"'
    environ = {"PATH": os.defpath, "BASH_FUNC_outer%%": "() { echo outer; }", "we.ird": "name"}
    environ["BASH_ENV"] = script(tmp_path / "noise.sh", "test $PPID = $0 || echo noise >&2\n")
    bash = shutil.which("bash") or ""
    done = run("exec", [bash, "-c", line], environ={**environ, "SHLVL": "4"}, scripts=[one])
    assert done.stdout == "unflushed 1\ncalled\nouter\nname\n5\n"
    assert done.stderr == "noise\n"  # from the script's bash only


def test_an_activation_script_that_ends_its_shell_is_reported(shell_path: str, tmp_path: Path) -> None:
    bad = script(tmp_path / "bad.sh", "exit 0\n")
    done = run("exec", ["/bin/sh", "-c", "echo ran"], environ={"PATH": shell_path}, scripts=[bad])
    assert done.returncode == 125 and "ran" not in done.stdout
    assert f"cetool: {bad} ended the shell" in done.stderr
    with pytest.raises(CetoolError, match="status 125"):
        sourced_environ([bad], {"PATH": shell_path}, issue("a test"))


def test_the_sourced_environment_is_exactly_that_of_the_scripts(shell_path: str, tmp_path: Path) -> None:
    steps = [
        script(tmp_path / "a.sh", "export A='1\n2=3'; unset GONE; echo noise; PATH=/mine:$PATH\n"),
        "SET=x",
        script(tmp_path / "b.sh", "export B=$A$SET\n"),
    ]
    base = {"PATH": shell_path, "GONE": "1", "SHLVL": "3", "_": "/mine", "PWD": str(Path.cwd()), "LANG": "C"}
    got = sourced_environ(steps, base, issue("a test"))
    got.pop("OLDPWD", None)
    del base["GONE"]
    assert got == {**base, "A": "1\n2=3", "B": "1\n2=3x", "SET": "x", "PATH": f"/mine:{shell_path}"}
    assert sourced_environ([], base, issue("a test")) == base


def test_the_shell_is_bash_if_there_is_one(tmp_path: Path) -> None:
    assert handover.find_shell({"PATH": str(tmp_path)}) == "/bin/sh"
    own = script(tmp_path / "bash", "#!/bin/sh\n")
    assert handover.find_shell({"PATH": f".:{tmp_path}"}) == own


def test_the_suite_starts_programs_with_default_signals_where_the_shell_ignores_them() -> None:
    """``nohup`` and a shell's background jobs start pytest with signals ignored, which every program would inherit."""
    child = "import signal; print([signal.getsignal(each).name for each in (signal.SIGHUP, signal.SIGQUIT)])"
    suite = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import conftest, subprocess;"
        f"conftest.reset_signals(); subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    argv = ["sh", "-c", 'trap "" HUP INT QUIT; exec "$@"', "sh", sys.executable, "-c", suite]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "['SIG_DFL', 'SIG_DFL']\n"

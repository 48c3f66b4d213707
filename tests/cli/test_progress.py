"""What standard error gets: real processes on a pseudo-terminal, with a pipe, or with a closed stream."""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.creations import HEAVY
from support.home import Home
from support.server import ChannelServer

import cetool
from cetool.app.reporting import plain
from cetool.cli.voice import Voice

fcntl = pytest.importorskip("fcntl", reason="pseudo-terminals are POSIX")
termios = pytest.importorskip("termios", reason="pseudo-terminals are POSIX")

SOURCE = str(Path(next(iter(cetool.__path__))).parent)
PATIENCE = 60.0
START = "import os, sys, threading, time\n"
START += "from cetool.cli.voice import Voice\nvoice = Voice(sys.argv[1], os.environ)\n"
GOVERNED = "import fcntl, signal, termios\nfcntl.ioctl(2, termios.TIOCSCTTY, 0)\n" + START
#: An environment is made; it goes on where there is something to see when the test has seen it.
CREATION = (
    START
    + """
def seen():
    if "SEEN" in os.environ:
        sys.stdin.readline()
with voice.progress() as progress:
    progress.wait("cetool run a.py (process 1)")
    seen()
    progress.stage("Solving")
    progress.stage("Solving")
    seen()
    progress.packages(34)
    progress.stage("Downloading")
    progress.download(45_100_000, 210_000_000)
    progress.link(12, 34)
    seen()
    progress.download(210_000_000, 210_000_000)
    progress.stage("Linking")
    progress.link(33, 34)
    seen()
    voice.warn("odd [bold]thing[/bold]")
    progress.note("uv \\x1b[31mis\\x1b[0m used\\x1b]0;title\\x07\\nhere")
    progress.stage("Installing [red]2[/red] PyPI packages " + "x" * 500)
    seen()
voice.say("Created [b]e[/b]")
"""
)
PLAIN = """Waiting for cetool run a.py (process 1) ...
Solving
Downloading
Downloaded 210 MB
Linking 34 packages
"""
WARNING = "cetool: warning: odd [bold]thing[/bold]\n"
NOTE = "uv is used here\n"
PYPI = "Installing [red]2[/red] PyPI packages xxx"
RESULT = "Created [b]e[/b]\n"
FRAMES = (
    r"Waiting for cetool run a\.py \(process 1\) \.\.\.  0:",
    r"Solving  0:",
    r"Downloading  ━+ *  45\.1/210 MB  12 of 34 packages  0:",
    r"Linking  ━+ *  33 of 34 packages  0:",
    r"Installing \[red\]2\[/red\] PyPI packages x+…  0:",
)
_SGR = re.compile(r"\x1b\[([\d;]*)m")


def variables(**extra: str) -> dict[str, str]:
    around = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
    return {**around, "PYTHONPATH": SOURCE, "PYTHONUTF8": "1", "TERM": "xterm-256color", **extra}


class Terminal:
    """A terminal of a process of its own, 80 columns wide unless told, and everything that has come out of it."""

    def __init__(
        self, script: str, verbosity: str = "normal", columns: int = 80, extra: dict[str, str] | None = None
    ) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, columns.to_bytes(2, sys.byteorder).join([b"\x18\0", b"\0" * 4]))
        self.slave, self.modes = slave, termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, verbosity],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=slave,
            env=variables(**extra or {}),
            start_new_session=True,
        )
        self.bytes = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.slave)
        if self.master >= 0:
            os.close(self.master)

    @property
    def text(self) -> str:
        return self.bytes.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, pattern: str) -> None:
        """Read until the pattern has come up, colours aside."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, _SGR.sub("", self.text)):
            assert time.monotonic() < deadline, f"{pattern} does not come: {self.text[-900:]!r}"
            ended = self.process.poll() is not None
            if not self._read(0.1):
                assert not ended, f"{pattern} has not come: {self.text[-900:]!r}"

    def answer(self, pattern: str) -> None:
        """Wait for the pattern, then send a line to the process."""
        self.wait_for(pattern)
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def finish(self) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            self._read(0.1)
            assert time.monotonic() < deadline, f"does not end: {self.text[-900:]!r}"
        while self._read(0):
            pass
        assert self.process.stdout is not None
        assert self.process.stdout.read() == b""
        return self.process.returncode

    def _read(self, timeout: float) -> bool:
        if not select.select([self.master], [], [], timeout)[0]:
            return False
        self.bytes += os.read(self.master, 65536)
        return True

    def screen(self) -> str:
        """What such a terminal shows: of control sequences, only colours and the erasure of a line are known to it."""
        lines = [""]
        for piece in re.findall(r"\n|\r\x1b\[K|\x1b\[[\d;]*m|[^\x1b\r\n]+", self.text):
            if piece == "\n":
                lines.append("")
            elif piece[0] == "\r":
                lines[-1] = ""
            elif piece[0] != "\x1b":
                lines[-1] += piece
        assert not re.sub(r"\r\x1b\[K|\x1b\[[\d;]*m|[^\x1b\r]", "", self.text), "other control characters"
        return "\n".join(lines)

    def colours(self) -> set[str]:
        found = {number for numbers in _SGR.findall(self.text) for number in numbers.split(";")}
        return found - {"", "0", "1", "2"}


def creation(verbosity: str = "normal", frames: tuple[str, ...] = FRAMES, **extra: str) -> Terminal:
    extra |= {"SEEN": "by the test"} if frames else {}
    with Terminal(CREATION, verbosity, extra=extra) as terminal:
        for frame in frames:
            terminal.answer(frame)
        assert terminal.finish() == 0
        assert termios.tcgetattr(terminal.slave) == terminal.modes
        return terminal


def run(script: str, verbosity: str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", script, verbosity]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=variables(**extra))


def piped(script: str, verbosity: str, **extra: str) -> str:
    done = run(script, verbosity, **extra)
    assert (done.returncode, done.stdout) == (0, b"")
    return done.stderr.decode()


@pytest.mark.parametrize(("verbosity", "lines"), [("normal", WARNING), ("verbose", WARNING + NOTE)])
def test_a_live_display_leaves_no_trace(verbosity: str, lines: str) -> None:
    terminal = creation(verbosity)
    assert terminal.colours()
    assert terminal.screen() == lines + RESULT


def test_a_download_of_unknown_size_shows_its_rate() -> None:
    script = """
go_on = threading.Thread(target=sys.stdin.readline)
go_on.start()
with voice.progress() as progress:
    progress.stage("Downloading")
    done = 0
    while go_on.is_alive():
        done += 1_000_000
        progress.download(done, None)
        go_on.join(0.01)
"""
    with Terminal(START + script) as terminal:
        terminal.answer(r"Downloading  [\d.]+ [MG]B  [\d.]+ [MG]B/s  0:")
        assert terminal.finish() == 0
        assert terminal.screen() == ""


def test_no_color_removes_only_colours() -> None:
    terminal = creation(NO_COLOR="1")
    assert not terminal.colours()
    assert terminal.screen() == WARNING + RESULT


def test_progress_works_on_an_ascii_terminal() -> None:
    frames = tuple(frame.replace("━", "-").replace("…", "") for frame in FRAMES)
    terminal = creation(frames=frames, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert terminal.bytes.isascii()
    assert terminal.screen() == WARNING + RESULT


@pytest.mark.parametrize("columns", [1, 12, 30])
def test_a_narrow_terminal_gets_lines_that_fit(columns: int) -> None:
    script = START + "with voice.progress() as p:\n p.stage('Downloading \u6f22\u5b57'); p.download(5, 7)\n input()"
    with Terminal(script, columns=columns) as terminal:
        terminal.answer("0:" if columns > 6 else "\x1b.K[^\r]*\r")
        assert terminal.finish() == 0
        frames = _SGR.sub("", terminal.text).split("\r\x1b[K")
        assert len(frames) > 2 and frames[0] == frames[-1] == ""
        assert max(len(frame) + len(re.findall("[\u6f22\u5b57]", frame)) for frame in frames) <= max(1, columns - 1)


@pytest.mark.parametrize("extra", [{"TERM": "dumb"}, {"CI": "true"}])
def test_a_dumb_terminal_gets_lines_only(extra: dict[str, str]) -> None:
    assert creation(frames=(), **extra).text == WARNING + RESULT
    verbose = creation("verbose", (), **extra).text
    assert verbose.startswith(PLAIN + WARNING + NOTE + PYPI) and verbose.endswith("x\n" + RESULT)
    assert "\x1b" not in verbose and "\r" not in verbose


def test_quiet_prints_no_progress() -> None:
    assert piped(CREATION, "quiet") == "" == creation("quiet", ()).text


def test_a_pipe_gets_stages_with_v_and_otherwise_warnings_and_confirmations() -> None:
    assert piped(CREATION, "normal", FORCE_COLOR="1") == WARNING + RESULT
    verbose = piped(CREATION, "verbose", FORCE_COLOR="1", TTY_COMPATIBLE="1")
    assert verbose.startswith(PLAIN + WARNING + NOTE) and verbose.endswith(RESULT)


def test_rich_is_loaded_only_to_draw() -> None:
    script = CREATION + "assert not [each for each in sys.modules if each.partition('.')[0] in ('rich', 'typer')]"
    assert piped(script, "verbose").endswith(RESULT)
    assert creation("normal", (), CI="1").text == WARNING + RESULT


def test_control_c_ends_the_display() -> None:
    script = """
try:
    with voice.progress() as progress:
        progress.stage("Solving")
        sys.stdin.readline()
        drawing = next(each for each in threading.enumerate() if each is not threading.main_thread())
        status = f"/proc/self/task/{drawing.native_id}/status"
        if os.path.exists(status):  # signals are left to the main thread
            blocked = [int(line.split()[1], 16) for line in open(status) if line.startswith("SigBlk")]
            assert blocked[0] >> signal.SIGINT - 1 & 1 and blocked[0] >> signal.SIGTERM - 1 & 1
        progress.stage("Downloading")
        signal.pause()
except KeyboardInterrupt:
    progress.stage("Linking")
    assert threading.active_count() == 1
    voice.say("interrupted")
    sys.exit(130)
"""
    with Terminal(GOVERNED + script) as terminal:
        terminal.answer("Solving  0:")
        terminal.wait_for("Downloading  0:")
        os.write(terminal.master, b"\x03")
        assert terminal.finish() == 130
        assert termios.tcgetattr(terminal.slave) == terminal.modes
        assert terminal.screen().replace("^C", "") == "interrupted\n"


def test_a_job_in_the_background_does_not_draw_on_the_shell() -> None:
    script = """
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os.setpgid(0, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
with voice.progress() as progress:
    progress.stage("Solving")
    time.sleep(0.5)  # frames that must not be seen
    voice.say("in the background")
    os.tcsetpgrp(2, os.getpgrp())
    sys.stdin.readline()
"""
    with Terminal(GOVERNED + script) as terminal:
        terminal.answer("^in the background\n[^\n]*Solving")
        assert terminal.finish() == 0
        assert terminal.screen() == "in the background\n"


def test_threads_can_report_progress_at_any_rate_and_after_its_end() -> None:
    script = """
failed = []
threading.excepthook = failed.append
with voice.progress() as progress:
    def tell():
        for number in range(5000):
            progress.stage(f"Stage {number % 7}")
            progress.packages(number)
            progress.download(number - 9, number % 3 - 1 or None)
            progress.link(number, number % 5 - 1)
        progress.stage("Done")
    threads = [threading.Thread(target=tell) for _ in range(4)]
    [each.start() for each in threads]
    [each.join() for each in threads]
    sys.stdin.readline()
tell()
progress.note("late")
progress.wait("late")
assert not failed, failed
"""
    with Terminal(START + script) as terminal:
        terminal.answer("Done ")
        assert terminal.finish() == 0
        assert terminal.screen() == ""
    lines = piped(START + script, "verbose").splitlines()
    assert [line for line in lines if not line.startswith("Downloaded")].count("Stage 3") == 1
    assert "late" not in lines and "Waiting for late ..." not in lines


BREAKS = {
    "gone": "sys.stderr = None",
    "closed": "sys.stderr.close()",
    "no descriptor": "os.close(2)",
    "a broken pipe": "r, w = os.pipe(); os.dup2(w, 2); os.close(r)",
    "a full disk": "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("how", BREAKS)
def test_a_closed_standard_error_does_not_stop_a_run(how: str, late: bool) -> None:
    if how == "a full disk" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    opening = START.replace("voice =", "BREAK\nvoice =") if not late else START + "BREAK\n"
    script = CREATION.replace(START, opening).replace("BREAK", BREAKS[how]) + "print('made')"
    done = run(script, "verbose")
    # Python itself ends with 120 where it cannot flush its standard error; cetool has left nothing in there
    assert (done.stdout, done.returncode) == (b"made\n", 0)


def test_a_terminal_that_closes_does_not_stop_a_run() -> None:
    script = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with voice.progress() as progress:
    progress.stage("Solving")
    sys.stdin.readline()
    voice.warn("unheard")
    next(each for each in threading.enumerate() if each is not threading.main_thread()).join()
    progress.stage("Linking")
"""
    with Terminal(START + script) as terminal:
        terminal.wait_for("Solving  0:")
        os.close(terminal.slave)
        terminal.slave = os.open(os.devnull, os.O_RDWR)
        os.close(terminal.master)
        terminal.master = -1
        assert terminal.process.communicate(b"\n", timeout=PATIENCE)[0] == b""
        assert terminal.process.returncode == 0


def test_a_line_is_a_line_and_hides_credentials() -> None:
    assert plain("a\r\nb\tc\x00\x7f\x9b31md\u202ee \x1b]8;;http://x\x1b\\f\x1b(Bg") == "a b cde fg"
    assert plain("from https://me:secret@host/t/tk-1/x") == "from https://***@host/t/***/x"
    assert plain("\x1b[1m" * 3000 + "x y https://me:secret@host" * 9000).count("secret") == 0
    assert len(plain("word " * 10000)) <= 4004
    assert plain("y" * 100_000) == "..."


def test_any_text_stream_gets_lines_by_verbosity() -> None:
    for verbosity, shown in (("quiet", ""), ("normal", "say\ncetool: warning: warn\n")):
        text = io.StringIO()
        voice = Voice(verbosity, {}, text)
        for tell in (voice.say, voice.detail, voice.block, voice.warn):
            tell(tell.__name__)
        assert text.getvalue() == shown
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    voice = Voice("verbose", {}, stream)
    voice.detail("caf\u00e9 \udc80")
    with voice.progress() as progress:
        progress.stage("Solving")
    voice.block("  a\x1b[K\n\n  b")
    assert isinstance(stream.buffer, io.BytesIO)
    assert stream.buffer.getvalue() == b"caf\\xe9 \\udc80\nSolving\n  a\n\n  b\n"


def test_a_terminal_shows_progress_and_is_restored(home: Home, slow: ChannelServer) -> None:
    import pty

    script = home.write("heavy.sh", HEAVY)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    env = home.environment({"TERM": "xterm", "COLUMNS": "100"})
    process = subprocess.Popen(
        ["cetool", "run", str(script)], env=env, stdin=slave, stdout=subprocess.PIPE, stderr=slave
    )
    shown = b""
    while process.poll() is None or select.select([master], [], [], 0.2)[0]:
        if select.select([master], [], [], 0.2)[0]:
            shown += os.read(master, 65536)
    assert process.stdout is not None
    assert process.stdout.read().startswith(b"hello from ") and process.returncode == 0, shown
    assert termios.tcgetattr(slave) == before
    process.stdout.close()
    os.close(master)
    os.close(slave)
    text = shown.decode()
    assert "Downloading" in text
    assert re.search(r"Created [0-9a-f]{20} \(hello-bin, bigpkg, many-files; 3 packages, [\d.]+ MB\) in ", text)
    assert "\x1b[?25l" not in text  # the cursor was never hidden


def test_long_work_of_any_kind_shows_how_much_is_done() -> None:
    script = """
with voice.progress() as progress:
    progress.stage("Verifying abc")
    progress.count(3, 10, "file")
    sys.stdin.readline()
    progress.stage("Solving")
    sys.stdin.readline()
    progress.link(1, 2)
    sys.stdin.readline()
"""
    for extra in ({}, {"NO_COLOR": "1"}):
        with Terminal(START + script, extra=extra) as terminal:
            terminal.answer(r"Verifying abc  ━+ *  3 of 10 files  0:")
            terminal.answer(r"Solving  ━+ *  3 of 10 files  0:")
            terminal.answer(r"Solving  ━+ *  1 of 2 packages  3 of 10 files  0:")
            assert terminal.finish() == 0
            assert terminal.screen() == ""
            assert bool(terminal.colours()) is not bool(extra)


def test_short_work_shows_nothing_and_does_not_load_rich() -> None:
    script = START + "with voice.progress() as p:\n p.stage('Verifying'); p.count(1, 2, 'file')\n"
    script += "assert not [each for each in sys.modules if each.partition('.')[0] == 'rich']"
    with Terminal(script) as terminal:
        assert terminal.finish() == 0
        assert terminal.text == ""


COUNTS = """
import os, sys
from contextlib import nullcontext, suppress
from cetool.base.errors import CetoolError
from cetool.app.collecting import collect
from cetool.app.environments import remove
from cetool.app.exporting import Wanted, export
from cetool.app.locking import LockWish, lock
from cetool.app.reporting import SilentReporter
from cetool.app.verifying import verify
from cetool.app.world import load_world
from cetool.engines.protocol import SilentProgress
from cetool.store.gc import Policy

seen = {}
class Counting(SilentProgress):
    def wait(self, holder): pass
    def stage(self, text): seen.setdefault(text.split()[0], set())
    def count(self, done, total, unit): seen.setdefault(unit, set()).add(total)
class Reporter(SilentReporter):
    def progress(self): return nullcontext(Counting())

wish = LockWish(("linux-64", "osx-arm64"), False, frozenset(), None, False, None, None, (), None, False)
world, reporter = load_world({}, own_process=True), Reporter()
first, second = sys.argv[1:]
list(verify([first], world, reporter))
export(Wanted(first, "explicit", (), None, (), None, None), world, reporter)
with suppress(CetoolError):  # the channel has no Python for the other one
    lock("s.sh", wish, world, reporter, insecure=False, sha256=None)
remove([first, second], world, reporter, insecure=False)
collect(Policy(everything=True), world, reporter, dry_run=False)
print(sorted(seen))
"""


def test_verification_export_locks_removal_and_collection_report_progress(home: Home) -> None:
    home.write("s.sh", "#!/bin/sh\n# conda execute\n# env: [six]\ntrue\n")
    made = [home.cetool("create", name).stdout.strip().rpartition("/")[2] for name in ("hello-bin", "activated")]
    done = home.run(sys.executable, "-c", COUNTS, *made)
    assert done.returncode == 0, done.stderr
    for sign in ("Verifying", "file", "Reading", "platform", "Removing", "environment", "Collecting", "item"):
        assert repr(sign) in done.stdout

"""Shows on standard error how far long work is, as much as the verbosity and the terminal allow.

Whole lines are printed unchanged. While work takes longer than a moment, a terminal shows below them one line that is
redrawn ten times a second: a spinner, the stage, a bar, how much is done, and the time that the stage has taken. rich
lays it out and colours it, but does not write it (``Console.capture``): its own live display hides the cursor, which a
killed or suspended process leaves hidden, measures standard input, and answers a broken pipe by redirecting standard
output.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic

from cetool.app.reporting import plain
from cetool.base.text import counted
from cetool.cli.output import Output

_TICK = 0.1
#: Seconds before anything is shown.
_DELAY = 0.4
#: Seconds over which a rate is taken.
_RATE_SPAN = 5.0
#: The stages in which the number of packages means something.
_COUNTED = ("Downloading", "Linking")


class CreationProgress:
    """Progress as a line on a terminal, or with ``-v`` as lines elsewhere.

    Any thread may call its methods, thousands of times a second, even after the display has ended.
    """

    def __init__(
        self, detail: Callable[[str], None], out: Output, live: Mapping[str, str] | None, *, lines: bool
    ) -> None:
        """``live`` is the environment whose terminal is drawn on; where it is None, ``lines`` go to ``detail``."""
        self._detail = detail
        self._out = out
        self._live = live
        self._lines = live is None and lines
        # setting one attribute to a new object needs no lock; lines need one, to be printed once and in order
        self._stage = _Stage("")
        self._count = 0
        self._whole = (0, 0, "")  # of all the work, whatever its stages: done, total, the noun
        self._lock = threading.RLock()
        self._told: set[str] = set()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def stage(self, text: str) -> None:
        """A new stage begins; what was counted in the last one is over."""
        last = self._stage
        if text == last.name or self._ended.is_set():
            return
        if not self._lines:
            self._stage = _Stage(text)
            return
        with self._lock:
            if text != self._stage.name:
                self._close_stage()
                self._stage = _Stage(text)
                line = self._stage.text
                if line == "Linking" and self._count:
                    line = f"Linking {counted(self._count, 'package')}"
                if line and line not in self._told:
                    self._told.add(line)
                    self._detail(line)

    def packages(self, count: int) -> None:
        """So many packages will be linked."""
        self._count = count

    def download(self, done: int, total: int | None) -> None:
        """So many bytes of all have come."""
        self._stage.downloaded = (done, total)

    def link(self, done: int, total: int) -> None:
        """So many packages of all are linked."""
        self._stage.linked = (done, total)

    def count(self, done: int, total: int, unit: str) -> None:
        """So many of ``total`` things are done; ``unit`` is the noun for one of them."""
        self._whole = (done, total, unit)

    def written(self) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """A sentence for ``-v``."""
        if not self._ended.is_set():
            self._detail(text)

    def wait(self, holder: str) -> None:
        """Another process makes the environment; ``holder`` says which, and may be empty."""
        self.stage(f"Waiting for {holder or 'another cetool'} ...")

    def begin(self) -> None:
        """Start to draw, where there is something to draw on."""
        if self._live is not None:
            self._thread = threading.Thread(target=self._draw, args=(self._live,), daemon=True)
            with suppress(RuntimeError):  # out of threads: nothing is shown
                self._thread.start()

    def end(self) -> None:
        """Leave nothing of what was drawn."""
        try:
            with self._lock:
                self._close_stage()
        finally:
            self._ended.set()
            self._out.erase()
        # a script may be executed next: not beside a thread, though one that hangs on a terminal is not waited for
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join(1.0)

    def _close_stage(self) -> None:
        """After a download tell its size: only now is it known, engines begin with what they happen to know."""
        done = self._stage.downloaded[0]
        if self._lines and done > 0:
            self._stage.downloaded = (0, None)
            self._detail(f"Downloaded {_amount(done)}")

    def _draw(self, environ: Mapping[str, str]) -> None:
        if hasattr(signal, "pthread_sigmask"):  # signals are for the main thread, which Python handles them in
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if self._ended.wait(_DELAY):  # short work shows nothing, and does not load rich
            return
        painter = _Painter(self._out, environ)
        while not painter.useless:
            stage = self._stage
            if stage.text:
                frame = painter.frame(stage, self._count, self._whole)
                with self._out.lock:
                    if not self._ended.is_set():
                        self._out.draw(frame)
            if self._ended.wait(_TICK):
                return


class _Stage:
    """A stage and how far it is: ``downloaded`` in bytes, ``linked`` in packages, each with its total."""

    __slots__ = ("began", "downloaded", "linked", "name", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = plain(name)
        self.began = monotonic()
        self.downloaded: tuple[int, int | None] = (0, None)
        self.linked: tuple[int, int] = (0, 0)


class _Painter:
    """Makes frames: a stage as one line with colours, as wide as the terminal is."""

    def __init__(self, out: Output, environ: Mapping[str, str]) -> None:
        # a tenth of a second that only those who see a display pay, beside the engine's work
        from rich.console import Console
        from rich.text import Text

        self._out = out
        # the file is only asked for its encoding; that it is a terminal fit for this has been settled
        self._console = Console(file=out.stream, force_terminal=True, force_jupyter=False, _environ=environ)
        self._ascii = not self._console.encoding.startswith("utf")
        self._turning = "|/-\\" if self._ascii else "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
        self._text = Text
        self._stage: _Stage | None = None
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def useless(self) -> bool:
        """There is nothing to draw on, or it does not know how a line is erased."""
        return self._out.stream is None or self._console.legacy_windows

    def frame(self, stage: _Stage, count: int, whole: tuple[int, int, str]) -> str:
        """The line for a stage of an environment of ``count`` packages (0: not known), and of the ``whole`` work."""
        now = monotonic()
        facts, share = self._facts(stage, count, now)
        if whole[1] > 0:
            facts.append(f"{whole[0]} of {counted(whole[1], whole[2])}")
            share = whole[0] / whole[1] if share is None else share
        facts.append(_clock(now - stage.began))
        # the last column stays free: some terminals go to the next line as soon as it is written to
        width = max(1, self._out.width - 1)
        while len(facts) > 1 and width - len("  ".join(facts)) < 20:
            del facts[-2]
        tail = "  " + "  ".join(facts)
        room = max(0, width - len(tail) - 2)
        head = self._text(stage.text, style="bold")
        head.truncate(room, overflow="crop" if self._ascii else "ellipsis")
        line = self._text.assemble((self._turning[int(now / _TICK) % len(self._turning)], "cyan"), " ", head)
        bar = min(30, room - head.cell_len - 2)
        if share is not None and bar >= 8:
            full = int(bar * share)
            stroke = "-" if self._ascii else "━"
            # without colours what is missing would look like what is there
            empty = " " if self._console.no_color or self._console.color_system is None else stroke
            line.append("  ").append(stroke * full, style="bar.complete").append(empty * (bar - full), style="bar.back")
        line.append(tail, style="cyan")
        self._console.size = (width, 1)
        with self._console.capture() as captured:
            self._console.print(line, end="", no_wrap=True, overflow="crop", crop=True)
        return captured.get()

    def _facts(self, stage: _Stage, count: int, now: float) -> tuple[list[str], float | None]:
        """What is known of a stage, the most telling first, and how much of it is done (0 to 1)."""
        facts: list[str] = []
        done, total = stage.downloaded
        linked, packages = stage.linked
        if done > 0 or total:
            facts.append(_amount(done, total))
            if rate := self._rate(stage, done, now):
                facts.append(f"{_amount(rate)}/s")
        if packages > 0:
            facts.append(f"{linked} of {counted(packages, 'package')}")
        elif count > 0 and stage.text.startswith(_COUNTED):
            facts.append(counted(count, "package"))
        part, whole = (done, total) if done > 0 or total else (linked, packages)
        return facts, min(1.0, max(0.0, part / whole)) if whole else None

    def _rate(self, stage: _Stage, done: int, now: float) -> int:
        """Bytes a second of late; 0 where that cannot be said yet."""
        samples = self._samples
        if stage is not self._stage or (samples and done < samples[-1][1]):
            self._stage = stage
            samples.clear()
        samples.append((now, done))
        while now - samples[0][0] > _RATE_SPAN:
            samples.popleft()
        span = now - samples[0][0]
        return int((done - samples[0][1]) / span) if span >= 0.5 else 0


def _amount(done: int, total: int | None = None) -> str:
    """Bytes in the unit of the larger number: ``45.1/210 MB``."""
    size = float(max(done, total or 0))
    scale = 1.0
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
        scale *= 1000
    numbers = [done] if not total else [done, total]
    return "/".join(f"{each / scale:.{1 if scale > 1 and each < 100 * scale else 0}f}" for each in numbers) + f" {unit}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""Record a cold and a warm run as an animated picture, ``docs/assets/cold-run.svg``: ``nox -s record`` runs this.

The runs are real: cetool installs from the demo channel, in a new home directory. What it prints goes through a
terminal emulator, and each screen becomes a frame.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from pathlib import Path

import pyte

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.channel import shared_channel  # noqa: E402
from support.home import Home, make_home, remove_home  # noqa: E402

COLUMNS, ROWS = 88, 15
#: Pixels of a character, and around the terminal.
WIDTH, HEIGHT, MARGIN = 8.4, 19, 14
#: Seconds between two frames at least, for a key, after a command, and at the end.
FRAME, KEY, PAUSE, END = 0.08, 0.05, 1.2, 4.0
COLOURS = {
    "default": "#d7dae0", "black": "#5c6370", "red": "#e06c75", "green": "#98c379", "brown": "#d5b06b",
    "blue": "#61afef", "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#ffffff",
}  # fmt: skip
SCRIPT = """\
# conda execute
# env: [python >=3, numpy]
import numpy as np

print(np.random.poisson(size=5))
"""
COMMANDS = ("cat my_script.py", "cetool run my_script.py", "cetool run my_script.py")


@dataclass
class Film:
    """The frames of a terminal, each with the seconds for which it is seen."""

    screen: pyte.Screen = field(default_factory=lambda: pyte.Screen(COLUMNS, ROWS))
    frames: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stream = pyte.ByteStream(self.screen)

    def show(self, data: bytes, seconds: float) -> None:
        """Print on the terminal; the screen is then seen for so long."""
        self._stream.feed(data)
        picture = draw(self.screen)
        if self.frames and (self.frames[-1][0] == picture or self.frames[-1][1] < FRAME):
            last, before = self.frames.pop()
            seconds += before
            picture = picture if last != picture else last
        self.frames.append((picture, seconds))

    def run(self, command: str, home: Home) -> None:
        """Type a command and run it."""
        self.show(b"\x1b[32m$\x1b[0m ", PAUSE / 2)
        for key in command:
            self.show(key.encode(), KEY)
        self.show(b"\r\n", FRAME)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        env = home.environment({"TERM": "xterm-256color", "CETOOL_ENGINE": "rattler", "COLUMNS": None})
        with subprocess.Popen(
            ["bash", "-c", command], cwd=home.path, env=env, stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            begun = time.monotonic()
            while data := read(ours):
                now = time.monotonic()
                if self.frames:
                    picture, seconds = self.frames[-1]
                    self.frames[-1] = (picture, seconds + now - begun)
                begun = now
                self.show(data.replace(str(home.path).encode(), b"/home/user"), 0)
        os.close(ours)
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}")
        self.show(b"", PAUSE)


def read(terminal: int) -> bytes:
    """Read what a terminal shows; nothing at its end."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def draw(screen: pyte.Screen) -> str:
    """Draw the screen's characters as SVG texts."""
    rows = []
    for number in range(ROWS):
        line = [screen.buffer[number][column] for column in range(COLUMNS)]
        at = 0
        for (colour, bold), group in groupby(line, key=lambda each: (each.fg, each.bold)):
            text = "".join(each.data for each in group)
            if shown := text.strip():
                x, y = MARGIN + (at + len(text) - len(text.lstrip())) * WIDTH, MARGIN + 24 + (number + 0.75) * HEIGHT
                fill = COLOURS.get(colour, f"#{colour}" if len(colour) == 6 else COLOURS["default"])
                weight = ' font-weight="bold"' if bold else ""
                size = f'textLength="{len(shown) * WIDTH:.1f}"'
                rows.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}"{weight} {size}>{escape(shown)}</text>')
            at += len(text)
    return "".join(rows)


def animate(frames: list[tuple[str, float]]) -> str:
    """Make one SVG of the frames: side by side, moved past a window. Without animation the last one is seen."""
    width, height = COLUMNS * WIDTH + 2 * MARGIN, ROWS * HEIGHT + 2 * MARGIN + 24
    total = sum(seconds for _, seconds in frames)
    steps, passed = [], 0.0
    for number, (_, seconds) in enumerate(frames):
        steps.append(f"{passed / total:.3%}{{transform:translateX({-number * width:.1f}px)}}")
        passed += seconds
    film = "".join(f'<g transform="translate({at * width:.1f})">{text}</g>' for at, (text, _) in enumerate(frames))
    last = -(len(frames) - 1) * width
    dots = "".join(
        f'<circle cx="{MARGIN + 6 + 18 * at}" cy="{MARGIN + 4}" r="5.5" fill="{fill}"/>'
        for at, fill in enumerate(("#e06c75", "#d5b06b", "#98c379"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
        "<title>The first run of a script makes its environment, the second one starts at once</title><style>"
        f"text{{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}}"
        f".film{{animation:play {total:.2f}s step-end infinite}}"
        f"@media(prefers-reduced-motion:reduce){{.film{{animation:none}}}}@keyframes play{{{''.join(steps)}}}"
        f'</style><rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#282c34"/>{dots}'
        f'<svg width="{width:.0f}" height="{height:.0f}">'
        f'<g class="film" transform="translate({last:.1f})">{film}</g></svg></svg>\n'
    )


def main() -> int:
    """Record the commands and write the picture."""
    channel = shared_channel()
    directory = Path(tempfile.mkdtemp(prefix="cetool-record-"))
    home = make_home(directory / "home", channel)
    home.write("my_script.py", SCRIPT)
    film = Film()
    try:
        for command in COMMANDS:
            film.run(command, home)
    finally:
        remove_home(home)
        shutil.rmtree(directory, ignore_errors=True)
    film.show(b"\x1b[32m$\x1b[0m ", END)
    target = ROOT / "docs/assets/cold-run.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text(animate(film.frames), encoding="utf-8")
    print(f"Wrote {target} ({len(film.frames)} frames, {target.stat().st_size / 1000:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Control a program on a terminal, as a user at a keyboard does."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

from support.home import Home


def converse(
    home: Home,
    words: Sequence[str | os.PathLike[str]],
    lines: Sequence[str],
    *,
    prompt: str,
    env: Mapping[str, str | None] | None = None,
) -> tuple[int, str]:
    """Run a command on a terminal, and type the lines at its prompt: return its status and the terminal's output."""
    ours, theirs = pty.openpty()
    shown = bytearray()
    try:
        with subprocess.Popen(
            [os.fspath(word) for word in words],
            cwd=home.path,
            env=home.environment(env),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_own_the_terminal,
        ) as process:
            os.close(theirs)
            try:
                waiting = list(lines)
                while part := _read(ours):
                    shown += part
                    if waiting and prompt.encode() in shown:
                        os.write(ours, "".join(f"{line}\n" for line in waiting).encode())
                        waiting = []
            except BaseException:
                process.kill()
                raise
        return process.returncode, shown.decode(errors="replace").replace("\r\n", "\n")
    finally:
        os.close(ours)


def _own_the_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read(terminal: int, seconds: float = 120.0) -> bytes:
    deadline = time.monotonic() + seconds
    while not select.select([terminal], [], [], 1.0)[0]:
        assert time.monotonic() < deadline, "nothing more is shown"
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's error when no process has the other side open
        return b""

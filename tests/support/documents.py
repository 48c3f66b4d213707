"""Runs what a Markdown file shows: its files are written, its commands run as a user sees them, on a terminal.

A ``console`` block has commands after a ``$`` and what they print; ``cat NAME`` shows a file, and so does a block of
any language with ``title="NAME"``. A comment in front of a block says what it needs: ``<!-- test: needs PACKAGE -->``
for a package that not every test channel has, ``<!-- test: skip, REASON -->`` for what cannot run in tests.

``cetool serve`` runs on a free port until the page ends; the address and the tokens in the page stand for its own.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from cetool.declare.platforms import current_platform
from support.home import Home
from support.serving import RunningServer, running_server

_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<mark>[^\n]+) -->\n\n?)?"
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
#: The address of the server in pages, and tokens.
_ADDRESS, _TOKEN = "127.0.0.1:8484", re.compile(r"cet_[A-Za-z0-9_-]+")
#: cetool's directories are where they are by default.
_OWN_CACHE = {"CETOOL_CACHE_DIR": None, "CETOOL_DATA_DIR": None}


@dataclass(frozen=True)
class Command:
    """A command after a ``$`` and the lines that the page shows below it; or a file that the page shows."""

    line: str
    shown: str
    #: what the command's block needs, as the comment in front of it says
    mark: str = ""

    @property
    def file(self) -> str | None:
        """The name of the file whose contents the command shows (``cat NAME``), if that is what it does."""
        found = re.fullmatch(r"cat (\S+)", self.line)
        return found[1] if found else None


def commands(path: Path) -> Iterator[Command]:
    """Yield every command and file of the page, in order."""
    for block in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        mark = block["mark"] or ""
        if block["title"]:
            yield Command(f"cat {block['title']}", block["text"], mark)
        elif block["language"] == "console":
            for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
                line, _, shown = part.partition("\n")
                yield Command(line.strip(), shown, mark)


def run_page(page: Path, home: Home, has: Callable[[str], bool], without: Container[str] = ()) -> None:
    """Run what the page shows in this home, in which it stays, and compare what is printed; ``has`` knows packages.

    Commands in ``without`` are left out.
    """
    with contextlib.ExitStack() as until_the_end:
        servers: list[RunningServer] = []
        for command in commands(page):
            what, _, name = command.mark.partition(" ")
            if what == "skip," or (what == "needs" and not has(name)) or command.line in without:
                continue
            if command.line == "cetool serve":
                data = home.path / ".local/share/cetool/server"
                servers.append(until_the_end.enter_context(running_server(home, data=data, env=_OWN_CACHE)))
                assert comparable(servers[-1].log.read_text(), home) == comparable(command.shown, home)
            else:
                check(command, home, servers[-1] if servers else None)


def check(command: Command, home: Home, server: RunningServer | None = None) -> None:
    """Write the file, or run the command: it prints what is shown, and fails only if an error is shown."""
    if command.file is not None:
        home.write(command.file, command.shown)
        return
    line = command.line
    if server is not None:
        line = _TOKEN.sub(server.token, line.replace(_ADDRESS, f"{server.host}:{server.port}"))
    status, printed = run_on_terminal(line, home)
    if not re.search("^Created ", command.shown, re.MULTILINE):
        printed = re.sub(r"^Created [0-9a-f]{20} .*\n", "", printed, flags=re.MULTILINE)
    failed = re.search(r"^cetool: (?!warning)|^error: ", command.shown, re.MULTILINE) is not None
    assert (status != 0) == failed, f"$ {command.line}\nstatus {status}\n{printed}"
    if command.shown:
        assert comparable(printed, home) == comparable(command.shown, home), f"$ {command.line}\n{printed}"


def comparable(text: str, home: Home) -> str:
    """Replace what differs from machine to machine and from run to run; names of environments stay."""
    text = text.replace(str(home.path), "/home/user").replace("linux-64", current_platform())
    text = _TOKEN.sub("cet_token", re.sub(r"127\.0\.0\.1:\d+", _ADDRESS, text))
    text = re.sub(r"; \d+ packages?, [\d.]+ [kMG]B\) in [\d.]+s with \w+$", "; ...)", text, flags=re.MULTILINE)
    text = re.sub(r"\d+ (packages?|files?)\b", r"... \1", text)
    text = re.sub(r"[\d.]+ ([kMG]B)\b", r"... \1", text)
    text = re.sub(r"^(engine: +).*", r"\1...", text, flags=re.MULTILINE)
    return re.sub(r"\[[-0-9. ]+\]", "[numbers]", text)


def run_on_terminal(line: str, home: Home) -> tuple[int, str]:
    """Run a shell command to its end with both outputs on a terminal: its exit status, and what the terminal shows.

    The terminal is a dumb one, on which nothing is drawn twice, and cetool's cache is where it is by default.
    """
    ours, theirs = pty.openpty()
    shown = bytearray()
    try:
        with subprocess.Popen(
            ["bash", "-c", line],
            cwd=home.path,
            env=home.environment(_OWN_CACHE),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            while part := _read(ours):
                shown += part
        return process.returncode, shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports this once no process has the other side open
        return b""

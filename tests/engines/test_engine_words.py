"""Recorded output of conda and micromamba becomes one clear paragraph."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from support.requests import request_for

from cetool.base.errors import EngineError
from cetool.engines.explain import explain
from cetool.engines.output import CondaStages, MambaStages
from cetool.engines.protocol import EngineRequest, SilentProgress
from cetool.engines.subprocesses import Ended

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"

#: What each recorded failure has to say, in both engines' case.
SAID = {
    "04-unsat-numpy99": ("numpy=99", "was not found", "file:///srv/channel"),
    "04b-unsat-conflict": ("python=3.12", "only311", "3.11", "these packages conflict"),
    "04c-unsat-missingdep": ("broken-dep", "does-not-exist >=1"),
    "05-unknown-package": ("nosuchpackagexyz", "was not found", "file:///srv/channel"),
    "06-channel-file-nope": ("no channel at file:///nope",),
    "07-channel-http-refused": ("http://127.0.0.1:9", "cannot reach the channel", "refused"),
    "08a-malformed": ("numpy[", "rejects the match spec"),
    "24-bad-option": ("--nosuchoption", "too old"),
    "h04-404pkg": ("hello-bin-2.0-0.conda", "http://127.0.0.1:8971/404pkg", "404"),
    "h04-500": ("http://127.0.0.1:8971/500", "500 Internal Server Error"),
    "h04-auth": ("http://127.0.0.1:8971/auth", "credentials", "401"),
    "h04-badjson": ("http://127.0.0.1:8971/badjson", "while it read the package list"),
    "h04-badpkg": ("hello-bin-2.0-0.conda", "damaged", "http://127.0.0.1:8971/badpkg"),
}
CASES = [(engine, name, words) for engine in ("conda", "micromamba") for name, words in SAID.items()] + [
    ("conda", "h05-hang", ("http://127.0.0.1:8971/hang", "cannot reach the channel", "failed or timed out")),
    ("conda", "08a-malformed-json", ("numpy[", "rejects the match spec")),
    ("conda", "h04-badjson-json", ("crashed", "key must be a string")),
    ("micromamba", "13c-create-nonenv-dir", ("Non-conda folder exists at prefix",)),
]


def recorded(engine: str, name: str) -> tuple[Ended, EngineRequest]:
    """Return a recorded run: how it ended, and a request for it."""

    def read(suffix: str) -> str:
        path = TRANSCRIPTS / engine / f"{name}.{suffix}"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    command = [word for word in shlex.split(read("cmd")) if word != "--json"]
    channels = tuple(word for before, word in pairwise(command) if before == "-c")
    packages = tuple(command[command.index(channels[-1]) + 1 :]) if channels else ()
    status = int(read("rc"))
    ended = Ended(status if status >= 0 else None, -status if status < 0 else None, read("stdout"), read("stderr"))
    return ended, request_for(Path("/p"), packages, channels, Path("/logs/engine.log"))


def told(engine: str, stderr: str, *, status: int = 1, offline: bool = False, channel: str = "lab") -> EngineError:
    """Return the error for text on standard error."""
    request = request_for(Path("/p"), ("numpy >=2",), (channel,), Path("/logs/engine.log"), offline=offline)
    return explain(Ended(status, None, "", stderr), engine=engine, request=request)


@pytest.mark.parametrize(("engine", "name", "words"), CASES)
def test_a_recorded_failure_is_one_clear_paragraph(engine: str, name: str, words: tuple[str, ...]) -> None:
    """It says what is wrong and where, without the engine's advice."""
    ended, request = recorded(engine, name)
    error = explain(ended, engine=engine, request=request)
    text = f"{error.message} {error.hint}"
    for word in words:
        assert word in f"{text} {error.details}"
    assert "\n" not in text and len(error.message) < 1000
    assert not any(sign in text for sign in ("├", "└", "clean -", "issues", "libmamba", "Traceback"))
    assert error.log == "/logs/engine.log"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OSError: [Errno 28] No space left on device: '/x'", "ran out of disk space"),
        ("NoWritablePkgsDirError: No writeable pkgs directories configured.\n  - '/opt/pkgs'", "cannot write to"),
        ("PermissionError: [Errno 13] Permission denied: '/opt/conda/pkgs/x'", "cannot write to /opt/conda/pkgs/x"),
        ("\nInvalidArchiveError('Error with archive /p/pkgs/a-1-0.conda. Delete it')", "a-1-0.conda is damaged"),
        ("\nResolvePackageNotFound: \n  - numpy[version='>=2']\n", "'numpy >=2' was not found"),
        (
            "\nLibMambaUnsatisfiableError: Encountered problems while solving:\n"
            "  - nothing provides libfoo >=3 needed by numpy-2.0-0\n\nCould not solve for environment specs\n",
            "nothing provides libfoo >=3 needed by numpy-2.0-0",
        ),
        ("UnknownTrouble: the moon is in the wrong house", "the moon is in the wrong house"),
        ("", "without output"),
    ],
)
def test_other_failures_are_explained(text: str, words: str) -> None:
    """Messages of older versions of conda, full disks, and unknown messages."""
    error = told("conda", text)
    assert words in f"{error.message} {error.details}"


def test_a_crash_does_not_hide_the_reason() -> None:
    """conda with the rattler solver may print why it failed and then crash when it exits."""
    ended, request = recorded("conda", "05-unknown-package")
    error = explain(Ended(None, 6, ended.stdout, ended.stderr), engine="conda", request=request)
    assert "'nosuchpackagexyz' was not found" in error.message
    assert "SIGKILL" in explain(Ended(None, 9, "", ""), engine="conda", request=request).message


def test_errors_mention_offline() -> None:
    """A package that is not found offline may exist."""
    head = "\nPackagesNotFoundInChannelsError: The following packages are not available from current channels:"
    text = f"{head}\n\n  - numpy\n"
    error = told("conda", text, offline=True)
    assert "the cached package lists of lab" in error.message
    assert error.hint is not None and "without --offline" in error.hint
    text = "FileNotFoundError: failed to open file `/pkgs/cache/7cd2fddd.json`: No such file or directory (os error 2)"
    assert "must not be used with --offline" in told("conda", text, offline=True).message


def test_credentials_are_not_repeated() -> None:
    """Neither the engine's output nor the request's channels show them."""
    url = "https://me:geheim@host/t/TOKEN-1/lab"
    error = told("conda", f"CondaHTTPError: HTTP 401 UNAUTHORIZED for url <{url}/noarch/repodata.json>", channel=url)
    assert "geheim" not in f"{error} {error.hint}" and "TOKEN-1" not in f"{error} {error.hint}"


class _Seen(SilentProgress):
    """Progress that is collected in a list."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def stage(self, text: str) -> None:
        """Append a stage."""
        self.told.append(text)

    def packages(self, count: int) -> None:
        """Append the number of packages."""
        self.told.append(count)

    def link(self, done: int, total: int) -> None:
        """Append a linked package."""
        self.told.append((done, total))

    def note(self, text: str) -> None:
        """Append a note."""


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (
            "conda",
            ["Fetching the channels' package lists", "Solving", 3, "Downloading and extracting 21.3 MB", "Linking"],
        ),
        (
            "micromamba",
            [
                "Fetching the channels' package lists",
                "Solving",
                3,
                "Downloading and extracting 22MB",
                "Linking",
                (1, 3),
                (2, 3),
                (3, 3),
            ],
        ),
    ],
)
def test_stages_are_read_from_a_recorded_run(engine: str, told: list[object]) -> None:
    """Each once, in order, although incomplete lines are passed several times."""
    seen = _Seen()
    stages = (CondaStages if engine == "conda" else MambaStages)(seen)
    for line in recorded(engine, "02-create-cold")[0].stdout.splitlines():
        stages(line[:25], False)
        stages(line, True)
    assert seen.told == told

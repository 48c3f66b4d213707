"""Scripts for tests, and cetool processes to watch, wait for, and end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from cetool.store.store import MARKER
from support.home import Home

#: The script in the original's README, and its environment's name.
SEEDS = """\
#!/usr/bin/env python
\"\"\"
A script that uses numpy's random Poisson distribution to print 5 numbers.

\"\"\"

# conda execute
# env:
#  - python >=3
#  - numpy

import numpy as np

print(np.random.poisson(size=5))
"""
SEEDS_NAME = "ea977067a8fbeb21a594"
FIVE_NUMBERS = r"\[( ?\d+){5}\]\n"


def shell_script(body: str, env: str = "hello-bin", more: str = "") -> str:
    """Return a script for ``/bin/sh`` in an environment of these packages; ``more`` are lines of its specification."""
    return f"#!/bin/sh\n# conda execute\n# env: [{env}]\n{more}\n{body}\n"


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until the condition is true, and return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def started(
    home: Home, *args: str | os.PathLike[str], env: Mapping[str, str | None] | None = None, stdin: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run cetool alongside the test, in a process group that ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "cetool", *args],
        env=home.environment(env),
        cwd=home.path,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def bound_by_modes() -> list[str]:
    """Return the beginning of a command line whose process is bound by file modes, even if root runs the tests."""
    if os.geteuid() != 0:
        return []
    return [_setpriv(), "--bounding-set=-dac_override,-dac_read_search"]


def as_nobody_known() -> list[str]:
    """Return the beginning of a command line whose process is a user without an entry in the password database.

    It may read everything: the tests' Python may be in a directory that only root can read.
    """
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    user = ["--reuid=54321", "--regid=54321", "--clear-groups"]
    return [_setpriv(), *user, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def _setpriv() -> str:
    return shutil.which("setpriv") or pytest.skip("there is no setpriv")


def environments(home: Home) -> dict[str, float | None]:
    """Return the environments' directories with their times of creation; None for incomplete ones."""
    made: dict[str, float | None] = {}
    for directory in (home.cache / "envs").glob("*"):
        marker = directory / MARKER
        made[directory.name] = json.loads(marker.read_text())["created"] if marker.exists() else None
    return made


def held_locks(home: Home) -> list[str]:
    """Return the lock files that a process holds."""
    held = []
    for path in (home.cache / "locks").glob("*.lock"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(path.name)
    return held


def assert_nothing_half_made(home: Home) -> None:
    """Check that no incomplete environment, held lock or trash is left, and that conda knows no environment of ours."""
    assert None not in environments(home).values()
    assert held_locks(home) == []
    assert list((home.cache / "trash").glob("*")) == []
    assert_unknown_to_conda(home)


def assert_unknown_to_conda(home: Home) -> None:
    """Check that ``conda env list`` shows none of our environments."""
    registry = home.path / ".conda" / "environments.txt"
    assert str(home.cache) not in (registry.read_text() if registry.exists() else "")


def unconfirmed(text: str) -> str:
    """Return what cetool printed on standard error without its confirmations."""
    return re.sub(
        r"^(?:Created|Laid|Added|Wrote|Updated|Removed|Checked|Locked|Ended) [^\n]*\n", "", text, flags=re.MULTILINE
    )


def told(text: str) -> list[str]:
    """Check that cetool's last output is an error message, and return its lines."""
    text = unconfirmed(text)
    assert "Traceback" not in text and "defect in cetool" not in text, text
    lines = text.removesuffix("\n").split("\n")
    assert lines[0].startswith("cetool: ") and all(lines), text
    assert len([line for line in lines if line.startswith("cetool: ")]) == 1, text
    return lines

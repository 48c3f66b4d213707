"""The main job on a machine with neither conda nor a way to a channel: ``nox -s demo`` runs this.

A channel is built out of this interpreter and wheels from PyPI, and an example is run from it by the embedded engine,
in a home directory that is new and that nothing else looks at.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.channel import shared_channel  # noqa: E402
from support.home import Home, make_home  # noqa: E402


def main() -> int:
    """Show a first run, a second one, the list of environments, and their collection."""
    say("Building a small conda channel out of this Python and PyPI's numpy (once).")
    channel = shared_channel()
    directory = Path(tempfile.mkdtemp(prefix="cetool-demo-"))
    home = make_home(directory / "home", channel)
    shutil.copytree(ROOT / "examples", home.path / "examples")
    say(f"The channel is {channel.path}.\nHome, settings and environments of this demo are in {directory}.")

    say("The first run solves, downloads, links, and then prints numbers:")
    run(home, "cetool", "run", "-v", "examples/random_numbers.py")
    say("The second one finds the environment, whichever script needs it:")
    run(home, "cetool", "run", "examples/random_numbers.py")
    run(home, "cetool", "run", "examples/poisson.py")
    say("What there is, and its collection:")
    run(home, "cetool", "list")
    run(home, "cetool", "gc", "--older-than", "0s")
    run(home, "cetool", "list")
    return 0


def say(text: str) -> None:
    """Print a paragraph."""
    print(f"\n{text}", flush=True)


def run(home: Home, *command: str) -> None:
    """Show a command, run it with the terminal that this has, and say how long it took; stop where it fails."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    begun = time.perf_counter()
    status = subprocess.call(command, cwd=home.path, env=home.environment({"CETOOL_ENGINE": "rattler"}))
    if status:
        raise SystemExit(f"{shlex.join(command)} ended with {status}")
    print(f"  ({time.perf_counter() - begun:.2f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())

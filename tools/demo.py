"""Show cetool on a machine without conda and without access to a channel: ``nox -s demo`` runs this.

It builds a channel from the running interpreter and wheels from PyPI, and runs an example with the embedded engine in
a temporary home directory.
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
    """Show a first run, a second run, the list of environments, and garbage collection."""
    say("Building a small conda channel from this Python and numpy from PyPI (only once).")
    channel = shared_channel()
    directory = Path(tempfile.mkdtemp(prefix="cetool-demo-"))
    home = make_home(directory / "home", channel)
    shutil.copytree(ROOT / "examples", home.path / "examples")
    say(f"The channel is {channel.path}.\nHome, settings and environments of this demo are in {directory}.")

    say("The first run solves, downloads and links packages, then prints numbers:")
    run(home, "cetool", "run", "-v", "examples/random_numbers.py")
    say("The second run uses the same environment, and so does another script with the same packages:")
    run(home, "cetool", "run", "examples/random_numbers.py")
    run(home, "cetool", "run", "examples/poisson.py")
    say("List the environments, and remove unused ones:")
    run(home, "cetool", "list")
    run(home, "cetool", "gc", "--older-than", "0s")
    run(home, "cetool", "list")
    return 0


def say(text: str) -> None:
    """Print a paragraph."""
    print(f"\n{text}", flush=True)


def run(home: Home, *command: str) -> None:
    """Show a command, run it on the terminal, and print how long it took; stop if it fails."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    begun = time.perf_counter()
    status = subprocess.call(command, cwd=home.path, env=home.environment({"CETOOL_ENGINE": "rattler"}))
    if status:
        raise SystemExit(f"{shlex.join(command)} failed with exit status {status}")
    print(f"  ({time.perf_counter() - begun:.2f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())

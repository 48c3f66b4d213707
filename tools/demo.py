"""Show cetool on a machine without conda and without access to a channel: ``nox -s demo`` runs this.

It builds a channel from the running interpreter and wheels from PyPI, and runs an example with the embedded engine in
a temporary home directory. Then it starts a server, and runs a script on two "machines", which are two home
directories: the first one sends the server what it solved, the second one has no channel.
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

from support.channel import Channel, shared_channel  # noqa: E402
from support.home import Home, make_home  # noqa: E402
from support.serving import running_server  # noqa: E402


def main() -> int:
    """Show a first run, a second run, the list of environments, garbage collection, and a server."""
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
    share(directory, channel)
    return 0


def share(directory: Path, channel: Channel) -> None:
    """Show a server, a machine that solves, and a machine without a channel that links the same packages."""
    first, second = (make_home(directory / name, channel) for name in ("machine-a", "machine-b"))
    for machine in (first, second):
        shutil.copytree(ROOT / "examples", machine.path / "examples")
    say("Start a server, which may build from the channel, and log in on machine A:")
    shown = f"cetool serve  # CETOOL_SERVER_CHANNELS_ALLOWED=conda-forge,{channel.root.as_uri()}/*"
    print(f"\n$ {shown}", flush=True)
    allowed = {"CETOOL_SERVER_CHANNELS_ALLOWED": f"conda-forge,{channel.root.as_uri()}/*"}
    with running_server(make_home(directory / "server", channel), env=allowed) as server:
        print(server.log.read_text(), end="", flush=True)
        run(first, "cetool", "login", server.url, "--token", server.token)
        say("Machine A solves and runs the script, then sends the server the packages in the background:")
        run(first, "cetool", "run", "-v", "examples/random_numbers.py")
        while not server.get("/cetool/1/builds").json["builds"]:
            time.sleep(0.1)
        server.wait(1)
        say("Machine B has no channel. It links the server's packages, without solving:")
        second.condarc.write_text("channel_alias: http://127.0.0.1:9\nchannels: [conda-forge]\n", encoding="utf-8")
        run(second, "cetool", "login", server.url, "--token", server.token)
        run(second, "cetool", "run", "-v", "examples/random_numbers.py")
        run(second, "cetool", "list")
        say("Environments can have names, under which any script runs:")
        run(first, "cetool", "env", "create", "team/numbers", "python", "numpy")
        (second.path / "sum.py").write_text("import numpy\nprint(numpy.arange(10).sum())\n", encoding="utf-8")
        run(second, "cetool", "run", "--env", "team/numbers", "sum.py")


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

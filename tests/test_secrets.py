"""Passwords and tokens in channels: they reach the server, and are neither shown nor stored."""

from __future__ import annotations

import re
import time

import pytest
from engines import install_fakes
from support.home import Home
from support.scripts import assert_unknown_to_conda, shell_script
from support.server import ChannelServer


@pytest.mark.parametrize("engine", ["rattler", "conda", "micromamba"])
def test_credentials_are_nowhere_to_be_seen(home: Home, server: ChannelServer, engine: str) -> None:
    if engine != "rattler":
        install_fakes(home.bin, engine)
    server.token, server.credentials = "tk-sEcReT", ("user", "pw-sEcReT")
    if engine == "conda":  # its fake knows no token in a URL
        server.token = None
    channel = f"{server.secret_url}/conda-forge"
    script = home.write("secret.sh", shell_script("hello", more=f"# channels: ['{channel}']"))
    outputs = [
        home.cetool(*words)
        for words in (
            ("show", script),
            ("show", "--json", script),
            ("run", "-v", script),
            ("run", "-v", "--refresh", script),
            ("create", "-v", "hello-bin", "--channel", channel),
            ("list",),
            ("list", "--json"),
            ("name", "--json", script),
        )
    ]
    assert [done.returncode for done in outputs] == [0] * len(outputs), outputs
    outputs.append(home.cetool("info", "--json", env={"CETOOL_CHANNELS": channel}))
    outputs.append(home.cetool("config", "list", env={"CETOOL_CHANNELS": channel}))
    # wrong ones are not shown either
    wrong = channel.replace("sEcReT", "wRoNg")
    outputs.append(home.cetool("create", "-v", "six", "--channel", wrong))
    assert outputs[-1].returncode == 125
    outputs.append(home.cetool("create", "six", "--channel", f"{wrong} x"))
    outputs.append(home.cetool("run", home.write("b.sh", shell_script("", more=f"# channels: ['{wrong}', [x]]"))))
    outputs.append(home.cetool("gc", "--all"))
    for done in outputs:
        assert not re.search("sEcReT|wRoNg", done.stdout + done.stderr), done
    assert_not_stored(home)
    assert_unknown_to_conda(home)


@pytest.mark.parametrize("where", ["variable", "condarc"])
def test_credentials_of_the_configuration_are_not_stored(home: Home, server: ChannelServer, where: str) -> None:
    server.credentials = ("user", "pw-sEcReT")
    channel = f"{server.secret_url}/conda-forge"
    env: dict[str, str | None] = {"CETOOL_CHANNELS": channel}
    if where == "condarc":
        env = {"LAB_PASSWORD": "pw-sEcReT"}
        home.condarc.write_text(f"channels: ['{channel.replace('pw-sEcReT', '${LAB_PASSWORD}')}']\n")
    script = home.write("hello.sh", shell_script("hello"))
    for _ in range(2):
        done = home.cetool("run", script, env=env)
        assert done.stdout.startswith("hello from "), done.stderr
        time.sleep(0.1)  # what was just written is not trusted to be settled: only the second run may write it down
    assert_not_stored(home)


def assert_not_stored(home: Home) -> None:
    """No file that cetool keeps holds a secret; the engines' own caches of packages are theirs."""
    for path in home.cache.rglob("*"):
        assert "sEcReT" not in path.name
        if path.is_file() and not path.is_relative_to(home.cache / "pkgs"):
            assert not re.search(b"sEcReT|wRoNg", path.read_bytes()), path

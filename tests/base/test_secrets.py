"""Passwords and tokens in channels: they reach the server, and are neither shown nor stored."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from engines import install_fakes
from support.channel import Channel
from support.home import Home
from support.locked import lock_script, locked
from support.scripts import assert_unknown_to_conda, shell_script
from support.server import ChannelServer, serving


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


@pytest.mark.parametrize("engine", ["rattler", "conda", "micromamba"])
def test_a_password_goes_to_its_own_port_only(
    home: Home, server: ChannelServer, local_channel: Channel, channel: Path, engine: str
) -> None:
    """A lock names packages on another port of the host; conda, which cannot keep them apart, is not asked at all."""
    if engine != "rattler":
        install_fakes(home.bin, engine)
    server.credentials = ("user", "pw-sEcReT")
    script = home.write("a.sh", shell_script("hello", more=f"# channels: ['{server.secret_url}/conda-forge']"))
    with serving(channel) as other:
        for locked_from, names in ((other, ["hello-bin"]), (server, ["hello-bin", "activated"])):
            packages = locked(local_channel, *names, url=f"{locked_from.url}/conda-forge")
            lock_script(script, packages, local_channel)
            done = home.cetool("run", "--frozen", "--engine", engine, script)
            assert (done.returncode == 0) == (locked_from is server or engine != "conda"), done.stderr
        assert set(other.authorizations) <= {None}
        assert bool(other.requests) == (engine != "conda")
    assert {"Basic dXNlcjpwdy1zRWNSZVQ="} <= set(server.authorizations)


def test_a_password_goes_to_its_own_path_only_and_follows_no_redirect(
    home: Home, server: ChannelServer, channel: Path
) -> None:
    (channel_copy := home.path / "root").mkdir()
    for name in ("closed", "open"):
        (channel_copy / name).symlink_to(channel / "conda-forge")
    with serving(channel_copy) as first, serving(channel_copy) as second:
        login = f"http://user:pw-sEcReT@127.0.0.1:{first.port}"
        done = home.cetool("create", "hello-bin", "--channel", f"{login}/closed", "--channel", f"{first.url}/open")
        assert done.returncode == 0, done.stderr
        headers = dict(zip(first.requests, first.authorizations, strict=True))
        assert {path.split("/")[1]: bool(header) for path, header in headers.items()} == {"closed": True, "open": False}
        first.redirect = second.url
        done = home.cetool("create", "hello-c", "--refresh", "--channel", f"{login}/closed")
        assert set(second.authorizations) <= {None} and second.requests, done.stderr

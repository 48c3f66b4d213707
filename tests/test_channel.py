"""The test channel and its server work as other tests expect."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
import rattler
from rattler.exceptions import SolverError
from support.channel import Channel, build_channel, wheel_cache
from support.home import Home
from support.server import ChannelServer, Fault


async def _install(url: str, prefix: Path, cache: Path, *specs: str) -> None:
    records = await rattler.solve(
        [url],
        list(specs),
        gateway=rattler.Gateway(cache_dir=cache / "repodata"),
        platforms=[rattler.Subdir.current(), "noarch"],
        virtual_packages=rattler.VirtualPackage.detect(),
    )
    await rattler.install(records, prefix, cache_dir=cache, show_progress=False)


def install(url: str, prefix: Path, cache: Path, *specs: str) -> None:
    """Install specs from the channel by py-rattler."""
    asyncio.run(_install(url, prefix, cache, *specs))


def get(url: str, **headers: str) -> bytes:
    """The body of a URL."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
        body: bytes = response.read()
        return body


def test_python_and_numpy_work_at_a_prefix_with_a_blank(local_channel: Channel, home: Home) -> None:
    prefix = home.path / "an env"
    install(local_channel.url, prefix, home.path / "pkgs", "python >=3", "numpy", "pip")
    code = "import numpy, sqlite3, ssl, sys; print(sys.prefix, numpy.arange(3).sum(), numpy.__file__, sep='\\n')"
    done = home.run(prefix / "bin/python", "-c", code)
    assert done.stderr == ""
    assert done.stdout.splitlines()[:2] == [str(prefix), "3"]
    assert done.stdout.splitlines()[2].startswith(f"{prefix}/lib/python")
    assert f"from {prefix}/lib/python" in home.run(prefix / "bin/pip", "--version").stdout
    assert home.run(prefix / "bin/f2py", "-v").returncode == 0


def test_handmade_packages_are_linked_with_their_prefix(local_channel: Channel, home: Home) -> None:
    prefix = home.path / "env"
    install(local_channel.url, prefix, home.path / "pkgs", "hello-bin", "activated", "many-files", "bigpkg")
    assert home.run(prefix / "bin/hello", "a", "b c").stdout == f"hello from {prefix}\n<a>\n<b c>\n"
    assert (prefix / "share/hello/prefix.bin").read_bytes().startswith(b"\0\x01" + os.fsencode(prefix) + b"/share\0")
    assert (prefix / "etc/conda/activate.d/activated.sh").is_file()


@pytest.mark.parametrize("program", ["bash", "node", "g++"])
def test_programs_of_the_machine_run_out_of_an_environment(program: str, local_channel: Channel, home: Home) -> None:
    package = {"bash": "bash", "node": "nodejs", "g++": "gxx"}[program]
    if not local_channel.has(package):
        pytest.skip(f"this machine has no {program}")
    install(local_channel.url, home.path / "env", home.path / "pkgs", package)
    assert home.run(home.path / "env/bin" / program, "--version").returncode == 0


@pytest.mark.parametrize("specs", [("conflict-a", "conflict-b"), ("missingdep",), ("needs-python2",)])
def test_conflicts_of_the_channel_are_not_solvable(
    specs: tuple[str, ...], local_channel: Channel, tmp_path: Path
) -> None:
    with pytest.raises(SolverError):
        install(local_channel.url, tmp_path / "env", tmp_path / "pkgs", *specs)


def test_repodata_has_size_and_digests_of_every_file(local_channel: Channel) -> None:
    names = set()
    for subdir in (local_channel.subdir, "noarch"):
        repodata = json.loads((local_channel.path / subdir / "repodata.json").read_text(encoding="utf-8"))
        for name, record in {**repodata["packages"], **repodata["packages.conda"]}.items():
            data = (local_channel.path / subdir / name).read_bytes()
            assert record["sha256"] == hashlib.sha256(data).hexdigest() and record["size"] == len(data)
            names.add(record["name"])
    assert names == set(local_channel.versions)


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    few: dict[str, Any] = {"python": False, "pypi": ("six",), "families": ()}
    roots = [build_channel(tmp_path / name, **few, wheels=wheel_cache()).root for name in "ab"]
    files = [{path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")} for root in roots]
    assert files[0] == files[1] and len(files[0]) > 15


def test_processes_that_start_together_share_one_channel(tmp_path: Path) -> None:
    code = "from support.channel import shared_channel as s; print(s().root)"
    tests = Path(__file__).resolve().parent
    env = {**os.environ, "PYTHONPATH": str(tests), "CETOOL_TEST_WHEELS": str(wheel_cache())}
    env["CETOOL_TEST_CACHE"] = str(tmp_path)
    running = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) for _ in range(3)]
    roots = {process.communicate()[0].decode().strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert roots == {str(path.parent) for path in tmp_path.glob("*/channel.json")} and len(roots) == 1
    assert not list(tmp_path.glob("*.part"))


def test_the_server_can_require_credentials(server: ChannelServer) -> None:
    path = "/conda-forge/noarch/repodata.json"
    body = get(server.url + path)
    server.token = "SECRET"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(server.url + path)
    assert get(server.secret_url + path) == body
    server.token, server.credentials = None, ("user", "password")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(server.url + path)
    assert get(server.url + path, Authorization="Basic dXNlcjpwYXNzd29yZA==") == body
    assert server.count("*/repodata.json") == 4


def test_the_server_can_fail_in_chosen_ways(server: ChannelServer) -> None:
    url = server.url + "/conda-forge/noarch/repodata.json"
    body = get(url)
    server.faults = [Fault("*.json", "status", status=503, after=2)]
    assert get(url) == body
    with pytest.raises(urllib.error.HTTPError, match="503"):
        get(url)
    server.faults = [Fault("*.json", "corrupt")]
    corrupt = get(url)
    assert corrupt != body and len(corrupt) == len(body)
    server.faults = [Fault("*.json", "truncate")]
    with pytest.raises(IncompleteRead):
        get(url)
    server.faults = [Fault("*.json", "slow", seconds=0.1)]
    assert get(url) == body
    server.faults = [Fault("*.json", "hang")]
    with pytest.raises((TimeoutError, socket.timeout)):
        urllib.request.urlopen(url, timeout=0.3)

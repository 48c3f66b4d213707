"""conda-store's own command line, library, kernels and web interface work unchanged on this server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.conda_store import clients
from support.home import Home
from support.serving import RunningServer, running_server

CONFIG = """\
users:
  - {name: username, password: password, grants: {"*/*": [admin]}}
anonymous-access: true
"""
SPECIFICATION = "name: tools\nchannels: [conda-forge]\ndependencies: [python, six, hello-bin]\n"


@dataclass(frozen=True)
class Clients:
    """The clients and the server that they talk to."""

    server: RunningServer
    home: Home
    bin: Path

    @property
    def url(self) -> str:
        """The server's address by name: aiohttp keeps no cookies for numbers."""
        return f"http://localhost:{self.server.port}{self.server.prefix}"

    @property
    def env(self) -> dict[str, str]:
        """The variables of a user with the administrator's token."""
        user = {"CONDA_STORE_AUTH": "token", "CONDA_STORE_TOKEN": self.server.token}
        # the client unpacks environments below the directory of temporary files
        path = f"{self.bin}:{self.home.env['PATH']}"
        return {**self.home.env, **user, "CONDA_STORE_URL": self.url, "PATH": path, "COLUMNS": "200"}

    def run(self, *words: str | Path, **changes: str) -> str:
        """Run a program in the clients' environment and return what it prints."""
        program = [str(self.bin / str(words[0])), *map(str, words[1:])]
        done = subprocess.run(
            program, env={**self.env, **changes}, cwd=self.home.path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def list(self, kind: str, *options: str) -> Any:
        """List namespaces, environments or builds."""
        return json.loads(self.run("conda-store", "list", kind, *options, "--output", "json"))

    def build(self, specification: str, namespace: str = "default") -> int:
        """Build a specification and return the number of the build, when it has ended."""
        body = {"namespace": namespace, "specification": specification}
        answer = self.server.post("/api/v1/specification/", body)
        assert answer.status == 200, answer.text
        number: int = answer.json["data"]["build_id"]
        assert self.server.wait(number)["status"] == "COMPLETED"
        return number


@pytest.fixture(scope="module")
def store(settled: Home) -> Iterator[Clients]:
    """The clients, with a server below a prefix."""
    programs = clients()
    config = settled.write("conda-store-clients.yaml", CONFIG)
    options = ("--config", str(config), "--url-prefix", "/conda-store")
    with running_server(settled, *options, data=settled.path / "conda-store-clients") as server:
        yield Clients(server, settled, programs)


@pytest.fixture(scope="module")
def tools(store: Clients) -> int:
    """The build of an environment with Python."""
    return store.build(SPECIFICATION)


def test_info_and_token(store: Clients) -> None:
    user = {"CONDA_STORE_AUTH": "basic", "CONDA_STORE_USERNAME": "username", "CONDA_STORE_PASSWORD": "password"}
    shown = store.run("conda-store", "info", **user)
    assert "Default namespace is username" in shown and "Authenticated True" in shown
    asked = ("--expiration", "3600", "--permission", "default/*:viewer")
    token = store.run("conda-store", "token", *asked, **user)
    assert "Authenticated True" in store.run("conda-store", "info", CONDA_STORE_TOKEN=token)
    anyone = store.run("conda-store", "info", CONDA_STORE_AUTH="none")
    assert "Authenticated False" in anyone
    assert store.run("conda-store", "token", CONDA_STORE_AUTH="none")


def test_lists_with_filters(store: Clients, tools: int) -> None:
    assert "default" in [each["name"] for each in store.list("namespace")]
    found = ("--package", "python", "--package", "six", "--status", "COMPLETED", "--artifact", "CONDA_PACK")
    assert "tools" in [each["name"] for each in store.list("environment", *found)]
    assert tools in [each["id"] for each in store.list("build", *found)]
    assert tools in [each["id"] for each in store.list("build", "--status", "COMPLETED")]
    for nothing in (("--status", "FAILED"), ("--artifact", "DOCKER_MANIFEST"), ("--package", "numpy")):
        assert store.list("environment", *nothing) == []
    assert "tools" in store.run("conda-store", "list", "environment")


def test_wait_and_download(store: Clients, tools: int) -> None:
    store.run("conda-store", "wait", f"default/tools:{tools}", "--interval", "1")
    store.run("conda-store", "wait", "default/tools", "--interval", "1", "--artifact", "archive")
    lock = json.loads(Path(store.run("conda-store", "download", "default/tools")).read_text())
    assert {each["name"] for each in lock["package"]} == {"python", "six", "hello-bin"}
    pinned = Path(store.run("conda-store", "download", str(tools), "--artifact", "yaml")).read_text()
    assert "name: tools" in pinned and "- six=1.17.0=" in pinned
    archive = Path(store.run("conda-store", "download", str(tools), "--artifact", "archive"))
    assert archive.stat().st_size > 1_000_000


def test_run_and_shebang(store: Clients, tools: int) -> None:
    code = "import six, sys; print(1 + 3, sys.prefix)"
    shown = store.run("conda-store", "run", "default/tools", "--", "python", "-c", code)
    assert shown.startswith("4 ") and f"conda-store/{tools}" in shown
    line = f"#!/usr/bin/env conda-store\n#! conda-store run default/tools:{tools} -- python\n"
    script = store.home.write("by-line", f"{line}import six\nprint('ran')\n", executable=True)
    # the environment that was unpacked before is used again
    done = subprocess.run([script], env=store.env, cwd=store.home.path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("ran\n", 0), done.stderr


def test_solve(store: Clients) -> None:
    file = store.home.write("environment.yml", "name: x\nchannels: [conda-forge]\ndependencies: [python, six]\n")
    packages = json.loads(store.run("conda-store", "solve", file, "--output", "json"))
    assert {each["name"] for each in packages} == {"python", "six"}
    assert all(each["version"] and each["sha256"] for each in packages)


def test_a_list_of_more_than_one_page_ends(store: Clients, tools: int) -> None:
    for number in range(105):
        body = {"namespace": "many", "specification": SPECIFICATION.replace("tools", f"tools-{number}")}
        assert store.server.post("/api/v1/specification/", body).status == 200
    assert len(store.list("environment")) >= 105


_LIBRARY = """
import asyncio, json, os
from conda_store.api import CondaStoreAPI

async def main():
    async with CondaStoreAPI(os.environ["CONDA_STORE_URL"], auth_type="token") as api:
        await api.create_namespace("library")
        number = await api.create_environment("library", "name: one\\ndependencies: [hello-bin]\\n")
        while (build := await api.get_build(number))["status"] in ("QUEUED", "BUILDING"):
            await asyncio.sleep(0.1)
        environment = await api.get_environment("library", "one")
        packages = await api.solve_environment(["conda-forge"], ["six"], [])
        listed = await api.list_environments("COMPLETED", None, ["hello-bin"])
        await api.delete_environment("library", "one")
        await api.delete_namespace("library")
        print(json.dumps([build, environment, packages, listed, await api.list_namespaces()]))

asyncio.run(main())
"""


def test_the_library(store: Clients) -> None:
    script = store.home.write("library.py", _LIBRARY)
    build, environment, packages, listed, namespaces = json.loads(store.run("python", script))
    assert build["status"] == "COMPLETED"
    assert build["specification"]["spec"]["dependencies"] == ["hello-bin"]
    assert {each["artifact_type"] for each in build["build_artifacts"]} >= {"LOCKFILE", "LOGS", "YAML", "CONDA_PACK"}
    assert environment["current_build_id"] == build["id"]
    assert environment["id"] in [each["id"] for each in listed]
    assert "six" in [each["name"] for each in packages]
    assert "library" not in [each["name"] for each in namespaces]


_KERNELS = """
import sys
from jupyter_client.manager import KernelManager
from nb_conda_store_kernels.manager import CondaStoreKernelSpecManager

specs = CondaStoreKernelSpecManager(conda_store_only=True)
(name,) = [each for each in specs.get_all_specs() if each.startswith("conda-store://default/kernel:")]
manager = KernelManager(kernel_spec_manager=specs, kernel_name=name)
manager.start_kernel()
client = manager.client()
client.start_channels()
try:
    client.wait_for_ready(timeout=90)
    answers = []
    client.execute_interactive("import sys; print(sys.prefix)", timeout=60, output_hook=answers.append)
    print([each["content"]["text"] for each in answers if each["msg_type"] == "stream"])
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


def test_kernels_are_found_and_start(store: Clients, local_channel: Any) -> None:
    if not local_channel.has("ipykernel"):
        pytest.skip("the channel has no ipykernel")
    number = store.build("name: kernel\ndependencies: [python, ipykernel]\n")
    shown = store.run("python", store.home.write("kernels.py", _KERNELS))
    assert f"conda-store/{number}" in shown

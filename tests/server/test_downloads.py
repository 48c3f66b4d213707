"""Downloads end when the right to them ends."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest
from support.channel import Channel
from support.home import make_home, remove_home
from support.serving import RunningServer, running_server

from cetool.declare.platforms import current_platform

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, local_channel: Channel) -> Iterator[RunningServer]:
    home = make_home(tmp_path_factory.mktemp("downloads") / "home", local_channel)
    with running_server(home) as running:
        yield running
    remove_home(home)


def test_a_token_revoked_during_a_download_ends_it(server: RunningServer) -> None:
    body = {"namespace": "team", "name": "tools", "specs": ["hello-bin"], "platforms": [current_platform()]}
    build = server.post("/cetool/1/requests", body).json["build"]
    assert server.wait(build)["status"] == "COMPLETED"
    package = server.get(f"/cetool/1/builds/{build}/packages").json["packages"][0]
    digest = package["sha256"]
    (archive,) = (each for each in server.data.rglob(f"*{digest}*") if each.is_file())
    # longer than what the kernel buffers
    archive.chmod(0o644)
    with archive.open("ab") as file:
        file.truncate(200 * MEGABYTE)
    place = f"/cetool/1/blobs/{build}/{digest}/{package['name']}"
    made = server.post("/cetool/1/tokens", {"name": "reader"}).json
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.request("GET", place, headers={"Authorization": f"Bearer {made['token']}"})
    answer = connection.getresponse()
    assert answer.status == 200 and int(answer.headers["Content-Length"]) == 200 * MEGABYTE
    assert len(answer.read(MEGABYTE)) == MEGABYTE
    assert server.request("DELETE", f"/cetool/1/tokens/{made['id']}").status == 200
    with pytest.raises(http.client.IncompleteRead) as caught:
        answer.read()
    assert len(caught.value.partial) < 100 * MEGABYTE
    connection.close()

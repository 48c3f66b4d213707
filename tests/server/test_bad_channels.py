"""Builds whose channels hang, fail or change: each ends with a sentence, and is repeated only if that can help."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from support.home import Home
from support.server import ChannelServer, Fault
from support.serving import RunningServer, running_server

#: Short limits, and no pauses between attempts.
LIMITS = {"CETOOL_SERVER_STALL_TIMEOUT": "2s", "CETOOL_SERVER_RETRIES": "1", "CETOOL_SERVER_RETRY_BACKOFF": "0.1s"}


@contextlib.contextmanager
def serving(home: Home, channels: ChannelServer, **more: Any) -> Iterator[RunningServer]:
    """Run a server whose conda-forge is the channel that fails; engines do not try again by themselves."""
    home.condarc.write_text(
        f"channel_alias: {channels.url}\nchannels: [conda-forge]\nremote_max_retries: 0\nremote_read_timeout_secs: 2\n"
    )
    allowed = {"CETOOL_SERVER_CHANNELS_ALLOWED": f"conda-forge,{channels.url}/conda-forge,{channels.url}/none"}
    with running_server(home, "--workers", "1", env={**LIMITS, **allowed}, **more) as running:
        yield running


def build(server: RunningServer, *specs: str) -> dict[str, object]:
    body = {"namespace": "team", "name": "e", "specs": list(specs)}
    return server.wait(server.post("/cetool/1/requests", body).json["build"])


@pytest.mark.parametrize("pattern", ["*/repodata*", "*/noarch/hello-bin*"])
def test_a_channel_that_hangs_is_given_up_and_the_builder_is_free_again(
    home: Home, server: ChannelServer, pattern: str
) -> None:
    fault = Fault(pattern, "hang")
    server.faults.append(fault)
    with serving(home, server) as running:
        found = build(running, "hello-bin")
        assert (found["status"], found["attempts"]) == ("FAILED", 2), found
        assert found["reason"] and "\n" not in str(found["reason"]), found
        assert not (running.data / "names" / "team").exists()
        server.faults.remove(fault)
        assert build(running, "hello-bin")["status"] == "COMPLETED"


def test_a_package_that_is_gone_or_a_channel_that_does_not_exist_is_named(home: Home, server: ChannelServer) -> None:
    with serving(home, server) as running:
        server.faults.append(Fault("*/noarch/hello-bin*", "status", status=404))
        found = build(running, "hello-bin")
        assert found["status"] == "FAILED" and "hello-bin" in str(found["reason"]), found
        text = f"channels: [{server.url}/none]\ndependencies: [six]\n"
        asked = running.post("/cetool/1/requests", {"namespace": "team", "name": "none", "text": text})
        assert asked.status == 202, asked.text
        found = running.wait(asked.json["build"])
        assert found["status"] == "FAILED" and "/none" in str(found["reason"]), found
        assert found["attempts"] == 1, found


def test_a_package_whose_bytes_were_replaced_is_not_linked(home: Home, server: ChannelServer) -> None:
    with serving(home, server) as running:
        locked = build(running, "hello-bin", "postlink")
        lock = running.get(f"/cetool/1/builds/{locked['id']}/lock").text
    fault = Fault("*/noarch/hello-bin*", "corrupt")
    server.faults.append(fault)
    with serving(home, server, data=home.path / "other") as other:
        asked = other.post("/cetool/1/requests", {"namespace": "team", "name": "e", "text": lock})
        assert asked.status == 202, asked.text
        found = other.wait(asked.json["build"])
        assert found["status"] == "FAILED" and "hello-bin" in str(found["reason"]), found
        assert not list(other.data.glob("names/*/*")) and not list(other.data.glob("envs/*"))
        server.faults.remove(fault)
        again = other.post("/cetool/1/requests", {"namespace": "team", "name": "e", "text": lock}).json["build"]
        assert other.wait(again)["status"] == "COMPLETED"

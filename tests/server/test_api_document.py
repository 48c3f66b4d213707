"""The native API does what its OpenAPI document says, with valid and with hostile data: schemathesis asks it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.home import Home
from support.serving import RunningServer, running_server

#: A token of the configuration, which the tests cannot revoke.
TOKEN = "a-token-for-tests-0123456789abcdef"
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "ignored_auth", "unsupported_method", "allow_header_conformance"),
)


@pytest.fixture
def server(home: Home) -> Iterator[RunningServer]:
    tokens = [{"name": "tests", "token": TOKEN, "grants": {"*/*": ["admin"]}}]
    env = {"CETOOL_SERVER_TOKENS": json.dumps(tokens), "CETOOL_SERVER_STREAM_TIMEOUT": "1s"}
    with running_server(home, env=env) as running:
        yield running


def test_the_api_does_what_its_document_says(server: RunningServer, home: Home, scale: int) -> None:
    body = {"namespace": "team", "name": "tools", "specs": ["six"]}
    assert server.wait(server.post("/cetool/1/requests", body, token=TOKEN).json["build"])["status"] == "COMPLETED"
    phases = ["coverage"] if scale == 1 else ["coverage", "fuzzing"]
    words = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("run", f"{server.url}/cetool/1/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"),
        *("--checks", ",".join(CHECKS), "--phases", ",".join(phases), "--continue-on-failure"),
        *("--max-time", str(60 * scale), "--workers", "1", "--no-color", "--exclude-path", "/cetool/1/events"),
    ]
    done = subprocess.run(words, cwd=home.path, env=home.environment(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout
    assert "event=defect" not in server.log.read_text("utf-8")

"""Both APIs with valid and with hostile data, from schemathesis: the native one does what its document says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fastapi.openapi.utils import get_openapi
from support.home import Home
from support.serving import RunningServer, running_server

from cetool.server.web.conda_store import router

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
        *("--checks", ",".join(CHECKS), "--phases", ",".join(phases), "--continue-on-failure"),
        *("--max-time", str(60 * scale), "--exclude-path", "/cetool/1/events"),
    ]
    ask(server, home, f"{server.url}/cetool/1/openapi.json", *words)


def test_no_request_to_conda_stores_api_is_a_defect(server: RunningServer, home: Home, scale: int) -> None:
    """Its routes have no document here: one is made of what they read."""
    document = get_openapi(title="conda-store", version="1", routes=router.routes)
    path = home.write("conda-store.json", json.dumps(document))
    assert len(document["paths"]) > 30
    words = ["--url", server.url, "--checks", "not_a_server_error", "--max-time", str(20 * scale), "--mode", "all"]
    ask(server, home, str(path), *words)


def ask(server: RunningServer, home: Home, document: str, *words: str) -> None:
    """Let schemathesis ask what the document describes; none of its checks fails."""
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("run", document, "--header", f"Authorization: Bearer {TOKEN}", "--workers", "1", "--no-color", *words),
    ]
    done = subprocess.run(command, cwd=home.path, env=home.environment(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout
    assert "event=defect" not in server.log.read_text("utf-8")

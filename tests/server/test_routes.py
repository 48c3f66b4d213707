"""Every route needs a token, except those that are listed here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.home import Home
from support.serving import RunningServer, running_server

from cetool.server.config import ServerConfig
from cetool.server.journal import Journal
from cetool.server.server import open_server
from cetool.server.web.app import create_app

#: What a request without a token gets from the public routes.
PUBLIC = {
    "GET /health": 200,
    "GET /cetool/1": 200,
    "GET /login": 200,
    "GET /login/": 200,
    "POST /login": 403,
    "POST /login/": 403,
    "POST /logout": 303,
    "POST /logout/": 303,
    # files that are part of the program
    "GET /static/{name}": 404,
    "GET /ui/{path:path}": 404,
    # from this machine
    "GET /metrics": 200,
    "GET /celery": 200,
    # conda-store's: without a token its lists are empty, and a token without rights is not stored
    **dict.fromkeys((f"GET /api/v1/{name}" for name in ("", "permission/", "usage/", "channel/", "package/")), 200),
    **dict.fromkeys((f"GET /api/v1/{name}/" for name in ("namespace", "environment", "build")), 200),
    "GET /api/v2/environment/": 200,
    "POST /api/v1/token/": 200,
}
#: As conda-store answers: what is lacking in a request, or a build that does not exist, comes before rights.
CONDA_STORE = {400, 401, 403, 404, 422}


def routes(router: Any) -> Iterator[tuple[str, str]]:
    """Method and path of each route, including those of routers in routers."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes(inner)
        else:
            yield from ((method, route.path) for method in getattr(route, "methods", None) or ())


def all_routes(data: Path) -> list[tuple[str, str]]:
    server = open_server(ServerConfig(data), Journal())
    app: Any = create_app(server)
    while not hasattr(app, "routes"):
        app = app.__dict__.get("app") or app.__dict__["_app"]
    found = sorted(set(routes(app)))
    server.close()
    return found


@pytest.fixture(scope="module")
def server(settled: Home) -> Iterator[RunningServer]:
    with running_server(settled, data=settled.path / "routes") as running:
        yield running


def test_a_request_without_a_token_gets_401_from_every_route(server: RunningServer, tmp_path: Path) -> None:
    found = all_routes(tmp_path / "data")
    assert len(found) > 40
    wrong = {}
    for method, template in found:
        if method in ("HEAD", "OPTIONS"):
            continue
        name = f"{method} {template}"
        path = re.sub(r"\{(\w*id|number|build)\}", "1", template)
        path = path.replace("{digest}", "a" * 64).replace("{sha256}", "a" * 64)
        path = re.sub(r"\{[^}]*\}", "default", path)
        body: object = None if method == "GET" else {}
        answer = server.request(method, path, body, token=None)
        expected = CONDA_STORE if template.startswith("/api/") else {401}
        if answer.status not in ({PUBLIC[name]} if name in PUBLIC else expected):
            wrong[name] = answer.status
    assert not wrong, "\n".join(f"{name}: {status}" for name, status in wrong.items())


def test_lists_of_conda_store_are_empty_without_a_token(server: RunningServer) -> None:
    assert server.post("/cetool/1/namespaces", {"name": "hidden"}).status == 201
    for name in ("namespace", "environment", "build", "package", "channel"):
        assert server.get(f"/api/v1/{name}/", token=None).json["data"] == []


def test_an_unknown_token_gets_401_with_the_reason(server: RunningServer) -> None:
    answer = server.get("/cetool/1/builds", token="cet_unknown")
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json["detail"] == "the token is unknown"

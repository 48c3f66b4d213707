"""Every route: what it answers without a token, to a viewer of a namespace, and to the admin of another one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import pytest
from support.builds import package, posted, result
from support.channel import Channel
from support.home import make_home, remove_home
from support.serving import RunningServer, running_server

from cetool.base.codec import encode
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.server.data import leases
from cetool.server.data.database import Database
from cetool.server.web import conda_store, monitoring, native, pages, security

_GRANT = {"subject_kind": "authenticated", "pattern": "team/*", "role": "viewer"}
_NATIVE, _ONE = "/cetool/1", "/cetool/1/environments/{namespace}/{name}"
_SPACE = "/api/v1/namespace/{namespace}"
_LISTS, _LEVELS = (
    ("build", "environment", "namespace", "usage"),
    ("", "{namespace}/", "{namespace}/{environment_name}/"),
)
#: Bodies of routes that need one to get as far as the check of rights.
BODIES: dict[str, object] = {
    f"PATCH {_ONE}": {"description": "x"},
    f"POST {_ONE}/rename": {"name": "x"},
    f"POST {_ONE}/use": {"build": 1},
    f"PUT {_ONE}/settings": {"settings": {}},
    f"PATCH {_NATIVE}/namespaces/{{namespace}}": {"metadata": {}},
    f"PUT {_NATIVE}/namespaces/{{namespace}}/settings": {"settings": {}},
    f"POST {_NATIVE}/namespaces/{{namespace}}/grants": _GRANT,
    f"POST {_NATIVE}/namespaces": {"name": "new"},
    f"POST {_NATIVE}/requests": {"namespace": "team", "name": "gpu", "specs": ["six"]},
    f"POST {_NATIVE}/answers": {
        "namespace": "team",
        "spec": EnvironmentSpec(Solve(("six",)), channels=("conda-forge",)).as_dict(),
        "platform": "linux-64",
        "conda": [encode(package("six"))],
    },
    f"PUT {_NATIVE}/settings": {"settings": {}},
    f"POST {_NATIVE}/grants": _GRANT,
    f"POST {_NATIVE}/tokens": {"name": "x"},
    f"POST {_NATIVE}/users": {"name": "x"},
    f"PATCH {_NATIVE}/users/{{name}}": {"disabled": True},
    f"PUT {_NATIVE}/users/{{name}}/password": {"password": "long enough"},
    f"POST {_SPACE}/role": {"other_namespace": "other", "role": "admin"},
    f"PUT {_SPACE}/role": {"other_namespace": "other", "role": "admin"},
    f"DELETE {_SPACE}/role": {"other_namespace": "other"},
    f"PUT {_SPACE}/metadata": {},
    "POST /api/v1/specification/": {"namespace": "team", "specification": '{"name": "gpu", "dependencies": ["six"]}'},
    "PUT /api/v1/setting/": {},
    "PUT /api/v1/setting/{namespace}/": {},
    "PUT /api/v1/setting/{namespace}/{environment_name}/": {},
}
#: Queries that routes need for the same reason.
QUERIES = {
    f"GET {_NATIVE}/access": "?namespace=team&user=anonymous",
    f"GET {_ONE}/diff": "?from=1&to=1",
    "GET /differences": "?from=1&to=1",
    f"GET {_SPACE}/role": "?other_namespace=other",
}
#: The statuses without a token, for a viewer of team, and for the admin of another namespace, of routes that differ
#: from :func:`usual`. A new route that is not usual belongs here.
STATUSES = {
    # public: what a browser or client needs before it has a token, counts, and rights that each caller has
    **dict.fromkeys((f"GET {_NATIVE}", "GET /health", "GET /metrics", "GET /celery", "GET /api/v1/"), (200, 200, 200)),
    **dict.fromkeys(("GET /api/v1/permission/", "POST /api/v1/token/"), (200, 200, 200)),
    **dict.fromkeys(("GET /login", "GET /login/"), (200, 303, 303)),
    **dict.fromkeys(("POST /login", "POST /login/"), (403, 403, 403)),
    **dict.fromkeys(("POST /logout", "POST /logout/"), (303, 303, 303)),
    **dict.fromkeys(("GET /static/{name}", "GET /ui/{path:path}"), (404, 404, 404)),
    # lists of what the caller may see
    **dict.fromkeys(
        (f"GET /api/v1/{each}/" for each in ("build", "environment", "namespace", "usage")), (200, 200, 200)
    ),
    **dict.fromkeys(("GET /api/v1/channel/", "GET /api/v1/package/", "GET /api/v2/environment/"), (200, 200, 200)),
    **dict.fromkeys((f"GET {_NATIVE}/{each}" for each in ("builds", "environments", "namespaces")), (401, 200, 200)),
    **dict.fromkeys((f"GET {_NATIVE}/{each}" for each in ("events", "openapi.json", "tokens")), (401, 200, 200)),
    **dict.fromkeys((f"GET /{each}" for each in ("builds", "environments", "namespaces", "tokens")), (401, 200, 200)),
    **dict.fromkeys(("GET /access", "GET /account"), (401, 200, 200)),
    "GET /": (401, 303, 303),
    # a grant on the namespace default, of which all users are viewers
    "GET /access/grants/{number}/remove": (401, 403, 403),
    "POST /access/grants/{number}/remove": (401, 403, 403),
    # forms are shown again with what is wrong
    "POST /access/grants": (401, 422, 422),
    "POST /account/password": (401, 422, 422),
    "POST /namespaces": (401, 422, 422),
    "POST /new": (401, 422, 422),
    "POST /tokens": (401, 422, 422),
    "GET /new": (401, 403, 200),
    # each creates tokens with own rights
    f"POST {_NATIVE}/tokens": (401, 201, 201),
    # for editors and admins
    **dict.fromkeys((f"GET {_ONE}/settings", f"GET {_NATIVE}/namespaces/{{namespace}}/settings"), (401, 403, 404)),
    "GET /environments/{namespace}/{name}/delete": (401, 403, 404),
    "GET /builds/{build}/delete": (401, 403, 404),
    "GET /environments/{namespace}/{name}/edit": (401, 403, 404),
    "GET /namespaces/{namespace}/delete": (401, 403, 404),
    "GET /api/v1/specification/": (403, 403, 403),
    **dict.fromkeys(
        (f"GET /api/v1/setting/{each}" for each in ("", "{namespace}/", "{namespace}/{environment_name}/")),
        (403, 403, 403),
    ),
    # what is there cannot be told apart from what is not
    **dict.fromkeys((f"GET {_NATIVE}/namespaces/{{namespace}}/grants",), (401, 200, 403)),
    f"POST {_NATIVE}/namespaces/{{namespace}}/grants": (401, 403, 403),
    f"DELETE {_NATIVE}/namespaces/{{namespace}}/grants/{{number}}": (401, 403, 403),
    **dict.fromkeys(
        (f"DELETE {_NATIVE}/tokens/{{number}}", "GET /tokens/{number}/revoke", "POST /tokens/{number}/revoke"),
        (401, 404, 404),
    ),
    f"GET {_NATIVE}/blobs/{{number}}/{{sha256}}/{{file}}": (401, 404, 404),
    f"GET {_NATIVE}/answers/{{platform}}/{{digest}}": (401, 404, 404),
    f"GET {_NATIVE}/builds/{{number}}/record/{{platform}}": (401, 404, 404),
    f"GET {_SPACE}/role": (403, 400, 403),
    "GET /differences": (401, 200, 422),
    # what the build does not have
    "GET /api/v1/build/{build_id}/archive/": (403, 404, 403),
    **dict.fromkeys((f"GET /api/v1/build/{{build_id}}/{each}/" for each in ("docker", "installer")), (403, 400, 403)),
    # for administrators of the server, and for those who may create environments in team
    **dict.fromkeys(
        (
            *(f"GET {_NATIVE}/{each}" for each in ("access", "audit", "grants", "settings", "users")),
            *(f"POST {_NATIVE}/{each}" for each in ("answers", "grants", "namespaces", "requests", "users")),
            *(f"{each} {_NATIVE}/users/{{name}}" for each in ("DELETE", "PATCH")),
            *(f"PUT {_NATIVE}/{each}" for each in ("settings", "users/{name}/password")),
            f"DELETE {_NATIVE}/grants/{{number}}",
            *(
                "GET /audit",
                "GET /users",
                "POST /users",
                "POST /users/{name}/{change}",
                "GET /settings",
                "POST /settings",
            ),
        ),
        (401, 403, 403),
    ),
    "PUT /api/v1/setting/": (403, 403, 403),
}


def usual(method: str, path: str) -> tuple[int, int, int]:
    """Return the usual statuses of a route about an environment or a build: viewers read, and no one else sees it."""
    reads = 200 if method == "GET" else 403
    return (403, reads, 403) if path.startswith("/api/") else (401, reads, 404)


#: Fields of forms for the same reason.
FORMS: dict[str, dict[str, str]] = {
    "POST /new": {"namespace": "team", "name": "gpu", "text": "dependencies: [six]"},
    "POST /namespaces": {"name": "new"},
    "POST /tokens": {"name": ""},
    "POST /access/grants": {"subject_kind": "authenticated", "pattern": "team/*", "role": "viewer"},
}
#: Values of the parameters in paths: an environment of the namespace team, and its build.
VALUES = {
    "namespace": "team",
    "name": "gpu",
    "environment_name": "gpu",
    "number": "1",
    "build_id": "1",
    "build": "1",
    "platform": "linux-64",
    "digest": "a" * 64,
    "sha256": "a" * 64,
    "change": "disable",
}


def routes(found: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Yield method and path of each route, those of included routers too."""
    for each in found:
        inner = getattr(each, "original_router", None)
        if inner is not None:
            yield from routes(inner.routes)
        else:
            for method in sorted(each.methods or ()):
                if method != "HEAD":
                    yield method, each.path


ALL = sorted(
    {each for part in (native, conda_store, pages, security, monitoring) for each in routes(part.router.routes)}
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, local_channel: Channel) -> Iterator[RunningServer]:
    """A server with one environment, team/gpu, whose build is completed; and another build that waits."""
    home = make_home(tmp_path_factory.mktemp("routes") / "home", local_channel)
    with running_server(home, "--workers", "0") as running:
        database = Database.open(running.data / "server.sqlite3")
        with database.write() as tx:
            posted(tx, "team/gpu", "python")
            posted(tx, "team/gpu", "numpy")
            claim = leases.claim(tx, "test", 60)
            assert claim is not None
            leases.complete(tx, claim, result(claim, "python", record=False))
        database.close()
        yield running
    remove_home(home)


def token_for(server: RunningServer, pattern: str, role: str) -> str:
    body = {"name": f"{role} of {pattern}", "service": True, "grants": [{"pattern": pattern, "role": role}]}
    found: str = server.post("/cetool/1/tokens", body).json["token"]
    return found


def filled(path: str) -> str:
    """Return a path with values in place of its parameters."""
    return re.sub(r"\{([^}:]+)[^}]*\}", lambda match: VALUES.get(match[1], "x"), path)


def asked(server: RunningServer, route: str, place: str, token: str | None) -> tuple[int, bytes]:
    """Send a request; return the status and the start of the body, but nothing of a stream."""
    connection = HTTPConnection(server.host, server.port, timeout=60)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = None
    if route in BODIES:
        headers["Content-Type"], body = "application/json", json.dumps(BODIES[route])
    elif route in FORMS:
        headers["Content-Type"], body = "application/x-www-form-urlencoded", urlencode(FORMS[route])
    try:
        connection.request(route.partition(" ")[0], place, body, headers)
        answer = connection.getresponse()
        return answer.status, b"" if answer.getheader("Transfer-Encoding") else answer.read(200)
    finally:
        connection.close()


@pytest.mark.parametrize("actor", [0, 1, 2], ids=["anonymous", "viewer", "other"])
def test_every_route_checks_the_rights_of_the_one_who_asks(server: RunningServer, actor: int) -> None:
    token = (None, token_for(server, "team/*", "viewer"), token_for(server, "other/*", "admin"))[actor]
    wrong = []
    for method, path in ALL:
        route = f"{method} {path}"
        expected = STATUSES.get(route, usual(method, path))[actor]
        status, body = asked(server, route, filled(path) + QUERIES.get(route, ""), token)
        if status != expected:
            wrong.append(f"{route}: {status}, not {expected}: {body!r}")
    assert not wrong, "\n".join(wrong)


def test_the_tables_name_only_routes_that_exist() -> None:
    known = {f"{method} {path}" for method, path in ALL}
    assert not {*STATUSES, *BODIES, *FORMS, *QUERIES} - known


def test_the_lists_of_others_are_empty(server: RunningServer) -> None:
    token = token_for(server, "other/*", "admin")
    for place, key in (("builds", "builds"), ("environments", "environments")):
        assert server.get(f"/cetool/1/{place}", token=token).json[key] == []
        assert server.get(f"/cetool/1/{place}").json[key] != []
    for place in ("build", "environment", "channel", "package"):
        for asked in (token, None):
            assert server.get(f"/api/v1/{place}/", token=asked).json["data"] == [], place
        assert server.get(f"/api/v1/{place}/").json["data"] != [], place
    names = {each["name"] for each in server.get("/cetool/1/namespaces", token=token).json["namespaces"]}
    assert "team" not in names
    assert "team" not in server.get("/environments", token=token).text

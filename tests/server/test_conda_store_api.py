"""conda-store's API: namespaces, roles, tokens, settings and lists, as conda-store 2025.2.2 answers.

The real clients are in ``test_conda_store_clients.py``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.home import Home
from support.serving import Answer, RunningServer, running_server

USER = '{"*/*": [admin]}'
CONFIG = f"""\
users:
  - {{name: ana, password: correct horse, grants: {USER}}}
  - {{name: bob, password: battery staple}}
anonymous-access: true
"""


@pytest.fixture(scope="module")
def server(settled: Home) -> Iterator[RunningServer]:
    """A server with two users, in which anyone may read the default namespace."""
    config = settled.write("conda-store-api.yaml", CONFIG)
    with running_server(settled, "--config", str(config), data=settled.path / "conda-store-api") as running:
        yield running


def log_in(server: RunningServer, name: str, password: str) -> str:
    """Log in as conda-store's clients do and return the header Cookie."""
    answer = server.post("/login/", {"username": name, "password": password}, token=None)
    assert answer.status == 200, answer.text
    assert answer.json["status"] == "ok" and "redirect_url" in answer.json["data"]
    return answer.headers["set-cookie"].partition(";")[0]


def data(answer: Answer) -> Any:
    """Return the data of a successful answer."""
    assert answer.status == 200, answer.text
    assert answer.json["status"] == "ok"
    return answer.json["data"]


def refused(answer: Answer, status: int, message: str = "") -> None:
    """Check an error's form: a status and a message, and nothing else."""
    assert (answer.status, set(answer.json)) == (status, {"status", "message"}), answer.text
    assert answer.json["status"] == "error" and message in answer.json["message"]


def test_the_version_is_that_of_the_api(server: RunningServer) -> None:
    answer = server.get("/api/v1/", token=None)
    assert answer.json == {"status": "ok", "data": {"version": "2025.2.2"}, "message": None}


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/namespace", "/api/v2/environment", "/api/v1/build?status=FAILED"])
def test_a_path_without_its_slash_is_redirected_with_its_query(server: RunningServer, path: str) -> None:
    answer = server.get(path)
    place, _, query = path.partition("?")
    assert answer.status == 307
    assert answer.headers["location"].removeprefix(server.url) == f"{place}/" + (f"?{query}" if query else "")


def test_an_unknown_path_is_answered_as_fastapi_does(server: RunningServer) -> None:
    answer = server.get("/api/v1/nothing/")
    assert (answer.status, answer.json) == (404, {"detail": "Not Found"})


def test_what_does_not_match_the_api_is_answered_as_fastapi_does(server: RunningServer) -> None:
    answer = server.get("/api/v1/build/?status=WRONG")
    assert (answer.status, answer.json["detail"][0]["loc"]) == (422, ["query", "status"])
    answer = server.request("PUT", "/api/v1/namespace/default/", {"metadata": 1})
    assert (answer.status, answer.json["detail"][0]["loc"]) == (422, ["body", "metadata"])


# --- rights -----------------------------------------------------------------------------------------------------------


def test_permissions_are_listed_by_pattern(server: RunningServer) -> None:
    anyone = data(server.get("/api/v1/permission/", token=None))
    assert anyone["authenticated"] is False
    assert anyone["primary_namespace"] == "default"
    reading = ["environment::read", "namespace-role-mapping::read", "namespace::read"]
    assert anyone["entity_permissions"] == {"default/*": reading}
    admin = data(
        server.get("/api/v1/permission/", token=None, headers={"Cookie": log_in(server, "ana", "correct horse")})
    )
    assert admin["primary_namespace"] == "ana"
    # not that of the own namespace, which */* includes
    assert sorted(admin["entity_permissions"]) == ["*/*", "default/*", "filesystem/*"]
    assert len(admin["entity_permissions"]["*/*"]) == 17
    assert admin["entity_roles"] == {"*/*": ["admin"], "default/*": ["viewer"], "filesystem/*": ["viewer"]}
    assert admin["expiration"].endswith("Z")
    user = data(
        server.get("/api/v1/permission/", headers={"Cookie": log_in(server, "bob", "battery staple")}, token=None)
    )
    assert user["entity_roles"]["bob/*"] == ["admin"]


def test_a_wrong_password_is_refused(server: RunningServer) -> None:
    refused(server.post("/login/", {"username": "ana", "password": "wrong"}, token=None), 403)


def test_a_token_has_the_rights_asked_for_and_no_more(server: RunningServer) -> None:
    bindings = {"default/*": ["developer"]}
    token = data(server.post("/api/v1/token/", {"role_bindings": bindings, "primary_namespace": "default"}))["token"]
    rights = data(server.get("/api/v1/permission/", token=token))
    assert rights["entity_roles"] == {"default/*": ["developer"], "filesystem/*": ["viewer"]}
    refused(server.post("/api/v1/namespace/other/", token=token), 403, "request not authorized")
    answer = server.post("/api/v1/token/", {"role_bindings": {"*/*": ["admin"]}}, token=token)
    refused(answer, 400, "not a subset of current permissions")


@pytest.mark.parametrize("key", ["expiration", "exp"])
def test_a_token_expires_when_asked_and_not_later_than_its_maker(server: RunningServer, key: str) -> None:
    token = data(server.post("/api/v1/token/", {key: "2037-01-01T00:00:00Z"}))["token"]
    assert data(server.get("/api/v1/permission/", token=token))["expiration"] == "2037-01-01T00:00:00.000000Z"
    refused(server.post("/api/v1/token/", {key: "2038-01-01T00:00:00Z"}, token=token), 400, "greater than")
    # the same token again, as conda-store's command line asks for it: with the end and the rights of its own
    mine = data(server.get("/api/v1/permission/", token=token))
    again = {"role_bindings": mine["entity_roles"], key: mine["expiration"]}
    assert data(server.post("/api/v1/token/", again, token=token))["token"]


def test_a_token_for_anyone_gives_the_rights_of_anyone(server: RunningServer) -> None:
    token = data(server.post("/api/v1/token/", token=None))["token"]
    assert data(server.get("/api/v1/permission/", token=token))["authenticated"] is False
    assert server.get("/api/v1/namespace/default/", token=token).status == 200


# --- namespaces -------------------------------------------------------------------------------------------------------


def test_namespaces_are_created_listed_changed_and_deleted(server: RunningServer) -> None:
    created = server.post("/api/v1/namespace/team-one/")
    assert created.json == {"status": "ok", "message": None}
    refused(server.post("/api/v1/namespace/team-one/"), 409, "namespace already exists")
    listed = server.get("/api/v1/namespace/").json
    assert "message" not in listed
    assert "team-one" in [each["name"] for each in listed["data"]]
    assert listed["count"] == len(listed["data"])
    assert server.request("PUT", "/api/v1/namespace/team-one/metadata", {"cost": "low"}).status == 200
    roles = {"other/*": ["viewer"], "team-*/*": ["editor"]}
    assert server.request("PUT", "/api/v1/namespace/team-one/", {"role_mappings": roles}).status == 200
    found = data(server.get("/api/v1/namespace/team-one/"))
    assert found["metadata_"] == {"cost": "low"}
    assert {each["entity"]: each["role"] for each in found["role_mappings"]} == {
        "other/*": "viewer",
        "team-*/*": "developer",
    }
    assert server.request("DELETE", "/api/v1/namespace/team-one/").status == 200
    refused(server.get("/api/v1/namespace/team-one/"), 404, "namespace does not exist")


@pytest.mark.parametrize("name", ["a%20b", "a%2Fb", "..", "%E2%9C%93", "a" * 256])
def test_a_namespace_needs_a_valid_name(server: RunningServer, name: str) -> None:
    assert server.post(f"/api/v1/namespace/{name}/").status in (400, 404)


def test_users_of_other_namespaces_get_roles(server: RunningServer) -> None:
    assert server.post("/api/v1/namespace/shop/").status == 200
    bob = {"Cookie": log_in(server, "bob", "battery staple")}
    assert server.post("/api/v1/namespace/bob/", token=None, headers=bob).status == 200
    refused(server.get("/api/v1/namespace/shop/", token=None, headers=bob), 403)
    role = {"other_namespace": "bob", "role": "editor"}
    refused(server.get("/api/v1/namespace/shop/role?other_namespace=bob"), 404, "failed to find role")
    refused(server.request("PUT", "/api/v1/namespace/shop/role", role), 404, "failed to find role")
    assert server.post("/api/v1/namespace/shop/role", role).status == 200
    refused(server.post("/api/v1/namespace/shop/role", role), 409)
    refused(server.post("/api/v1/namespace/shop/role", {**role, "other_namespace": "none"}), 400)
    refused(server.request("PUT", "/api/v1/namespace/shop/role", {**role, "role": "king"}), 400, "invalid role=king")
    found = data(server.get("/api/v1/namespace/shop/role?other_namespace=bob"))
    assert (found["namespace"], found["other_namespace"], found["role"]) == ("shop", "bob", "developer")
    assert server.get("/api/v1/namespace/shop/", token=None, headers=bob).status == 200
    assert server.request("PUT", "/api/v1/namespace/shop/role", {**role, "role": "viewer"}).status == 200
    assert [each["role"] for each in data(server.get("/api/v1/namespace/shop/roles"))] == ["viewer"]
    for _ in range(2):
        assert server.request("DELETE", "/api/v1/namespace/shop/role", {"other_namespace": "bob"}).status == 200
    assert data(server.get("/api/v1/namespace/shop/roles")) == []
    refused(server.get("/api/v1/namespace/shop/", token=None, headers=bob), 403)


def test_the_right_is_checked_before_the_namespace(server: RunningServer) -> None:
    refused(server.get("/api/v1/namespace/secret/", token=None), 403, "request not authorized")
    refused(server.get("/api/v1/namespace/secret/"), 404, "namespace does not exist")


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_are_those_of_the_native_api_under_other_names(server: RunningServer) -> None:
    everywhere = data(server.get("/api/v1/setting/"))
    assert len(everywhere) == 22
    assert everywhere["conda_included_packages"] == []
    changed = server.request("PUT", "/api/v1/setting/team/", {"conda_included_packages": ["ipykernel"]})
    assert data(changed) is None
    assert "['conda_included_packages'] updated" in changed.json["message"]
    assert data(server.get("/api/v1/setting/team/"))["conda_included_packages"] == ["ipykernel"]
    assert data(server.get("/api/v1/setting/team/one/"))["conda_included_packages"] == ["ipykernel"]
    assert data(server.get("/api/v1/setting/"))["conda_included_packages"] == []
    refused(server.get("/api/v1/setting/team/", token=None), 403)


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("/", {"wrong": 1}, "Invalid setting keys"),
        ("/", {"conda_included_packages": 1}, "validation error"),
        ("/team/", {"conda_max_solve_time": 60}, "global setting"),
        ("/", {"conda_command": "mamba"}, "has no meaning"),
        ("/?environment_name=one", {}, "without a namespace"),
    ],
)
def test_settings_that_cannot_be_set_are_refused(
    server: RunningServer, path: str, change: dict[str, Any], message: str
) -> None:
    refused(server.request("PUT", f"/api/v1/setting{path}", change), 400, message)


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_list_without_a_page_is_not_cut_off(server: RunningServer) -> None:
    names = [f"many-{number}" for number in range(120)]
    for name in names:
        assert server.post(f"/api/v1/namespace/{name}/").status == 200
    whole = server.get("/api/v1/namespace/").json
    assert len(whole["data"]) == whole["count"] >= 120
    page = server.get("/api/v1/namespace/?page=2&size=1000&order=desc").json
    assert (page["page"], page["size"]) == (2, 100)
    assert page["data"] == sorted(whole["data"], key=lambda each: str(each["name"]), reverse=True)[100:]
    assert [len(server.get(f"/api/v1/namespace/?size={size}").json["data"]) for size in (1, 7)] == [1, 7]
    assert server.get("/api/v1/namespace/?page=0").status == 422


@pytest.mark.parametrize("path", ["environment", "build"])
@pytest.mark.parametrize(
    "query", ["?status=COMPLETED/", "?artifact=CONDA_PACK&packages=python&packages=six/", "?name=x%2F"]
)
def test_a_slash_that_clients_append_to_the_query_is_ignored(server: RunningServer, path: str, query: str) -> None:
    assert data(server.get(f"/api/v1/{path}/{query}")) == []


def test_the_list_of_environments_is_deprecated_as_in_conda_store(server: RunningServer) -> None:
    answer = server.get("/api/v1/environment/")
    assert answer.headers["deprecation"] == "True"
    assert answer.headers["sunset"] == "Mon, 17 Mar 2025 00:00:00 UTC"


def test_the_end_of_a_cursor_is_a_cursor_of_nothing(server: RunningServer) -> None:
    answer = server.get("/api/v2/environment/?sort_by=namespace,name&limit=3").json
    assert json.loads(base64.b64decode(answer["cursor"])) == {"last_id": None, "last_value": None}
    refused(server.get("/api/v2/environment/?sort_by=wrong"), 400, "Cannot sort results by")
    refused(server.get("/api/v2/environment/?cursor=wrong"), 400)
    assert server.get("/api/v2/environment/?order=wrong").status == 422


def test_objects_that_do_not_exist_are_404_except_where_conda_store_differs(server: RunningServer) -> None:
    for number in ("1010101", str(2**63), str(10**30), "-1", "0"):
        refused(server.get(f"/api/v1/build/{number}/"), 404, "build id does not exist")
    refused(server.get("/api/v1/environment/default/none/"), 404, "environment does not exist")
    refused(server.request("DELETE", "/api/v1/environment/default/none/"), 400, "does not exist")
    refused(server.request("PUT", "/api/v1/environment/default/none/", {"build_id": 1}), 400, "does not exist")


# --- the web interface ------------------------------------------------------------------------------------------------


def test_no_interface_is_served_unless_its_directory_is_named(server: RunningServer) -> None:
    answer = server.get("/ui/")
    assert answer.status == 404 and "--ui-dir" in answer.text


def test_the_interface_is_configured_for_the_address_that_the_browser_used(home: Home) -> None:
    directory = home.path / "interface"
    (directory / "dist").mkdir(parents=True)
    (directory / "dist" / "main.js").write_text("// the interface")
    (home.path / "secret").write_text("secret")
    (directory / "dist" / "link").symlink_to(home.path / "secret")
    with running_server(home, "--ui-dir", str(directory), "--url-prefix", "/x") as running:
        page = running.get("/ui/some/environment", token=None)
        assert '<base href="/x/ui/">' in page.text and "'unsafe-inline'" in page.headers["content-security-policy"]
        assert running.get("/ui/main.js", token=None).text == "// the interface"
        config = running.get("/ui/config.js", token=None).text
        assert 'REACT_APP_API_URL: window.location.origin + "/x/"' in config
        for path in ("/ui/link", "/ui/..%2f..%2f..%2fsecret", "/ui/%2e%2e/secret"):
            assert "secret" not in running.get(path, token=None).text.removeprefix("<!doctype")

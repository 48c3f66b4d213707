"""conda-store's API: namespaces, roles, tokens, settings and lists, as conda-store 2025.2.2 answers.

The real clients are in ``test_conda_store_clients.py``.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
def server(settled: Home, channel_url: str) -> Iterator[RunningServer]:
    """A server with two users, in which anyone may read the default namespace."""
    # locks name the channel by its URL
    config = settled.write("conda-store-api.yaml", f"{CONFIG}channels-allowed: [conda-forge, {channel_url}]\n")
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
    names = [f"many-{number}" for number in range(101)]
    for name in names:
        assert server.post(f"/api/v1/namespace/{name}/").status == 200
    whole = server.get("/api/v1/namespace/").json
    assert len(whole["data"]) == whole["count"] > 101
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
    without = query.removesuffix("%2F").removesuffix("/")
    assert data(server.get(f"/api/v1/{path}/{query}")) == data(server.get(f"/api/v1/{path}/{without}"))


def test_the_list_of_environments_is_deprecated_as_in_conda_store(server: RunningServer) -> None:
    answer = server.get("/api/v1/environment/")
    assert answer.headers["deprecation"] == "True"
    assert answer.headers["sunset"] == "Mon, 17 Mar 2025 00:00:00 UTC"


def test_the_end_of_a_cursor_is_a_cursor_of_nothing(server: RunningServer) -> None:
    place = "/api/v2/environment/?sort_by=namespace,name&limit=3"
    answer = server.get(place).json
    while answer["data"]:
        answer = server.get(f"{place}&cursor={answer['cursor']}").json
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


# --- builds -----------------------------------------------------------------------------------------------------------


def posted(server: RunningServer, text: str, **more: Any) -> int:
    """Post a specification and return the number of the build, when it has ended."""
    number: int = data(server.post("/api/v1/specification/", {"specification": text, **more}))["build_id"]
    server.wait(number)
    return number


def build_of(server: RunningServer, number: int) -> Any:
    """Return a build."""
    return data(server.get(f"/api/v1/build/{number}/"))


def test_a_build_has_what_the_interface_reads(server: RunningServer) -> None:
    text = "name: whole\ndescription: All of it\nprefix: null\ndependencies: [six 1.16.*]\nvariables: {ONE: 1}\n"
    number = posted(server, text, namespace="built")
    found = build_of(server, number)
    assert (found["status"], found["packages"]) == ("COMPLETED", None)
    assert found["status_info"] and found["size"] > 0
    assert not any(found[key].endswith("Z") for key in ("scheduled_on", "started_on", "ended_on"))
    spec = found["specification"]["spec"]
    assert (spec["name"], spec["description"], spec["prefix"]) == ("whole", "All of it", None)
    assert (spec["channels"], spec["variables"]) == (["conda-forge"], {"ONE": "1"})
    assert [each["artifact_type"] for each in found["build_artifacts"]] == [
        *("DIRECTORY", "LOCKFILE", "LOGS", "YAML", "CONDA_PACK"),
    ]
    environment = data(server.get("/api/v1/environment/built/whole/"))
    assert environment["current_build_id"] == number
    assert environment["description"] == "All of it"
    packages = data(server.get(f"/api/v1/build/{number}/packages/?page=1&size=100"))
    assert {(each["name"], each["version"]) for each in packages} >= {("six", "1.16.0")}
    assert all(each["channel"]["name"].startswith("file://") for each in packages)
    log = server.get(f"/api/v1/build/{number}/logs/").text
    assert "Solved for" in log and "Executing transaction: done" in log


def test_a_lock_file_that_is_posted_has_the_same_lock_file(server: RunningServer) -> None:
    first = posted(server, "name: locked\ndependencies: [hello-bin]\n", namespace="built")
    lock = server.get(f"/api/v1/build/{first}/conda-lock.yaml").text
    more = {"is_lockfile": True, "environment_name": "locked", "environment_description": "from a lock"}
    second = posted(server, lock, namespace="built", **more)
    assert second != first
    for place in (f"build/{second}/lockfile/", f"build/{second}/conda-lock.yml", "environment/built/locked/lockfile/"):
        assert server.get(f"/api/v1/{place}").text == lock
    assert data(server.get("/api/v1/environment/built/locked/"))["description"] == "from a lock"
    spec = build_of(server, second)["specification"]["spec"]
    assert [each["name"] for each in spec["lockfile"]["package"]] == ["hello-bin"]


def test_an_identical_specification_returns_the_build_and_a_rebuild_is_a_new_one(server: RunningServer) -> None:
    text = "name: again\ndependencies: [hello-bin]\n"
    first = posted(server, text, namespace="built")
    assert posted(server, text, namespace="built") == first
    answer = server.request("PUT", f"/api/v1/build/{first}/")
    assert answer.json["message"] == "rebuild triggered"
    second = data(answer)["build_id"]
    assert second > first and server.wait(second)["status"] == "COMPLETED"
    environment = "/api/v1/environment/built/again/"
    assert data(server.get(environment))["current_build_id"] == second
    assert server.request("PUT", environment, {"build_id": first}).json == {"status": "ok", "message": None}
    assert data(server.get(environment))["current_build_id"] == first
    other = posted(server, "name: other\ndependencies: [hello-bin]\n", namespace="elsewhere")
    refused(server.request("PUT", environment, {"build_id": other}), 400, "another environment")
    # the number of a deleted build is never used again
    assert server.request("DELETE", f"/api/v1/build/{second}/").status == 200
    assert posted(server, "name: next\ndependencies: [hello-bin]\n", namespace="built") > other


def test_a_specification_without_packages_gets_python(server: RunningServer) -> None:
    number = posted(server, json.dumps({"name": "empty"}), namespace="built")
    assert build_of(server, number)["specification"]["spec"]["dependencies"] == ["python"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "type=model_type"),
        ({"specification": "name: [", "namespace": "built"}, "Unable to parse. Invalid YAML"),
        ({"specification": "dependencies: [six]"}, "type=missing, loc=('name',)"),
        ({"specification": "name: a b\n"}, "type=string_pattern_mismatch"),
        ({"specification": "name: x\ndependencies: [1]\n"}, "loc=('dependencies', 0"),
        ({"specification": "name: x\ndependencies: ['six ==']\n"}, "six =="),
        ({"specification": json.dumps({"name": "A" * 256})}, "255 characters"),
        ({"specification": "version: 1", "is_lockfile": True, "environment_name": "x"}, ""),
        ({"specification": "{}", "is_lockfile": True}, "name of the environment"),
        ({"specification": "name: x\ndependencies: [six]", "namespace": "a/b"}, "not a valid name of a namespace"),
    ],
)
def test_a_wrong_specification_is_refused_with_its_mistake(
    server: RunningServer, body: dict[str, Any], message: str
) -> None:
    refused(server.post("/api/v1/specification/", body), 400, message)


def test_a_build_that_fails_says_why(server: RunningServer) -> None:
    number = posted(server, "name: broken\ndependencies: [no-such-package-here]\n", namespace="built")
    found = build_of(server, number)
    assert found["status"] == "FAILED" and "no-such-package-here" in found["status_info"]
    assert [each["artifact_type"] for each in found["build_artifacts"]] == ["LOGS"]
    assert "no-such-package-here" in server.get(f"/api/v1/build/{number}/logs/").text
    for place in ("lockfile", "yaml", "archive"):
        refused(server.get(f"/api/v1/build/{number}/{place}/"), 404)
    refused(server.get(f"/api/v1/build/{number}/installer/"), 400, "doesn't have an installer")
    refused(server.get(f"/api/v1/build/{number}/docker/"), 400)
    refused(server.request("PUT", "/api/v1/environment/built/broken/", {"build_id": number}), 400, "not completed")


def test_what_a_caller_may_not_read_is_neither_listed_nor_downloaded(server: RunningServer) -> None:
    number = posted(server, "name: hidden\ndependencies: [hello-bin]\n", namespace="private")
    for place in ("", "packages/", "logs/", "yaml/", "lockfile/", "archive/"):
        refused(server.get(f"/api/v1/build/{number}/{place}", token=None), 403, "request not authorized")
    assert "hidden" not in server.get("/api/v1/environment/", token=None).text
    assert number not in [each["id"] for each in data(server.get("/api/v1/build/", token=None))]
    assert data(server.get("/api/v1/package/?search=hello-bin&exact=1", token=None)) == []
    assert data(server.get("/api/v1/package/?search=hello-bin&exact=1"))


def test_packages_of_builds_can_be_told_apart_by_name_and_version(server: RunningServer) -> None:
    for number, version in enumerate(("1.16.0", "1.17.0")):
        posted(server, f"name: six-{number}\ndependencies: [six {version}]\n", namespace="built")
    # with a build string, only builds are searched
    query = "/api/v1/package/?build=pyh&search=six&exact=true"
    versions = data(server.get(f"{query}&distinct_on=version&order=desc&sort_by=version"))
    assert [each["version"] for each in versions] == ["1.17.0", "1.16.0"]
    names = data(server.get(f"{query}&page=1&size=100&distinct_on=name"))
    assert [(each["name"], each["version"]) for each in names] == [("six", "1.17.0")]
    assert data(server.get("/api/v1/channel/"))[0]["last_update"]


def test_who_may_create_environments_finds_the_packages_of_channels(server: RunningServer) -> None:
    answer = server.get("/api/v1/package/?search=needs-&page=1&size=1&distinct_on=name").json
    assert (answer["count"], answer["size"]) == (2, 1)
    assert [each["name"] for each in answer["data"]] == ["needs-cuda"]
    query = "search=shared-lib&exact=true&distinct_on=version&page=1&order=desc&sort_by=version"
    versions = data(server.get(f"/api/v1/package/?{query}"))
    assert [(each["name"], each["version"]) for each in versions] == [("shared-lib", "2"), ("shared-lib", "1")]
    assert versions[0]["channel"]["name"].endswith("/conda-forge")
    assert data(server.get("/api/v1/package/?search=shared-lib", token=None)) == []


def test_archives_have_the_variables_of_their_build(server: RunningServer) -> None:
    texts = []
    for value in ("one", "two"):
        text = f"name: with-{value}\ndependencies: [hello-bin]\nvariables: {{VALUE: {value}}}\n"
        archive = server.get(f"/api/v1/build/{posted(server, text, namespace='built')}/archive/")
        assert archive.headers["content-type"] == "application/gzip"
        with tarfile.open(fileobj=io.BytesIO(archive.body)) as tar:
            file = tar.extractfile("bin/activate")
            assert file is not None
            texts.append(file.read().decode())
    assert "export VALUE=one\n" in texts[0] and "export VALUE=two\n" in texts[1]


def test_an_archive_is_written_once_for_requests_at_the_same_time(server: RunningServer) -> None:
    number = posted(server, "name: at-once\ndependencies: [bigpkg]\n", namespace="built")
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda _: server.get(f"/api/v1/build/{number}/archive/").body, range(8)))
    assert len(set(bodies)) == 1 and len(bodies[0]) > 5_000_000
    part = server.get(f"/api/v1/build/{number}/archive/", headers={"Range": "bytes=0-1"})
    assert (part.status, part.body) == (206, b"\x1f\x8b")
    assert not list((server.data / "artifacts").glob(".*"))


def test_a_cursor_goes_through_all_environments(server: RunningServer) -> None:
    for number in range(7):
        posted(server, f"name: e{number}\ndependencies: [hello-bin]\n", namespace=f"cursor-{number % 3}")
    for order in ("asc", "desc"):
        seen: list[tuple[str, str]] = []
        cursor = ""
        while True:
            query = f"?limit=3&search=cursor-&sort_by=namespace,name&order={order}{cursor}"
            page = server.get(f"/api/v2/environment/{query}").json
            assert page["count"] == 7
            if not page["data"]:
                break
            assert "current_build" not in page["data"][0]
            seen += [(each["namespace"]["name"], each["name"]) for each in page["data"]]
            cursor = f"&cursor={page['cursor']}"
        assert seen == sorted(set(seen), reverse=order == "desc") and len(seen) == 7


def test_usage_counts_shared_environments_once(server: RunningServer) -> None:
    for name in ("one", "two"):
        posted(server, f"name: {name}\ndependencies: [many-files]\n", namespace="used")
    found = data(server.get("/api/v1/usage/"))["used"]
    size = build_of(server, data(server.get("/api/v1/environment/used/one/"))["current_build_id"])["size"]
    assert found == {"num_environments": 2, "num_builds": 2, "storage": size}


def test_deleting_removes_environments_and_namespaces(server: RunningServer) -> None:
    posted(server, "name: gone\ndependencies: [hello-bin]\n", namespace="leaving")
    link = server.data / "names" / "leaving" / "gone"
    assert (link / "bin" / "hello").is_file()
    assert server.request("DELETE", "/api/v1/environment/leaving/gone/").json == {"status": "ok", "message": None}
    refused(server.get("/api/v1/environment/leaving/gone/"), 404)
    assert not link.is_symlink()
    posted(server, "name: gone\ndependencies: [hello-bin]\n", namespace="leaving")
    assert link.is_symlink()
    assert server.request("DELETE", "/api/v1/namespace/leaving/").status == 200
    assert not link.is_symlink()
    assert "leaving" not in server.get("/api/v1/environment/").text


def test_the_server_answers_while_it_solves_without_building(server: RunningServer) -> None:
    query = "?channel=conda-forge&conda=python&conda=six&pip="
    assert server.get("/api/v1/permission/").status == 200
    with ThreadPoolExecutor(4) as pool:
        solves = [pool.submit(server.get, f"/api/v1/specification/{query}") for _ in range(4)]
        meanwhile = 0
        while not all(each.done() for each in solves):
            assert server.get("/api/v1/permission/").status == 200
            meanwhile += 1
    assert meanwhile > 1
    packages = solves[0].result().json["solve"]
    assert {each["name"] for each in packages} == {"python", "six"}
    assert all(each["sha256"] and each["size"] and each["channel_id"] and each["id"] for each in packages)
    # nothing is left of it
    assert "solve" not in server.get("/api/v1/environment/").text
    assert not list((server.data / "scratch").glob("--*"))


def test_solving_needs_the_right_and_a_specification_that_can_be_read(server: RunningServer) -> None:
    refused(server.get("/api/v1/specification/?conda=six", token=None), 403, "request not authorized")
    refused(server.get("/api/v1/specification/?conda=six%20%3D%3D"), 400, "six ==")
    refused(server.get("/api/v1/specification/?channels=conda-forge&conda=no-such-package/"), 400, "no-such-package")
    assert server.get("/api/v1/specification/?format=wrong").status == 422

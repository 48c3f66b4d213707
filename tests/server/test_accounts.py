"""Tokens, users, grants and the audit table, through the native API."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.serving import Answer, RunningServer, running_server

API = "/cetool/1"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, local_channel: Channel) -> Iterator[Home]:
    home = make_home(tmp_path_factory.mktemp("accounts") / "home", local_channel)
    yield home
    remove_home(home)


@pytest.fixture(scope="module")
def server(place: Home) -> Iterator[RunningServer]:
    with running_server(place) as running:
        yield running


class Client:
    """Sends requests with a token."""

    def __init__(self, server: RunningServer, token: str | None) -> None:
        self.server, self.token = server, token

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return self.server.request(method, f"{API}{path}", body, token=self.token, headers=headers)

    def made(self, path: str, body: object) -> Any:
        """POST what must succeed."""
        answer = self("POST", path, body)
        assert answer.status == 201, answer.text
        return answer.json

    def new_token(self, **body: object) -> tuple[Client, Any]:
        """Create a token; return a client with it, and its description."""
        found = self.made("/tokens", {"name": "test", **body})
        return Client(self.server, found["token"]), found

    @property
    def name(self) -> str | None:
        """The name that the server knows the token by."""
        found: str | None = self("GET", "").json["user"]
        return found


@pytest.fixture
def admin(server: RunningServer) -> Client:
    return Client(server, server.token)


_number = iter(range(1000))


@pytest.fixture
def ana(admin: Client) -> Client:
    """A user of this test's own, with all of the user's rights."""
    return a_user(admin)


def a_user(admin: Client, *grants: tuple[str, str]) -> Client:
    name = f"ana{next(_number)}"
    rights = [{"pattern": pattern, "role": role} for pattern, role in grants]
    admin.made("/users", {"name": name, "password": f"{name} password", "grants": rights})
    return admin.new_token(user=name)[0]


def rights(client: Client, namespace: str) -> set[str]:
    found = client("GET", f"/access?namespace={namespace}").json["permissions"]
    return {each["permission"] for each in found if each["allowed"]}


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_listed_without_its_secret(ana: Client) -> None:
    client, made = ana.new_token(name="laptop")
    assert client.name == ana.name and made["token"].startswith("cet_")
    listed = ana("GET", "/tokens")
    assert made["token"] not in listed.text
    assert next(each for each in listed.json["tokens"] if each["id"] == made["id"])["name"] == "laptop"


def test_a_revoked_token_is_refused_from_the_next_request_on(ana: Client) -> None:
    client, made = ana.new_token()
    assert ana("DELETE", f"/tokens/{made['id']}").json["revoked"]
    answer = client("GET", "/tokens")
    assert answer.status == 401 and answer.json["detail"] == "the token was revoked"
    assert client.name is None


def test_a_token_that_another_token_created_is_revoked_with_it(ana: Client) -> None:
    parent, made = ana.new_token()
    child, _ = parent.new_token()
    grandchild, _ = child.new_token()
    ana("DELETE", f"/tokens/{made['id']}")
    assert (child.name, grandchild.name) == (None, None)
    assert ana.name is not None


def test_what_a_login_with_a_token_creates_ends_with_the_token(server: RunningServer, ana: Client) -> None:
    end = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    parent, made = ana.new_token(expires=end)
    answer = server.post("/login/", {"username": "", "password": parent.token}, token=None)
    session = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    child = server.post(f"{API}/tokens", {"name": "child"}, token=None, headers=session).json
    assert child["expires"] == made["expires"]
    listed = server.get(f"{API}/tokens", token=None, headers=session).json["tokens"]
    assert {child["id"], made["id"]} <= {each["id"] for each in listed}
    compatible = server.post("/api/v1/token/", {}, token=None, headers=session).json["data"]["token"]
    ana("DELETE", f"/tokens/{made['id']}")
    for token in (child["token"], compatible):
        assert Client(server, token).name is None
    assert server.get(API, token=None, headers=session).json["user"] is None


def test_an_expired_token_is_refused(ana: Client) -> None:
    soon = datetime.now(timezone.utc) + timedelta(seconds=1)
    client, _ = ana.new_token(expires=soon.isoformat())
    assert client.name == ana.name
    time.sleep(1.2)
    assert client("GET", "/tokens").json["detail"] == "the token has expired"
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    assert ana("POST", "/tokens", {"name": "x", "expires": past.isoformat()}).status == 400
    assert ana("POST", "/tokens", {"name": "x", "expires": "2030-01-01T00:00:00"}).status == 422


def test_a_token_does_not_outlive_the_one_that_created_it(ana: Client) -> None:
    end = datetime.now(timezone.utc) + timedelta(hours=1)
    client, made = ana.new_token(expires=end.isoformat())
    for later in (None, (end + timedelta(days=1)).isoformat()):
        assert client.new_token(expires=later)[1]["expires"] == made["expires"]


def test_a_scoped_token_has_at_most_its_scope_and_cannot_widen_it(ana: Client) -> None:
    name = ana.name
    scoped, _ = ana.new_token(grants=[{"pattern": f"{name}/*", "role": "viewer"}])
    assert rights(scoped, f"{name}") == {"environment::read", "namespace::read", "namespace-role-mapping::read"}
    assert rights(scoped, "default") == set()
    child, made = scoped.new_token()
    assert made["grants"] == [{"pattern": f"{name}/*", "role": "viewer"}]
    assert rights(child, f"{name}") == rights(scoped, f"{name}")
    for wider in ({"pattern": f"{name}/*", "role": "editor"}, {"pattern": "*/*", "role": "viewer"}):
        assert scoped("POST", "/tokens", {"name": "x", "grants": [wider]}).status == 403


def test_a_scoped_token_manages_only_itself_and_those_that_it_created(ana: Client) -> None:
    _, other = ana.new_token(name="other")
    scoped, made = ana.new_token(name="scoped", grants=[{"pattern": f"{ana.name}/*", "role": "viewer"}])
    _, child = scoped.new_token(name="child")
    assert {each["id"] for each in scoped("GET", "/tokens").json["tokens"]} == {made["id"], child["id"]}
    assert scoped("DELETE", f"/tokens/{other['id']}").status == 404
    assert scoped("DELETE", f"/tokens/{made['id']}").status == 200


def test_no_one_sees_or_revokes_the_tokens_of_others(admin: Client, ana: Client) -> None:
    bob = a_user(admin)
    _, made = bob.new_token()
    assert ana("DELETE", f"/tokens/{made['id']}").status == 404
    assert ana("GET", f"/tokens?user={bob.name}").status == 403
    assert ana("GET", "/tokens?all=true").status == 403
    assert ana("POST", "/tokens", {"name": "x", "user": bob.name}).status == 403
    assert ana("POST", "/tokens", {"name": "x", "service": True, "grants": []}).status == 403
    assert made["id"] in {each["id"] for each in admin("GET", "/tokens?all=true").json["tokens"]}
    assert admin("DELETE", f"/tokens/{made['id']}").status == 200


def test_a_service_has_a_token_without_a_user(admin: Client) -> None:
    service, made = admin.new_token(name="ci", service=True, grants=[{"pattern": "team/*", "role": "editor"}])
    assert (service.name, made["user"]) == ("ci", None)
    assert "environment::update" in rights(service, "team") and "environment::delete" not in rights(service, "team")
    assert admin("POST", "/tokens", {"name": "x", "service": True}).status == 400


def test_the_last_use_is_noted(place: Home, admin: Client) -> None:
    with running_server(place, data=place.path / "other") as other:
        token = Client(other, other.token).new_token()[0].token
        assert token is not None and Client(other, token).name == "test"
        # written by a thread every minute, and at the end
        other.stop()
        with sqlite3.connect(other.data / "server.sqlite3") as database:
            assert [used for (used,) in database.execute("SELECT last_used FROM token")].count(None) == 0


# --- users and grants -------------------------------------------------------------------------------------------------


def test_a_user_is_the_admin_of_the_namespace_with_the_same_name_only(ana: Client) -> None:
    assert len(rights(ana, str(ana.name))) == 17
    assert rights(ana, "other") == set()
    assert rights(ana, "default") == {"environment::read", "namespace::read", "namespace-role-mapping::read"}


def test_a_user_with_another_primary_namespace_has_what_is_granted_to_its_users(admin: Client) -> None:
    admin.made("/users", {"name": "carl", "namespace": "staff"})
    carl = admin.new_token(user="carl")[0]
    assert rights(carl, "carl") == set() and rights(carl, "staff") == set()
    admin.made("/grants", {"subject_kind": "namespace", "subject": "staff", "pattern": "lab/*", "role": "editor"})
    assert "environment::update" in rights(carl, "lab")
    reasons = carl("GET", "/access?namespace=lab").json["permissions"]
    assert next(each for each in reasons if each["permission"] == "environment::update")["reason"] == (
        "editor on lab/* (granted to users of staff)"
    )


def test_only_administrators_manage_users(admin: Client, ana: Client) -> None:
    for method, path, body in (
        ("GET", "/users", None),
        ("POST", "/users", {"name": "eve"}),
        ("PATCH", f"/users/{ana.name}", {"namespace": "default"}),
        ("DELETE", f"/users/{ana.name}", None),
        ("PUT", "/users/admin/password", {"password": "long enough"}),
        ("GET", "/grants", None),
        ("POST", "/grants", {"subject_kind": "authenticated", "pattern": "*/*", "role": "admin"}),
        ("DELETE", "/grants/1", None),
        ("GET", "/audit", None),
    ):
        answer = ana(method, path, body)
        assert answer.status == 403 and answer.json["code"] == "not-allowed", (method, path)
    assert admin("POST", "/users", {"name": "default"}).status == 409
    assert admin("POST", "/users", {"name": "anonymous"}).status == 400
    assert admin("POST", "/users", {"name": "a/b"}).status == 400
    assert admin("POST", "/users", {"name": str(ana.name)}).status == 409
    assert admin("POST", "/users", {"name": "eve", "password": "short"}).status == 400


def test_an_admin_of_a_namespace_grants_there_but_not_more_and_not_elsewhere(admin: Client, ana: Client) -> None:
    name, bob = ana.name, a_user(admin)
    path = f"/namespaces/{name}/grants"
    to_bob = {"subject_kind": "user", "subject": bob.name}
    made = ana.made(path, {**to_bob, "pattern": f"{name}/gpu-*", "role": "developer"})
    assert (made["role"], made["by"]) == ("editor", name)
    assert "environment::update" not in rights(bob, str(name))
    access = bob("GET", f"/access?namespace={name}&environment=gpu-1").json
    assert {each["permission"] for each in access["permissions"] if each["allowed"]} >= {"environment::update"}
    assert bob("POST", path, {"subject_kind": "authenticated", "pattern": f"{name}/*", "role": "viewer"}).status == 403
    for pattern in ("*/*", "other/*", f"{name}*/*"):
        assert ana("POST", path, {**to_bob, "pattern": pattern, "role": "viewer"}).status == 400, pattern
    assert ana("DELETE", f"/namespaces/{name}/grants/1").status == 404
    assert ana("DELETE", f"{path}/{made['id']}").status == 200
    assert "environment::update" not in rights(bob, str(name))


def test_a_removed_user_leaves_no_token_and_no_grant(admin: Client) -> None:
    bob = a_user(admin, ("team/*", "admin"))
    name = bob.name
    assert admin("DELETE", f"/users/{name}").status == 200
    assert bob.name is None
    admin.made("/users", {"name": name})
    again = admin.new_token(user=name)[0]
    assert rights(again, "team") == set()


def test_a_disabled_user_is_refused_everywhere(server: RunningServer, admin: Client) -> None:
    bob = a_user(admin)
    name = bob.name
    assert admin("PATCH", f"/users/{name}", {"disabled": True}).json["disabled"]
    assert bob.name is None
    login = {"username": name, "password": f"{name} password"}
    assert server.post("/login/", login, token=None).status == 403
    admin("PATCH", f"/users/{name}", {"disabled": False})
    assert server.post("/login/", login, token=None).status == 200


def test_a_new_password_needs_the_present_one_and_ends_sessions(server: RunningServer, ana: Client) -> None:
    name = ana.name
    answer = server.post("/login/", {"username": name, "password": f"{name} password"}, token=None)
    session = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    path = f"{API}/users/{name}/password"
    body = {"password": "another password"}
    assert server.request("PUT", path, body, token=None, headers=session).status == 403
    assert server.request("PUT", path, {**body, "present": "wrong"}, token=None, headers=session).status == 403
    body["present"] = f"{name} password"
    assert server.request("PUT", path, body, token=None, headers=session).status == 200
    assert server.get(API, token=None, headers=session).json["user"] is None
    assert server.post("/login/", {"username": name, "password": "another password"}, token=None).status == 200
    assert ana.name == name


# --- audit ------------------------------------------------------------------------------------------------------------


def test_changes_and_refused_changes_are_recorded(admin: Client, ana: Client) -> None:
    ana("POST", "/users", {"name": "eve"})
    Client(ana.server, None)("POST", "/users", {"name": "mallory"})
    _, made = ana.new_token(name="laptop")
    rows = admin("GET", "/audit?limit=3").json["audit"]
    assert [(each["who"], each["action"]) for each in rows] == [
        (ana.name, "token.create"),
        ("anonymous", "refused post /cetool/1/users"),
        (ana.name, "refused post /cetool/1/users"),
    ]
    assert rows[0]["object"] == f"token {made['id']}" and rows[0]["data"]["name"] == "laptop"
    assert all(each["address"] == "127.0.0.1" for each in rows)
    assert made["token"] not in admin("GET", "/audit").text


def test_the_audit_table_is_read_in_pages(admin: Client) -> None:
    first = admin("GET", "/audit?limit=1").json
    second = admin("GET", f"/audit?limit=1&cursor={first['next']}").json
    assert second["audit"][0]["id"] < first["audit"][0]["id"]
    only = admin("GET", "/audit?action=user&limit=1000").json["audit"]
    assert only and all(each["action"].startswith("user") for each in only)


def test_rows_of_the_audit_table_cannot_be_changed(server: RunningServer) -> None:
    with sqlite3.connect(server.data / "server.sqlite3") as database:
        for statement in ("UPDATE audit SET who = 'x'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="never changed"):
                database.execute(statement)
    database.close()

"""Who sends a request: tokens, sessions, passwords, other sites, and limits on guessing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.serving import Answer, RunningServer, running_server

CONFIG = """\
allowed-origins: [https://hub.example.org]
login-attempts: 1000
session-lifetime: 1h
users:
  - {name: ana, password: ana's password, grants: {team/*: [editor]}}
  - {name: bob, password: bob's password}
tokens:
  - {token: 0123456789abcdef-predefined, name: ci, grants: {team/*: [developer]}}
"""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, local_channel: Channel) -> Iterator[RunningServer]:
    home = make_home(tmp_path_factory.mktemp("login") / "home", local_channel)
    config = home.write("server.yaml", CONFIG)
    config.chmod(0o600)
    with running_server(home, "--config", str(config)) as running:
        yield running
    remove_home(home)


def who(server: RunningServer, **more: object) -> object:
    """Return the user that the server sees behind a request."""
    return server.get("/cetool/1", token=None, **more).json["user"]


def log_in(server: RunningServer, name: str, password: str, **headers: str) -> Answer:
    body = {"username": name, "password": password}
    return server.post("/login/", body, token=None, headers=headers)


def cookie_of(answer: Answer) -> str:
    return answer.headers["set-cookie"].partition(";")[0]


def test_the_first_start_prints_a_token_and_later_ones_do_not(home: Home) -> None:
    with running_server(home) as server:
        token = server.token
        assert token.startswith("cet_") and len(token) > 40
        assert who(server, headers={"Authorization": f"Bearer {token}"}) == "admin"
        stored = b"".join(each.read_bytes() for each in server.data.glob("server.sqlite3*"))
        assert token.encode() not in stored
    with running_server(home) as server:
        assert server.token == "" and "token" not in server.log.read_text()
        assert who(server, headers={"Authorization": f"Bearer {token}"}) == "admin"


def test_a_token_is_taken_from_the_header_in_both_forms(server: RunningServer) -> None:
    basic = base64.b64encode(f"anything:{server.token}".encode()).decode()
    for header in (f"Bearer {server.token}", f"bearer  {server.token}", f"Basic {basic}"):
        assert who(server, headers={"Authorization": header}) == "admin"
    for header in ("", "Bearer", "Bearer x", "Basic x", "Basic é", f"Digest {server.token}", server.token):
        assert who(server, headers={"Authorization": header}) is None


def test_a_user_of_the_configuration_can_get_grants_before_the_first_login(server: RunningServer) -> None:
    grant = {"subject_kind": "user", "subject": "bob", "pattern": "lab/*", "role": "viewer"}
    assert server.post("/cetool/1/grants", grant).status == 201


def test_a_token_of_the_configuration_is_known(server: RunningServer) -> None:
    assert who(server, headers={"Authorization": "Bearer 0123456789abcdef-predefined"}) == "ci"


def test_a_login_sets_a_cookie_that_scripts_and_other_sites_cannot_use(server: RunningServer) -> None:
    answer = log_in(server, "ana", "ana's password")
    assert answer.status == 200
    assert answer.json == {"status": "ok", "data": {"redirect_url": "/"}, "message": None}
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert attributes == {"httponly", "max-age=3600", "path=/", "samesite=strict"}
    assert who(server, headers={"Cookie": cookie_of(answer)}) == "ana"


def test_a_form_leads_to_the_page_that_asked_for_the_login(server: RunningServer) -> None:
    body = urlencode({"username": "ana", "password": "ana's password"})
    answer = server.post("/login/?next=/environments/team/", body, token=None, headers=FORM)
    assert (answer.status, answer.headers["location"]) == (303, "/environments/team/")
    assert who(server, headers={"Cookie": cookie_of(answer)}) == "ana"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/a?b=c#d", "/a?b=c#d"),
        ("https://hub.example.org/lab", "https://hub.example.org/lab"),
        *((each, "/") for each in ("//evil.example", "https://evil.example/", "/\\evil.example", "evil", "/\t/evil")),
        *((each, "/") for each in ("javascript:alert(1)", "https://hub.example.org@evil.example/", "http://[", "///x")),
    ],
)
def test_a_login_leads_to_no_other_site(server: RunningServer, place: str, expected: str) -> None:
    query = urlencode({"next": place})
    answer = server.post(f"/login/?{query}", {"username": "ana", "password": "ana's password"}, token=None)
    assert answer.json["data"]["redirect_url"] == expected


def test_a_bad_cookie_does_not_win_over_a_good_header(server: RunningServer) -> None:
    headers = {"Cookie": "conda-store-auth=expired", "Authorization": f"Bearer {server.token}"}
    assert who(server, headers=headers) == "admin"
    good = cookie_of(log_in(server, "bob", "bob's password"))
    assert who(server, headers={"Cookie": good, "Authorization": "Bearer nonsense"}) == "bob"


def test_logging_out_ends_the_session(server: RunningServer) -> None:
    cookie = cookie_of(log_in(server, "bob", "bob's password"))
    answer = server.post("/logout/?next=//evil.example", token=None, headers={"Cookie": cookie})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert 'conda-store-auth=""' in answer.headers["set-cookie"]
    assert who(server, headers={"Cookie": cookie}) is None


def test_a_token_works_as_the_password(server: RunningServer) -> None:
    answer = log_in(server, "", server.token)
    assert answer.status == 200 and server.token not in answer.headers["set-cookie"]
    assert who(server, headers={"Cookie": cookie_of(answer)}) == "admin"
    answer = log_in(server, "whatever", "0123456789abcdef-predefined")
    assert who(server, headers={"Cookie": cookie_of(answer)}) == "ci"


def test_a_session_cannot_make_another_session(server: RunningServer) -> None:
    cookie = cookie_of(log_in(server, "bob", "bob's password"))
    assert log_in(server, "", cookie.partition("=")[2]).status == 403


@pytest.mark.parametrize("name", ["ana", "no-such-user", "", "anonymous"])
def test_a_wrong_password_is_refused_in_the_same_words(server: RunningServer, name: str) -> None:
    answer = log_in(server, name, "wrong")
    assert answer.status == 403 and "set-cookie" not in answer.headers
    assert answer.json == {"status": "error", "message": "the user name or the password is wrong"}


@pytest.mark.parametrize("body", ["", "[]", "{", '{"username": 1, "password": []}', "null", '{"password": {}}'])
def test_a_malformed_login_is_refused(server: RunningServer, body: str) -> None:
    answer = server.post("/login/", body, token=None, headers={"Content-Type": "application/json"})
    assert answer.status == 403 or answer.status == 400


def test_a_page_of_another_site_cannot_use_the_cookie(server: RunningServer) -> None:
    cookie = cookie_of(log_in(server, "ana", "ana's password"))
    own = f"http://{server.host}:{server.port}"
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": f"http://{server.host}:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
    ):
        answer = server.post("/logout/", token=None, headers={"Cookie": cookie, **headers})
        assert answer.status == 403, headers
        assert log_in(server, "ana", "ana's password", **headers).status == 403
    assert who(server, headers={"Cookie": cookie}) == "ana"
    for headers in ({"Origin": own}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": "https://hub.example.org"}):
        assert log_in(server, "ana", "ana's password", **headers).status == 200, headers


def test_only_a_bearer_token_changes_something_from_anywhere(server: RunningServer) -> None:
    """A browser adds cookies and passwords of the address bar by itself."""
    basic = base64.b64encode(f"x:{server.token}".encode()).decode()
    for header, status in ((f"Bearer {server.token}", 201), (f"Basic {basic}", 403)):
        headers = {"Authorization": header, "Origin": "https://evil.example"}
        assert server.post("/cetool/1/tokens", {"name": "x"}, token=None, headers=headers).status == status
    headers = {"Authorization": f"Basic {basic}"}
    assert server.post("/cetool/1/tokens", {"name": "x"}, token=None, headers=headers).status == 201


def test_only_the_listed_sites_may_read_answers(server: RunningServer) -> None:
    answer = server.get("/cetool/1", headers={"Origin": "https://hub.example.org"})
    assert answer.headers["access-control-allow-origin"] == "https://hub.example.org"
    assert answer.headers["access-control-allow-credentials"] == "true"
    other = server.get("/cetool/1", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_guessing_is_limited_and_the_answer_says_how_long(home: Home) -> None:
    config = home.write("server.yaml", CONFIG.replace("1000", "5"))
    config.chmod(0o600)
    with running_server(home, "--config", str(config)) as server:
        answers = [log_in(server, "ana", f"wrong {number}") for number in range(8)]
        assert [each.status for each in answers] == [403] * 5 + [429] * 3
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        # even the right password has to wait, but not a token in a header
        assert log_in(server, "ana", "ana's password").status == 429
        assert who(server, headers={"Authorization": f"Bearer {server.token}"}) == "admin"


def test_requests_without_a_token_have_what_is_granted_to_anonymous(home: Home) -> None:
    config = home.write("server.yaml", "anonymous-access: true\n")
    config.chmod(0o600)
    with running_server(home, "--config", str(config)) as server:
        assert server.get("/cetool/1/environments", token=None).status == 200
        assert server.get("/cetool/1/tokens", token="cet_unknown").json["tokens"] == []
        asked = {"name": "open"}
        assert server.post("/cetool/1/namespaces", asked, token=None).status == 401
        grant = {"subject_kind": "anonymous", "pattern": "open/*", "role": "admin"}
        assert server.post("/cetool/1/grants", grant).status == 201
        # a page of another site reaches servers that its visitor reaches
        evil = {"Origin": "https://evil.example"}
        assert server.post("/cetool/1/namespaces", asked, token=None, headers=evil).status == 403
        assert server.post("/cetool/1/namespaces", asked, token=None).status == 201
        assert server.post("/cetool/1/tokens", {"name": "x"}, token=None).status == 401
    config.write_text("anonymous-access: false\n")
    with running_server(home, "--config", str(config)) as server:
        assert server.get("/cetool/1/environments", token=None).status == 401

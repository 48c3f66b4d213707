"""The web pages without JavaScript: every page and form, for users with different rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from support.builds import posted, result
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.pages import Visitor
from support.serving import RunningServer, running_server

from cetool.server.data import environments, leases
from cetool.server.data.database import Database

CONFIG = """\
login-attempts: 1000
users:
  - {name: ana, password: ana's password, grants: {team/*: [editor]}}
  - {name: vera, password: vera's password, grants: {team/*: [viewer]}}
  - {name: nora, password: nora's password}
"""


@contextmanager
def seeded(home: Home) -> Iterator[RunningServer]:
    """Run a server without builders, with builds in its database; below a prefix."""
    config = home.write("server.yaml", CONFIG)
    config.chmod(0o600)
    options = ("--config", str(config), "--workers", "0", "--url-prefix", "/cetool-server")
    with running_server(home, *options) as running:
        database = Database.open(next(running.data.glob("*.sqlite3")))
        seed(database)
        database.close()
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, local_channel: Channel) -> Iterator[RunningServer]:
    """A server that the tests of this module change."""
    home = make_home(tmp_path_factory.mktemp("pages") / "home", local_channel)
    with seeded(home) as running:
        yield running
    remove_home(home)


@pytest.fixture
def unchanged(home: Home) -> Iterator[tuple[Visitor, Visitor]]:
    """An administrator and a viewer of a server that has only what :func:`seed` adds."""
    with seeded(home) as running:
        admin, viewer = Visitor(running), Visitor(running)
        admin.sign_in(running.token)
        viewer.sign_in("vera's password", "vera")
        yield admin, viewer


def seed(database: Database) -> None:
    """Add environments: team/analysis with three builds and a failed one, fifty others, one without a build."""
    for specs, packages in (
        (("python", "numpy"), ("python=3.12", "numpy=1.0")),
        (("python", "numpy", "six"), ("python=3.12", "numpy=2.0", "six=1.17")),
        (("python >=3", "numpy"), ("python=3.13", "numpy=2.0", "zlib=1.3")),
    ):
        with database.write() as tx:
            posted(tx, "team/analysis", *specs)
            claim = leases.claim(tx, "worker", 60)
            assert claim is not None
            leases.complete(tx, claim, result(claim, *packages))
    with database.write() as tx:
        posted(tx, "team/analysis", "nothing")
        claim = leases.claim(tx, "worker", 60)
        assert claim is not None
        leases.fail(tx, claim, "package-not-found", "no channel has <nothing>", "Check the name.")
        environments.describe(tx, "team", "analysis", "Numbers for <the> report", by="ana")
        for number in range(55):
            posted(tx, f"many/e{number:02}", "zlib")
        claim = leases.claim(tx, "worker", 60)
        assert claim is not None
        leases.complete(tx, claim, result(claim, "zlib=1.3"))
        posted(tx, "ana/waiting", "waiting")


@pytest.fixture(scope="module")
def admin(server: RunningServer) -> Visitor:
    visitor = Visitor(server)
    visitor.sign_in(server.token)
    return visitor


@pytest.fixture(scope="module")
def editor(server: RunningServer) -> Visitor:
    visitor = Visitor(server)
    visitor.sign_in("ana's password", "ana")
    return visitor


@pytest.fixture(scope="module")
def viewer(server: RunningServer) -> Visitor:
    visitor = Visitor(server)
    visitor.sign_in("vera's password", "vera")
    return visitor


# --- signing in -------------------------------------------------------------------------------------------------------


def test_signing_in_leads_to_the_page_that_was_asked_for(server: RunningServer) -> None:
    visitor = Visitor(server)
    asked = visitor.get("/environments/team/analysis?q=num")
    assert asked.status == 401 and asked.heading == "Sign in"
    page = visitor.send(asked, "/login/", username="ana", password="ana's password")
    assert page.heading == "analysis" and page.path.endswith("?q=num")
    assert visitor.get("/login/").heading == "Environments"
    out = visitor.send(page, "/logout/")
    assert out.status == 401 and out.heading == "Sign in"


def test_a_wrong_password_says_so_and_keeps_where_to_go(server: RunningServer) -> None:
    visitor = Visitor(server)
    page = visitor.send(visitor.get("/environments?q=x"), "/login/", username="ana", password="wrong")
    assert page.status == 403 and "The user name or the password is wrong" in page.text
    assert visitor.send(page, "/login/", username="ana", password="ana's password").path == "/environments?q=x"


def test_a_page_that_does_not_exist_says_so(viewer: Visitor) -> None:
    page = viewer.get("/nothing/<here>")
    assert (page.status, page.heading) == (404, "Not found") and not page.broken_rules()
    assert "vera" in page.html


def test_a_link_on_another_site_opens_the_page_although_browsers_send_no_cookie(server: RunningServer) -> None:
    headers = {"Accept": "text/html", "Sec-Fetch-Site": "cross-site"}
    answer = server.get("/environments", token=None, headers=headers)
    assert answer.status == 200 and 'http-equiv="refresh"' in answer.text


def test_a_form_that_is_sent_after_the_session_has_ended_is_not_lost(server: RunningServer) -> None:
    visitor = Visitor(server)
    visitor.sign_in("ana's password", "ana")
    form = visitor.get("/new")
    visitor.send(form, "/logout/")
    page = visitor.send(form, "/new", namespace="team", name="x", text="python", do="build")
    assert page.status == 401 and "go back to the form in your browser" in page.text


def test_without_signing_in_one_sees_what_the_operator_shows_to_everyone(home: Home) -> None:
    config = home.write("server.yaml", "anonymous-access: true\n")
    with running_server(home, "--config", str(config), "--workers", "0") as server:
        admin, anyone = Visitor(server), Visitor(server)
        admin.sign_in(server.token)
        for place in ("default", "secret"):
            form = admin.get("/new")
            admin.send(form, "/new", namespace=place, name="web", text="python\n", do="build")
        page = anyone.get("/environments")
        assert "default/web" in page.text and "secret" not in page.html and "Create an environment" not in page.text
        assert [link for link in page.links if "/login/" in link] and not page.broken_rules()
        shown = anyone.get("/environments/default/web")
        assert shown.status == 200 and not [form for form in shown.forms if form.method == "post"]
        assert anyone.get("/environments/secret/web").status == 404
        for path in ("/tokens", "/access", "/new", "/users", "/audit", "/environments/default/web/edit"):
            assert anyone.get(path).heading == "Sign in", path


# --- environments -----------------------------------------------------------------------------------------------------


def test_environments_are_found_by_name_package_and_namespace(unchanged: tuple[Visitor, Visitor]) -> None:
    admin, viewer = unchanged
    assert viewer.get("/environments").text.count("build ") == 1
    first = admin.get("/environments")
    assert "1 to 50 of 57" in first.text and "ana/waiting" in first.text
    second = admin.get(next(link for link in first.links if "page=2" in link).removeprefix(admin.server.prefix))
    assert "51 to 57 of 57" in second.text and "team/analysis" in second.text
    found = admin.send(first, "/environments", q="e1", package="zlib", namespace="many")
    assert "many/e10" in found.text and "many/e20" not in found.text
    assert "No environment matches" in admin.send(first, "/environments", package="nothing").text


def test_an_environment_shows_its_packages_history_and_use(unchanged: tuple[Visitor, Visitor]) -> None:
    _, viewer = unchanged
    page = viewer.get("/environments/team/analysis")
    assert "Numbers for <the> report" in page.text and "<the>" not in page.html
    assert "python 3.13" in page.text and "Build 2 was completed" in page.text
    assert "failed: no channel has <nothing>" in page.text
    assert "cetool run --env team/analysis" in page.text
    assert any("/builds/3/lock?format=pixi" in link for link in page.links)
    assert [form.action for form in page.forms if form.method == "post"] == ["/cetool-server/logout/"]
    assert "zlib 1.3" in (searched := viewer.send(page, "/environments/team/analysis", q="ZL")).text
    assert "python 3.13" not in searched.text


def test_an_editor_moves_an_environment_to_another_build_and_back(editor: Visitor, admin: Visitor) -> None:
    page = editor.get("/environments/team/analysis")
    used = editor.send(page, "/use", build=1)
    assert "The environment now is build 1." in used.text and "numpy 1.0" in used.text
    stale = editor.send(page, "/use", build=2)
    assert (stale.status, stale.heading) == (412, "It has changed in the meantime")
    back = editor.send(used, "/rollback")
    assert "Rolled back to build 3." in back.text and "Chose build 1" in back.text


def test_an_environment_is_described_renamed_and_deleted(admin: Visitor) -> None:
    page = admin.get("/environments/many/e54/settings")
    described = admin.send(page, "/describe", description='"quoted" & <b>')
    assert "Saved the description." in described.text and '"quoted" & <b>' in described.text
    settings = admin.get("/environments/many/e54/settings")
    taken = admin.send(settings, "/rename", name="e53")
    assert taken.status == 422 and "There is already an environment many/e53" in taken.text
    renamed = admin.send(taken, "/rename", name="e54-new")
    assert renamed.heading == "e54-new" and "e54 to e54-new" in renamed.text
    sure = admin.get("/environments/many/e54-new/delete")
    assert "Frees 0 B" in sure.text and "Builds 1" in sure.text
    assert "Deleted the environment, which frees 0 B." in admin.send(sure, "/delete").text
    assert admin.get("/environments/many/e54-new").status == 404


def test_a_viewer_cannot_change_what_others_may(viewer: Visitor, editor: Visitor) -> None:
    for action in ("use", "rollback", "describe", "rename", "delete"):
        assert viewer.post(f"/environments/team/analysis/{action}", build=1, name="x").status == 403, action
    assert editor.post("/environments/team/analysis/delete").status == 403
    hidden = viewer.get("/environments/many/e01")
    assert hidden.status == 404 and "there is no environment many/e01" in hidden.text.lower()


# --- builds -----------------------------------------------------------------------------------------------------------


def test_builds_are_listed_by_status_and_environment(unchanged: tuple[Visitor, Visitor]) -> None:
    admin, viewer = unchanged
    page = admin.get("/builds")
    assert "1 to 50 of 60" in page.text
    failed = admin.send(page, "/builds", status="FAILED", environment="team/analysis")
    assert "Build 4 of team/analysis" in failed.text and "No channel has <nothing>." in failed.text
    assert (
        "Build 3" not in failed.text and "no build matches" in admin.send(page, "/builds", environment="x").text.lower()
    )
    assert viewer.get("/builds").text.count("Build ") == 4


def test_a_build_says_why_it_ended_and_what_was_asked_for(unchanged: tuple[Visitor, Visitor]) -> None:
    _, viewer = unchanged
    failed = viewer.get("/builds/4")
    assert "No channel has <nothing>. Check the name." in failed.text and "package-not-found" in failed.text
    assert not any("/edit" in link for link in failed.links)
    done = viewer.get("/builds/3")
    assert "Made an environment of 3 packages." in done.text and "python 3.13" in done.text
    assert "python >=3 numpy" in done.text
    assert viewer.get("/builds/99999").status == viewer.get("/builds/61").status == 404
    assert viewer.get("/builds/0").status == 422


def test_differences_between_two_builds_are_shown(viewer: Visitor) -> None:
    page = viewer.send(viewer.get("/builds/3"), "/differences", **{"from": 2})
    assert "linux-64 3 packages differ: 1 added, 1 removed, 1 changed." in page.text
    assert "zlib added – 1.3 0" in page.text and "six removed 1.17 0 –" in page.text
    for wrong, words in (("x", "'x' is not the number of a build"), ("999", "There is no build 999")):
        page = viewer.get(f"/differences?from={wrong}&to=2")
        assert page.status == 422 and words in page.text


def test_a_waiting_build_is_canceled_and_deleted(admin: Visitor, viewer: Visitor) -> None:
    page = admin.get("/builds/60")
    assert "Waits for a builder." in page.text and 'http-equiv="refresh"' in page.html
    done = admin.send(page, "/cancel")
    assert "Canceled the build." in done.text and "Canceled by admin." in done.text
    sure = admin.get("/builds/60/delete")
    assert "Frees 0 B" in sure.text
    assert "It was deleted" in admin.send(sure, "/delete").text
    for action in ("cancel", "delete"):
        assert viewer.post(f"/builds/1/{action}").status == 403


# --- specifications ---------------------------------------------------------------------------------------------------

YAML = "channels: [conda-forge]\ndependencies:\n  - python\n  - six\n"


def test_an_environment_is_created_from_a_text(editor: Visitor) -> None:
    page = editor.get("/new")
    build = editor.send(page, "/new", namespace="team", name="web", text=YAML, description="A <site>", do="build")
    assert build.heading.startswith("Build ") and "Waits for a builder." in build.text
    assert "team/web" in build.text and "dependencies:" in build.text
    environment = editor.get("/environments/team/web")
    assert "A <site>" in environment.text and "is waiting" in environment.text
    again = editor.send(page, "/new", namespace="team", name="web", text=YAML, do="build")
    assert again.path.startswith(build.path) and "already has what you asked for" in again.text


def test_names_may_have_characters_that_mean_something_in_urls_and_html(admin: Visitor) -> None:
    name = "a&b?c=d+e~$@^.-_"
    build = admin.send(admin.get("/new"), "/new", namespace="x?y&z", name=name, text=YAML, do="build")
    assert f"x?y&z/{name}" in build.text and not build.broken_rules()
    here = next(link for link in build.links if link.endswith(quote(name, safe="")))
    page = admin.get(here.removeprefix(admin.server.prefix))
    assert page.heading == name and not page.broken_rules()
    settings = admin.get(next(link for link in page.links if link.endswith("/settings")).removeprefix("/cetool-server"))
    assert "Saved the description." in admin.send(settings, "/describe", description="new").text
    assert name in admin.send(admin.get("/environments"), "/environments", q=name, namespace="x?y&z").text
    sure = admin.get(here.removeprefix(admin.server.prefix) + "/delete")
    assert "Deleted the environment" in admin.send(sure, "/delete").text


def test_an_error_is_shown_at_its_line_with_its_hint_and_the_text_stays(editor: Visitor) -> None:
    text = "channels: [conda-forge]\ndependencies:\n  - python >=\n  - six\n"
    page = editor.send(editor.get("/new"), "/new", namespace="team", name="bad", text=text, do="build")
    assert page.status == 422 and "Line 3: " in page.text and not page.broken_rules()
    wrong = next(each for each in page.all("li") if each["class"] == "wrong")
    assert wrong["data-line"] == "3" and "python >=" in wrong.text
    assert ("text", text) in page.form("/new").values and ("name", "bad") in page.form("/new").values
    fixed = editor.send(page, "/new", text=text.replace(">=", ">=3"), do="check")
    assert fixed.status == 200 and "linux-64 requests 2 conda packages from conda-forge." in fixed.text
    assert editor.get("/environments/team/bad").status == 404


def test_a_file_replaces_the_text(server: RunningServer, editor: Visitor) -> None:
    script = "# conda execute\n# env: [python, numpy, six]\nimport six\n"
    parts = {"namespace": "team", "name": "script", "text": YAML, "platforms": "linux-64", "do": "check"}
    page = editor.upload("/new", parts, ("script.py", script.encode()))
    assert page.status == 200 and "requests 3 conda packages" in page.text
    binary = editor.upload("/new", parts, ("x.py", b"\xff\x00"))
    assert binary.status == 400 and "is not text in UTF-8" in binary.text


def test_an_environment_is_edited(editor: Visitor, viewer: Visitor, admin: Visitor) -> None:
    page = editor.get("/environments/team/analysis/edit")
    assert ("text", "python >=3 numpy") in page.form("/edit").values
    build = editor.send(page, "/edit", text="python\nsix\n", platforms=["linux-64", "osx-arm64"], do="build")
    assert build.heading.startswith("Build ") and "Platforms linux-64, osx-arm64" in build.text
    assert "moves to it when it is complete" in editor.get("/environments/team/analysis").text
    admin.send(build, "/cancel")
    assert viewer.get("/environments/team/analysis/edit").status == 403
    assert viewer.get("/new").status == 200  # in the namespace of her own
    denied = viewer.send(viewer.get("/new"), "/new", namespace="team", name="x", text=YAML, do="build")
    assert denied.status == 422 and "lacks the right" in denied.text


def test_the_specification_of_a_failed_build_is_edited(editor: Visitor) -> None:
    link = next(link for link in editor.get("/builds/4").links if "/edit" in link)
    page = editor.get(link.removeprefix(editor.server.prefix))
    assert ("text", "nothing") in page.form("?build=4").values


def test_a_build_is_done_again(admin: Visitor) -> None:
    page = admin.send(admin.get("/builds/4"), "/rebuild")
    assert page.heading not in ("Build 4",) and "Waits for a builder." in page.text
    admin.send(page, "/cancel")


# --- tokens, access, namespaces ---------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_can_be_revoked(server: RunningServer, editor: Visitor) -> None:
    page = editor.get("/tokens")
    made = editor.send(page, "/tokens", name="laptop <1>", role="viewer", pattern="team/*", days="30")
    (secret,) = [each["data-copy"] for each in made.all("button") if each["data-copy"]]
    assert server.get("/cetool/1", token=secret).json["user"] == "ana" and "no-store" in made.headers["cache-control"]
    listed = editor.get("/tokens")
    assert "laptop <1>" in listed.text and "viewer on team/*" in listed.text and "expires in" in listed.text
    assert secret not in listed.html
    wrong = editor.send(page, "/tokens", name="x", role="admin", pattern="many/*")
    assert wrong.status == 422 and "ana cannot grant admin on many/*" in wrong.text
    sure = editor.get(next(link for link in listed.links if "/revoke" in link).removeprefix(server.prefix))
    assert "Revoke the token laptop <1>?" in sure.heading
    assert "Revoked the token." in editor.send(sure, "/revoke").text
    assert server.get("/cetool/1", token=secret).json["user"] is None


def test_who_signs_in_with_a_token_has_its_rights(server: RunningServer, editor: Visitor) -> None:
    made = editor.send(editor.get("/tokens"), "/tokens", name="narrow", role="contributor", pattern="team/*", days="7")
    (secret,) = [each["data-copy"] for each in made.all("button") if each["data-copy"]]
    visitor = Visitor(server)
    page = visitor.sign_in(secret)
    assert "Create an environment" in page.text and "ana/waiting" not in page.text
    new = visitor.get("/new")
    assert ("namespace", "team") in new.form("/new").values
    assert visitor.post("/environments/team/analysis/use", build=1).status == 403
    assert "contributor on team/*" in visitor.get("/account").text


def test_an_administrator_creates_a_token_for_a_service(server: RunningServer, admin: Visitor) -> None:
    page = admin.get("/tokens?all=1")
    made = admin.send(page, "/tokens", name="ci", role="contributor", pattern="team/*", days="7", user="*service")
    assert "Created the token ci" in made.text
    assert "contributor on team/*" in admin.get("/tokens?all=1").text


def test_access_is_explained_granted_and_taken_back(admin: Visitor, editor: Visitor, viewer: Visitor) -> None:
    Visitor(admin.server).sign_in("nora's password", "nora")
    page = admin.get("/access?user=nora&namespace=team")
    assert "nora has no rights in team." in page.text
    granted = admin.send(page, "/grants", subject_kind="user", subject="nora", role="editor", pattern="team/*")
    assert "Added the grant." in granted.text
    explained = admin.send(granted, "/access", user="nora", namespace="team")
    assert "nora is an editor of team." in explained.text and "granted to nora" in explained.text
    remove = next(link for link in explained.links if link.endswith("/remove")).removeprefix(admin.server.prefix)
    assert editor.get(remove).status == editor.post(remove).status == 403
    assert "Removed the grant." in admin.send(admin.get(remove), "/remove").text
    assert "nora has no rights in team." in admin.get("/access?user=nora&namespace=team").text
    unknown = admin.send(page, "/grants", subject_kind="user", subject="nobody-here", role="viewer", pattern="team/*")
    assert unknown.status == 422 and "there is no user" in unknown.text.lower()
    assert viewer.get("/access?user=nora&namespace=team").status == 422
    assert "vera is a viewer of team." in viewer.get("/access?namespace=team").text


def test_users_are_created_and_disabled(server: RunningServer, admin: Visitor, editor: Visitor) -> None:
    page = admin.get("/users")
    assert "The password has 5 characters." in admin.send(page, "/users", name="olga", password="short").text
    admin.send(page, "/users", name="olga", password="long enough")
    visitor = Visitor(server)
    assert visitor.sign_in("long enough", "olga").heading == "Environments"
    account = visitor.get("/account")
    new = {"present": "long enough", "password": "another one", "again": "another one"}
    differ = visitor.send(account, "/account/password", **{**new, "again": "x"})
    assert differ.status == 422 and "The two new passwords differ." in differ.text
    assert "Sign in again." in visitor.send(account, "/account/password", **new).text
    assert visitor.sign_in("another one", "olga").heading == "Environments"
    admin.send(admin.get("/users"), "/users/olga/disable")
    assert visitor.get("/environments").status == 401
    assert editor.get("/users").status == editor.post("/users", name="x").status == 403


def test_a_namespace_is_created_set_up_and_deleted(admin: Visitor, editor: Visitor) -> None:
    made = admin.send(admin.get("/namespaces"), "/namespaces", name="lab")
    assert made.heading == "lab" and "Created the namespace." in made.text
    assert (
        "there is already a namespace lab"
        in admin.send(admin.get("/namespaces"), "/namespaces", name="lab").text.lower()
    )
    saved = admin.send(made, "/settings", **{"channels-allowed": "conda-forge\nbioconda", "packages-required": "pip"})
    assert "Saved the settings." in saved.text and "conda-forge bioconda" in saved.text
    denied = admin.send(admin.get("/new"), "/new", namespace="lab", name="x", text="python\nr::r\n", do="check")
    assert denied.status == 422 and "is not allowed here" in denied.text
    whole = admin.send(admin.get("/settings"), "/settings", **{"channels-default": "bioconda"})
    assert "Saved the settings." in whole.text and "which is bioconda" in admin.get("/namespaces/team").text
    admin.send(whole, "/settings", **{"channels-default": ""})
    assert editor.get("/settings").status == editor.post("/settings").status == 403
    assert editor.get("/namespaces/lab").status == 404 and editor.post("/namespaces/team/delete").status == 403
    sure = admin.get("/namespaces/lab/delete")
    build = admin.send(admin.get("/new"), "/new", namespace="lab", name="left", text="pip\n", do="build").path
    assert "Deleted the namespace, which frees 0 B." in admin.send(sure, "/delete").text
    left = admin.get(build)
    assert "left (deleted)" in left.text and "Canceled by admin." in left.text and not left.broken_rules()
    assert "of left, which was deleted" in admin.get("/builds").text


def test_a_grant_in_a_hidden_namespace_does_not_exist(server: RunningServer, viewer: Visitor) -> None:
    grant = {"subject_kind": "user", "subject": "nora", "pattern": "secret/*", "role": "viewer"}
    number = server.post("/cetool/1/grants", grant).json["id"]
    for place in (f"/access/grants/{number}/remove", "/access/grants/999999/remove"):
        page, sent = viewer.get(place), viewer.post(place)
        assert page.status == sent.status == 404 and "secret" not in page.text + sent.text
    server.request("DELETE", f"/cetool/1/grants/{number}")


def test_the_audit_table_says_who_changed_what(admin: Visitor, viewer: Visitor) -> None:
    admin.send(admin.get("/environments/team/analysis/settings"), "/describe", description="Numbers")
    page = admin.send(admin.get("/audit"), "/audit", who="admin", about="team/analysis")
    assert "describe" in page.text
    refused = viewer.get("/audit")
    assert refused.status == 403 and "vera is not an administrator" in refused.text


# --- all pages --------------------------------------------------------------------------------------------------------

PAGES = (
    "/environments",
    "/environments/team/analysis",
    "/environments/team/analysis/settings",
    "/environments/team/analysis/delete",
    "/environments/team/analysis/edit",
    "/new",
    "/namespaces",
    "/namespaces/team",
    "/settings",
    "/namespaces/team/delete",
    "/access",
    "/access?user=ana&namespace=team",
    "/tokens",
    "/users",
    "/audit",
    "/account",
    "/login/?next=/x",
    "/builds",
    "/builds/1",
    "/builds/4",
    "/builds/60",
    "/builds/3/delete",
    "/differences?from=1&to=3",
    "/differences?from=1&to=x",
)


@pytest.fixture(scope="module")
def followed() -> set[str]:
    """The links that were followed; most are on several pages."""
    return set()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_keeps_the_rules_and_every_link_on_it_leads_somewhere(
    admin: Visitor, followed: set[str], path: str
) -> None:
    page = admin.get(path)
    assert page.status in (200, 422) and not page.broken_rules()
    for link in {link.partition("#")[0] for link in page.links if not link.startswith("#")}:
        assert link.startswith("/cetool-server/"), link
        # the packages of these builds are not real, so that there is nothing to put in an archive
        if "/archive/" not in link and link not in followed:
            followed.add(link)
            headers = {"Cookie": admin.cookie, "Accept": "text/html"}
            answer = admin.server.get(link.removeprefix("/cetool-server"), token=None, headers=headers)
            assert answer.status in (200, 303), (path, link, answer.status)


@pytest.mark.parametrize("path", PAGES)
def test_no_page_shows_anything_without_signing_in(server: RunningServer, path: str) -> None:
    page = Visitor(server).get(path)
    assert page.heading == "Sign in" and page.status == (200 if path.startswith("/login") else 401)
    assert not page.broken_rules() and "analysis" not in page.text


def test_pages_of_other_sites_cannot_send_forms(server: RunningServer, editor: Visitor) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        sent = {"Cookie": editor.cookie, "Content-Type": "application/x-www-form-urlencoded", **headers}
        for path in ("/environments/team/analysis/use", "/tokens", "/new"):
            assert server.post(path, "build=1&name=x", token=None, headers=sent).status == 403, path


#: Values for each place of an address, none of which is right.
HOSTILE = (
    "",
    "-1",
    "9" * 40,
    "\0",
    "\u202e\ud800",
    "a" * 290,
    "../..",
    "*/*",
    "<script>alert(1)</script>",
    "'\"; --",
    "{{ 7*7 }}",
)
ADDRESSES = (
    *("/environments?q={0}&package={0}", "/environments?namespace={0}&page={0}", "/environments?done={0}&n={0}"),
    *("/environments/{0}/{0}", "/environments/team/{0}/edit", "/environments/team/analysis?q={0}"),
    *("/environments/team/analysis/edit?build={0}", "/builds?status={0}&environment={0}", "/builds/{0}"),
    *("/builds/1?platform={0}", "/differences?from={0}&to={0}", "/access?user={0}&namespace={0}&environment={0}"),
    *("/access/grants/{0}/remove", "/tokens/{0}/revoke", "/namespaces/{0}", "/audit?who={0}&about={0}&before={0}"),
    *("/new?namespace={0}", "/login/?next={0}", "/static/{0}", "/{0}"),
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_address_breaks_a_page(admin: Visitor, address: str) -> None:
    for value in HOSTILE:
        page = admin.get(address.format(quote(value, safe="", errors="surrogatepass")))
        assert page.status in (200, 400, 404, 422), (value, page.status)
        assert "<script>alert" not in page.html, value
        assert not page.broken_rules(), value


def test_pages_need_no_javascript_but_may_use_it(server: RunningServer, admin: Visitor) -> None:
    page = admin.get("/environments")
    assert "'unsafe" not in page.headers["content-security-policy"]
    for each in (*page.all("script"), *page.all("link")):
        target = (each["src"] or each["href"]).removeprefix(server.prefix)
        answer = server.get(target, token=None)
        assert answer.status == 200 and "immutable" in answer.headers["cache-control"]
        etag = {"If-None-Match": answer.headers["etag"]}
        assert server.get(target, token=None, headers=etag).status == 304
    assert server.get("/static/../__init__.py", token=None).status == 404

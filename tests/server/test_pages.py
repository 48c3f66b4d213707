"""The web pages without JavaScript: every page and form, for users with different rights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.builds import posted, result
from support.channel import Channel
from support.home import make_home, remove_home
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, local_channel: Channel) -> Iterator[RunningServer]:
    """A server without builders, with builds in its database; below a prefix."""
    home = make_home(tmp_path_factory.mktemp("pages") / "home", local_channel)
    config = home.write("server.yaml", CONFIG)
    config.chmod(0o600)
    options = ("--config", str(config), "--workers", "0", "--url-prefix", "/cetool-server")
    with running_server(home, *options) as running:
        database = Database.open(next(running.data.glob("*.sqlite3")))
        seed(database)
        database.close()
        yield running
    remove_home(home)


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


# --- environments -----------------------------------------------------------------------------------------------------


def test_environments_are_found_by_name_package_and_namespace(viewer: Visitor, admin: Visitor) -> None:
    assert viewer.get("/environments").text.count("build ") == 1
    first = admin.get("/environments")
    assert "1 to 50 of 57" in first.text and "ana/waiting" in first.text
    second = admin.get(next(link for link in first.links if "page=2" in link).removeprefix(admin.server.prefix))
    assert "51 to 57 of 57" in second.text and "team/analysis" in second.text
    found = admin.send(first, "/environments", q="e1", package="zlib", namespace="many")
    assert "many/e10" in found.text and "many/e20" not in found.text
    assert "No environment matches" in admin.send(first, "/environments", package="nothing").text


def test_an_environment_shows_its_packages_history_and_use(viewer: Visitor) -> None:
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
    assert taken.status == 422 and "there is an environment many/e53" in taken.text
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


def test_builds_are_listed_by_status_and_environment(admin: Visitor, viewer: Visitor) -> None:
    page = admin.get("/builds")
    assert "1 to 50 of 60" in page.text
    failed = admin.send(page, "/builds", status="FAILED", environment="team/analysis")
    assert "Build 4 of team/analysis" in failed.text and "No channel has <nothing>." in failed.text
    assert (
        "Build 3" not in failed.text and "no build matches" in admin.send(page, "/builds", environment="x").text.lower()
    )
    assert viewer.get("/builds").text.count("Build ") == 4


def test_a_build_says_why_it_ended_and_what_was_asked_for(viewer: Visitor) -> None:
    failed = viewer.get("/builds/4")
    assert "No channel has <nothing>. Check the name." in failed.text and "package-not-found" in failed.text
    done = viewer.get("/builds/3")
    assert "Made an environment of 3 packages." in done.text and "python 3.13" in done.text
    assert "python >=3 numpy" in done.text
    assert viewer.get("/builds/99999").status == viewer.get("/builds/61").status == 404
    assert viewer.get("/builds/0").status == 422


def test_differences_between_two_builds_are_shown(viewer: Visitor) -> None:
    page = viewer.send(viewer.get("/builds/3"), "/differences", **{"from": 2})
    assert "linux-64 3 packages differ: 1 added, 1 removed, 1 changed." in page.text
    assert "zlib added – 1.3 0" in page.text and "six removed 1.17 0 –" in page.text
    for wrong, words in (("x", "'x' is not the number of a build"), ("999", "there is no build 999")):
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


# --- all pages --------------------------------------------------------------------------------------------------------

PAGES = (
    "/environments",
    "/environments/team/analysis",
    "/environments/team/analysis/settings",
    "/environments/team/analysis/delete",
    "/builds",
    "/builds/1",
    "/builds/4",
    "/builds/60",
    "/builds/3/delete",
    "/differences?from=1&to=3",
    "/differences?from=1&to=x",
)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_keeps_the_rules_and_every_link_on_it_leads_somewhere(admin: Visitor, path: str) -> None:
    page = admin.get(path)
    assert page.status in (200, 422) and not page.broken_rules()
    for link in {link.partition("#")[0] for link in page.links if not link.startswith("#")}:
        assert link.startswith("/cetool-server/"), link


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

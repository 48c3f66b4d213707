"""conda-store's web interface in Chromium: log in, create an environment, see its build and its log, delete it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.browser import chromium
from support.conda_store import interface
from support.home import Home
from support.serving import RunningServer, running_server

if TYPE_CHECKING:
    from playwright.sync_api import Page

CONFIG = 'users:\n  - {name: username, password: password, grants: {"*/*": [admin]}}\n'
SPECIFICATION = "channels:\n- conda-forge\ndependencies:\n- hello-bin\n"


@pytest.fixture
def server(home: Home) -> Iterator[RunningServer]:
    """A server with the web interface, below a prefix."""
    config = home.write("server.yaml", CONFIG)
    options = ("--config", str(config), "--url-prefix", "/conda-store", "--ui-dir", str(interface()))
    with running_server(home, *options) as running:
        yield running


@pytest.fixture
def page(server: RunningServer) -> Iterator[Page]:
    """The interface, in which the user has logged in."""
    address = f"http://localhost:{server.port}{server.prefix}"
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{address}/ui/")
        page.get_by_role("button", name="Log in").click()
        page.fill("input[name=username]", "username")
        page.fill("input[name=password]", "password")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Log out").wait_for()
        yield page


def test_an_environment_is_created_watched_and_deleted(server: RunningServer, page: Page) -> None:
    page.get_by_label("Create a new environment in the default namespace").click()
    page.get_by_label("Environment name").fill("tools")
    page.locator("input[type=checkbox]").first.check(force=True)  # as YAML
    editor = page.locator(".cm-content")
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.type(SPECIFICATION)
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_text("Completed").wait_for()
    assert page.url.endswith("/conda-store/ui/default/tools")
    page.get_by_role("link", name="log").wait_for()
    links = {each.inner_text(): str(each.get_attribute("href")) for each in page.get_by_role("link").all()}
    log, lock, archive = (links[next(name for name in links if word in name)] for word in ("log", "lockfile", "rchive"))
    assert "Solved for" in page.request.get(log).text()
    assert [each["name"] for each in json.loads(page.request.get(lock).text())["package"]] == ["hello-bin"]
    assert page.request.get(archive).body().startswith(b"\x1f\x8b")
    # a page of its own for each environment
    page.goto(page.url)
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("button", name="Save").wait_for()
    page.get_by_text("Delete environment").or_(page.get_by_text("Delete")).first.click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_text("Select an environment").wait_for()
    assert server.get("/api/v1/environment/default/tools/").status == 404

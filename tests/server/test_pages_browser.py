"""The web pages in Chromium: a live build, the keyboard, narrow windows, dark colours, no JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from support.browser import chromium
from support.channel import Channel
from support.home import make_home, remove_home
from support.pages import Visitor
from support.serving import RunningServer, running_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

#: A specification of two small packages.
TEXT = "channels: [conda-forge]\ndependencies:\n  - activated\n  - shared-lib\n"
#: Pages of every kind; the server has a complete build 1 and a failed build 2 of team/web.
PAGES = (
    "/environments",
    "/environments?q=nothing",
    "/environments/team/web",
    "/environments/team/web/edit",
    "/environments/team/web/settings",
    "/environments/team/web/delete",
    "/builds",
    "/builds/1",
    "/builds/2",
    "/differences?from=1&to=1",
    "/new",
    "/namespaces",
    "/namespaces/team",
    "/access?user=admin&namespace=team",
    "/tokens",
    "/users",
    "/audit",
    "/account",
    "/nothing",
)
#: Contrast of each text with what is behind it: the smallest, where it is, and its colours.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((part, i) => part * top[3] + below[i] * (1 - top[3]));
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    if (!element) return rgb(getComputedStyle(document.body).backgroundColor).slice(0, 3);
    const own = rgb(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  let worst = {ratio: 99};
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest("noscript")) continue;
    const ground = behind(element), colour = getComputedStyle(element).color;
    const [a, b] = [light(over(rgb(colour), ground)), light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst.ratio) worst = {ratio, text: texts.currentNode.data.trim().slice(0, 40), colour, ground};
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, local_channel: Channel
) -> Iterator[RunningServer]:
    """A server below a prefix, with a complete and a failed build."""
    home = make_home(tmp_path_factory.mktemp("pages") / "home", local_channel)
    with running_server(home, "--workers", "1", "--url-prefix", "/cetool") as running:
        visitor = Visitor(running)
        visitor.sign_in(running.token)
        for number, text in enumerate((TEXT, TEXT + "  - no-such-package\n"), 1):
            visitor.send(visitor.get("/new"), "/new", namespace="team", name="web", text=text, do="build")
            running.wait(number)
        yield running
    remove_home(home)


def opened(browser: Browser, server: RunningServer, complaints: list[str], **options: Any) -> BrowserContext:
    """Open a window that is signed in; what the console and the content security policy say goes to ``complaints``."""
    context = browser.new_context(**options)
    context.set_default_timeout(20_000)

    def hear(said: ConsoleMessage) -> None:
        if said.type == "error":
            complaints.append(f"{said.location['url']}: {said.text}")

    def listen(page: Page) -> None:
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        page.on("console", hear)

    context.on("page", listen)
    page = context.new_page()
    page.goto(f"{server.url}/login/")
    page.fill("#token", server.token)
    page.press("#token", "Enter")
    page.wait_for_url("**/environments")
    return context


@contextmanager
def paused_builders(server: RunningServer) -> Iterator[None]:
    """Suspend the processes that build, so that builds wait."""
    builders = psutil.Process(server.process.pid).children(recursive=True)
    for each in builders:
        each.suspend()
    try:
        yield
    finally:
        for each in builders:
            each.resume()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    found: list[str] = []
    yield found
    # pages that are shown with an error status are errors for the console too
    assert not [each for each in found if "status of 4" not in each]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_narrow_windows_and_their_texts_can_be_read(
    browser: Browser, server: RunningServer, complaints: list[str], scheme: Any
) -> None:
    context = opened(browser, server, complaints, viewport={"width": 400, "height": 800}, color_scheme=scheme)
    page = context.pages[0]
    page.get_by_role("button", name="Menu").click()
    assert page.get_by_role("link", name="Builds").is_visible()
    problems = []
    for path in PAGES:
        page.goto(server.url + path)
        width = page.evaluate("document.documentElement.scrollWidth")
        worst = page.evaluate(CONTRAST)
        problems += [f"{path}: {width} pixels wide"] if width > 400 else []
        problems += [f"{path}: {worst}"] if worst["ratio"] < 4.5 else []
    context.close()
    assert not problems


def test_an_environment_is_created_with_the_keyboard_alone_and_its_log_is_live(
    browser: Browser, server: RunningServer, complaints: list[str]
) -> None:
    context = opened(browser, server, complaints)
    page = context.pages[0]
    keys = page.keyboard

    def tab_to(name: str, most: int = 60) -> None:
        """Press the tab key until an element has the focus, which must be visible."""
        for _ in range(most):
            keys.press("Tab")
            named = """() => { const e = document.activeElement;
                return (e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent).trim(); }"""
            if page.evaluate(named) == name:
                style = "getComputedStyle(document.activeElement)"
                assert page.evaluate(f"{style}.outlineStyle !== 'none' || {style}.boxShadow !== 'none'"), name
                return
        raise AssertionError(f"the tab key does not reach {name}")

    page.goto(f"{server.url}/environments")
    keys.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    keys.press("Enter")
    tab_to("Create an environment", 3)
    keys.press("Enter")
    page.wait_for_url("**/new")
    tab_to("Text")
    keys.press("Control+A")
    keys.insert_text(TEXT.replace("-lib", "-lib >="))
    tab_to("Namespace")
    keys.press("Control+A")
    keys.insert_text("team")
    tab_to("Name")
    keys.insert_text("keyboard")
    tab_to("Create")
    keys.press("Enter")
    # the cursor is at the mistake
    page.wait_for_selector("text=Line 4:")
    assert page.evaluate("document.activeElement.id") == "text"
    chosen = "(e) => e.value.slice(e.selectionStart, e.selectionEnd)"
    assert page.locator("#text").evaluate(chosen) == "  - shared-lib >="
    keys.press("Control+A")
    keys.insert_text(TEXT.replace("-lib", "-lib >=1"))
    tab_to("Create")
    with page.expect_response("**/events?offset=*") as followed:
        keys.press("Enter")
    assert followed.value.headers["content-type"].startswith("text/event-stream")
    page.wait_for_selector(".mark:has-text('complete')")
    log = page.locator("#log").inner_text()
    assert "Solving" in log and "Completed: 2 packages" in log
    assert page.locator("tbody th").all_inner_texts() == ["activated", "shared-lib"]
    context.close()


def test_the_progress_and_the_log_of_a_running_build_come_by_themselves(
    browser: Browser, server: RunningServer, complaints: list[str]
) -> None:
    context = opened(browser, server, complaints)
    page = context.pages[0]
    # a page that is never loaded again shows what the stream brings
    page.add_init_script("""
        const Real = EventSource;
        window.EventSource = class extends Real {
            addEventListener(kind, act) { if (kind !== "end") super.addEventListener(kind, act); }
        };""")
    with paused_builders(server):
        for name in ("first", "live"):
            page.goto(f"{server.url}/new")
            page.fill("#namespace", "team")
            page.fill("#name", name)
            page.fill("#text", f"{TEXT}  - many-files\nvariables: {{NAME: {name}}}\n")
            page.get_by_role("button", name="Create").click()
            page.wait_for_url("**/builds/*")
        assert page.locator(".steps .now").inner_text() == "Queued"
    page.wait_for_selector("#log:has-text('Completed: 3 packages')")
    assert page.locator(".mark").inner_text() == "building"
    assert page.locator(".steps .done").first.text_content() == "Queued (done)"
    assert page.locator("[data-stage]").inner_text() != "Waits for a builder."
    context.close()


def test_an_environment_moves_to_its_new_build_while_its_page_is_open(
    browser: Browser, server: RunningServer, complaints: list[str]
) -> None:
    context = opened(browser, server, complaints)
    page = context.pages[0]
    with paused_builders(server):
        page.goto(f"{server.url}/new")
        page.fill("#namespace", "team")
        page.fill("#name", "moves")
        page.fill("#text", f"{TEXT}variables: {{NAME: moves}}\n")
        page.get_by_role("button", name="Create").click()
        page.wait_for_url("**/builds/*")
        page.goto(f"{server.url}/environments/team/moves")
        assert page.get_by_text("There are no packages yet.").is_visible()
    page.wait_for_selector("#live tbody th:text-is('shared-lib')")
    page.goto(f"{server.url}/environments?q=moves")
    assert page.locator("#results").get_by_text("2 packages").is_visible()
    context.close()


def test_searches_show_their_results_while_the_user_types(
    browser: Browser, server: RunningServer, complaints: list[str]
) -> None:
    context = opened(browser, server, complaints)
    page = context.pages[0]
    page.locator("#q").press_sequentially("xyzzy")
    page.wait_for_selector("text=No environment matches")
    assert page.url.endswith("?q=xyzzy&package=&namespace=")
    assert page.evaluate("document.activeElement.id") == "q"
    page.goto(f"{server.url}/builds/1")
    page.get_by_placeholder("Search the packages").press_sequentially("SHAR")
    page.wait_for_selector("tbody tr:only-child th:text-is('shared-lib')")
    context.close()


def test_a_link_on_another_site_opens_the_page_of_a_user_who_is_signed_in(
    browser: Browser, server: RunningServer, complaints: list[str]
) -> None:
    context = opened(browser, server, complaints)
    page = context.pages[0]
    # to browsers, the same machine under another name is another site
    page.goto(f"http://localhost:{server.port}{server.prefix}/login/")
    page.evaluate("(place) => document.querySelector('.brand').href = place", f"{server.url}/builds/1")
    page.locator(".brand").click()
    page.wait_for_selector("h1:text-is('Build 1')")
    context.close()


def test_pages_work_with_javascript_switched_off(
    browser: Browser, server: RunningServer, complaints: list[str]
) -> None:
    context = opened(browser, server, complaints, java_script_enabled=False)
    page = context.pages[0]
    page.fill("#q", "web")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="team/web").click()
    page.get_by_role("link", name="Edit the specification").click()
    page.fill("#text", "shared-lib\nno-such-package\n")
    page.get_by_role("button", name="Build").click()
    # the page loads itself again until the build has failed
    page.wait_for_selector(".mark:has-text('failed')")
    assert "no-such-package" in page.locator("#state").inner_text()
    page.get_by_role("link", name="Access").first.click()
    page.get_by_text("Each permission and its reason").click()
    assert page.get_by_role("rowheader", name="environment::delete").first.is_visible()
    context.close()

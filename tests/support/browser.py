"""Chromium for tests of web pages: found on the PATH, or named by ``CETOOL_TEST_CHROMIUM``."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def chromium_path() -> str | None:
    """Return the path of Chromium; None if it is not installed."""
    named = os.environ.get("CETOOL_TEST_CHROMIUM")
    return named or next(filter(None, map(shutil.which, _PROGRAMS)), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium until the block ends; skip the test if it, or playwright, is not installed."""
    path = chromium_path()
    if path is None:
        pytest.skip("Chromium is not installed (tools/browser.py installs it)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()

"""Every command that a page of the documentation shows is run, each page in a home of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli
from support.channel import Channel
from support.documents import commands, run_page
from support.home import Home

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
SHOWING = [page for page in PAGES if any(command.file is None for command in commands(DOCS / page))]


@pytest.mark.parametrize("page", SHOWING)
def test_the_commands_of_a_page_print_what_it_shows(page: str, home: Home, local_channel: Channel) -> None:
    run_page(DOCS / page, home, local_channel.has)


def test_the_navigation_has_every_page() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, dict):
            entry = list(entry.values())
        return [entry] if isinstance(entry, str) else [page for each in entry for page in pages(each)]

    site = tomli.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    assert sorted(pages(site["project"]["nav"])) == PAGES

"""Every command that a page of the documentation shows is run, each page in a home of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli
from support.channel import Channel
from support.documents import commands, run_page
from support.home import Home

from cetool.declare.metadata import read_metadata
from cetool.declare.source import script_from_text

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
#: A code block that is not of commands: its language and its text.
CODE = re.compile(r"^```(?!console|text)(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^\S+ (?:conda execute|/// (?:conda-)?script)$", re.MULTILINE)
SHOWING = [page for page in PAGES if any(command.file is None for command in commands(DOCS / page))]


@pytest.mark.parametrize("page", SHOWING)
def test_the_commands_of_a_page_print_what_it_shows(page: str, home: Home, local_channel: Channel) -> None:
    run_page(DOCS / page, home, local_channel.has)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_can_be_read(page: str, tmp_path: Path) -> None:
    for language, text in CODE.findall((DOCS / page).read_text(encoding="utf-8")):
        if MARK.search(text):
            metadata = read_metadata(script_from_text(text, tmp_path / "script", f"{page} ({language})"))
            assert metadata.dialect and not metadata.requirements.warnings, text


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_in_blocks_that_are_tested_or_plain_text(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert not re.search(r"^```(?!console|text)\w*\n\$ ", text, re.MULTILINE)


def test_the_navigation_has_every_page() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, dict):
            entry = list(entry.values())
        return [entry] if isinstance(entry, str) else [page for each in entry for page in pages(each)]

    site = tomli.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    assert sorted(pages(site["project"]["nav"])) == PAGES

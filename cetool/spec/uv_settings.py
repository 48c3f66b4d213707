"""``[tool.uv]`` in a PEP 723 block: which indexes serve PyPI requirements, and up to what day."""

from __future__ import annotations

import os
import re

from cetool.spec.channels import file_url
from cetool.spec.environment import Ignored, PypiSettings
from cetool.spec.nodes import Node, shorten
from cetool.spec.urls import redact

_INDEX = re.compile(r"(?:https?|file)://[^\s\"'<>\\]+")
# a day, a moment (RFC 3339), or a span of time as uv takes it
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[Zz]|[+-]\d\d:?\d\d)?)?")
_SPAN = re.compile(r"P[0-9DWTHMS]+|\d+ ?[a-z]+")


def read_uv(root: Node, *, base_dir: str | os.PathLike[str]) -> tuple[PypiSettings, tuple[Ignored, ...]]:
    """The settings that are honoured, and warnings. Whatever else ``[tool.uv]`` says is uv's business.

    ``index`` entries that are the default replace PyPI; explicit ones serve only packages that name them, so they are
    left aside. Raises MetadataError.
    """
    keys = root.as_mapping("[tool.uv]")
    index = _url(keys["index-url"], base_dir) if "index-url" in keys else None
    extra = [_url(item, base_dir) for item in _items(keys.get("extra-index-url"), "tool.uv.extra-index-url")]
    for item in _items(keys.get("index"), "tool.uv.index"):
        table = item.as_mapping("[[tool.uv.index]]")
        if "url" not in table:
            item.fail("an index in [[tool.uv.index]] has no url")
        flags = {name for name in ("default", "explicit") if name in table and table[name].text == "true"}
        if "default" in flags:
            index = _url(table["url"], base_dir)
        elif "explicit" not in flags:
            extra.append(_url(table["url"], base_dir))
    links = [_url(item, base_dir) for item in _items(keys.get("find-links"), "tool.uv.find-links")]
    text = "ignored, so its packages come from the index: tool.uv.sources"
    warnings = (Ignored(text, keys["sources"].where),) if "sources" in keys else ()
    return PypiSettings(index, tuple(extra), tuple(links), _date(keys.get("exclude-newer"))), warnings


def _items(node: Node | None, what: str) -> tuple[Node, ...]:
    return () if node is None else node.as_list(what)


def _url(node: Node, base_dir: str | os.PathLike[str]) -> str:
    """An index's or a page's URL; a path becomes one."""
    text = node.as_text("an index").strip()
    if re.match(r"\.{0,2}/|~/", text):
        return file_url(text, base_dir, where=node.where)
    if not _INDEX.fullmatch(text):
        node.fail(f"{shorten(redact(text))!r} is not the URL of an index", "It starts with https://, or with ./ or /.")
    return text


def _date(node: Node | None) -> str | None:
    if node is None:
        return None
    text = node.text if node.kind == "date" else node.as_text("exclude-newer").strip()
    if not _DATE.fullmatch(text) and not _SPAN.fullmatch(text):
        node.fail(f"exclude-newer = {shorten(text)!r} is not a date", 'Write it as in "2025-01-31".')
    return text

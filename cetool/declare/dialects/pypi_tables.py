"""PyPI packages as tables of fields: pixi's ``pypi-dependencies`` and ``pypi-options``, and direct references."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from cetool.base.files import sha256_of
from cetool.base.patterns import pattern
from cetool.base.text import shorten
from cetool.base.urls import redact
from cetool.declare.channels import file_url
from cetool.declare.environment import Requirements
from cetool.declare.nodes import Node, choice, flag
from cetool.declare.pypi import PYPI_NAME, PypiSettings, canonical_requirement, index_url, package_names

#: What is said of packages that are to be installed in editable form.
NOT_EDITABLE = "It never changes once it is made: take 'editable' out to install the directory as it is now."

_SCHEME = pattern(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PINS = ("branch", "tag", "rev")
_FIELDS = ("version", "extras", "git", *_PINS, "subdirectory", "url", "path", "editable", "env-markers", "index")

#: The choices of settings that pixi and uv share.
PRERELEASE = ("disallow", "allow", "if-necessary", "explicit", "if-necessary-or-explicit")
INDEX_STRATEGY = ("first-index", "unsafe-first-match", "unsafe-best-match")

#: The keys of ``pypi-options``, and what becomes of each.
PIXI_OPTIONS = {
    "index-url": "honoured",
    "extra-index-urls": "honoured",
    "find-links": "honoured",
    "no-build": "honoured",
    "no-binary": "honoured",
    "no-build-isolation": "honoured",
    "index-strategy": "honoured",
    "prerelease-mode": "honoured",
    "dependency-overrides": "honoured",
    "skip-wheel-filename-check": "refused",
}


def read_pixi_pypi(node: Node, base_dir: str | os.PathLike[str]) -> dict[str, Requirements]:
    """What a table ``pypi-dependencies`` asks for, by package; settings are there where one names an index.

    Raises MetadataError.
    """
    return {
        name: _pixi_dependency(name, item, base_dir) for name, item in node.as_mapping("[pypi-dependencies]").items()
    }


def _pixi_dependency(name: str, node: Node, base_dir: str | os.PathLike[str]) -> Requirements:
    text = pixi_requirement(name, node, base_dir)
    index = node.entries.get("index")
    if index is None:
        return Requirements(pypi=(text,))
    url = index_url(index, base_dir)
    table = {"name": f"index-{sha256_of(url.encode())[:12]}", "url": url, "explicit": True}
    key = re.sub(r"[-_.]+", "-", name).lower()
    settings = PypiSettings().with_options(index=[table], sources={key: [{"index": table["name"]}]})
    return Requirements(pypi=(text,), pypi_settings=settings)


def pixi_requirement(name: str, node: Node, base_dir: str | os.PathLike[str]) -> str:
    """One entry of ``pypi-dependencies`` as a PEP 508 requirement. Raises MetadataError."""
    if not PYPI_NAME.fullmatch(name):
        node.fail(f"{shorten(name)!r} is not the name of a PyPI package", code="requirement-invalid")
    if node.kind != "mapping":
        version = node.as_text(f"the version of {name}", 'Write it as in requests = ">=2.31", or "*" for any.')
        return canonical_requirement(name + _version(version), where=node.where)
    fields = node.as_mapping(f"the table of {name}", _FIELDS)
    texts = {
        field: value.as_text(f"{field} of {name}")
        for field, value in fields.items()
        if field not in ("extras", "editable")
    }
    refuse_editable(name, fields.get("editable"))
    sources = [field for field in ("version", "git", "url", "path") if field in texts]
    if len(sources) > 1:
        node.fail(f"{name} says twice where it comes from: {' and '.join(sources)}", "Keep one of them.")
    if "index" in texts and sources not in ([], ["version"]):
        node.fail(f"{name} names an index, and a {sources[0]} that no index has", "Keep one of them.")
    text = name
    if "extras" in fields:
        text += f"[{','.join(fields['extras'].as_texts('extras'))}]"
    if "version" in texts:
        text += _version(texts["version"])
    elif sources:
        text += f" @ {direct_reference(name, node, texts, base_dir)}"
    elif stray := [field for field in (*_PINS, "subdirectory") if field in texts]:
        node.fail(f"{name} has {stray[0]!r}, which belongs to a 'git' or 'url' that is not there")
    if "env-markers" in texts:
        text += f" ; {texts['env-markers']}"
    return canonical_requirement(text, where=node.where, base_dir=base_dir)


def refuse_editable(name: str, node: Node | None) -> None:
    """Raise MetadataError where a field ``editable`` says more than false."""
    if node is not None and node.text != "false":
        node.fail(f"{name} is to be installed editable, which a script's environment cannot be", NOT_EDITABLE)


def _version(version: str) -> str:
    return "" if version.strip() == "*" else f" {version.strip()}"


def direct_reference(name: str, node: Node, texts: Mapping[str, str], base_dir: str | os.PathLike[str]) -> str:
    """The URL that ``path``, ``url`` or ``git`` and the fields that go with them spell. Raises MetadataError."""
    pins = [field for field in _PINS if field in texts]
    if "git" not in texts and (pins or ("path" in texts and "subdirectory" in texts)):
        stray = [*pins, "subdirectory"][0]
        node.fail(f"{name} has {stray!r}, which belongs to a 'git' that is not there", "Take it out.")
    if "path" in texts:
        return file_url(texts["path"].removeprefix("file://"), base_dir, where=node.where)
    below = f"subdirectory={_word(name, node, texts['subdirectory'], '#?&')}" if "subdirectory" in texts else ""
    if "url" in texts:
        url = _word(name, node, texts["url"])
        return url if not below else f"{url}{'&' if '#' in url else '#'}{below}"
    if len(pins) > 1:
        node.fail(f"{name} says twice what to take: {' and '.join(pins)}", "Keep one of branch, tag and rev.")
    url = _word(name, node, texts["git"].removeprefix("git+"), "#")
    if not _SCHEME.match(url):
        node.fail(
            f"{shorten(redact(url))!r} is not the URL of a repository",
            "Write it as in https://host/repository, ssh://git@host/repository or file:///directory.",
        )
    revision = f"@{_word(name, node, texts[pins[0]], '#?@')}" if pins else ""
    return f"git+{url}{revision}{'#' if below else ''}{below}"


def _word(name: str, node: Node, text: str, refused: str = "") -> str:
    if re.search(r"[\s;]", text):
        node.fail(f"the URL of {name} holds a blank or a semicolon", "Write them as %20 and %3B.")
    if wrong := next((char for char in refused if char in text), None):
        node.fail(f"{shorten(redact(text))!r} of {name} holds {wrong!r}, which cannot be written there")
    return text


def read_pixi_options(node: Node, what: str, base_dir: str | os.PathLike[str]) -> PypiSettings:
    """What a table ``pypi-options`` says. Raises MetadataError."""
    keys = node.as_mapping(f"[{what}]", PIXI_OPTIONS)
    options: dict[str, Any] = {}
    for key, value in keys.items():
        name = f"{what}.{key}"
        if PIXI_OPTIONS[key] == "refused":
            value.fail(f"{name} is not supported", "Take it out, or give the wheel the name that its contents have.")
        if key in ("no-build", "no-binary", "no-build-isolation"):
            if value.kind == "list":
                options[f"{key}-package"] = package_names(value, name)
            else:
                options[key] = flag(value, name)
        elif key == "index-strategy":
            options[key] = choice(value, name, INDEX_STRATEGY)
        elif key == "prerelease-mode":
            options["prerelease"] = choice(value, name, PRERELEASE)
        elif key == "dependency-overrides":
            overrides = value.as_mapping(f"[{name}]")
            options["override-dependencies"] = sorted(
                pixi_requirement(package, item, base_dir) for package, item in overrides.items()
            )
    return PypiSettings(
        index_url=index_url(keys["index-url"], base_dir) if "index-url" in keys else None,
        extra_index_urls=tuple(index_url(item, base_dir) for item in _items(keys, "extra-index-urls", what)),
        find_links=tuple(_link(item, base_dir) for item in _items(keys, "find-links", what)),
    ).with_options(**options)


def _items(keys: Mapping[str, Node], key: str, what: str) -> tuple[Node, ...]:
    return keys[key].as_list(f"{what}.{key}") if key in keys else ()


def _link(item: Node, base_dir: str | os.PathLike[str]) -> str:
    if item.kind != "mapping":
        return index_url(item, base_dir)
    fields = item.as_mapping("an entry of find-links", ("path", "url"))
    if len(fields) != 1:
        item.fail("an entry of find-links has one of 'path' and 'url'")
    return index_url(next(iter(fields.values())), base_dir)

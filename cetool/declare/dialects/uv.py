"""``[tool.uv]`` in a PEP 723 block: what each of its keys means to cetool, and their values.

uv installs a script's PyPI packages, so most settings are handed to it. One that changes which code is installed is
honoured or refused, with its line, before anything is installed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cetool.base.patterns import pattern
from cetool.base.text import nearest, shorten
from cetool.base.values import Value
from cetool.declare.dialects.pypi_tables import INDEX_STRATEGY, PRERELEASE
from cetool.declare.dialects.uv_sources import Sources, read_sources
from cetool.declare.environment import Requirements
from cetool.declare.nodes import Node, choice, flag
from cetool.declare.pypi import PypiSettings, canonical_requirement, index_url, package_names


class Key(Value):
    """What becomes of a key: ``why`` is the reason, or for a refused one what to do instead.

    ``form`` says how a value is read that is handed to uv as it is. ``pip`` says whether pip can do it as well.
    """

    treatment: Literal["honoured", "refused", "irrelevant"]
    why: str
    form: str = ""
    pip: bool = False


_FLAGS = {
    "no-index": ("only direct references and find-links count", True),
    "no-build": ("nothing is built from source", True),
    "no-binary": ("everything is built from source", True),
    "no-build-isolation": ("builds use the environment's own packages; cannot be locked", True),
    "require-build-hashes": ("build requirements need hashes", False),
}
_NAMES = {
    "no-build-package": ("these are not built from source", True),
    "no-binary-package": ("these are built from source", True),
    "no-build-isolation-package": ("these are built with the environment's own packages; cannot be locked", False),
    "exclude-dependencies": ("these are never installed", False),
}
_REQUIREMENTS = {
    "constraint-dependencies": ("limits versions", True),
    "override-dependencies": ("replaces what packages require", False),
    "build-constraint-dependencies": ("limits the versions of what builds need", False),
}
_CHOICES = {
    "index-strategy": ("which index wins", INDEX_STRATEGY),
    "keyring-provider": ("asks keyring for passwords of indexes", ("disabled", "subprocess")),
    "prerelease": ("whether pre-releases count", PRERELEASE),
    "resolution": ("whether the highest or lowest versions are taken", ("highest", "lowest", "lowest-direct")),
}
_TABLES = {
    "prerelease-package": "the same for single packages",
    "exclude-newer-package": "the same for single packages",
    "dependency-metadata": "what packages require, instead of what they say",
    "config-settings": "settings of build backends",
    "config-settings-package": "the same for single packages",
    "extra-build-dependencies": "more requirements of builds",
    "extra-build-variables": "variables of builds",
}
_PYTHON = "cetool takes python from conda"
_PROJECT = "a script is not a project"
_PLACE = "changes where uv keeps files or how it works, not what it installs"
_IRRELEVANT = {
    **dict.fromkeys(("cache-dir", "no-cache", "link-mode", "compile-bytecode"), _PLACE),
    **dict.fromkeys(("concurrent-downloads", "concurrent-builds", "concurrent-installs"), _PLACE),
    **dict.fromkeys(("native-tls", "system-certs"), "the machine's settings say which certificates count"),
    **dict.fromkeys(("python-preference", "python-downloads", "python-install-mirror"), _PYTHON),
    **dict.fromkeys(("pypy-install-mirror", "graalpy-install-mirror", "pyodide-install-mirror"), _PYTHON),
    "python-downloads-json-url": _PYTHON,
    **dict.fromkeys(("upgrade", "upgrade-package"), "`cetool lock --update` does it"),
    **dict.fromkeys(("reinstall", "reinstall-package"), "`cetool run --refresh` does it"),
    **dict.fromkeys(("fork-strategy", "environments", "required-environments"), "cetool resolves each platform alone"),
    **dict.fromkeys(("minimum-libc-version", "conflicts"), "cetool resolves each platform alone"),
    **dict.fromkeys(("managed", "package", "default-groups", "dependency-groups", "dev-dependencies"), _PROJECT),
    **dict.fromkeys(("build-backend", "cache-keys", "add-bounds", "audit"), _PROJECT),
    **dict.fromkeys(("publish-url", "trusted-publishing", "check-url"), "a script is not published"),
    "pip": "uv reads it for `uv pip` alone, not for scripts",
}
_REFUSED = {
    "workspace": "A script is not part of a workspace: take it out.",
    "offline": "Say it when you run the script: cetool run --offline.",
    **dict.fromkeys(
        ("http-proxy", "https-proxy", "no-proxy"), "A proxy is the machine's: set the variable HTTPS_PROXY, or uv.toml."
    ),
    **dict.fromkeys(("preview", "preview-features"), "Set UV_PREVIEW_FEATURES where the script runs."),
}
#: Every key of ``[tool.uv]``: docs/pypi.md lists the same.
KEYS: Mapping[str, Key] = {
    "sources": Key(
        "honoured", "path, url, git, and with uv index; editable, workspace, lfs, extra and group are refused", pip=True
    ),
    "index": Key(
        "honoured", "url and default; explicit, format, authenticate, cache-control and others with uv", pip=True
    ),
    "index-url": Key("honoured", "the index instead of PyPI", pip=True),
    "extra-index-url": Key("honoured", "more indexes", pip=True),
    "find-links": Key("honoured", "pages and directories with packages", pip=True),
    "exclude-newer": Key("honoured", "what is uploaded later does not count", pip=True),
    "no-sources": Key("honoured", "sources do not count", pip=True),
    "no-sources-package": Key("honoured", "sources of these do not count", pip=True),
    "allow-insecure-host": Key("honoured", "certificates of these hosts are not verified", "texts", pip=True),
    "torch-backend": Key("honoured", "which build of PyTorch is taken", "text"),
    "required-version": Key("honoured", "the version of uv", "text"),
    **{key: Key("honoured", why, "flag", pip) for key, (why, pip) in _FLAGS.items()},
    **{key: Key("honoured", why, "names", pip) for key, (why, pip) in _NAMES.items()},
    **{key: Key("honoured", why, "requirements", pip) for key, (why, pip) in _REQUIREMENTS.items()},
    **{key: Key("honoured", why, "choice", key == "prerelease") for key, (why, _) in _CHOICES.items()},
    **{key: Key("honoured", why, key, key == "config-settings") for key, why in _TABLES.items()},
    **{key: Key("irrelevant", why) for key, why in _IRRELEVANT.items()},
    **{key: Key("refused", why) for key, why in _REFUSED.items()},
}

_INDEX_FIELDS = (
    *("name", "url", "default", "explicit", "publish-url", "format", "authenticate", "ignore-error-codes"),
    *("cache-control", "exclude-newer"),
)
_METADATA_FIELDS = ("name", "version", "requires-dist", "requires-python", "provides-extra", "provides-extras")
# a day, a moment (RFC 3339), or a span of time as uv takes it
_DATE = pattern(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[Zz]|[+-]\d\d:?\d\d)?)?")
_SPAN = pattern(r"P[0-9DWTHMS]+|\d+ ?[a-z]+")
_VARIABLE = pattern(r"[A-Za-z_][A-Za-z0-9_]*")


class UvTable(Value):
    """What ``[tool.uv]`` says: settings, and the sources that have to be applied to the block's requirements."""

    settings: PypiSettings
    sources: Sources


def read_uv(root: Node, *, base_dir: str | os.PathLike[str]) -> UvTable:
    """What the table says. Raises MetadataError, naming the line, for what is refused or unknown."""
    keys = root.as_mapping("[tool.uv]")
    for key, node in keys.items():
        if key not in KEYS:
            node.fail(f"unknown key {shorten(key)!r} in [tool.uv]", nearest(key, KEYS), code="key-unknown", about=key)
        if KEYS[key].treatment == "refused":
            node.fail(f"tool.uv.{key} is not supported in a script", KEYS[key].why)
    tables = _indexes(_items(keys, "index"), base_dir)
    sources = _sources(keys, [str(table["name"]) for table in tables if "name" in table], base_dir)
    settings = PypiSettings(
        index_url=index_url(keys["index-url"], base_dir) if "index-url" in keys else None,
        extra_index_urls=tuple(index_url(item, base_dir) for item in _items(keys, "extra-index-url")),
        find_links=tuple(index_url(item, base_dir) for item in _items(keys, "find-links")),
        exclude_newer=_date(keys["exclude-newer"]) if "exclude-newer" in keys else None,
    )
    options: dict[str, Any] = {}
    for key, node in keys.items():
        if KEYS[key].treatment == "honoured" and KEYS[key].form:
            value = _value(key, node, base_dir)
            if KEYS[key].form == "requirements":
                value = list(sources.applied(value))
            elif key == "extra-build-dependencies":
                value = {name: _with_sources(items, sources) for name, items in value.items()}
            options[key] = value
    pins = sources.pins()
    settings = _with_indexes(settings, tables, {pin["index"] for items in pins.values() for pin in items})
    return UvTable(settings.with_options(**options, sources=pins), sources)


def applied(needs: Requirements, table: UvTable) -> Requirements:
    """The requirements of the whole block with the sources applied, and the settings. Raises MetadataError."""
    needs = needs._replace(pypi=table.sources.applied(needs.pypi))
    if needs.overlay is not None:
        entries = table.sources.applied(needs.overlay.entries)
        needs = needs._replace(overlay=needs.overlay._replace(entries=entries))
    table.sources.refuse_unused()
    return needs.plus(Requirements(pypi_settings=table.settings))


def _sources(keys: Mapping[str, Node], indexes: list[str], base_dir: str | os.PathLike[str]) -> Sources:
    """The sources that count: none with ``no-sources``, and none of the packages of ``no-sources-package``."""
    without = (
        package_names(keys["no-sources-package"], "tool.uv.no-sources-package")
        if ("no-sources-package" in keys)
        else []
    )
    if "no-sources" in keys and flag(keys["no-sources"], "tool.uv.no-sources"):
        return read_sources(None, (), base_dir)
    node = keys.get("sources")
    if node is not None and without and node.kind == "mapping":
        kept = {name: item for name, item in node.entries.items() if _normal(name) not in without}
        node = node._replace(entries=kept)
    return read_sources(node, indexes, base_dir)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _items(keys: Mapping[str, Node], key: str) -> tuple[Node, ...]:
    return keys[key].as_list(f"tool.uv.{key}") if key in keys else ()


def _indexes(nodes: Sequence[Node], base_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The entries of ``[[tool.uv.index]]``. Two with one name, or two defaults, are an error: only one would count."""
    tables: list[dict[str, Any]] = []
    for node in nodes:
        table = _index(node, base_dir)
        if any("name" in table and table["name"] == other.get("name") for other in tables):
            node.fail(f"two indexes are called {shorten(table['name'])!r}, and one would count", "Rename one of them.")
        if table.get("default") and any(other.get("default") for other in tables):
            node.fail("two indexes are the default one, and one would count", "Take 'default = true' out of one.")
        tables.append(table)
    return tables


def _index(node: Node, base_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """An entry of ``[[tool.uv.index]]`` without what says nothing. Raises MetadataError."""
    fields = node.as_mapping("[[tool.uv.index]]", _INDEX_FIELDS)
    if "url" not in fields:
        node.fail("an index in [[tool.uv.index]] has no url")
    table: dict[str, Any] = {"url": index_url(fields["url"], base_dir)}
    for key, value in fields.items():
        what = f"{key} of an index"
        if key in ("default", "explicit"):
            table |= {key: True} if flag(value, what) else {}
        elif key == "name":
            table[key] = value.as_text(what)
        elif key == "format":
            table |= {key: "flat"} if choice(value, what, ("simple", "flat")) == "flat" else {}
        elif key == "authenticate":
            table |= {key: chosen} if (chosen := choice(value, what, ("auto", "always", "never"))) != "auto" else {}
        elif key == "exclude-newer":
            table[key] = False if value.text == "false" else _date(value)
        elif key in ("ignore-error-codes", "cache-control"):
            table[key] = _plain(value)
    if table.get("default") and table.get("explicit"):
        node.fail("an index cannot be both 'default' and 'explicit'", "An explicit one is for named sources alone.")
    return table


def _with_indexes(settings: PypiSettings, tables: list[dict[str, Any]], pinned: set[str]) -> PypiSettings:
    """The settings with the indexes: as plain URLs where that says it all, which pip understands as well.

    The order of indexes is their priority, so they are all plain or none is, explicit ones aside.
    """
    tables = [table for table in tables if not table.get("explicit") or table.get("name") in pinned]
    general = [table for table in tables if not table.get("explicit")]
    if any(table.keys() - {"name", "url", "default"} or table.get("name") in pinned for table in general):
        return settings.with_options(index=tables)
    default = next((table["url"] for table in general if table.get("default")), None)
    extra = tuple(table["url"] for table in general if not table.get("default"))
    return settings._replace(
        index_url=default or settings.index_url, extra_index_urls=(*extra, *settings.extra_index_urls)
    ).with_options(index=[table for table in tables if table.get("explicit")])


def _date(node: Node) -> str:
    text = node.text if node.kind == "date" else node.as_text("exclude-newer").strip()
    if not _DATE.fullmatch(text) and not _SPAN.fullmatch(text):
        node.fail(f"exclude-newer = {shorten(text)!r} is not a date", 'Write it as in "2025-01-31".')
    return text


# --- values that uv gets as they are --------------------------------------------------------------------------------


def _value(key: str, node: Node, base_dir: str | os.PathLike[str]) -> Any:
    """The checked value of a key, as JSON. Raises MetadataError."""
    form, what = KEYS[key].form, f"tool.uv.{key}"
    if form == "flag":
        return flag(node, what) or None
    if form == "names":
        return package_names(node, what)
    if form == "choice":
        return choice(node, what, _CHOICES[key][1])
    if form == "text":
        return node.as_text(what)
    if form == "texts":
        return sorted(set(node.as_texts(what)))
    if form == "requirements":
        return _requirements(node, what, base_dir)
    return _TABLE_READERS[form](node, what, base_dir)


def _requirements(node: Node, what: str, base_dir: str | os.PathLike[str]) -> list[str]:
    found = []
    for item in node.as_list(what, 'Write requirements, ["numpy<2"].'):
        text = item.as_mapping(f"an entry of {what}", ("requirement",))["requirement"] if item.entries else item
        found.append(canonical_requirement(text.as_text(f"an entry of {what}"), where=text.where, base_dir=base_dir))
    return sorted(set(found))


def _by_package(node: Node, what: str) -> dict[str, Node]:
    found = {}
    for name, value in node.as_mapping(f"[{what}]").items():
        (known,) = package_names(Node("list", value.where, items=(Node("text", value.where, name),)), what)
        found[known] = value
    return found


def _prereleases(node: Node, what: str, _: object) -> dict[str, Any]:
    return {name: choice(value, f"{what}.{name}", PRERELEASE) for name, value in _by_package(node, what).items()}


def _dates(node: Node, what: str, _: object) -> dict[str, Any]:
    return {
        name: False if value.kind == "boolean" and value.text == "false" else _date(value)
        for name, value in _by_package(node, what).items()
    }


def _metadata(node: Node, what: str, base_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    found = []
    for item in node.as_list(f"[[{what}]]"):
        fields = item.as_mapping(f"[[{what}]]", _METADATA_FIELDS)
        if "name" not in fields:
            item.fail(f"an entry of [[{what}]] has no name")
        table: dict[str, Any] = {}
        for key, value in fields.items():
            if key == "requires-dist":
                table[key] = _requirements(value, f"{what}.{key}", base_dir)
            else:
                table[key] = list(value.as_texts(key)) if key.startswith("provides") else value.as_text(key)
        found.append(table)
    return found


def _settings(node: Node, what: str, _: object) -> dict[str, Any]:
    """Settings of a build backend: a text, true or false, or a list of texts by name."""
    found: dict[str, Any] = {}
    for name, value in node.as_mapping(f"[{what}]").items():
        if value.kind == "boolean":
            found[name] = value.text == "true"
        else:
            found[name] = list(value.as_texts(f"{what}.{name}")) if value.kind == "list" else value.as_text(what)
    return found


def _settings_by_package(node: Node, what: str, _: object) -> dict[str, Any]:
    return {name: _settings(value, f"{what}.{name}", _) for name, value in _by_package(node, what).items()}


def _build_dependencies(node: Node, what: str, base_dir: str | os.PathLike[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _by_package(node, what).items():
        items: list[Any] = []
        for item in value.as_list(f"{what}.{name}"):
            fields = item.as_mapping(f"an entry of {what}", ("requirement", "match-runtime")) if item.entries else {}
            text = fields.get("requirement", item)
            known = canonical_requirement(text.as_text(f"an entry of {what}"), where=text.where, base_dir=base_dir)
            runtime = "match-runtime" in fields and flag(fields["match-runtime"], "match-runtime")
            items.append({"requirement": known, "match-runtime": True} if runtime else known)
        found[name] = items
    return found


def _with_sources(items: list[Any], sources: Sources) -> list[Any]:
    """Requirements of builds with the sources applied, those that match what is installed left alone."""
    return [new for item in items for new in (sources.applied([item]) if isinstance(item, str) else [item])]


def _variables(node: Node, what: str, _: object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, table in _by_package(node, what).items():
        pairs = table.as_mapping(f"[{what}.{name}]")
        for variable, value in pairs.items():
            if not _VARIABLE.fullmatch(variable):
                value.fail(f"{shorten(variable)!r} cannot be the name of an environment variable")
        found[name] = {variable: value.as_text(f"{what}.{name}.{variable}") for variable, value in pairs.items()}
    return found


_TABLE_READERS: Mapping[str, Any] = {
    "prerelease-package": _prereleases,
    "exclude-newer-package": _dates,
    "dependency-metadata": _metadata,
    "config-settings": _settings,
    "config-settings-package": _settings_by_package,
    "extra-build-dependencies": _build_dependencies,
    "extra-build-variables": _variables,
}


def _plain(node: Node) -> Any:
    """A value as JSON."""
    if node.kind == "list":
        return [_plain(item) for item in node.items]
    if node.kind == "mapping":
        return {key: _plain(value) for key, value in node.entries.items()}
    if node.kind == "boolean":
        return node.text == "true"
    return int(node.text) if node.kind == "number" and re.fullmatch(r"-?\d{1,18}", node.text) else node.text

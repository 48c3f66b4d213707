"""Read ``[tool.uv]`` in a PEP 723 block: how cetool treats each of its keys, and their values.

uv installs a script's PyPI packages, so most settings are passed to it. A setting that changes which code is installed
is honoured or refused, with its line, before anything is installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cetool.base.text import nearest, normalized, pattern, shorten
from cetool.base.values import Value
from cetool.declare.dialects.uv_sources import Sources, read_sources
from cetool.declare.nodes import Directory, Node
from cetool.declare.pypi import (
    INDEX_STRATEGY,
    PRERELEASE,
    PypiSettings,
    canonical_requirement,
    checked_name,
    index_url,
    package_names,
)
from cetool.declare.requirements import Requirements


class Key(Value):
    """How a key is treated."""

    treatment: Literal["honoured", "refused", "irrelevant"]
    #: The reason; for a refused key, what to do instead.
    why: str
    #: How to read a value that is passed to uv: a key of :data:`_FORMS`.
    form: str = ""
    #: Whether pip supports it too.
    pip: bool = False


#: The keys that are honoured: how to read the value, whether pip supports it, what it does.
_HONOURED = {
    "sources": ("", True, "path, url, git, and with uv index; editable, workspace, lfs, extra and group are refused"),
    "index": ("", True, "url and default; explicit, format, authenticate, cache-control and others with uv"),
    "index-url": ("", True, "the index instead of PyPI"),
    "extra-index-url": ("", True, "more indexes"),
    "find-links": ("", True, "pages and directories with packages"),
    "exclude-newer": ("", True, "packages uploaded later are ignored"),
    "no-sources": ("", True, "sources are ignored"),
    "no-sources-package": ("", True, "sources of these packages are ignored"),
    "allow-insecure-host": ("texts", True, "certificates of these hosts are not verified"),
    "torch-backend": ("text", False, "which build of PyTorch is installed"),
    "required-version": ("text", False, "the version of uv"),
    "no-index": ("flag", True, "only direct references and find-links are used"),
    "no-build": ("flag", True, "nothing is built from source"),
    "no-binary": ("flag", True, "everything is built from source"),
    "no-build-isolation": ("flag", True, "builds use the environment's own packages; cannot be locked"),
    "require-build-hashes": ("flag", False, "build requirements need hashes"),
    "no-build-package": ("names", True, "these are not built from source"),
    "no-binary-package": ("names", True, "these are built from source"),
    "no-build-isolation-package": (
        *("names", False),
        "these are built with the environment's own packages; cannot be locked",
    ),
    "exclude-dependencies": ("names", False, "these are never installed"),
    "constraint-dependencies": ("requirements", True, "limits versions"),
    "override-dependencies": ("requirements", False, "replaces what packages require"),
    "build-constraint-dependencies": ("requirements", False, "limits the versions of what builds need"),
    "index-strategy": ("strategy", False, "which index wins"),
    "keyring-provider": ("keyring", False, "asks keyring for passwords of indexes"),
    "prerelease": ("prerelease", True, "whether pre-releases are allowed"),
    "resolution": ("resolution", False, "whether to install the highest or lowest versions"),
    "prerelease-package": ("prereleases", False, "the same for single packages"),
    "exclude-newer-package": ("dates", False, "the same for single packages"),
    "dependency-metadata": ("metadata", False, "what packages require, instead of what they say"),
    "config-settings": ("settings", True, "settings of build backends"),
    "config-settings-package": ("package-settings", False, "the same for single packages"),
    "extra-build-dependencies": ("build-dependencies", False, "more requirements of builds"),
    "extra-build-variables": ("variables", False, "variables of builds"),
}
_PYTHON = "python comes from conda"
_PROJECT = "a script is not a project"
_PLACE = "changes where uv keeps files or how it works, not what it installs"
_IRRELEVANT = {
    **dict.fromkeys(("cache-dir", "no-cache", "link-mode", "compile-bytecode"), _PLACE),
    **dict.fromkeys(("concurrent-downloads", "concurrent-builds", "concurrent-installs"), _PLACE),
    **dict.fromkeys(("native-tls", "system-certs"), "the machine's settings decide which certificates are trusted"),
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
    "workspace": "A script is not part of a workspace: remove it.",
    "offline": "Use `cetool run --offline` instead.",
    **dict.fromkeys(
        ("http-proxy", "https-proxy", "no-proxy"), "Set the variable HTTPS_PROXY, or configure the proxy in uv.toml."
    ),
    **dict.fromkeys(("preview", "preview-features"), "Set UV_PREVIEW_FEATURES where the script runs."),
}
#: Every key of ``[tool.uv]``: docs/reference/pypi.md lists the same.
KEYS: Mapping[str, Key] = {
    **{key: Key("honoured", why, form, pip) for key, (form, pip, why) in _HONOURED.items()},
    **{key: Key("irrelevant", why) for key, why in _IRRELEVANT.items()},
    **{key: Key("refused", why) for key, why in _REFUSED.items()},
}

_INDEX_FIELDS = (
    *("name", "url", "default", "explicit", "publish-url", "format", "authenticate", "ignore-error-codes"),
    *("cache-control", "exclude-newer"),
)
_METADATA_FIELDS = ("name", "version", "requires-dist", "requires-python", "provides-extra", "provides-extras")
# a day, a moment (RFC 3339), or a duration as uv reads it
_DATE = pattern(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[Zz]|[+-]\d\d:?\d\d)?)?")
_SPAN = pattern(r"P[0-9DWTHMS]+|\d+ ?[a-z]+")
_VARIABLE = pattern(r"[A-Za-z_][A-Za-z0-9_]*")


class UvTable(Value):
    """The content of ``[tool.uv]``: settings, and the sources to apply to the block's requirements."""

    settings: PypiSettings
    sources: Sources


def read_uv(root: Node, *, base_dir: Directory) -> UvTable:
    """Read the table. Raises MetadataError, with the line, for refused and unknown keys."""
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
        if form := KEYS[key].form:
            value = _FORMS[form](node, f"tool.uv.{key}", base_dir)
            if form == "requirements":
                value = list(sources.applied(value))
            elif form == "build-dependencies":
                value = {name: _with_sources(items, sources) for name, items in value.items()}
            options[key] = value
    pins = sources.pins()
    settings = _with_indexes(settings, tables, {pin["index"] for items in pins.values() for pin in items})
    return UvTable(settings.with_options(**options, sources=pins), sources)


def applied(needs: Requirements, table: UvTable) -> Requirements:
    """Apply the sources and settings to the requirements of the whole block. Raises MetadataError."""
    needs = needs._replace(pypi=table.sources.applied(needs.pypi))
    if needs.overlay is not None:
        entries = table.sources.applied(needs.overlay.entries)
        needs = needs._replace(overlay=needs.overlay._replace(entries=entries))
    table.sources.refuse_unused()
    return needs.plus(Requirements(pypi_settings=table.settings))


def _sources(keys: Mapping[str, Node], indexes: list[str], base_dir: Directory) -> Sources:
    """Return the sources that apply: none with ``no-sources``, and none of the packages in ``no-sources-package``."""
    without, node = keys.get("no-sources-package"), keys.get("sources")
    names = [] if without is None else package_names(without, "tool.uv.no-sources-package")
    if "no-sources" in keys and keys["no-sources"].as_flag("tool.uv.no-sources"):
        return read_sources(None, (), base_dir)
    if node is not None and names and node.kind == "mapping":
        node = node._replace(
            entries={name: item for name, item in node.entries.items() if normalized(name) not in names}
        )
    return read_sources(node, indexes, base_dir)


def _items(keys: Mapping[str, Node], key: str) -> tuple[Node, ...]:
    return keys[key].as_list(f"tool.uv.{key}") if key in keys else ()


def _indexes(nodes: Sequence[Node], base_dir: Directory) -> list[dict[str, Any]]:
    """Return the entries of ``[[tool.uv.index]]``. Duplicate names or defaults are errors, as only one would count."""
    tables: list[dict[str, Any]] = []
    for node in nodes:
        table = _index(node, base_dir)
        if any("name" in table and table["name"] == other.get("name") for other in tables):
            node.fail(f"two indexes have the name {shorten(table['name'])!r}", "Rename one of them.")
        if table.get("default") and any(other.get("default") for other in tables):
            node.fail("two indexes are the default one", "Remove 'default = true' from one of them.")
        tables.append(table)
    return tables


def _index(node: Node, base_dir: Directory) -> dict[str, Any]:
    """Return an entry of ``[[tool.uv.index]]`` without values that are the default. Raises MetadataError."""
    fields = node.as_mapping("[[tool.uv.index]]", _INDEX_FIELDS)
    if "url" not in fields:
        node.fail("an index in [[tool.uv.index]] has no url")
    table: dict[str, Any] = {"url": index_url(fields["url"], base_dir)}
    for key, value in fields.items():
        what = f"{key} of an index"
        if key in ("default", "explicit"):
            table |= {key: True} if value.as_flag(what) else {}
        elif key == "name":
            table[key] = value.as_text(what)
        elif key == "format":
            table |= {key: "flat"} if value.as_choice(what, ("simple", "flat")) == "flat" else {}
        elif key == "authenticate":
            table |= {key: chosen} if (chosen := value.as_choice(what, ("auto", "always", "never"))) != "auto" else {}
        elif key == "exclude-newer":
            table[key] = False if value.text == "false" else _date(value)
        elif key in ("ignore-error-codes", "cache-control"):
            table[key] = _plain(value)
    if table.get("default") and table.get("explicit"):
        node.fail(
            "an index cannot be both 'default' and 'explicit'",
            "An explicit index is used only by sources that name it.",
        )
    return table


def _with_indexes(settings: PypiSettings, tables: list[dict[str, Any]], pinned: set[str]) -> PypiSettings:
    """Return the settings with the indexes: as plain URLs if possible, which pip understands too.

    The order of indexes is their priority, so all are plain or none is, except explicit ones.
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
        node.fail(f"exclude-newer = {shorten(text)!r} is not a date", 'Write it like "2025-01-31".')
    return text


# --- values that are passed to uv -----------------------------------------------------------------------------------


def _requirements(node: Node, what: str, base_dir: Directory) -> list[str]:
    found = []
    for item in node.as_list(what, 'Write requirements, ["numpy<2"].'):
        text = item.as_mapping(f"an entry of {what}", ("requirement",))["requirement"] if item.entries else item
        found.append(canonical_requirement(text.as_text(f"an entry of {what}"), where=text.where, base_dir=base_dir))
    return sorted(set(found))


def _by_package(read: Callable[[Node, str, Directory], Any]) -> Callable[[Node, str, Directory], dict[str, Any]]:
    """Return a reader of a table with values for single packages."""

    def found(node: Node, what: str, base_dir: Directory) -> dict[str, Any]:
        values = {}
        for name, value in node.as_mapping(f"[{what}]").items():
            known = checked_name(name, value)
            values[known] = read(value, f"{what}.{known}", base_dir)
        return values

    return found


def _moment(node: Node, _: str, __: Directory) -> Any:
    return False if node.kind == "boolean" and node.text == "false" else _date(node)


def _metadata(node: Node, what: str, base_dir: Directory) -> list[dict[str, Any]]:
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


def _settings(node: Node, what: str, _: Directory) -> dict[str, Any]:
    """Return the settings of a build backend by name: a string, a boolean, or a list of strings."""
    found: dict[str, Any] = {}
    for name, value in node.as_mapping(f"[{what}]").items():
        if value.kind == "boolean":
            found[name] = value.text == "true"
        else:
            found[name] = list(value.as_texts(f"{what}.{name}")) if value.kind == "list" else value.as_text(what)
    return found


def _build_dependencies(node: Node, what: str, base_dir: Directory) -> list[Any]:
    items: list[Any] = []
    what_of = what.rpartition(".")[0]
    for item in node.as_list(what):
        fields = item.as_mapping(f"an entry of {what_of}", ("requirement", "match-runtime")) if item.entries else {}
        text = fields.get("requirement", item)
        known = canonical_requirement(text.as_text(f"an entry of {what_of}"), where=text.where, base_dir=base_dir)
        runtime = "match-runtime" in fields and fields["match-runtime"].as_flag("match-runtime")
        items.append({"requirement": known, "match-runtime": True} if runtime else known)
    return items


def _with_sources(items: list[Any], sources: Sources) -> list[Any]:
    """Apply the sources to requirements of builds, except those that match what is installed."""
    return [new for item in items for new in (sources.applied([item]) if isinstance(item, str) else [item])]


def _variables(node: Node, what: str, _: Directory) -> dict[str, str]:
    pairs = node.as_mapping(f"[{what}]")
    for variable, value in pairs.items():
        if not _VARIABLE.fullmatch(variable):
            value.fail(f"{shorten(variable)!r} cannot be the name of an environment variable")
    return {variable: value.as_text(f"{what}.{variable}") for variable, value in pairs.items()}


def _plain(node: Node) -> Any:
    """Return a value as JSON."""
    if node.kind == "list":
        return [_plain(item) for item in node.items]
    if node.kind == "mapping":
        return {key: _plain(value) for key, value in node.entries.items()}
    if node.kind == "boolean":
        return node.text == "true"
    return int(node.text) if node.kind == "number" and re.fullmatch(r"-?\d{1,18}", node.text) else node.text


def _choice(*choices: str) -> Callable[[Node, str, Directory], str]:
    return lambda node, what, _: node.as_choice(what, choices)


_FORMS: Mapping[str, Callable[[Node, str, Directory], Any]] = {
    "flag": lambda node, what, _: node.as_flag(what) or None,
    "text": lambda node, what, _: node.as_text(what),
    "texts": lambda node, what, _: sorted(set(node.as_texts(what))),
    "names": lambda node, what, _: package_names(node, what),
    "requirements": _requirements,
    "strategy": _choice(*INDEX_STRATEGY),
    "keyring": _choice("disabled", "subprocess"),
    "prerelease": _choice(*PRERELEASE),
    "resolution": _choice("highest", "lowest", "lowest-direct"),
    "prereleases": _by_package(_choice(*PRERELEASE)),
    "dates": _by_package(_moment),
    "metadata": _metadata,
    "settings": _settings,
    "package-settings": _by_package(_settings),
    "build-dependencies": _by_package(_build_dependencies),
    "variables": _by_package(_variables),
}

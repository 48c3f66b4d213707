"""Bring PyPI requirements into their canonical form; define how they are resolved and installed (``[tool.uv]``, pixi,
pip).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from cetool.base.codec import canonical_json, decode
from cetool.base.errors import Location, MetadataError
from cetool.base.text import has_control, normalized, pattern, shorten
from cetool.base.urls import cleaned, quotable, redact, scrub, strip_credentials
from cetool.base.values import Value, strings_in
from cetool.declare.channels import file_url
from cetool.declare.match_specs import MAX_SPEC
from cetool.declare.nodes import Directory, Node

#: Settings without a key in ``[tool.uv]``: digests by requirement, and two of pip's options.
OWN_OPTIONS = ("hashes", "require-hashes", "prefer-binary")
_OF_BUILDS = (
    *("build-constraint-dependencies", "config-settings", "config-settings-package", "extra-build-dependencies"),
    *("extra-build-variables", "no-build-isolation", "no-build-isolation-package"),
)


#: Names of PyPI packages.
PYPI_NAME = pattern(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")

#: The choices of settings that pixi and uv share.
PRERELEASE = ("disallow", "allow", "if-necessary", "explicit", "if-necessary-or-explicit")
INDEX_STRATEGY = ("first-index", "unsafe-first-match", "unsafe-best-match")

_SCHEME = pattern(r"[A-Za-z][A-Za-z0-9+.-]*://")
_INDEX = pattern(r"(?:https?|file)://[^\s\"'<>\\]+")
_URL_SCHEMES = pattern(r"(?:https?|file|(?:git|hg|svn|bzr)\+(?:https?|ssh|git|file|svn|lp))\Z")


class PypiSettings(Value):
    """How PyPI requirements are resolved and installed, if a script says so: all optional."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    exclude_newer: str | None = None
    #: All other settings, sorted: uv's name (:data:`cetool.declare.dialects.uv.KEYS`) or one of :data:`OWN_OPTIONS`,
    #: and the value as canonical JSON.
    options: tuple[tuple[str, str], ...] = ()

    @property
    def named(self) -> dict[str, Any]:
        """The values of ``options`` by name."""
        return {key: json.loads(value) for key, value in self.options}

    @property
    def of_builds(self) -> dict[str, Any]:
        """The options that change how sources are built, without credentials."""
        return {key: cleaned(value) for key, value in self.named.items() if key in _OF_BUILDS}

    @property
    def index_urls(self) -> tuple[str, ...]:
        """The URLs of all indexes, the default one first if it is given."""
        tables = [(bool(table.get("default")), str(table["url"])) for table in self.named.get("index", [])]
        first = [url for default, url in tables if default] + ([self.index_url] if self.index_url else [])
        return tuple(dict.fromkeys((*first, *self.extra_index_urls, *(url for default, url in tables if not default))))

    @property
    def places(self) -> tuple[str, ...]:
        """All URLs in the settings from which packages, or their build requirements, are taken."""
        found = [*self.index_urls, *self.find_links]
        for value in self.named.values():
            found += [text for text in strings_in(value) if "://" in text and text not in found]
        return tuple(found)

    def with_options(self, **values: Any) -> PypiSettings:
        """Return the same with some settings replaced (``_`` means ``-``); an empty value removes one."""
        return self._with({**self.named, **{key.replace("_", "-"): value for key, value in values.items()}})

    def _with(self, named: dict[str, Any]) -> PypiSettings:
        pairs = ((key, canonical_json(value)) for key, value in named.items() if value not in (None, [], {}))
        return self._replace(options=tuple(sorted(pairs)))

    def plus(self, other: PypiSettings) -> PypiSettings:
        """Combine two settings: lists and tables are joined; the other's single values win."""
        return PypiSettings(
            index_url=self.index_url if other.index_url is None else other.index_url,
            extra_index_urls=tuple(dict.fromkeys(self.extra_index_urls + other.extra_index_urls)),
            find_links=tuple(dict.fromkeys(self.find_links + other.find_links)),
            exclude_newer=self.exclude_newer if other.exclude_newer is None else other.exclude_newer,
        )._with(_joined(self.named, other.named))

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, without unset ones and credentials."""
        pairs = {
            "exclude-newer": self.exclude_newer,
            "extra-index-urls": [strip_credentials(url) for url in self.extra_index_urls],
            "find-links": [strip_credentials(url) for url in self.find_links],
            "index-url": None if self.index_url is None else strip_credentials(self.index_url),
            # strings, like everything in a marker's specification
            "options": {key: canonical_json(cleaned(value)) for key, value in self.named.items()},
        }
        return {key: value for key, value in pairs.items() if value}

    @staticmethod
    def json_key(field: str) -> str:
        """Return the key of a field in a document."""
        return field.replace("_", "-")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PypiSettings:
        """Return the settings that :meth:`as_dict` wrote. Raises ValueError otherwise."""
        found = decode(cls, data)
        try:
            _ = found.named
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return found


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Join two tables: lists without duplicates; the other's single values win."""
    found = dict(one)
    for key, value in other.items():
        before = found.get(key)
        if isinstance(before, list) and isinstance(value, list):
            value = [*before, *(item for item in value if item not in before)]
        elif isinstance(before, dict) and isinstance(value, dict):
            value = _joined(before, value)
        found[key] = value
    return found


def canonical_requirement(text: str, *, where: Location | None = None, base_dir: Directory | None = None) -> str:
    """Return the canonical form of a PyPI requirement (PEP 508): name, extras and clauses normalized and sorted.

    ``name @ ./directory`` becomes a ``file://`` URL, relative to ``base_dir`` (None: the working directory). Raises
    MetadataError, quoting the requirement, for an invalid one and for pip's options.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    requirement = text.strip()
    _refuse_options(text, requirement, where)
    hint = "Write a name and optionally a version: requests, 'requests>=2.31', 'name @ https://...', 'name @ ./here'."
    try:
        parsed = Requirement(requirement)
        parsed.name = normalized(parsed.name)
        if parsed.url is not None:
            parsed.url = _canonical_url(parsed.url, base_dir or Path.cwd(), where)
        canonical = str(parsed)
        Requirement(canonical)
    except (InvalidRequirement, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        if re.match(r"(\.{0,2}|~)/|\w+(\+\w+)?://", requirement):
            reason = "a path or a URL needs the package's name before it, as in 'name @ ./here'"
        shown = shorten(redact(requirement))
        _refuse(shown, f"is not a PyPI requirement: {shorten(scrub(reason), 200)}", where, hint)
    return canonical


def _refuse(shown: str, problem: str, where: Location | None, hint: str | None = None) -> NoReturn:
    message = f"'{shown}' {problem}"
    raise MetadataError(message, code="requirement-invalid", about=shown, where=where, hint=hint) from None


def _refuse_options(text: str, requirement: str, where: Location | None) -> None:
    """Refuse text that must not reach an installer's command line."""
    if not requirement:
        raise MetadataError("the PyPI requirement is empty", code="requirement-invalid", where=where)
    shown = quotable(requirement)
    if len(requirement) > 2 * MAX_SPEC or has_control(text):
        why = "it is too long, or contains a line break or a control character"
        _refuse(shown, f"is not a PyPI requirement: {why}", where)
    if not requirement.startswith("-"):
        return
    if re.match(r"-r|--requirement|-c|--constraint", requirement):
        hint = "Write the requirements themselves here, one per entry."
    elif re.match(r"-e|--editable", requirement):
        hint = "Environments never change: write 'name @ ./directory' to install the directory's current state."
    else:
        hint = "Configure indexes in [tool.uv] of a '# /// script' block, or for uv or pip."
    _refuse(shown, "is an option of pip, which is not supported here", where, hint)


def _canonical_url(url: str, base_dir: Directory, where: Location | None) -> str:
    """Return the URL of a direct reference, also for a path. Raises ValueError for an unknown scheme."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url) or re.match(r"[A-Za-z]:[\\/]", url):
        return file_url(url, base_dir, where=where)
    scheme = urlsplit(url).scheme
    if not _URL_SCHEMES.match(scheme):
        raise ValueError(f"{scheme}: URLs are not supported")
    return url


def index_url(node: Node, base_dir: Directory) -> str:
    """Return the URL of an index or a page of links; a path becomes one. Raises MetadataError."""
    return place_url(node.as_text("an index").strip(), node, base_dir)


def place_url(text: str, node: Node, base_dir: Directory) -> str:
    """Return a URL as :func:`index_url` does, for a text in the node."""
    if not _SCHEME.match(text) and not text.startswith("-"):
        return file_url(text, base_dir, where=node.where)
    if not _INDEX.fullmatch(text):
        node.fail(
            f"{shorten(redact(text))!r} is not the URL of an index", "Write a URL that starts with https://, or a path."
        )
    return text


def checked_name(name: str, node: Node) -> str:
    """Return the normalized name of a PyPI package. Raises MetadataError for an invalid one."""
    if not PYPI_NAME.fullmatch(name):
        node.fail(f"{shorten(name)!r} is not a PyPI package name", code="requirement-invalid")
    return normalized(name)


def package_names(node: Node, what: str) -> list[str]:
    """Return the normalized names of PyPI packages in a list, sorted. Raises MetadataError."""
    items = node.as_list(what, 'Write the names of packages, ["numpy"].')
    return sorted({checked_name(item.as_text(f"an entry of {what}"), item) for item in items})

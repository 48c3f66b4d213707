"""PyPI requirements in their canonical form, and how they are resolved and installed (``[tool.uv]``, pixi, pip)."""

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

#: Settings that no key of ``[tool.uv]`` has: digests by requirement, and two of pip's options.
OWN_OPTIONS = ("hashes", "require-hashes", "prefer-binary")
_OF_BUILDS = (
    *("build-constraint-dependencies", "config-settings", "config-settings-package", "extra-build-dependencies"),
    *("extra-build-variables", "no-build-isolation", "no-build-isolation-package"),
)


#: What a PyPI package may be called.
PYPI_NAME = pattern(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")

#: The choices of settings that pixi and uv share.
PRERELEASE = ("disallow", "allow", "if-necessary", "explicit", "if-necessary-or-explicit")
INDEX_STRATEGY = ("first-index", "unsafe-first-match", "unsafe-best-match")

_SCHEME = pattern(r"[A-Za-z][A-Za-z0-9+.-]*://")
_INDEX = pattern(r"(?:https?|file)://[^\s\"'<>\\]+")
_URL_SCHEMES = pattern(r"(?:https?|file|(?:git|hg|svn|bzr)\+(?:https?|ssh|git|file|svn|lp))\Z")


class PypiSettings(Value):
    """How PyPI requirements are resolved and installed, where a script says so: all optional."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    exclude_newer: str | None = None
    #: All others, sorted: uv's name for one (:data:`cetool.declare.dialects.uv.KEYS`), or :data:`OWN_OPTIONS`, and its
    #: value as canonical JSON.
    options: tuple[tuple[str, str], ...] = ()

    @property
    def named(self) -> dict[str, Any]:
        """The values of ``options`` by name."""
        return {key: json.loads(value) for key, value in self.options}

    @property
    def of_builds(self) -> dict[str, Any]:
        """Those options by which the same sources become another build, credentials taken out."""
        return {key: cleaned(value) for key, value in self.named.items() if key in _OF_BUILDS}

    @property
    def index_urls(self) -> tuple[str, ...]:
        """The URLs of all indexes, the default one first where it is named."""
        tables = [(bool(table.get("default")), str(table["url"])) for table in self.named.get("index", [])]
        first = [url for default, url in tables if default] + ([self.index_url] if self.index_url else [])
        return tuple(dict.fromkeys((*first, *self.extra_index_urls, *(url for default, url in tables if not default))))

    @property
    def places(self) -> tuple[str, ...]:
        """Every URL in the settings that packages, or what they are built with, are taken from."""
        found = [*self.index_urls, *self.find_links]
        for value in self.named.values():
            found += [text for text in strings_in(value) if "://" in text and text not in found]
        return tuple(found)

    def with_options(self, **values: Any) -> PypiSettings:
        """The same with other settings set, ``_`` in their names standing for ``-``; an empty value removes one."""
        return self._with({**self.named, **{key.replace("_", "-"): value for key, value in values.items()}})

    def _with(self, named: dict[str, Any]) -> PypiSettings:
        pairs = ((key, canonical_json(value)) for key, value in named.items() if value not in (None, [], {}))
        return self._replace(options=tuple(sorted(pairs)))

    def plus(self, other: PypiSettings) -> PypiSettings:
        """These and the other's as well; lists and tables are joined, of single values the other's wins."""
        return PypiSettings(
            index_url=self.index_url if other.index_url is None else other.index_url,
            extra_index_urls=tuple(dict.fromkeys(self.extra_index_urls + other.extra_index_urls)),
            find_links=tuple(dict.fromkeys(self.find_links + other.find_links)),
            exclude_newer=self.exclude_newer if other.exclude_newer is None else other.exclude_newer,
        )._with(_joined(self.named, other.named))

    def as_dict(self) -> dict[str, Any]:
        """The settings that are set, as JSON values, credentials taken out."""
        pairs = {
            "exclude-newer": self.exclude_newer,
            "extra-index-urls": [strip_credentials(url) for url in self.extra_index_urls],
            "find-links": [strip_credentials(url) for url in self.find_links],
            "index-url": None if self.index_url is None else strip_credentials(self.index_url),
            # texts, as all that a marker holds of a specification
            "options": {key: canonical_json(cleaned(value)) for key, value in self.named.items()},
        }
        return {key: value for key, value in pairs.items() if value}

    @staticmethod
    def json_key(field: str) -> str:
        """The key of a field in a document."""
        return field.replace("_", "-")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PypiSettings:
        """The settings that :meth:`as_dict` wrote. Raises ValueError otherwise."""
        found = decode(cls, data)
        try:
            _ = found.named
        except RecursionError:
            raise ValueError("nested too deep") from None
        return found


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two tables as one: lists without repeats, of single values the other's."""
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
    """The canonical form of a PyPI requirement (PEP 508): name, extras and clauses in one spelling and order.

    ``name @ ./directory`` becomes a ``file://`` URL, relative to ``base_dir`` (the working directory where None).
    Raises MetadataError, quoting the requirement, for what is none and for pip's options.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    requirement = text.strip()
    _refuse_options(text, requirement, where)
    hint = "Write a name and, if need be, a version: requests, 'requests>=2.31', 'name @ https://...', 'name @ ./here'."
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
            reason = "a path or a URL needs the package's name in front"
        shown = shorten(redact(requirement))
        _refuse(shown, f"is not a PyPI requirement: {shorten(scrub(reason), 200)}", where, hint)
    return canonical


def _refuse(shown: str, problem: str, where: Location | None, hint: str | None = None) -> NoReturn:
    message = f"'{shown}' {problem}"
    raise MetadataError(message, code="requirement-invalid", about=shown, where=where, hint=hint) from None


def _refuse_options(text: str, requirement: str, where: Location | None) -> None:
    """Raise for what must not reach an installer's command line."""
    if not requirement:
        raise MetadataError("a PyPI requirement is empty", code="requirement-invalid", where=where)
    shown = quotable(requirement)
    if len(requirement) > 2 * MAX_SPEC or has_control(text):
        why = "it is too long, or holds a line break or a control character"
        _refuse(shown, f"is not a PyPI requirement: {why}", where)
    if not requirement.startswith("-"):
        return
    if re.match(r"-r|--requirement|-c|--constraint", requirement):
        hint = "Write the requirements themselves here, one an entry."
    elif re.match(r"-e|--editable", requirement):
        hint = "An environment never changes once it is made: write 'name @ ./directory' to install it as it is now."
    else:
        hint = "Indexes belong in [tool.uv] of a '# /// script' block, or in your own configuration."
    _refuse(shown, "is an option of pip, which is not supported here", where, hint)


def _canonical_url(url: str, base_dir: Directory, where: Location | None) -> str:
    """The URL of a direct reference, made of a path where it is one. Raises ValueError for an unknown scheme."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url) or re.match(r"[A-Za-z]:[\\/]", url):
        return file_url(url, base_dir, where=where)
    scheme = urlsplit(url).scheme
    if not _URL_SCHEMES.match(scheme):
        raise ValueError(f"URLs that start with {scheme}: cannot be installed from")
    return url


def index_url(node: Node, base_dir: Directory) -> str:
    """The URL of an index or of a page of links; a path becomes one. Raises MetadataError."""
    return place_url(node.as_text("an index").strip(), node, base_dir)


def place_url(text: str, node: Node, base_dir: Directory) -> str:
    """As :func:`index_url`, of a text that is in the node."""
    if not _SCHEME.match(text) and not text.startswith("-"):
        return file_url(text, base_dir, where=node.where)
    if not _INDEX.fullmatch(text):
        node.fail(f"{shorten(redact(text))!r} is not the URL of an index", "It starts with https://, or is a path.")
    return text


def checked_name(name: str, node: Node) -> str:
    """The same of a name in a node. Raises MetadataError for what no package can be called."""
    if not PYPI_NAME.fullmatch(name):
        node.fail(f"{shorten(name)!r} is not the name of a PyPI package", code="requirement-invalid")
    return normalized(name)


def package_names(node: Node, what: str) -> list[str]:
    """Names of PyPI packages in their one spelling, sorted. Raises MetadataError."""
    items = node.as_list(what, 'Write the names of packages, ["numpy"].')
    return sorted({checked_name(item.as_text(f"an entry of {what}"), item) for item in items})

"""How PyPI requirements are resolved and installed: what ``[tool.uv]``, pixi and pip's options have in common."""

from __future__ import annotations

import json
from typing import Any

from cetool.base.files import canonical_json
from cetool.base.urls import strip_credentials
from cetool.base.values import Value

#: Settings that no key of ``[tool.uv]`` has: digests by requirement, and two of pip's options.
OWN_OPTIONS = ("hashes", "require-hashes", "prefer-binary")
_OF_BUILDS = (
    *("build-constraint-dependencies", "config-settings", "config-settings-package", "extra-build-dependencies"),
    *("extra-build-variables", "no-build-isolation", "no-build-isolation-package"),
)


class PypiSettings(Value):
    """How PyPI requirements are resolved and installed, where a script says so: all optional.

    ``options`` are all other settings: pairs of uv's name for one (:data:`cetool.declare.dialects.uv.KEYS`) and its
    value as canonical JSON, sorted. Some come from pip's options and have names of their own
    (:data:`OWN_OPTIONS`).
    """

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    exclude_newer: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    @property
    def named(self) -> dict[str, Any]:
        """The values of ``options`` by name."""
        return {key: json.loads(value) for key, value in self.options}

    @property
    def of_builds(self) -> dict[str, Any]:
        """Those options by which the same sources become another build, credentials taken out."""
        return {key: _stripped(value) for key, value in self.named.items() if key in _OF_BUILDS}

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
            found += [text for text in _leaves(value) if "://" in text and text not in found]
        return tuple(found)

    def with_options(self, **values: Any) -> PypiSettings:
        """The same with other settings set, ``_`` in their names standing for ``-``; an empty value removes one."""
        named = {**self.named, **{key.replace("_", "-"): value for key, value in values.items()}}
        pairs = ((key, canonical_json(value)) for key, value in named.items() if value not in (None, [], {}))
        return self._replace(options=tuple(sorted(pairs)))

    def plus(self, other: PypiSettings) -> PypiSettings:
        """These and the other's as well; lists and tables are joined, of single values the other's wins."""
        return PypiSettings(
            index_url=self.index_url if other.index_url is None else other.index_url,
            extra_index_urls=tuple(dict.fromkeys(self.extra_index_urls + other.extra_index_urls)),
            find_links=tuple(dict.fromkeys(self.find_links + other.find_links)),
            exclude_newer=self.exclude_newer if other.exclude_newer is None else other.exclude_newer,
        )._with_named(_joined(self.named, other.named))

    def _with_named(self, named: dict[str, Any]) -> PypiSettings:
        return self._replace(options=tuple(sorted((key, canonical_json(value)) for key, value in named.items())))

    def as_dict(self) -> dict[str, Any]:
        """The settings that are set, as JSON values, credentials taken out."""
        pairs = {
            "exclude-newer": self.exclude_newer,
            "extra-index-urls": [strip_credentials(url) for url in self.extra_index_urls],
            "find-links": [strip_credentials(url) for url in self.find_links],
            "index-url": None if self.index_url is None else strip_credentials(self.index_url),
            # texts, as all that a marker holds of a specification
            "options": {key: canonical_json(_stripped(value)) for key, value in self.named.items()},
        }
        return {key: value for key, value in pairs.items() if value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PypiSettings:
        """The settings that :meth:`as_dict` wrote. Raises TypeError, ValueError or AttributeError otherwise."""
        options = data.get("options", {})
        for value in options.values():
            try:
                json.loads(value)
            except RecursionError:
                raise ValueError("nested too deep") from None
        return cls(
            index_url=data.get("index-url"),
            extra_index_urls=tuple(data.get("extra-index-urls", ())),
            find_links=tuple(data.get("find-links", ())),
            exclude_newer=data.get("exclude-newer"),
            options=tuple(sorted((str(key), str(value)) for key, value in options.items())),
        )


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


def _stripped(value: Any) -> Any:
    """The JSON value without credentials."""
    if isinstance(value, dict):
        return {strip_credentials(key): _stripped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    return strip_credentials(value) if isinstance(value, str) else value


def _leaves(value: Any) -> list[str]:
    """All texts in a JSON value, keys included."""
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in _leaves(item))]
    if isinstance(value, list):
        return [text for item in value for text in _leaves(item)]
    return [value] if isinstance(value, str) else []

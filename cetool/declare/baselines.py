"""The keys ``baseline`` and ``without``: a list of exactly named packages to start from, and what is taken out of it.

A baseline is a file (``@EXPLICIT``, conda-lock.yml or pixi.lock) at a path or a URL. What is in it is for
:mod:`cetool.lock` to read; here it is only named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from urllib.parse import unquote, urlsplit

from cetool.base.errors import Location, MetadataError
from cetool.base.text import has_control, pattern, shorten
from cetool.base.urls import redact
from cetool.declare.nodes import Node
from cetool.declare.source import with_home

_SCHEME = pattern(r"([A-Za-z][A-Za-z0-9+.-]+):")
_URL = pattern(r"https?://", re.IGNORECASE)
_PATTERN = pattern(r"[A-Za-z0-9_.*?\[\]!-]{1,200}")
_EXAMPLE = "Write a path or a URL, or a list of them: baseline: https://example.org/envs/standard.txt"


def read_baselines(node: Node | None, base_dir: str | os.PathLike[str]) -> tuple[str, ...]:
    """The baselines that a key names: one text, or a list of them. Raises MetadataError."""
    found = [
        canonical_baseline(item.as_text("a baseline", _EXAMPLE), base_dir, item.where)
        for item in _texts(node, "baseline")
    ]
    return tuple(dict.fromkeys(found))


def read_without(node: Node | None) -> tuple[str, ...]:
    """The names, or globs of names, that a key takes out of the baseline. Raises MetadataError."""
    hint = "Write names, or globs in quotes: without: [oldlib, '*-gpu']"
    found = [
        canonical_pattern(item.as_text("an entry of without", hint), item.where) for item in _texts(node, "without")
    ]
    return tuple(dict.fromkeys(found))


def _texts(node: Node | None, what: str) -> tuple[Node, ...]:
    if node is None or node.kind == "nothing":
        return ()
    if node.kind == "list":
        return node.items
    if node.kind != "text":
        node.fail(
            f"{what} must be a text or a list of texts, not {node.in_words}", _EXAMPLE if what[0] == "b" else None
        )
    return (node,)


def canonical_baseline(text: str, base_dir: str | os.PathLike[str], where: Location | None = None) -> str:
    """A URL as it is written, or an absolute path; a relative one starts from ``base_dir``. Raises MetadataError."""
    text = text.strip()
    if not text or has_control(text):
        raise MetadataError(
            "a baseline is named by a path or a URL", code="baseline-invalid", where=where, hint=_EXAMPLE
        )
    if is_remote(text):
        return text
    scheme = _SCHEME.match(text)
    if scheme is not None and scheme[1].lower() == "file" and text[5:7] == "//":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise MetadataError(
                f"{shorten(redact(text))!r} names no file of this machine", code="baseline-invalid", where=where
            )
        if os.name != "nt":
            return os.path.normpath(unquote(parts.path))
        from urllib.request import url2pathname  # takes long to import

        return os.path.normpath(url2pathname(parts.path))
    if scheme is not None and "://" in text:
        raise MetadataError(
            f"a baseline cannot be fetched by {scheme[1]}: {shorten(redact(text))!r}",
            code="baseline-invalid",
            where=where,
            hint="It is a path, or an https:// or file:// URL.",
        )
    path = with_home(text, where)
    return os.path.normpath(os.path.join(os.path.abspath(base_dir), path))


def canonical_pattern(text: str, where: Location | None = None) -> str:
    """A package's name, or a glob of names, in lower case. Raises MetadataError."""
    glob = text.strip().lower()
    if not _PATTERN.fullmatch(glob):
        raise MetadataError(
            f"{shorten(redact(text))!r} is not the name of a package",
            code="baseline-invalid",
            where=where,
            hint="Give names alone, or globs such as '*-gpu'; versions have no place here.",
        )
    return glob


def is_remote(baseline: str) -> bool:
    """Whether a baseline is fetched."""
    return _URL.match(baseline) is not None


def taken_out(name: str, patterns: Iterable[str]) -> bool:
    """Whether a package's name, of conda's or PyPI's, is one that the patterns mean. ``-``, ``_`` and ``.`` differ not
    where PyPI's names have no difference.
    """
    return any(fnmatchcase(name, pattern) or fnmatchcase(_plain(name), _plain(pattern)) for pattern in patterns)


def _plain(text: str) -> str:
    return re.sub(r"[_.]", "-", text)


def unmatched(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The patterns that none of the names fits."""
    listed = list(names)
    return [pattern for pattern in patterns if not any(taken_out(name, (pattern,)) for name in listed)]

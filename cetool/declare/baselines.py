"""Read the keys ``baseline`` and ``without``: a list of exact packages to start from, and those to leave out.

A baseline is a file (``@EXPLICIT``, conda-lock.yml or pixi.lock) at a path or a URL. This module only names it;
:mod:`cetool.lock` reads it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NoReturn
from urllib.parse import urlsplit

from cetool.base.errors import Location, MetadataError
from cetool.base.text import has_control, pattern, shorten
from cetool.base.urls import redact
from cetool.declare.named import canonical_named, is_named
from cetool.declare.nodes import Directory, Node
from cetool.declare.package import path_of
from cetool.declare.requirements import Requirements
from cetool.declare.source import with_home

_SCHEME = pattern(r"([A-Za-z][A-Za-z0-9+.-]+):")
_URL = pattern(r"https?://", re.IGNORECASE)
_PATTERN = pattern(r"[A-Za-z0-9_.*?\[\]!-]{1,200}")
_GLOBS = "Write names, or globs in quotes: without: [oldlib, '*-gpu']"
_EXAMPLE = (
    "Write a path, a URL or server:NAMESPACE/NAME, or a list of them: baseline: https://example.org/envs/standard.txt"
)


def read_keys(needs: Requirements, keys: Mapping[str, Node], base_dir: Directory) -> Requirements:
    """Return the requirements with the values of ``baseline`` and ``without``. Raises MetadataError."""
    if needs.overlay is not None:
        keys["baseline" if "baseline" in keys else "without"].fail(
            "'base' and 'baseline' cannot be used together",
            "A base is an existing environment; a baseline is a list of packages to create one from.",
        )
    found = [canonical_baseline(text, base_dir, where) for text, where in _texts(keys, "baseline", _EXAMPLE)]
    without = [canonical_pattern(text, where) for text, where in _texts(keys, "without", None)]
    if without and not found:
        keys["without"].fail(
            "'without' removes packages from a baseline, but there is no 'baseline'",
            "Add one: baseline: https://example.org/envs/standard.txt",
        )
    return needs._replace(baselines=tuple(dict.fromkeys(found)), without=tuple(dict.fromkeys(without)))


def _texts(keys: Mapping[str, Node], what: str, hint: str | None) -> list[tuple[str, Location]]:
    """Return the strings of a key (one, or a list) with their places."""
    node = keys.get(what)
    if node is None or node.kind == "nothing":
        return []
    if node.kind not in ("list", "text"):
        node.fail(f"{what} must be a string or a list of strings, not {node.in_words}", hint)
    item = ("a baseline", hint) if hint else ("an entry of without", _GLOBS)
    return [(each.as_text(*item), each.where) for each in (node.items if node.kind == "list" else (node,))]


def canonical_baseline(text: str, base_dir: Directory, where: Location | None = None) -> str:
    """Return a URL unchanged, or an absolute path; relative paths start from ``base_dir``. Raises MetadataError."""
    text = text.strip()
    if not text or has_control(text):
        _refuse("a baseline must be a path or a URL", where, _EXAMPLE)
    if is_named(text):
        return canonical_named(text, where)
    if is_remote(text):
        return text
    shown = repr(shorten(redact(text)))
    scheme = _SCHEME.match(text)
    if scheme is not None and scheme[1].lower() == "file" and text[5:7] == "//":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            _refuse(f"{shown} is not a file on this machine", where)
        return os.path.normpath(path_of(parts.path))
    if scheme is not None and "://" in text:
        hint = "Use a path, or an https:// or file:// URL."
        _refuse(f"{shown} cannot be a baseline: {scheme[1]} URLs are not supported", where, hint)
    return os.path.normpath(os.path.join(os.path.abspath(base_dir), with_home(text, where)))


def canonical_pattern(text: str, where: Location | None = None) -> str:
    """Return a package's name, or a glob of names, in lower case. Raises MetadataError."""
    glob = text.strip().lower()
    if not _PATTERN.fullmatch(glob):
        hint = "Write names, or globs such as '*-gpu', without versions."
        _refuse(f"{shorten(redact(text))!r} is not a package name", where, hint)
    return glob


def _refuse(message: str, where: Location | None, hint: str | None = None) -> NoReturn:
    raise MetadataError(message, code="baseline-invalid", where=where, hint=hint)


def is_remote(baseline: str) -> bool:
    """Return whether a baseline comes from a server: it is a URL, or an environment of a server."""
    return _URL.match(baseline) is not None or is_named(baseline)


def taken_out(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns matches a conda or PyPI package's name; ``-``, ``_`` and ``.`` are equal."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(_plain(name), _plain(pattern)) for pattern in patterns)


def _plain(text: str) -> str:
    return re.sub(r"[_.]", "-", text)


def unmatched(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the patterns that match none of the names."""
    listed = list(names)
    return [pattern for pattern in patterns if not any(taken_out(name, (pattern,)) for name in listed)]

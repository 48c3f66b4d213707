"""Read what is laid over an existing environment: the keys ``base``, ``overlay`` and ``conda``, and their value.

An entry of ``overlay`` is what pip accepts in a requirements file: a PyPI requirement, the path of a wheel or a
directory, a URL, and ``-e`` with a directory for an editable checkout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from cetool.base.errors import Location, MetadataError
from cetool.base.text import has_control, pattern
from cetool.base.urls import quotable
from cetool.declare.channels import file_url
from cetool.declare.match_specs import MAX_SPEC, canonical_spec
from cetool.declare.named import canonical_named, is_named
from cetool.declare.nodes import Directory, Node, listed
from cetool.declare.pypi import canonical_requirement
from cetool.declare.requirements import OverlayKeys, Requirements
from cetool.declare.source import with_home

_URL = pattern(r"(?:https?|file|(?:git|hg|svn|bzr)\+(?:https?|ssh|git|file|svn|lp))://\S+\Z")
_PATH = pattern(r"(?:\.{1,2}|~[^/\s]*)?/|\.{1,2}\Z|[A-Za-z]:[\\/]")
_EDITABLE = pattern(r"(?:-e|--editable)(?:\s*=\s*|\s+|(?=[./~]))")
_EXTRAS = pattern(r"\[[A-Za-z0-9._, -]*\]\Z")
_ARCHIVE = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz")
_HINT = (
    "Write a requirement as for pip: 'numpy ==2.4.1', ./some.whl, ./directory, git+https://host/repository@tag, "
    "or -e ./checkout."
)


def read_keys(needs: Requirements, keys: Mapping[str, Node], base_dir: Directory) -> Requirements:
    """Return the requirements with the values of ``base``, ``overlay`` and ``conda``. Raises MetadataError."""
    overlay = read_overlay_keys(keys, base_dir)
    if overlay is not None:
        needs.refuse_packages(keys["base"].where)
    return needs._replace(overlay=overlay)


def read_overlay_keys(keys: Mapping[str, Node], base_dir: Directory) -> OverlayKeys | None:
    """Return the values of ``base``, ``overlay`` and ``conda``; None if all are missing. Raises MetadataError."""
    given = [name for name in ("base", "overlay", "conda") if name in keys]
    if not given:
        return None
    if (name := given[0]) != "base":
        keys[name].fail(
            f"'{name}' needs a base, but there is no 'base'",
            "Add 'base:' with the path or the name of an environment, or list the packages in 'env'.",
        )
    named = keys["base"].as_text("base", "Write the path of an environment, or its name in conda.")
    base = canonical_base(named, base_dir, keys["base"].where)
    entries = [
        canonical_entry(item.as_text("an entry of overlay", _HINT), where=item.where, base_dir=base_dir)
        for item in listed(keys.get("overlay"), "overlay", f"Write one package per entry. {_HINT}")
    ]
    conda = [
        canonical_spec(item.as_text("an entry of conda"), where=item.where, base_dir=base_dir)
        for item in listed(keys.get("conda"), "conda", "Write one match spec per entry: [libtiff >=4.6, ripgrep].")
    ]
    return OverlayKeys(base, tuple(entries), tuple(conda))


def canonical_base(text: str, base_dir: Directory, where: Location | None = None) -> str:
    """Return a base as an absolute path if it is a path, else its name unchanged. Raises MetadataError."""
    text = text.strip()
    if is_named(text):
        return canonical_named(text, where)
    if not _PATH.match(text) and os.sep not in text:
        return text
    return os.path.normpath(Path(base_dir, with_home(text, where)).absolute())


def canonical_entry(text: str, *, where: Location | None = None, base_dir: Directory | None = None) -> str:
    """Return the canonical form of an overlay's entry: a requirement, a URL, an absolute path, or ``-e`` and a path.

    Paths may be followed by extras in brackets; relative ones start from ``base_dir`` (None: the working directory).
    Raises MetadataError, quoting the entry, for anything else.
    """
    entry = text.strip()
    directory = base_dir or Path.cwd()
    if len(entry) > 2 * MAX_SPEC or has_control(text):
        _refuse(entry, where, "it is too long, or contains a line break or a control character")
    editable = _EDITABLE.match(entry)
    if editable:
        path = entry[editable.end() :].strip()
        if _URL.match(path) and not path.startswith("file://"):
            hint = "To install from a git URL, leave out -e."
            _refuse(entry, where, "-e needs a directory on this machine", hint)
        return f"-e {_canonical_path(path, directory, where)}"
    if entry.startswith("-"):
        _refuse(entry, where, "it is an option of pip", "The only supported option is -e, with a directory.")
    if _URL.match(entry):
        if re.search(r"\s", entry):
            _refuse(entry, where, "a URL cannot contain blanks")
        return _canonical_path(entry, directory, where) if entry.startswith("file://") else entry
    looks_like_file = entry.endswith(_ARCHIVE) and "@" not in entry
    if _PATH.match(entry) or looks_like_file or (os.sep in entry and "@" not in entry and " " not in entry):
        return _canonical_path(entry, directory, where)
    return canonical_requirement(entry, where=where, base_dir=directory)


def _canonical_path(text: str, directory: Directory, where: Location | None) -> str:
    extras = _EXTRAS.search(text)
    path = text[: extras.start()] if extras else text
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    if not path:
        _refuse(text, where, "it has no path")
    absolute = os.path.normpath(Path(directory, with_home(path, where)).absolute())
    file_url(absolute, "/", where=where)  # refuses paths that a URL cannot contain
    return absolute + (extras[0].replace(" ", "") if extras else "")


def _refuse(entry: str, where: Location | None, reason: str, hint: str | None = None) -> NoReturn:
    message = f"'{quotable(entry)}' cannot be laid over a base: {reason}"
    raise MetadataError(message, code="overlay-conflict", where=where, hint=hint or _HINT)


def is_editable(entry: str) -> bool:
    """Return whether a canonical entry is an editable checkout."""
    return entry.startswith("-e ")


def local_path(entry: str) -> Path | None:
    """Return the file or directory of a canonical entry, None for a requirement or a URL elsewhere."""
    path = entry.removeprefix("-e ")
    if path.startswith("/") or re.match(r"[A-Za-z]:[\\/]", path):
        return Path(_EXTRAS.sub("", path))
    _, found, url = path.partition(" @ file://")
    return Path(unquote(urlsplit(f"file://{url.split(' ; ')[0]}").path)) if found else None


def is_direct(entry: str) -> bool:
    """Return whether a canonical entry says where its package is, so that no index is asked."""
    return local_path(entry) is not None or bool(_URL.match(entry)) or " @ " in entry

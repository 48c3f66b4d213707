"""What changes when a wheel, a directory or a checkout that is laid over a base does."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cetool.base.errors import StoreError
from cetool.declare.overlay import is_editable, local_path
from cetool.packages.hashing import digest_of

#: What of a project decides on its metadata; of a checkout that is worked on nothing else matters here.
_PROJECT = ("pyproject.toml", "setup.py", "setup.cfg")
#: What no build depends on, or what builds leave behind.
_LEFT_OUT = frozenset(
    ("__pycache__", ".git", ".hg", ".svn", ".tox", ".nox", ".venv", "venv", "build", "dist", "node_modules")
)
_MOST_FILES = 20_000


def state_of(entry: str) -> str | None:
    """What changes when what a canonical entry leads to does, None for an entry that is nothing here.

    Of a file it is its content, of a checkout its project files' content, of another directory the names, sizes and
    times of all files in it. Raises StoreError where there is nothing.
    """
    path = local_path(entry)
    if path is None:
        return None
    try:
        if path.is_file():
            return digest_of(path)
        if not path.is_dir():
            raise FileNotFoundError(2, "there is no such file or directory")
        if not any((path / name).is_file() for name in _PROJECT):
            raise StoreError(
                f"{path} is no Python project: it has no {' and no '.join(_PROJECT[:2])}",
                code="overlay-malformed",
                hint="Name the directory that has one of them.",
            )
        return _digest(_project(path) if is_editable(entry) else _tree(path))
    except OSError as error:
        raise StoreError(
            f"{path}, which is to be laid over the base, cannot be read: {error.strerror}", code="overlay-malformed"
        ) from error


def watched_by(entry: str) -> list[str] | None:
    """The files whose states tell of all that :func:`state_of` looks at; None where they would be too many."""
    path = local_path(entry)
    if path is None:
        return []
    if is_editable(entry):
        return [str(path / name) for name in _PROJECT]
    return [str(path)] if path.is_file() else None


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _project(directory: Path) -> Iterator[str]:
    for name in _PROJECT:
        if (directory / name).is_file():
            yield name
            yield digest_of(directory / name)


def _tree(directory: Path) -> Iterator[str]:
    count = 0
    for place, names, files in os.walk(directory):
        names[:] = sorted(name for name in names if name not in _LEFT_OUT and not name.endswith(".egg-info"))
        for name in sorted(files):
            path = os.path.join(place, name)
            info = os.lstat(path)
            yield f"{os.path.relpath(path, directory)} {info.st_size} {info.st_mtime_ns}"
            count += 1
            if count >= _MOST_FILES:  # no source tree: its project files have to do
                yield from _project(directory)
                return

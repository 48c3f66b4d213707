"""Packages that a conda which was killed left half unpacked in its package cache.

conda takes a directory there for a whole package as soon as its metadata are in it, and refuses to link what it then
misses: every later creation fails, until somebody removes the directory. It unpacks it anew from the archive beside it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path

from cetool.engines.package_cache import is_damaged

_REFUSED = re.compile(r"The package for \S+ located at (?P<path>/.+?|[A-Za-z]:\\.+?)\s*\n\s*appears to be corrupted")
#: Seconds for which a directory must not change: another conda may be unpacking it this moment.
_STILL = 1.0


def refused_packages(words: str) -> list[Path]:
    """The directories that are not whole packages, by what conda said when it verified them."""
    return [Path(path) for path in dict.fromkeys(found["path"] for found in _REFUSED.finditer(words))]


def remove_refused(words: str) -> list[str]:
    """Take those directories out of the package cache that they lie in; the names of what is gone from there.

    What is no unpacked package in a package cache, is whole by now, may not be changed, or still changes stays.
    """
    found = [path for path in refused_packages(words) if _is_kept_unpacked(path) and is_damaged(path)]
    before = [_state(path) for path in found]
    if found:
        time.sleep(_STILL)
    return [path.name for path, state in zip(found, before, strict=True) if _state(path) == state and _remove(path)]


def _is_kept_unpacked(path: Path) -> bool:
    return (path / "info" / "index.json").is_file() and (path.parent / "urls.txt").is_file() and not path.is_symlink()


def _state(path: Path) -> dict[Path, int]:
    """The files below a directory, with their times: those that come or grow change it."""
    return {each: each.lstat().st_mtime_ns for each in path.rglob("*") if each.is_symlink() or each.exists()}


def _remove(path: Path) -> bool:
    """Rename it first: nobody is to meet it half removed."""
    try:
        aside = tempfile.mkdtemp(prefix=".damaged-", dir=path.parent)
        path.rename(Path(aside, path.name))
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True

"""Locks, the exact packages of a specification: one model, and a reader and a writer for each format."""

import os
from pathlib import Path

#: Suffix of the lock file next to a script, by format; the first one that exists is used.
SUFFIXES = {"conda-lock": ".conda-lock.yml", "pixi": ".pixi.lock"}
#: Every script with an embedded lock contains this.
EMBEDDED_MARK = "/// cetool-lock"


def lock_paths(script: Path) -> tuple[Path, ...]:
    """Return the possible lock files of a script in order of precedence, whether or not they exist.

    They are next to the script and, if that is a symbolic link, next to its target.
    """
    target = Path(os.path.realpath(script))
    same = script.name == target.name and os.path.realpath(script.parent) == str(target.parent)
    return tuple(
        path.with_name(path.name + suffix)
        for path in ((script,) if same else (script, target))
        for suffix in SUFFIXES.values()
    )

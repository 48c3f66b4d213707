"""Which packages exactly: lock files of every format, from one model and back."""

import os
from pathlib import Path

#: What is added to a script's path for the lock beside it, by format, the one that counts first.
SUFFIXES = {"conda-lock": ".conda-lock.yml", "pixi": ".pixi.lock"}
#: What every script with an embedded lock has in it.
EMBEDDED_MARK = "/// cetool-lock"


def lock_paths(script: Path) -> tuple[Path, ...]:
    """The files that would be a script's lock, the one that counts first, whether they are there or not.

    They are beside the script; where that is a symbolic link, beside the file that it leads to after that.
    """
    target = Path(os.path.realpath(script))
    same = script.name == target.name and os.path.realpath(script.parent) == str(target.parent)
    return tuple(
        path.with_name(path.name + suffix)
        for path in ((script,) if same else (script, target))
        for suffix in SUFFIXES.values()
    )

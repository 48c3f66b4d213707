"""Remove an environment from ``~/.conda/environments.txt``, conda's list of a user's environments.

cetool's environments must not be in it, but micromamba adds every environment. Other programs append to the file
without a lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from cetool.base.files import update_file
from cetool.base.limits import SETTINGS, read_regular


def forget_registration(prefix: Path, environ: Mapping[str, str]) -> bool:
    """Remove the prefix's line; return whether there was one.

    All other lines are unchanged. If the file becomes empty it is removed, and its directory if that is empty. A file
    that cannot be read or written is ignored: conda itself removes entries whose environments no longer exist.
    """
    try:
        home = environ.get("HOME") or environ.get("USERPROFILE") or Path.home()
    except RuntimeError:
        return False
    registry = Path(home, ".conda", "environments.txt")
    ours = {os.fsencode(prefix), os.fsencode(os.path.realpath(prefix))}

    def without(content: bytes | None) -> bytes | None:
        lines = (content or b"").splitlines(keepends=True)
        return b"".join(line for line in lines if line.strip().rstrip(b"/\\") not in ours) or None

    found = False
    with contextlib.suppress(OSError):
        while (content := read_regular(registry, SETTINGS)) and without(content) != content:
            found = update_file(registry, without) or found
    if found:
        with contextlib.suppress(OSError):
            registry.parent.rmdir()
    return found

"""Takes an environment out of ``~/.conda/environments.txt``, conda's list of all environments of a user.

Ours are not to be in it, and micromamba puts every one in. Others append to that file without any lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from cetool.base.files import update_file
from cetool.base.limits import SETTINGS, read_regular


def forget_registration(prefix: Path, environ: Mapping[str, str]) -> bool:
    """Take the prefix's line out; say whether there was one.

    Every other line stays as it is, byte for byte. A file that would be empty is removed, and its directory if nothing
    else is in it. A registry that cannot be read or written is left alone: the entry then points at what is gone sooner
    or later, which conda clears by itself.
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

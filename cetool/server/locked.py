"""Locks as specifications: the formats of the command line, and what clients upload."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cetool.base.codec import decode, encode
from cetool.base.limits import parse_json
from cetool.declare.platforms import current_platform
from cetool.lock.conda_lock import read_conda_lock
from cetool.lock.find import lock_in
from cetool.lock.model import Lock, PlatformLock

_UPLOADED = '{"cetool-upload": 1,'


def locks_in(text: str, platforms: Sequence[str] = (), name: str = "<request>") -> list[PlatformLock]:
    """Return the locks in a text, those of the given platforms if there are any. Raises MetadataError.

    An @EXPLICIT file, which is for one platform, counts for this machine's or the only given one.
    """
    if text.startswith(_UPLOADED):
        locks = tuple(decode(PlatformLock, each) for each in parse_json(text.encode())["locks"])
        lock = Lock(locks)
    elif text.lstrip().startswith("{"):
        lock = read_conda_lock(text, name, None)  # JSON is YAML
    else:
        lock, _ = lock_in(text.encode(), Path("request.lock"), name)
    found = [each for each in lock.platforms if not platforms or each.platform in platforms]
    if not found and len(lock.platforms) == 1 and "@EXPLICIT" in text:
        found = [lock.platforms[0]._replace(platform=platforms[0] if platforms else current_platform())]
    return found


def upload_text(locks: Sequence[PlatformLock]) -> str:
    """Return the text of locks that a client uploads, which :func:`locks_in` reads."""
    return _UPLOADED + json.dumps({"locks": [encode(each) for each in locks]}, sort_keys=True)[1:]

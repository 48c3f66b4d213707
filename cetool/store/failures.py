"""Tells those who waited for a creation that it failed, so that they do not fail one after the other.

Twenty processes that want an environment from a channel that is out of reach would otherwise wait for twenty time
limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from cetool.base.errors import CODES, CetoolError, EngineError, Interrupted
from cetool.base.limits import NOTE, read_json

_SUFFIX = ".failed"


def keep_failure(logs: Path, name: str, error: BaseException) -> None:
    """Keep what went wrong for those who wait; nothing of what says only that the maker was stopped."""
    if not isinstance(error, CetoolError) or isinstance(error, Interrupted):
        return
    told = {
        "time": time.time(),
        "message": str(error),
        "hint": error.hint,
        "log": error.log,
        "code": error.code,
    }
    path = logs / f"{name}{_SUFFIX}"
    temporary = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(told, file)
        temporary.replace(path)


def raise_failure_since(logs: Path, name: str, since: float) -> None:
    """Raise, as EngineError, what went wrong with the last creation if that was after ``since`` (a time of time())."""
    try:
        told = read_json(logs / f"{name}{_SUFFIX}", NOTE, exact=True)
        when, message = float(told["time"]), str(told["message"])
        hint, log, code = (None if told.get(key) is None else str(told[key]) for key in ("hint", "log", "code"))
        if not since <= when <= time.time():
            return
    except (OSError, ValueError, KeyError, TypeError):
        return
    raise EngineError(
        f"{message} (so it went for the process that this one waited for)",
        code=code if code in CODES else None,
        hint=hint,
        log=log,
    )

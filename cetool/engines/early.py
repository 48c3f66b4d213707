"""A look at an environment while its engine, with all written, has yet to end: conda takes a tenth of a second to."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cetool.base.below import walk
from cetool.base.errors import EngineError
from cetool.packages.integrity import check_complete


class EarlyLook:
    """What was found by a look at the prefix, for as long as nothing comes or goes there.

    ``written`` is called before: all is there that is to reach the disk.
    """

    def __init__(self, prefix: Path, written: Callable[[], None] | None) -> None:
        self._prefix = prefix
        self._written = written
        self._found: tuple[int, int] | None = None
        self._changed: dict[str, int] = {}

    def take(self) -> None:
        """Look; what is wrong is left for a later look to tell."""
        with suppress(OSError, EngineError):
            if self._written is not None:
                self._written()
            changed = os.lstat(self._prefix).st_mtime_ns
            there = dict(walk(self._prefix))
            self._found = check_complete(self._prefix, there=there)
            self._changed = {name: each.st_mtime_ns for name, each in there.items() if stat.S_ISDIR(each.st_mode)}
            self._changed[""] = changed

    @property
    def found(self) -> tuple[int, int] | None:
        """The number of packages and the bytes that they take; None where nobody looked, or that holds no more."""
        try:
            for name, changed in self._changed.items():
                if os.lstat(f"{self._prefix}/{name}").st_mtime_ns != changed:
                    return None
        except OSError:
            return None
        return self._found

"""A look at an environment while its engine, with all written, has yet to end: conda takes a tenth of a second to."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from cetool.base.below import walk
from cetool.base.errors import EngineError
from cetool.engines.protocol import Progress, ProgressOver
from cetool.packages.integrity import check_complete


class EarlyLook(ProgressOver):
    """What was found by a look at the prefix when all was written, for as long as nothing comes or goes there."""

    def __init__(self, progress: Progress, prefix: Path, *, looks: bool) -> None:
        super().__init__(progress)
        self._prefix = prefix
        self._looks = looks
        self._found: tuple[int, int] | None = None
        self._changed: dict[str, int] = {}

    def written(self) -> None:
        """Look; what is wrong is left for a later look to report."""
        if not self._looks:
            return
        with suppress(OSError, EngineError):
            super().written()
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

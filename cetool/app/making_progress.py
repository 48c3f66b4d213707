"""What else goes on while an environment is made."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cetool.engines.protocol import Progress, ProgressOver
from cetool.store.making import Settling


class Making(ProgressOver):
    """The progress of an environment that is made: it reaches the disk, and ``meanwhile`` is called, while others work.

    What ``meanwhile`` imports costs no time while an engine links packages.
    """

    def __init__(self, progress: Progress, settling: Settling, meanwhile: Callable[[], None] | None = None) -> None:
        super().__init__(progress)
        self._settling = settling
        self._meanwhile = meanwhile

    def link(self, done: int, total: int) -> None:
        """Have the other work begun with the first package."""
        super().link(done, total)
        if self._meanwhile is not None:
            threading.Thread(target=self._meanwhile, name="cetool-meanwhile", daemon=True).start()
            self._meanwhile = None

    def written(self) -> None:
        """Have the disk begin."""
        self._settling.start()

"""Asks whether an environment could be made, without making it: always of the embedded engine.

conda's and mamba's ``--dry-run`` would do as well, each in its own words and time; they solve by the same rules.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cetool.base.durations import exclude_newer as moment_of
from cetool.base.errors import EngineError
from cetool.base.process import Consent
from cetool.declare.environment import EnvironmentSpec, Over
from cetool.engines.additions import additions
from cetool.engines.protocol import CreateRequest, Progress
from cetool.engines.rattler.engine import RattlerEngine
from cetool.engines.rattler.errors import UnsatisfiableError

__all__ = ["Solver", "UnsatisfiableError"]


@dataclass(frozen=True)
class Solver:
    """What holds for every question: the user's variables, where metadata are kept, whether they may be fetched.

    ``stall_timeout`` are the seconds without progress after which it is given up.
    """

    environ: Mapping[str, str]
    cache_dir: Path
    consent: Consent
    offline: bool = False
    stall_timeout: float = 300.0

    def solve(self, spec: EnvironmentSpec, progress: Progress) -> int:
        """The number of conda packages that the environment would have; PyPI requirements are not looked at.

        Raises UnsatisfiableError where there is no such environment, EngineError where that cannot be found out.
        """
        pinned = spec.what.conda if isinstance(spec.what, Over) else ()
        with tempfile.TemporaryDirectory(prefix="cetool-solve-") as directory:
            request = CreateRequest(
                prefix=Path(directory) / "prefix",
                packages=additions(spec.packages, pinned) if pinned else spec.packages,
                pinned=pinned,
                channels=spec.channels,
                solving=spec.solving,
                exclude_newer=None if spec.exclude_newer is None else moment_of(spec.exclude_newer),
                log=Path(directory) / "log",
                consent=self.consent,
                virtual_packages=spec.virtual_packages,
                offline=self.offline,
                stall_timeout=self.stall_timeout,
            )
            try:
                return len(RattlerEngine(self.environ, self.cache_dir).solve(request, progress))
            except EngineError as error:
                raise error.but(log=None) from None  # it goes with the directory

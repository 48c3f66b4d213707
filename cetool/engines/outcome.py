"""What came of an engine's run: an environment that is complete, or the error that says why not."""

from __future__ import annotations

import re
import signal

from cetool.base.errors import EngineError
from cetool.engines.private import scrub
from cetool.engines.protocol import CreateRequest, Explain, Progress
from cetool.engines.subprocesses import Ended
from cetool.packages.integrity import check_complete

_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS")


def conclude(ended: Ended, request: CreateRequest, progress: Progress, *, engine: str, done: str) -> Explain:
    """Take credentials out of the environment's records if it was made; raise EngineError otherwise.

    Returns what explains a fault of it by what the engine said. ``done`` is a pattern for what the engine prints when
    all is done. One that crashes after that has done its work: conda's interpreter with the rattler solver in it
    sometimes does so while it ends.
    """
    crash = _crash(ended) if re.search(done, ended.stdout) else None
    if ended.status != 0 and crash is None:
        from cetool.engines.explain import explain

        raise explain(ended, engine=engine, request=request)

    def explained(finding: EngineError) -> EngineError:
        from cetool.engines.explain import explain

        return explain(ended, engine=engine, request=request, finding=finding)

    if crash is not None:
        try:
            check_complete(request.prefix, expect_packages=request.expects_packages, log=request.log)
        except EngineError as error:
            raise explained(error) from error
        progress.note(f"{engine} crashed ({crash}) after its work was done; the environment is complete")
    scrub(request.prefix, (*request.channels, *request.packages, *(package.url for package in request.explicit)))
    return explained


def _crash(ended: Ended) -> str | None:
    names = {int(known): known.name for known in signal.Signals}
    name = names.get(ended.signum or 0)
    return name if name in _CRASHES else None

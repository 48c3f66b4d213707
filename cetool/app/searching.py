"""``python -m cetool.app.searching``: find packages in channels for a server, until standard input ends.

Each line of standard input is a search, each line of standard output its answer, both JSON objects. The process keeps
the channels' metadata that it has read, and it can be killed at any time.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from cetool.app.world import World, load_world, prepare
from cetool.base.errors import CetoolError
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.engines.rattler.lookup import Names
from cetool.settings.condarc import load_condarc


def main() -> None:
    """Answer searches until standard input ends."""
    world = load_world({"engine": "rattler"}, dict(os.environ), own_process=True)
    prepare(world.paths)
    known: dict[tuple[str, ...], Names] = {}
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line), world, known)
        except CetoolError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _answer(search: dict[str, Any], world: World, known: dict[tuple[str, ...], Names]) -> dict[str, Any]:
    """Return the names that a search finds, and the versions of those in the wanted part, the oldest first."""
    channels = tuple(search["channels"])
    if channels not in known:
        spec = EnvironmentSpec(Solve(), channels=channels)
        known[channels] = Names(world.request(spec), load_condarc(world.engine_environ, mamba=True))
    names = known[channels]
    found = names.containing(search["text"], exact=search["exact"])
    part = found[search["offset"] : search["offset"] + search["limit"]]
    return {"count": len(found), "packages": names.versions(part)}


if __name__ == "__main__":
    main()

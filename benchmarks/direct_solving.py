"""Only solve with py-rattler: ``direct_solving.py CACHE CHANNEL SPEC...``, the least that its solve can take."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from rattler import Channel, Client, Gateway, MatchSpec, Subdir, VirtualPackage, solve


async def packages(cache: Path, channel: str, specs: list[str]) -> int:
    """Return the number of packages in the solution; metadata are kept in ``cache``."""
    gateway = Gateway(cache_dir=cache, client=Client())
    records = await solve(
        [Channel(channel)],
        [MatchSpec(spec) for spec in specs],
        gateway,
        platforms=[Subdir.current(), Subdir("noarch")],
        virtual_packages=[package.into_generic() for package in VirtualPackage.detect()],
    )
    return len(records)


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    print(asyncio.run(packages(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])))

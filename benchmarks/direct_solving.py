"""Only solve with py-rattler: ``direct_solving.py CACHE CHANNEL[,CHANNEL...] SPEC...``, the least that it can take.

Prints the number of packages, and the URL of each.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from rattler import Channel, ChannelPriority, Client, Gateway, MatchSpec, Subdir, VirtualPackage, solve


async def packages(cache: Path, channels: list[str], specs: list[str]) -> list[str]:
    """Return the URLs of the packages in the solution; metadata are kept in ``cache``."""
    gateway = Gateway(cache_dir=cache, client=Client())
    records = await solve(
        list(map(Channel, channels)),
        [MatchSpec(spec) for spec in specs],
        gateway,
        platforms=[Subdir.current(), Subdir("noarch")],
        virtual_packages=[package.into_generic() for package in VirtualPackage.detect()],
        channel_priority=ChannelPriority.Flexible,
    )
    return [record.url for record in records]


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    found = asyncio.run(packages(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]))
    print(len(found), *found, sep="\n", flush=True)
    os._exit(0)  # at Python's own end, a thread of rattler's can crash

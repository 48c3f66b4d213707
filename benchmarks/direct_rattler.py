"""Call only py-rattler: ``direct_rattler.py PREFIX CACHE CHANNEL SCRIPT SPEC...``.

Solves, links, and becomes the script: the least that a cold run by this engine can take.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from rattler import Channel, Client, Gateway, MatchSpec, Subdir, VirtualPackage, install, solve


async def create(prefix: Path, cache: Path, channel: str, specs: list[str]) -> None:
    """Make the environment; packages and metadata are kept in ``cache``."""
    client = Client()
    gateway = Gateway(cache_dir=cache / "repodata", client=client)
    records = await solve(
        [Channel(channel)],
        [MatchSpec(spec) for spec in specs],
        gateway,
        platforms=[Subdir.current(), Subdir("noarch")],
        virtual_packages=[package.into_generic() for package in VirtualPackage.detect()],
    )
    await install(
        records, prefix, cache_dir=cache / "pkgs", client=client, execute_link_scripts=True, show_progress=False
    )


def main() -> None:
    """Make the environment, then become the script in it."""
    prefix, cache, channel, script, *specs = sys.argv[1:]
    (Path(cache) / "repodata").mkdir(parents=True, exist_ok=True)
    asyncio.run(create(Path(prefix), Path(cache), channel, specs))
    python = f"{prefix}/bin/python"
    os.execv(python, [python, script])


if __name__ == "__main__":
    main()

"""Call py-rattler to link the packages in its cache: ``direct_linking.py PREFIX PACKAGES SCRIPT``.

Nothing is solved, fetched or checked: every package in the cache is linked, then the process becomes the script.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from rattler import PackageRecord, RepoDataRecord, install


def records(packages: Path) -> list[RepoDataRecord]:
    """Return the records of all unpacked packages in a cache."""
    found = []
    for directory in sorted(path for path in packages.iterdir() if (path / "info" / "index.json").is_file()):
        kept = json.loads(directory.with_name(directory.name + ".cetool").read_bytes())
        record = PackageRecord.from_index_json(directory / "info" / "index.json", sha256=kept["sha256"])
        channel, _, file_name = kept["url"].rsplit("/", 2)
        found.append(RepoDataRecord(record, file_name, kept["url"], channel))
    return found


def main() -> None:
    """Link, then become the script."""
    prefix, packages, script = sys.argv[1:]
    cache = Path(packages)
    asyncio.run(install(records(cache), prefix, cache_dir=cache, installed_packages=[], show_progress=False))
    os.execv("/bin/sh", ["/bin/sh", script])


if __name__ == "__main__":
    main()

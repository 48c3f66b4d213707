"""A channel of many small packages and baselines of them, for tests of environments on baselines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cetool.declare.platforms import current_platform
from support.archive import Entry, Package, write_package, write_repodata


@dataclass(frozen=True)
class Shelf:
    """A channel in a directory: ``root`` is served, the channel is its ``shelf``; ``records`` are by file name."""

    root: Path
    records: dict[str, dict[str, Any]]

    def put(self, *packages: Package) -> None:
        """Add packages to the channel."""
        for package in packages:
            name = f"{package.stem}{package.suffix}"
            self.records[name] = write_package(package, self.root / "shelf")
        for subdir in (current_platform(), "noarch"):
            write_repodata(self.records, subdir, self.root / "shelf")

    def lines(self, url: str, stems: Iterable[str] | None = None, digest: str = "sha256") -> list[str]:
        """Return lines of an explicit spec: for all packages, or those whose file names have these prefixes."""
        wanted = None if stems is None else tuple(stems)
        return [
            f"{url}/shelf/{record['subdir']}/{name}"
            + {"sha256": f"#sha256:{record['sha256']}", "md5": f"#{record['md5']}", "": ""}[digest]
            for name, record in self.records.items()
            if wanted is None or name.startswith(wanted)
        ]


def small(name: str, version: str = "1.0", *depends: str, constrains: Iterable[str] = ()) -> Package:
    """Return a package with one file, which contains its version."""
    extra = {"constrains": list(constrains)} if constrains else {}
    entry = Entry(f"share/{name}/version", version.encode())
    return Package(name, version, entries=(entry,), depends=depends, extra=extra)


def explicit(lines: Iterable[str]) -> str:
    """Return the text of an ``@EXPLICIT`` file."""
    return "\n".join(["# a standard", "@EXPLICIT", *lines, ""])
